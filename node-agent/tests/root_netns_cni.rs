//! The plugin against the agent on real links, in network namespaces of its own; the packet path is in memory, so the
//! kernel's own routing carries the packets.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::{
    collections::BTreeMap,
    io::Write,
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Command as Process, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use axoneme_cni::{Answer, Command, Request, frame};
use axoneme_kernel::net::Netlink;
use axoneme_node_agent::{
    base::DatapathPaths,
    cni::server,
    engine::{Engine, Parts},
    run::{self, Mail},
    source,
    store::Files,
};
use axoneme_runtime::{admin, clock, drain};
use common::*;
use serde_json::{Value, json};

const ROOT: &str = "needs root: network namespaces";

fn sh(command: &str) -> String {
    let out = Process::new("sh").args(["-ec", command]).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command}: {stdout}{stderr}");
    stdout.into_owned()
}

/// A node with an uplink, and namespaces for pods. Removed at the end, whatever happens.
struct Rig {
    prefix: String,
    dir: tempfile::TempDir,
    pods: usize,
}

impl Rig {
    fn new(name: &str, pods: usize) -> Self {
        let prefix = format!("axnt{}{name}", std::process::id());
        // on tmpfs, as /run is: fsync of a disk would be most of what is measured
        let rig = Self { prefix, dir: tempfile::tempdir_in("/dev/shm").unwrap(), pods };
        let node = rig.node();
        sh(&format!(
            "ip netns add {node}; ip -n {node} link set lo up
             ip -n {node} link add up0 type veth peer name up1
             ip -n {node} addr add 192.168.77.1/24 dev up0; ip -n {node} addr add fd77::1/64 dev up0 nodad
             ip -n {node} link set up0 up; ip -n {node} link set up1 up
             ip -n {node} route add default via 192.168.77.2"
        ));
        for n in 0..pods {
            sh(&format!("ip netns add {}", rig.pod(n)));
        }
        rig
    }

    fn node(&self) -> String {
        format!("{}n", self.prefix)
    }

    fn pod(&self, n: usize) -> String {
        format!("{}p{n}", self.prefix)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("cni.sock")
    }

    fn in_node(&self, command: &str) -> String {
        sh(&format!("ip netns exec {} {command}", self.node()))
    }

