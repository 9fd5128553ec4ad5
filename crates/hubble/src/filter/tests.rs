//! Every field of the filter against a naive model that shares no code with it, on random flows.

use std::net::IpAddr;

use axoneme_flow::{Enricher, testing};
use proptest::{option, prelude::*, sample::select};

use super::*;
use crate::{
    convert,
    pb::flow::{layer4, layer7},
};

// ---- the model: straight from the words of the API's documentation

fn naive_in(prefix: &str, address: &str) -> bool {
    let (Some((base, length)), Ok(address)) = (prefix.split_once('/'), address.parse::<IpAddr>()) else { return false };
    let (base, length): (IpAddr, u32) = (base.parse().unwrap(), length.parse().unwrap());
    match (base, address) {
        (IpAddr::V4(b), IpAddr::V4(a)) => (0..length).all(|n| (b.to_bits() ^ a.to_bits()) >> (31 - n) & 1 == 0),
        (IpAddr::V6(b), IpAddr::V6(a)) => (0..length).all(|n| (b.to_bits() ^ a.to_bits()) >> (127 - n) & 1 == 0),
        _ => false,
    }
}

fn naive_ip(value: &str, address: &str) -> bool {
    !address.is_empty() && (value == address || value.contains('/') && naive_in(value, address))
}

fn naive_name(value: &str, namespace: &str, name: &str) -> bool {
    if namespace.is_empty() && name.is_empty() {
        return false;
    }
    let parts: Vec<&str> = value.split('/').collect();
    let (ns, prefix) = if parts.len() == 1 { ("default", parts[0]) } else { (parts[0], parts[1]) };
    (ns.is_empty() || ns == namespace) && name.starts_with(prefix)
}

/// `*` by trying every split.
fn naive_glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => {
            let Some(tail) = text.strip_prefix(head) else { return false };
            (0..=tail.len()).any(|n| {
                let eaten = &tail[..n];
                eaten.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.') && naive_glob(rest, &tail[n..])
            })
        }
    }
}

fn naive_node(pattern: &str, node: &str) -> bool {
    if node.is_empty() {
        return false;
    }
    let (cluster, node) = node.split_once('/').unwrap_or(("default", node));
    let (wanted_cluster, wanted_node) = pattern.split_once('/').unwrap_or(("", pattern));
    (wanted_cluster.is_empty() || naive_glob(wanted_cluster, cluster))
        && (wanted_node.is_empty() || naive_glob(wanted_node, node))
}

fn naive_label(value: &str, labels: &[String]) -> bool {
    let has = |l: &str| labels.iter().any(|x| x == l);
    let key = |k: &str| labels.iter().any(|x| x.split('=').next() == Some(k));
    match value {
        "app=web" => has("k8s:app=web"),
        "k8s:app in (web, api)" => has("k8s:app=web") || has("k8s:app=api"),
        "tier" => key("cni:tier"),
        "!k8s:app" => !key("k8s:app"),
        "app!=web" => !has("k8s:app=web"),
        "k8s:zone=a" => has("k8s:zone=a"),
        other => unreachable!("{other}"),
    }
}

fn naive_ports(f: &pb::Flow) -> Option<(u32, u32)> {
    match f.l4.as_ref()?.protocol.as_ref()? {
        layer4::Protocol::Tcp(p) => Some((p.source_port, p.destination_port)),
        layer4::Protocol::Udp(p) => Some((p.source_port, p.destination_port)),
        layer4::Protocol::Sctp(p) => Some((p.source_port, p.destination_port)),
        _ => None,
    }
}

fn naive_protocol(value: &str, f: &pb::Flow) -> bool {
    let l4 = match f.l4.as_ref().and_then(|l| l.protocol.as_ref()) {
        Some(layer4::Protocol::Tcp(_)) => "tcp",
        Some(layer4::Protocol::Udp(_)) => "udp",
        Some(layer4::Protocol::Sctp(_)) => "sctp",
        Some(layer4::Protocol::IcmPv4(_)) => "icmpv4",
        Some(layer4::Protocol::IcmPv6(_)) => "icmpv6",
        Some(layer4::Protocol::Vrrp(_)) => "vrrp",
        Some(layer4::Protocol::Igmp(_)) => "igmp",
        None => "-",
    };
    let l7 = match f.l7.as_ref().and_then(|l| l.record.as_ref()) {
        Some(layer7::Record::Dns(_)) => "dns",
        Some(layer7::Record::Http(_)) => "http",
        _ => "-",
    };
    let value = value.to_lowercase();
    value == l4 || value == l7 || value == "icmp" && l4.starts_with("icmp")
}

