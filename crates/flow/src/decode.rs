//! From the bytes of the kernel's rings to records. Layouts: `axoneme_abi::event`.

use std::{
    mem::{offset_of, size_of},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use axoneme_abi::{
    Action,
    event::{DropEvent, FlowEvent, FlowKind, HookPoint, audit_bit},
};
use axoneme_model::{Direction, Identity, Protocol, rows::RuleId};

use crate::{
    reason::DropReason,
    record::{Event, Origin, Point, Record, Traffic, Transport, Verdict},
    time::Time,
};

/// Nanoseconds to add to the kernel's monotonic clock to get time since 1970. Measured by whoever reads the rings, anew
/// from time to time: the wall clock may be set while the other runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockOffset(pub i64);

impl ClockOffset {
    fn wall(self, monotonic: u64) -> Time {
        Time(monotonic.saturating_add_signed(self.0))
    }
}

/// The bytes are no event of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{found} bytes where an event has {expected}")]
    Length { expected: usize, found: usize },
    #[error("address family {0}, expected 4 or 6")]
    Family(u8),
    #[error("connection event {0}, expected 1 (new), 2 (closed) or 3 (audited)")]
    Kind(u8),
}

/// A record of the ring of drops.
pub fn decode_drop(bytes: &[u8], clock: ClockOffset) -> Result<Record, DecodeError> {
    let b = Bytes::of::<DropEvent>(bytes)?;
    let family = b.u8(offset_of!(DropEvent, family));
    // dropped before or without an IP header: there are no ends to name
    let ends = if family == 0 {
        None
    } else {
        Some(b.ends(family, offset_of!(DropEvent, source), offset_of!(DropEvent, destination))?)
    };
    Ok(Record {
        time: clock.wall(b.u64(offset_of!(DropEvent, time))),
        event: Event::Drop,
        verdict: Verdict::Dropped,
        reason: DropReason(b.u8(offset_of!(DropEvent, reason))),
        direction: match b.u8(offset_of!(DropEvent, direction)) {
            0 => Some(Direction::Ingress),
            1 => Some(Direction::Egress),
            _ => None,
        },
        reply: None,
        point: point(b.u8(offset_of!(DropEvent, hook))),
        onward: Point::UnknownPoint,
        ends,
        transport: b.transport(
            offset_of!(DropEvent, protocol),
            [offset_of!(DropEvent, source_port), offset_of!(DropEvent, destination_port)],
            offset_of!(DropEvent, tcp_flags),
        ),
        source_identity: Identity(b.u32(offset_of!(DropEvent, source_identity))),
        destination_identity: Identity(b.u32(offset_of!(DropEvent, destination_identity))),
        rule: RuleId(b.u32(offset_of!(DropEvent, rule))),
        ifindex: b.u32(offset_of!(DropEvent, ifindex)),
        length: b.u32(offset_of!(DropEvent, length)),
        origin: b.origin(offset_of!(DropEvent, hook), offset_of!(DropEvent, sender)),
        forward: Traffic::default(),
        backward: Traffic::default(),
    })
}

/// What a record of the ring of connection changes tells: the change, or, where policy would have denied the connection,
/// that, once for each side that would. One of them is the change itself, another is [`Event::Judged`]: it happened once.
pub fn decode_flows(bytes: &[u8], clock: ClockOffset) -> Result<impl Iterator<Item = Record>, DecodeError> {
    let record = decode_flow(bytes, clock)?;
    let b = Bytes::of::<FlowEvent>(bytes)?;
    let egress_rule = RuleId(b.u32(offset_of!(FlowEvent, egress_rule)));
    let sides = [
        (Direction::Egress, audit_bit(axoneme_abi::Direction::Egress), egress_rule),
        (Direction::Ingress, audit_bit(axoneme_abi::Direction::Ingress), record.rule),
    ];
    let audit = b.u8(offset_of!(FlowEvent, audit));
    let passed = sides.iter().all(|(_, bit, _)| audit & bit == 0).then_some(record);
    let would = sides.into_iter().filter(move |(_, bit, _)| audit & bit != 0);
    let would = would.enumerate().map(move |(n, (side, _, rule))| Record {
        event: if n == 0 { record.event } else { Event::Judged },
        onward: if n == 0 { record.onward } else { Point::UnknownPoint },
        verdict: Verdict::Audit,
        direction: Some(side),
        rule,
        ..record
    });
    Ok(passed.into_iter().chain(would))
}

