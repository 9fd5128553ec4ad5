//! Making a cluster. The order is what makes it fast: while etcd and the API server start, the nodes' containerd starts
//! and takes the images; kubelets start when the API server answers.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::layout::{Family, Layout, MAX_NODES};
use super::state::{Cni, Paths, Phase, State, check_name, free_id, lock_all, lock_one};
use super::{Cluster, cgroup, control_plane, down, network, node, pki, reference, watches};
use crate::progress::{say, seconds, timed, wait};
use crate::setup::{self, go, images};

/// What kind of cluster.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Its name on this machine.
    pub name: String,
    /// How many nodes, from 1.
    pub nodes: u8,
    /// Address families.
    pub family: Family,
    /// Who networks pods.
    pub cni: Cni,
    /// Also run kube-proxy: only to judge the testbed beside the reference plugins.
    pub kube_proxy: bool,
    /// Also start CoreDNS. It becomes ready when the product, or kube-proxy, serves ClusterIPs.
    pub dns: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { name: "dev".to_owned(), nodes: 2, family: Family::V4, cni: Cni::None, kube_proxy: false, dns: false }
    }
}

const SOON: Duration = Duration::from_millis(50);

/// Makes the cluster, or finds it healthy.
pub(crate) fn run(options: &Options) -> Result<Cluster> {
    check_name(&options.name)?;
    if options.nodes == 0 || options.nodes > MAX_NODES {
        bail!("--nodes {}: a cluster has 1 to {MAX_NODES} nodes", options.nodes);
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("a cluster needs root: namespaces, mounts and control groups are made");
    }
    setup::run_quietly(setup::Part::Cluster)?;
    if options.kube_proxy {
        setup::kube_proxy()?;
    }
    let started = Instant::now();
    let lock = lock_one(&options.name)?;
    let paths = Paths::of(&options.name);
    if let Some(state) = paths.load()? {
        let cluster = Cluster::from_parts(paths.clone(), state);
        if cluster.healthy() {
            return adopt(cluster, options);
        }
        say(format_args!("cluster {}: incomplete; it is removed and made anew", options.name));
        down::remove(&options.name)?;
    }
    let state = record(&paths, options)?;
    make(&paths, &state)?;
    let state = State { phase: Phase::Ready, ..state };
    paths.save(&state)?;
    drop(lock);
    say(format_args!("cluster {}: ready in {}", options.name, seconds(started.elapsed())));
    Ok(Cluster::from_parts(paths, state))
}

fn adopt(cluster: Cluster, options: &Options) -> Result<Cluster> {
    let state = &cluster.state;
    let same = state.nodes == options.nodes
        && state.layout.family == options.family
        && state.cni == options.cni
        && state.kube_proxy == options.kube_proxy;
    if !same {
        bail!(
            "cluster {name} runs already, with other settings ({} nodes, {:?}, cni {:?}): `cargo xtask cluster down --name {name}` first, or give another --name",
            state.nodes,
            state.layout.family,
            state.cni,
            name = state.name,
        );
    }
    say(format_args!("cluster {}: runs already", state.name));
    Ok(cluster)
}

/// Intent before effect: from here on `down` knows the number, and with it every name.
fn record(paths: &Paths, options: &Options) -> Result<State> {
    let _all = lock_all()?;
    for dir in ["bin", "pid", "log", "nodes"] {
        fs::create_dir_all(paths.root.join(dir))?;
    }
    let state = State {
        name: options.name.clone(),
        layout: Layout { id: free_id()?, family: options.family },
        cni: options.cni,
        kube_proxy: options.kube_proxy,
        nodes: options.nodes,
        phase: Phase::Creating,
        bin: go::binaries()?,
    };
    paths.save(&state)?;
    watches::raise()?;
    Ok(state)
}

