//! Local Kubernetes clusters without containers around them: real etcd, API server, controllers, kubelets and containerd,
//! each node in namespaces of its own on one machine. `layout` has the picture of the network.
//!
//! Invariants: intent is recorded before anything is made; every process of a cluster is recorded and lies in the
//! cluster's control group; every name follows from the cluster's number. So `down` needs nothing from `up`.

mod cgroup;
pub(crate) mod cli;
mod control_plane;
mod down;
pub(crate) mod launch;
pub(crate) mod layout;
mod network;
mod node;
mod node_init;
mod pki;
mod process;
mod reference;
pub(crate) mod runc;
mod state;
mod up;
mod watches;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use self::layout::Place;
use self::process::Recorded;
use self::state::{Paths, Phase, State};
use crate::command::{output, output_with, program};
use crate::settings;

pub(crate) use self::layout::{Family, Layout};
pub(crate) use self::state::Cni;
pub(crate) use self::up::Options;

/// A cluster that was made. Dropping it leaves it running; [`Cluster::down`] ends it.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    paths: Paths,
    state: State,
}

impl Cluster {
    fn from_parts(paths: Paths, state: State) -> Self {
        Self { paths, state }
    }

    /// Makes the cluster, or finds it running.
    ///
    /// # Expected flow
    /// The API server answers and all nodes are registered on return; nodes are Ready only with [`Cni::Ref`].
    /// # Errors
    /// A missing prerequisite with its fix; another cluster of that name with other settings; a component that ended,
    /// with the end of its log.
    pub(crate) fn up(options: &Options) -> Result<Self> {
        let cluster = up::run(options)?;
        if options.dns {
            cluster.apply_dns()?;
        }
        Ok(cluster)
    }

