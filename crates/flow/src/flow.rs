//! A flow with names, in Hubble's JSON spelling.
//!
//! Field names, enums and omissions are those of the JSON form of `flow.Flow` and `observer.GetFlowsResponse` (Cilium's
//! `api/v1/flow/flow.proto`, proto field names, default values left out, 64-bit numbers as strings), so that scripts
//! that read Hubble's output read this, and the gRPC API can be built on the same type. What Hubble has no field for is
//! under `extensions`, the place that its API keeps for that.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use axoneme_model::Direction;
use serde::{Deserialize, Serialize};

use crate::{
    id::FlowId,
    lost::LostEvents,
    reason::DropReason,
    record::{Event, Point, Record, TcpFlags, Transport, Verdict},
    summary::Summary,
    time::Time,
};

/// One line of the stream: a flow, or how many were lost before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    #[serde(flatten)]
    pub content: Content,
    pub node_name: Arc<str>,
    pub time: Time,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    #[serde(rename = "flow")]
    Flow(Box<Flow>),
    #[serde(rename = "lost_events")]
    Lost(LostEvents),
}

/// What was seen, of whom, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    pub time: Time,
    pub uuid: FlowId,
    pub verdict: Verdict,
    /// Number of `drop_reason_desc`; kept for clients that only know this one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub drop_reason: u32,
    /// Absent: the packet had no (readable) IP header.
    #[serde(rename = "IP", default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ip>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l4: Option<Layer4>,
    /// Shared by the flows of an end that nothing has changed of.
    pub source: Arc<Endpoint>,
    pub destination: Arc<Endpoint>,
    #[serde(rename = "Type")]
    pub flow_type: FlowType,
    pub node_name: Arc<str>,
    pub event_type: EventType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_service: Option<Arc<Service>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_service: Option<Arc<Service>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_direction: Option<TrafficDirection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_observation_point: Option<Point>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_reason_desc: Option<DropReason>,
    /// Absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_reply: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<Interface>,
    /// Of the socket on this node that sent the packet; 0: none, or not known. Number as `SO_COOKIE` tells it.
    #[serde(default, skip_serializing_if = "is_zero", with = "number_text")]
    pub socket_cookie: u64,
    /// Of that socket's cgroup (v2), the inode of its directory; 0: not known.
    #[serde(default, skip_serializing_if = "is_zero", with = "number_text")]
    pub cgroup_id: u64,
    /// The tunnel that the packet came by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Tunnel>,
    #[serde(rename = "Summary")]
    pub summary: Summary,
    pub extensions: Extension,
    #[serde(default, skip_serializing_if = "Policies::is_empty")]
    pub egress_allowed_by: Policies,
    #[serde(default, skip_serializing_if = "Policies::is_empty")]
    pub ingress_allowed_by: Policies,
    #[serde(default, skip_serializing_if = "Policies::is_empty")]
    pub egress_denied_by: Policies,
    #[serde(default, skip_serializing_if = "Policies::is_empty")]
    pub ingress_denied_by: Policies,
    /// What the rule that decided has to say (`log.value` of a CiliumNetworkPolicy), beside its policy's name.
    #[serde(default, skip_serializing_if = "Logs::is_empty")]
    pub policy_log: Logs,
}

