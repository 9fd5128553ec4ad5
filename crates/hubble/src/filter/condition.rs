//! One field of a filter, ready to be asked.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use axoneme_flow::filter::labels_of;
use axoneme_model::{Cidr, Selector};
use regex::Regex;

use super::cel;
use crate::{
    convert,
    pb::flow::{self as pb, layer4::Protocol as L4, layer7::Record as L7},
};

/// Which end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

/// Whose labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    End(End),
    Node,
}

/// Addresses of the network header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Address {
    End(End),
    /// The source after translation.
    Translated,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    pub(super) exact: HashSet<IpAddr>,
    pub(super) prefixes: Vec<Cidr>,
}

impl Addresses {
    pub(super) fn contain(&self, address: IpAddr) -> bool {
        self.exact.contains(&address) || self.prefixes.iter().any(|p| p.contains(address))
    }
}

/// A namespaced name: empty means any, the name is a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamePattern {
    pub(super) namespace: Arc<str>,
    pub(super) prefix: Arc<str>,
}

impl NamePattern {
    fn matches(&self, namespace: &str, name: &str) -> bool {
        name.starts_with(&*self.prefix) && (self.namespace.is_empty() || *self.namespace == *namespace)
    }
}

/// Protocols by the names that filters have for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Icmp,
    IcmpV4,
    IcmpV6,
    Tcp,
    Udp,
    Sctp,
    Vrrp,
    Igmp,
    Dns,
    Http,
}

