//! Joins a record's ids with names.
//!
//! *Guarantees*: what flows have in common they share: the texts of an end, a rule, a policy or a service are made once
//! ([`NameBook`]), and a flow is made without an allocation of its own.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use axoneme_model::rows::RuleId;

use crate::{
    flow::{
        Counters, EventType, Extension, Flow, FlowType, Interface, Ip, IpVersion, Layer4, Policies, RuleHit,
        TrafficDirection, Tunnel, TunnelProtocol,
    },
    id::FlowId,
    names::{NameBook, ShownRule},
    reason::DropReason,
    record::{Event, Origin, Point, Record, Verdict},
    summary::Summary,
};

/// Makes flows of records. Cheap to keep, holds no names itself.
#[derive(Clone, Debug)]
pub struct Enricher {
    node: Arc<str>,
    cluster: Arc<str>,
    /// Sets the flows of this process apart from those of all others.
    instance: u64,
}

impl Enricher {
    /// For records of `node` in `cluster` (may be empty). `instance` differs for each start of the process: the time of
    /// start in nanoseconds will do.
    #[must_use]
    pub fn new(node: &str, cluster: &str, instance: u64) -> Self {
        Self { node: node.into(), cluster: cluster.into(), instance: instance ^ fnv1a(node.as_bytes()) }
    }

    #[must_use]
    pub const fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// As it was given; names may know better.
    #[must_use]
    pub const fn cluster(&self) -> &Arc<str> {
        &self.cluster
    }

    /// The flow of the record with that sequence number. Total: what has no name stays a number.
    #[must_use]
    pub fn flow(&self, sequence: u64, r: &Record, names: &NameBook) -> Flow {
        let dropped = matches!(r.verdict, Verdict::Dropped | Verdict::Error);
        let (source, destination) = r.ends.unzip();
        let (source_end, source_node) = names.end(source, r.source_identity, r.time, &self.cluster);
        let (destination_end, destination_node) = names.end(destination, r.destination_identity, r.time, &self.cluster);
        let (source_port, destination_port) = r.transport.ports().unzip();
        let service = |address: Option<IpAddr>, port: Option<u16>| {
            names.service(address?, r.transport.protocol(), port?).cloned()
        };
        let (rule, shown) = hit(r, names).unzip();
        let (mut policies, policy_log) = shown.map(|s| (s.policies.clone(), s.log.clone())).unwrap_or_default();
        let mut decided = |direction, allow| match &rule {
            Some(rule) if rule.direction == direction && rule.allow == allow => std::mem::take(&mut policies),
            _ => Policies::default(),
        };
        let (socket_cookie, cgroup_id, tunnel) = sender(r.origin, || names.tunnel(r.ifindex));
        Flow {
            time: r.time,
            uuid: self.uuid(sequence),
            verdict: r.verdict,
            drop_reason: if dropped { u32::from(r.reason.0) } else { 0 },
            ip: r.ends.map(|(source, destination)| Ip {
                source,
                destination,
                version: if source.is_ipv4() { IpVersion::IPv4 } else { IpVersion::IPv6 },
            }),
            l4: r.ends.and_then(|_| Layer4::of(r.transport)),
            source: source_end,
            destination: destination_end,
            flow_type: FlowType::L3L4,
            node_name: self.node.clone(),
            event_type: EventType::of(r),
            source_service: service(source, source_port),
            destination_service: service(destination, destination_port),
            traffic_direction: r.direction.map(Into::into),
            trace_observation_point: (r.event != Event::Drop && r.point != Point::UnknownPoint).then_some(r.point),
            drop_reason_desc: (dropped && r.reason != DropReason::UNKNOWN).then_some(r.reason),
            is_reply: r.reply,
            interface: (r.ifindex != 0)
                .then(|| Interface { index: r.ifindex, name: names.interface(r.ifindex).cloned().unwrap_or_default() }),
            socket_cookie,
            cgroup_id,
            tunnel,
            summary: if r.ends.is_some() { Summary::Of(r.transport) } else { Summary::NoHeader },
            egress_allowed_by: decided(TrafficDirection::Egress, true),
            ingress_allowed_by: decided(TrafficDirection::Ingress, true),
            egress_denied_by: decided(TrafficDirection::Egress, false),
            ingress_denied_by: decided(TrafficDirection::Ingress, false),
            policy_log,
            extensions: extension(r, rule, source_node, destination_node),
        }
    }

    const fn uuid(&self, sequence: u64) -> FlowId {
        FlowId::new(self.instance, sequence)
    }
}

/// Cookie and cgroup of the socket that sent the packet, or the tunnel that it came by.
fn sender(origin: Origin, protocol: impl FnOnce() -> TunnelProtocol) -> (u64, u64, Option<Tunnel>) {
    match origin {
        Origin::Unknown => (0, 0, None),
        Origin::Socket { cookie, cgroup } => (cookie, cgroup, None),
        Origin::Tunnel { id } => (0, 0, Some(Tunnel { protocol: protocol(), vni: id })),
    }
}

