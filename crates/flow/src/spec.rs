//! Filters as people write them, and what is wrong with them.

use std::{net::IpAddr, sync::Arc};

use axoneme_model::{Cidr, Identity, LabelKey, Operator, Selector, selector::Requirement};
use serde::{Deserialize, Serialize};

use crate::{
    filter::{Condition, Filter, PodPattern, PortRange, ProtocolWord, Side},
    flow::TrafficDirection,
    reason::DropReason,
    record::{TcpFlags, Verdict},
};

/// A filter in words: one list a field, as the command line and the admin socket take it. Fields that are given must
/// all hold; of a field's values any may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FilterSpec {
    /// `namespace/name-prefix`, `namespace/`, `/name-prefix` (any namespace) or `name-prefix` (namespace `default`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pod: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from_pod: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to_pod: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespace: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from_namespace: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to_namespace: Vec<String>,
    /// An address or a prefix.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ip: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from_ip: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to_ip: Vec<String>,
    /// `80` or `8000-8080`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from_port: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to_port: Vec<String>,
    /// A number or a reserved name (`host`, `world`, …).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub identity: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from_identity: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to_identity: Vec<String>,
    /// A label selector of Kubernetes; keys may have a source (`k8s:app`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub label: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from_label: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to_label: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verdict: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drop_reason_desc: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub protocol: Vec<String>,
    /// Flags that must all be set, comma separated: `SYN,ACK`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tcp_flags: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub traffic_direction: Vec<String>,
    /// Name of a policy that decided: `name` or `namespace/name`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policy: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<bool>,
    /// Flows that this matches are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not: Option<Box<FilterSpec>>,
}

/// A value that cannot be used. Reads `port: "http": not a port; use 80 or 8000-8080`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{field}: {value:?}: {problem}; {choices}")]
pub struct FieldError {
    pub field: String,
    pub value: String,
    pub problem: String,
    /// What would do.
    pub choices: String,
}

/// What is wrong with one value, and what would do.
type Problem = (String, String);

impl FilterSpec {
    /// The predicate, or everything that is wrong with it.
    pub fn parse(&self) -> Result<Filter, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut all = Vec::new();
        self.collect("", &mut all, &mut errors);
        if errors.is_empty() { Ok(Filter::new(Condition::All(all))) } else { Err(errors) }
    }

    fn collect(&self, prefix: &str, all: &mut Vec<Condition>, errors: &mut Vec<FieldError>) {
        let mut fields = Fields { prefix, all, errors };
        let sides = |either, from, to| {
            [("", Side::Either, either), ("from_", Side::Source, from), ("to_", Side::Destination, to)]
        };
        for (p, side, v) in sides(&self.pod, &self.from_pod, &self.to_pod) {
            fields.add(&format!("{p}pod"), v, pod, |v| Condition::Pod(side, v));
        }
        for (p, side, v) in sides(&self.namespace, &self.from_namespace, &self.to_namespace) {
            fields.add(&format!("{p}namespace"), v, namespace, |v| Condition::Namespace(side, v));
        }
        for (p, side, v) in sides(&self.ip, &self.from_ip, &self.to_ip) {
            fields.add(&format!("{p}ip"), v, ip, |v| Condition::Ip(side, v));
        }
        for (p, side, v) in sides(&self.port, &self.from_port, &self.to_port) {
            fields.add(&format!("{p}port"), v, port, |v| Condition::Port(side, v));
        }
        for (p, side, v) in sides(&self.identity, &self.from_identity, &self.to_identity) {
            fields.add(&format!("{p}identity"), v, identity, |v| Condition::Identity(side, v));
        }
        for (p, side, v) in sides(&self.label, &self.from_label, &self.to_label) {
            fields.add(&format!("{p}label"), v, selector, |v| Condition::Label(side, v));
        }
        fields.add("verdict", &self.verdict, verdict, Condition::Verdict);
        fields.add("drop_reason_desc", &self.drop_reason_desc, reason, Condition::Reason);
        fields.add("protocol", &self.protocol, protocol, Condition::Protocol);
        fields.add("tcp_flags", &self.tcp_flags, tcp_flags, Condition::TcpFlags);
        fields.add("traffic_direction", &self.traffic_direction, direction, Condition::Direction);
        fields.add("policy", &self.policy, policy, Condition::Policy);
        if let Some(reply) = self.reply {
            all.push(Condition::Reply(reply));
        }
        if let Some(not) = &self.not {
            let mut inner = Vec::new();
            not.collect(&format!("{prefix}not."), &mut inner, errors);
            // an empty "not" leaves nothing out
            if !inner.is_empty() {
                all.push(Condition::Not(Box::new(Condition::All(inner))));
            }
        }
    }
}

struct Fields<'a> {
    prefix: &'a str,
    all: &'a mut Vec<Condition>,
    errors: &'a mut Vec<FieldError>,
}

