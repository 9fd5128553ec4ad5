use std::collections::{BTreeMap, BTreeSet};

use axoneme_model::{
    Direction, Identity, PeerClass, RuleRef, Safe,
    rows::{
        AgentRow, Backend, BlockUse, ConntrackTimes, DenyResponse, DirectRow, DirectionDefault, Edges, EndpointRow,
        Frontend, GuardRow, HealthRow, IdentityRow, IpRow, NodeConfigRow, NodeRow, OverrideRow, PodDevice, PolicyEntry,
        PolicyKey, Routing, RuleId, RuleRow, ServiceRow, TableId, TableRow, Tunnel, TunnelProtocol,
    },
};
use proptest::{collection as many, option, prelude::*};
use prost::Message;

use super::*;
use crate::{
    change::{Row, RowChange, TablePatch},
    message::{EndpointReport, Hello, Nack, NodeEvent, NodeMessage, NodeReport, Proof, Resume},
};

pub(crate) fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-z][a-z0-9.-]{0,12}".prop_map(Into::into)
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn cidr() -> impl Strategy<Value = Cidr> {
    (ip(), any::<u8>()).prop_map(|(ip, bits)| {
        let max = if ip.is_ipv4() { 32 } else { 128 };
        Cidr::new(ip, bits % (max + 1)).unwrap()
    })
}

fn object() -> impl Strategy<Value = ObjectRef> {
    let kind = prop_oneof![Just(Kind::NetworkPolicy), Just(Kind::CiliumNetworkPolicy), Just(Kind::Builtin)];
    (kind, text(), text()).prop_map(|(kind, namespace, name)| ObjectRef { kind, namespace, name })
}

fn some_labels() -> impl Strategy<Value = Labels> {
    let source =
        prop_oneof![Just(Source::Any), Just(Source::K8s), Just(Source::Reserved), Just(Source::Other("cni".into()))];
    let label = (source, text(), text()).prop_map(|(source, name, value)| (LabelKey { source, name }, value));
    many::vec(label, 0..4).prop_map(|l| l.into_iter().collect())
}

fn key() -> impl Strategy<Value = PolicyKey> {
    let direction = prop_oneof![Just(Direction::Ingress), Just(Direction::Egress)];
    let protocol = option::of(any::<u8>().prop_map(Protocol));
    (direction, any::<u32>(), protocol, any::<u16>(), 0..=16u8).prop_map(
        |(direction, peer, protocol, port, port_bits)| PolicyKey {
            direction,
            peer: PeerClass(peer),
            protocol,
            port,
            port_bits,
        },
    )
}

fn entry() -> impl Strategy<Value = PolicyEntry> {
    let verdict = (any::<bool>(), any::<bool>());
    (verdict, 0..9u32, any::<u16>(), any::<u8>()).prop_map(|((allow, audit), rule, proxy_port, auth)| PolicyEntry {
        allow,
        audit,
        rule: RuleId(rule),
        proxy_port,
        auth,
    })
}

fn default() -> impl Strategy<Value = DirectionDefault> {
    (any::<bool>(), any::<bool>(), 0..9u32).prop_map(|(allow, audit, rule)| DirectionDefault {
        allow,
        audit,
        rule: RuleId(rule),
    })
}

fn policies() -> impl Strategy<Value = BTreeMap<ObjectRef, i64>> {
    many::btree_map(object(), any::<i64>(), 0..4)
}

pub(crate) fn table(id: impl Strategy<Value = u64>) -> impl Strategy<Value = TableRow> {
    (id, default(), default(), many::btree_map(key(), entry(), 0..6), policies()).prop_map(
        |(id, ingress_default, egress_default, entries, policies)| TableRow {
            id: TableId(id),
            ingress_default,
            egress_default,
            entries,
            policies,
        },
    )
}

pub(crate) fn patch(id: impl Strategy<Value = u64>) -> impl Strategy<Value = TablePatch> {
    let removals = many::btree_set(key(), 0..4);
    (id, option::of(default()), many::btree_map(key(), entry(), 0..6), removals, option::of(policies())).prop_map(
        |(id, d, upserts, removals, policies)| TablePatch {
            id: TableId(id),
            ingress_default: d,
            egress_default: d,
            // a key is either put or removed
            removals: removals.into_iter().filter(|k| !upserts.contains_key(k)).collect(),
            upserts,
            policies,
        },
    )
}

