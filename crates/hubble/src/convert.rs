//! A flow in Hubble's protobuf.
//!
//! One record of the kernel tells up to three flows ([`Facet`]): how policy judged a connection's first packet
//! (`policy-verdict`), the packet itself where it was met (`trace` or `drop`), and where it went on to (`trace`). A client that asks for one kind of event filters by
//! `event_type`, as it does with Cilium.

use axoneme_flow::{
    Facet, Flow, FlowId, Point, TcpFlags, Time, Verdict,
    flow::{
        Counters, Endpoint, EventType, Interface, IpVersion, Layer4, PolicyRef, Service, TrafficDirection, Tunnel,
        TunnelProtocol, Workload,
    },
};

use crate::pb::flow as pb;

/// `MessageTypePolicyVerdict` of Cilium's monitor API.
pub const POLICY_VERDICT: i32 = 5;
/// `MessageTypeAccessLog`: what proxies tell.
pub const ACCESS_LOG: i32 = 129;

/// Kinds of match in `policy_match_type` (Cilium's monitor API, `PolicyMatch*`).
mod matched {
    pub(super) const NONE: u32 = 0;
    pub(super) const PEER: u32 = 1;
    pub(super) const PEER_AND_PORT: u32 = 2;
    /// No policy is enforced, or one allows everything.
    pub(super) const ALL: u32 = 4;
}

/// What a client of the API is shown of one facet of a flow. `cluster` may be empty; `details` adds what the API has no
/// field for as `extensions` (a `google.protobuf.Struct`).
#[must_use]
pub fn flow(flow: &Flow, facet: Facet, cluster: &str, details: bool) -> pb::Flow {
    let judged = facet == Facet::Judgement;
    let extensions = details.then(|| crate::details::any(&flow.extensions));
    let match_type = if judged { match_type(flow) } else { 0 };
    let direction = direction(flow, facet);
    let is_reply = is_reply(flow.is_reply, flow.verdict, facet);
    let verdict = verdict(flow.verdict, facet);
    let event_type = event_type(flow.event_type, flow.extensions.onward, facet);
    pb::Flow {
        time: Some(timestamp(flow.time)),
        uuid: uuid(flow, facet).to_string(),
        emitter: Some(pb::Emitter { name: "Axoneme".into(), version: env!("CARGO_PKG_VERSION").into() }),
        verdict: verdict.into(),
        drop_reason: flow.drop_reason,
        drop_reason_desc: i32::try_from(flow.drop_reason).unwrap_or_default(),
        ip: flow.ip.as_ref().map(|ip| pb::Ip {
            source: ip.source.to_string(),
            destination: ip.destination.to_string(),
            ip_version: ip_version(ip.version).into(),
            ..pb::Ip::default()
        }),
        l4: flow.l4.map(layer4),
        source: Some(endpoint(&flow.source)),
        destination: Some(endpoint(&flow.destination)),
        r#type: pb::FlowType::L3L4.into(),
        node_name: node_name(cluster, &flow.node_name),
        reply: is_reply.unwrap_or_default(),
        is_reply,
        event_type: Some(event_type),
        source_service: flow.source_service.as_deref().map(service),
        destination_service: flow.destination_service.as_deref().map(service),
        traffic_direction: direction.into(),
        policy_match_type: match_type,
        trace_observation_point: observed(flow, facet).map_or(0, point),
        trace_reason: if judged { 0 } else { trace_reason(flow.extensions.event).into() },
        interface: interface(flow, facet).map(|i| pb::NetworkInterface { index: i.index, name: i.name.to_string() }),
        socket_cookie: flow.socket_cookie,
        cgroup_id: flow.cgroup_id,
        tunnel: came_by(flow, facet).map(|t| pb::Tunnel {
            protocol: tunnel(t).into(),
            vni: t.vni,
            ..pb::Tunnel::default()
        }),
        summary: flow.summary.to_string(),
        egress_allowed_by: policies(&flow.egress_allowed_by),
        ingress_allowed_by: policies(&flow.ingress_allowed_by),
        egress_denied_by: policies(&flow.egress_denied_by),
        ingress_denied_by: policies(&flow.ingress_denied_by),
        policy_log: flow.policy_log.iter().map(ToString::to_string).collect(),
        extensions,
        ..pb::Flow::default()
    }
}

