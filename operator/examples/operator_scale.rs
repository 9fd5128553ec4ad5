//! How much memory the operator's core holds in a large cluster, and how much after pods have come and gone.
//!
//! `cargo run --profile image -p axoneme-operator [--features jemalloc] --example operator_scale [pods] [nodes] [policies] [rounds]`
//! prints one JSON object a line. Every pod has a label value of its own that a policy reads, so there is an identity
//! for each (65 000 at most). Objects come as the watches bring them, with managed fields and all.
#![allow(clippy::indexing_slicing, reason = "objects that it has made itself")]

use std::time::{Duration, Instant};

use axoneme_model::Kind;
use axoneme_operator::{
    core::{Core, Timing},
    source::{KINDS, SourceEvent},
    write::{Operation, Outcome},
};
use axoneme_wire::server::Leadership;
use serde_json::{Value, json};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const PODS_A_NAMESPACE: u32 = 100;

struct World {
    core: Core,
    now: Instant,
    version: u64,
}

impl World {
    fn apply(&mut self, kind: Kind, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        axoneme_operator::source::slim(kind, &mut object);
        self.core.source(SourceEvent::Apply { kind, object });
    }

    /// Flushes, and plays an API server that carries out every write.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.now += Duration::from_millis(500);
            let writes = self.core.flush(self.now, "2026-01-01T00:00:00Z").writes;
            if writes.is_empty() {
                return;
            }
            for w in writes {
                let done = match w.operation {
                    Operation::Create(mut object) => {
                        self.version += 1;
                        object["metadata"]["resourceVersion"] = self.version.to_string().into();
                        Some(object)
                    }
                    _ => None,
                };
                self.core.wrote(&w.key, Outcome::Done(done), self.now);
            }
        }
    }
}

fn managed() -> Value {
    json!([{"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}}}}}}])
}

fn pod(i: u32, nodes: u32, generation: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "name": format!("pod-{i}-{generation}"), "namespace": format!("ns-{}", i / PODS_A_NAMESPACE),
            "uid": format!("00000000-0000-0000-{generation:04}-{i:012}"), "managedFields": managed(),
            "labels": {"app": format!("app-{i}"), "pod-template-hash": format!("{:x}", i.wrapping_mul(2_654_435_761)), "tier": "web"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "checksum/config": "e3b0c44298fc1c149afbf4c8996fb924"}},
        "spec": {"nodeName": format!("node-{}", i % nodes), "serviceAccountName": "default", "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "c", "image": "example.com/image:1", "env": [{"name": "A", "value": "b"}], "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": std::net::Ipv4Addr::from(0x0a00_0000 + i).to_string()}],
            "containerStatuses": [{"name": "c", "ready": true}]}})
}

fn policy(i: u32, pods: u32) -> Value {
    let of = |n: u32| format!("app-{}", n % pods);
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": format!("p-{i}"), "namespace": format!("ns-{}", (i % pods) / PODS_A_NAMESPACE), "generation": 1, "managedFields": managed()},
        "spec": {"endpointSelector": {"matchLabels": {"app": of(i)}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"app": of(i + 1)}}],
            "toPorts": [{"ports": [{"port": "8080", "protocol": "TCP"}]}]}]}})
}

fn resident_mib(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(field)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
}

fn print(name: &str, unit: &str, ours: f64) {
    println!("{}", json!({"name": name, "unit": unit, "ours": (ours * 10.0).round() / 10.0}));
}

fn main() {
    let arguments: Vec<u32> = std::env::args().skip(1).map(|a| a.parse().expect("a number")).collect();
    let argument = |i: usize, default: u32| arguments.get(i).copied().unwrap_or(default);
    let (pods, nodes) = (argument(0, 65_000).min(65_000), argument(1, 1000).max(1));
    let (policies, rounds) = (argument(2, 1000), argument(3, 5));
    let mut w = World { core: Core::new("scale", Timing::default()), now: Instant::now(), version: 0 };
    let began = Instant::now();
    w.core.lead(Leadership::Me);
    for i in 0..nodes {
        let address = std::net::Ipv4Addr::from(0xac10_0000 + i).to_string();
        w.apply(
            Kind::Node,
            json!({"metadata": {"name": format!("node-{i}"), "uid": format!("n-{i}")},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]}}),
        );
    }
    for i in 0..=pods / PODS_A_NAMESPACE {
        w.apply(Kind::Namespace, json!({"metadata": {"name": format!("ns-{i}")}}));
    }
    (0..policies).for_each(|i| w.apply(Kind::CiliumNetworkPolicy, policy(i, pods)));
    (0..pods).for_each(|i| w.apply(Kind::Pod, pod(i, nodes, 0)));
    for kind in KINDS {
        w.core.source(SourceEvent::Synced(kind));
    }
    w.settle();
    print("operator core, load", "ms", began.elapsed().as_secs_f64() * 1000.0);
    print("operator core, resident after load", "MiB", resident_mib("VmRSS:"));
    for round in 1..=rounds {
        for i in (0..pods).filter(|i| i % rounds == round - 1) {
            let old = format!("pod-{i}-0");
            let object = axoneme_model::ObjectRef::new(Kind::Pod, &format!("ns-{}", i / PODS_A_NAMESPACE), &old);
            w.core.source(SourceEvent::Delete(object));
            w.apply(Kind::Pod, pod(i, nodes, round));
            if i % 1000 == 0 {
                w.settle();
            }
        }
        w.settle();
    }
    print("operator core, resident after every pod was replaced", "MiB", resident_mib("VmRSS:"));
    print("operator core, peak", "MiB", resident_mib("VmHWM:"));
}
