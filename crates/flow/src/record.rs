//! What the kernel said, with ids instead of names and of one fixed size.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axoneme_model::{Direction, Identity, Protocol, rows::RuleId};
use serde::{Deserialize, Serialize};

use crate::{reason::DropReason, time::Time};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Event {
    /// A packet was dropped.
    Drop,
    /// The first packet of a connection passed.
    New,
    /// The connection was closed or reset; its counters are final.
    Closed,
    /// What policy says of a connection that another record is of: of its other side, or of one that began earlier. No
    /// packet of its own: who counts packets or connections leaves it out.
    Judged,
}

/// Hubble's verdicts (`enum Verdict` of `flow.proto`), without those that belong to proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    #[serde(rename = "VERDICT_UNKNOWN")]
    Unknown,
    Forwarded,
    Dropped,
    Error,
    /// Policy would have dropped it, but the endpoint is in audit mode.
    Audit,
    Redirected,
    Traced,
    Translated,
}

impl Verdict {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Unknown, "VERDICT_UNKNOWN"),
        (Self::Forwarded, "FORWARDED"),
        (Self::Dropped, "DROPPED"),
        (Self::Error, "ERROR"),
        (Self::Audit, "AUDIT"),
        (Self::Redirected, "REDIRECTED"),
        (Self::Traced, "TRACED"),
        (Self::Translated, "TRANSLATED"),
    ];

    /// Hubble's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|v| v.0 == self).map_or("VERDICT_UNKNOWN", |v| v.1)
    }

    /// The verdict of that name, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|v| v.1.eq_ignore_ascii_case(name)).map(|v| v.0)
    }

    /// All names but the unknown, for messages that list the choices.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.iter().skip(1).map(|v| v.1)
    }
}

/// Where on its way the packet was seen (`enum TraceObservationPoint` of `flow.proto`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Point {
    #[default]
    UnknownPoint,
    ToProxy,
    ToHost,
    ToStack,
    ToOverlay,
    ToEndpoint,
    FromEndpoint,
    FromProxy,
    FromHost,
    FromStack,
    FromOverlay,
    FromNetwork,
    ToNetwork,
    FromCrypto,
    ToCrypto,
}

impl Point {
    /// Point, number in `flow.proto`, number as the sub-type of a trace event (differs for `TO_ENDPOINT`), short name.
    const ALL: [(Self, u8, &'static str); 15] = [
        (Self::UnknownPoint, 255, "unknown-point"),
        (Self::ToEndpoint, 0, "to-endpoint"),
        (Self::ToProxy, 1, "to-proxy"),
        (Self::ToHost, 2, "to-host"),
        (Self::ToStack, 3, "to-stack"),
        (Self::ToOverlay, 4, "to-overlay"),
        (Self::FromEndpoint, 5, "from-endpoint"),
        (Self::FromProxy, 6, "from-proxy"),
        (Self::FromHost, 7, "from-host"),
        (Self::FromStack, 8, "from-stack"),
        (Self::FromOverlay, 9, "from-overlay"),
        (Self::FromNetwork, 10, "from-network"),
        (Self::ToNetwork, 11, "to-network"),
        (Self::FromCrypto, 12, "from-crypto"),
        (Self::ToCrypto, 13, "to-crypto"),
    ];

    /// Sub-type of a trace event of Cilium's monitor (`to-endpoint` is 0 there).
    #[must_use]
    pub fn sub_type(self) -> u8 {
        Self::ALL.iter().find(|p| p.0 == self).map_or(255, |p| p.1)
    }

    /// `to-endpoint` and so on: the word in lines for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|p| p.0 == self).map_or("unknown-point", |p| p.2)
    }

    fn from_sub_type(n: u8) -> Self {
        Self::ALL.iter().find(|p| p.1 == n).map_or(Self::UnknownPoint, |p| p.0)
    }
}

/// Flags of a TCP header: the low nine bits, FIN is bit 0, NS is bit 8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TcpFlags(pub u16);

impl TcpFlags {
    /// Bit and name, in the order in which Hubble prints them.
    pub const NAMES: [(u16, &'static str); 9] = [
        (1, "FIN"),
        (1 << 1, "SYN"),
        (1 << 2, "RST"),
        (1 << 3, "PSH"),
        (1 << 4, "ACK"),
        (1 << 5, "URG"),
        (1 << 6, "ECE"),
        (1 << 7, "CWR"),
        (1 << 8, "NS"),
    ];

    /// The flag of that name, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|f| f.1.eq_ignore_ascii_case(name)).map(|f| Self(f.0))
    }

    /// Whether all flags of `other` are set here.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Names of the flags that are set.
    pub fn set_names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().filter(move |f| self.0 & f.0 != 0).map(|f| f.1)
    }
}

/// The transport header's part of a flow. Ports are in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    Tcp { source: u16, destination: u16, flags: TcpFlags },
    Udp { source: u16, destination: u16 },
    Sctp { source: u16, destination: u16 },
    Icmp { kind: u8, code: u8 },
    Icmpv6 { kind: u8, code: u8 },
    Other(Protocol),
}