fn naive_flags(f: &pb::TcpFlags) -> Vec<bool> {
    vec![f.fin, f.syn, f.rst, f.psh, f.ack, f.urg, f.ece, f.cwr, f.ns]
}

fn http(f: &pb::Flow) -> Option<&pb::Http> {
    match f.l7.as_ref()?.record.as_ref()? {
        layer7::Record::Http(h) => Some(h),
        _ => None,
    }
}

/// Any of the values, if there are values.
fn any_of<T>(values: &[T], test: impl Fn(&T) -> bool) -> bool {
    values.is_empty() || values.iter().any(test)
}

fn naive_end(
    e: &pb::Endpoint,
    pods: &[String],
    workloads: &[pb::Workload],
    labels: &[String],
    ids: &[u32],
    clusters: &[String],
) -> bool {
    any_of(pods, |v| naive_name(v, &e.namespace, &e.pod_name))
        && any_of(workloads, |w| {
            e.workloads
                .iter()
                .any(|x| (w.name.is_empty() || w.name == x.name) && (w.kind.is_empty() || w.kind == x.kind))
        })
        && any_of(labels, |v| naive_label(v, &e.labels))
        && any_of(ids, |v| e.identity == *v)
        && any_of(clusters, |v| e.cluster_name == *v)
}

fn naive_ends(f: &pb::Flow, q: &pb::FlowFilter) -> bool {
    let (source, destination) = (f.source.clone().unwrap_or_default(), f.destination.clone().unwrap_or_default());
    let ip = f.ip.clone().unwrap_or_default();
    let service =
        |s: &Option<pb::Service>, v: &String| s.as_ref().is_some_and(|s| naive_name(v, &s.namespace, &s.name));
    let port = |pick: fn((u32, u32)) -> u32, v: &String| naive_ports(f).is_some_and(|p| pick(p).to_string() == *v);
    let glob = |names: &[String], v: &String| names.iter().any(|n| naive_glob(v, n));
    naive_end(&source, &q.source_pod, &q.source_workload, &q.source_label, &q.source_identity, &q.source_cluster_name)
        && naive_end(
            &destination,
            &q.destination_pod,
            &q.destination_workload,
            &q.destination_label,
            &q.destination_identity,
            &q.destination_cluster_name,
        )
        && any_of(&q.source_ip, |v| naive_ip(v, &ip.source))
        && any_of(&q.destination_ip, |v| naive_ip(v, &ip.destination))
        && any_of(&q.source_ip_xlated, |v| naive_ip(v, &ip.source_xlated))
        && any_of(&q.source_service, |v| service(&f.source_service, v))
        && any_of(&q.destination_service, |v| service(&f.destination_service, v))
        && any_of(&q.source_port, |v| port(|p| p.0, v))
        && any_of(&q.destination_port, |v| port(|p| p.1, v))
        && any_of(&q.source_fqdn, |v| glob(&f.source_names, v))
        && any_of(&q.destination_fqdn, |v| glob(&f.destination_names, v))
}

