//! The dashboard of agents asks for metrics that agents have, by labels that those have.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::{Duration, Instant},
};

use axoneme_flow::{
    DropReason,
    admin::{MapUsage, PoolUsage, Status},
};
use axoneme_model::Direction;
use axoneme_node_agent::{
    health::{
        Lane, Peers, Place, Protocol,
        mesh::{Effect, Input, Mesh},
        metrics::Metrics,
    },
    metrics::{Agent, Dropped, Facts, Kernel},
};
use serde_json::Value;

const DASHBOARDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/overlays/dashboards");

/// What Prometheus reads of an agent to which everything has happened.
fn page() -> String {
    let dropped = Dropped { reason: DropReason(133), direction: Direction::Ingress, packets: 1, bytes: 74 };
    let status = Status {
        pools: vec![PoolUsage { family: "ipv4".to_owned(), ..PoolUsage::default() }],
        maps: vec![MapUsage { map: "CT4".to_owned(), capacity: 1, ..MapUsage::default() }],
        ..Status::default()
    };
    let agent = Agent::default();
    let drift = [("route", 1)].into();
    let kernel = Kernel { drops: vec![dropped], ..Kernel::default() };
    agent.set(Facts { status, drift, kernel, ..Facts::default() });
    let mut metrics = Metrics::new("n1");
    metrics.add(agent);
    let lane = Lane { place: Place::Node, protocol: Protocol::Http, address: "10.0.0.1".parse().unwrap() };
    metrics.answered("east", lane, Duration::from_millis(1));
    // a node that never answers, until it is given up
    let (mut mesh, mut now) = (Mesh::default(), Instant::now());
    let nodes = ["n1", "n2"].map(|n| (n.into(), vec![lane])).into();
    let peers = Peers { own: "n1".into(), interval: Duration::from_secs(1), nodes };
    let mut effects = mesh.step(now, Input::Peers(peers));
    for _ in 0..200 {
        let Some(effect) = effects.pop() else {
            now = mesh.wake_at().unwrap();
            effects = mesh.step(now, Input::Tick);
            continue;
        };
        let Effect::Visit { node, ticket, lanes } = effect else { continue };
        let outcomes = lanes.into_iter().map(|l| (l, Err("silence".to_owned()))).collect();
        effects.extend(mesh.step(now, Input::Visited { node, ticket, outcomes }));
    }
    metrics.count("east", &mesh);
    metrics.text()
}

/// Metrics with their labels.
fn told() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in page().lines().filter(|l| !l.starts_with('#')) {
        let series = line.rsplit_once(' ').unwrap().0;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let names = labels.split(',').filter_map(|l| l.split_once('=')).map(|l| l.0.to_owned());
        found.entry(name.to_owned()).or_default().extend(names);
    }
    found
}

fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|p| p["targets"].as_array().unwrap());
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter().filter(|v| v["type"] == "query");
    let all = targets.map(|t| &t["expr"]).chain(variables.map(|v| &v["query"]));
    all.map(|q| q.as_str().unwrap().to_owned()).collect()
}

/// What is wrong with a query; empty: nothing.
fn problems(query: &str, told: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let is_ours = |w: &&str| w.starts_with("cilium_") || w.starts_with("axoneme_") || w.starts_with("hubble_");
    let names: Vec<&str> = query.split(word).filter(is_ours).collect();
    let mut out: Vec<String> =
        names.iter().filter(|n| !told.contains_key(**n)).map(|n| format!("no metric {n}")).collect();
    if names.is_empty() {
        out.push("it asks for no metric".to_owned());
    }
    let grouped = query.split("by (").skip(1).flat_map(|q| q.split(')').next().unwrap().split(','));
    let braces = query.split('{').skip(1).flat_map(|q| q.split('}').next().unwrap().split(','));
    let matched = braces.map(|m| m.split(['=', '!']).next().unwrap());
    for label in grouped.chain(matched).map(str::trim).filter(|l| *l != "instance") {
        if !names.iter().any(|n| told.get(*n).is_some_and(|l| l.contains(label))) {
            out.push(format!("{} has no label {label}", names.join(", ")));
        }
    }
    out
}

#[test]
fn every_query_of_the_dashboard_asks_for_what_there_is_and_everything_is_on_it() {
    let told = told();
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(Path::new(DASHBOARDS).join("agent.json")).unwrap()).unwrap();
    let queries = queries(&dashboard);
    let of = |q: &String| problems(q, &told).into_iter().map(|p| format!("{q}: {p}")).collect::<Vec<_>>();
    let wrong: Vec<String> = queries.iter().flat_map(of).collect();
    assert!(wrong.is_empty(), "{wrong:#?}\nthere is {told:#?}");
    // of a histogram one of its three is enough
    let asked = |metric: &String| queries.iter().any(|q| q.contains(metric.as_str()));
    let part = |metric: &&String| !metric.ends_with("_sum") && !metric.ends_with("_count");
    let unasked: Vec<_> = told.keys().filter(part).filter(|m| !asked(m)).collect();
    assert!(unasked.is_empty(), "on no panel: {unasked:?}");
}

#[test]
fn a_query_for_what_is_not_there_is_found() {
    let told = told();
    for query in [
        "rate(cilium_nothing_total[5m])",
        "sum by (colour) (cilium_drop_count_total)",
        "sum(cilium_drop_count_total{colour=\"red\"})",
        "up",
    ] {
        assert!(!problems(query, &told).is_empty(), "{query}");
    }
}

#[test]
fn every_dashboard_is_held_by_a_test_and_made_a_configmap() {
    let entries = fs::read_dir(DASHBOARDS).unwrap().map(|e| e.unwrap().path());
    let all = entries.filter(|p| p.extension().is_some_and(|e| e == "json"));
    let all: BTreeSet<String> = all.map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    // hubble.json: crates/hubble/tests/dashboards.rs
    assert_eq!(all, ["agent.json", "hubble.json"].map(str::to_owned).into());
    let kustomization = fs::read_to_string(Path::new(DASHBOARDS).join("kustomization.yaml")).unwrap();
    assert!(all.iter().all(|name| kustomization.contains(&format!("files: [{name}]"))), "{kustomization}");
}
