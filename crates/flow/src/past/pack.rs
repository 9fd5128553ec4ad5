//! Records in few bytes: columns, each written by itself.
//!
//! ```text
//!  records ─▶ columns of numbers ─▶ byte planes ─▶ one byte where all are the same, else deflate (or as it is)
//!             └ what always comes together (an end and its identity; event, rule, port) is a number of a list
//! ```
//!
//! A node's records repeat themselves: few pods, few rules, few services; what is new in one is its time, the client's
//! port, a cookie or counters. Deflate over whole records would not see that, since no two are alike; over the same byte
//! of many records it finds it at once, and Huffman's code is made for that byte alone.
//!
//! What is packed is unpacked to the same words, whatever they are (property test).

use std::collections::HashMap;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use foldhash::fast::RandomState;

use crate::record::WORDS;

/// What is packed: the words of [`crate::Record`], the last of which is always zero.
pub(super) type Words = [u64; WORDS];

/// Values that come together.
type Tuple = [u64; 3];

/// Bytes of a number.
const PLANES: usize = 8;
/// A plane's length has this bit where it is not deflated.
const PLAIN: u16 = 1 << 15;
/// Records that are packed together at most: every length fits in what is left of its number.
pub(super) const MOST: usize = 4096;

/// One packer is used for many pages: what deflate needs is made once.
pub(super) struct Packer {
    deflate: Compress,
    plane: Vec<u8>,
    out: Vec<u8>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packer")
    }
}

impl Packer {
    pub(super) fn new() -> Self {
        Self { deflate: Compress::new(Compression::new(4), false), plane: Vec::new(), out: Vec::new() }
    }

    /// At most [`MOST`] records; more than that are left out.
    pub(super) fn pack(&mut self, records: &[Words]) -> Box<[u8]> {
        let records = records.get(..MOST).unwrap_or(records);
        self.out.clear();
        let mut before = 0u64;
        self.column(records.iter().map(|r| {
            let [time, ..] = *r;
            time.wrapping_sub(std::mem::replace(&mut before, time))
        }));
        self.tuples(&[records.iter().map(source).collect(), records.iter().map(destination).collect()]);
        self.tuples(&[records.iter().map(shape).collect()]);
        self.column(records.iter().map(source_port));
        self.column(records.iter().map(length));
        // counters have nothing in common with what else is told in their place
        let (closed, others): (Vec<&Words>, Vec<&Words>) = records.iter().partition(|r| is_closed(r));
        for place in 0..4 {
            self.column(closed.iter().map(|r| detail(r, place)));
        }
        self.column(others.iter().map(|r| detail(r, 0)));
        self.tuples(&[others.iter().map(|r| [detail(r, 1), detail(r, 2), detail(r, 3)]).collect()]);
        self.out.as_slice().into()
    }

    /// The different values once, and where each is among them.
    fn tuples(&mut self, columns: &[Vec<Tuple>]) {
        let mut places: HashMap<Tuple, u64, RandomState> = HashMap::default();
        let mut list = Vec::new();
        let mut indices = Vec::with_capacity(columns.len());
        for column in columns {
            let index = |value: &Tuple| {
                *places.entry(*value).or_insert_with(|| {
                    list.push(*value);
                    list.len() as u64 - 1
                })
            };
            indices.push(column.iter().map(index).collect::<Vec<u64>>());
        }
        self.out.extend((list.len() as u16).to_le_bytes());
        for part in 0..3 {
            self.column(list.iter().map(|t| t.get(part).copied().unwrap_or_default()));
        }
        for column in indices {
            self.column(column.into_iter());
        }
    }