pub(crate) fn guard() -> GuardRow {
    GuardRow { table: TableId(1), unprotected: BTreeSet::new(), overlay_port: 1, apiserver: BTreeSet::new() }
}

pub(crate) fn config(name: impl Strategy<Value = Arc<str>>) -> impl Strategy<Value = NodeConfigRow> {
    let routing = prop_oneof![
        any::<u16>().prop_map(|port| Routing::Vxlan { port }),
        any::<u16>().prop_map(|port| Routing::Geneve { port }),
        any::<bool>().prop_map(|auto_direct_node_routes| Routing::Native { auto_direct_node_routes })
    ];
    let cidrs = || many::vec(cidr(), 0..3);
    (name, routing, many::btree_map(text(), cidrs(), 0..3), cidrs(), any::<[bool; 7]>(), any::<[u32; 2]>(), text())
        .prop_map(|(node, routing, pools, list, b, n, device)| NodeConfigRow {
            node,
            cluster_name: "c".into(),
            ipv4: b[0],
            ipv6: b[1],
            pools,
            routing,
            mtu: n[0],
            masquerade_v4: b[2],
            masquerade_v6: b[3],
            masquerade_exclude: list.clone(),
            cluster_cidrs: list.clone(),
            services: b[4],
            socket_lb: b[5],
            always_allow_own_host: b[6],
            deny_response: if b[5] { DenyResponse::Icmp } else { DenyResponse::None },
            conntrack_entries: n[1],
            conntrack_times: ConntrackTimes { tcp_opening: n[0], udp: n[1], ..ConntrackTimes::default() },
            socket_lb_host_only: b[0] ^ b[6],
            agent: AgentRow {
                log_level: device.clone(),
                flow_buffer: n[1],
                drop_events: n[0],
                cni_exclusive: b[1],
                cni_chained: vec![device.clone()],
            },
            blocks: BlockUse {
                version: u64::from(n[0]) << 20,
                releasing: list.iter().copied().collect(),
                edges: [(device.clone(), Edges::Pool { allow_first: b[0], allow_last: b[1] })].into(),
                unmasqueraded: [device.clone()].into(),
            },
            guard: b[2].then(|| GuardRow {
                table: TableId(u64::from(n[0]) << 16),
                unprotected: Safe::ALL.into_iter().filter(|s| n[1] & s.bit() != 0).collect(),
                overlay_port: n[1] as u16,
                apiserver: ["10.0.0.1", "fd00::1"].map(|a| a.parse().unwrap()).into(),
            }),
            health: b[3].then_some(HealthRow { interval_seconds: n[0], endpoints: b[4] }),
            direct: b[5].then(|| DirectRow { subnets: list.clone() }),
            also: b[6].then_some(Tunnel {
                protocol: if b[4] { TunnelProtocol::Geneve } else { TunnelProtocol::Vxlan },
                port: n[0] as u16,
            }),
            pod_device: if b[1] { PodDevice::Netkit } else { PodDevice::Veth },
            overrides: vec![OverrideRow {
                setting: "spec.mtu".into(),
                value: device.clone(),
                cluster: "".into(),
                from: device.clone(),
            }],
            devices: vec![device],
        })
}

fn service() -> impl Strategy<Value = ServiceRow> {
    let backend = (ip(), any::<u16>(), any::<bool>(), text()).prop_map(|(address, port, terminating, node)| Backend {
        address,
        port,
        terminating,
        node,
    });
    let frontend =
        (ip(), any::<u8>(), any::<u16>(), many::vec(backend, 0..3)).prop_map(|(address, protocol, port, backends)| {
            Frontend { address, protocol: Protocol(protocol), port, backends }
        });
    (text(), text(), many::vec(frontend, 0..3), option::of(any::<u32>()), any::<bool>()).prop_map(
        |(namespace, name, frontends, affinity_seconds, internal_local)| ServiceRow {
            namespace,
            name,
            frontends,
            affinity_seconds,
            internal_local,
        },
    )
}

fn ip_row() -> impl Strategy<Value = IpRow> {
    (cidr(), any::<[u32; 4]>(), any::<bool>(), option::of(ip()), text(), text()).prop_map(
        |(prefix, n, same, tunnel, node, pod)| IpRow {
            prefix,
            identity: Identity(n[0]),
            peer: PeerClass(n[1]),
            local_identity: Identity(n[if same { 0 } else { 2 }]),
            local_peer: PeerClass(n[if same { 1 } else { 3 }]),
            tunnel,
            node,
            pod,
        },
    )
}