impl Fields<'_> {
    fn add<T>(
        &mut self,
        field: &str,
        values: &[String],
        parse: impl Fn(&str) -> Result<T, Problem>,
        make: impl FnOnce(Vec<T>) -> Condition,
    ) {
        let mut good = Vec::with_capacity(values.len());
        for value in values {
            match parse(value) {
                Ok(v) => good.push(v),
                Err((problem, choices)) => self.errors.push(FieldError {
                    field: format!("{}{field}", self.prefix),
                    value: value.clone(),
                    problem,
                    choices,
                }),
            }
        }
        if !good.is_empty() {
            self.all.push(make(good));
        }
    }
}

fn one_of<'a>(problem: &str, choices: impl Iterator<Item = &'a str>) -> Problem {
    (problem.into(), format!("use one of {}", choices.collect::<Vec<_>>().join(", ")))
}

fn pod(text: &str) -> Result<PodPattern, Problem> {
    if text.is_empty() || text == "/" || text.matches('/').count() > 1 {
        let choices = "use namespace/name, namespace/, /name or name (namespace default)";
        return Err(("not a pod".into(), choices.into()));
    }
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    Ok(PodPattern { namespace: namespace.into(), name_prefix: name.into() })
}

fn namespace(text: &str) -> Result<Arc<str>, Problem> {
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() || !text.chars().all(ok) {
        return Err(("not a namespace".into(), "use a name of lower case letters, digits and -".into()));
    }
    Ok(text.into())
}

fn ip(text: &str) -> Result<Cidr, Problem> {
    let parsed = if text.contains('/') { text.parse().ok() } else { text.parse::<IpAddr>().ok().map(Cidr::from) };
    parsed.ok_or_else(|| {
        let choices = "use an address (10.0.0.1, fd00::1) or a prefix (10.0.0.0/24)";
        ("not an address or prefix".into(), choices.into())
    })
}

fn port(text: &str) -> Result<PortRange, Problem> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(PortRange { first, last }),
        _ => Err(("not a port".into(), "use a number 0-65535 or a range such as 8000-8080".into())),
    }
}

fn identity(text: &str) -> Result<Identity, Problem> {
    let reserved = || (0..=255).map(Identity);
    let named = reserved().find(|i| i.reserved_name() == Some(text));
    named.or_else(|| text.parse().ok().map(Identity)).ok_or_else(|| {
        let names: Vec<_> = reserved().filter_map(Identity::reserved_name).collect();
        ("not an identity".into(), format!("use a number or one of {}", names.join(", ")))
    })
}

fn verdict(text: &str) -> Result<Verdict, Problem> {
    Verdict::from_name(text).ok_or_else(|| one_of("no such verdict", Verdict::names()))
}

fn reason(text: &str) -> Result<DropReason, Problem> {
    DropReason::from_name(text).ok_or_else(|| one_of("no such drop reason", DropReason::names().skip(1)))
}

fn protocol(text: &str) -> Result<ProtocolWord, Problem> {
    ProtocolWord::from_name(text).ok_or_else(|| one_of("no such protocol", ProtocolWord::names()))
}

fn tcp_flags(text: &str) -> Result<TcpFlags, Problem> {
    text.split(',').try_fold(TcpFlags::default(), |sum, name| {
        let flag = TcpFlags::from_name(name.trim());
        let flag = flag.ok_or_else(|| one_of("no such TCP flag", TcpFlags::NAMES.iter().map(|f| f.1)))?;
        Ok(TcpFlags(sum.0 | flag.0))
    })
}

fn direction(text: &str) -> Result<TrafficDirection, Problem> {
    TrafficDirection::from_name(text).ok_or_else(|| one_of("no such direction", ["ingress", "egress"].into_iter()))
}

fn policy(text: &str) -> Result<(Option<Arc<str>>, Arc<str>), Problem> {
    match text.split_once('/') {
        _ if text.is_empty() => Err(("no name".into(), "use name or namespace/name".into())),
        Some((namespace, name)) => Ok((Some(namespace.into()), name.into())),
        None => Ok((None, text.into())),
    }
}

/// A label selector as [`FilterSpec::label`] takes it, or what is wrong with it.
pub fn parse_selector(text: &str) -> Result<Selector, String> {
    selector(text).map_err(|(problem, choices)| format!("{problem}; {choices}"))
}

