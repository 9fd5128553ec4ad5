//! Events as the kernel programs write them, and names for them.

use std::mem::offset_of;

use axoneme_abi::event::{DropEvent, FlowEvent};
use axoneme_flow::{FilterSpec, NameBook, Time};
use axoneme_model::{
    Direction, Identity, Kind, LabelKey, Labels, ObjectRef, PeerClass, Protocol, RuleRef,
    rows::{
        DirectionDefault, EndpointRow, IdentityRow, IpRow, PolicyEntry, PolicyKey, RowSet, RuleId, RuleRow, TableId,
        TableRow,
    },
};

/// 2026-11-21T14:00:00Z, the boot of the test's node.
pub(crate) const START: i64 = 1_795_269_600_000_000_000;

fn bytes(size: usize, fields: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![0; size];
    for (offset, field) in fields {
        out[*offset..offset + field.len()].copy_from_slice(field);
    }
    out
}

struct Event {
    at_ms: u64,
    source: [u8; 4],
    destination: [u8; 4],
    identities: [u32; 2],
    rule: u32,
    ports: [u16; 2],
    protocol: u8,
    flags: u8,
}

fn dropped(e: &Event, reason: u8, direction: u8) -> Vec<u8> {
    bytes(
        size_of::<DropEvent>(),
        &[
            (offset_of!(DropEvent, time), (e.at_ms * 1_000_000).to_ne_bytes().into()),
            (offset_of!(DropEvent, source), e.source.into()),
            (offset_of!(DropEvent, destination), e.destination.into()),
            (offset_of!(DropEvent, source_identity), e.identities[0].to_ne_bytes().into()),
            (offset_of!(DropEvent, destination_identity), e.identities[1].to_ne_bytes().into()),
            (offset_of!(DropEvent, rule), e.rule.to_ne_bytes().into()),
            (offset_of!(DropEvent, ifindex), 7u32.to_ne_bytes().into()),
            (offset_of!(DropEvent, length), 74u32.to_ne_bytes().into()),
            (offset_of!(DropEvent, source_port), e.ports[0].to_be_bytes().into()),
            (offset_of!(DropEvent, destination_port), e.ports[1].to_be_bytes().into()),
            (offset_of!(DropEvent, reason), vec![reason]),
            (offset_of!(DropEvent, direction), vec![direction]),
            (offset_of!(DropEvent, family), vec![4]),
            (offset_of!(DropEvent, protocol), vec![e.protocol]),
            (offset_of!(DropEvent, tcp_flags), vec![e.flags]),
        ],
    )
}

fn connection(e: &Event, kind: u8, packets: [u32; 2], detail: [u64; 2]) -> Vec<u8> {
    let pair = |a: &[u8], b: &[u8]| [a, b].concat();
    bytes(
        size_of::<FlowEvent>(),
        &[
            (offset_of!(FlowEvent, time), (e.at_ms * 1_000_000).to_ne_bytes().into()),
            (offset_of!(FlowEvent, detail), pair(&detail[0].to_ne_bytes(), &detail[1].to_ne_bytes())),
            (offset_of!(FlowEvent, packets), pair(&packets[0].to_ne_bytes(), &packets[1].to_ne_bytes())),
            (offset_of!(FlowEvent, source), e.source.into()),
            (offset_of!(FlowEvent, destination), e.destination.into()),
            (offset_of!(FlowEvent, source_identity), e.identities[0].to_ne_bytes().into()),
            (offset_of!(FlowEvent, destination_identity), e.identities[1].to_ne_bytes().into()),
            (offset_of!(FlowEvent, rule), e.rule.to_ne_bytes().into()),
            (offset_of!(FlowEvent, source_port), e.ports[0].to_be_bytes().into()),
            (offset_of!(FlowEvent, destination_port), e.ports[1].to_be_bytes().into()),
            (offset_of!(FlowEvent, kind), vec![kind]),
            (offset_of!(FlowEvent, family), vec![4]),
            (offset_of!(FlowEvent, protocol), vec![e.protocol]),
            (offset_of!(FlowEvent, tcp_flags), vec![e.flags]),
        ],
    )
}

