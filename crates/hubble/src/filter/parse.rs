//! From the fields of a message to conditions, with all that is wrong.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use axoneme_model::Cidr;
use regex::Regex;

use super::{
    MAX_EXPRESSIONS, MAX_STEPS, MAX_VALUES, Problem, cel,
    condition::{Address, Addresses, Condition, End, Holder, NamePattern, Protocol, Status},
    pattern,
};
use crate::{convert, pb::flow as pb};

/// What the filters of a request may still have.
pub(super) struct Left {
    values: usize,
    expressions: usize,
    steps: u64,
}

impl Left {
    pub(super) const ALL: Self = Self { values: MAX_VALUES, expressions: MAX_EXPRESSIONS, steps: MAX_STEPS };

    /// Steps that expressions take for a flow.
    pub(super) const fn steps(&self) -> u64 {
        MAX_STEPS - self.steps
    }
}

/// The conditions of one filter. Takes what it has from `left`.
pub(super) fn conditions(
    at: &str,
    filter: &pb::FlowFilter,
    left: &mut Left,
    problems: &mut Vec<Problem>,
) -> Vec<Condition> {
    let mut fields = Fields { at, left, problems, found: Vec::new() };
    fields.of_ends(filter);
    fields.of_packet(filter);
    fields.of_event(filter);
    fields.of_proxies(filter);
    fields.of_expressions(filter);
    fields.found
}

struct Fields<'a> {
    at: &'a str,
    left: &'a mut Left,
    problems: &'a mut Vec<Problem>,
    found: Vec<Condition>,
}

