//! Two agents as they ship, each with the packet path of a node of its own: what they take with the rows of the cluster.
//!
//! ```text
//!   network namespace of this process        namespace of the node
//!   operator ── axs0 198.18.0.1 ────────── up0 198.18.0.2, the node's address ── agent: BPF programs, maps, routes
//! ```
//!
//! Needs root. The node's pods are rows: nobody asks the agent to make links for them.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use axoneme_wire::client::Replicas;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::{AGENTS, Options, PROBES, run, world};

/// Until an agent has all rows in force, from its start.
const READY: Duration = Duration::from_mins(2);

/// One node with its agent. Everything is removed with it.
struct Node {
    netns: String,
    link: String,
    places: PathBuf,
    agent: Option<Child>,
}

/// All of them.
pub(crate) struct Agents(Vec<Node>);

impl Agents {
    /// Starts them and waits until they have put all rows in force.
    pub(crate) async fn start(binary: &Path, operator: &Replicas, o: &Options) -> anyhow::Result<Self> {
        let mut nodes = Vec::new();
        for i in 0..AGENTS {
            let mut node = Node::new(i)?;
            node.run(binary, operator, i)?;
            nodes.push(node);
        }
        for node in &nodes {
            node.wait(o.pods).await?;
        }
        Ok(Self(nodes))
    }

    /// Of the one that takes most.
    pub(crate) fn memory_mib(&self, field: &str) -> anyhow::Result<f64> {
        let all = self.pids().map(|pid| run::memory_mib(pid, field)).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(all.into_iter().fold(f64::NAN, f64::max))
    }

    /// Of one, on average.
    pub(crate) fn processor_seconds(&self) -> anyhow::Result<f64> {
        let all = self.pids().map(run::processor_seconds).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(all.iter().sum::<f64>() / f64::from(AGENTS))
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        self.0.iter().filter_map(|n| n.agent.as_ref()).map(Child::id)
    }
}

impl Node {
    fn new(i: u32) -> anyhow::Result<Self> {
        let pid = std::process::id();
        let (netns, link) = (format!("axs{pid}-{i}"), format!("axs{i}p{pid}"));
        let places = std::env::temp_dir().join(&netns);
        let node = Self { netns, link, places, agent: None };
        let (netns, link, address) = (&node.netns, &node.link, world::node_address(PROBES + i));
        std::fs::create_dir_all(node.places.join("token")).context("a place for the agent")?;
        std::fs::create_dir_all(node.places.join("bpf"))?;
        sh(&format!(
            "ip netns add {netns}; ip -n {netns} link set lo up
             ip link add {link} type veth peer name up0 netns {netns}
             ip addr add 198.18.{i}.1/30 dev {link}; ip link set {link} up
             ip -n {netns} addr add 198.18.{i}.2/30 dev up0; ip -n {netns} addr add {address}/32 dev up0
             ip -n {netns} link set up0 up; ip -n {netns} route add default via 198.18.{i}.1
             mount -t bpf bpf {}",
            node.places.join("bpf").display()
        ))?;
        Ok(node)
    }

    fn run(&mut self, binary: &Path, operator: &Replicas, i: u32) -> anyhow::Result<()> {
        let at = |name: &str| self.places.join(name);
        let name = world::node_name(PROBES + i);
        std::fs::write(at("token/axoneme-token"), &name)?;
        std::fs::write(at("ca.pem"), &operator.ca_pem)?;
        let port = operator.addresses.first().and_then(|a| a.rsplit_once(':')).context("the operator's port")?.1;
        let log = std::fs::File::create(at("log"))?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg(binary).args(["run", "--no-cni-install"]);
        command.args(["--node", &name, "--operator", &format!("198.18.{i}.1:{port}"), "--operator-ca"]);
        command.arg(at("ca.pem")).arg("--token-dir").arg(at("token"));
        for (flag, place) in [
            ("--state-dir", "state"),
            ("--cache-dir", "cache"),
            ("--cni-socket", "cni.sock"),
            ("--admin-socket", "admin.sock"),
            ("--cni-conf-dir", "net.d"),
            ("--cni-bin-dir", "bin"),
            ("--bpf-dir", "bpf/axoneme"),
            ("--hubble-socket", "hubble.sock"),
        ] {
            command.arg(flag).arg(at(place));
        }
        // it becomes the agent: nsenter executes its command in its own place
        self.agent = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context("the agent")?);
        Ok(())
    }

    /// Until the agent is ready and knows as many addresses as the cluster has pods.
    async fn wait(&self, pods: u32) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let status = self.status().await.unwrap_or_default();
            let of = |field: &str| status.get(field).and_then(serde_json::Value::as_u64).unwrap_or(0);
            let in_force = of("revision") > 0 && of("revision") == of("acknowledged");
            if status.get("ready").is_some_and(|r| r == true) && in_force && of("ips") >= u64::from(pods) {
                return Ok(());
            }
            let log = || std::fs::read_to_string(self.places.join("log")).unwrap_or_default();
            ensure!(began.elapsed() < READY, "an agent is not ready: {status}\n{}", log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn status(&self) -> Option<serde_json::Value> {
        let mut socket = UnixStream::connect(self.places.join("admin.sock")).await.ok()?;
        socket.write_all(b"GET /status HTTP/1.0\r\n\r\n").await.ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await.ok()?;
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let _ = sh(&format!("umount {}", self.places.join("bpf").display()));
        let _ = sh(&format!("ip netns del {}", self.netns));
        let _ = sh(&format!("ip link del {} 2>/dev/null || true", self.link));
        let _ = std::fs::remove_dir_all(&self.places);
    }
}

fn sh(script: &str) -> anyhow::Result<()> {
    let out = Command::new("sh").args(["-ec", script]).output()?;
    ensure!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}