    fn column(&mut self, values: impl Iterator<Item = u64>) {
        let values: Vec<u64> = values.collect();
        let Some(first) = values.first() else { return };
        let differ = values.iter().fold(0, |all, v| all | (v ^ first));
        let mask = differ.to_le_bytes().map(|b| u8::from(b != 0));
        self.out.push(mask.iter().enumerate().map(|(n, m)| m << n).sum::<u8>());
        for (plane, (varies, same)) in mask.into_iter().zip(first.to_le_bytes()).enumerate() {
            if varies == 0 {
                self.out.push(same);
            } else {
                self.plane.clear();
                self.plane.extend(values.iter().map(|v| (v >> (8 * plane)) as u8));
                self.deflated();
            }
        }
    }

    /// The plane in hand, by the shorter way.
    fn deflated(&mut self) {
        let length_at = self.out.len();
        self.out.extend([0, 0]);
        let begin = self.out.len();
        self.deflate.reset();
        self.out.reserve(self.plane.len());
        // it gets as much room as it may be long: if that is not enough, it is no shorter
        let done = self.deflate.compress_vec(&self.plane, &mut self.out, FlushCompress::Finish);
        let mut length = (self.out.len() - begin) as u16;
        if !matches!(done, Ok(Status::StreamEnd)) || self.out.len() - begin >= self.plane.len() {
            self.out.truncate(begin);
            self.out.extend(&self.plane);
            length = self.plane.len() as u16 | PLAIN;
        }
        if let Some(place) = self.out.get_mut(length_at..begin) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }
}

fn source(r: &Words) -> Tuple {
    let [_, _, high, low, _, _, _, identities, ..] = *r;
    [high, low, identities & u64::from(u32::MAX)]
}

fn destination(r: &Words) -> Tuple {
    let [_, _, _, _, high, low, _, identities, ..] = *r;
    [high, low, identities >> 32]
}

/// Event, rule, interface, destination port and flags.
fn shape(r: &Words) -> Tuple {
    let [_, meta, _, _, _, _, ports, _, rule, ..] = *r;
    [meta, rule, ports >> 16]
}

fn source_port(r: &Words) -> u64 {
    let [_, _, _, _, _, _, ports, ..] = *r;
    ports & 0xffff
}

fn length(r: &Words) -> u64 {
    let [.., length, _, _, _, _, _] = *r;
    length
}

fn detail(r: &Words, place: usize) -> u64 {
    let [.., first, second, third, fourth, _] = *r;
    [first, second, third, fourth].get(place).copied().unwrap_or_default()
}

/// By the event's number in the word that [`crate::Record`] packs it to.
fn is_closed(r: &Words) -> bool {
    let [_, meta, ..] = *r;
    meta & 0xff == 2
}

/// The records of a page; none: the bytes are not a page of so many.
pub(super) fn unpack(bytes: &[u8], count: usize) -> Option<Vec<Words>> {
    let mut page = Unpacker { bytes, inflate: Decompress::new(false) };
    let times = page.column(count)?;
    let [sources, destinations] = <[Vec<Tuple>; 2]>::try_from(page.tuples(&[count, count])?).ok()?;
    let shapes = page.tuples(&[count])?.pop()?;
    let (ports, lengths) = (page.column(count)?, page.column(count)?);
    let closed = shapes.iter().filter(|[meta, ..]| meta & 0xff == 2).count();
    let mut counters = Vec::new();
    for _ in 0..4 {
        counters.push(page.column(closed)?.into_iter());
    }
    let mut cookies = page.column(count - closed)?.into_iter();
    let mut rest = page.tuples(&[count - closed])?.pop()?.into_iter();
    let mut time = 0u64;
    let mut out = Vec::with_capacity(count);
    let ends = sources.into_iter().zip(destinations);
    let head = times.into_iter().zip(ends).zip(shapes).zip(ports.into_iter().zip(lengths));
    for (((delta, ([sh, sl, si], [dh, dl, di])), [meta, rule, more]), (port, length)) in head {
        time = time.wrapping_add(delta);
        let mut detail = [0; 4];
        if meta & 0xff == 2 {
            for (to, from) in detail.iter_mut().zip(&mut counters) {
                *to = from.next()?;
            }
        } else {
            let [second, third, fourth] = rest.next()?;
            detail = [cookies.next()?, second, third, fourth];
        }
        let [first, second, third, fourth] = detail;
        let (ports, identities) = (port | more << 16, si | di << 32);
        out.push([time, meta, sh, sl, dh, dl, ports, identities, rule, length, first, second, third, fourth, 0]);
    }
    Some(out)
}