impl Protocol {
    pub(super) const NAMES: [(&'static str, Self); 10] = [
        ("icmp", Self::Icmp),
        ("icmpv4", Self::IcmpV4),
        ("icmpv6", Self::IcmpV6),
        ("tcp", Self::Tcp),
        ("udp", Self::Udp),
        ("sctp", Self::Sctp),
        ("vrrp", Self::Vrrp),
        ("igmp", Self::Igmp),
        ("dns", Self::Dns),
        ("http", Self::Http),
    ];

    fn is(self, l4: Option<&L4>, l7: Option<&L7>) -> bool {
        match self {
            Self::Icmp => matches!(l4, Some(L4::IcmPv4(_) | L4::IcmPv6(_))),
            Self::IcmpV4 => matches!(l4, Some(L4::IcmPv4(_))),
            Self::IcmpV6 => matches!(l4, Some(L4::IcmPv6(_))),
            Self::Tcp => matches!(l4, Some(L4::Tcp(_))),
            Self::Udp => matches!(l4, Some(L4::Udp(_))),
            Self::Sctp => matches!(l4, Some(L4::Sctp(_))),
            Self::Vrrp => matches!(l4, Some(L4::Vrrp(_))),
            Self::Igmp => matches!(l4, Some(L4::Igmp(_))),
            Self::Dns => matches!(l7, Some(L7::Dns(_))),
            Self::Http => matches!(l7, Some(L7::Http(_))),
        }
    }
}

/// `404`, or `4+`: the digits that a status begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status(pub(super) String);

/// One field. Of its values any may match.
#[derive(Clone, Debug)]
pub(super) enum Condition {
    Uuid(HashSet<String>),
    EventType(Vec<pb::EventTypeFilter>),
    Verdict(Vec<i32>),
    DropReason(Vec<i32>),
    Reply(Vec<bool>),
    Encrypted(Vec<bool>),
    Identity(End, HashSet<u32>),
    Protocol(Vec<Protocol>),
    Ip(Address, Addresses),
    IpVersion(Vec<i32>),
    Pod(End, Vec<NamePattern>),
    Workload(End, Vec<pb::Workload>),
    Service(End, Vec<NamePattern>),
    Cluster(End, Vec<String>),
    Fqdn(End, Regex),
    Labels(Holder, Vec<Selector>),
    Port(End, HashSet<u16>),
    Direction(Vec<i32>),
    Interface(Vec<pb::NetworkInterface>),
    /// All flags of one of the sets are set.
    TcpFlags(Vec<u16>),
    NodeName(Regex),
    TraceId(Vec<String>),
    IpTraceId(Vec<u64>),
    DnsQuery(Vec<Regex>),
    HttpStatus(Vec<Status>),
    /// In upper case.
    HttpMethod(Vec<String>),
    HttpPath(Vec<Regex>),
    HttpUrl(Vec<Regex>),
    HttpHeader(Vec<pb::HttpHeader>),
    /// One of the expressions says so.
    Cel(Vec<Arc<cel::Program>>),
}

impl Condition {
    pub(super) fn matches(&self, flow: &pb::Flow) -> bool {
        match self {
            Self::Uuid(ids) => ids.contains(&flow.uuid),
            Self::EventType(types) => flow.event_type.as_ref().is_some_and(|e| event_type(types, *e)),
            Self::Verdict(verdicts) => verdicts.contains(&flow.verdict),
            Self::DropReason(reasons) => {
                flow.verdict == i32::from(pb::Verdict::Dropped) && reasons.contains(&flow.drop_reason_desc)
            }
            Self::Reply(wanted) => reply(wanted, flow.is_reply, flow.verdict),
            Self::Encrypted(wanted) => wanted.contains(&flow.ip.as_ref().is_some_and(|ip| ip.encrypted)),
            Self::Identity(end, ids) => endpoint(flow, *end).is_some_and(|e| ids.contains(&e.identity)),
            Self::Protocol(protocols) => {
                let (l4, l7) = (l4(flow), l7(flow));
                protocols.iter().any(|p| p.is(l4, l7))
            }
            Self::Ip(which, addresses) => address(flow, *which).is_some_and(|a| addresses.contain(a)),
            Self::IpVersion(versions) => versions.contains(&flow.ip.as_ref().map_or(0, |ip| ip.ip_version)),
            Self::Pod(end, names) => endpoint(flow, *end).is_some_and(|e| named(names, &e.namespace, &e.pod_name)),
            Self::Service(end, names) => service(flow, *end).is_some_and(|s| named(names, &s.namespace, &s.name)),
            Self::Workload(end, workloads) => {
                endpoint(flow, *end).is_some_and(|e| e.workloads.iter().any(|w| workload(workloads, w)))
            }
            Self::Cluster(end, names) => endpoint(flow, *end).is_some_and(|e| names.contains(&e.cluster_name)),
            Self::Fqdn(end, pattern) => names(flow, *end).iter().any(|n| pattern.is_match(n)),
            Self::Labels(holder, selectors) => {
                let labels = labels_of(labels(flow, *holder));
                selectors.iter().any(|s| s.matches(&labels))
            }
            Self::Port(end, ports) => port(flow, *end).is_some_and(|p| ports.contains(&p)),
            Self::Direction(directions) => directions.contains(&flow.traffic_direction),
            Self::Interface(wanted) => flow.interface.as_ref().is_some_and(|i| interface(wanted, i)),
            Self::TcpFlags(sets) => {
                matches!(l4(flow), Some(L4::Tcp(pb::Tcp { flags: Some(f), .. })) if has_flags(sets, convert::flag_bits(f)))
            }
            Self::NodeName(pattern) => node_name(&flow.node_name).is_some_and(|n| pattern.is_match(&n)),
            Self::TraceId(ids) => {
                let parent = flow.trace_context.as_ref().and_then(|c| c.parent.as_ref());
                ids.iter().any(|id| *id == parent.map_or("", |p| &p.trace_id))
            }
            Self::IpTraceId(ids) => ids.contains(&flow.ip_trace_id.as_ref().map_or(0, |t| t.trace_id)),
            Self::DnsQuery(patterns) => {
                matches!(l7(flow), Some(L7::Dns(d)) if patterns.iter().any(|p| p.is_match(&d.query)))
            }
            Self::HttpStatus(_) | Self::HttpMethod(_) | Self::HttpPath(_) | Self::HttpUrl(_) | Self::HttpHeader(_) => {
                matches!(l7(flow), Some(L7::Http(http)) if self.matches_http(http))
            }
            Self::Cel(programs) => {
                let subject = cel::Subject::new(flow);
                programs.iter().any(|p| p.matches(&subject))
            }
        }
    }