/// A label selector in the grammar of Kubernetes (`labels.Parse`), keys with or without a source: `app=web`, `k8s:app
/// in (web, api)`, `!k8s:tier`, `env!=dev`, `reserved:host`.
fn selector(text: &str) -> Result<Selector, Problem> {
    let fail =
        |what: String| (what, "write it as app=web, app!=web, app in (web, api), app notin (web), app or !app".into());
    let mut requirements = Vec::new();
    for part in split_outside_parentheses(text) {
        requirements.push(requirement(part.trim()).map_err(fail)?);
    }
    Ok(Selector::new(requirements))
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.extend(text.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(text.get(start..));
    parts
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let make = |key: &str, operator, values: Vec<&str>| {
        let key = key.trim();
        let values: Vec<&str> = values.into_iter().map(str::trim).collect();
        if !is_key(key) {
            return Err(format!("{key:?} is no label key"));
        }
        if let Some(bad) = values.iter().find(|v| !is_value(v)) {
            return Err(format!("{bad:?} is no label value"));
        }
        Ok(Requirement { key: LabelKey::parse(key), operator, values: values.into_iter().map(Into::into).collect() })
    };
    if let Some(key) = text.strip_prefix('!') {
        return make(key, Operator::DoesNotExist, vec![]);
    }
    if let Some(body) = text.strip_suffix(')') {
        let (head, list) = body.split_once('(').ok_or("a ( is missing")?;
        let values = list.split(',').collect();
        return match head.trim().rsplit_once(char::is_whitespace) {
            Some((key, "in")) => make(key, Operator::In, values),
            Some((key, "notin")) => make(key, Operator::NotIn, values),
            _ => Err("before ( there must be a key and in or notin".into()),
        };
    }
    if let Some((key, value)) = text.split_once("!=") {
        return make(key, Operator::NotIn, vec![value]);
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return make(key, Operator::In, vec![value]);
    }
    make(text, Operator::Exists, vec![])
}

fn is_key(text: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':');
    !text.is_empty() && text.chars().all(ok)
}

fn is_value(text: &str) -> bool {
    text.len() <= 253 && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(spec: &str) -> Vec<String> {
        let spec: FilterSpec = serde_json::from_str(spec).unwrap();
        spec.parse().unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_bad_value_is_told_with_field_value_and_choices() {
        let got = errors(
            r#"{"port": ["http", "9-1", "70000"], "from_ip": ["10.0.0"], "verdict": ["DENIED"], "protocol": ["tcpp"],
                "identity": ["worlds"], "pod": ["/"], "namespace": ["A b"], "traffic_direction": ["up"],
                "tcp_flags": ["SYN,OK"], "policy": [""], "not": {"to_label": ["a in b"]}}"#,
        );
        assert_eq!(
            got,
            [
                r#"pod: "/": not a pod; use namespace/name, namespace/, /name or name (namespace default)"#,
                r#"namespace: "A b": not a namespace; use a name of lower case letters, digits and -"#,
                r#"from_ip: "10.0.0": not an address or prefix; use an address (10.0.0.1, fd00::1) or a prefix (10.0.0.0/24)"#,
                r#"port: "http": not a port; use a number 0-65535 or a range such as 8000-8080"#,
                r#"port: "9-1": not a port; use a number 0-65535 or a range such as 8000-8080"#,
                r#"port: "70000": not a port; use a number 0-65535 or a range such as 8000-8080"#,
                r#"identity: "worlds": not an identity; use a number or one of host, world, unmanaged, health, init, remote-node, kube-apiserver, ingress, world-ipv4, world-ipv6"#,
                r#"verdict: "DENIED": no such verdict; use one of FORWARDED, DROPPED, ERROR, AUDIT, REDIRECTED, TRACED, TRANSLATED"#,
                r#"protocol: "tcpp": no such protocol; use one of tcp, udp, sctp, icmp, icmpv4, icmpv6, vrrp, igmp"#,
                r#"tcp_flags: "SYN,OK": no such TCP flag; use one of FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, NS"#,
                r#"traffic_direction: "up": no such direction; use one of ingress, egress"#,
                r#"policy: "": no name; use name or namespace/name"#,
                r#"not.to_label: "a in b": "a in b" is no label key; write it as app=web, app!=web, app in (web, api), app notin (web), app or !app"#,
            ]
        );
        assert!(errors(r#"{"drop_reason_desc": ["X"]}"#)[0].contains("use one of INVALID_SOURCE_MAC, "));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let e = serde_json::from_str::<FilterSpec>(r#"{"prot": ["tcp"]}"#).unwrap_err().to_string();
        assert!(e.contains("unknown field `prot`") && e.contains("`protocol`"), "{e}");
    }

    #[test]
    fn selectors_read_as_in_kubernetes() {
        for (text, expected) in [
            ("app=web", "any:app=web"),
            ("app==web", "any:app=web"),
            ("k8s:app", "k8s:app"),
            ("!k8s.app", "!any:k8s.app"),
            ("reserved:host", "reserved:host"),
            ("a!=b, c in (x, y)", "any:a notin (b),any:c in (x,y)"),
            ("io.kubernetes.pod.namespace=kube-system", "any:io.kubernetes.pod.namespace=kube-system"),
            ("example.com/x notin (1,2)", "any:example.com/x notin (1,2)"),
            ("a=", "any:a="),
        ] {
            assert_eq!(selector(text).unwrap().to_string(), expected, "{text}");
        }
        for bad in ["", ",", "a b", "a in x,y)", "in (x)", "a like (x)", "a=b=c", "=x"] {
            assert!(selector(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_empty_filter_takes_everything_and_an_empty_not_leaves_nothing_out() {
        let all = FilterSpec::default().parse().unwrap();
        let not = FilterSpec { not: Some(Box::default()), ..FilterSpec::default() };
        assert_eq!(not.parse().unwrap(), all);
        assert_eq!(all, Filter::new(Condition::All(vec![])));
    }
}
