//! The agent's binary on a node of its own: rows by gRPC, the plugin, the programs in the kernel.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::{
    io::Write,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, Command as Process, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use axoneme_model::rows::RowSet;
use axoneme_wire::{
    Row, RowChange, change,
    message::NodeMessage,
    server::{Authenticator, Denied, Hub, Inbound, Service},
};
use common::*;
use serde_json::{Value, json};
use tokio::sync::{mpsc as channel, watch};
use tokio_util::sync::CancellationToken;

const ROOT: &str = "needs root: network namespaces and a BPF filesystem";

fn try_sh(command: &str) -> Result<String, String> {
    let out = Process::new("sh").args(["-ec", command]).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if out.status.success() { Ok(text) } else { Err(text) }
}

fn sh(command: &str) -> String {
    try_sh(command).unwrap_or_else(|e| panic!("{command}: {e}"))
}

fn binary(name: &str) -> PathBuf {
    let built = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join(name);
    assert!(
        built.exists(),
        "{} is missing: run `cargo build -p axoneme-node-agent -p axoneme-cni` first",
        built.display()
    );
    built
}

struct Everyone;

#[async_trait::async_trait]
impl Authenticator for Everyone {
    async fn node(&self, token: &str) -> Result<Arc<str>, Denied> {
        if token == "secret" { Ok("n1".into()) } else { Err(Denied::Invalid("no".into())) }
    }
}

/// An operator in the node's namespace that publishes what it is given and hands out what it hears.
struct Operator {
    publish: channel::Sender<Vec<RowChange>>,
    heard: mpsc::Receiver<NodeMessage>,
    cancel: CancellationToken,
}

impl Operator {
    fn start(netns: &str, rows: &RowSet) -> Self {
        let netns = std::fs::File::open(format!("/run/netns/{netns}")).expect(ROOT);
        let (publish, changes) = channel::channel(16);
        let (said, heard) = mpsc::channel();
        let (cancel, up_cancel) = (CancellationToken::new(), CancellationToken::new());
        let first = change::upserts(rows);
        let (c, up) = (cancel.clone(), up_cancel.clone());
        std::thread::spawn(move || {
            nix::sched::setns(netns.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).expect(ROOT);
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(operate(first, changes, said, c, up));
        });
        let deadline = Instant::now() + Duration::from_secs(10);
        while !up_cancel.is_cancelled() {
            assert!(Instant::now() < deadline, "the operator is up");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { publish, heard, cancel }
    }

    fn hear(&self, what: &str, mut wanted: impl FnMut(&NodeMessage) -> bool) -> NodeMessage {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let m = self.heard.recv_timeout(left).unwrap_or_else(|_| panic!("{what}: not heard within 20 s"));
            if wanted(&m) {
                return m;
            }
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn operate(
    first: Vec<RowChange>,
    mut changes: channel::Receiver<Vec<RowChange>>,
    said: mpsc::Sender<NodeMessage>,
    cancel: CancellationToken,
    up: CancellationToken,
) {
    let (inbound, mut messages) = channel::channel(64);
    let (_ready, ready) = watch::channel(true);
    let mut hub = Hub::new("op-0");
    hub.publish(first);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:9878").await.unwrap();
    let service = Service::new(Arc::new(Everyone), inbound, ready, cancel.clone());
    let server = tokio::spawn(axoneme_wire::server::serve(listener, None, service));
    up.cancel();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(c) = changes.recv() => drop(hub.publish(c)),
            Some(m) = messages.recv() => match m {
                Inbound::Subscribe(s) => hub.subscribe(s),
                Inbound::Message { message, .. } => drop(said.send(message)),
                Inbound::Closed { node, session } => {
                    hub.closed(&node, session);
                }
            },
        }
    }
    server.await.unwrap().unwrap();
}

/// A node, its pods' namespaces and the agent's places. Everything is removed at the end.
struct Rig {
    prefix: String,
    dir: tempfile::TempDir,
    agent: Option<Child>,
}

const PODS: usize = 2;

impl Rig {
    fn new() -> Self {
        let rig = Self {
            prefix: format!("axnr{}", std::process::id()),
            dir: tempfile::tempdir_in("/dev/shm").unwrap(),
            agent: None,
        };
        let node = rig.node();
        sh(&format!(
            "ip netns add {node}; ip -n {node} link set lo up
             ip -n {node} link add up0 type veth peer name up1
             ip -n {node} addr add 192.168.77.1/24 dev up0; ip -n {node} link set up0 up; ip -n {node} link set up1 up
             ip -n {node} route add default via 192.168.77.2"
        ));
        for n in 0..PODS {
            sh(&format!("ip netns add {}", rig.pod(n)));
        }
        std::fs::create_dir(rig.path("bpf")).unwrap();
        sh(&format!("mount -t bpf bpf {}", rig.path("bpf").display()));
        std::fs::create_dir_all(rig.path("token")).unwrap();
        std::fs::write(rig.path("token/axoneme-token"), "secret\n").unwrap();
        rig
    }

