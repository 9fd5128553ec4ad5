//! Which flows a reader wants: a predicate of conditions that compose.

use std::{net::IpAddr, sync::Arc};

use axoneme_model::{Cidr, Identity, LabelKey, Labels, Selector};

use crate::{
    flow::{Endpoint, Flow, Layer4, TrafficDirection},
    reason::DropReason,
    record::{TcpFlags, Verdict},
};

/// Which end of the flow a condition is about. `Either` holds if it holds for one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
    Either,
}

impl Side {
    fn holds(self, source: impl FnOnce() -> bool, destination: impl FnOnce() -> bool) -> bool {
        match self {
            Self::Source => source(),
            Self::Destination => destination(),
            Self::Either => source() || destination(),
        }
    }
}

/// A pod by namespace (empty: any) and the beginning of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPattern {
    pub namespace: Arc<str>,
    pub name_prefix: Arc<str>,
}

/// Both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

/// A protocol as filters name it; `icmp` is both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolWord {
    Icmp,
    Icmpv4,
    Icmpv6,
    Tcp,
    Udp,
    Sctp,
    /// By number, for those without a message in Hubble's API.
    Number(u8),
}

impl ProtocolWord {
    const NAMED: [(&'static str, Self); 8] = [
        ("tcp", Self::Tcp),
        ("udp", Self::Udp),
        ("sctp", Self::Sctp),
        ("icmp", Self::Icmp),
        ("icmpv4", Self::Icmpv4),
        ("icmpv6", Self::Icmpv6),
        ("vrrp", Self::Number(112)),
        ("igmp", Self::Number(2)),
    ];

    /// The protocol of that name, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|p| p.0.eq_ignore_ascii_case(name)).map(|p| p.1)
    }

    /// All names, for messages that list the choices.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::NAMED.iter().map(|p| p.0)
    }

    fn matches(self, flow: &Flow) -> bool {
        match (self, flow.l4) {
            (Self::Icmp, Some(Layer4::Icmpv4 { .. } | Layer4::Icmpv6 { .. }))
            | (Self::Icmpv4, Some(Layer4::Icmpv4 { .. }))
            | (Self::Icmpv6, Some(Layer4::Icmpv6 { .. }))
            | (Self::Tcp, Some(Layer4::Tcp { .. }))
            | (Self::Udp, Some(Layer4::Udp { .. }))
            | (Self::Sctp, Some(Layer4::Sctp { .. })) => true,
            (Self::Number(n), _) => flow.extensions.protocol == n,
            _ => false,
        }
    }
}

/// One condition. Of several values any may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Pod(Side, Vec<PodPattern>),
    Namespace(Side, Vec<Arc<str>>),
    Ip(Side, Vec<Cidr>),
    Port(Side, Vec<PortRange>),
    Identity(Side, Vec<Identity>),
    Label(Side, Vec<Selector>),
    Verdict(Vec<Verdict>),
    Reason(Vec<DropReason>),
    Protocol(Vec<ProtocolWord>),
    /// All flags of one of the sets are set.
    TcpFlags(Vec<TcpFlags>),
    Direction(Vec<TrafficDirection>),
    /// A policy that decided, by namespace (none: any) and name.
    Policy(Vec<(Option<Arc<str>>, Arc<str>)>),
    Reply(bool),
}

