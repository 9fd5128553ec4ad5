//! What adding and removing a pod costs, as a container runtime sees it: it executes the plugin with the network
//! configuration on standard input and waits for it to end. The agent's and the reference plugins' turns alternate in one
//! run, each on a node of its own, with pods in fresh network namespaces.
//!
//! Prints one JSON object a line, as `cargo xtask bench` reads it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a bench ends with its first failure")]
#![allow(clippy::cast_precision_loss, reason = "bytes of memory in MiB")]
#![allow(clippy::disallowed_methods, reason = "a program for developers, not part of the product")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::IpAddr,
    os::{fd::AsFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Barrier, mpsc},
    time::{Duration, Instant},
};

use axoneme_model::{
    Identity, PeerClass,
    rows::{
        AgentRow, ConntrackTimes, DirectionDefault, EndpointRow, IpRow, NodeConfigRow, NodeRow, PolicyEntry, PolicyKey,
        Routing, RowSet, RuleId, TableId, TableRow,
    },
};
use axoneme_wire::{
    RowChange, change,
    server::{Authenticator, Denied, Hub, Inbound, Service},
};
use clap::Parser;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use tokio::sync::{mpsc as channel, watch};
use tokio_util::sync::CancellationToken;

/// Pods at once, and how often.
const LOADS: [(usize, usize); 3] = [(1, 100), (10, 15), (100, 4)];
const MOST: usize = 100;
/// Pods while memory is read.
const RESIDENT: usize = 24;
const STARTS: usize = 9;
const PEER: &str = "ptp, host-local";
/// Our plugin with a question that it answers by itself: what executing a plugin costs that does nothing.
const FLOOR: &str = "a plugin's VERSION";

#[derive(Parser)]
struct Options {
    /// The agent's binary.
    #[arg(long)]
    agent: PathBuf,
    /// The plugin's binary.
    #[arg(long)]
    plugin: PathBuf,
    /// Directory of the reference plugins.
    #[arg(long)]
    reference: PathBuf,
    /// Divides the number of rounds.
    #[arg(long, default_value_t = 1)]
    hurry: usize,
}