    /// A running cluster by name.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let paths = Paths::of(name);
        let state = paths.load()?.with_context(|| {
            let known = state::names().unwrap_or_default();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            format!("no cluster {name:?} (there is: {known}); `cargo xtask cluster up --name {name}` makes one")
        })?;
        Ok(Self { paths, state })
    }

    /// Ends the cluster and removes all of it.
    pub(crate) fn down(self) -> Result<()> {
        down::run(&self.state.name)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.state.name
    }

    /// Its addresses.
    pub(crate) fn layout(&self) -> Layout {
        self.state.layout
    }

    /// The administrator's kubeconfig; it works from this machine's own network namespace.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.paths.kubeconfig()
    }

    /// The nodes' names, in order.
    pub(crate) fn nodes(&self) -> Vec<String> {
        self.state.nodes().into_iter().map(|(name, _)| name).collect()
    }

    /// A node's addresses, IPv4 first.
    pub(crate) fn node_addresses(&self, node: &str) -> Result<Vec<IpAddr>> {
        let found = self.state.nodes().into_iter().find(|(name, _)| name == node);
        let (_, number) = found.with_context(|| format!("no node {node:?}: {}", self.nodes().join(", ")))?;
        Ok(self.state.layout.addresses(Place::Node(number)))
    }

    /// The outside host's addresses, IPv4 first.
    pub(crate) fn outside_addresses(&self) -> Vec<IpAddr> {
        self.state.layout.addresses(Place::Outside)
    }

    /// This program, where it enters the cluster's namespaces.
    pub(crate) fn xtask(&self) -> PathBuf {
        self.paths.xtask()
    }

    /// kubectl as administrator, ready to be given arguments.
    pub(crate) fn kubectl_command(&self) -> Command {
        let mut command = program(self.state.bin.join("kubectl"));
        command.arg(format!("--kubeconfig={}", self.kubeconfig().display()));
        command
    }

    /// What `kubectl` prints.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        output(self.kubectl_command().args(arguments))
    }

    /// Applies manifests.
    pub(crate) fn kubectl_apply(&self, yaml: &str) -> Result<String> {
        output_with(self.kubectl_command().args(["apply", "--filename=-"]), yaml)
    }

    /// A command inside a node (all its namespaces and control groups), `router`, `outside` or `cp`. The command ends
    /// when the process that is started from this ends.
    pub(crate) fn command_in(&self, place: &str, words: &[&str]) -> Command {
        let mut command = program(self.paths.xtask());
        command.args(["__exec", &self.state.name, place]).args(words);
        command
    }

    /// What a command prints inside a node.
    pub(crate) fn node_exec(&self, node: &str, words: &[&str]) -> Result<String> {
        output(&mut self.command_in(node, words)).with_context(|| format!("in {node}"))
    }

    /// What a command prints on the host outside.
    pub(crate) fn outside_exec(&self, words: &[&str]) -> Result<String> {
        self.node_exec("outside", words)
    }

    /// What a command prints on the router.
    pub(crate) fn router_exec(&self, words: &[&str]) -> Result<String> {
        self.node_exec("router", words)
    }

    /// Imports image archives on every node.
    pub(crate) fn load(&self, archives: &[PathBuf]) -> Result<()> {
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                self.nodes().into_iter().map(|node| scope.spawn(move || self.load_into(&node, archives))).collect();
            workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("an import ended early")))
        })
    }

    fn load_into(&self, node: &str, archives: &[PathBuf]) -> Result<()> {
        for archive in archives {
            let path = std::path::absolute(archive)?;
            anyhow::ensure!(path.is_file(), "no image archive {}", path.display());
            let path = path.display().to_string();
            self.node_exec(node, &["ctr", "--namespace=k8s.io", "images", "import", "--local", &path])
                .with_context(|| format!("importing {path}"))?;
        }
        Ok(())
    }

    /// Applies CoreDNS at the cluster's DNS address. It needs ClusterIPs: from the product, or from kube-proxy.
    pub(crate) fn apply_dns(&self) -> Result<()> {
        let path = settings::repository().join("tools/cluster/coredns.yaml");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let filled = text
            .replace("${CLUSTER_IP}", &self.state.layout.service_address(10))
            .replace("${IMAGE}", crate::setup::images::COREDNS);
        self.kubectl_apply(&filled).map(drop)
    }

    fn signal_api(&self, signal: Signal) -> Result<()> {
        let recorded = Recorded::load(&self.paths.pid("apiserver")).context("the API server was not started")?;
        anyhow::ensure!(recorded.alive(), "the API server has ended");
        recorded.signal(signal)
    }

    /// Stops the API server where it stands: connections stay open and nothing answers.
    pub(crate) fn pause_api(&self) -> Result<()> {
        self.signal_api(Signal::SIGSTOP)
    }

    /// Lets the API server go on.
    pub(crate) fn resume_api(&self) -> Result<()> {
        self.signal_api(Signal::SIGCONT)
    }

    /// Ends the API server (or another component of the control plane).
    pub(crate) fn stop_component(&self, component: &str) -> Result<()> {
        Recorded::load(&self.paths.pid(component)).with_context(|| format!("{component} was not started"))?.end()
    }

    /// Starts a component of the control plane again.
    pub(crate) fn start_component(&self, component: &str) -> Result<()> {
        control_plane::start(&self.paths, &self.state, component)
    }

    /// Ends a node as a power failure does, and boots it anew: no process, mount, namespace, link or BPF object of before is
    /// there; its disk is. Its containerd answers on return.
    pub(crate) fn reboot(&self, node: &str) -> Result<()> {
        let found = self.state.nodes().into_iter().find(|(name, _)| name == node);
        let (name, number) = found.with_context(|| format!("no node {node:?}: {}", self.nodes().join(", ")))?;
        let init = Recorded::load(&self.paths.pid(&format!("{name}.init")));
        // everything in its pid namespace ends with it
        init.with_context(|| format!("{name} was never started"))?.end()?;
        let group = self.state.group().join(&name);
        cgroup::remove(&group)?;
        cgroup::create(&group)?;
        network::renew_node(self.state.layout, &name, number)?;
        up::boot(self, &name)
    }

    /// A log: `apiserver`, `etcd`, `controller-manager`, `scheduler`, or `node1/kubelet`, `node1/containerd`, `node1/init`.
    pub(crate) fn log_path(&self, what: &str) -> Result<PathBuf> {
        let path = match what.split_once('/') {
            Some((node, service)) => self.paths.node(node).join("log").join(format!("{service}.log")),
            None => self.paths.log(what),
        };
        if path.is_file() {
            return Ok(path);
        }
        let nodes = self
            .nodes()
            .iter()
            .map(|node| format!("{node}/kubelet, {node}/containerd, {node}/init"))
            .collect::<Vec<_>>();
        bail!("no log {what:?}: choose one of {}, {}", control_plane::COMPONENTS.join(", "), nodes.join(", "))
    }

    /// The API server's record of what service accounts write (audit events, one JSON object a line).
    pub(crate) fn audit_log(&self) -> PathBuf {
        control_plane::audit_log(&self.paths)
    }

    fn node_alive(&self, node: &str) -> bool {
        Recorded::load(&self.paths.pid(&format!("{node}.init"))).is_some_and(Recorded::alive)
    }

    /// Whether every recorded process runs and the API server answers.
    pub(crate) fn healthy(&self) -> bool {
        self.state.phase == Phase::Ready
            && control_plane::COMPONENTS.iter().all(|component| control_plane::check(&self.paths, component).is_ok())
            && self.nodes().iter().all(|node| self.node_alive(node))
            && self.kubectl(&["get", "--raw", "/readyz", "--request-timeout=5s"]).is_ok()
    }

    /// What a removed cluster of this name and number has left on the machine; empty is good.
    pub(crate) fn leavings(name: &str, layout: Layout) -> Result<Vec<String>> {
        down::leavings_of(name, layout)
    }

    /// The directory of its state, logs and node files.
    pub(crate) fn directory(&self) -> &Path {
        &self.paths.root
    }
}