impl Condition {
    #[must_use]
    pub fn matches(&self, flow: &Flow) -> bool {
        let ends = |side: Side, test: &dyn Fn(&Endpoint) -> bool| {
            side.holds(|| test(&flow.source), || test(&flow.destination))
        };
        match self {
            Self::All(c) => c.iter().all(|c| c.matches(flow)),
            Self::Any(c) => c.iter().any(|c| c.matches(flow)),
            Self::Not(c) => !c.matches(flow),
            Self::Pod(side, pods) => ends(*side, &|e| pods.iter().any(|p| p.matches(e))),
            Self::Namespace(side, names) => ends(*side, &|e| names.iter().any(|n| **n == e.namespace)),
            Self::Identity(side, ids) => ends(*side, &|e| ids.contains(&Identity(e.identity))),
            Self::Label(side, selectors) => ends(*side, &|e| {
                let labels = labels(e);
                selectors.iter().any(|s| s.matches(&labels))
            }),
            Self::Ip(side, prefixes) => {
                let in_one = |a: IpAddr| prefixes.iter().any(|p| p.contains(a));
                flow.ip.as_ref().is_some_and(|ip| side.holds(|| in_one(ip.source), || in_one(ip.destination)))
            }
            Self::Port(side, ranges) => flow.ports().is_some_and(|(source, destination)| {
                let in_one = |port: u16| ranges.iter().any(|r| r.first <= port && port <= r.last);
                side.holds(|| in_one(source), || in_one(destination))
            }),
            Self::Verdict(verdicts) => verdicts.contains(&flow.verdict),
            Self::Reason(reasons) => flow.drop_reason_desc.is_some_and(|r| reasons.contains(&r)),
            Self::Protocol(words) => words.iter().any(|w| w.matches(flow)),
            Self::TcpFlags(sets) => {
                matches!(flow.l4, Some(Layer4::Tcp { flags, .. }) if sets.iter().any(|s| flags.contains(*s)))
            }
            Self::Direction(directions) => flow.traffic_direction.is_some_and(|d| directions.contains(&d)),
            Self::Policy(names) => flow.decided_by().any(|(p, _)| {
                names.iter().any(|(ns, name)| *name == p.name && ns.as_ref().is_none_or(|ns| *ns == p.namespace))
            }),
            Self::Reply(reply) => flow.is_reply == Some(*reply),
        }
    }
}

impl PodPattern {
    fn matches(&self, endpoint: &Endpoint) -> bool {
        !endpoint.pod_name.is_empty()
            && (self.namespace.is_empty() || *self.namespace == endpoint.namespace)
            && endpoint.pod_name.starts_with(&*self.name_prefix)
    }
}

fn labels(endpoint: &Endpoint) -> Labels {
    labels_of(&endpoint.labels)
}

/// Back from the strings of a flow: `source:key=value`.
#[must_use]
pub fn labels_of(texts: &[String]) -> Labels {
    let parse = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (LabelKey::parse(key), value.into())
    };
    texts.iter().map(parse).collect()
}

/// A whole filter. The default matches everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(Condition);

impl Default for Filter {
    fn default() -> Self {
        Self(Condition::All(Vec::new()))
    }
}

impl Filter {
    #[must_use]
    pub fn new(condition: Condition) -> Self {
        Self(condition)
    }

