//! `cargo xtask cluster ...`

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{Cluster, Cni, Family, Options, down, state, up};
use crate::command::{program, show};
use crate::progress::say;

/// Which cluster.
#[derive(Args, Clone, Debug)]
pub(crate) struct Named {
    /// The cluster's name.
    #[arg(long, default_value = "dev", global = true)]
    name: String,
}

/// Settings of a new cluster.
#[derive(Args, Clone, Debug)]
pub(crate) struct UpArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// Address families of nodes, pods and services.
    #[arg(long, value_enum, default_value_t = Family::V4)]
    ip: Family,
    /// Who gives pods their network: none (the product is installed later) or the reference plugins.
    #[arg(long, value_enum, default_value_t = Cni::None)]
    cni: Cni,
    /// Also run kube-proxy, to judge the testbed itself.
    #[arg(long)]
    kube_proxy: bool,
    /// Also start CoreDNS.
    #[arg(long)]
    dns: bool,
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Action {
    /// Make a cluster: one control plane, N nodes, a router, a host outside.
    Up(UpArgs),
    /// Remove a cluster and everything that belongs to it, also after an interrupted `up`.
    Down {
        /// Every cluster, and what is left of clusters without state.
        #[arg(long)]
        all: bool,
    },
    /// Show clusters and their nodes.
    Status,
    /// Print the path of the administrator's kubeconfig.
    Kubeconfig,
    /// Print a log: apiserver, etcd, controller-manager, scheduler, node1/kubelet, node1/containerd, node1/init.
    Logs {
        what: String,
        /// Go on with what comes.
        #[arg(short, long)]
        follow: bool,
    },
    /// Run a command in a node, or on `router`, `outside` or `cp`.
    Exec {
        place: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Import OCI archives on all nodes (default: target/images/*.tar).
    Load { archives: Vec<PathBuf> },
    /// End a node as a power failure does, and boot it anew.
    Reboot { node: String },
    /// Start CoreDNS.
    Dns,
    /// Run kubectl as administrator.
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    named: Named,
    #[command(subcommand)]
    action: Action,
}

pub(crate) fn run(args: ClusterArgs) -> Result<()> {
    let name = args.named.name;
    match args.action {
        Action::Up(up) => {
            let options =
                Options { name, nodes: up.nodes, family: up.ip, cni: up.cni, kube_proxy: up.kube_proxy, dns: up.dns };
            let cluster = Cluster::up(&options)?;
            say(format_args!("export KUBECONFIG={}", cluster.kubeconfig().display()));
            Ok(())
        }
        Action::Down { all: true } => remove_all(),
        Action::Down { all: false } => down::run(&name),
        Action::Status => status(),
        Action::Kubeconfig => {
            println!("{}", Cluster::open(&name)?.kubeconfig().display());
            Ok(())
        }
        Action::Logs { what, follow } => {
            let path = Cluster::open(&name)?.log_path(&what)?;
            let mut command = if follow { program("tail") } else { program("cat") };
            if follow {
                command.args(["--lines=+1", "--follow"]);
            }
            show(command.arg(path))
        }
        Action::Exec { place, command } => {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            end_with(&mut Cluster::open(&name)?.command_in(&place, &words))
        }
        Action::Load { archives } => {
            let archives = if archives.is_empty() { up::built_images()? } else { archives };
            Cluster::open(&name)?.load(&archives)
        }
        Action::Reboot { node } => Cluster::open(&name)?.reboot(&node),
        Action::Dns => Cluster::open(&name)?.apply_dns(),
        Action::Kubectl { arguments } => end_with(Cluster::open(&name)?.kubectl_command().args(arguments)),
    }
}

/// Becomes the command, so that its status is this program's and signals reach it.
fn end_with(command: &mut std::process::Command) -> Result<()> {
    use std::os::unix::process::CommandExt as _;
    Err(command.exec().into())
}

fn remove_all() -> Result<()> {
    for name in state::names()? {
        down::run(&name)?;
    }
    let _all = state::lock_all()?;
    down::remove_orphans()
}

fn status() -> Result<()> {
    let names = state::names()?;
    if names.is_empty() {
        println!("no cluster");
    }
    for name in names {
        let cluster = Cluster::open(&name)?;
        let health = if cluster.healthy() { "healthy" } else { "not healthy" };
        let layout = cluster.layout();
        println!(
            "{name}: {health}, API {}, pods {}, services {}, {}",
            layout.api_url(),
            layout.pod_ranges(),
            layout.service_ranges(),
            cluster.directory().display()
        );
        for node in cluster.nodes() {
            let alive = if cluster.node_alive(&node) { "runs" } else { "has ended" };
            let ips: Vec<String> = cluster.node_addresses(&node)?.iter().map(ToString::to_string).collect();
            println!("  {node} {} {alive}", ips.join(" "));
        }
    }
    Ok(())
}
