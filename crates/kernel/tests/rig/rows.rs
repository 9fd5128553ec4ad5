//! Compiled rows as the datapath takes them.

use axoneme_kernel::datapath::{Direction, IpEntry, PolicyDefault, PolicyKey, PolicyTable, PolicyValue};
use axoneme_model::rows::{self, IpRow, TableRow};

pub fn key(k: &rows::PolicyKey) -> PolicyKey {
    let direction = match k.direction {
        axoneme_model::Direction::Ingress => Direction::Ingress,
        axoneme_model::Direction::Egress => Direction::Egress,
    };
    let protocol = k.protocol.map_or(0, |p| p.0);
    PolicyKey { direction, peer: k.peer.0, protocol, port: k.port, port_bits: k.port_bits }
}

pub fn value(v: rows::PolicyEntry) -> PolicyValue {
    PolicyValue { allow: v.allow, audit: v.audit, rule: v.rule.0, proxy_port: v.proxy_port, auth: v.auth }
}

pub fn whole(row: &TableRow) -> PolicyTable {
    let default = |d: rows::DirectionDefault| PolicyDefault { allow: d.allow, audit: d.audit, rule: d.rule.0 };
    PolicyTable {
        ingress_default: default(row.ingress_default),
        egress_default: default(row.egress_default),
        entries: row.entries.iter().map(|(k, v)| (key(k), value(*v))).collect(),
    }
}

pub fn ip(row: &IpRow) -> IpEntry {
    let is_node = !row.node.is_empty() && row.pod.is_empty();
    IpEntry { identity: row.identity.0, peer: row.peer.0, tunnel: row.tunnel, is_node, direct: false }
}