/// A point in time as protobuf has it.
#[must_use]
pub fn timestamp(time: Time) -> prost_types::Timestamp {
    let (seconds, nanos) = (time.0 / 1_000_000_000, time.0 % 1_000_000_000);
    prost_types::Timestamp { seconds: seconds.cast_signed(), nanos: i32::try_from(nanos).unwrap_or_default() }
}

/// Back again; before 1970 counts as 1970. None: no valid timestamp.
#[must_use]
pub fn time(timestamp: &prost_types::Timestamp) -> Option<Time> {
    let nanos = u64::try_from(timestamp.nanos).ok().filter(|n| *n < 1_000_000_000)?;
    // years 1 to 9999, as protobuf documents
    if !(-62_135_596_800..=253_402_300_799).contains(&timestamp.seconds) {
        return None;
    }
    let seconds = u64::try_from(timestamp.seconds).unwrap_or_default();
    Some(Time(seconds.saturating_mul(1_000_000_000).saturating_add(nanos)))
}

/// `cluster/node`, or the bare node where the cluster has no name.
#[must_use]
pub fn node_name(cluster: &str, node: &str) -> String {
    if cluster.is_empty() { node.to_owned() } else { format!("{cluster}/{node}") }
}

/// Each of the flows of one record has an id of its own.
pub(crate) fn uuid(flow: &Flow, facet: Facet) -> FlowId {
    match facet {
        Facet::Judgement => flow.uuid.twin(),
        Facet::Packet => flow.uuid,
        Facet::Onward => flow.uuid.onward(),
    }
}

/// Where the packet is seen that the flow is of; a judgement is of no place.
pub(crate) fn observed(flow: &Flow, facet: Facet) -> Option<Point> {
    match facet {
        Facet::Judgement => None,
        Facet::Packet => flow.trace_observation_point,
        Facet::Onward => flow.extensions.onward,
    }
}

/// The device that the packet was met on. By which it went on is not told.
pub(crate) fn interface(flow: &Flow, facet: Facet) -> Option<&Interface> {
    flow.interface.as_ref().filter(|_| facet != Facet::Onward)
}

/// The tunnel that the packet was met out of; where it goes on it has no tunnel's header any more, or none yet.
pub(crate) fn came_by(flow: &Flow, facet: Facet) -> Option<Tunnel> {
    flow.tunnel.filter(|_| facet != Facet::Onward)
}

/// What policy let pass is a connection's first packet.
pub(crate) fn is_reply(known: Option<bool>, verdict: Verdict, facet: Facet) -> Option<bool> {
    if facet == Facet::Judgement && verdict == Verdict::Forwarded { Some(false) } else { known }
}

/// What became of the packet: in audit mode policy would have dropped it, but it went on.
pub(crate) fn verdict(verdict: Verdict, facet: Facet) -> pb::Verdict {
    match (verdict, facet) {
        (Verdict::Audit, Facet::Packet | Facet::Onward) | (Verdict::Forwarded, _) => pb::Verdict::Forwarded,
        (Verdict::Audit, Facet::Judgement) => pb::Verdict::Audit,
        (Verdict::Unknown, _) => pb::Verdict::Unknown,
        (Verdict::Dropped, _) => pb::Verdict::Dropped,
        (Verdict::Error, _) => pb::Verdict::Error,
        (Verdict::Redirected, _) => pb::Verdict::Redirected,
        (Verdict::Traced, _) => pb::Verdict::Traced,
        (Verdict::Translated, _) => pb::Verdict::Translated,
    }
}