fn make(paths: &Paths, state: &State) -> Result<()> {
    let nodes = state.nodes();
    fs::copy(std::env::current_exe()?, paths.xtask()).context("keeping a copy of this program")?;
    timed("certificates, control groups, network", || {
        cgroup::create(&state.group().join(network::CONTROL_PLANE))?;
        pki::make(paths, state.layout, &nodes)?;
        network::make(state.layout, &nodes)
    })?;
    let cluster = Cluster::from_parts(paths.clone(), state.clone());
    thread::scope(|scope| {
        let workers: Vec<_> =
            nodes.iter().map(|(name, number)| (name, scope.spawn(|| start_node(&cluster, name, *number)))).collect();
        let control = timed("control plane", || start_control_plane(&cluster));
        for (name, _) in &nodes {
            node::let_kubelet_start(paths, name)?;
        }
        let done: Vec<Result<()>> = workers
            .into_iter()
            .map(|(name, worker)| {
                let result = worker.join().unwrap_or_else(|_| bail!("its thread ended early"));
                result.with_context(|| format!("node {name}"))
            })
            .collect();
        control.and_then(|()| done.into_iter().collect::<Result<()>>())
    })?;
    timed("nodes registered", || wait_for_accounts(&cluster))?;
    let ranges = wait_for_ranges(&cluster)?;
    if state.cni == Cni::Ref {
        timed("reference network, nodes ready", || {
            reference::install(paths, state, &ranges)?;
            cluster.kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=180s"]).map(drop)
        })?;
    }
    Ok(())
}

fn start_control_plane(cluster: &Cluster) -> Result<()> {
    let Cluster { paths, state } = cluster;
    control_plane::start(paths, state, "etcd")?;
    control_plane::start(paths, state, "apiserver")?;
    wait("API server", Duration::from_secs(90), Duration::from_millis(100), || {
        control_plane::check(paths, "etcd")?;
        control_plane::check(paths, "apiserver")?;
        Ok(cluster.kubectl(&["get", "--raw", "/readyz", "--request-timeout=2s"]).ok().map(drop))
    })?;
    control_plane::start(paths, state, "controller-manager")?;
    control_plane::start(paths, state, "scheduler")
}

fn start_node(cluster: &Cluster, name: &str, number: u8) -> Result<()> {
    node::prepare(&cluster.paths, &cluster.state, name, number)?;
    boot(cluster, name)?;
    cluster.load_into(name, &images::archives()?)
}

/// Starts the node's first process and waits for its containerd.
pub(crate) fn boot(cluster: &Cluster, name: &str) -> Result<()> {
    let Cluster { paths, state } = cluster;
    node::start(paths, state, name)?;
    wait("containerd", Duration::from_mins(1), SOON, || {
        if !cluster.node_alive(name) {
            let log = fs::read_to_string(paths.node(name).join("log/init.log")).unwrap_or_default();
            bail!("the node's first process has ended: {}", crate::command::tail(&log, 8));
        }
        Ok(cluster.node_exec(name, &["ctr", "version"]).ok().map(drop))
    })
}

/// Pods cannot be made before the default service account is there, nor without nodes.
fn wait_for_accounts(cluster: &Cluster) -> Result<()> {
    wait("default service account", Duration::from_mins(1), SOON, || {
        control_plane::check(&cluster.paths, "controller-manager")?;
        Ok(cluster.kubectl(&["get", "serviceaccount", "default"]).ok().map(drop))
    })
}

/// Each node's pod ranges, once the controller manager has given them out.
fn wait_for_ranges(cluster: &Cluster) -> Result<Vec<(String, Vec<String>)>> {
    let template = r#"jsonpath={range .items[*]}{.metadata.name}{" "}{.spec.podCIDRs[*]}{"\n"}{end}"#;
    let nodes = cluster.nodes();
    wait("registration of the nodes", Duration::from_mins(1), SOON, || {
        let text = cluster.kubectl(&["get", "nodes", "-o", template])?;
        let known: Vec<(String, Vec<String>)> = nodes.iter().filter_map(|node| ranges_of(&text, node)).collect();
        Ok((known.len() == nodes.len()).then_some(known))
    })
}

fn ranges_of(text: &str, node: &str) -> Option<(String, Vec<String>)> {
    let mut words = text.lines().map(str::split_whitespace).find(|words| words.clone().next() == Some(node))?.skip(1);
    let first = words.next()?.to_owned();
    Some((node.to_owned(), std::iter::once(first).chain(words.map(str::to_owned)).collect()))
}

/// Where the images for [`Cluster::load`] may come from when none is named.
pub(crate) fn built_images() -> Result<Vec<PathBuf>> {
    let dir = crate::settings::target().join("images");
    let entries = fs::read_dir(&dir).with_context(|| format!("no image archives in {}", dir.display()))?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.extension().is_some_and(|kind| kind == "tar"));
    found.sort();
    Ok(found)
}
