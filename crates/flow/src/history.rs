//! A ring of the last records, in memory that never grows.
//!
//! ```text
//!   writer ──push──▶ slot[n % capacity] ──▶ any number of readers, each with its own position
//!                    overwritten when full: what was packed before is read from the past, at no cost for the writer;
//!                    of the rest the reader that was too slow learns how many it missed
//! ```
//!
//! *Guarantees*: `push` never waits, allocates or fails, whatever readers do; a reader sees a whole record or none.
//! *Assumptions*: one thread pushes at a time (a second one would only mix up records, not memory: each slot is a
//! sequence lock over plain atomics, after Boehm, "Can Seqlocks Get Along with Programming Language Memory Models?").

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering, fence},
};

use crate::{
    past::{Kept, Past},
    record::{Record, WORDS},
    time::Time,
};

/// One record behind a sequence lock. `version` is odd while it is written, else `2 × (sequence + 1)`; 0: never.
#[derive(Debug)]
struct Slot {
    version: AtomicU64,
    words: [AtomicU64; WORDS],
}

/// The last records of a node. Sequence numbers start at 0 and never repeat in a process.
#[derive(Debug)]
pub struct History {
    slots: Box<[Slot]>,
    head: AtomicU64,
    /// Sequence number of the first record that this ring was given.
    first: u64,
    /// What the ring had to give up, as far as it was packed.
    past: Arc<Past>,
}

/// What a reader finds at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Record(Record),
    /// Overwritten already; the oldest that is still there has this sequence number.
    Gone {
        oldest: u64,
    },
    /// Not written yet.
    NotYet,
}

impl History {
    /// Bytes that one record takes.
    pub const RECORD_BYTES: usize = size_of::<Slot>();