struct Unpacker<'a> {
    bytes: &'a [u8],
    inflate: Decompress,
}

impl Unpacker<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        Some(*first)
    }

    fn tuples(&mut self, counts: &[usize]) -> Option<Vec<Vec<Tuple>>> {
        let known = usize::from(u16::from_le_bytes(self.take()?));
        let [a, b, c] = [self.column(known)?, self.column(known)?, self.column(known)?];
        let list: Vec<Tuple> = a.into_iter().zip(b).zip(c).map(|((a, b), c)| [a, b, c]).collect();
        let mut out = Vec::new();
        for count in counts {
            let indices = self.column(*count)?;
            out.push(indices.into_iter().map(|i| list.get(usize::try_from(i).ok()?).copied()).collect::<Option<_>>()?);
        }
        Some(out)
    }

    fn column(&mut self, count: usize) -> Option<Vec<u64>> {
        let mut out = vec![0u64; count];
        if count == 0 {
            return Some(out);
        }
        let [mask] = self.take()?;
        for plane in 0..PLANES {
            if mask >> plane & 1 == 0 {
                let [same] = self.take()?;
                for value in &mut out {
                    *value |= u64::from(same) << (8 * plane);
                }
            } else {
                let bytes = self.inflated(count)?;
                for (value, byte) in out.iter_mut().zip(bytes) {
                    *value |= u64::from(byte) << (8 * plane);
                }
            }
        }
        Some(out)
    }

    fn inflated(&mut self, count: usize) -> Option<Vec<u8>> {
        let length = u16::from_le_bytes(self.take()?);
        let (bytes, rest) = self.bytes.split_at_checked(usize::from(length & !PLAIN))?;
        self.bytes = rest;
        if length & PLAIN != 0 {
            return (bytes.len() == count).then(|| bytes.to_vec());
        }
        let mut out = Vec::with_capacity(count);
        self.inflate.reset(false);
        let done = self.inflate.decompress_vec(bytes, &mut out, FlushDecompress::Finish).ok()?;
        (done == Status::StreamEnd && out.len() == count).then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::arbitrary_record;

    fn round(records: &[Words]) {
        let bytes = Packer::new().pack(records);
        assert_eq!(unpack(&bytes, records.len()).as_deref(), Some(records));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_packed_unpacks_to_the_same(records in proptest::collection::vec(arbitrary_record(), 0..200)) {
            round(&records.iter().map(crate::Record::pack).collect::<Vec<_>>());
        }

        #[test]
        fn any_words_unpack_to_the_same(records in proptest::collection::vec(any::<[u64; WORDS - 1]>(), 0..80)) {
            let with_zero = |r: &[u64; WORDS - 1]| std::array::from_fn(|n| r.get(n).copied().unwrap_or_default());
            round(&records.iter().map(with_zero).collect::<Vec<_>>());
        }

        #[test]
        fn bytes_that_are_no_page_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in any::<prop::sample::Index>()) {
            // nothing to assert of chance but that it ends; of a page that lacks its end, that it is no page
            let _ = unpack(&bytes, 50);
            let page = Packer::new().pack(&[[7; WORDS]; 5].map(|mut r| { r[WORDS - 1] = 0; r }));
            prop_assert!(unpack(&page[..cut.index(page.len())], 5).is_none());
        }
    }

    #[test]
    fn as_many_as_fit_in_a_page_unpack_to_the_same() {
        // nothing repeats itself in any byte: every plane is longest, every list has all
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.rotate_left(31)
        };
        let records: Vec<Words> =
            (0..MOST).map(|_| std::array::from_fn(|n| if n == WORDS - 1 { 0 } else { next() })).collect();
        round(&records);
    }
}