const WEB: [u8; 4] = [10, 0, 1, 5];
const API: [u8; 4] = [10, 0, 2, 8];
const OUTSIDE: [u8; 4] = [203, 0, 113, 9];

/// A connection that opens and closes, two drops by policy, a name look-up, a ping from outside.
pub(crate) fn events() -> Vec<Vec<u8>> {
    let web_api = |at_ms, flags| Event {
        at_ms,
        source: WEB,
        destination: API,
        identities: [300, 301],
        rule: 1,
        ports: [40_000, 8080],
        protocol: 6,
        flags,
    };
    let out = Event {
        at_ms: 1_250,
        source: WEB,
        destination: OUTSIDE,
        identities: [300, 2],
        rule: 2,
        ports: [40_001, 443],
        protocol: 6,
        flags: 2,
    };
    let ping =
        Event { source: OUTSIDE, destination: WEB, identities: [2, 300], rule: 0, ports: [77, 8], protocol: 1, ..out };
    let dns = Event {
        at_ms: 1_300,
        destination: API,
        identities: [300, 301],
        rule: 1,
        ports: [5000, 53],
        protocol: 17,
        ..out
    };
    vec![
        connection(&web_api(1_000, 2), 1, [0; 2], [4711, 9021]),
        dropped(&out, 181, 1),
        connection(&Event { flags: 0, ..dns }, 1, [0; 2], [0; 2]),
        dropped(&Event { at_ms: 1_400, flags: 0, ..ping }, 133, 0),
        connection(&web_api(2_001, 0x11), 2, [10, 8], [1200, 64_000]),
    ]
}

pub(crate) fn names() -> NameBook {
    let mut book = NameBook::new("worker-1", 8);
    for (prefix, identity, pod, app) in
        [("10.0.1.5/32", 300, "shop/web-1", "web"), ("10.0.2.8/32", 301, "shop/api-0", "api"), ("0.0.0.0/0", 2, "", "")]
    {
        let id = Identity(identity);
        let node = if pod.is_empty() { "" } else { "worker-1" };
        let (peer, local_peer) = (PeerClass(identity), PeerClass(identity));
        let row = IpRow {
            prefix: prefix.parse().unwrap(),
            identity: id,
            peer,
            local_identity: id,
            local_peer,
            tunnel: None,
            node: node.into(),
            pod: pod.into(),
        };
        book.upsert_ip(&row, Time(0));
        if !app.is_empty() {
            book.upsert_identity(&IdentityRow { id, labels: Labels::new().with(LabelKey::k8s("app"), app) });
        }
    }
    for (n, kind, name, path) in [
        (1, Kind::NetworkPolicy, "api", "spec.ingress[0]"),
        (2, Kind::CiliumNetworkPolicy, "no-web", "spec.egressDeny[0]"),
    ] {
        let rule = RuleRef { object: ObjectRef::new(kind, "shop", name), path: path.into() };
        book.upsert_rule(&RuleRow { id: RuleId(n), rule, allow: n == 1, log: log(n) });
    }
    book
}

/// What the policy `no-web` has to say.
fn log(rule: u32) -> Option<std::sync::Arc<str>> {
    (rule == 2).then(|| "PCI 4.1".into())
}

/// A value for each field of a filter that some of the events match and some do not.
pub(crate) fn full_spec() -> FilterSpec {
    let one = |v: &str| vec![v.to_owned()];
    FilterSpec {
        pod: one("shop/api"),
        from_pod: one("shop/web"),
        to_pod: one("shop/web"),
        namespace: one("ops"),
        from_namespace: one("shop"),
        to_namespace: one("shop"),
        ip: one("203.0.113.0/24"),
        from_ip: one("10.0.1.5"),
        to_ip: one("10.0.1.5"),
        port: one("8000-8080"),
        from_port: one("5000"),
        to_port: one("53"),
        identity: one("world"),
        from_identity: one("world"),
        to_identity: one("301"),
        label: one("app=api"),
        from_label: one("k8s:app in (web, api)"),
        to_label: one("!app"),
        verdict: one("DROPPED"),
        drop_reason_desc: one("POLICY_DENY"),
        protocol: one("icmp"),
        tcp_flags: one("SYN"),
        traffic_direction: one("ingress"),
        policy: one("shop/api"),
        reply: None,
        not: None,
    }
}

