//! Hubble's L3/L4 metrics, with its options and context labels.
//!
//! ```text
//!   flow:sourceContext=workload|namespace;labelsContext=source_ip,destination_ip   drop   flows-to-world:port;syn-only
//!   └ set └ option ─────────────────────  └ option ─────────────────────────────
//! ```
//!
//! *Guarantees*: a set has at most [`Metrics::SERIES`] series; what comes beyond is counted under the value `other` in
//! all of its labels, so that the sum stays right. Series of a pod that is gone go with it.
//!
//! *Caveats*: counters are of flows. A node tells a connection's first packet where it was met and where it went on to, and
//! the connection's end, where Cilium (with its default aggregation) tells some more. Only the set `flow`, which has the
//! point as a label, counts the first packet twice.

mod context;
mod serve;

use std::collections::{HashMap, HashSet};

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    export::Stats,
    pb::flow::{self as pb, layer4::Protocol as L4},
};
use context::Context;
pub use serve::{Feeder, serve};

/// Where Prometheus looks for them.
pub const PORT: u16 = 9965;
/// In every label of the series that the budget has no room for.
const OTHER: &str = "other";

type Labels = Vec<(&'static str, String)>;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Flow,
    Drop,
    Tcp,
    Icmp,
    PortDistribution,
    Policy,
    FlowsToWorld { any_drop: bool, port: bool, syn_only: bool },
}