impl Flow {
    /// Source and destination port, where the protocol has ports.
    #[must_use]
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self.l4? {
            Layer4::Tcp { source_port, destination_port, .. }
            | Layer4::Udp { source_port, destination_port }
            | Layer4::Sctp { source_port, destination_port } => Some((source_port, destination_port)),
            Layer4::Icmpv4 { .. } | Layer4::Icmpv6 { .. } => None,
        }
    }

    /// Type of an ICMP message.
    #[must_use]
    pub const fn icmp_kind(&self) -> Option<u8> {
        match self.l4 {
            Some(Layer4::Icmpv4 { kind, .. } | Layer4::Icmpv6 { kind, .. }) => Some(kind),
            _ => None,
        }
    }

    /// The policies that decided, with what they said: denials first.
    pub fn decided_by(&self) -> impl Iterator<Item = (&PolicyRef, bool)> {
        let denied = self.egress_denied_by.iter().chain(self.ingress_denied_by.iter()).map(|p| (p, false));
        denied.chain(self.egress_allowed_by.iter().chain(self.ingress_allowed_by.iter()).map(|p| (p, true)))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    #[serde(rename = "ipVersion")]
    pub version: IpVersion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpVersion {
    IPv4,
    IPv6,
}

/// `flow.Layer4`. Proto3 leaves zeros out of JSON, and so does this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layer4 {
    #[serde(rename = "TCP")]
    Tcp {
        #[serde(default, skip_serializing_if = "is_zero")]
        source_port: u16,
        #[serde(default, skip_serializing_if = "is_zero")]
        destination_port: u16,
        #[serde(default, skip_serializing_if = "is_zero", with = "flags")]
        flags: TcpFlags,
    },
    #[serde(rename = "UDP")]
    Udp {
        #[serde(default, skip_serializing_if = "is_zero")]
        source_port: u16,
        #[serde(default, skip_serializing_if = "is_zero")]
        destination_port: u16,
    },
    #[serde(rename = "ICMPv4")]
    Icmpv4 {
        #[serde(default, skip_serializing_if = "is_zero", rename = "type")]
        kind: u8,
        #[serde(default, skip_serializing_if = "is_zero")]
        code: u8,
    },
    #[serde(rename = "ICMPv6")]
    Icmpv6 {
        #[serde(default, skip_serializing_if = "is_zero", rename = "type")]
        kind: u8,
        #[serde(default, skip_serializing_if = "is_zero")]
        code: u8,
    },
    #[serde(rename = "SCTP")]
    Sctp {
        #[serde(default, skip_serializing_if = "is_zero")]
        source_port: u16,
        #[serde(default, skip_serializing_if = "is_zero")]
        destination_port: u16,
    },
}

impl Layer4 {
    /// None for protocols that Hubble's API has no message for.
    #[must_use]
    pub fn of(transport: Transport) -> Option<Self> {
        Some(match transport {
            Transport::Tcp { source, destination, flags } => {
                Self::Tcp { source_port: source, destination_port: destination, flags }
            }
            Transport::Udp { source, destination } => Self::Udp { source_port: source, destination_port: destination },
            Transport::Sctp { source, destination } => {
                Self::Sctp { source_port: source, destination_port: destination }
            }
            Transport::Icmp { kind, code } => Self::Icmpv4 { kind, code },
            Transport::Icmpv6 { kind, code } => Self::Icmpv6 { kind, code },
            Transport::Other(_) => return None,
        })
    }
}

/// One end of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub identity: u32,
    #[serde(default, skip_serializing_if = "is_empty")]
    pub cluster_name: Arc<str>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// `source:key=value`, sorted.
    #[serde(default, skip_serializing_if = "no_texts")]
    pub labels: Arc<[String]>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod_name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<Workload>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    pub name: String,
    pub kind: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlowType {
    #[serde(rename = "L3_L4")]
    L3L4,
    L7,
    #[serde(rename = "SOCK")]
    Sock,
}

/// `flow.CiliumEventType`: 1 a drop with its reason, 4 a trace with its observation point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventType {
    #[serde(rename = "type")]
    pub kind: i32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sub_type: i32,
}

impl EventType {
    pub const DROP: i32 = 1;
    pub const TRACE: i32 = 4;

    /// Of a record.
    #[must_use]
    pub fn of(r: &Record) -> Self {
        if r.event == Event::Drop {
            Self { kind: Self::DROP, sub_type: i32::from(r.reason.0) }
        } else {
            Self::trace(r.point)
        }
    }