fn naive_rest(f: &pb::Flow, q: &pb::FlowFilter) -> bool {
    let event = f.event_type.unwrap_or_default();
    let dropped = f.verdict == 2;
    let flags = |set: &pb::TcpFlags| match f.l4.as_ref().and_then(|l| l.protocol.as_ref()) {
        Some(layer4::Protocol::Tcp(pb::Tcp { flags: Some(found), .. })) => {
            naive_flags(set).iter().zip(naive_flags(found)).all(|(wanted, found)| !wanted || found)
        }
        _ => false,
    };
    let trace =
        f.trace_context.as_ref().and_then(|c| c.parent.as_ref()).map(|p| p.trace_id.clone()).unwrap_or_default();
    any_of(&q.uuid, |v| *v == f.uuid)
        && any_of(&q.traffic_direction, |v| *v == f.traffic_direction)
        && any_of(&q.verdict, |v| *v == f.verdict)
        && any_of(&q.drop_reason_desc, |v| dropped && *v == f.drop_reason_desc)
        && any_of(&q.event_type, |t| {
            (t.r#type == 0 || t.r#type == event.r#type) && (!t.match_sub_type || t.sub_type == event.sub_type)
        })
        && any_of(&q.reply, |v| match f.is_reply {
            Some(r) => r == *v,
            None => dropped && !*v,
        })
        && any_of(&q.encrypted, |v| f.ip.as_ref().is_some_and(|i| i.encrypted) == *v)
        && any_of(&q.protocol, |v| naive_protocol(v, f))
        && any_of(&q.ip_version, |v| f.ip.as_ref().map_or(0, |i| i.ip_version) == *v)
        && any_of(&q.tcp_flags, flags)
        && any_of(&q.node_name, |v| naive_node(v, &f.node_name))
        && any_of(&q.node_labels, |v| naive_label(v, &f.node_labels))
        && any_of(&q.trace_id, |v| *v == trace)
        && any_of(&q.ip_trace_id, |v| f.ip_trace_id.as_ref().map_or(0, |t| t.trace_id) == *v)
        && any_of(&q.interface, |i| {
            f.interface
                .as_ref()
                .is_some_and(|x| (i.index == 0 || i.index == x.index) && (i.name.is_empty() || i.name == x.name))
        })
        && any_of(&q.dns_query, |v| match f.l7.as_ref().and_then(|l| l.record.as_ref()) {
            Some(layer7::Record::Dns(d)) => d.query.contains(v.as_str()),
            _ => false,
        })
        && any_of(&q.http_status_code, |v| {
            http(f).is_some_and(|h| match v.strip_suffix('+') {
                Some(p) => h.code != 0 && h.code.to_string().starts_with(p),
                None => h.code.to_string() == *v,
            })
        })
        && any_of(&q.http_method, |v| http(f).is_some_and(|h| h.method.to_lowercase() == v.to_lowercase()))
        && any_of(&q.http_url, |v| http(f).is_some_and(|h| h.url.contains(v.as_str())))
        && any_of(&q.http_path, |v| {
            http(f).is_some_and(|h| {
                h.url.split("shop.example").last().unwrap().split('?').next().unwrap().contains(v.as_str())
            })
        })
        && any_of(&q.http_header, |v| http(f).is_some_and(|h| h.headers.contains(v)))
}

fn naive(f: &pb::Flow, white: &[pb::FlowFilter], black: &[pb::FlowFilter]) -> bool {
    let one = |q: &pb::FlowFilter| naive_ends(f, q) && naive_rest(f, q);
    (white.is_empty() || white.iter().any(one)) && !black.iter().any(one)
}

// ---- random filters and flows

fn some<T: Clone + std::fmt::Debug + 'static>(values: Vec<T>) -> impl Strategy<Value = Vec<T>> {
    let most = values.len().min(2);
    option::weighted(0.08, proptest::sample::subsequence(values, 1..=most)).prop_map(Option::unwrap_or_default)
}

fn words(values: &[&str]) -> impl Strategy<Value = Vec<String>> + use<> {
    some(values.iter().map(|v| (*v).to_owned()).collect())
}

const IPS: &[&str] = &["10.0.0.1", "10.0.0.0/28", "fd00::1:0/112", "0.0.0.0/0", "10.0.3.7", "fd00::2:3", "::/0"];
const NAMES: &[&str] = &["shop/web-1", "shop/", "/web-2", "web-", "ops/web-4", "shop/fr", "/", "default/"];
const LABELS: &[&str] = &["app=web", "k8s:app in (web, api)", "tier", "!k8s:app", "app!=web", "k8s:zone=a"];
const PORTS: &[&str] = &["80", "53", "443", "0", "8080", "7"];

