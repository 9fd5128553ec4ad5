use axoneme_flow::{Enricher, Event, Facet, Record, Verdict, testing};
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};

use super::*;
use crate::convert;

fn flows(count: usize) -> Vec<pb::Flow> {
    let mut runner = TestRunner::deterministic();
    let one = testing::arbitrary_record().prop_map(|r| Record {
        verdict: if r.event == Event::Drop { Verdict::Dropped } else { Verdict::Forwarded },
        ..r
    });
    let names = testing::names();
    let enricher = Enricher::new("n1", "prod", 1);
    let shown = |r: &Record, f: &Facet| convert::flow(&enricher.flow(1, r, &names), *f, "prod", false);
    (0..count)
        .map(|_| one.new_tree(&mut runner).unwrap().current())
        .flat_map(|r| r.facets().iter().map(|f| shown(&r, f)).collect::<Vec<_>>())
        .collect()
}

/// Sum of the series of a metric whose text has all of the parts.
fn sum(text: &str, metric: &str, parts: &[&str]) -> u64 {
    let lines = text.lines().filter(|l| l.starts_with(&format!("{metric}{{")) && parts.iter().all(|p| l.contains(p)));
    lines.map(|l| l.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

fn count(metrics: &mut Metrics, flows: &[pb::Flow]) {
    for flow in flows {
        metrics.count(flow);
    }
}

fn counted(sets: &[&str], budget: usize, flows: &[pb::Flow]) -> String {
    let mut metrics = Metrics::parse(sets.iter().copied(), budget).unwrap();
    count(&mut metrics, flows);
    metrics.text()
}

#[test]
fn each_set_counts_what_its_peers_set_counts() {
    let mut flows = flows(600);
    // the names of these tests give each identity labels of a pod
    for end in flows.iter_mut().filter_map(|f| f.destination.as_mut()).filter(|e| e.identity == 2) {
        end.labels = vec!["reserved:world".into()];
    }
    let n = |test: &dyn Fn(&pb::Flow) -> bool| flows.iter().filter(|f| test(f)).count() as u64;
    let all = ["flow", "drop", "tcp", "icmp", "port-distribution", "policy", "flows-to-world:any-drop;port"];
    let text = counted(&all, 10_000, &flows);
    assert_eq!(sum(&text, "hubble_flows_processed_total", &[]), flows.len() as u64);
    let verdicts = n(&|f| f.event_type.unwrap().r#type == 5);
    assert_eq!(sum(&text, "hubble_flows_processed_total", &["type=\"PolicyVerdict\""]), verdicts);
    let packet = |f: &pb::Flow| f.event_type.unwrap().r#type != 5;
    let dropped = n(&|f| packet(f) && f.verdict() == pb::Verdict::Dropped);
    assert!(dropped > 0);
    assert_eq!(sum(&text, "hubble_drop_total", &[]), dropped);
    let denied = n(&|f| packet(f) && f.drop_reason_desc() == pb::DropReason::PolicyDenied);
    assert_eq!(sum(&text, "hubble_drop_total", &["reason=\"POLICY_DENIED\""]), denied);
    // of a connection's first packet, where it was met; it is told once more where it went on to
    let once = |f: &pb::Flow| {
        f.trace_reason() != pb::TraceReason::New || !f.trace_observation_point().as_str_name().starts_with("TO_")
    };
    assert!(n(&|f| !once(f)) > 0);
    let syn = n(&|f| {
        once(f)
            && f.verdict() == pb::Verdict::Forwarded
            && f.ip.is_some()
            && matches!(l4(f), Some(L4::Tcp(pb::Tcp { flags: Some(x), .. })) if x.syn && !x.ack)
    });
    assert_eq!(sum(&text, "hubble_tcp_flags_total", &["flag=\"SYN\""]), syn);
    let icmp = n(&|f| once(f) && matches!(l4(f), Some(L4::IcmPv6(_))));
    assert_eq!(sum(&text, "hubble_icmp_total", &["family=\"IPv6\""]), icmp);
    let udp53 = n(&|f| {
        once(f)
            && f.verdict() == pb::Verdict::Forwarded
            && f.is_reply == Some(false)
            && matches!(l4(f), Some(L4::Udp(u)) if u.destination_port == 53)
    });
    assert_eq!(sum(&text, "hubble_port_distribution_total", &["protocol=\"UDP\"", "port=\"53\""]), udp53);
    let host = n(&|f| f.event_type.unwrap().r#type == 5 && f.source.as_ref().unwrap().identity == 1);
    assert_eq!(sum(&text, "hubble_policy_verdicts_total", &[]), verdicts - host);
    let to_world = n(&|f| {
        once(f)
            && f.destination.as_ref().unwrap().identity == 2
            && l4(f).is_some()
            && (f.verdict() == pb::Verdict::Dropped || f.is_reply != Some(true))
    });
    assert!(to_world > 0);
    assert_eq!(sum(&text, "hubble_flows_to_world_total", &[]), to_world);
}

#[test]
fn context_names_the_ends_by_the_first_that_is_known() {
    let flows = flows(300);
    let set =
        "flow:sourceContext=workload|pod|ip;destinationContext=namespace;labelsContext=source_app,traffic_direction";
    let text = counted(&[set], 100_000, &flows);
    let pod = flows.iter().find(|f| !f.source.as_ref().unwrap().pod_name.is_empty()).unwrap();
    let source = pod.source.as_ref().unwrap();
    let name = format!("source=\"{}/{}\"", source.namespace, source.pod_name);
    let same = |f: &&pb::Flow| {
        f.source.as_ref().unwrap().pod_name == source.pod_name
            && f.source.as_ref().unwrap().namespace == source.namespace
    };
    assert_eq!(sum(&text, "hubble_flows_processed_total", &[&name]), flows.iter().filter(same).count() as u64);
    let outside = flows.iter().find(|f| f.source.as_ref().unwrap().pod_name.is_empty() && f.ip.is_some()).unwrap();
    let ip = format!("source=\"{}\"", outside.ip.as_ref().unwrap().source);
    assert!(sum(&text, "hubble_flows_processed_total", &[&ip]) > 0);
    assert!(text.contains("source_app=\"web\"") && text.contains("traffic_direction=\"ingress\""));
}

#[test]
fn beyond_the_budget_everything_is_other_and_the_sum_stays() {
    let flows = flows(500);
    let text = counted(&["flow:labelsContext=source_ip,destination_ip"], 10, &flows);
    assert_eq!(sum(&text, "hubble_flows_processed_total", &[]), flows.len() as u64);
    let series = text.lines().filter(|l| l.starts_with("hubble_flows_processed_total{")).count();
    assert_eq!(series, 11, "ten, and other");
    assert!(sum(&text, "hubble_flows_processed_total", &["source_ip=\"other\"", "verdict=\"other\""]) > 0);
    assert!(text.contains("hubble_metric_series{metric=\"hubble_flows_processed_total\"} 10"), "{text}");
    assert!(text.contains("hubble_metric_series_budget 10"));
}

#[test]
fn series_of_a_pod_go_with_it() {
    let flows = flows(2000);
    let set = "drop:sourceContext=pod;labelsContext=destination_pod,destination_namespace";
    let mut metrics = Metrics::parse([set], 10_000).unwrap();
    count(&mut metrics, &flows);
    let named =
        |text: &str| text.matches("source=\"shop/web-3\"").count() + text.matches("destination_pod=\"web-3\"").count();
    assert!(named(&metrics.text()) > 0);
    metrics.forget("shop", "web-3");
    assert_eq!(named(&metrics.text()), 0);
    assert!(metrics.text().contains("source=\"shop/"), "others stay");
}

#[test]
fn what_cannot_be_counted_is_refused_by_name() {
    let refused = |text: &str| Metrics::parse([text], 10).unwrap_err().to_string();
    assert!(refused("dns").contains("use one of flow, drop"));
    assert!(refused("flow:sourceContext=mac").contains("sourceContext: there is no \"mac\""));
    assert!(refused("flow:labelsContext=source_ip,x").contains("source_pod"));
    assert!(refused("drop:port").contains("no such option"));
    assert!(Metrics::parse(["flow", "flow"], 10).unwrap_err().to_string().contains("twice"));
}

#[test]
fn losses_only_grow() {
    let mut metrics = Metrics::parse([], 10).unwrap();
    metrics.set_lost([("hubble_ring_buffer", 5)]);
    metrics.set_lost([("hubble_ring_buffer", 3)]);
    metrics.set_lost([("hubble_ring_buffer", 9)]);
    let text = metrics.text();
    assert_eq!(sum(&text, "hubble_lost_events_total", &["hubble_ring_buffer"]), 9, "{text}");
}