pub(crate) fn endpoint(
    uid: impl Strategy<Value = Arc<str>>,
    node: impl Strategy<Value = Arc<str>>,
    table: impl Strategy<Value = u64>,
) -> impl Strategy<Value = EndpointRow> {
    (uid, node, table, many::btree_set(ip(), 0..3), some_labels(), text(), any::<[u32; 2]>(), any::<[u64; 2]>())
        .prop_map(|(uid, node, table, addresses, labels, pool, n, [ingress, egress])| EndpointRow {
            uid,
            namespace: "ns".into(),
            name: "pod".into(),
            node,
            identity: Identity(n[0]),
            peer: PeerClass(n[1]),
            table: TableId(table),
            addresses,
            pool_v4: pool.clone(),
            pool_v6: pool,
            labels,
            bandwidth: axoneme_model::Bandwidth { ingress, egress },
        })
}

pub(crate) fn rule(id: impl Strategy<Value = u32>) -> impl Strategy<Value = RuleRow> {
    // an empty text is none
    let log = text().prop_map(|t| Some(t).filter(|t| !t.is_empty()));
    (id, object(), text(), any::<bool>(), log).prop_map(|(id, object, path, allow, log)| RuleRow {
        id: RuleId(id),
        rule: RuleRef { object, path },
        allow,
        log,
    })
}

fn row() -> impl Strategy<Value = Row> {
    let node = (text(), many::vec(ip(), 0..3), many::vec(cidr(), 0..3));
    let identity = (any::<u32>(), some_labels());
    prop_oneof![
        config(text()).prop_map(|r| Row::Config(Arc::new(r))),
        node.prop_map(|(name, addresses, pod_cidrs)| Row::Node(NodeRow { name, addresses, pod_cidrs })),
        identity.prop_map(|(id, labels)| Row::Identity(IdentityRow { id: Identity(id), labels })),
        rule(any::<u32>()).prop_map(Row::Rule),
        table(any::<u64>()).prop_map(|t| Row::Table(Arc::new(t))),
        service().prop_map(Row::Service),
        ip_row().prop_map(|r| Row::Ip(r.into())),
        endpoint(text(), text(), any::<u64>()).prop_map(|r| Row::Endpoint(r.into())),
    ]
}

pub(crate) fn change() -> impl Strategy<Value = RowChange> {
    prop_oneof![
        row().prop_map(RowChange::Upsert),
        row().prop_map(|r| RowChange::Remove(r.key())),
        patch(any::<u64>()).prop_map(RowChange::Patch),
    ]
}

fn node_message() -> impl Strategy<Value = NodeMessage> {
    let resume = option::of((any::<u64>(), any::<u64>()));
    let hello = (text(), text(), any::<u32>(), resume).prop_map(|(node, version, protocol, resume)| Hello {
        node,
        agent_version: version.to_string(),
        protocol,
        resume: resume.map(|(epoch, revision)| Resume { epoch, revision }),
    });
    let nack = (any::<u64>(), option::of(row()), text()).prop_map(|(revision, row, reason)| Nack {
        revision,
        key: row.map(|r| r.key()),
        reason: reason.to_string(),
    });
    let ips = || many::btree_set(ip(), 0..3);
    let endpoint = (text(), text(), ips(), any::<[bool; 2]>(), any::<u32>(), any::<u64>()).prop_map(
        |(uid, name, addresses, b, identity, table)| EndpointReport {
            uid,
            namespace: name.clone(),
            container_id: name.clone(),
            name,
            addresses,
            ready: b[0],
            identity: Identity(identity),
            table: TableId(table),
            removed: b[1],
        },
    );
    let released = many::btree_set(cidr(), 0..3);
    let node = (any::<bool>(), text(), ips(), released).prop_map(|(ready, text, addresses, released)| NodeReport {
        ready,
        reasons: vec![text.to_string()],
        addresses: addresses.into_iter().collect(),
        capabilities: BTreeMap::from([(text.to_string(), "yes".to_owned())]),
        blocks_version: released.len() as u64,
        proof: match released.len() {
            0 if ready => Proof::Proven,
            0 => Proof::Unasked,
            1 => Proof::Pending,
            _ => Proof::Refuted(text.to_string()),
        },
        released,
    });
    let event = (any::<bool>(), text(), option::of(object())).prop_map(|(warning, reason, object)| NodeEvent {
        warning,
        message: reason.to_string(),
        reason: reason.to_string(),
        object,
    });
    prop_oneof![
        hello.prop_map(NodeMessage::Hello),
        any::<u64>().prop_map(NodeMessage::Ack),
        nack.prop_map(NodeMessage::Nack),
        endpoint.prop_map(NodeMessage::Endpoint),
        node.prop_map(NodeMessage::Node),
        event.prop_map(NodeMessage::Event),
    ]
}