fn arbitrary_ends() -> impl Strategy<Value = pb::FlowFilter> {
    let workload = |name: &str, kind: &str| pb::Workload { name: name.into(), kind: kind.into() };
    let workloads = move || some(vec![workload("web", ""), workload("", "DaemonSet"), workload("web", "Deployment")]);
    let clusters = || words(&["prod", "other"]);
    let fqdns = || words(&["api.example.com", "*.example.com", "a*", "*"]);
    (
        (words(IPS), words(IPS), words(IPS)),
        (words(NAMES), words(NAMES), words(NAMES), words(NAMES)),
        (words(LABELS), words(LABELS), some(vec![3u32, 4, 7, 11]), some(vec![2u32, 5, 9])),
        (words(PORTS), words(PORTS), fqdns(), fqdns()),
        (workloads(), workloads(), clusters(), clusters()),
    )
        .prop_map(|(ip, name, label, port, rest)| pb::FlowFilter {
            source_ip: ip.0,
            destination_ip: ip.1,
            source_ip_xlated: ip.2,
            source_pod: name.0,
            destination_pod: name.1,
            source_service: name.2,
            destination_service: name.3,
            source_label: label.0,
            destination_label: label.1,
            source_identity: label.2,
            destination_identity: label.3,
            source_port: port.0,
            destination_port: port.1,
            source_fqdn: port.2,
            destination_fqdn: port.3,
            source_workload: rest.0,
            destination_workload: rest.1,
            source_cluster_name: rest.2,
            destination_cluster_name: rest.3,
            ..pb::FlowFilter::default()
        })
}