impl Fields<'_> {
    fn problem(&mut self, field: &str, value: &str, what: impl Into<String>) {
        // a bad request must not get an answer of its own size
        if self.problems.len() < 16 {
            let value = value.chars().take(64).collect();
            self.problems.push(Problem { field: format!("{}.{field}", self.at), value, what: what.into() });
        }
    }

    /// Whether the field is given, and within the limit.
    fn given<T>(&mut self, field: &str, values: &[T]) -> bool {
        match self.left.values.checked_sub(values.len()) {
            Some(left) => self.left.values = left,
            None => self.problem(field, "", format!("a request may have {MAX_VALUES} values in all its filters")),
        }
        !values.is_empty()
    }

    fn plain<T: Clone>(&mut self, field: &str, values: &[T], make: impl FnOnce(Vec<T>) -> Condition) {
        if self.given(field, values) {
            self.found.push(make(values.to_vec()));
        }
    }

    fn parsed<T>(
        &mut self,
        field: &str,
        values: &[String],
        parse: impl Fn(&str) -> Result<T, String>,
        make: impl FnOnce(Vec<T>) -> Condition,
    ) {
        if !self.given(field, values) {
            return;
        }
        let mut good = Vec::with_capacity(values.len().min(MAX_VALUES));
        for value in values {
            match parse(value) {
                Ok(v) => good.push(v),
                Err(what) => self.problem(field, value, what),
            }
        }
        self.found.push(make(good));
    }

    fn whole(
        &mut self,
        field: &str,
        values: &[String],
        parse: impl FnOnce(&[String]) -> Result<Regex, (String, String)>,
        make: impl FnOnce(Regex) -> Condition,
    ) {
        if !self.given(field, values) {
            return;
        }
        match parse(values) {
            Ok(pattern) => self.found.push(make(pattern)),
            Err((value, what)) => self.problem(field, &value, what),
        }
    }

    fn of_ends(&mut self, f: &pb::FlowFilter) {
        let (source, destination) = (End::Source, End::Destination);
        for (end, name, values) in
            [(source, "source_ip", &f.source_ip), (destination, "destination_ip", &f.destination_ip)]
        {
            self.parsed(name, values, ip, |v| Condition::Ip(Address::End(end), addresses(v)));
        }
        self.parsed("source_ip_xlated", &f.source_ip_xlated, ip, |v| Condition::Ip(Address::Translated, addresses(v)));
        for (end, name, values) in
            [(source, "source_pod", &f.source_pod), (destination, "destination_pod", &f.destination_pod)]
        {
            self.parsed(name, values, namespaced, |v| Condition::Pod(end, v));
        }
        let services = [
            (source, "source_service", &f.source_service),
            (destination, "destination_service", &f.destination_service),
        ];
        for (end, name, values) in services {
            self.parsed(name, values, namespaced, |v| Condition::Service(end, v));
        }
        for (end, name, values) in
            [(source, "source_fqdn", &f.source_fqdn), (destination, "destination_fqdn", &f.destination_fqdn)]
        {
            self.whole(name, values, pattern::names, |p| Condition::Fqdn(end, p));
        }
        for (end, name, values) in
            [(source, "source_label", &f.source_label), (destination, "destination_label", &f.destination_label)]
        {
            self.parsed(name, values, axoneme_flow::spec::parse_selector, |v| Condition::Labels(Holder::End(end), v));
        }
        let workloads = [
            (source, "source_workload", &f.source_workload),
            (destination, "destination_workload", &f.destination_workload),
        ];
        for (end, name, values) in workloads {
            self.plain(name, values, |v| Condition::Workload(end, v));
        }
        let clusters = [
            (source, "source_cluster_name", &f.source_cluster_name),
            (destination, "destination_cluster_name", &f.destination_cluster_name),
        ];
        for (end, name, values) in clusters {
            self.parsed(name, values, not_empty, |v| Condition::Cluster(end, v));
        }
        for (end, name, values) in
            [(source, "source_port", &f.source_port), (destination, "destination_port", &f.destination_port)]
        {
            self.parsed(name, values, port, |v| Condition::Port(end, v.into_iter().collect()));
        }
        let identities = [
            (source, "source_identity", &f.source_identity),
            (destination, "destination_identity", &f.destination_identity),
        ];
        for (end, name, values) in identities {
            self.plain(name, values, |v| Condition::Identity(end, v.into_iter().collect()));
        }
    }

    fn of_packet(&mut self, f: &pb::FlowFilter) {
        self.parsed("protocol", &f.protocol, protocol, Condition::Protocol);
        self.plain("tcp_flags", &f.tcp_flags, |v| Condition::TcpFlags(v.iter().map(convert::flag_bits).collect()));
        self.plain("ip_version", &f.ip_version, Condition::IpVersion);
        self.plain("ip_trace_id", &f.ip_trace_id, Condition::IpTraceId);
        self.plain("encrypted", &f.encrypted, Condition::Encrypted);
        self.plain("interface", &f.interface, Condition::Interface);
        self.plain("trace_id", &f.trace_id, Condition::TraceId);
    }

    fn of_event(&mut self, f: &pb::FlowFilter) {
        self.plain("uuid", &f.uuid, |v| Condition::Uuid(v.into_iter().collect::<HashSet<_>>()));
        self.plain("traffic_direction", &f.traffic_direction, Condition::Direction);
        self.plain("verdict", &f.verdict, Condition::Verdict);
        self.plain("drop_reason_desc", &f.drop_reason_desc, Condition::DropReason);
        self.plain("event_type", &f.event_type, Condition::EventType);
        self.plain("reply", &f.reply, Condition::Reply);
        self.whole("node_name", &f.node_name, pattern::node_names, Condition::NodeName);
        self.parsed("node_labels", &f.node_labels, axoneme_flow::spec::parse_selector, |v| {
            Condition::Labels(Holder::Node, v)
        });
    }

    fn of_proxies(&mut self, f: &pb::FlowFilter) {
        self.parsed("dns_query", &f.dns_query, pattern::regex, Condition::DnsQuery);
        let http = [
            ("http_status_code", f.http_status_code.is_empty()),
            ("http_method", f.http_method.is_empty()),
            ("http_path", f.http_path.is_empty()),
            ("http_url", f.http_url.is_empty()),
            ("http_header", f.http_header.is_empty()),
        ];
        let proxies = |t: &pb::EventTypeFilter| t.r#type == convert::ACCESS_LOG;
        if !f.event_type.is_empty() && !f.event_type.iter().any(proxies) {
            for (name, _) in http.iter().filter(|(_, empty)| !empty) {
                self.problem(name, "", "only l7 events have it, and event_type asks for others");
            }
        }
        self.parsed("http_status_code", &f.http_status_code, status, Condition::HttpStatus);
        self.plain("http_method", &f.http_method, Condition::HttpMethod);
        self.parsed("http_path", &f.http_path, pattern::regex, Condition::HttpPath);
        self.parsed("http_url", &f.http_url, pattern::regex, Condition::HttpUrl);
        self.plain("http_header", &f.http_header, Condition::HttpHeader);
    }

    /// Last: they cost more than any other condition, and are asked only where all others hold.
    fn of_expressions(&mut self, f: &pb::FlowFilter) {
        let name = "experimental.cel_expression";
        let texts = f.experimental.as_ref().map(|e| e.cel_expression.as_slice()).unwrap_or_default();
        match self.left.expressions.checked_sub(texts.len()) {
            Some(left) => self.left.expressions = left,
            // none of them is compiled
            None => return self.problem(name, "", format!("a request may have {MAX_EXPRESSIONS} expressions")),
        }
        let before = self.found.len();
        self.parsed(name, texts, |text| cel::Program::compile(text).map(Arc::new), Condition::Cel);
        let Some(Condition::Cel(programs)) = self.found.get(before) else { return };
        match self.left.steps.checked_sub(programs.iter().map(|p| p.cost()).sum()) {
            Some(left) => self.left.steps = left,
            None => {
                self.problem(name, "", format!("the expressions of a request may take {MAX_STEPS} steps for a flow"));
            }
        }
    }
}

