//! At which ports two tables differ about a peer.

use std::collections::BTreeSet;

use axoneme_model::{
    Direction, Protocol,
    lookup::{Whom, mask},
    rows::{RuleId, TableRow},
};

/// Protocols that are asked about, whether or not entries name them: those with ports, and ICMP by its types.
const PROTOCOLS: [Protocol; 5] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol::ICMPV6];

/// A table and whom it takes the peer for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    pub(crate) table: &'a TableRow,
    pub(crate) whom: Whom,
}

/// What differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) gains: Vec<String>,
    pub(crate) loses: Vec<String>,
    /// Of the second end, that decide where they differ.
    pub(crate) rules: BTreeSet<RuleId>,
}

/// Ranges that one end allows and the other does not. A verdict can only change where some entry begins or ends.
pub(crate) fn difference(direction: Direction, before: End<'_>, after: End<'_>) -> Difference {
    let mut found = Difference::default();
    let (mut gains, mut loses) = (Vec::new(), Vec::new());
    for protocol in PROTOCOLS {
        let edges: Vec<u16> = edges(direction, protocol, [before.table, after.table]).into_iter().collect();
        for (n, first) in edges.iter().copied().enumerate() {
            let last = edges.get(n + 1).map_or(u16::MAX, |next| next - 1);
            let was = before.table.judge(direction, before.whom, protocol, first);
            let is = after.table.judge(direction, after.whom, protocol, first);
            if was.allow == is.allow {
                continue;
            }
            found.rules.insert(is.rule);
            push(if is.allow { &mut gains } else { &mut loses }, protocol, first, last);
        }
    }
    found.gains = words(&gains);
    found.loses = words(&loses);
    found
}

fn edges(direction: Direction, protocol: Protocol, tables: [&TableRow; 2]) -> BTreeSet<u16> {
    let mut edges = BTreeSet::from([0u16]);
    let keys = tables.into_iter().flat_map(|t| t.entries.keys());
    for key in keys.filter(|k| k.direction == direction && k.protocol == Some(protocol)) {
        edges.insert(key.port);
        edges.extend((key.port | !mask(key.port_bits)).checked_add(1));
    }
    edges
}

fn push(ranges: &mut Vec<(Protocol, u16, u16)>, protocol: Protocol, first: u16, last: u16) {
    match ranges.last_mut() {
        Some((p, _, end)) if *p == protocol && end.checked_add(1) == Some(first) => *end = last,
        _ => ranges.push((protocol, first, last)),
    }
}

/// `TCP 80`, `UDP 1-1023`, `ICMP any type`; `everything`.
fn words(ranges: &[(Protocol, u16, u16)]) -> Vec<String> {
    let whole = |p: &Protocol| ranges.contains(&(*p, 0, u16::MAX));
    if PROTOCOLS.iter().all(whole) {
        return vec!["everything".to_owned()];
    }
    let word = |(protocol, first, last): &(Protocol, u16, u16)| {
        let of_types = matches!(*protocol, Protocol::ICMP | Protocol::ICMPV6);
        match (first, last, if of_types { "type" } else { "port" }) {
            (0, &u16::MAX, what) => format!("{protocol} any {what}"),
            (first, last, _) if first == last => format!("{protocol} {first}"),
            (first, last, _) => format!("{protocol} {first}-{last}"),
        }
    };
    ranges.iter().map(word).collect()
}