    fn matches_http(&self, http: &pb::Http) -> bool {
        match self {
            Self::HttpStatus(wanted) => {
                let code = format!("{:03}", http.code);
                http.code != 0 && wanted.iter().any(|w| code.starts_with(&w.0))
            }
            Self::HttpMethod(methods) => methods.iter().any(|m| m.eq_ignore_ascii_case(&http.method)),
            Self::HttpPath(patterns) => path(&http.url).is_some_and(|path| patterns.iter().any(|p| p.is_match(&path))),
            Self::HttpUrl(patterns) => !http.url.is_empty() && patterns.iter().any(|p| p.is_match(&http.url)),
            Self::HttpHeader(headers) => http.headers.iter().any(|h| headers.contains(h)),
            _ => false,
        }
    }
}

pub(super) fn event_type(wanted: &[pb::EventTypeFilter], event: pb::CiliumEventType) -> bool {
    let matches = |f: &pb::EventTypeFilter| {
        (f.r#type == 0 || f.r#type == event.r#type) && (!f.match_sub_type || f.sub_type == event.sub_type)
    };
    wanted.iter().any(matches)
}

/// A drop that nobody knows of whether it was a reply counts as none: the older field `reply` said so.
pub(super) fn reply(wanted: &[bool], is_reply: Option<bool>, verdict: i32) -> bool {
    let known = is_reply.or((verdict == i32::from(pb::Verdict::Dropped)).then_some(false));
    known.is_some_and(|r| wanted.contains(&r))
}

pub(super) fn has_flags(sets: &[u16], flags: u16) -> bool {
    sets.iter().any(|s| flags & s == *s)
}

fn named(patterns: &[NamePattern], namespace: &str, name: &str) -> bool {
    !(namespace.is_empty() && name.is_empty()) && patterns.iter().any(|p| p.matches(namespace, name))
}

fn workload(wanted: &[pb::Workload], found: &pb::Workload) -> bool {
    let is = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
    wanted.iter().any(|w| is(&w.name, &found.name) && is(&w.kind, &found.kind))
}

fn interface(wanted: &[pb::NetworkInterface], found: &pb::NetworkInterface) -> bool {
    let one = |w: &pb::NetworkInterface| {
        (w.index == 0 || w.index == found.index) && (w.name.is_empty() || w.name == found.name)
    };
    wanted.iter().any(one)
}

fn l4(flow: &pb::Flow) -> Option<&L4> {
    flow.l4.as_ref()?.protocol.as_ref()
}

fn l7(flow: &pb::Flow) -> Option<&L7> {
    flow.l7.as_ref()?.record.as_ref()
}

fn endpoint(flow: &pb::Flow, end: End) -> Option<&pb::Endpoint> {
    match end {
        End::Source => flow.source.as_ref(),
        End::Destination => flow.destination.as_ref(),
    }
}

fn service(flow: &pb::Flow, end: End) -> Option<&pb::Service> {
    match end {
        End::Source => flow.source_service.as_ref(),
        End::Destination => flow.destination_service.as_ref(),
    }
}

fn names(flow: &pb::Flow, end: End) -> &[String] {
    match end {
        End::Source => &flow.source_names,
        End::Destination => &flow.destination_names,
    }
}

fn labels(flow: &pb::Flow, holder: Holder) -> &[String] {
    match holder {
        Holder::End(end) => endpoint(flow, end).map_or(&[], |e| &e.labels),
        Holder::Node => &flow.node_labels,
    }
}

fn address(flow: &pb::Flow, which: Address) -> Option<IpAddr> {
    let ip = flow.ip.as_ref()?;
    let text = match which {
        Address::End(End::Source) => &ip.source,
        Address::End(End::Destination) => &ip.destination,
        Address::Translated => &ip.source_xlated,
    };
    text.parse().ok()
}

fn port(flow: &pb::Flow, end: End) -> Option<u16> {
    let (source, destination) = match l4(flow)? {
        L4::Tcp(p) => (p.source_port, p.destination_port),
        L4::Udp(p) => (p.source_port, p.destination_port),
        L4::Sctp(p) => (p.source_port, p.destination_port),
        _ => return None,
    };
    u16::try_from(if end == End::Source { source } else { destination }).ok()
}

/// With a cluster, which is `default` where it has no other name.
fn node_name(name: &str) -> Option<String> {
    if name.is_empty() {
        None
    } else if name.contains('/') {
        Some(name.to_owned())
    } else {
        Some(format!("default/{name}"))
    }
}

/// The decoded path of an absolute URL or path; none if it is neither.
fn path(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    if uri.scheme().is_none() && !url.starts_with('/') {
        return None;
    }
    Some(percent_encoding::percent_decode_str(uri.path()).decode_utf8_lossy().into_owned())
}
