//! The dashboard of flows asks for metrics that agents have, by labels that those have. The others are held by the agent.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use axoneme_flow::{TcpFlags, Transport, Verdict};
use axoneme_hubble::{convert, metrics::Metrics};
use axoneme_model::Protocol;
use common::{Rig, records};
use regex::Regex;
use serde_json::Value;

/// Labels that Prometheus itself gives.
const TARGET: [&str; 2] = ["instance", "job"];

/// The sets that the product's manifests enable.
fn sets() -> String {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/base/hubble.yaml");
    let text = fs::read_to_string(manifest).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("  metrics: ")).expect("ConfigMap axoneme-hubble has metrics");
    line.to_owned()
}

/// Metrics with their labels, as an agent that has seen all kinds of flows tells them.
async fn told() -> BTreeMap<String, BTreeSet<String>> {
    let rig = Rig::new(16).await;
    let sets = sets();
    let mut metrics = Metrics::parse(sets.split_whitespace(), 10_000).unwrap();
    let mut all = records(400);
    // what chance may leave out
    for (n, record) in all.iter_mut().enumerate() {
        if n % 4 == 0 {
            record.verdict = Verdict::Forwarded;
            record.transport = Transport::Tcp { source: 4000, destination: 80, flags: TcpFlags(2) };
        } else if n % 4 == 1 {
            record.transport = Transport::new(Protocol::ICMP, 8, 0, 0);
        }
    }
    for (flow, facet) in rig.flows(&all) {
        metrics.count(&convert::flow(&flow, facet, "prod", false));
    }
    metrics.set_lost([("hubble_ring_buffer", 1)]);
    metrics.set_exported("static", &rig.node.exporter("static"));
    let line = Regex::new(r"^(hubble_\w+)(?:\{(.*)\})? \S+$").unwrap();
    let label = Regex::new(r#"(\w+)=""#).unwrap();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for captures in metrics.text().lines().filter_map(|l| line.captures(l)) {
        let labels = captures.get(2).map_or("", |m| m.as_str());
        let names = label.captures_iter(labels).map(|c| c[1].to_owned());
        found.entry(captures[1].to_owned()).or_default().extend(names);
    }
    found
}

/// All queries of a dashboard, those of its variables included.
fn queries(dashboard: &Value) -> Vec<String> {
    let list = |v: &Value, path: &str| v.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
    let of_panel =
        |p: &Value| list(p, "/targets").iter().map(|t| t["expr"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let mut all: Vec<String> = list(dashboard, "/panels").iter().flat_map(of_panel).collect();
    let variables = list(dashboard, "/templating/list");
    all.extend(variables.iter().filter(|v| v["type"] == "query").map(|v| v["query"].as_str().unwrap().to_owned()));
    all
}

/// What is wrong with a query; empty: nothing.
fn problems(query: &str, told: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let metric = Regex::new(r"\b(hubble_\w+|axoneme_\w+|cilium_\w+)").unwrap();
    let by = Regex::new(r"\bby \(([^)]*)\)").unwrap();
    let legend = Regex::new(r"(\w+)\s*(?:=~|!~|!=|=)").unwrap();
    let names: Vec<&str> = metric.captures_iter(query).map(|c| c.get(1).unwrap().as_str()).collect();
    let mut out: Vec<String> =
        names.iter().filter(|n| !told.contains_key(**n)).map(|n| format!("no metric {n}")).collect();
    if names.is_empty() {
        out.push("it asks for no metric".to_owned());
    }
    let asked = by.captures_iter(query).flat_map(|c| c[1].split(',').map(|l| l.trim().to_owned()).collect::<Vec<_>>());
    let matched = legend.captures_iter(query).map(|c| c[1].to_owned());
    for label in asked.chain(matched) {
        let known = TARGET.contains(&&*label) || names.iter().any(|n| told.get(*n).is_some_and(|l| l.contains(&label)));
        if !known {
            out.push(format!("{} has no label {label}", names.join(", ")));
        }
    }
    out
}

#[tokio::test]
async fn every_query_of_the_dashboard_asks_for_what_there_is() {
    let told = told().await;
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/overlays/dashboards");
    let (mut asked, mut wrong, mut unasked) = (0, Vec::new(), told.clone());
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_none_or(|n| n != "hubble.json") {
            continue;
        }
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let queries = queries(&dashboard);
        assert!(!queries.is_empty(), "{}", path.display());
        asked += queries.len();
        let of = |q: &String| problems(q, &told).into_iter().map(|p| format!("{q}: {p}")).collect::<Vec<_>>();
        wrong.extend(queries.iter().flat_map(of));
        unasked.retain(|metric, _| queries.iter().all(|q| !q.contains(&**metric)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}\nthere is {told:#?}");
    assert!(unasked.is_empty(), "on no panel: {:?}", unasked.keys());
    println!("{asked} queries hold");
}

#[tokio::test]
async fn a_query_for_what_is_not_there_is_found() {
    let told = told().await;
    for query in [
        "rate(hubble_dns_queries_total[5m])",
        "sum by (colour) (hubble_drop_total)",
        "sum(hubble_drop_total{colour=\"red\"})",
        "up",
    ] {
        assert!(!problems(query, &told).is_empty(), "{query}");
    }
}