/// The connection of a record of that ring, as if all of it were allowed: see [`decode_flows`].
pub fn decode_flow(bytes: &[u8], clock: ClockOffset) -> Result<Record, DecodeError> {
    let b = Bytes::of::<FlowEvent>(bytes)?;
    let family = b.u8(offset_of!(FlowEvent, family));
    let hook = b.u8(offset_of!(FlowEvent, hook));
    let event = match b.u8(offset_of!(FlowEvent, kind)) {
        k if k == FlowKind::New as u8 => Event::New,
        k if k == FlowKind::Closed as u8 => Event::Closed,
        // policy changed under a connection
        k if k == FlowKind::Audited as u8 => Event::Judged,
        k => return Err(DecodeError::Kind(k)),
    };
    let detail = offset_of!(FlowEvent, detail);
    let traffic = |end: usize| match event {
        Event::Closed => Traffic {
            packets: u64::from(b.u32(offset_of!(FlowEvent, packets) + 4 * end)),
            bytes: b.u64(detail + 8 * end),
        },
        _ => Traffic::default(),
    };
    let source_identity = Identity(b.u32(offset_of!(FlowEvent, source_identity)));
    let destination_identity = Identity(b.u32(offset_of!(FlowEvent, destination_identity)));
    let onward = match event {
        Event::New => onward(b.u16(offset_of!(FlowEvent, towards)), destination_identity),
        _ => Point::UnknownPoint,
    };
    Ok(Record {
        time: clock.wall(b.u64(offset_of!(FlowEvent, time))),
        event,
        verdict: Verdict::Forwarded,
        reason: DropReason::UNKNOWN,
        direction: direction(hook),
        // the source of a connection event is the originator, whoever's packet caused it
        reply: Some(false),
        point: if onward == Point::UnknownPoint { point(hook) } else { came_from(hook, source_identity) },
        onward,
        ends: Some(b.ends(family, offset_of!(FlowEvent, source), offset_of!(FlowEvent, destination))?),
        transport: b.transport(
            offset_of!(FlowEvent, protocol),
            [offset_of!(FlowEvent, source_port), offset_of!(FlowEvent, destination_port)],
            offset_of!(FlowEvent, tcp_flags),
        ),
        source_identity,
        destination_identity,
        rule: RuleId(b.u32(offset_of!(FlowEvent, rule))),
        ifindex: b.u32(offset_of!(FlowEvent, ifindex)),
        length: 0,
        origin: if event == Event::New { b.origin(offset_of!(FlowEvent, hook), detail) } else { Origin::Unknown },
        forward: traffic(0),
        backward: traffic(1),
    })
}

fn point(hook: u8) -> Point {
    match HookPoint::from_number(hook) {
        Some(HookPoint::FromContainer) => Point::FromEndpoint,
        Some(HookPoint::ToContainer) => Point::ToEndpoint,
        Some(HookPoint::FromNetdev) => Point::FromNetwork,
        Some(HookPoint::FromOverlay) => Point::FromOverlay,
        Some(HookPoint::ToOverlay) => Point::ToOverlay,
        Some(HookPoint::FromHost) => Point::FromHost,
        None => Point::UnknownPoint,
    }
}

/// Where a connection's first packet came from, of which it is told where it went on to. What meets the program before a pod
/// is sent by the host itself, or is passed on by its stack.
fn came_from(hook: u8, source: Identity) -> Point {
    match point(hook) {
        Point::ToEndpoint if source == Identity::HOST => Point::FromHost,
        Point::ToEndpoint => Point::FromStack,
        point => point,
    }
}

/// Where the entry's action took the packet. The stack gets what is for the node itself, and what it is to route.
fn onward(action: u16, destination: Identity) -> Point {
    match Action::from_bits(action.into()) {
        Action::None => Point::UnknownPoint,
        Action::Local => Point::ToEndpoint,
        Action::Tunnel => Point::ToOverlay,
        Action::NextHop => Point::ToNetwork,
        Action::Stack if destination == Identity::HOST => Point::ToHost,
        Action::Stack => Point::ToStack,
    }
}