/// `onward` as in [`axoneme_flow::flow::Extension`].
pub(crate) fn event_type(event: EventType, onward: Option<Point>, facet: Facet) -> pb::CiliumEventType {
    let event = match (facet, onward) {
        (Facet::Onward, Some(point)) => EventType::trace(point),
        _ => event,
    };
    match facet {
        Facet::Judgement => pb::CiliumEventType { r#type: POLICY_VERDICT, sub_type: 0 },
        Facet::Packet | Facet::Onward => pb::CiliumEventType { r#type: event.kind, sub_type: event.sub_type },
    }
}

/// As the endpoint sees it: the one whose policy judged, or that the packet is at.
pub(crate) fn direction(flow: &Flow, facet: Facet) -> pb::TrafficDirection {
    let whose = match facet {
        Facet::Judgement => flow.extensions.rule.as_ref().map(|r| r.direction).or(flow.traffic_direction),
        Facet::Packet => flow.traffic_direction,
        Facet::Onward => onward_direction(flow.traffic_direction, flow.extensions.onward),
    };
    whose.map_or(pb::TrafficDirection::Unknown, traffic_direction)
}

/// What goes into an endpoint is its ingress, wherever it came from.
pub(crate) fn onward_direction(met: Option<TrafficDirection>, onward: Option<Point>) -> Option<TrafficDirection> {
    if onward == Some(Point::ToEndpoint) { Some(TrafficDirection::Ingress) } else { met }
}

pub(crate) fn traffic_direction(direction: TrafficDirection) -> pb::TrafficDirection {
    match direction {
        TrafficDirection::Ingress => pb::TrafficDirection::Ingress,
        TrafficDirection::Egress => pb::TrafficDirection::Egress,
    }
}

pub(crate) fn tunnel(t: Tunnel) -> pb::tunnel::Protocol {
    match t.protocol {
        TunnelProtocol::Vxlan => pb::tunnel::Protocol::Vxlan,
        TunnelProtocol::Geneve => pb::tunnel::Protocol::Geneve,
    }
}

pub(crate) fn ip_version(version: IpVersion) -> pb::IpVersion {
    match version {
        IpVersion::IPv4 => pb::IpVersion::IPv4,
        IpVersion::IPv6 => pb::IpVersion::IPv6,
    }
}

/// The kernel names the rule, not how narrow its entry was; the rule's path says whether ports were part of it.
pub(crate) fn match_type(flow: &Flow) -> u32 {
    match &flow.extensions.rule {
        Some(hit) if by_port(&hit.rule.path) => matched::PEER_AND_PORT,
        Some(_) => matched::PEER,
        None if flow.drop_reason == 0 => matched::ALL,
        None => matched::NONE,
    }
}

fn by_port(path: &str) -> bool {
    const FIELD: &[u8] = b"ports[";
    path.as_bytes().windows(FIELD.len()).any(|part| part.eq_ignore_ascii_case(FIELD))
}

pub(crate) fn point(point: Point) -> i32 {
    let number = match point {
        Point::UnknownPoint => pb::TraceObservationPoint::UnknownPoint,
        Point::ToProxy => pb::TraceObservationPoint::ToProxy,
        Point::ToHost => pb::TraceObservationPoint::ToHost,
        Point::ToStack => pb::TraceObservationPoint::ToStack,
        Point::ToOverlay => pb::TraceObservationPoint::ToOverlay,
        Point::ToEndpoint => pb::TraceObservationPoint::ToEndpoint,
        Point::FromEndpoint => pb::TraceObservationPoint::FromEndpoint,
        Point::FromProxy => pb::TraceObservationPoint::FromProxy,
        Point::FromHost => pb::TraceObservationPoint::FromHost,
        Point::FromStack => pb::TraceObservationPoint::FromStack,
        Point::FromOverlay => pb::TraceObservationPoint::FromOverlay,
        Point::FromNetwork => pb::TraceObservationPoint::FromNetwork,
        Point::ToNetwork => pb::TraceObservationPoint::ToNetwork,
        Point::FromCrypto => pb::TraceObservationPoint::FromCrypto,
        Point::ToCrypto => pb::TraceObservationPoint::ToCrypto,
    };
    number.into()
}

pub(crate) fn trace_reason(event: axoneme_flow::Event) -> pb::TraceReason {
    match event {
        axoneme_flow::Event::New => pb::TraceReason::New,
        axoneme_flow::Event::Closed => pb::TraceReason::Established,
        axoneme_flow::Event::Drop | axoneme_flow::Event::Judged => pb::TraceReason::Unknown,
    }
}

fn layer4(l4: Layer4) -> pb::Layer4 {
    use pb::layer4::Protocol as P;
    let protocol = match l4 {
        Layer4::Tcp { source_port, destination_port, flags } => P::Tcp(pb::Tcp {
            source_port: source_port.into(),
            destination_port: destination_port.into(),
            flags: Some(tcp_flags(flags)),
        }),
        Layer4::Udp { source_port, destination_port } => {
            P::Udp(pb::Udp { source_port: source_port.into(), destination_port: destination_port.into() })
        }
        Layer4::Sctp { source_port, destination_port } => P::Sctp(pb::Sctp {
            source_port: source_port.into(),
            destination_port: destination_port.into(),
            ..pb::Sctp::default()
        }),
        Layer4::Icmpv4 { kind, code } => P::IcmPv4(pb::IcmPv4 { r#type: kind.into(), code: code.into() }),
        Layer4::Icmpv6 { kind, code } => P::IcmPv6(pb::IcmPv6 { r#type: kind.into(), code: code.into() }),
    };
    pb::Layer4 { protocol: Some(protocol) }
}

fn tcp_flags(flags: TcpFlags) -> pb::TcpFlags {
    let set = |bit: u32| flags.0 >> bit & 1 == 1;
    pb::TcpFlags {
        fin: set(0),
        syn: set(1),
        rst: set(2),
        psh: set(3),
        ack: set(4),
        urg: set(5),
        ece: set(6),
        cwr: set(7),
        ns: set(8),
    }
}

/// The inverse of the message: bit 0 is FIN, bit 8 is NS.
pub(crate) fn flag_bits(flags: &pb::TcpFlags) -> u16 {
    let all = [flags.fin, flags.syn, flags.rst, flags.psh, flags.ack, flags.urg, flags.ece, flags.cwr, flags.ns];
    all.into_iter().enumerate().map(|(bit, set)| u16::from(set) << bit).sum()
}

fn endpoint(e: &Endpoint) -> pb::Endpoint {
    let workload = |w: &Workload| pb::Workload { name: w.name.clone(), kind: w.kind.clone() };
    pb::Endpoint {
        id: 0,
        identity: e.identity,
        cluster_name: e.cluster_name.to_string(),
        namespace: e.namespace.clone(),
        labels: e.labels.to_vec(),
        pod_name: e.pod_name.clone(),
        workloads: e.workloads.iter().map(workload).collect(),
    }
}

fn service(s: &Service) -> pb::Service {
    pb::Service { name: s.name.to_string(), namespace: s.namespace.to_string() }
}

fn policies(of: &[PolicyRef]) -> Vec<pb::Policy> {
    of.iter().map(policy).collect()
}

/// With the labels that Cilium gives the rules of an object.
fn policy(p: &PolicyRef) -> pb::Policy {
    pb::Policy {
        labels: policy_labels(&p.kind, &p.namespace, &p.name),
        name: p.name.to_string(),
        namespace: p.namespace.to_string(),
        revision: 0,
        kind: p.kind.to_string(),
    }
}

/// What the labels of rules begin with.
pub(crate) const POLICY_LABEL: &str = "k8s:io.cilium.k8s.policy.";

pub(crate) fn policy_labels(kind: &str, namespace: &str, name: &str) -> Vec<String> {
    let label = |key: &str, value: &str| format!("{POLICY_LABEL}{key}={value}");
    let mut labels = vec![label("derived-from", kind), label("name", name)];
    if !namespace.is_empty() {
        labels.push(label("namespace", namespace));
    }
    labels
}

/// Both ends' counters of a connection that ended, for those who ask for details.
#[expect(clippy::cast_precision_loss, reason = "protobuf's Struct has no other numbers: exact up to 2⁵³")]
pub(crate) fn counters(c: &Counters) -> [(&'static str, f64); 2] {
    [("packets", c.packets as f64), ("bytes", c.bytes as f64)]
}