    fn in_pod(&self, n: usize, command: &str) -> String {
        sh(&format!("ip netns exec {} {command}", self.pod(n)))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let names: Vec<String> = (0..self.pods).map(|n| self.pod(n)).chain([self.node()]).collect();
        for name in names {
            let _ = Process::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

/// The agent in the node's namespace: every thread of its runtime is born there.
struct Agent {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    mail: tokio::sync::mpsc::Sender<Mail>,
}

impl Agent {
    fn start(rig: &Rig, node: &Node, rows: axoneme_model::rows::RowSet) -> Self {
        let (stop, stopped) = mpsc::channel();
        let (up_tx, up) = mpsc::channel();
        let netns = std::fs::File::open(format!("/run/netns/{}", rig.node())).expect(ROOT);
        let (socket, state, datapath) = (rig.socket(), rig.dir.path().join("state"), node.datapath.clone());
        let thread = std::thread::spawn(move || {
            nix::sched::setns(netns.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).expect(ROOT);
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(serve(socket, state, datapath, rows, &up_tx, stopped));
        });
        let mail = up.recv_timeout(Duration::from_secs(20)).expect("the agent is up");
        Self { stop: Some(stop), thread: Some(thread), mail }
    }

    fn view(&self) -> Value {
        let (tx, rx) = tokio::sync::oneshot::channel();
        self.mail.blocking_send(Mail::Status(tx)).unwrap();
        serde_json::to_value(rx.blocking_recv().unwrap()).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

fn parts(network: Arc<Netlink>, state: &Path) -> Parts {
    Parts {
        node: "n1".into(),
        network,
        store: Arc::new(Files::open(state).unwrap()),
        clock: Arc::new(clock::System),
        paths: DatapathPaths { pin_dir: "/sys/fs/bpf/unused".into(), cgroup: None },
        add_deadline: Duration::from_secs(5),
        warnings: vec![],
        flows: None,
        grace: None,
    }
}

async fn serve(
    socket: PathBuf,
    state: PathBuf,
    datapath: Arc<MemoryDatapath>,
    rows: axoneme_model::rows::RowSet,
    up: &mpsc::Sender<tokio::sync::mpsc::Sender<Mail>>,
    stopped: mpsc::Receiver<()>,
) {
    let network = Arc::new(Netlink::open().unwrap());
    let engine = Engine::new(parts(network.clone(), &state), Box::new(Shared(datapath))).unwrap();
    let (source, events, mut outgoing) = source::in_process(64);
    let reports = tokio::spawn(async move { while outgoing.recv().await.is_some() {} });
    let mut running = run::start(engine, network, None, source).unwrap();
    events.send(snapshot(&rows, 1)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), running.ready.wait_for(|r| *r)).await.expect("ready").unwrap();
    let (trigger, watcher) = drain::channel();
    let listener = admin::bind(&socket).await.unwrap();
    let server = tokio::spawn(server::serve(listener, socket, running.mail.clone(), watcher));
    up.send(running.mail.clone()).unwrap();
    tokio::task::spawn_blocking(move || stopped.recv()).await.unwrap().unwrap_err();
    assert!(trigger.drain(Duration::from_secs(5)).await);
    server.await.unwrap();
    drop(events);
    running.stop().await;
    reports.await.unwrap();
}

fn plugin() -> PathBuf {
    let built = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("axoneme-cni");
    assert!(built.exists(), "{} is missing: run `cargo build -p axoneme-cni` first", built.display());
    built
}

/// One call of the binary as a runtime makes it: exit code and document.
fn call(rig: &Rig, binary: &Path, command: &str, pod: usize, uid: &str, extra: &Value) -> (bool, Value) {
    let mut config = json!({"cniVersion": "1.1.0", "name": "axoneme", "type": "axoneme-cni", "socket": rig.socket()});
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let mut child = Process::new(binary)
        .env_clear()
        .envs([
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", format!("c{pod}")),
            ("CNI_NETNS", format!("/run/netns/{}", rig.pod(pod))),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
            ("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-{uid};K8S_POD_UID={uid}")),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let document = if out.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&out.stdout).unwrap() };
    (out.status.success(), document)
}

fn dual() -> axoneme_model::rows::RowSet {
    let mut set = rows();
    let config = set.config.as_mut().unwrap();
    config.ipv6 = true;
    config.masquerade_v6 = true;
    config.pools = BTreeMap::from([("default".into(), vec![net("10.0.1.0/24"), net("fd00:1::/112")])]);
    config.cluster_cidrs = vec![net("10.0.0.0/16"), net("fd00::/16")];
    let own = set.nodes.get_mut("n1").unwrap();
    own.addresses = vec![ip("192.168.77.1"), ip("fd77::1")];
    let other = set.nodes.get_mut("n2").unwrap();
    other.addresses = vec![ip("192.168.77.2"), ip("fd77::2")];
    other.pod_cidrs = vec![net("10.0.2.0/24"), net("fd00:2::/112")];
    set
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within 5 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_pod_gets_its_network_and_leaves_nothing() {
    let (rig, node, binary) = (Rig::new("a", 2), Node::default(), plugin());
    let agent = Agent::start(&rig, &node, dual());
    let none = json!({});

    let (ok, version) = call(&rig, &binary, "VERSION", 0, "a", &none);
    assert!(ok && version["supportedVersions"].as_array().unwrap().contains(&json!("1.1.0")));
    assert_eq!(call(&rig, &binary, "STATUS", 0, "a", &none), (true, Value::Null));

    let (ok, result) = call(&rig, &binary, "ADD", 0, "a", &none);
    assert!(ok, "{result}");
    assert_eq!(result["ips"][0]["address"], "10.0.1.2/32");
    assert_eq!(result["ips"][1]["address"], "fd00:1::2/128");
    assert_eq!(result["interfaces"][1]["mtu"], 1450);
    let host_link = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let (ok, second) = call(&rig, &binary, "ADD", 1, "b", &none);
    assert!(ok, "{second}");

    let addresses = rig.in_pod(0, "ip -o addr show dev eth0");
    assert!(addresses.contains("inet 10.0.1.2/32") && addresses.contains("inet6 fd00:1::2/128"), "{addresses}");
    assert!(!addresses.contains("tentative"), "no duplicate detection to wait for: {addresses}");
    assert!(rig.in_pod(0, "ip route").contains("default via 169.254.1.1 dev eth0"));
    assert!(rig.in_pod(0, "ip -6 route").contains("default via fe80::1 dev eth0"));
    // node to pod, pod to node, pod to pod, in both families
    rig.in_node("ping -c 1 -W 2 10.0.1.2");
    rig.in_node("ping -c 1 -W 2 fd00:1::2");
    rig.in_pod(0, "ping -c 1 -W 2 192.168.77.1");
    rig.in_pod(0, "ping -c 1 -W 2 10.0.1.3");
    rig.in_pod(0, "ping -c 1 -W 2 fd00:1::3");

    let previous = json!({"prevResult": result});
    assert_eq!(call(&rig, &binary, "CHECK", 0, "a", &previous), (true, Value::Null));
    rig.in_pod(0, "ip addr del 10.0.1.2/32 dev eth0");
    let (ok, failure) = call(&rig, &binary, "CHECK", 0, "a", &previous);
    assert!(!ok && failure["msg"].as_str().unwrap().contains("address 10.0.1.2 is missing"), "{failure}");

    assert_eq!(call(&rig, &binary, "DEL", 0, "a", &none), (true, Value::Null));
    assert_eq!(call(&rig, &binary, "DEL", 0, "a", &none), (true, Value::Null), "DEL of what is gone succeeds");
    eventually("the link is gone", || !rig.in_node("ip -o link").contains(&host_link));
    assert!(!rig.in_node("ip route").contains("10.0.1.2"));
    let gc = json!({"cni.dev/valid-attachments": []});
    assert_eq!(call(&rig, &binary, "GC", 1, "b", &gc), (true, Value::Null));
    eventually("no endpoint is left", || agent.view()["endpoints"].as_array().unwrap().is_empty());
    eventually("no pod link is left", || {
        !rig.in_node("ip -o link").lines().any(|l| l.contains(" axn") && !l.contains("axn_vxlan"))
    });
    assert_eq!(
        std::fs::read_dir(rig.dir.path().join("state"))
            .unwrap()
            .filter(|e| { e.as_ref().unwrap().file_name().to_string_lossy().starts_with("endpoint-") })
            .count(),
        0
    );
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_node_is_set_up_once_and_a_restart_changes_nothing() {
    let (rig, node, binary) = (Rig::new("b", 1), Node::default(), plugin());
    let agent = Agent::start(&rig, &node, dual());
    let (ok, result) = call(&rig, &binary, "ADD", 0, "a", &json!({}));
    assert!(ok, "{result}");
    let state = || {
        let drop_counters =
            |s: String| s.lines().filter(|l| !l.contains("packets")).map(str::to_owned).collect::<Vec<_>>();
        [
            drop_counters(rig.in_node("ip -d link show axn_vxlan")),
            drop_counters(rig.in_node("ip route show proto 97")),
            drop_counters(rig.in_node("ip -6 route show proto 97")),
            drop_counters(rig.in_node("ip neigh show nud permanent")),
            drop_counters(rig.in_node("nft -a list table inet axoneme")),
        ]
    };
    let before = state();
    let text = format!("{before:#?}");
    for wanted in
        ["vxlan external", "dstport 8472", "10.0.2.0/24 via 169.254.1.1", "fd00:2::/112 via fe80::1", "masquerade"]
    {
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
    assert_eq!(rig.in_node("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
    drop(agent);
    node.datapath.kernel().log.clear();
    let agent = Agent::start(&rig, &node, dual());
    assert_eq!(state(), before, "the same objects with the same handles");
    let log = node.datapath.kernel().log.clone();
    assert!(log.iter().all(|l| l.starts_with("attach")), "{log:?}");
    rig.in_node("ping -c 1 -W 2 10.0.1.2");
    assert_eq!(call(&rig, &binary, "CHECK", 0, "a", &json!({"prevResult": result})), (true, Value::Null));
    assert_eq!(agent.view()["endpoints"][0]["ready"], true);
}

/// Not a gate (the machine is shared): prints what ADD and DEL cost in the agent.
#[test]
#[ignore = "needs root: network namespaces"]
fn add_and_del_are_measured() {
    const ROUNDS: usize = 100;
    let (rig, node) = (Rig::new("c", 1), Node::default());
    let _agent = Agent::start(&rig, &node, dual());
    let netns = std::fs::File::open(format!("/run/netns/{}", rig.pod(0))).unwrap();
    let (mut adds, mut dels) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for (command, times) in [(Command::Add, &mut adds), (Command::Del, &mut dels)] {
            let mut r = request(command, &format!("c{round}"), "a");
            r.ifname = format!("eth{round}");
            let begun = Instant::now();
            ask_agent(&rig, &r, &netns);
            times.push(begun.elapsed());
        }
    }
    for (name, mut times) in [("ADD", adds), ("DEL", dels)] {
        times.sort();
        println!("{name}: p50 {:?} p99 {:?}", times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
        assert!(times[ROUNDS / 2] < Duration::from_millis(50), "{name} p50 {:?}", times[ROUNDS / 2]);
    }
}

fn ask_agent(rig: &Rig, request: &Request, netns: &std::fs::File) {
    let mut stream = UnixStream::connect(rig.socket()).unwrap();
    frame::send(&mut stream, &serde_json::to_vec(request).unwrap(), Some(netns.as_fd())).unwrap();
    let answer: Answer = serde_json::from_slice(&frame::receive(&mut stream).unwrap()).unwrap();
    assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
}

/// The engine alone, without sockets and threads: what the kernel and the plan cost.
#[test]
#[ignore = "needs root: network namespaces"]
fn add_and_del_are_measured_in_the_engine() {
    const ROUNDS: usize = 100;
    let (rig, node) = (Rig::new("d", 1), Node::default());
    let netns = std::fs::File::open(format!("/run/netns/{}", rig.node())).expect(ROOT);
    let (pod, state) = (format!("/run/netns/{}", rig.pod(0)), rig.dir.path().join("state"));
    std::thread::spawn(move || {
        nix::sched::setns(netns.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).expect(ROOT);
        let network = Arc::new(Netlink::open().unwrap());
        let mut engine = Engine::new(parts(network.clone(), &state), Box::new(Shared(node.datapath.clone()))).unwrap();
        engine.stream(snapshot(&dual(), 1));
        let (mut adds, mut dels, mut removals) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            for (command, times) in [(Command::Add, &mut adds), (Command::Del, &mut dels)] {
                let mut r = request(command, &format!("c{round}"), "a");
                r.ifname = format!("eth{round}");
                let fd = std::fs::File::open(&pod).unwrap();
                let (tx, mut rx) = tokio::sync::oneshot::channel();
                let begun = Instant::now();
                engine.cni(r, Some(fd.into()), tx);
                times.push(begun.elapsed());
                assert!(matches!(rx.try_recv(), Ok(Answer::Done(_))));
            }
            let begun = Instant::now();
            for d in engine.take_doomed() {
                let gone = axoneme_kernel::net::Network::remove_link(&*network, &d.host_name);
                engine.link_removed(&d, gone.map(|_| ()).map_err(|e| e.to_string()));
            }
            removals.push(begun.elapsed());
        }
        for (name, mut times) in [("ADD", adds), ("DEL", dels), ("removal of the link", removals)] {
            times.sort();
            println!("{name}: p50 {:?} p99 {:?}", times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
        }
    })
    .join()
    .unwrap();
}