proptest! {
    #[test]
    fn a_change_survives_the_wire(c in change()) {
        let bytes = c.to_message().encode_to_vec();
        let back = RowChange::from_message(pb::Change::decode(&bytes[..]).unwrap()).unwrap();
        prop_assert_eq!(back, c);
    }

    #[test]
    fn a_node_message_survives_the_wire(m in node_message()) {
        let bytes = m.to_message().encode_to_vec();
        let back = NodeMessage::from_message(pb::NodeMessage::decode(&bytes[..]).unwrap()).unwrap();
        prop_assert_eq!(back, m);
    }

    /// Damaged bytes are an error or another message, never a panic.
    #[test]
    fn damaged_bytes_never_panic(c in change(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = c.to_message().encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(m) = pb::Change::decode(&bytes[..]) {
            let _ = RowChange::from_message(m);
        }
    }

    #[test]
    fn a_patch_between_two_tables_makes_one_of_the_other(a in table(Just(1)), b in table(Just(1))) {
        let p = TablePatch::between(&a, &b);
        let mut t = a.clone();
        p.apply_to(&mut t);
        prop_assert_eq!(&t, &b);
        prop_assert_eq!(p.is_empty(), a == b);
    }

    #[test]
    fn joined_patches_do_what_both_do(t in table(Just(1)), a in patch(Just(1)), b in patch(Just(1))) {
        let (mut one, mut two) = (t.clone(), t);
        a.apply_to(&mut two);
        b.apply_to(&mut two);
        a.then(&b).apply_to(&mut one);
        prop_assert_eq!(one, two);
    }
}

fn rejected(change: pb::change::Change) -> String {
    RowChange::from_message(pb::Change { change: Some(change) }).unwrap_err().to_string()
}

#[test]
fn an_error_names_the_field() {
    use pb::change::Change::{Remove, Upsert};
    let ip = pb::Ip { prefix: Some(pb::Prefix { address: vec![10, 0, 0], bits: 24 }), ..Default::default() };
    let row = pb::Row { row: Some(pb::row::Row::Ip(ip)) };
    assert_eq!(rejected(Upsert(row)), "upsert.ip.prefix.address: an address has 4 or 16 bytes, not 3");

    let key = pb::TableKey { port: 70000, ..Default::default() };
    let entries = vec![pb::TableEntry::default(), pb::TableEntry { key: Some(key), ..Default::default() }];
    let default = Some(pb::DirectionDefault::default());
    let mut table = pb::Table { id: 1, ingress_default: default, egress_default: default, entries, policies: vec![] };
    let upsert = |t: &pb::Table| Upsert(pb::Row { row: Some(pb::row::Row::Table(t.clone())) });
    assert_eq!(rejected(upsert(&table)), "upsert.table.entries[0].key: missing");
    table.entries.remove(0);
    assert_eq!(rejected(upsert(&table)), "upsert.table.entries[0].key.port: 70000 does not fit 16 bits");

    let node = pb::Node { name: "n".into(), addresses: vec![vec![1, 2, 3, 4], vec![]], pod_cidrs: vec![] };
    let row = pb::Row { row: Some(pb::row::Row::Node(node)) };
    assert_eq!(rejected(Upsert(row)), "upsert.node.addresses[1]: an address has 4 or 16 bytes, not 0");
    assert_eq!(rejected(Remove(pb::RowKey { key: None })), "remove.key: missing");
}

#[test]
fn all_labels_of_a_set_are_kept() {
    let keys: BTreeSet<_> =
        labels(label_messages(&Identity::HOST.reserved_labels().unwrap())).to_strings().into_iter().collect();
    assert_eq!(keys, BTreeSet::from(["reserved:host".to_owned()]));
}