impl Transport {
    /// From a protocol number and the two port fields; `flags` counts for TCP only. For ICMP the first field is the
    /// type and the second the code.
    #[must_use]
    pub fn new(protocol: Protocol, first: u16, second: u16, flags: u16) -> Self {
        match protocol {
            Protocol::TCP => Self::Tcp { source: first, destination: second, flags: TcpFlags(flags & 0x1ff) },
            Protocol::UDP => Self::Udp { source: first, destination: second },
            Protocol::SCTP => Self::Sctp { source: first, destination: second },
            Protocol::ICMP => Self::Icmp { kind: first as u8, code: second as u8 },
            Protocol::ICMPV6 => Self::Icmpv6 { kind: first as u8, code: second as u8 },
            other => Self::Other(other),
        }
    }

    #[must_use]
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Tcp { .. } => Protocol::TCP,
            Self::Udp { .. } => Protocol::UDP,
            Self::Sctp { .. } => Protocol::SCTP,
            Self::Icmp { .. } => Protocol::ICMP,
            Self::Icmpv6 { .. } => Protocol::ICMPV6,
            Self::Other(p) => p,
        }
    }

    /// Source and destination port, where the protocol has ports.
    #[must_use]
    pub fn ports(self) -> Option<(u16, u16)> {
        match self {
            Self::Tcp { source, destination, .. }
            | Self::Udp { source, destination }
            | Self::Sctp { source, destination } => Some((source, destination)),
            _ => None,
        }
    }

    fn fields(self) -> (u16, u16, u16) {
        match self {
            Self::Tcp { source, destination, flags } => (source, destination, flags.0),
            Self::Udp { source, destination } | Self::Sctp { source, destination } => (source, destination, 0),
            Self::Icmp { kind, code } | Self::Icmpv6 { kind, code } => (u16::from(kind), u16::from(code), 0),
            Self::Other(_) => (0, 0, 0),
        }
    }
}

/// Packets and bytes (with link-layer headers) that one end of a connection sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

/// Where a packet comes from, as far as its node knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// By a wire, or passed on by a pod; or the record is of no one packet.
    #[default]
    Unknown,
    /// A socket of this node: its cookie (`SO_COOKIE`), and the id of its cgroup (v2: the inode of its directory).
    Socket { cookie: u64, cgroup: u64 },
    /// The overlay. `id`: of the tunnel's header (VNI), which is the identity that the sending node gave the sender.
    Tunnel { id: u32 },
}

/// One event as the kernel told it. Names are joined when somebody reads it ([`crate::Enricher`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub time: Time,
    pub event: Event,
    pub verdict: Verdict,
    /// Unknown unless the verdict is a drop.
    pub reason: DropReason,
    /// As the endpoint whose policy judged it sees it.
    pub direction: Option<Direction>,
    /// None: not known.
    pub reply: Option<bool>,
    pub point: Point,
    /// Where a connection's first packet went on to from there; only of [`Event::New`]. Unknown: not told.
    pub onward: Point,
    /// Source and destination, of the same family. None: the packet had no (readable) IP header.
    pub ends: Option<(IpAddr, IpAddr)>,
    pub transport: Transport,
    /// Zero: look the address up.
    pub source_identity: Identity,
    pub destination_identity: Identity,
    /// Rule that decided; zero: none.
    pub rule: RuleId,
    /// Interface on which it was seen; zero: unknown.
    pub ifindex: u32,
    /// Bytes of the dropped packet with its link-layer header; zero for connections.
    pub length: u32,
    /// Of the packet; unknown of [`Event::Closed`].
    pub origin: Origin,
    /// Sent by the end that opened the connection; only of [`Event::Closed`].
    pub forward: Traffic,
    /// Sent by the other.
    pub backward: Traffic,
}

/// What one record tells. A connection's first packet has up to three things to tell, as flows of Hubble's API of their own:
/// how policy judged it, where it was seen, and where it went on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Facet {
    /// The verdict of policy over a connection's first packet.
    Judgement,
    /// The packet at a place: a trace, or its drop.
    Packet,
    /// A connection's first packet where it went on to: into a pod, the tunnel, the network, the host or its stack.
    Onward,
}

/// Size of a packed record in 64-bit words.
pub(crate) const WORDS: usize = 15;