    /// Of a packet that was seen at a point.
    #[must_use]
    pub fn trace(point: Point) -> Self {
        Self { kind: Self::TRACE, sub_type: i32::from(point.sub_type()) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TrafficDirection {
    Ingress,
    Egress,
}

impl TrafficDirection {
    /// The direction of that name, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "ingress" => Some(Self::Ingress),
            "egress" => Some(Self::Egress),
            _ => None,
        }
    }
}

impl From<Direction> for TrafficDirection {
    fn from(d: Direction) -> Self {
        match d {
            Direction::Ingress => Self::Ingress,
            Direction::Egress => Self::Egress,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub index: u32,
    #[serde(default, skip_serializing_if = "is_empty")]
    pub name: Arc<str>,
}

/// `flow.Tunnel`, without the outer headers: they are gone when a packet is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    pub protocol: TunnelProtocol,
    /// The identity that the sending node gave the sender.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub vni: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TunnelProtocol {
    Vxlan,
    Geneve,
}

/// `flow.Policy`: the object that decided. The rule within it is in [`Extension::rule`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRef {
    pub name: Arc<str>,
    #[serde(default, skip_serializing_if = "is_empty")]
    pub namespace: Arc<str>,
    pub kind: Cow<'static, str>,
}

/// A list that is mostly empty: flows share it, and it costs nothing while there is nothing in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<T>", bound(deserialize = "T: Deserialize<'de>"))]
pub struct Shared<T>(Option<Arc<[T]>>);

/// The policies that decided one way.
pub type Policies = Shared<PolicyRef>;

/// What rules have to say that decided.
pub type Logs = Shared<Arc<str>>;

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> From<Vec<T>> for Shared<T> {
    fn from(all: Vec<T>) -> Self {
        Self(if all.is_empty() { None } else { Some(all.into()) })
    }
}

impl<T> std::ops::Deref for Shared<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl<T> Shared<T> {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl std::fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// What Hubble's flow has no field for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// [`Self::TYPE`], always.
    #[serde(rename = "@type")]
    pub type_url: Cow<'static, str>,
    pub event: Event,
    /// IP protocol number.
    pub protocol: u8,
    /// Bytes of the dropped packet with its link-layer header.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub length: u32,
    /// What the end that opened the connection sent; only of [`Event::Closed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<Counters>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backward: Option<Counters>,
    /// The rule that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleHit>,
    /// Where a connection's first packet went on to from `trace_observation_point`, where that is told. Clients of Hubble's
    /// API get a flow of its own for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onward: Option<Point>,
    /// Nodes that hold the addresses, where known.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub source_node: Arc<str>,
    #[serde(default, skip_serializing_if = "is_empty")]
    pub destination_node: Arc<str>,
}

impl Extension {
    pub const TYPE: &str = "type.googleapis.com/axoneme.flow.v1.Detail";
}

/// A rule that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleHit {
    /// Whose: of the receiver (ingress) or the sender (egress).
    pub direction: TrafficDirection,
    #[serde(flatten)]
    pub rule: Arc<RuleName>,
    pub allow: bool,
}

/// Where a rule stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleName {
    pub kind: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "is_empty")]
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Field path in the object: `spec.ingress[0].toPorts[1]`.
    pub path: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    #[serde(with = "number_text")]
    pub packets: u64,
    /// With link-layer headers.
    #[serde(with = "number_text")]
    pub bytes: u64,
}

fn is_empty(text: &Arc<str>) -> bool {
    text.is_empty()
}

fn no_texts(texts: &Arc<[String]>) -> bool {
    texts.is_empty()
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// 64-bit numbers as strings, as protobuf's JSON form has them (a JavaScript number holds 53 bits).
pub(crate) mod number_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde's with asks for")]
    pub(crate) fn serialize<S: Serializer>(n: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(n)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// `flow.TCPFlags`: an object with a `true` for each flag that is set.
mod flags {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _, ser::SerializeMap as _};

    use crate::record::TcpFlags;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde's with asks for")]
    pub(super) fn serialize<S: Serializer>(flags: &TcpFlags, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        for name in flags.set_names() {
            map.serialize_entry(name, &true)?;
        }
        map.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<TcpFlags, D::Error> {
        let map = std::collections::BTreeMap::<String, bool>::deserialize(d)?;
        map.into_iter().filter(|f| f.1).try_fold(TcpFlags::default(), |sum, (name, _)| {
            let flag = TcpFlags::from_name(&name).ok_or_else(|| D::Error::custom(format!("no TCP flag {name:?}")))?;
            Ok(TcpFlags(sum.0 | flag.0))
        })
    }
}