    #[must_use]
    pub fn matches(&self, flow: &Flow) -> bool {
        self.0.matches(flow)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    //! The filter against a naive model that reads the flow's JSON and the words of the spec, and shares no code.

    use std::net::IpAddr;

    use proptest::{option, prelude::*, sample::select, strategy::LazyJust};
    use serde_json::Value;

    use crate::{Enricher, FilterSpec, testing};

    fn number(address: IpAddr) -> (u8, u128) {
        match address {
            IpAddr::V4(a) => (32, u128::from(u32::from(a))),
            IpAddr::V6(a) => (128, u128::from(a)),
        }
    }

    fn text<'a>(v: &'a Value, path: &str) -> &'a str {
        v.pointer(path).and_then(Value::as_str).unwrap_or("")
    }

    fn naive_ip(v: &Value, side: &str, value: &str) -> bool {
        let Ok(address) = text(v, &format!("/IP/{side}")).parse() else { return false };
        let (bits, address) = number(address);
        let (base, length) = value.split_once('/').unwrap_or((value, ""));
        let (base_bits, base) = number(base.parse().unwrap());
        let length: u8 = if length.is_empty() { bits } else { length.parse().unwrap() };
        let shift = |n: u128| if length == 0 { 0 } else { n >> (bits - length) };
        bits == base_bits && shift(address) == shift(base)
    }

    fn naive_port(v: &Value, side: &str, value: &str) -> bool {
        let Some(l4) = v.get("l4") else { return false };
        let Some(ports) = ["TCP", "UDP", "SCTP"].iter().find_map(|p| l4.get(*p)) else { return false };
        let port = ports.get(format!("{side}_port")).and_then(Value::as_u64).unwrap_or(0);
        match value.split_once('-') {
            Some((a, b)) => (a.parse().unwrap()..=b.parse().unwrap()).contains(&port),
            None => value.parse() == Ok(port),
        }
    }

    fn naive_label(v: &Value, side: &str, value: &str) -> bool {
        let labels: Vec<&str> = v[side]["labels"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        match value {
            "app=web" => labels.contains(&"k8s:app=web"),
            "k8s:app in (web, api)" => labels.contains(&"k8s:app=web") || labels.contains(&"k8s:app=api"),
            "tier" => labels.iter().any(|l| l.starts_with("cni:tier=")),
            "!k8s:tier" => true,
            "app!=web" => !labels.contains(&"k8s:app=web"),
            other => unreachable!("{other}"),
        }
    }

    fn naive_end(v: &Value, side: &str, field: &str, value: &str) -> bool {
        let (namespace, pod) = (text(v, &format!("/{side}/namespace")), text(v, &format!("/{side}/pod_name")));
        match field {
            "pod" if !value.contains('/') => !pod.is_empty() && namespace == "default" && pod.starts_with(value),
            "pod" => {
                let (ns, name) = value.split_once('/').unwrap();
                !pod.is_empty() && (ns.is_empty() || ns == namespace) && pod.starts_with(name)
            }
            "namespace" => namespace == value,
            "identity" => {
                let wanted = if value == "health" { 4 } else { value.parse().unwrap() };
                v[side]["identity"].as_u64().unwrap_or(0) == wanted
            }
            "ip" => naive_ip(v, side, value),
            "port" => naive_port(v, side, value),
            "label" => naive_label(v, side, value),
            other => unreachable!("{other}"),
        }
    }

    fn naive_field(v: &Value, field: &str, value: &str) -> bool {
        match field {
            "verdict" => text(v, "/verdict").eq_ignore_ascii_case(value),
            "drop_reason_desc" => text(v, "/drop_reason_desc").eq_ignore_ascii_case(value),
            "traffic_direction" => text(v, "/traffic_direction").eq_ignore_ascii_case(value),
            "protocol" => match value {
                "icmp" => v["l4"].get("ICMPv4").is_some() || v["l4"].get("ICMPv6").is_some(),
                "vrrp" => v["extensions"]["protocol"] == 112,
                other => v["l4"].get(other.to_uppercase()).is_some(),
            },
            "tcp_flags" => value.split(',').all(|f| v["l4"]["TCP"]["flags"][f] == true),
            "policy" => {
                let lists = ["egress_denied_by", "ingress_denied_by", "egress_allowed_by", "ingress_allowed_by"];
                let mut all = lists.iter().filter_map(|l| v[*l].as_array()).flatten();
                all.any(|p| match value.split_once('/') {
                    Some((ns, name)) => p["name"] == name && text(p, "/namespace") == ns,
                    None => p["name"] == value,
                })
            }
            _ => match (field.strip_prefix("from_"), field.strip_prefix("to_")) {
                (Some(f), _) => naive_end(v, "source", f, value),
                (_, Some(f)) => naive_end(v, "destination", f, value),
                _ => naive_end(v, "source", field, value) || naive_end(v, "destination", field, value),
            },
        }
    }

    fn naive(v: &Value, spec: &Value) -> bool {
        spec.as_object().unwrap().iter().all(|(field, values)| match (field.as_str(), values) {
            ("not", Value::Object(inner)) => inner.is_empty() || !naive(v, values),
            ("reply", Value::Bool(reply)) => v["is_reply"] == *reply,
            (field, Value::Array(values)) => values.iter().any(|x| naive_field(v, field, x.as_str().unwrap())),
            other => unreachable!("{other:?}"),
        })
    }

    /// None or up to two of the values, mostly none.
    fn some(values: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
        let pick = proptest::sample::subsequence(values, 1..=2.min(values.len()));
        option::weighted(0.12, pick).prop_map(|v| v.unwrap_or_default().into_iter().map(str::to_owned).collect())
    }

    const PODS: &[&str] = &["shop/web-1", "shop/", "/web-2", "web-", "ops/web-4"];
    const NAMESPACES: &[&str] = &["shop", "ops", "none"];
    const IPS: &[&str] = &["10.0.0.1", "10.0.0.0/28", "fd00::1:0/112", "0.0.0.0/0", "10.0.3.7"];
    const PORTS: &[&str] = &["80", "1-100", "443", "0", "8080"];
    const IDENTITIES: &[&str] = &["3", "health", "7", "11"];
    const LABELS: &[&str] = &["app=web", "k8s:app in (web, api)", "tier", "!k8s:tier", "app!=web"];

    pub(crate) fn arbitrary_spec() -> impl Strategy<Value = FilterSpec> {
        let ends = |v| (some(v), some(v), some(v));
        let rest = (
            some(&["FORWARDED", "dropped", "AUDIT"]),
            some(&["POLICY_DENIED", "invalid_source_ip"]),
            some(&["tcp", "udp", "sctp", "icmp", "vrrp"]),
            some(&["SYN", "ACK,FIN"]),
            some(&["ingress", "EGRESS"]),
            some(&["p1", "shop/p2", "ops/p1", "p3"]),
            option::weighted(0.1, any::<bool>()),
        );
        let all = (ends(PODS), ends(NAMESPACES), ends(IPS), ends(PORTS), ends(IDENTITIES), ends(LABELS), rest);
        all.prop_map(|(pod, namespace, ip, port, identity, label, rest)| FilterSpec {
            pod: pod.0,
            from_pod: pod.1,
            to_pod: pod.2,
            namespace: namespace.0,
            from_namespace: namespace.1,
            to_namespace: namespace.2,
            ip: ip.0,
            from_ip: ip.1,
            to_ip: ip.2,
            port: port.0,
            from_port: port.1,
            to_port: port.2,
            identity: identity.0,
            from_identity: identity.1,
            to_identity: identity.2,
            label: label.0,
            from_label: label.1,
            to_label: label.2,
            verdict: rest.0,
            drop_reason_desc: rest.1,
            protocol: rest.2,
            tcp_flags: rest.3,
            traffic_direction: rest.4,
            policy: rest.5,
            reply: rest.6,
            not: None,
        })
    }

    fn one_field_spec() -> impl Strategy<Value = FilterSpec> {
        let one = |field: &'static str, values: &'static [&'static str]| {
            select(values).prop_map(move |v| serde_json::from_value(serde_json::json!({field: [v]})).unwrap())
        };
        prop_oneof![
            one("pod", PODS),
            one("to_pod", PODS),
            one("from_namespace", NAMESPACES),
            one("ip", IPS),
            one("to_ip", IPS),
            one("port", PORTS),
            one("from_port", PORTS),
            one("identity", IDENTITIES),
            one("label", LABELS),
            one("to_label", LABELS),
            one("policy", &["p1", "shop/p2", "ops/p1", "p3"]),
            one("protocol", &["tcp", "icmp", "vrrp"]),
            LazyJust::new(FilterSpec::default),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn the_filter_agrees_with_a_naive_reading_of_the_json(
            spec in prop_oneof![arbitrary_spec(), one_field_spec()],
            not in option::weighted(0.4, prop_oneof![arbitrary_spec(), one_field_spec()]),
            records in proptest::collection::vec(testing::arbitrary_record(), 30),
        ) {
            let spec = FilterSpec { not: not.map(Box::new), ..spec };
            let filter = spec.parse().unwrap();
            let words = serde_json::to_value(&spec).unwrap();
            let (names, enricher) = (testing::names(), Enricher::new("n1", "", 0));
            for record in &records {
                let flow = enricher.flow(0, record, &names);
                let json = serde_json::to_value(&flow).unwrap();
                prop_assert_eq!(filter.matches(&flow), naive(&json, &words), "{} {}", words, json);
            }
        }
    }
}
