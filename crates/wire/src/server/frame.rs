//! Messages as bytes, ready to send.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

use crate::{
    PROTOCOL,
    change::{RowChange, RowType},
    convert::Wire,
    pb::{self, operator_message::Body},
};

/// Size at which a frame of changes is cut. One change that is larger goes alone.
const FRAME_BYTES: usize = 64 << 10;
/// Field numbers of `OperatorMessage.changes` and `Changes.changes`.
const CHANGES_FIELD: u32 = 3;
const CHANGE_FIELD: u32 = 1;

/// A change with its encoding, made once however many nodes it goes to.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) change: RowChange,
    /// As an entry of `Changes.changes`, with key and length.
    bytes: Bytes,
}

impl Encoded {
    pub(super) fn new(change: RowChange) -> Arc<Self> {
        let mut bytes = BytesMut::new();
        prost::encoding::message::encode(CHANGE_FIELD, &change.to_message(), &mut bytes);
        Arc::new(Self { change, bytes: bytes.freeze() })
    }
}

/// The changes as whole messages, none much over [`FRAME_BYTES`].
pub(super) fn frames<'a>(changes: impl IntoIterator<Item = &'a Arc<Encoded>>) -> Vec<Bytes> {
    let (mut frames, mut part, mut size) = (Vec::new(), Vec::new(), 0);
    for e in changes {
        if size > 0 && size + e.bytes.len() > FRAME_BYTES {
            frames.push(join(&part, size));
            part.clear();
            size = 0;
        }
        size += e.bytes.len();
        part.push(&e.bytes);
    }
    if size > 0 {
        frames.push(join(&part, size));
    }
    frames
}

/// `OperatorMessage { changes: Changes { … } }` of entries that are encoded already.
fn join(parts: &[&Bytes], size: usize) -> Bytes {
    let mut b = BytesMut::with_capacity(key_len(CHANGES_FIELD) + encoded_len_varint(size as u64) + size);
    encode_key(CHANGES_FIELD, WireType::LengthDelimited, &mut b);
    encode_varint(size as u64, &mut b);
    for p in parts {
        b.extend_from_slice(p);
    }
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

pub(super) fn commit(revision: u64) -> Bytes {
    message(Body::Commit(pb::Commit { revision }))
}

pub(super) fn redirect(address: &str) -> Bytes {
    message(Body::Redirect(pb::Redirect { address: address.to_owned() }))
}