impl Kind {
    const NAMES: [(&'static str, Self); 7] = [
        ("flow", Self::Flow),
        ("drop", Self::Drop),
        ("tcp", Self::Tcp),
        ("icmp", Self::Icmp),
        ("port-distribution", Self::PortDistribution),
        ("policy", Self::Policy),
        ("flows-to-world", Self::FlowsToWorld { any_drop: false, port: false, syn_only: false }),
    ];

    /// Name without prefix and `_total`, and what it is.
    fn metric(self) -> (&'static str, &'static str) {
        match self {
            Self::Flow => ("flows_processed", "Flows"),
            Self::Drop => ("drop", "Packets that were dropped"),
            Self::Tcp => ("tcp_flags", "Flows with a TCP flag"),
            Self::Icmp => ("icmp", "ICMP messages"),
            Self::PortDistribution => ("port_distribution", "Flows by destination port"),
            Self::Policy => ("policy_verdicts", "Verdicts of policy"),
            Self::FlowsToWorld { .. } => ("flows_to_world", "Flows to the outside of the cluster"),
        }
    }

    /// The labels of each count that a flow makes; none: it is not about this.
    fn labels(self, f: &pb::Flow) -> Vec<Labels> {
        match self {
            Self::Flow => {
                let (kind, sub) = event(f);
                vec![vec![("protocol", protocol(f)), ("type", kind), ("subtype", sub), ("verdict", verdict(f))]]
            }
            // policy's verdict on the packet is another flow of the same packet
            Self::Drop if f.verdict() == pb::Verdict::Dropped && event(f).0 != "PolicyVerdict" => {
                vec![vec![("reason", f.drop_reason_desc().as_str_name().into()), ("protocol", protocol(f))]]
            }
            _ if is_told_again(f) => Vec::new(),
            Self::Tcp if passed(f) => flags(f),
            Self::Icmp => icmp(f).into_iter().collect(),
            Self::PortDistribution if passed(f) && f.is_reply == Some(false) => l4(f)
                .map(|l| vec![("protocol", protocol(f)), ("port", port(l).unwrap_or_default().to_string())])
                .into_iter()
                .collect(),
            Self::Policy if event(f).0 == "PolicyVerdict" && f.source.as_ref().is_none_or(|s| s.identity != 1) => {
                let direction = f.traffic_direction().as_str_name().to_lowercase();
                let action = verdict(f).to_lowercase();
                vec![vec![("direction", direction), ("match", matched(f.policy_match_type)), ("action", action)]]
            }
            Self::FlowsToWorld { any_drop, port, syn_only } => {
                to_world(f, any_drop, port, syn_only).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }
}

fn l4(f: &pb::Flow) -> Option<&L4> {
    f.l4.as_ref()?.protocol.as_ref()
}

fn protocol(f: &pb::Flow) -> String {
    let name = match l4(f) {
        Some(L4::Tcp(_)) => "TCP",
        Some(L4::Udp(_)) => "UDP",
        Some(L4::IcmPv4(_)) => "ICMPv4",
        Some(L4::IcmPv6(_)) => "ICMPv6",
        Some(L4::Sctp(_)) => "SCTP",
        Some(L4::Vrrp(_)) => "VRRP",
        Some(L4::Igmp(_)) => "IGMP",
        None => "Unknown L4",
    };
    name.to_owned()
}

fn verdict(f: &pb::Flow) -> String {
    f.verdict().as_str_name().to_owned()
}

/// The flow of a connection's first packet where it went on to; that where it was met counts.
fn is_told_again(f: &pb::Flow) -> bool {
    use pb::TraceObservationPoint as Point;
    let to = [Point::ToEndpoint, Point::ToOverlay, Point::ToNetwork, Point::ToHost, Point::ToStack];
    f.trace_reason() == pb::TraceReason::New && to.contains(&f.trace_observation_point())
}

fn passed(f: &pb::Flow) -> bool {
    matches!(f.verdict(), pb::Verdict::Forwarded | pb::Verdict::Redirected)
}

/// Type and sub-type.
fn event(f: &pb::Flow) -> (String, String) {
    let event = f.event_type.unwrap_or_default();
    match event.r#type {
        1 => ("Drop".into(), String::new()),
        4 => ("Trace".into(), f.trace_observation_point().as_str_name().to_lowercase().replace('_', "-")),
        5 => ("PolicyVerdict".into(), String::new()),
        other => ("Unknown".into(), other.to_string()),
    }
}

fn flags(f: &pb::Flow) -> Vec<Labels> {
    let (Some(L4::Tcp(pb::Tcp { flags: Some(flags), .. })), Some(ip)) = (l4(f), &f.ip) else { return Vec::new() };
    let syn = if flags.ack { "SYN-ACK" } else { "SYN" };
    let set = [(flags.fin, "FIN"), (flags.syn, syn), (flags.rst, "RST")];
    let family = ip.ip_version().as_str_name();
    set.into_iter().filter(|s| s.0).map(|s| vec![("flag", s.1.to_owned()), ("family", family.to_owned())]).collect()
}

/// The summary names the type: `ICMPv4 EchoRequest`.
fn icmp(f: &pb::Flow) -> Option<Labels> {
    let (family, prefix) = match l4(f)? {
        L4::IcmPv4(_) => ("IPv4", "ICMPv4 "),
        L4::IcmPv6(_) => ("IPv6", "ICMPv6 "),
        _ => return None,
    };
    let kind = f.summary.strip_prefix(prefix).unwrap_or(&f.summary);
    Some(vec![("family", family.to_owned()), ("type", kind.to_owned())])
}

fn port(l: &L4) -> Option<u32> {
    match l {
        L4::Tcp(p) => Some(p.destination_port),
        L4::Udp(p) => Some(p.destination_port),
        L4::Sctp(p) => Some(p.destination_port),
        _ => None,
    }
}

fn matched(kind: u32) -> String {
    match kind {
        0 => "none",
        1 => "l3-only",
        2 => "l3-l4",
        3 => "l4-only",
        4 => "all",
        5 => "l3-proto",
        6 => "proto-only",
        _ => "unknown",
    }
    .to_owned()
}

fn to_world(f: &pb::Flow, any_drop: bool, with_port: bool, syn_only: bool) -> Option<Labels> {
    const WORLD: [&str; 3] = ["reserved:world", "reserved:world-ipv4", "reserved:world-ipv6"];
    let l4 = l4(f)?;
    if !f.destination.as_ref()?.labels.iter().any(|l| WORLD.contains(&l.as_str())) {
        return None;
    }
    let (dropped, reply) = (f.verdict() == pb::Verdict::Dropped, f.is_reply == Some(true));
    let syn = matches!(l4, L4::Tcp(pb::Tcp { flags: Some(flags), .. }) if flags.syn);
    let ignored = dropped && !any_drop && f.drop_reason_desc() != pb::DropReason::PolicyDenied
        || !dropped && reply
        || syn_only && (!syn || reply);
    if ignored {
        return None;
    }
    let mut labels = vec![("protocol", protocol(f)), ("verdict", verdict(f))];
    if with_port {
        labels.push(("port", port(l4).map(|p| p.to_string()).unwrap_or_default()));
    }
    Some(labels)
}

#[derive(Debug)]
struct Set {
    name: &'static str,
    kind: Kind,
    context: Context,
    family: Family<Labels, Counter>,
    known: HashSet<Labels>,
    series: Gauge,
}

impl Set {
    fn count(&mut self, flow: &pb::Flow, budget: usize) {
        for mut labels in self.kind.labels(flow) {
            labels.extend(self.context.labels(flow));
            if !self.known.contains(&labels) {
                if self.known.len() >= budget {
                    for (_, value) in &mut labels {
                        OTHER.clone_into(value);
                    }
                } else {
                    self.known.insert(labels.clone());
                    self.series.set(i64::try_from(self.known.len()).unwrap_or(i64::MAX));
                }
            }
            self.family.get_or_create(&labels).inc();
        }
    }

    fn forget(&mut self, namespace: &str, pod: &str) {
        let context = &self.context;
        let gone: Vec<Labels> = self.known.iter().filter(|l| context.is_of(l, namespace, pod)).cloned().collect();
        for labels in gone {
            self.family.remove(&labels);
            self.known.remove(&labels);
        }
        self.series.set(i64::try_from(self.known.len()).unwrap_or(i64::MAX));
    }
}

/// The sets that a node counts.
#[derive(Debug)]
pub struct Metrics {
    sets: Vec<Set>,
    registry: Registry,
    budget: usize,
    lost: Family<Labels, Counter>,
    exported: [Family<Labels, Counter>; 2],
    before: HashMap<Labels, u64>,
}

/// A set or option that cannot be used. Reads `flow:sourceContext=x: …`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metric {text:?}: {what}")]
pub struct MetricError {
    pub text: String,
    pub what: String,
}

impl Metrics {
    /// Series that a set may have.
    pub const SERIES: usize = 2000;

    /// The sets, each as `name` or `name:option;option=value|value`.
    pub fn parse<'a>(sets: impl IntoIterator<Item = &'a str>, budget: usize) -> Result<Self, MetricError> {
        let mut registry = Registry::with_prefix("hubble");
        let series = Family::<Labels, Gauge>::default();
        registry.register("metric_series", "Series of a set of metrics", series.clone());
        let (limit, lost) = (Gauge::<i64>::default(), Family::default());
        limit.set(i64::try_from(budget).unwrap_or(i64::MAX));
        registry.register("metric_series_budget", "Series that a set may have before it counts as other", limit);
        registry.register("lost_events", "Events that nobody saw", lost.clone());
        let exported = [Family::default(), Family::default()];
        let [lines, left] = &exported;
        registry.register("export_lines", "Flows and losses that an exporter has written", lines.clone());
        registry.register("export_lost_lines", "Flows that an exporter should have written and has not", left.clone());
        let mut all: Vec<Set> = Vec::new();
        for text in sets {
            let fail = |what: String| MetricError { text: text.to_owned(), what };
            let (kind, context) = parse(text).map_err(fail)?;
            let (name, help) = kind.metric();
            if all.iter().any(|s| s.name == name) {
                return Err(fail("given twice".to_owned()));
            }
            let family = Family::default();
            registry.register(name, help, family.clone());
            let gauge = series.get_or_create_owned(&vec![("metric", format!("hubble_{name}_total"))]);
            all.push(Set { name, kind, context, family, known: HashSet::new(), series: gauge });
        }
        Ok(Self { sets: all, registry, budget, lost, exported, before: HashMap::new() })
    }

    /// Counts a flow.
    pub fn count(&mut self, flow: &pb::Flow) {
        for set in &mut self.sets {
            set.count(flow, self.budget);
        }
    }

    /// Takes a pod's series away.
    pub fn forget(&mut self, namespace: &str, pod: &str) {
        self.sets.iter_mut().for_each(|s| s.forget(namespace, pod));
    }

    /// Events lost so far, by source.
    pub fn set_lost(&mut self, totals: impl IntoIterator<Item = (&'static str, u64)>) {
        for (source, total) in totals {
            let labels = vec![("source", source.to_owned())];
            let more = self.more(&labels, total);
            self.lost.get_or_create(&labels).inc_by(more);
        }
    }

    /// What an exporter has written so far, and what it has not.
    pub fn set_exported(&mut self, exporter: &str, stats: &Stats) {
        let labels = vec![("exporter", exporter.to_owned())];
        let more = self.more(&labels, stats.lines());
        self.exported[0].get_or_create(&labels).inc_by(more);
        for (cause, total) in stats.lost() {
            let labels = vec![("exporter", exporter.to_owned()), ("cause", cause.to_owned())];
            let more = self.more(&labels, total);
            self.exported[1].get_or_create(&labels).inc_by(more);
        }
    }

    /// By how much a total has grown.
    fn more(&mut self, of: &Labels, total: u64) -> u64 {
        let before = self.before.entry(of.clone()).or_default();
        let more = total.saturating_sub(*before);
        *before += more;
        more
    }

    /// The text that Prometheus reads.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        // writing to a string does not fail
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

fn parse(text: &str) -> Result<(Kind, Context), String> {
    let (name, options) = text.split_once(':').unwrap_or((text, ""));
    let known = || Kind::NAMES.map(|n| n.0).join(", ");
    let mut kind = Kind::NAMES
        .iter()
        .find(|n| n.0.eq_ignore_ascii_case(name))
        .map(|n| n.1)
        .ok_or_else(|| format!("there is no set {name:?}; use one of {}", known()))?;
    let mut context = Context::default();
    for option in options.split(';').filter(|o| !o.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let lower = key.to_lowercase();
        match (&mut kind, lower.as_str()) {
            (Kind::FlowsToWorld { any_drop, .. }, "any-drop") => *any_drop = true,
            (Kind::FlowsToWorld { port, .. }, "port") => *port = true,
            (Kind::FlowsToWorld { syn_only, .. }, "syn-only") => *syn_only = true,
            _ => context.set(&lower, value).map_err(|what| format!("{key}: {what}"))?,
        }
    }
    Ok((kind, context))
}

#[cfg(test)]
mod tests;
