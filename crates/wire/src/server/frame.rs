//! Messages as bytes, ready to send.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

use crate::{
    PROTOCOL,
    change::{Row, RowChange, RowType},
    convert::Wire,
    pb::{self, operator_message::Body},
};

/// Size at which a frame of changes is cut. One change that is larger goes alone.
const FRAME_BYTES: usize = 64 << 10;
/// Field numbers of `OperatorMessage.changes` and `Changes.changes`.
const CHANGES_FIELD: u32 = 3;
const CHANGE_FIELD: u32 = 1;

/// A change with its encoding, made once however many nodes it goes to, and not if it goes to none.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) change: RowChange,
    bytes: OnceLock<Bytes>,
}

impl Encoded {
    pub(super) fn new(change: RowChange) -> Arc<Self> {
        Arc::new(Self { change, bytes: OnceLock::new() })
    }

    fn bytes(&self) -> &Bytes {
        self.bytes.get_or_init(|| {
            let mut bytes = BytesMut::new();
            entry(&self.change, &mut bytes);
            bytes.freeze()
        })
    }
}

/// The change as an entry of `Changes.changes`, with key and length.
fn entry(change: &RowChange, into: &mut BytesMut) {
    prost::encoding::message::encode(CHANGE_FIELD, &change.to_message(), into);
}

/// Shared changes as frames: upserts before the node's own (nodes, identities, services), after them (addresses), removals.
#[derive(Debug, Default)]
pub(super) struct Frames {
    pub(super) early: Vec<Bytes>,
    pub(super) late: Vec<Bytes>,
    pub(super) gone: Vec<Bytes>,
}

impl Frames {
    pub(super) fn of(changes: &[Arc<Encoded>]) -> Self {
        let part = |early: bool, gone: bool| {
            let of = |e: &&Arc<Encoded>| {
                let (removal, _) = e.change.order();
                removal == gone && (gone || (e.change.key().row_type() < RowType::Ip) == early)
            };
            frames(changes.iter().filter(of))
        };
        Self { early: part(true, false), late: part(false, false), gone: part(false, true) }
    }
}

/// The same changes, to be encoded once more.
pub(super) fn again(changes: &[Arc<Encoded>]) -> Vec<Arc<Encoded>> {
    changes.iter().map(|e| Encoded::new(e.change.clone())).collect()
}

/// The changes as whole messages, none much over [`FRAME_BYTES`].
pub(super) fn frames<'a>(changes: impl IntoIterator<Item = &'a Arc<Encoded>>) -> Vec<Bytes> {
    let mut all = Cut::default();
    changes.into_iter().for_each(|e| all.put(e.bytes()));
    all.end()
}

/// Rows as [`frames`], of which nothing is kept but these: of a large cluster all rows in between would be a second copy.
pub(super) fn rows(rows: impl Iterator<Item = Row>) -> Vec<Bytes> {
    let (mut all, mut one) = (Cut::default(), BytesMut::new());
    for row in rows {
        one.clear();
        entry(&RowChange::Upsert(row), &mut one);
        all.put(&one);
    }
    all.end()
}

/// Entries on their way into frames.
#[derive(Default)]
struct Cut {
    frames: Vec<Bytes>,
    part: BytesMut,
}

impl Cut {
    fn put(&mut self, entry: &[u8]) {
        if !self.part.is_empty() && self.part.len() + entry.len() > FRAME_BYTES {
            self.cut();
        }
        self.part.extend_from_slice(entry);
    }

    fn cut(&mut self) {
        if !self.part.is_empty() {
            self.frames.push(join(&self.part));
            self.part.clear();
        }
    }

    fn end(mut self) -> Vec<Bytes> {
        self.cut();
        self.frames
    }
}

/// `OperatorMessage { changes: Changes { … } }` of entries that are encoded already.
fn join(entries: &[u8]) -> Bytes {
    let size = entries.len();
    let mut b = BytesMut::with_capacity(key_len(CHANGES_FIELD) + encoded_len_varint(size as u64) + size);
    encode_key(CHANGES_FIELD, WireType::LengthDelimited, &mut b);
    encode_varint(size as u64, &mut b);
    b.extend_from_slice(entries);
    b.freeze()
}

fn message(body: Body) -> Bytes {
    pb::OperatorMessage { body: Some(body) }.encode_to_vec().into()
}

pub(super) fn welcome(epoch: u64, operator: &str, resumed: bool, leader: bool) -> Bytes {
    let operator = operator.to_owned();
    message(Body::Welcome(pb::Welcome { epoch, operator, protocol: PROTOCOL, resumed, leader }))
}

pub(super) fn snapshot_begin(t: RowType) -> Bytes {
    message(Body::SnapshotBegin(pb::SnapshotBegin { r#type: t.to_message() }))
}

pub(super) fn snapshot_end(t: RowType) -> Bytes {
    message(Body::SnapshotEnd(pb::SnapshotEnd { r#type: t.to_message() }))
}

/// `quiet`: no acknowledgement is waited for.
pub(super) fn commit(revision: u64, quiet: bool) -> Bytes {
    message(Body::Commit(pb::Commit { revision, quiet }))
}

pub(super) fn redirect(address: &str) -> Bytes {
    message(Body::Redirect(pb::Redirect { address: address.to_owned() }))
}