/// Which way a connection goes at a program: out of the endpoint there, or into it.
fn direction(hook: u8) -> Option<Direction> {
    Some(match HookPoint::from_number(hook)? {
        HookPoint::FromContainer | HookPoint::ToOverlay | HookPoint::FromHost => Direction::Egress,
        HookPoint::ToContainer | HookPoint::FromNetdev | HookPoint::FromOverlay => Direction::Ingress,
    })
}

/// The bytes of one event, of the right length. Numbers are in the machine's order unless said otherwise.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn of<T>(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let expected = size_of::<T>();
        if bytes.len() == expected {
            Ok(Self(bytes))
        } else {
            Err(DecodeError::Length { expected, found: bytes.len() })
        }
    }

    /// Zeros beyond the end: offsets come from the type whose size was checked.
    fn array<const N: usize>(self, offset: usize) -> [u8; N] {
        let slice = self.0.get(offset..).and_then(<[u8]>::first_chunk::<N>);
        slice.copied().unwrap_or([0; N])
    }

    fn u8(self, offset: usize) -> u8 {
        u8::from_ne_bytes(self.array(offset))
    }

    fn u16(self, offset: usize) -> u16 {
        u16::from_ne_bytes(self.array(offset))
    }

    fn u32(self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.array(offset))
    }

    fn u64(self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.array(offset))
    }

    fn ends(self, family: u8, source: usize, destination: usize) -> Result<(IpAddr, IpAddr), DecodeError> {
        let address = |offset| match family {
            4 => Ok(Ipv4Addr::from(self.array::<4>(offset)).into()),
            6 => Ok(Ipv6Addr::from(self.array::<16>(offset)).into()),
            other => Err(DecodeError::Family(other)),
        };
        Ok((address(source)?, address(destination)?))
    }

    /// See `DropEvent::sender`.
    fn origin(self, hook: usize, sender: usize) -> Origin {
        match (HookPoint::from_number(self.u8(hook)), self.u64(sender), self.u64(sender + 8)) {
            (Some(HookPoint::FromOverlay), id, _) => Origin::Tunnel { id: id as u32 },
            (_, 0, _) => Origin::Unknown,
            (_, cookie, cgroup) => Origin::Socket { cookie, cgroup },
        }
    }

    /// Ports are as on the wire.
    fn transport(self, protocol: usize, ports: [usize; 2], flags: usize) -> Transport {
        let [first, second] = ports.map(|offset| u16::from_be_bytes(self.array(offset)));
        match Protocol(self.u8(protocol)) {
            Protocol::ICMP => Transport::Icmp { kind: icmp_type(first, second, 8, 0), code: 0 },
            Protocol::ICMPV6 => Transport::Icmpv6 { kind: icmp_type(first, second, 128, 129), code: 0 },
            other => Transport::new(other, first, second, u16::from(self.u8(flags))),
        }
    }
}