    /// Room for `capacity` records (at least one); takes `capacity × RECORD_BYTES` bytes for good.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let slot = || Slot { version: AtomicU64::new(0), words: [const { AtomicU64::new(0) }; WORDS] };
        let slots = std::iter::repeat_with(slot).take(capacity.max(1)).collect();
        Self { slots, head: AtomicU64::new(0), first: 0, past: Arc::default() }
    }

    /// A ring of another size that goes on where this one stands, with as many of the last records as fit. For the one
    /// that pushes: what is pushed here meanwhile is not in it.
    #[must_use]
    pub fn resized(&self, capacity: usize) -> Self {
        let (mut other, head) = (Self::new(capacity), self.head());
        let oldest = self.oldest_in_ring().max(head.saturating_sub(other.capacity()));
        other.first = oldest;
        other.past = self.past.clone();
        other.head = AtomicU64::new(oldest);
        for sequence in oldest..head {
            // there is no other writer who could have taken it away
            if let Found::Record(record) = self.in_ring(sequence) {
                other.push(&record);
            }
        }
        other
    }

    /// Records that the ring has room for; the past may have more.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.slots.len() as u64
    }

    /// How many records were ever pushed: the sequence number of the next one.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Sequence number of the oldest record that is still there (equal to [`Self::head`] when there is none).
    #[must_use]
    pub fn oldest(&self) -> u64 {
        let ring = self.oldest_in_ring();
        self.past.oldest().map_or(ring, |past| past.min(ring))
    }

    fn oldest_in_ring(&self) -> u64 {
        self.head().saturating_sub(self.capacity()).max(self.first)
    }

    /// The first position from `sequence` on at which a record of `since` or later may stand. Saves unpacking what is older.
    #[must_use]
    pub fn skip_before(&self, since: Time, sequence: u64) -> u64 {
        self.past.skip_before(since, sequence)
    }

    /// Bytes that the past takes now, and the records that it holds.
    #[must_use]
    pub fn packed(&self) -> (usize, u64) {
        self.past.size()
    }

    pub(crate) fn past(&self) -> &Past {
        &self.past
    }

    fn slot(&self, sequence: u64) -> Option<&Slot> {
        self.slots.get((sequence % self.capacity()) as usize)
    }

    /// Appends, over the oldest record if the ring is full.
    pub fn push(&self, record: &Record) {
        let sequence = self.head.load(Ordering::Relaxed);
        let Some(slot) = self.slot(sequence) else { return };
        slot.version.store(2 * sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (to, from) in slot.words.iter().zip(record.pack()) {
            to.store(from, Ordering::Relaxed);
        }
        slot.version.store(2 * sequence + 2, Ordering::Release);
        self.head.store(sequence + 1, Ordering::Release);
    }

    /// The record at a position.
    #[must_use]
    pub fn get(&self, sequence: u64) -> Found {
        let found = self.in_ring(sequence);
        let Found::Gone { oldest } = found else { return found };
        match self.past.get(sequence) {
            Kept::Record(record) => Found::Record(record),
            Kept::Next(next) => Found::Gone { oldest: next.min(oldest) },
            Kept::Nothing => found,
        }
    }

    pub(crate) fn in_ring(&self, sequence: u64) -> Found {
        if sequence >= self.head() {
            return Found::NotYet;
        }
        let Some(slot) = self.slot(sequence) else { return Found::NotYet };
        let before = slot.version.load(Ordering::Acquire);
        let words = std::array::from_fn(|i| slot.words.get(i).map_or(0, |w| w.load(Ordering::Relaxed)));
        fence(Ordering::Acquire);
        if before == 2 * sequence + 2 && slot.version.load(Ordering::Relaxed) == before {
            Found::Record(Record::unpack(&words))
        } else {
            // the writer is at least one lap ahead, or in this very slot
            Found::Gone { oldest: self.oldest_in_ring().max(sequence + 1) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

    use super::*;
    use crate::{
        record::{Event, Origin, Traffic},
        testing::arbitrary_record,
        time::Time,
    };

    fn sample() -> Record {
        arbitrary_record().new_tree(&mut TestRunner::deterministic()).unwrap().current()
    }

    #[test]
    fn a_record_takes_two_cache_lines() {
        assert_eq!(History::RECORD_BYTES, 128);
    }

    #[test]
    fn a_full_ring_keeps_the_newest_and_names_the_oldest() {
        let h = History::new(4);
        assert_eq!((h.head(), h.oldest(), h.get(0)), (0, 0, Found::NotYet));
        for n in 0..10 {
            h.push(&Record { time: Time(n), ..sample() });
        }
        assert_eq!((h.head(), h.oldest()), (10, 6));
        assert_eq!(h.get(5), Found::Gone { oldest: 6 });
        for n in 6..10 {
            assert!(matches!(h.get(n), Found::Record(r) if r.time == Time(n)), "{n}");
        }
        assert_eq!(h.get(10), Found::NotYet);
    }

    #[test]
    fn a_ring_of_another_size_goes_on_with_the_newest() {
        let h = History::new(8);
        for n in 0..10 {
            h.push(&Record { time: Time(n), ..sample() });
        }
        let (less, more) = (h.resized(3), h.resized(100));
        assert_eq!((less.capacity(), less.head(), less.oldest()), (3, 10, 7));
        assert_eq!((more.capacity(), more.head(), more.oldest()), (100, 10, 2));
        for ring in [&less, &more] {
            ring.push(&Record { time: Time(10), ..sample() });
            assert_eq!(ring.head(), 11);
            for n in ring.oldest()..11 {
                assert!(matches!(ring.get(n), Found::Record(r) if r.time == Time(n)), "{n}");
            }
            assert_eq!(ring.get(1), Found::Gone { oldest: ring.oldest() });
        }
        assert_eq!(History::new(4).resized(2).oldest(), 0, "nothing to take over");
    }

    #[test]
    fn a_ring_of_no_room_still_holds_one() {
        let h = History::new(0);
        h.push(&sample());
        assert_eq!(h.get(0), Found::Record(sample()));
    }

    proptest! {
        #[test]
        fn what_was_pushed_is_read(records in proptest::collection::vec(arbitrary_record(), 0..40), room in 1..20usize) {
            let h = History::new(room);
            for r in &records {
                h.push(r);
            }
            for (n, r) in records.iter().enumerate() {
                let expected = if n + room < records.len() {
                    Found::Gone { oldest: (records.len() - room) as u64 }
                } else {
                    Found::Record(*r)
                };
                prop_assert_eq!(h.get(n as u64), expected);
            }
        }
    }

    #[test]
    fn readers_never_see_half_a_record_while_the_writer_laps_them() {
        let h = Arc::new(History::new(3));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let h = h.clone();
                thread::spawn(move || {
                    let (mut seen, mut gone, mut at) = (0u64, 0u64, 0);
                    while at < 200_000 {
                        match h.get(at) {
                            Found::Record(r) => {
                                // every field of record n is n
                                assert_eq!(r.time, Time(at));
                                assert_eq!(r.forward, Traffic { packets: at, bytes: at });
                                assert_eq!(r.backward, Traffic { packets: at, bytes: at });
                                seen += 1;
                                at += 1;
                            }
                            Found::Gone { oldest } => {
                                assert!(oldest > at);
                                gone += oldest - at;
                                at = oldest;
                            }
                            Found::NotYet => std::hint::spin_loop(),
                        }
                    }
                    (seen, gone, at)
                })
            })
            .collect();
        let base = Record { event: Event::Closed, origin: Origin::Unknown, ..sample() };
        for n in 0..200_000 {
            let t = Traffic { packets: n, bytes: n };
            h.push(&Record { time: Time(n), forward: t, backward: t, ..base });
        }
        for r in readers {
            let (seen, gone, at) = r.join().unwrap();
            assert_eq!(seen + gone, at, "each record is either read or counted as lost");
        }
    }
}
