//! The agent's binary on a node of its own, before an operator in the test.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

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
    RowChange, change,
    message::NodeMessage,
    server::{Authenticator, Denied, Hub, Inbound, Service},
};
use serde_json::Value;
use tokio::sync::{mpsc as channel, watch};
use tokio_util::sync::CancellationToken;

use crate::common::*;

/// What the operator of the test takes: of the form of a ServiceAccount's token, and recognisable.
pub const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJvcGVyYXRvci1heG9uZW1lIn0.b3BlcmF0b3Itc2lnbmF0dXJlLWF4b25lbWU";
pub const ROOT: &str = "needs root: network namespaces and a BPF filesystem";

pub fn try_sh(command: &str) -> Result<String, String> {
    let out = Process::new("sh").args(["-ec", command]).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if out.status.success() { Ok(text) } else { Err(text) }
}

pub fn sh(command: &str) -> String {
    try_sh(command).unwrap_or_else(|e| panic!("{command}: {e}"))
}

pub fn binary(name: &str) -> PathBuf {
    let built = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join(name);
    assert!(
        built.exists(),
        "{} is missing: run `cargo build -p axoneme-node-agent -p axoneme-cni` first",
        built.display()
    );
    built
}

pub struct Everyone;

#[async_trait::async_trait]
impl Authenticator for Everyone {
    async fn node(&self, token: &str) -> Result<Arc<str>, Denied> {
        if token == TOKEN { Ok("n1".into()) } else { Err(Denied::Invalid("no".into())) }
    }
}

/// An operator in the node's namespace that publishes what it is given and hands out what it hears.
pub struct Operator {
    pub publish: channel::Sender<Vec<RowChange>>,
    heard: mpsc::Receiver<NodeMessage>,
    cancel: CancellationToken,
}

impl Operator {
    pub fn start(netns: &str, rows: &RowSet) -> Self {
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

    pub fn hear(&self, what: &str, mut wanted: impl FnMut(&NodeMessage) -> bool) -> NodeMessage {
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
pub struct Rig {
    pub prefix: String,
    dir: tempfile::TempDir,
    pub agent: Option<Child>,
}

pub const PODS: usize = 2;

impl Rig {
    pub fn new() -> Self {
        Self::named("")
    }

    /// One of several.
    pub fn named(name: &str) -> Self {
        let rig = Self {
            prefix: format!("axnr{}{name}", std::process::id()),
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
        rig.mount_bpf();
        std::fs::create_dir_all(rig.path("token")).unwrap();
        std::fs::write(rig.path("token/axoneme-token"), format!("{TOKEN}\n")).unwrap();
        rig
    }

    pub fn node(&self) -> String {
        format!("{}n", self.prefix)
    }

    pub fn pod(&self, n: usize) -> String {
        format!("{}p{n}", self.prefix)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn places(&self) -> Vec<String> {
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

    pub fn agent(&self) -> Process {
        let mut p = Process::new("nsenter");
        p.arg(format!("--net=/run/netns/{}", self.node())).arg(binary("axoneme-agent"));
        p
    }

    /// Starts the agent; the time until it serves.
    pub fn start(&mut self) -> Duration {
        let token = self.path("token").display().to_string();
        self.start_with(&["run", "--node", "n1", "--operator", "127.0.0.1:9878", "--token-dir", &token])
    }

    pub fn start_with(&mut self, args: &[&str]) -> Duration {
        let begun = Instant::now();
        self.spawn(&[], args);
        self.until("the agent is ready", |r| r.admin("/status")["ready"] == true);
        begun.elapsed()
    }

    /// Starts the agent with the operator of the test, behind the words of another command that becomes it.
    pub fn begin(&mut self, before: &[&str]) {
        let token = self.path("token").display().to_string();
        self.spawn(before, &["run", "--node", "n1", "--operator", "127.0.0.1:9878", "--token-dir", &token]);
    }

    /// Starts the agent, which may never be ready.
    pub fn launch(&mut self, args: &[&str]) {
        self.spawn(&[], args);
    }

    fn spawn(&mut self, before: &[&str], args: &[&str]) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("agent.log")).unwrap();
        let mut p = Process::new("nsenter");
        p.arg(format!("--net=/run/netns/{}", self.node())).args(before).arg(binary("axoneme-agent"));
        p.args(args).args(self.places()).stderr(log);
        self.agent = Some(p.spawn().unwrap());
    }

    pub fn mount_bpf(&self) {
        sh(&format!("mount -t bpf bpf {}", self.path("bpf").display()));
    }

    pub fn unmount_bpf(&self) {
        sh(&format!("umount {}", self.path("bpf").display()));
    }

    pub fn kill(&mut self) {
        let mut child = self.agent.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A document of the admin socket; null if nobody answers.
    pub fn admin(&self, path: &str) -> Value {
        serde_json::from_str(&self.admin_text(path)).unwrap_or(Value::Null)
    }

    pub fn admin_text(&self, path: &str) -> String {
        use std::{io::Read, os::unix::net::UnixStream};
        let Ok(mut s) = UnixStream::connect(self.path("admin.sock")) else { return String::new() };
        s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        s.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut text = String::new();
        let _ = s.read_to_string(&mut text);
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }

    pub fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
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

    pub fn call(&self, command: &str, pod: usize, uid: &str) -> (bool, Value) {
        let list: Value =
            serde_json::from_slice(&std::fs::read(self.path("net.d/05-axoneme.conflist")).unwrap()).unwrap();
        let mut config = list["plugins"][0].clone();
        config["cniVersion"] = list["cniVersion"].clone();
        config["name"] = list["name"].clone();
        run_plugin(&self.path("bin/axoneme-cni"), command, pod, &format!("/run/netns/{}", self.pod(pod)), uid, &config)
    }

    pub fn ping(&self, pod: usize, to: &str) -> bool {
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

pub fn run_plugin(plugin: &Path, command: &str, pod: usize, netns: &str, uid: &str, config: &Value) -> (bool, Value) {
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

pub fn allowing(peers: std::ops::Range<u32>) -> RowSet {
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

pub fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