fn arbitrary_filter() -> impl Strategy<Value = pb::FlowFilter> {
    let syn = pb::TcpFlags { syn: true, ..pb::TcpFlags::default() };
    let fin_ack = pb::TcpFlags { fin: true, ack: true, ..pb::TcpFlags::default() };
    let event = |r#type, match_sub_type, sub_type| pb::EventTypeFilter { r#type, match_sub_type, sub_type };
    let interface = |index, name: &str| pb::NetworkInterface { index, name: name.into() };
    let header = |key: &str, value: &str| pb::HttpHeader { key: key.into(), value: value.into() };
    (
        arbitrary_ends(),
        (
            some(vec![1i32, 2, 4, 0, 7]),
            some(vec![133i32, 181, 132, 0]),
            some(vec![1i32, 2, 0]),
            some(vec![
                event(1, false, 9),
                event(4, true, 0),
                event(5, false, 0),
                event(0, true, 133),
                event(129, false, 0),
            ]),
            some(vec![true, false]),
            some(vec![true, false]),
        ),
        (
            words(&["tcp", "UDP", "icmp", "icmpv4", "ICMPv6", "sctp", "vrrp", "igmp", "dns", "http"]),
            some(vec![0i32, 1, 2]),
            some(vec![syn, fin_ack, pb::TcpFlags::default()]),
            words(&["n1", "prod/n1", "prod/", "pr*/n*", "other/*", "n2"]),
            words(&["k8s:zone=a", "!k8s:app"]),
            words(&["aaaa", "bbbb"]),
            some(vec![0u64, 7]),
            some(vec![interface(2, ""), interface(0, "axo2"), interface(3, "axo2"), interface(0, "")]),
        ),
        (
            words(&["example", "api"]),
            words(&["404", "2+", "40+"]),
            words(&["get", "POST"]),
            words(&["/cart", "v1"]),
            words(&["q=1", "shop"]),
            some(vec![header("a", "b"), header("x", "y")]),
        ),
    )
        .prop_map(|(ends, event, packet, l7)| {
            let only_proxies = event.3.is_empty() || event.3.iter().any(|t| t.r#type == 129);
            let l7 = if only_proxies { l7 } else { (l7.0, vec![], vec![], vec![], vec![], vec![]) };
            pb::FlowFilter {
                verdict: event.0,
                drop_reason_desc: event.1,
                traffic_direction: event.2,
                event_type: event.3,
                reply: event.4,
                encrypted: event.5,
                protocol: packet.0,
                ip_version: packet.1,
                tcp_flags: packet.2,
                node_name: packet.3,
                node_labels: packet.4,
                trace_id: packet.5,
                ip_trace_id: packet.6,
                interface: packet.7,
                dns_query: l7.0,
                http_status_code: l7.1,
                http_method: l7.2,
                http_path: l7.3,
                http_url: l7.4,
                http_header: l7.5,
                ..ends
            }
        })
}

/// A flow as a node shows it, with what its records cannot have (yet).
pub(super) fn arbitrary_flow() -> impl Strategy<Value = pb::Flow> {
    let l7 = prop_oneof![
        4 => Just(None),
        1 => select(vec!["api.example.com.", "other.org."]).prop_map(|q| Some(layer7::Record::Dns(pb::Dns { query: q.into(), ..pb::Dns::default() }))),
        2 => (select(vec![0u32, 200, 404, 503]), select(vec!["GET", "POST", ""]), select(vec!["http://shop.example/cart?q=1", "/v1/items", "", "http://shop.example/v1"]), any::<bool>())
            .prop_map(|(code, method, url, header)| Some(layer7::Record::Http(pb::Http {
                code,
                method: method.into(),
                url: url.into(),
                headers: if header { vec![pb::HttpHeader { key: "a".into(), value: "b".into() }] } else { vec![] },
                ..pb::Http::default()
            }))),
    ];
    let extra = (
        l7,
        option::of(select(vec!["aaaa", "cccc"])),
        option::of(0..9u64),
        any::<bool>(),
        option::of(select(vec!["10.0.0.1", "10.0.3.7"])),
        select(vec![vec![], vec!["api.example.com".to_owned()], vec!["a.org".to_owned(), "b.example.com".to_owned()]]),
        select(vec!["", "n1", "n2", "prod/n1", "other/n2"]),
        select(vec![vec![], vec!["k8s:zone=a".to_owned()]]),
        select(vec![vec![], vec![("web", "Deployment")], vec![("web", "DaemonSet"), ("x", "Job")]]),
        option::of(select(vec![("shop", "front"), ("default", "web-2"), ("", "x")])),
    );
    (testing::arbitrary_record(), any::<bool>(), extra).prop_map(|(record, last, extra)| {
        let facets = record.facets();
        let facet = facets[usize::from(last) % facets.len()];
        let flow = Enricher::new("n1", "prod", 42).flow(7, &record, &testing::names());
        let mut flow = convert::flow(&flow, facet, "prod", false);
        flow.l7 = extra.0.map(|record| pb::Layer7 { record: Some(record), ..pb::Layer7::default() });
        flow.trace_context =
            extra.1.map(|id| pb::TraceContext { parent: Some(pb::TraceParent { trace_id: id.into() }) });
        flow.ip_trace_id = extra.2.map(|trace_id| pb::IpTraceId { trace_id, ip_option_type: 0 });
        if let Some(ip) = &mut flow.ip {
            ip.encrypted = extra.3;
            ip.source_xlated = extra.4.unwrap_or_default().into();
        }
        flow.destination_names.clone_from(&extra.5);
        flow.source_names = extra.5.into_iter().rev().take(1).collect();
        flow.node_name = extra.6.into();
        flow.node_labels = extra.7;
        let workload = |(name, kind): &(&str, &str)| pb::Workload { name: (*name).into(), kind: (*kind).into() };
        flow.source.as_mut().unwrap().workloads = extra.8.iter().map(workload).collect();
        flow.destination.as_mut().unwrap().workloads = extra.8.iter().rev().take(1).map(workload).collect();
        flow.destination_service = (extra.9.is_some() && flow.destination_service.is_none())
            .then(|| pb::Service { name: "web-4".into(), namespace: "ops".into() });
        flow.source_service = extra.9.map(|(ns, name)| pb::Service { name: name.into(), namespace: ns.into() });
        flow
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8192))]

    #[test]
    fn filters_match_what_the_model_matches(
        flow in arbitrary_flow(),
        white in proptest::collection::vec(arbitrary_filter(), 0..3),
        black in proptest::collection::vec(arbitrary_filter(), 0..2),
    ) {
        let filters = Filters::parse(&white, &black).unwrap();
        prop_assert_eq!(filters.matches(&flow), naive(&flow, &white, &black));
    }

    #[test]
    fn a_record_is_judged_early_only_as_its_flow_is_judged(
        record in testing::arbitrary_record(),
        white in proptest::collection::vec(arbitrary_filter(), 0..3),
        black in proptest::collection::vec(arbitrary_filter(), 0..2),
    ) {
        let filters = Filters::parse(&white, &black).unwrap();
        for facet in record.facets() {
            let flow = Enricher::new("n1", "prod", 42).flow(7, &record, &testing::names());
            let flow = convert::flow(&flow, *facet, "prod", false);
            if let Some(early) = filters.early(&record, *facet) {
                prop_assert_eq!(early, filters.matches(&flow));
            }
        }
    }
}