fn sh(command: &str) -> String {
    let out = Command::new("sh").args(["-ec", command]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{command}: {text}{}", String::from_utf8_lossy(&out.stderr));
    text
}

fn enter(netns: &str) {
    let file = std::fs::File::open(format!("/run/netns/{netns}")).unwrap();
    setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

// ---- rows -------------------------------------------------------------------------------------------------------------

fn config() -> NodeConfigRow {
    NodeConfigRow {
        node: "n1".into(),
        cluster_name: "default".into(),
        ipv4: true,
        ipv6: false,
        pools: BTreeMap::from([("default".into(), vec!["10.128.0.0/16".parse().unwrap()])]),
        routing: Routing::Vxlan { port: 8472 },
        mtu: 0,
        masquerade_v4: true,
        masquerade_v6: false,
        masquerade_exclude: vec![],
        cluster_cidrs: vec!["10.128.0.0/9".parse().unwrap()],
        services: true,
        socket_lb: true,
        always_allow_own_host: true,
        deny_response: axoneme_model::rows::DenyResponse::None,
        conntrack_entries: 65_536,
        conntrack_times: ConntrackTimes::default(),
        socket_lb_host_only: false,
        agent: AgentRow::default(),
        devices: vec![],
        blocks: axoneme_model::rows::BlockUse::default(),
        guard: None,
        health: None,
        overrides: vec![],
        direct: None,
        also: None,
        pod_device: axoneme_model::rows::PodDevice::Veth,
    }
}

fn table() -> TableRow {
    let key = |p| PolicyKey {
        direction: axoneme_model::policy::Direction::Ingress,
        peer: PeerClass(p),
        protocol: None,
        port: 0,
        port_bits: 0,
    };
    let entry = PolicyEntry { allow: true, audit: false, rule: RuleId(1), proxy_port: 0, auth: 0 };
    TableRow {
        id: TableId(5),
        ingress_default: DirectionDefault { allow: false, audit: false, rule: RuleId(7) },
        egress_default: DirectionDefault { allow: true, audit: false, rule: RuleId(0) },
        entries: (256..356).map(|p| (key(p), entry)).collect(),
        policies: BTreeMap::new(),
    }
}

fn endpoint(n: usize) -> EndpointRow {
    EndpointRow {
        uid: format!("u{n}").into(),
        namespace: "bench".into(),
        name: format!("pod-{n}").into(),
        node: "n1".into(),
        identity: Identity(300),
        peer: PeerClass(300),
        table: TableId(5),
        addresses: BTreeSet::new(),
        pool_v4: "".into(),
        pool_v6: "".into(),
        labels: axoneme_model::Labels::default(),
        bandwidth: axoneme_model::Bandwidth::default(),
    }
}

fn ip_row(prefix: &str, identity: u32, node: &str) -> IpRow {
    let local = if node.is_empty() { identity } else { 1 };
    IpRow {
        prefix: prefix.parse().unwrap(),
        identity: Identity(identity),
        peer: PeerClass(identity),
        local_identity: Identity(local),
        local_peer: PeerClass(local),
        tunnel: None,
        node: node.into(),
        pod: "".into(),
    }
}

fn rows() -> RowSet {
    let mut set = RowSet { config: Some(config()), ..RowSet::default() };
    let node = NodeRow {
        name: "n1".into(),
        addresses: vec![ip("192.168.77.1")],
        pod_cidrs: vec!["10.128.0.0/16".parse().unwrap()],
    };
    set.nodes.insert("n1".into(), node);
    set.tables.insert(TableId(5), table());
    set.endpoints.extend((0..MOST).map(|n| (format!("u{n}").into(), endpoint(n))));
    set.ips.extend([ip_row("0.0.0.0/0", 2, ""), ip_row("192.168.77.1/32", 6, "n1")].map(|r| (r.prefix, r)));
    set
}

// ---- an operator that has these rows ----------------------------------------------------------------------------------

struct Everyone;

#[async_trait::async_trait]
impl Authenticator for Everyone {
    async fn node(&self, _: &str) -> Result<Arc<str>, Denied> {
        Ok("n1".into())
    }
}

struct Operator(CancellationToken);

impl Operator {
    fn start(netns: String) -> Self {
        let (cancel, (up, started)) = (CancellationToken::new(), mpsc::channel());
        let token = cancel.clone();
        std::thread::spawn(move || {
            enter(&netns);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(operate(change::upserts(&rows()), token, up));
        });
        started.recv_timeout(Duration::from_secs(10)).expect("the operator is up");
        Self(cancel)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

async fn operate(rows: Vec<RowChange>, cancel: CancellationToken, up: mpsc::Sender<()>) {
    let (inbound, mut messages) = channel::channel(64);
    let (_ready, ready) = watch::channel(true);
    let mut hub = Hub::new("op-0");
    hub.publish(rows);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:9878").await.unwrap();
    let service = Service::new(Arc::new(Everyone), inbound, ready, cancel.clone());
    let server = tokio::spawn(axoneme_wire::server::serve(listener, None, service));
    up.send(()).unwrap();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(m) = messages.recv() => match m {
                Inbound::Subscribe(s) => hub.subscribe(s),
                Inbound::Message { .. } => {}
                Inbound::Closed { node, session } => {
                    hub.closed(&node, session);
                }
            },
        }
    }
    server.await.unwrap().unwrap();
}

// ---- nodes ------------------------------------------------------------------------------------------------------------

/// Two nodes: one of ours, one of the reference plugins; and what is theirs on disk.
struct Rig {
    options: Options,
    prefix: String,
    dir: tempfile::TempDir,
    agent: Option<Child>,
    pods: Vec<String>,
    /// Pods so far, for names that are never used twice.
    made: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    Peer,
}

impl Rig {
    fn new(options: Options) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let prefix = format!("axnb{}", std::process::id());
        let rig = Self { options, prefix, dir, agent: None, pods: Vec::new(), made: 0 };
        for side in [Side::Ours, Side::Peer] {
            let node = rig.node(side);
            sh(&format!(
                "ip netns add {node}; ip -n {node} link set lo up
                 ip -n {node} link add up0 type veth peer name up1
                 ip -n {node} addr add 192.168.77.1/24 dev up0; ip -n {node} link set up0 up; ip -n {node} link set up1 up
                 ip -n {node} route add default via 192.168.77.2"
            ));
        }
        std::fs::create_dir(rig.path("bpf")).unwrap();
        std::fs::create_dir(rig.path("token")).unwrap();
        std::fs::write(rig.path("token/axoneme-token"), "secret\n").unwrap();
        sh(&format!("mount -t bpf bpf {}", rig.path("bpf").display()));
        rig
    }

    fn node(&self, side: Side) -> String {
        format!("{}{}", self.prefix, if side == Side::Ours { "n" } else { "r" })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run_agent(&self, arguments: &[&str]) -> Command {
        let places = [
            ("--state-dir", "state"),
            ("--cache-dir", "cache"),
            ("--cni-socket", "cni.sock"),
            ("--admin-socket", "admin.sock"),
            ("--cni-conf-dir", "net.d"),
            ("--cni-bin-dir", "bin"),
            ("--bpf-dir", "bpf/axoneme"),
        ];
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.node(Side::Ours))).arg(&self.options.agent).args(arguments);
        for (flag, name) in places {
            command.arg(flag).arg(self.path(name));
        }
        command
    }

    /// Time from the start of the process until it can serve.
    fn start(&mut self) -> Duration {
        let log = std::fs::File::options().create(true).append(true).open(self.path("agent.log")).unwrap();
        let mut command = self.run_agent(&["run", "--node", "n1", "--operator", "127.0.0.1:9878", "--no-cni-install"]);
        command.arg("--token-dir").arg(self.path("token")).stderr(log.try_clone().unwrap()).stdout(log);
        let begun = Instant::now();
        self.agent = Some(command.spawn().unwrap());
        while self.status()["ready"] != true {
            let said = || std::fs::read_to_string(self.path("agent.log")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(20), "the agent is not ready: {}\n{}", self.status(), said());
            std::thread::sleep(Duration::from_millis(1));
        }
        begun.elapsed()
    }

    fn stop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    fn status(&self) -> Value {
        let Ok(mut s) = UnixStream::connect(self.path("admin.sock")) else { return Value::Null };
        let mut text = String::new();
        let asked = s.write_all(b"GET /status HTTP/1.0\r\n\r\n").and_then(|()| s.read_to_string(&mut text));
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body).filter(|_| asked.is_ok());
        body.and_then(|b| serde_json::from_str(b).ok()).unwrap_or(Value::Null)
    }

    /// Nothing of a former start is left.
    fn clean(&self) {
        let _ = std::fs::remove_file(self.path("admin.sock"));
        let out = self.run_agent(&["uninstall"]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    /// Fresh namespaces for so many pods.
    fn fresh(&mut self, side: Side, count: usize) -> Vec<String> {
        let from = self.made;
        self.made += count;
        let mark = if side == Side::Ours { "p" } else { "q" };
        let names: Vec<String> = (from..from + count).map(|n| format!("{}{mark}{n}", self.prefix)).collect();
        let lines: Vec<String> = names.iter().map(|n| format!("ip netns add {n}; ip -n {n} link set lo up")).collect();
        sh(&lines.join("\n"));
        self.pods.extend(names.iter().cloned());
        names
    }

    fn remove_pods(&mut self) {
        let lines: Vec<String> = self.pods.iter().map(|n| format!("ip netns del {n}")).collect();
        sh(&lines.join("\n"));
        self.pods.clear();
    }

    fn configuration(&self, side: Side) -> String {
        match side {
            Side::Ours => {
                json!({"cniVersion": "1.0.0", "name": "axoneme", "type": "axoneme-cni", "socket": self.path("cni.sock")})
            }
            Side::Peer => json!({"cniVersion": "1.0.0", "name": "reference", "type": "ptp", "mtu": 1450, "ipam": {
                "type": "host-local", "dataDir": self.path("host-local"),
                "ranges": [[{"subnet": "10.64.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]
            }}),
        }
        .to_string()
    }

    fn binary(&self, side: Side) -> PathBuf {
        match side {
            Side::Ours => self.options.plugin.clone(),
            Side::Peer => self.options.reference.join("ptp"),
        }
    }

    /// One command for each pod, all begun at once; milliseconds of each.
    fn at_once(&self, side: Side, command: &'static str, pods: &[String]) -> Vec<f64> {
        let barrier = Barrier::new(pods.len());
        let (node, binary, configuration) = (self.node(side), self.binary(side), self.configuration(side));
        let reference = &self.options.reference;
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (n, pod) in pods.iter().enumerate() {
                let (node, barrier, binary, configuration) = (&node, &barrier, &binary, &configuration);
                threads.push(scope.spawn(move || {
                    enter(node);
                    let mut process = Command::new(binary);
                    process.env_clear().envs(variables(command, n, pod)).env("CNI_PATH", reference);
                    process.stdin(Stdio::piped()).stdout(Stdio::piped());
                    barrier.wait();
                    run(process, configuration)
                }));
            }
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }

    fn resident_mib(&self) -> f64 {
        let pid = self.agent.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop();
        let nodes = [self.node(Side::Ours), self.node(Side::Peer)];
        for name in self.pods.iter().chain(&nodes) {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
        let _ = Command::new("umount").arg(self.path("bpf")).output();
    }
}

fn variables(command: &str, n: usize, pod: &str) -> [(&'static str, String); 5] {
    [
        ("CNI_COMMAND", command.to_owned()),
        ("CNI_CONTAINERID", pod.to_owned()),
        ("CNI_NETNS", format!("/run/netns/{pod}")),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=pod-{n};K8S_POD_UID=u{n}")),
    ]
}

fn run(mut process: Command, configuration: &str) -> f64 {
    let begun = Instant::now();
    let mut child = process.spawn().unwrap();
    child.stdin.take().unwrap().write_all(configuration.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    took
}

// ---- figures ----------------------------------------------------------------------------------------------------------

fn quantile(values: &[f64], per_mille: usize) -> f64 {
    values[((values.len() - 1) * per_mille + 500) / 1000]
}

/// `floor` and `peer` are there both or neither.
fn figure(name: &str, unit: &str, ours: f64, [floor, peer]: [Option<f64>; 2], spread: &[f64]) {
    let line = json!({
        "name": name, "unit": unit, "ours": ours, "floor": floor, "floor_name": floor.map(|_| FLOOR), "peer": peer,
        "peer_name": peer.map(|_| PEER), "ratio_to_floor": floor.map(|f| ours / f),
        "ratio_to_peer": peer.map(|p| ours / p),
        "spread": [quantile(spread, 0), quantile(spread, 1000)],
    });
    println!("{line}");
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// ADD and DEL of so many pods at once, alternating between the two sides, and who is first.
fn load(rig: &mut Rig, at_once: usize, rounds: usize) {
    let mut times: BTreeMap<(&str, bool), Vec<f64>> = BTreeMap::new();
    let mut nothing = Vec::new();
    for round in 0..rounds {
        let mut sides = [Side::Ours, Side::Peer];
        sides.rotate_left(round % 2);
        let pods = sides.map(|s| (s, rig.fresh(s, at_once)));
        settle();
        for command in ["ADD", "DEL"] {
            for (side, names) in &pods {
                let took = rig.at_once(*side, command, names);
                times.entry((command, *side == Side::Ours)).or_default().extend(took);
                settle();
                if *side == Side::Ours {
                    nothing.extend(rig.at_once(*side, "VERSION", names));
                    settle();
                }
            }
        }
        rig.remove_pods();
    }
    let nothing = sorted(nothing);
    for command in ["ADD", "DEL"] {
        let [ours, peer] = [true, false].map(|s| sorted(times.remove(&(command, s)).unwrap()));
        for (name, q) in [("p50", 500), ("p99", 990)] {
            let full = format!("cni_{}_{at_once}_at_once_{name}", command.to_lowercase());
            let others = [quantile(&nothing, q), quantile(&peer, q)].map(Some);
            figure(&full, "ms", quantile(&ours, q), others, &ours);
        }
    }
}

/// The kernel tidies up after what was removed before: neither side shall pay for the other.
fn settle() {
    std::thread::sleep(Duration::from_millis(60));
}

fn starts(rig: &mut Rig) {
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        first.push(rig.start().as_secs_f64() * 1000.0);
        rig.stop();
        again.push(rig.start().as_secs_f64() * 1000.0);
        rig.stop();
        rig.clean();
    }
    for (name, values) in [("agent_start_to_ready_p50", first), ("agent_restart_to_ready_p50", again)] {
        let values = sorted(values);
        figure(name, "ms", quantile(&values, 500), [None; 2], &values);
    }
}

fn memory(rig: &mut Rig) {
    let pods = rig.fresh(Side::Ours, RESIDENT);
    rig.at_once(Side::Ours, "ADD", &pods);
    settle();
    let resident = rig.resident_mib();
    figure("agent_rss_24_pods", "MiB", resident, [None; 2], &[resident]);
    let bytes = axoneme_kernel::bpf::map_memory(&rig.path("bpf/axoneme")).unwrap();
    let maps = bytes as f64 / f64::from(1 << 20);
    figure("maps_at_rest", "MiB", maps, [None; 2], &[maps]);
    rig.at_once(Side::Ours, "DEL", &pods);
    rig.remove_pods();
}

fn main() {
    let mut rig = Rig::new(Options::parse());
    let _operator = Operator::start(rig.node(Side::Ours));
    starts(&mut rig);
    rig.start();
    memory(&mut rig);
    for (at_once, rounds) in LOADS {
        let rounds = (rounds / rig.options.hurry).max(1);
        load(&mut rig, at_once, rounds);
    }
    rig.stop();
    rig.clean();
}