/// Rows of the node: `shop/web-1` lets `shop/api-0` in at 8080 and bars the outside on its way out.
#[expect(clippy::too_many_lines, reason = "a small node in one piece")]
pub(crate) fn rows() -> RowSet {
    let mut rows = RowSet::default();
    for (prefix, identity, pod, node) in [
        ("10.0.1.5/32", 300, "shop/web-1", "worker-1"),
        ("10.0.1.6/32", 302, "ops/probe", "worker-1"),
        ("10.0.2.8/32", 301, "shop/api-0", "worker-2"),
        ("0.0.0.0/0", 2, "", ""),
    ] {
        let (identity, peer) = (Identity(identity), PeerClass(identity));
        let row = IpRow {
            prefix: prefix.parse().unwrap(),
            identity,
            peer,
            local_identity: identity,
            local_peer: peer,
            tunnel: None,
            node: node.into(),
            pod: pod.into(),
        };
        rows.ips.insert(row.prefix, row);
        if let Some((namespace, name)) = pod.split_once('/') {
            let labels = Labels::new().with(LabelKey::k8s("app"), name.split('-').next().unwrap());
            rows.identities.insert(identity, IdentityRow { id: identity, labels: labels.clone() });
            let table = TableId(if pod == "shop/web-1" { 0xab } else { 0xcd });
            let endpoint = EndpointRow {
                uid: pod.into(),
                namespace: namespace.into(),
                name: name.into(),
                node: node.into(),
                identity,
                peer,
                table,
                addresses: [].into(),
                pool_v4: "".into(),
                pool_v6: "".into(),
                labels,
                bandwidth: axoneme_model::Bandwidth::default(),
            };
            if node == "worker-1" {
                rows.endpoints.insert(pod.into(), endpoint);
            }
        }
    }
    for (n, kind, name, path, allow) in [
        (2, Kind::CiliumNetworkPolicy, "no-web", "spec.egressDeny[0]", false),
        (5, Kind::NetworkPolicy, "web", "spec", false),
        (6, Kind::NetworkPolicy, "web", "spec.ingress[0]", true),
        (7, Kind::NetworkPolicy, "web", "spec.ingress[1]", true),
    ] {
        let rule = RuleRef { object: ObjectRef::new(kind, "shop", name), path: path.into() };
        rows.rules.insert(RuleId(n), RuleRow { id: RuleId(n), rule, allow, log: log(n) });
    }
    let entry = |direction, peer, port, allow, rule| {
        let bits = if port == 0 { 0 } else { 16 };
        let protocol = (port != 0).then_some(Protocol::TCP);
        let key = PolicyKey { direction, peer: PeerClass(peer), protocol, port, port_bits: bits };
        (key, PolicyEntry { allow, audit: false, rule: RuleId(rule), proxy_port: 0, auth: 0 })
    };
    let open = DirectionDefault { allow: true, audit: false, rule: RuleId(0) };
    let web = TableRow {
        id: TableId(0xab),
        ingress_default: DirectionDefault { allow: false, audit: false, rule: RuleId(5) },
        egress_default: open,
        entries: [entry(Direction::Ingress, 301, 8080, true, 6), entry(Direction::Egress, 2, 0, false, 2)].into(),
        policies: [(ObjectRef::new(Kind::NetworkPolicy, "shop", "web"), 4)].into(),
    };
    let none = TableRow {
        id: TableId(0xcd),
        ingress_default: open,
        egress_default: open,
        entries: [].into(),
        policies: [].into(),
    };
    rows.tables = [(web.id, web), (none.id, none)].into();
    rows
}