/// Few random flows match a filter of many fields; each field alone must have been seen to match and not to match.
#[test]
fn every_field_alone_matches_as_the_model_says_both_ways() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let flows: Vec<_> = (0..600).map(|_| arbitrary_flow().new_tree(&mut runner).unwrap().current()).collect();
    let mut uuid = pb::FlowFilter::default();
    uuid.uuid.push(flows[0].uuid.clone());
    let mut singles = vec![("uuid", uuid)];
    macro_rules! single {
        ($($field:ident: $values:expr),* $(,)?) => {
            $(for v in $values.iter().cloned() { singles.push((stringify!($field), pb::FlowFilter { $field: vec![v.into()], ..pb::FlowFilter::default() })); })*
        };
    }
    let workload = || [pb::Workload { name: "web".into(), kind: String::new() }];
    single! {
        source_ip: IPS, destination_ip: IPS, source_ip_xlated: IPS, source_pod: NAMES, destination_pod: NAMES,
        source_service: NAMES, destination_service: NAMES, source_label: LABELS, destination_label: LABELS,
        source_port: PORTS, destination_port: PORTS, source_fqdn: ["*.example.com"], destination_fqdn: ["a*"],
        source_identity: [3u32], destination_identity: [5u32], source_cluster_name: ["prod"],
        destination_cluster_name: ["prod"], source_workload: workload(), destination_workload: workload(),
        traffic_direction: [0i32, 1, 2], verdict: [1i32, 2, 4], drop_reason_desc: [133i32, 181], reply: [true, false],
        encrypted: [true, false], ip_version: [0i32, 1, 2], protocol: ["tcp", "icmp", "dns", "http", "sctp"],
        tcp_flags: [pb::TcpFlags { syn: true, ..pb::TcpFlags::default() }], node_name: ["n1", "prod/", "pr*/n*"],
        node_labels: ["k8s:zone=a"], trace_id: ["aaaa"], ip_trace_id: [7u64], dns_query: ["example"],
        http_status_code: ["404", "2+"], http_method: ["get"], http_path: ["/cart"], http_url: ["q=1"],
        http_header: [pb::HttpHeader { key: "a".into(), value: "b".into() }],
        event_type: [pb::EventTypeFilter { r#type: 5, ..pb::EventTypeFilter::default() }],
        interface: [pb::NetworkInterface { index: 2, name: String::new() }],
    }
    let mut both = std::collections::BTreeMap::new();
    for (field, filter) in &singles {
        let ours = Filters::parse(std::slice::from_ref(filter), &[]).unwrap();
        let mut seen = [false; 2];
        for flow in &flows {
            let matched = ours.matches(flow);
            assert_eq!(matched, naive(flow, std::slice::from_ref(filter), &[]), "{filter:?}\n{flow:?}");
            seen[usize::from(matched)] = true;
        }
        *both.entry(*field).or_insert(false) |= seen == [true; 2];
    }
    let one_sided: Vec<_> = both.iter().filter(|(_, both)| !**both).collect();
    assert!(one_sided.is_empty(), "these fields proved nothing: {one_sided:?}");
    assert_eq!(both.len(), 40, "fields of the filter, but for experimental");
}

#[test]
fn bad_values_are_all_named() {
    let filter = pb::FlowFilter {
        source_ip: vec!["10.0.0.300".into(), "10.0.0.0/33".into()],
        destination_port: vec!["http".into(), "70000".into(), "+1".into()],
        source_pod: vec![String::new()],
        protocol: vec!["quic".into()],
        source_label: vec!["a b".into()],
        destination_fqdn: vec!["a b".into()],
        node_name: vec!["a/b/c".into()],
        http_status_code: vec!["600".into()],
        dns_query: vec!["(".into()],
        ..pb::FlowFilter::default()
    };
    let problems = Filters::parse(&[], &[filter]).unwrap_err();
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for field in [
        "source_ip",
        "destination_port",
        "source_pod",
        "protocol",
        "source_label",
        "destination_fqdn",
        "node_name",
        "http_status_code",
        "dns_query",
    ] {
        assert!(said.iter().any(|s| s.starts_with(&format!("blacklist[0].{field}: "))), "{field}: {said:#?}");
    }
    assert_eq!(problems.len(), 12);
}

#[test]
fn huge_filters_are_refused_in_few_words() {
    let many = pb::FlowFilter { source_identity: (0..20_000).collect(), ..pb::FlowFilter::default() };
    let problems = Filters::parse(&[many], &[]).unwrap_err();
    assert_eq!(problems.len(), 1);
    let bad = pb::FlowFilter { source_port: vec!["x".repeat(1000); 9000], ..pb::FlowFilter::default() };
    let said: usize = Filters::parse(&[bad], &[]).unwrap_err().iter().map(|p| p.to_string().len()).sum();
    assert!(said < 4096, "{said} bytes");
    let regex = pb::FlowFilter { http_url: vec!["(a{1000}){1000}".into()], ..pb::FlowFilter::default() };
    assert!(Filters::parse(&[regex], &[]).is_err(), "an expression that takes too much memory");
}

fn expressions(texts: &[&str]) -> pb::FlowFilter {
    let experimental =
        pb::flow_filter::Experimental { cel_expression: texts.iter().map(|t| (*t).to_owned()).collect() };
    pb::FlowFilter { experimental: Some(experimental), ..pb::FlowFilter::default() }
}

#[test]
fn an_expression_counts_like_any_other_field() {
    let flow = pb::Flow { verdict: 2, is_reply: Some(false), ..pb::Flow::default() };
    let matches =
        |white: &[pb::FlowFilter], black: &[pb::FlowFilter]| Filters::parse(white, black).unwrap().matches(&flow);
    let (dropped, forwarded) = ("_flow.verdict == Verdict.DROPPED", "_flow.verdict == Verdict.FORWARDED");
    assert!(matches(&[expressions(&[dropped])], &[]) && !matches(&[expressions(&[forwarded])], &[]));
    assert!(matches(&[expressions(&[forwarded, dropped])], &[]), "any of them");
    let and = pb::FlowFilter { reply: vec![true], ..expressions(&[dropped]) };
    assert!(!matches(&[and], &[]), "all of the fields");
    assert!(!matches(&[], &[expressions(&[dropped])]));
}

#[test]
fn expressions_are_refused_by_name_and_place() {
    let problems =
        Filters::parse(&[expressions(&["true", "_flow.verdict == 1 && _flow.colour == 2"])], &[]).unwrap_err();
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("whitelist[0].experimental.cel_expression: \"_flow.verdict == 1"), "{said:?}");
    assert!(said[0].contains("at character 28: Flow has no field \"colour\""), "{said:?}");
    let many = Filters::parse(&[expressions(&["true"; 20]), expressions(&["true"; 20])], &[]).unwrap_err();
    assert!(many[0].what.contains("may have 32 expressions"), "{many:?}");
    let labels = "_flow.source.labels.exists(l, l.contains(\"a\") || l.contains(\"b\") || l.startsWith(\"c\"))";
    let dear = Filters::parse(&[expressions(&[labels; 32])], &[]).unwrap_err();
    assert!(dear[0].what.contains("8192 steps"), "{dear:?}");
}
