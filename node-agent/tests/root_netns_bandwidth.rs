//! From a pod's annotation to how much of its traffic passes: the agent's binary, the plugin, the kernel.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "helpers of tests"
)]

mod common;
mod rig;

use std::{
    fs::File,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::{
        atomic::{AtomicU16, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use rig::*;
use serde_json::{Value, json};

const MANIFESTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.77.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-b, namespace: shop, uid: b}
spec: {nodeName: n1}
";

fn pod_a(rig: &Rig, annotations: &str) {
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web-a, namespace: shop, uid: a, annotations: {{{annotations}}}}}\nspec: {{nodeName: n1}}\n"
    );
    std::fs::write(rig.path("manifests/a.yaml"), text).unwrap();
}

static PORT: AtomicU16 = AtomicU16::new(5001);

const SKIP: Duration = Duration::from_millis(400);
const WINDOW: Duration = Duration::from_secs(1);

fn inside<T: Send + 'static>(netns: &str, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
    let netns = File::open(format!("/run/netns/{netns}")).expect(ROOT);
    std::thread::spawn(move || {
        nix::sched::setns(netns.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).expect(ROOT);
        work()
    })
}

/// Megabits a second that come through a connection.
fn rate(rig: &Rig, from: usize, at: usize, to: IpAddr) -> f64 {
    let to = SocketAddr::new(to, PORT.fetch_add(1, Ordering::Relaxed));
    let (ready, wait) = mpsc::channel();
    let receiver = inside(&rig.pod(at), move || {
        let listener = TcpListener::bind(to).unwrap();
        ready.send(()).unwrap();
        let (mut s, _) = listener.accept().unwrap();
        let (mut b, begin, mut bytes) = (vec![0; 1 << 16], Instant::now(), 0);
        while begin.elapsed() < SKIP + WINDOW {
            let n = s.read(&mut b).unwrap();
            bytes += if begin.elapsed() >= SKIP { n } else { 0 };
        }
        bytes as f64 * 8e-6 / WINDOW.as_secs_f64()
    });
    wait.recv().unwrap();
    let sender = inside(&rig.pod(from), move || {
        let mut s = TcpStream::connect_timeout(&to, Duration::from_secs(3)).unwrap();
        while s.write_all(&[7; 1 << 14]).is_ok() {}
    });
    let rate = receiver.join().unwrap();
    sender.join().unwrap();
    println!("{rate:.1} Mbit/s");
    rate
}

/// Measurements of which one has to say what is expected: a busy machine lets threads wait, and what has piled up meanwhile
/// comes at once.
const TRIES: usize = 5;

fn within(limit: f64, mut measure: impl FnMut() -> f64) {
    let holds = |m: &f64| (0.7 * limit..1.1 * limit).contains(m);
    let mut measured: Vec<f64> = Vec::new();
    while measured.len() < TRIES && !measured.last().is_some_and(holds) {
        measured.push(measure());
    }
    assert!(measured.last().is_some_and(holds), "{measured:?} of {limit} Mbit/s");
}

fn is_free(mut measure: impl FnMut() -> f64) {
    assert!(std::iter::repeat_with(&mut measure).take(TRIES).any(|m| m > 100.0), "as if there was a limit");
}

/// What the agent says of the first pod's limits: bytes a second to it and from it.
fn shown(rig: &Rig) -> Option<(u64, u64)> {
    let endpoints = rig.admin("/status")["endpoints"].as_array().unwrap().clone();
    let limit = endpoints.iter().find(|e| e["name"] == "web-a")?["bandwidth"].clone();
    Some((limit["ingress_bytes_per_second"].as_u64()?, limit["egress_bytes_per_second"].as_u64()?))
}

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem"]
fn a_pods_annotations_limit_it_while_it_runs_and_whoever_runs() {
    let mut rig = Rig::new();
    let dir = rig.path("manifests");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("shop.yaml"), MANIFESTS).unwrap();
    pod_a(&rig, "kubernetes.io/egress-bandwidth: 20M");
    let arguments = ["standalone", "--node", "n1", "--manifests", dir.to_str().unwrap(), "--cni-install"];
    rig.start_with(&arguments);
    rig.until("the plugin is installed", |r| r.path("net.d/05-axoneme.conflist").exists());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (pod, uid) in [(0, "a"), (1, "b")] {
        let (ok, result) = rig.call("ADD", pod, uid);
        assert!(ok, "{result}");
        addresses.push(result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap());
    }
    assert_eq!(shown(&rig), Some((0, 2_500_000)), "in force when ADD returns");
    let out = |r: &Rig| rate(r, 0, 1, addresses[1]);
    let into = |r: &Rig| rate(r, 1, 0, addresses[0]);
    within(20.0, || out(&rig));
    is_free(|| into(&rig));

    pod_a(&rig, "kubernetes.io/ingress-bandwidth: 10M, kubernetes.io/egress-bandwidth: 5M");
    rig.until("the new limits are in force", |r| shown(r) == Some((1_250_000, 625_000)));
    within(5.0, || out(&rig));
    within(10.0, || into(&rig));

    rig.kill();
    within(10.0, || into(&rig));
    rig.start_with(&arguments);
    rig.until("it is ready", |r| r.admin("/status")["ready"] == true);
    assert_eq!(shown(&rig), Some((1_250_000, 625_000)));
    // it serves by its last rows before it has read the manifests
    rig.until("what it adopted is what is wanted", |r| r.admin("/drift") == json!([]));
    within(5.0, || out(&rig));

    // one that is none is no limit, the other one stays
    pod_a(&rig, "kubernetes.io/ingress-bandwidth: fast, kubernetes.io/egress-bandwidth: 5M");
    rig.until("only one is left", |r| shown(r) == Some((0, 625_000)));
    is_free(|| into(&rig));
    let log = std::fs::read_to_string(rig.path("agent.log")).unwrap();
    assert!(log.contains("kubernetes.io/ingress-bandwidth"), "{log}");

    for (pod, uid) in [(0, "a"), (1, "b")] {
        assert_eq!(rig.call("DEL", pod, uid), (true, Value::Null));
    }
    let links = |r: &Rig| sh(&format!("ip netns exec {} ip -o link | grep -e ': axn[qr]' || true", r.node()));
    rig.until("nothing is left of the queues", |r| links(r).trim().is_empty());
    rig.until("nothing is left of the pods", |r| r.admin("/status")["endpoints"] == json!([]));
    assert_eq!(rig.admin("/drift"), json!([]));
}