enum AddressOrPrefix {
    Address(IpAddr),
    Prefix(Cidr),
}

fn ip(text: &str) -> Result<AddressOrPrefix, String> {
    if text.contains('/') {
        let prefix = text.parse().map_err(|_| "not a prefix such as 10.0.0.0/24 or fd00::/64");
        return Ok(AddressOrPrefix::Prefix(prefix?));
    }
    let address = text.parse().map_err(|_| "not an address such as 10.0.0.1 or fd00::1");
    Ok(AddressOrPrefix::Address(address?))
}

fn addresses(values: Vec<AddressOrPrefix>) -> Addresses {
    let mut all = Addresses::default();
    for value in values {
        match value {
            AddressOrPrefix::Address(a) => drop(all.exact.insert(a)),
            AddressOrPrefix::Prefix(p) => all.prefixes.push(p),
        }
    }
    all
}

/// `namespace/prefix`, `namespace/`, `/prefix`; a bare prefix is one of namespace `default`.
fn namespaced(text: &str) -> Result<NamePattern, String> {
    let mut parts = text.split('/');
    match (parts.next(), parts.next()) {
        (None | Some(""), None) => Err("empty; use namespace/name, namespace/ or /name".to_owned()),
        (Some(prefix), None) => Ok(NamePattern { namespace: "default".into(), prefix: prefix.into() }),
        (namespace, Some(prefix)) => {
            Ok(NamePattern { namespace: namespace.unwrap_or_default().into(), prefix: prefix.into() })
        }
    }
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("empty".to_owned()) } else { Ok(text.to_owned()) }
}

fn port(text: &str) -> Result<u16, String> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| "not a port number".to_owned())
}

fn protocol(text: &str) -> Result<Protocol, String> {
    let known = Protocol::NAMES.iter().find(|n| n.0.eq_ignore_ascii_case(text)).map(|n| n.1);
    known.ok_or_else(|| format!("no such protocol; use one of {}", Protocol::NAMES.map(|n| n.0).join(", ")))
}

/// `404`, `40+` or `4+`.
fn status(text: &str) -> Result<Status, String> {
    let digits = text.strip_suffix('+').unwrap_or(text);
    let whole = digits.len() == text.len();
    let lengths = if whole { 3..=3 } else { 1..=2 };
    let valid = digits.starts_with(|c| ('1'..='5').contains(&c))
        && digits.bytes().all(|b| b.is_ascii_digit())
        && lengths.contains(&digits.len());
    if valid { Ok(Status(digits.to_owned())) } else { Err("not a status such as 404 or 5+".to_owned()) }
}