    fn node(&self) -> String {
        format!("{}n", self.prefix)
    }

    fn pod(&self, n: usize) -> String {
        format!("{}p{n}", self.prefix)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn places(&self) -> Vec<String> {
        let p = |n: &str| self.path(n).display().to_string();
        [
            ("--state-dir", p("state")),
            ("--cache-dir", p("cache")),
            ("--cni-socket", p("cni.sock")),
            ("--admin-socket", p("admin.sock")),
            ("--cni-conf-dir", p("net.d")),
            ("--cni-bin-dir", p("bin")),
            ("--bpf-dir", p("bpf/axoneme")),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
    }

    fn agent(&self) -> Process {
        let mut p = Process::new("nsenter");
        p.arg(format!("--net=/run/netns/{}", self.node())).arg(binary("axoneme-agent"));
        p
    }

    /// Starts the agent; the time until it serves.
    fn start(&mut self) -> Duration {
        let token = self.path("token").display().to_string();
        self.start_with(&["run", "--node", "n1", "--operator", "127.0.0.1:9878", "--token-dir", &token])
    }

    fn start_with(&mut self, args: &[&str]) -> Duration {
        let log = std::fs::File::options().create(true).append(true).open(self.path("agent.log")).unwrap();
        let mut p = self.agent();
        p.args(args).args(self.places()).stderr(log);
        let begun = Instant::now();
        self.agent = Some(p.spawn().unwrap());
        self.until("the agent is ready", |r| r.admin("/status")["ready"] == true);
        begun.elapsed()
    }

    fn kill(&mut self) {
        let mut child = self.agent.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A document of the admin socket; null if nobody answers.
    fn admin(&self, path: &str) -> Value {
        serde_json::from_str(&self.admin_text(path)).unwrap_or(Value::Null)
    }

    fn admin_text(&self, path: &str) -> String {
        use std::{io::Read, os::unix::net::UnixStream};
        let Ok(mut s) = UnixStream::connect(self.path("admin.sock")) else { return String::new() };
        s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        s.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut text = String::new();
        let _ = s.read_to_string(&mut text);
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }

    fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !holds(self) {
            let log = || std::fs::read_to_string(self.path("agent.log")).unwrap_or_default();
            assert!(
                Instant::now() < deadline,
                "{what}: not within 30 s; the agent says:\n{}\n{:#}",
                log(),
                self.admin("/status")
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn call(&self, command: &str, pod: usize, uid: &str) -> (bool, Value) {
        let list: Value =
            serde_json::from_slice(&std::fs::read(self.path("net.d/05-axoneme.conflist")).unwrap()).unwrap();
        let mut config = list["plugins"][0].clone();
        config["cniVersion"] = list["cniVersion"].clone();
        config["name"] = list["name"].clone();
        run_plugin(&self.path("bin/axoneme-cni"), command, pod, &format!("/run/netns/{}", self.pod(pod)), uid, &config)
    }

    fn ping(&self, pod: usize, to: &str) -> bool {
        try_sh(&format!("ip netns exec {} ping -c 1 -W 1 {to}", self.pod(pod))).is_ok()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(mut child) = self.agent.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let names: Vec<String> = (0..PODS).map(|n| self.pod(n)).chain([self.node()]).collect();
        for name in names {
            let _ = try_sh(&format!("ip netns del {name}"));
        }
        let _ = try_sh(&format!("umount {}", self.path("bpf").display()));
    }
}

fn run_plugin(plugin: &Path, command: &str, pod: usize, netns: &str, uid: &str, config: &Value) -> (bool, Value) {
    let mut child = Process::new(plugin)
        .env_clear()
        .envs([
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", format!("c{pod}")),
            ("CNI_NETNS", netns.to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
            ("CNI_ARGS", format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-{uid};K8S_POD_UID={uid}")),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    (out.status.success(), serde_json::from_slice(&out.stdout).unwrap_or(Value::Null))
}

fn allowing(peers: std::ops::Range<u32>) -> RowSet {
    let mut set = rows();
    let own = set.nodes.get_mut("n1").unwrap();
    own.addresses = vec![ip("192.168.77.1")];
    set.nodes.get_mut("n2").unwrap().addresses = vec![ip("192.168.77.2")];
    set.ips.clear();
    for row in [ip_row("0.0.0.0/0", 2, "", ""), ip_row("192.168.77.1/32", 6, "n1", "")] {
        set.ips.insert(row.prefix, row);
    }
    set.tables.insert(axoneme_model::rows::TableId(5), table(5, peers));
    set
}

fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem"]
fn pods_are_networked_and_policed_and_outlive_the_agent() {
    let mut rig = Rig::new();
    // pods are class 300: they may reach each other
    let operator = Operator::start(&rig.node(), &allowing(300..301));
    println!("start to ready: {:?}", rig.start());
    rig.until("the plugin is installed", |r| r.path("net.d/05-axoneme.conflist").exists());
    operator.hear("an acknowledgement", |m| matches!(m, NodeMessage::Ack(1)));
    for (pod, uid) in [(0, "a"), (1, "b")] {
        let (ok, result) = rig.call("ADD", pod, uid);
        assert!(ok, "{result}");
    }
    operator.hear(
        "a report of the second pod",
        |m| matches!(m, NodeMessage::Endpoint(e) if e.ready && e.addresses.contains(&ip("10.0.1.3"))),
    );
    assert!(rig.ping(0, "10.0.1.3"), "policy allows it");
    assert!(try_sh(&format!("ip netns exec {} ping -c 1 -W 1 10.0.1.2", rig.node())).is_ok(), "probes pass");

    // deny: nobody is allowed any more
    let change = RowChange::Upsert(Row::Table(table(5, 0..0).into()));
    operator.publish.blocking_send(vec![change]).unwrap();
    operator.hear("the acknowledgement of the deny", |m| matches!(m, NodeMessage::Ack(2)));
    assert!(!rig.ping(0, "10.0.1.3"), "policy denies it");
    rig.until("the drop is seen", |r| r.admin_text("/flows?verdict=DROPPED").contains("10.0.1.3"));
    let flows = rig.admin_text("/flows?verdict=DROPPED");
    assert!(flows.contains("POLICY_DENIED"), "{flows}");

    // the agent dies: the verdicts stay
    rig.kill();
    assert!(!rig.ping(0, "10.0.1.3"));
    println!("restart to ready: {:?}", rig.start());
    assert_eq!(rig.admin("/drift"), json!([]));
    let change = RowChange::Upsert(Row::Table(table(5, 300..301).into()));
    operator.publish.blocking_send(vec![change]).unwrap();
    operator.hear("the acknowledgement of the allow", |m| matches!(m, NodeMessage::Ack(3)));
    assert!(rig.ping(0, "10.0.1.3"));
    println!("resident memory: {} KiB", rss_kib(rig.agent.as_ref().unwrap().id()));

    for (pod, uid) in [(0, "a"), (1, "b")] {
        assert_eq!(rig.call("DEL", pod, uid), (true, Value::Null));
    }
    rig.until("nothing is left of the pods", |r| r.admin("/status")["endpoints"] == json!([]));
    uninstall_leaves_nothing(&mut rig);
}

fn uninstall_leaves_nothing(rig: &mut Rig) {
    let refused = rig.agent().arg("uninstall").args(rig.places()).output().unwrap();
    assert!(!refused.status.success(), "not under a running agent");
    rig.kill();
    let _ = std::fs::remove_file(rig.path("admin.sock"));
    for _ in 0..2 {
        let out = rig.agent().arg("uninstall").args(rig.places()).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let node = rig.node();
    let left = sh(&format!(
        "ip netns exec {node} ip -o link | grep axn || true; ip netns exec {node} ip route show proto 97
         ip netns exec {node} nft list tables; ls /sys/fs/bpf | grep -x {} || true",
        rig.prefix
    ));
    assert_eq!(left.trim(), "");
    assert_eq!(sh(&format!("ip netns exec {node} cat /proc/sys/net/ipv4/ip_forward")).trim(), "0", "as it was before");
    assert!(!rig.path("net.d/05-axoneme.conflist").exists() && !rig.path("state").exists());
}

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
metadata: {name: web-a, namespace: shop, uid: a, labels: {app: front}}
spec: {nodeName: n1}
---
apiVersion: v1
kind: Pod
metadata: {name: web-b, namespace: shop, uid: b, labels: {app: back}}
spec: {nodeName: n1}
";

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: back, namespace: shop}
spec:
  podSelector: {matchLabels: {app: back}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: PEER}}}]}]
";

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem"]
fn a_directory_of_manifests_polices_one_node_without_a_cluster() {
    let mut rig = Rig::new();
    let dir = rig.path("manifests");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("shop.yaml"), MANIFESTS).unwrap();
    let took = rig.start_with(&["standalone", "--node", "n1", "--manifests", dir.to_str().unwrap(), "--cni-install"]);
    println!("standalone start to ready: {took:?}");
    rig.until("the plugin is installed", |r| r.path("net.d/05-axoneme.conflist").exists());
    let mut addresses = Vec::new();
    for (pod, uid) in [(0, "a"), (1, "b")] {
        let (ok, result) = rig.call("ADD", pod, uid);
        assert!(ok, "{result}");
        addresses.push(result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned());
    }
    assert!(rig.ping(0, &addresses[1]), "no policy: open");
    std::fs::write(dir.join("policy.yaml"), POLICY.replace("PEER", "nobody")).unwrap();
    rig.until("the policy denies", |r| !r.ping(0, &addresses[1]));
    std::fs::write(dir.join("policy.yaml"), POLICY.replace("PEER", "front")).unwrap();
    rig.until("the policy allows", |r| r.ping(0, &addresses[1]));
    assert!(
        rig.admin_text("/flows?verdict=DROPPED").contains("NetworkPolicy"),
        "{}",
        rig.admin_text("/flows?verdict=DROPPED")
    );
    uninstall_leaves_nothing(&mut rig);
}

/// The client of Hubble's own project; see `tools/hubble`.
fn hubble_client() -> PathBuf {
    let named = std::env::var_os("AXONEME_HUBBLE_CLIENT").map(PathBuf::from);
    let built = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/hubble-1.20.2"));
    let client = named.unwrap_or(built);
    assert!(client.exists(), "{}: build the Hubble client as tools/hubble/README.md says", client.display());
    client
}

/// Flows as the stock client prints them.
fn observe(rig: &Rig, server: &str, args: &[&str]) -> Vec<Value> {
    let mut p = Process::new("nsenter");
    p.arg(format!("--net=/run/netns/{}", rig.node())).arg(hubble_client()).env("HOME", rig.path(""));
    let out = p.args(["observe", "--all", "-o", "jsonpb", "--server", server]).args(args).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    let lines = String::from_utf8(out.stdout).unwrap();
    lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["flow"].take()).collect()
}

#[test]
#[ignore = "needs root: network namespaces and a BPF filesystem; and the stock Hubble client of tools/hubble"]
fn the_stock_hubble_client_sees_what_pods_did_and_what_kept_them_from_it() {
    let mut rig = Rig::new();
    let dir = rig.path("manifests");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("shop.yaml"), MANIFESTS).unwrap();
    let peers_socket = rig.path("cilium/hubble.sock").display().to_string();
    rig.start_with(&[
        "standalone",
        "--node",
        "n1",
        "--manifests",
        dir.to_str().unwrap(),
        "--cni-install",
        "--hubble-disable-tls",
        "--hubble-socket",
        &peers_socket,
    ]);
    rig.until("the plugin is installed", |r| r.path("net.d/05-axoneme.conflist").exists());
    let mut addresses = Vec::new();
    for (pod, uid) in [(0, "a"), (1, "b")] {
        let (ok, result) = rig.call("ADD", pod, uid);
        assert!(ok, "{result}");
        addresses.push(result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned());
    }
    let own_socket = format!("unix://{}", rig.path("hubble.sock").display());
    std::fs::write(dir.join("policy.yaml"), POLICY.replace("PEER", "front")).unwrap();
    rig.until("the policy allows by name", |r| {
        r.ping(0, &addresses[1])
            && !observe(r, &own_socket, &["--type", "policy-verdict", "--to-pod", "shop/web-b"]).is_empty()
    });
    std::fs::write(dir.join("policy.yaml"), POLICY.replace("PEER", "nobody")).unwrap();
    rig.until("the policy denies", |r| !r.ping(0, &addresses[1]));
    let drops = ["--verdict", "DROPPED", "--from-pod", "shop/web-a", "--to-label", "app=back", "--protocol", "icmp"];
    rig.until("the drop is seen", |r| !observe(r, &own_socket, &drops).is_empty());

    let seen = observe(&rig, &own_socket, &drops);
    let dropped = seen.iter().find(|f| f["event_type"]["type"] == 1).expect("a drop");
    let judged = seen.iter().find(|f| f["event_type"]["type"] == 5).expect("a policy verdict");
    for flow in [dropped, judged] {
        assert_eq!(flow["drop_reason_desc"], "POLICY_DENIED", "{flow}");
        assert_eq!((&flow["source"]["pod_name"], &flow["source"]["namespace"]), (&json!("web-a"), &json!("shop")));
        assert_eq!(flow["destination"]["pod_name"], "web-b");
        assert!(flow["source"]["labels"].as_array().unwrap().contains(&json!("k8s:app=front")), "{flow}");
        assert_eq!(flow["IP"], json!({"source": addresses[0], "destination": addresses[1], "ipVersion": "IPv4"}));
        assert_eq!(flow["l4"], json!({"ICMPv4": {"type": 8}}));
        assert_eq!(flow["traffic_direction"], "INGRESS");
        let policy = &flow["ingress_denied_by"][0];
        assert_eq!(
            (&policy["name"], &policy["namespace"], &policy["kind"]),
            (&json!("back"), &json!("shop"), &json!("NetworkPolicy"))
        );
        assert!(flow["node_name"].as_str().unwrap().ends_with("n1"), "{flow}");
    }
    let allowed =
        observe(&rig, &own_socket, &["--type", "policy-verdict", "--verdict", "FORWARDED", "--to-pod", "shop/web-b"]);
    assert!(allowed.iter().any(|f| f["ingress_allowed_by"][0]["name"] == "back"), "{allowed:#?}");
    // the same on the peers' socket and on the port of relays
    let whole = |server: &str| observe(&rig, server, &["--ip", &addresses[1]]);
    let own = whole(&own_socket);
    for server in [format!("unix://{peers_socket}"), "192.168.77.1:4244".to_owned()] {
        assert_eq!(whole(&server)[..own.len()], own, "{server}");
    }
    uninstall_leaves_nothing(&mut rig);
}