/// FNV-1a: stable over builds, unlike the standard hasher's promise.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// The rule that decided, if one did and it has a name. A connection between two pods of a node is judged for both, and
/// the record names the last to judge: the rule's own path tells whose it was.
fn hit<'a>(r: &Record, names: &'a NameBook) -> Option<(RuleHit, &'a ShownRule)> {
    let shown = (r.rule != RuleId::default()).then(|| names.rule(r.rule)).flatten()?;
    let direction = shown.direction.or(r.direction.map(Into::into))?;
    let allow = !matches!(r.verdict, Verdict::Dropped | Verdict::Error | Verdict::Audit);
    Some((RuleHit { direction, rule: shown.rule.clone(), allow }, shown))
}

fn extension(r: &Record, rule: Option<RuleHit>, source_node: Arc<str>, destination_node: Arc<str>) -> Extension {
    let closed = r.event == Event::Closed;
    Extension {
        type_url: Cow::Borrowed(Extension::TYPE),
        event: r.event,
        protocol: r.transport.protocol().0,
        length: r.length,
        forward: closed.then_some(Counters { packets: r.forward.packets, bytes: r.forward.bytes }),
        backward: closed.then_some(Counters { packets: r.backward.packets, bytes: r.backward.bytes }),
        rule,
        onward: (r.onward != Point::UnknownPoint).then_some(r.onward),
        source_node,
        destination_node,
    }
}

