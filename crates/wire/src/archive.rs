//! Rows as bytes that outlive a process: what a node keeps for the time when nobody can send it any.
//!
//! ```text
//!   "AXNROWS" format:u8 │ protocol:u32 │ length:u32 node │ (length:u32 row)* │ 0:u32      integers little-endian
//! ```
//!
//! A row is the protobuf message that the stream carries, so that what the protocol promises of older and newer versions
//! holds here too. The same rows give the same bytes. Damage is for the owner of the bytes to find: there is no checksum.

use axoneme_model::rows::RowSet;
use prost::Message as _;

use crate::{
    PROTOCOL,
    change::{self, Row, RowChange},
    convert::Wire,
    pb,
};

const MAGIC: &[u8; 7] = b"AXNROWS";
const FORMAT: u8 = 1;

/// Why bytes are not the rows of a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// Of another version: not understood, not damaged.
    #[error("written by another version (format {format}, protocol {protocol}; this one has {FORMAT} and {PROTOCOL})")]
    Version { format: u8, protocol: u32 },
    #[error("of node {0}")]
    Node(String),
    #[error("{0}")]
    Broken(String),
}

fn broken(message: impl Into<String>) -> ArchiveError {
    ArchiveError::Broken(message.into())
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(bytes);
}

/// All rows of a node.
#[must_use]
pub fn encode(node: &str, rows: &RowSet) -> Vec<u8> {
    let mut out = Vec::new();
    encode_behind(node, rows, &mut out);
    out
}

/// [`encode`] behind what is there already: a copy of a large cluster's rows is not made for a few bytes before them.
pub fn encode_behind(node: &str, rows: &RowSet, out: &mut Vec<u8>) {
    out.extend(MAGIC);
    out.push(FORMAT);
    out.extend(PROTOCOL.to_le_bytes());
    put(out, node.as_bytes());
    let mut message = Vec::new();
    for change in change::each(rows) {
        message.clear();
        // a vector grows as it must
        let _ = change.to_message().encode(&mut message);
        put(out, &message);
    }
    out.extend(0u32.to_le_bytes());
}

/// The rows, if they are those of `node`.
///
/// # Errors
/// The bytes are of another version or node, or end early, or hold what is no row.
pub fn decode(node: &str, bytes: &[u8]) -> Result<RowSet, ArchiveError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| broken("no rows of a node"))?;
    let (&format, mut rest) = rest.split_first().ok_or_else(|| broken("ends early"))?;
    let protocol = number(&mut rest)?;
    if format != FORMAT || protocol != PROTOCOL {
        return Err(ArchiveError::Version { format, protocol });
    }
    let owner = take(&mut rest)?;
    if owner != node.as_bytes() {
        return Err(ArchiveError::Node(String::from_utf8_lossy(owner).into_owned()));
    }
    let mut rows = RowSet::default();
    loop {
        let message = take(&mut rest)?;
        if message.is_empty() {
            break;
        }
        let message = pb::Change::decode(message).map_err(|e| broken(e.to_string()))?;
        match RowChange::from_message(message).map_err(|e| broken(e.to_string()))? {
            RowChange::Upsert(Row::Config(c)) if *c.node != *node => {
                return Err(ArchiveError::Node(c.node.to_string()));
            }
            row @ RowChange::Upsert(_) => change::apply(&mut rows, row).map_err(|e| broken(e.to_string()))?,
            other => return Err(broken(format!("a change of {} where there are whole rows only", other.key()))),
        }
    }
    if rest.is_empty() { Ok(rows) } else { Err(broken("goes on behind its end")) }
}

fn number(rest: &mut &[u8]) -> Result<u32, ArchiveError> {
    let (first, behind) = rest.split_first_chunk::<4>().ok_or_else(|| broken("ends early"))?;
    *rest = behind;
    Ok(u32::from_le_bytes(*first))
}

fn take<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], ArchiveError> {
    let length = number(rest)? as usize;
    let (taken, behind) = rest.split_at_checked(length).ok_or_else(|| broken("ends early"))?;
    *rest = behind;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use axoneme_model::{
        Identity, PeerClass,
        rows::{EndpointRow, IpRow, NodeRow, TableId},
    };
    use proptest::prelude::*;

    use super::*;

    fn rows(count: u8) -> RowSet {
        let mut set = RowSet::default();
        for n in 0..count {
            let name: Arc<str> = format!("n{n}").into();
            let prefix = format!("10.0.0.{n}/32").parse().unwrap();
            let address: std::net::IpAddr = format!("192.168.0.{n}").parse().unwrap();
            let (identity, peer) = (Identity(256 + u32::from(n)), PeerClass(256 + u32::from(n)));
            let node = NodeRow { name: name.clone(), addresses: vec![address], pod_cidrs: vec![prefix] };
            set.nodes.insert(name.clone(), node);
            let (local_identity, local_peer) = (identity, peer);
            let (tunnel, pod) = (Some(address), Arc::from("shop/web"));
            let row = IpRow { prefix, identity, peer, local_identity, local_peer, tunnel, node: name.clone(), pod };
            set.ips.insert(prefix, row);
            let endpoint = EndpointRow {
                uid: name.clone(),
                namespace: "shop".into(),
                name: "web".into(),
                node: "n1".into(),
                identity,
                peer,
                table: TableId(7),
                addresses: BTreeSet::new(),
                pool_v4: "".into(),
                pool_v6: "".into(),
                labels: axoneme_model::Labels::default(),
                bandwidth: axoneme_model::Bandwidth::default(),
            };
            set.endpoints.insert(name, endpoint);
        }
        set
    }

    #[test]
    fn rows_come_back_for_their_node_only() {
        let set = rows(9);
        let bytes = encode("n1", &set);
        assert_eq!(decode("n1", &bytes), Ok(set));
        assert_eq!(decode("n2", &bytes), Err(ArchiveError::Node("n1".into())));
        let mut newer = bytes.clone();
        newer[MAGIC.len()] = FORMAT + 1;
        assert!(matches!(decode("n1", &newer), Err(ArchiveError::Version { .. })));
        assert_eq!(decode("n1", &encode("n1", &RowSet::default())), Ok(RowSet::default()));
    }

    #[test]
    fn a_copy_that_ends_early_is_none() {
        let bytes = encode("n1", &rows(5));
        for end in 0..bytes.len() {
            assert!(decode("n1", &bytes[..end]).is_err(), "cut at {end} of {}", bytes.len());
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(decode("n1", &longer).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(place in 0usize..600, value: u8, noise in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = encode("n1", &rows(5));
            if let Some(b) = bytes.get_mut(place) {
                *b = value;
            }
            let _ = decode("n1", &bytes);
            let _ = decode("n1", &[MAGIC.as_slice(), &[FORMAT, 1, 0, 0, 0], &noise].concat());
        }
    }
}
