//! What a pod, a policy and a node cost the operator's core, in bytes of live heap.
//!
//! Counted by the allocator, so that it is the same on every machine: resident memory also has what the allocator keeps
//! for later. A field of 32 bytes that is added to a pod, or a set of one that becomes a tree, goes over the bounds.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "objects that it has made itself")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use axoneme_model::Kind;
use axoneme_operator::{
    core::{Core, Timing},
    source::{KINDS, SourceEvent, slim},
    write::{Operation, Outcome},
};
use axoneme_wire::server::Leadership;
use serde_json::{Value, json};

/// What the system's allocator gives, with the sizes that were asked for added up, each as the allocator rounds it.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

/// A size class: small pieces come in steps of 16 bytes and have 8 of bookkeeping.
const fn charged(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16)
}

#[allow(unsafe_code, reason = "the trait is unsafe; every call goes on as it came")]
// SAFETY: all methods hand their arguments to the system's allocator and its answers back.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(charged(layout), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that are asked for
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(charged(layout), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that are asked for
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Rig {
    core: Core,
    now: Instant,
    version: u64,
}

impl Rig {
    fn apply(&mut self, kind: Kind, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        slim(kind, &mut object);
        self.core.source(SourceEvent::Apply { kind, object });
    }

    /// Flushes once, and plays an API server that carries out every write. Whether an object came into being by that.
    fn flush(&mut self) -> bool {
        self.now += Duration::from_millis(500);
        let mut created = false;
        for write in self.core.flush(self.now, "2026-01-01T00:00:00Z").writes {
            let done = match write.operation {
                Operation::Create(mut object) => {
                    self.version += 1;
                    object["metadata"]["resourceVersion"] = self.version.to_string().into();
                    created = true;
                    Some(object)
                }
                _ => None,
            };
            self.core.wrote(&write.key, Outcome::Done(done), self.now);
        }
        created
    }
}

/// How many there are of each.
#[derive(Clone, Copy)]
struct Size {
    pods: u32,
    nodes: u32,
    policies: u32,
    /// Label sets of pods that policies tell apart.
    sets: u32,
}

fn pod(i: u32, of: Size) -> Value {
    let set = i % of.sets;
    json!({"metadata": {"name": format!("app-{set}-5d89bdd9c8-{i:05x}"), "namespace": format!("ns-{}", set / 100),
            "uid": format!("00000000-0000-4000-8000-{i:012}"),
            "labels": {"app": format!("app-{set}"), "pod-template-hash": format!("{:x}", set.wrapping_mul(2_654_435_761)), "tier": "web"}},
        "spec": {"nodeName": format!("node-{}", i % of.nodes), "serviceAccountName": "default",
            "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": std::net::Ipv4Addr::from(0x0a00_0000 + i).to_string()}]}})
}

fn policy(i: u32, of: Size) -> Value {
    let set = i % of.sets;
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": format!("p-{i}"), "namespace": format!("ns-{}", set / 100), "uid": format!("p-{i}"), "generation": 1},
        "spec": {"endpointSelector": {"matchLabels": {"app": format!("app-{set}")}},
            "ingress": [{"fromEndpoints": [{"matchLabels": {"app": format!("app-{}", (i + 1) % of.sets)}}],
                "toPorts": [{"ports": [{"port": (1000 + i).to_string(), "protocol": "TCP"}]}]}]}})
}

fn node(i: u32) -> Value {
    let address = std::net::Ipv4Addr::from(0xac10_0000 + i).to_string();
    json!({"metadata": {"name": format!("node-{i}"), "uid": format!("n-{i}"),
            "labels": {"kubernetes.io/hostname": format!("node-{i}"), "topology.kubernetes.io/zone": format!("zone-{}", i % 3)}},
        "spec": {}, "status": {"addresses": [{"type": "InternalIP", "address": address}]}})
}

/// Live bytes of a core that has loaded such a cluster and come to rest.
fn bytes(of: Size) -> f64 {
    let before = LIVE.load(Ordering::Relaxed);
    let mut rig = Rig { core: Core::new("memory", Timing::default()), now: Instant::now(), version: 0 };
    rig.core.lead(Leadership::Me);
    rig.apply(
        Kind::AxonemeConfig,
        json!({"metadata": {"name": "default", "uid": "c", "generation": 1},
        "spec": {"ipFamilies": ["IPv4"], "ipam": {"mode": "ClusterPool", "clusterPool": {"ipv4": {"cidrs": ["10.0.0.0/8"], "maskSize": 24}}}}}),
    );
    (0..of.nodes).for_each(|i| rig.apply(Kind::Node, node(i)));
    for i in 0..=of.sets / 100 {
        rig.apply(Kind::Namespace, json!({"metadata": {"name": format!("ns-{i}"), "labels": {"kubernetes.io/metadata.name": format!("ns-{i}")}}}));
    }
    (0..of.policies).for_each(|i| rig.apply(Kind::CiliumNetworkPolicy, policy(i, of)));
    (0..of.pods).for_each(|i| rig.apply(Kind::Pod, pod(i, of)));
    for kind in KINDS {
        rig.core.source(SourceEvent::Synced(kind));
    }
    while rig.flush() {}
    let after = LIVE.load(Ordering::Relaxed);
    assert!(rig.core.flush(rig.now, "2026-01-01T00:00:00Z").ready, "it is not ready to serve");
    f64::from(u32::try_from(after - before).unwrap())
}

/// One test, alone in its program: what others allocate meanwhile would be counted, too.
#[test]
fn a_pod_a_policy_and_a_node_keep_to_their_budgets() {
    let small = Size { pods: 1600, nodes: 100, policies: 100, sets: 1000 };
    // what is made once for all, by whoever comes first
    bytes(small);
    let base = bytes(small);
    let each = |more: Size, count: u32| (bytes(more) - base) / f64::from(count);
    let replica = each(Size { pods: small.pods + 1600, ..small }, 1600);
    let application = each(Size { pods: small.pods + 1600, sets: small.sets + 1000, ..small }, 1600);
    let policy = each(Size { policies: small.policies + 800, ..small }, 800);
    let node = each(Size { nodes: small.nodes + 400, ..small }, 400);
    eprintln!(
        "bytes: a replica {replica:.0}, a pod with its share of label sets {application:.0}, a policy {policy:.0}, a node {node:.0}"
    );
    for (what, measured, budget) in [
        ("a pod whose labels others have", replica, REPLICA),
        ("a pod of a cluster with two identities for three pods", application, POD),
        ("a policy", policy, POLICY),
        ("a node", node, NODE),
    ] {
        assert!(measured < budget, "{what} takes {measured:.0} bytes, its budget is {budget}");
    }
}

/// Budgets: what was measured, and a tenth.
const REPLICA: f64 = 2500.0;
const POD: f64 = 4300.0;
const POLICY: f64 = 12_400.0;
const NODE: f64 = 10_700.0;