impl Record {
    /// What the record tells, in order.
    #[must_use]
    pub fn facets(&self) -> &'static [Facet] {
        let by_host = matches!((self.point, self.onward), (Point::FromHost | Point::FromStack, Point::ToEndpoint));
        let at_endpoint = by_host || matches!(self.point, Point::FromEndpoint | Point::ToEndpoint);
        let judged = match self.event {
            Event::Drop => self.reason.is_policy(),
            Event::New => at_endpoint || self.rule != RuleId::default(),
            Event::Closed => false,
            Event::Judged => return &[Facet::Judgement],
        };
        match (judged, self.onward != Point::UnknownPoint) {
            (true, true) => &[Facet::Judgement, Facet::Packet, Facet::Onward],
            (true, false) => &[Facet::Judgement, Facet::Packet],
            (false, true) => &[Facet::Packet, Facet::Onward],
            (false, false) => &[Facet::Packet],
        }
    }

    /// The record as words, for the history's slots.
    pub(crate) fn pack(&self) -> [u64; WORDS] {
        let (first, second, flags) = self.transport.fields();
        let direction = match self.direction {
            None => 0u8,
            Some(Direction::Ingress) => 1,
            Some(Direction::Egress) => 2,
        };
        let reply = match self.reply {
            None => 0u8,
            Some(false) => 1,
            Some(true) => 2,
        };
        let family = match self.ends {
            None => 0u8,
            Some((s, _)) if s.is_ipv4() => 1,
            Some(_) => 2,
        };
        // a record has counters or an origin, in the same place
        let (kind, detail) = match (self.event, self.origin) {
            (Event::Closed, _) => {
                (0, [self.forward.packets, self.forward.bytes, self.backward.packets, self.backward.bytes])
            }
            (_, Origin::Unknown) => (0, [0; 4]),
            (_, Origin::Socket { cookie, cgroup }) => (1, [cookie, cgroup, 0, 0]),
            (_, Origin::Tunnel { id }) => (2u8, [id.into(), 0, 0, 0]),
        };
        let [t0, t1, t2, t3] = detail;
        let meta = [
            self.event as u8,
            self.verdict as u8,
            self.reason.0,
            direction | reply << 2 | family << 4,
            self.point.sub_type(),
            self.transport.protocol().0,
            kind,
            // so that nothing is zero, as what has nothing to tell is
            self.onward.sub_type().wrapping_add(1),
        ];
        let (s, d) = self.ends.map(|(s, d)| (address_words(s), address_words(d))).unwrap_or_default();
        [
            self.time.0,
            u64::from_le_bytes(meta),
            s.0,
            s.1,
            d.0,
            d.1,
            u64::from(first) | u64::from(second) << 16 | u64::from(flags) << 32,
            pair(self.source_identity.0, self.destination_identity.0),
            pair(self.rule.0, self.ifindex),
            u64::from(self.length),
            t0,
            t1,
            t2,
            t3,
            0,
        ]
    }

    /// The inverse of [`Self::pack`]. Total: words that no record packs to give some record.
    pub(crate) fn unpack(words: &[u64; WORDS]) -> Self {
        let [time, meta, s0, s1, d0, d1, ports, identities, rule, length, t0, t1, t2, t3, _] = *words;
        let [event, verdict, reason, bits, point, protocol, kind, onward] = meta.to_le_bytes();
        let event = match event {
            0 => Event::Drop,
            1 => Event::New,
            2 => Event::Closed,
            _ => Event::Judged,
        };
        let closed = event == Event::Closed;
        let traffic = |packets, bytes| if closed { Traffic { packets, bytes } } else { Traffic::default() };
        let (source_identity, destination_identity) = unpair(identities);
        let (rule, ifindex) = unpair(rule);
        Self {
            time: Time(time),
            event,
            verdict: Verdict::ALL.get(usize::from(verdict)).map_or(Verdict::Unknown, |v| v.0),
            reason: DropReason(reason),
            direction: match bits & 3 {
                1 => Some(Direction::Ingress),
                2 => Some(Direction::Egress),
                _ => None,
            },
            reply: match bits >> 2 & 3 {
                1 => Some(false),
                2 => Some(true),
                _ => None,
            },
            point: Point::from_sub_type(point),
            onward: if event == Event::New {
                Point::from_sub_type(onward.wrapping_sub(1))
            } else {
                Point::UnknownPoint
            },
            ends: match bits >> 4 & 3 {
                0 => None,
                family => Some((address(family > 1, s0, s1), address(family > 1, d0, d1))),
            },
            transport: Transport::new(Protocol(protocol), ports as u16, (ports >> 16) as u16, (ports >> 32) as u16),
            source_identity: Identity(source_identity),
            destination_identity: Identity(destination_identity),
            rule: RuleId(rule),
            ifindex,
            length: length as u32,
            origin: match kind {
                1 if !closed => Origin::Socket { cookie: t0, cgroup: t1 },
                2 if !closed => Origin::Tunnel { id: t0 as u32 },
                _ => Origin::Unknown,
            },
            forward: traffic(t0, t1),
            backward: traffic(t2, t3),
        }
    }
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn unpair(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

fn address_words(address: IpAddr) -> (u64, u64) {
    match address {
        IpAddr::V4(a) => (0, u64::from(a.to_bits())),
        IpAddr::V6(a) => ((a.to_bits() >> 64) as u64, a.to_bits() as u64),
    }
}

fn address(v6: bool, high: u64, low: u64) -> IpAddr {
    if v6 {
        Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()
    } else {
        Ipv4Addr::from_bits(low as u32).into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::arbitrary_record;

    proptest! {
        #[test]
        fn a_packed_record_unpacks_to_itself(record in arbitrary_record()) {
            prop_assert_eq!(Record::unpack(&record.pack()), record);
        }

        #[test]
        fn any_words_unpack(words in any::<[u64; WORDS]>()) {
            // what comes out is a record of its own kind: packing it again is stable
            let once = Record::unpack(&words);
            prop_assert_eq!(Record::unpack(&once.pack()), once);
        }
    }
}
