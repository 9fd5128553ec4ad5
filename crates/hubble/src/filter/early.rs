//! What a condition says of a bare record, where that is certain.
//!
//! Three-valued logic (Kleene's): none stands for "depends on names".

use axoneme_flow::{
    Facet, Record, TcpFlags, Transport,
    flow::{EventType, IpVersion},
    record,
};
use axoneme_model::Identity;

use super::condition::{self, Address, Condition, End, Protocol};
use crate::{convert, pb::flow as pb};

pub(super) fn all(answers: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut sum = Some(true);
    for answer in answers {
        match answer {
            Some(false) => return Some(false),
            None => sum = None,
            Some(true) => {}
        }
    }
    sum
}

pub(super) fn any(answers: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    all(answers.map(|a| a.map(|yes| !yes))).map(|none| !none)
}

pub(super) fn matches(condition: &Condition, r: &Record, facet: Facet) -> Option<bool> {
    let verdict = || i32::from(convert::verdict(r.verdict, facet));
    match condition {
        Condition::Verdict(wanted) => Some(wanted.contains(&verdict())),
        Condition::DropReason(wanted) => {
            Some(verdict() == i32::from(pb::Verdict::Dropped) && wanted.contains(&i32::from(r.reason.0)))
        }
        Condition::EventType(wanted) => {
            Some(condition::event_type(wanted, convert::event_type(EventType::of(r), Some(r.onward), facet)))
        }
        Condition::Ip(which, addresses) => {
            let of = |(source, destination)| match which {
                Address::End(End::Source) => Some(source),
                Address::End(End::Destination) => Some(destination),
                Address::Translated => None,
            };
            Some(r.ends.and_then(of).is_some_and(|a| addresses.contain(a)))
        }
        Condition::IpVersion(wanted) => {
            let version = r.ends.map_or(pb::IpVersion::IpNotUsed, |(s, _)| {
                convert::ip_version(if s.is_ipv4() { IpVersion::IPv4 } else { IpVersion::IPv6 })
            });
            Some(wanted.contains(&version.into()))
        }
        Condition::Port(end, ports) => {
            let port = r.ends.and_then(|_| r.transport.ports()).map(|(s, d)| if *end == End::Source { s } else { d });
            Some(port.is_some_and(|p| ports.contains(&p)))
        }
        Condition::Protocol(wanted) => Some(r.ends.is_some() && wanted.iter().any(|p| is(*p, r.transport))),
        Condition::TcpFlags(sets) => Some(match r.transport {
            Transport::Tcp { flags: TcpFlags(bits), .. } => r.ends.is_some() && condition::has_flags(sets, bits),
            _ => false,
        }),
        Condition::Reply(wanted) => {
            Some(condition::reply(wanted, convert::is_reply(r.reply, r.verdict, facet), verdict()))
        }
        // whose policy judged is a matter of the rule
        Condition::Direction(wanted) if facet != Facet::Judgement => {
            let met = r.direction.map(Into::into);
            let seen = if facet == Facet::Onward { convert::onward_direction(met, Some(r.onward)) } else { met };
            let direction = seen.map_or(pb::TrafficDirection::Unknown, convert::traffic_direction);
            Some(wanted.contains(&direction.into()))
        }
        Condition::Identity(End::Source, ids) => identity(r.source_identity).map(|id| ids.contains(&id)),
        Condition::Identity(End::Destination, ids) => identity(r.destination_identity).map(|id| ids.contains(&id)),
        // nothing in a record is a proxy's
        Condition::DnsQuery(_)
        | Condition::HttpStatus(_)
        | Condition::HttpMethod(_)
        | Condition::HttpPath(_)
        | Condition::HttpUrl(_)
        | Condition::HttpHeader(_) => Some(false),
        _ => None,
    }
}

/// Zero is looked up by the address.
fn identity(id: Identity) -> Option<u32> {
    (id != Identity::UNKNOWN).then_some(id.0)
}

fn is(protocol: Protocol, transport: record::Transport) -> bool {
    match protocol {
        Protocol::Icmp => matches!(transport, Transport::Icmp { .. } | Transport::Icmpv6 { .. }),
        Protocol::IcmpV4 => matches!(transport, Transport::Icmp { .. }),
        Protocol::IcmpV6 => matches!(transport, Transport::Icmpv6 { .. }),
        Protocol::Tcp => matches!(transport, Transport::Tcp { .. }),
        Protocol::Udp => matches!(transport, Transport::Udp { .. }),
        Protocol::Sctp => matches!(transport, Transport::Sctp { .. }),
        Protocol::Vrrp | Protocol::Igmp | Protocol::Dns | Protocol::Http => false,
    }
}
