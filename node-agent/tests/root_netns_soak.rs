//! Pods come and go for long: what the agent and the kernel hold for them does not grow.
//!
//! `AXONEME_SOAK_CYCLES=N` for another number of pods, `AXONEME_SOAK_SECONDS=3600` for as long as that.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]
#![allow(clippy::disallowed_methods, reason = "how long is asked for by the environment")]

mod common;
mod rig;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use axoneme_flow::NameBook;
use axoneme_wire::{Row, RowChange, change::RowKey};
use common::*;
use rig::*;
use serde_json::{Value, json};

/// Pods in a run without settings.
const CYCLES: usize = 1_500;
/// The first ones fill caches, pools of memory and the history of flows.
const WARM: usize = 200;
/// Resident memory may differ by this from one look to the next: the allocator's pages and the history of flows.
const RSS_KIB: u64 = 2 * 1024;
/// Names of pods that are gone are kept for their flows, the newest 4096 of them (`NameBook::DEPARTED`); each takes less
/// than this.
const NAME_KIB: u64 = 2;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: a number is wanted")))
}

type Publisher = tokio::sync::mpsc::Sender<Vec<RowChange>>;

/// What must be the same after any number of pods.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    /// By what they are: maps, programs, links, sockets.
    kinds: BTreeMap<String, usize>,
    pins: Vec<String>,
    links: String,
    routes: String,
    state: Vec<String>,
}

fn names(directory: &std::path::Path) -> Vec<String> {
    let text = sh(&format!("cd {} && find . | sort", directory.display()));
    text.lines().map(str::to_owned).collect()
}

fn links(rig: &Rig) -> String {
    sh(&format!("ip -n {} -o link | cut -d: -f2 | cut -d@ -f1 | sort", rig.node()))
}

fn held(rig: &Rig) -> Held {
    let pid = rig.agent.as_ref().unwrap().id();
    let mut kinds = BTreeMap::new();
    for fd in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let Ok(target) = std::fs::read_link(fd.unwrap().path()) else { continue };
        let kind = target.display().to_string().split([':', '[']).next().unwrap_or_default().to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    let node = rig.node();
    Held {
        descriptors: kinds.values().sum(),
        kinds,
        pins: names(&rig.path("bpf/axoneme")),
        links: links(rig),
        routes: sh(&format!("ip -n {node} route; ip -n {node} neigh show nud permanent")),
        state: names(&rig.path("state")),
    }
}

/// One pod after the other in one namespace, each with a uid of its own, as a new pod has; their number.
fn pods(rig: &Rig, operator: &Publisher, lane: usize, enough: impl Fn(usize) -> bool) -> usize {
    let mut done = 0;
    while !enough(done) {
        let uid = format!("soak-{lane}-{done}");
        let publish = |changes| operator.blocking_send(changes).unwrap();
        publish(vec![RowChange::Upsert(Row::Endpoint(endpoint(&uid, 5).into()))]);
        let (ok, result) = rig.call("ADD", lane, &uid);
        assert!(ok, "pod {done} of lane {lane}: {result}");
        let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
        let row = ip_row(&format!("{address}/32"), 300, "n1", &uid);
        let prefix = row.prefix;
        publish(vec![RowChange::Upsert(Row::Ip(row.into()))]);
        if done % 100 == 0 {
            assert!(rig.ping(lane, "192.168.77.1"), "pod {done} of lane {lane} has no network");
        }
        assert_eq!(rig.call("DEL", lane, &uid), (true, Value::Null), "pod {done} of lane {lane}");
        publish(vec![RowChange::Remove(RowKey::Ip(prefix)), RowChange::Remove(RowKey::Endpoint(uid.as_str().into()))]);
        done += 1;
    }
    done
}

/// Runs that many pods, or for that long, on both lanes; then waits until the node is at rest.
fn run(rig: &Rig, operator: &Operator, without: &str, cycles: usize, ends: Option<Instant>) -> usize {
    let total = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for lane in 0..PODS {
            let (total, publish) = (&total, operator.publish.clone());
            scope.spawn(move || {
                let enough = |done| ends.map_or(done >= cycles / PODS, |at| Instant::now() >= at);
                total.fetch_add(pods(rig, &publish, lane, enough), Ordering::Relaxed);
            });
        }
    });
    rig.until("nothing is left of the pods", |r| r.admin("/status")["endpoints"] == json!([]));
    // links and pins go after the answers
    rig.until("their links are gone", |r| links(r) == without);
    total.into_inner()
}

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem"]
fn hundreds_of_pods_leave_memory_descriptors_and_maps_as_they_were() {
    let mut rig = Rig::new();
    // addresses rest for half a minute before they are given out again: a /24 would be empty after a few seconds
    let mut rows = allowing(300..301);
    rows.nodes.get_mut("n1").unwrap().pod_cidrs = vec![net("10.16.0.0/16")];
    let config = rows.config.as_mut().unwrap();
    config.pools = BTreeMap::from([("default".into(), vec![net("10.16.0.0/16")])]);
    config.cluster_cidrs.push(net("10.16.0.0/16"));
    let operator = Operator::start(&rig.node(), &rows);
    rig.start();
    rig.until("the plugin is installed", |r| r.path("net.d/05-axoneme.conflist").exists());
    let without = links(&rig);
    run(&rig, &operator, &without, WARM, None);
    std::thread::sleep(Duration::from_secs(1));
    let pid = rig.agent.as_ref().unwrap().id();
    let (before, rss) = (held(&rig), rss_kib(pid));

    let begun = Instant::now();
    let ends = setting("AXONEME_SOAK_SECONDS").map(|s| begun + Duration::from_secs(s));
    let cycles = setting("AXONEME_SOAK_CYCLES").and_then(|n| usize::try_from(n).ok()).unwrap_or(CYCLES);
    // until as many names are kept as ever are, then the rest: that takes no more memory, however many there are
    let first = if ends.is_some() { NameBook::DEPARTED } else { cycles.min(NameBook::DEPARTED) };
    let mut rss = rss;
    let mut done = 0;
    for (cycles, ends, names) in [(first, None, first), (cycles - first.min(cycles), ends, 0)] {
        if cycles == 0 && ends.is_none() {
            break;
        }
        done += run(&rig, &operator, &without, cycles, ends);
        let took = begun.elapsed();
        std::thread::sleep(Duration::from_secs(1));
        let after = rss_kib(pid);
        println!("{done} pods in {took:.1?}; resident memory {rss} KiB, then {after} KiB");
        assert_eq!(held(&rig), before, "after {done} pods");
        let limit = rss + RSS_KIB + NAME_KIB * names as u64;
        assert!(after <= limit, "after {done} pods {after} KiB are resident, before {rss} KiB");
        rss = after;
    }
    assert_eq!(rig.admin("/drift"), json!([]));
}