#[cfg(test)]
mod tests {
    use axoneme_model::{Direction, Identity, Protocol};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        record::{TcpFlags, Traffic, Transport},
        testing,
        time::Time,
    };

    fn enricher() -> Enricher {
        Enricher::new("n1", "prod", 42)
    }

    fn dropped() -> Record {
        Record {
            time: Time(1_795_269_600_123_000_000),
            event: Event::Drop,
            verdict: Verdict::Dropped,
            reason: DropReason::POLICY_DENY,
            direction: Some(Direction::Egress),
            reply: None,
            point: Point::FromEndpoint,
            onward: Point::UnknownPoint,
            ends: Some(("10.0.0.3".parse().unwrap(), "10.0.0.2".parse().unwrap())),
            transport: Transport::Tcp { source: 40_000, destination: 80, flags: TcpFlags(2) },
            source_identity: Identity(6),
            destination_identity: Identity::UNKNOWN,
            rule: RuleId(2),
            ifindex: 2,
            length: 74,
            origin: Origin::Socket { cookie: u64::MAX, cgroup: 4711 },
            forward: Traffic::default(),
            backward: Traffic::default(),
        }
    }

    fn json(record: &Record) -> serde_json::Value {
        serde_json::to_value(enricher().flow(7, record, &testing::names())).unwrap()
    }

    #[test]
    fn a_drop_reads_as_hubble_writes_it() {
        assert_eq!(
            json(&dropped()),
            json!({
                "time": "2026-11-21T14:00:00.123Z",
                "uuid": enricher().uuid(7),
                "verdict": "DROPPED",
                "drop_reason": 181,
                "IP": {"source": "10.0.0.3", "destination": "10.0.0.2", "ipVersion": "IPv4"},
                "l4": {"TCP": {"source_port": 40000, "destination_port": 80, "flags": {"SYN": true}}},
                "source": {
                    "identity": 6, "cluster_name": "prod", "namespace": "shop",
                    "labels": ["k8s:app=web", "cni:tier=front"], "pod_name": "web-3",
                },
                "destination": {},
                "Type": "L3_L4",
                "node_name": "n1",
                "event_type": {"type": 1, "sub_type": 181},
                "destination_service": {"name": "front", "namespace": "shop"},
                "traffic_direction": "EGRESS",
                "drop_reason_desc": "POLICY_DENY",
                "interface": {"index": 2, "name": "axo2"},
                "socket_cookie": "18446744073709551615",
                "cgroup_id": "4711",
                "Summary": "TCP Flags: SYN",
                "egress_denied_by": [{"name": "p2", "namespace": "shop", "kind": "CiliumNetworkPolicy"}],
                "policy_log": ["log 2"],
                "extensions": {
                    "@type": "type.googleapis.com/axoneme.flow.v1.Detail",
                    "event": "DROP", "protocol": 6, "length": 74, "source_node": "n1",
                    "rule": {
                        "direction": "EGRESS", "kind": "CiliumNetworkPolicy", "namespace": "shop", "name": "p2",
                        "path": "specs[1].egressDeny[0]", "allow": false,
                    },
                },
            })
        );
    }

    #[test]
    fn a_close_carries_counters_as_text_and_the_rule_tells_whose_it_was() {
        let record = Record {
            event: Event::Closed,
            verdict: Verdict::Forwarded,
            reason: DropReason::UNKNOWN,
            reply: Some(false),
            rule: RuleId(1),
            length: 0,
            origin: Origin::Unknown,
            forward: Traffic { packets: 10, bytes: u64::MAX },
            ..dropped()
        };
        let flow = json(&record);
        assert_eq!(flow["extensions"]["forward"], json!({"packets": "10", "bytes": "18446744073709551615"}));
        // seen on the sender's way out, decided by the receiver's rule
        assert_eq!(flow["traffic_direction"], "EGRESS");
        assert_eq!(flow["ingress_allowed_by"][0]["name"], "p1");
        assert_eq!(flow["policy_log"], json!(["log 1"]));
        assert_eq!((&flow["egress_allowed_by"], &flow["drop_reason_desc"]), (&json!(null), &json!(null)));
        assert_eq!(flow["trace_observation_point"], "FROM_ENDPOINT");
        assert_eq!(flow["event_type"], json!({"type": 4, "sub_type": 5}));
        assert_eq!(flow["is_reply"], false);
    }

    #[test]
    fn what_came_by_the_overlay_tells_its_tunnel() {
        let flow = json(&Record { origin: Origin::Tunnel { id: 1234 }, ..dropped() });
        assert_eq!(flow["tunnel"], json!({"protocol": "VXLAN", "vni": 1234}));
        assert!(flow.get("socket_cookie").is_none() && flow.get("cgroup_id").is_none());
        let mut names = testing::names();
        names.upsert_tunnel(91, TunnelProtocol::Geneve);
        for (ifindex, protocol) in [(91, "GENEVE"), (92, "VXLAN")] {
            let record = Record { origin: Origin::Tunnel { id: 7 }, ifindex, ..dropped() };
            let flow = serde_json::to_value(Enricher::new("n1", "", 0).flow(0, &record, &names)).unwrap();
            assert_eq!(flow["tunnel"], json!({"protocol": protocol, "vni": 7}));
        }
        let flow = json(&Record { origin: Origin::Unknown, ..dropped() });
        assert!(flow.get("tunnel").is_none() && flow.get("socket_cookie").is_none());
    }

    #[test]
    fn unknown_ids_stay_numbers() {
        let record = Record {
            ends: Some(("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap())),
            source_identity: Identity(70_000),
            destination_identity: Identity::WORLD,
            rule: RuleId(99),
            ifindex: 9,
            ..dropped()
        };
        let flow = json(&record);
        assert_eq!(flow["source"], json!({"identity": 70000}));
        assert_eq!(flow["destination"]["identity"], 2);
        assert_eq!(flow["interface"], json!({"index": 9}));
        assert!(flow.get("egress_denied_by").is_none() && flow.get("policy_log").is_none());
        assert!(flow["extensions"].get("rule").is_none());
    }

    #[test]
    fn a_packet_without_an_ip_header_has_no_addresses_and_no_ports() {
        let flow = json(&Record { ends: None, ..dropped() });
        assert!(flow.get("IP").is_none() && flow.get("l4").is_none());
        assert_eq!(flow["Summary"], "no IP header");
    }

    #[test]
    fn summaries_read_as_hubbles() {
        for (protocol, a, b, flags, expected) in [
            (6, 1, 2, 0x12, "TCP Flags: SYN, ACK"),
            (6, 1, 2, 0, "TCP"),
            (17, 1, 2, 0, "UDP"),
            (132, 1, 2, 0, "SCTP"),
            (1, 8, 0, 0, "ICMPv4 EchoRequest"),
            (1, 3, 4, 0, "ICMPv4 DestinationUnreachable code 4"),
            (58, 128, 0, 0, "ICMPv6 EchoRequest"),
            (58, 200, 1, 0, "ICMPv6 type 200 code 1"),
            (112, 0, 0, 0, "VRRP"),
        ] {
            assert_eq!(Summary::Of(Transport::new(Protocol(protocol), a, b, flags)).to_string(), expected);
        }
    }

    #[test]
    fn uuids_differ_by_record_node_and_start() {
        let of = |node: &str, start, n| Enricher::new(node, "", start).uuid(n);
        let all = [of("n1", 1, 0), of("n1", 1, 1), of("n1", 2, 0), of("n2", 1, 0)];
        assert!(all.iter().enumerate().all(|(i, a)| all.iter().skip(i + 1).all(|b| a != b)));
        let u = of("n1", u64::MAX, u64::MAX).to_string();
        assert_eq!(u.len(), 36);
        assert_eq!((u.as_bytes()[14], u.as_bytes()[19]), (b'8', b'b'), "version 8, variant 10xx");
    }

    proptest! {
        #[test]
        fn flows_survive_json(record in testing::arbitrary_record()) {
            let flow = enricher().flow(3, &record, &testing::names());
            let text = serde_json::to_string(&flow).unwrap();
            prop_assert_eq!(serde_json::from_str::<Flow>(&text).unwrap(), flow);
        }
    }
}