/// The programs give ICMP ports, so that an echo and its answer are one connection: request (identifier, type of
/// request), reply (type of request, identifier), anything else (0, type). The code is not kept.
fn icmp_type(first: u16, second: u16, request: u8, reply: u8) -> u8 {
    if second == u16::from(request) {
        request
    } else if first == u16::from(request) {
        reply
    } else {
        second as u8
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::TcpFlags;

    /// The bytes of an event built field by field, as the programs lay it out.
    fn bytes(size: usize, fields: &[(usize, &[u8])]) -> Vec<u8> {
        let mut out = vec![0; size];
        for (offset, field) in fields {
            out[*offset..offset + field.len()].copy_from_slice(field);
        }
        out
    }

    fn drop_bytes(family: u8) -> Vec<u8> {
        bytes(
            size_of::<DropEvent>(),
            &[
                (offset_of!(DropEvent, time), &5_000u64.to_ne_bytes()),
                (offset_of!(DropEvent, source), &[10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]),
                (offset_of!(DropEvent, destination), &[10, 0, 0, 2]),
                (offset_of!(DropEvent, source_identity), &300u32.to_ne_bytes()),
                (offset_of!(DropEvent, destination_identity), &301u32.to_ne_bytes()),
                (offset_of!(DropEvent, rule), &7u32.to_ne_bytes()),
                (offset_of!(DropEvent, ifindex), &12u32.to_ne_bytes()),
                (offset_of!(DropEvent, length), &74u32.to_ne_bytes()),
                (offset_of!(DropEvent, source_port), &40_000u16.to_be_bytes()),
                (offset_of!(DropEvent, destination_port), &80u16.to_be_bytes()),
                (offset_of!(DropEvent, reason), &[133]),
                (offset_of!(DropEvent, direction), &[1]),
                (offset_of!(DropEvent, family), &[family]),
                (offset_of!(DropEvent, protocol), &[6]),
                (offset_of!(DropEvent, tcp_flags), &[2]),
                (offset_of!(DropEvent, hook), &[0]),
                (offset_of!(DropEvent, sender), &7u64.to_ne_bytes()),
                (offset_of!(DropEvent, sender) + 8, &u64::MAX.to_ne_bytes()),
            ],
        )
    }

    #[test]
    fn a_drop_keeps_every_field() {
        let r = decode_drop(&drop_bytes(4), ClockOffset(-1_000)).unwrap();
        assert_eq!(
            r,
            Record {
                time: Time(4_000),
                event: Event::Drop,
                verdict: Verdict::Dropped,
                reason: DropReason::POLICY_DENIED,
                direction: Some(Direction::Egress),
                reply: None,
                point: Point::FromEndpoint,
                onward: Point::UnknownPoint,
                ends: Some(("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())),
                transport: Transport::Tcp { source: 40_000, destination: 80, flags: TcpFlags(2) },
                source_identity: Identity(300),
                destination_identity: Identity(301),
                rule: RuleId(7),
                ifindex: 12,
                length: 74,
                origin: Origin::Socket { cookie: 7, cgroup: u64::MAX },
                forward: Traffic::default(),
                backward: Traffic::default(),
            }
        );
        let v6 = decode_drop(&drop_bytes(6), ClockOffset(0)).unwrap().ends.unwrap();
        assert_eq!(v6.0.to_string(), "a00:1::9");
        assert_eq!(decode_drop(&drop_bytes(0), ClockOffset(0)).unwrap().ends, None);
        assert_eq!(decode_drop(&drop_bytes(5), ClockOffset(0)), Err(DecodeError::Family(5)));
    }

    /// A new connection as a program tells it, from `source` to `destination`, which the action took on.
    fn begun(hook: u8, action: Action, source: u32, destination: u32) -> Record {
        let event = bytes(
            size_of::<FlowEvent>(),
            &[
                (offset_of!(FlowEvent, kind), &[FlowKind::New as u8]),
                (offset_of!(FlowEvent, family), &[6]),
                (offset_of!(FlowEvent, protocol), &[6]),
                (offset_of!(FlowEvent, hook), &[hook]),
                (offset_of!(FlowEvent, towards), &(action as u16).to_ne_bytes()),
                (offset_of!(FlowEvent, source_identity), &source.to_ne_bytes()),
                (offset_of!(FlowEvent, destination_identity), &destination.to_ne_bytes()),
            ],
        );
        decode_flow(&event, ClockOffset(0)).unwrap()
    }

    #[test]
    fn a_first_packet_tells_where_it_came_from_and_where_it_went_on_to() {
        use Point::*;
        let (host, remote, world, pod, other) = (1, 6, 2, 300, 301);
        // program, action, source, destination; the points, and the direction where it was met
        let out = Some(Direction::Egress);
        let into = Some(Direction::Ingress);
        for (hook, action, source, destination, expected, direction) in [
            (HookPoint::FromContainer, Action::Local, pod, other, (FromEndpoint, ToEndpoint), out),
            (HookPoint::FromContainer, Action::Tunnel, pod, other, (FromEndpoint, ToOverlay), out),
            (HookPoint::FromContainer, Action::NextHop, pod, other, (FromEndpoint, ToNetwork), out),
            (HookPoint::FromContainer, Action::Stack, pod, host, (FromEndpoint, ToHost), out),
            (HookPoint::FromContainer, Action::Stack, pod, remote, (FromEndpoint, ToStack), out),
            (HookPoint::FromContainer, Action::Stack, pod, world, (FromEndpoint, ToStack), out),
            (HookPoint::ToContainer, Action::Local, host, pod, (FromHost, ToEndpoint), into),
            (HookPoint::ToContainer, Action::Local, world, pod, (FromStack, ToEndpoint), into),
            (HookPoint::FromNetdev, Action::Local, other, pod, (FromNetwork, ToEndpoint), into),
            (HookPoint::FromOverlay, Action::Local, other, pod, (FromOverlay, ToEndpoint), into),
            // the host firewall's
            (HookPoint::FromNetdev, Action::Stack, world, host, (FromNetwork, ToHost), into),
            (HookPoint::FromHost, Action::NextHop, host, world, (FromHost, ToNetwork), out),
            // programs from before that was told
            (HookPoint::FromContainer, Action::None, pod, other, (FromEndpoint, UnknownPoint), out),
            (HookPoint::ToContainer, Action::None, host, pod, (ToEndpoint, UnknownPoint), into),
        ] {
            let r = begun(hook as u8, action, source, destination);
            assert_eq!(((r.point, r.onward), r.direction), (expected, direction), "{hook:?} {action:?}");
            let told = r.facets().contains(&crate::Facet::Onward);
            assert_eq!(told, action != Action::None, "{hook:?} {action:?}");
        }
    }

    #[test]
    fn a_close_keeps_both_ends_counters() {
        let flow = |kind| {
            bytes(
                size_of::<FlowEvent>(),
                &[
                    (offset_of!(FlowEvent, detail), &1000u64.to_ne_bytes()),
                    (offset_of!(FlowEvent, detail) + 8, &u64::MAX.to_ne_bytes()),
                    (offset_of!(FlowEvent, packets), &10u32.to_ne_bytes()),
                    (offset_of!(FlowEvent, packets) + 4, &9u32.to_ne_bytes()),
                    (offset_of!(FlowEvent, kind), &[kind]),
                    (offset_of!(FlowEvent, family), &[4]),
                    (offset_of!(FlowEvent, protocol), &[17]),
                    (offset_of!(FlowEvent, hook), &[3]),
                ],
            )
        };
        let r = decode_flow(&flow(2), ClockOffset(0)).unwrap();
        assert_eq!((r.event, r.verdict, r.reply), (Event::Closed, Verdict::Forwarded, Some(false)));
        assert_eq!(r.forward, Traffic { packets: 10, bytes: 1000 });
        assert_eq!(r.backward, Traffic { packets: 9, bytes: u64::MAX });
        assert_eq!((r.point, r.direction), (Point::FromOverlay, Some(Direction::Ingress)));
        assert_eq!(r.origin, Origin::Unknown);
        // the same place tells of the first packet where a connection begins, and nothing where it is judged anew
        let begun = decode_flow(&flow(1), ClockOffset(0)).unwrap();
        assert_eq!((begun.event, begun.origin), (Event::New, Origin::Tunnel { id: 1000 }));
        assert_eq!((begun.forward, begun.backward), (Traffic::default(), Traffic::default()));
        let mut by_a_pod = flow(1);
        by_a_pod[offset_of!(FlowEvent, hook)] = 0;
        let origin = decode_flow(&by_a_pod, ClockOffset(0)).unwrap().origin;
        assert_eq!(origin, Origin::Socket { cookie: 1000, cgroup: u64::MAX });
        by_a_pod[offset_of!(FlowEvent, detail)..][..16].fill(0);
        assert_eq!(decode_flow(&by_a_pod, ClockOffset(0)).unwrap().origin, Origin::Unknown);
        assert_eq!(decode_flow(&flow(3), ClockOffset(0)).unwrap().origin, Origin::Unknown);
        assert_eq!(decode_flow(&flow(4), ClockOffset(0)), Err(DecodeError::Kind(4)));
        assert_eq!(decode_flow(&[0; 95], ClockOffset(0)), Err(DecodeError::Length { expected: 96, found: 95 }));
    }

    #[test]
    fn what_would_be_denied_is_told_once_for_each_side() {
        let told = |kind: u8, audit: u8| {
            let event = bytes(
                size_of::<FlowEvent>(),
                &[
                    (offset_of!(FlowEvent, rule), &7u32.to_ne_bytes()),
                    (offset_of!(FlowEvent, egress_rule), &8u32.to_ne_bytes()),
                    (offset_of!(FlowEvent, kind), &[kind]),
                    (offset_of!(FlowEvent, audit), &[audit]),
                    (offset_of!(FlowEvent, family), &[4]),
                    (offset_of!(FlowEvent, protocol), &[6]),
                    (offset_of!(FlowEvent, hook), &[0]),
                ],
            );
            let records = decode_flows(&event, ClockOffset(0)).unwrap();
            records.map(|r| (r.event, r.verdict, r.direction.unwrap(), r.rule.0)).collect::<Vec<_>>()
        };
        let (ingress, egress) = (Direction::Ingress, Direction::Egress);
        assert_eq!(told(1, 0), [(Event::New, Verdict::Forwarded, egress, 7)]);
        assert_eq!(told(1, 1), [(Event::New, Verdict::Audit, ingress, 7)]);
        assert_eq!(told(1, 2), [(Event::New, Verdict::Audit, egress, 8)]);
        // a connection begins once, whoever would deny it; and not when policy changes under it
        let both = |first| [(first, Verdict::Audit, egress, 8), (Event::Judged, Verdict::Audit, ingress, 7)].to_vec();
        assert_eq!((told(1, 3), told(3, 3)), (both(Event::New), both(Event::Judged)));
        assert_eq!(told(2, 0), [(Event::Closed, Verdict::Forwarded, egress, 7)]);
    }

    #[test]
    fn icmp_types_come_back_from_their_ports() {
        let kind = |protocol: u8, first: u16, second: u16| {
            let mut b = drop_bytes(if protocol == 1 { 4 } else { 6 });
            b[offset_of!(DropEvent, protocol)] = protocol;
            b[offset_of!(DropEvent, source_port)..][..2].copy_from_slice(&first.to_be_bytes());
            b[offset_of!(DropEvent, destination_port)..][..2].copy_from_slice(&second.to_be_bytes());
            decode_drop(&b, ClockOffset(0)).unwrap().transport
        };
        assert_eq!(kind(1, 4711, 8), Transport::Icmp { kind: 8, code: 0 });
        assert_eq!(kind(1, 8, 4711), Transport::Icmp { kind: 0, code: 0 });
        assert_eq!(kind(1, 0, 3), Transport::Icmp { kind: 3, code: 0 });
        assert_eq!(kind(58, 4711, 128), Transport::Icmpv6 { kind: 128, code: 0 });
        assert_eq!(kind(58, 128, 4711), Transport::Icmpv6 { kind: 129, code: 0 });
        assert_eq!(kind(58, 0, 135), Transport::Icmpv6 { kind: 135, code: 0 });
    }

    #[test]
    fn every_reason_of_the_programs_has_hubbles_name() {
        for reason in axoneme_abi::DropReason::ALL {
            assert_eq!(DropReason(*reason as u8).name(), reason.name());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn any_bytes_decode_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200), offset in any::<i64>()) {
            let _ = decode_drop(&bytes, ClockOffset(offset));
            let _ = decode_flow(&bytes, ClockOffset(offset));
            let _ = decode_flows(&bytes, ClockOffset(offset)).map(Iterator::count);
        }

        #[test]
        fn any_bytes_of_the_right_length_decode_alike_after_packing(
            body in proptest::collection::vec(any::<u8>(), 96..=96),
            family in proptest::sample::select(vec![0u8, 4, 6]),
            kind in 1..=3u8,
            offset in any::<i64>(),
        ) {
            let mut flow = body.clone();
            flow[offset_of!(FlowEvent, family)] = family.max(4);
            flow[offset_of!(FlowEvent, kind)] = kind;
            let record = decode_flow(&flow, ClockOffset(offset)).unwrap();
            prop_assert_eq!(Record::unpack(&record.pack()), record);
            let mut dropped = body[..size_of::<DropEvent>()].to_vec();
            dropped[offset_of!(DropEvent, family)] = family;
            let record = decode_drop(&dropped, ClockOffset(offset)).unwrap();
            prop_assert_eq!(Record::unpack(&record.pack()), record);
        }
    }
}
