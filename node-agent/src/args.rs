//! The command line. Every setting has a flag and a variable; the DaemonSet uses the defaults.

use std::{net::SocketAddr, path::PathBuf};

use axoneme_flow::PAST_BYTES;
use clap::{Args, Parser, Subcommand};

use crate::{hubble::HubbleArgs, relay::RelayArgs};

/// The node agent of Axoneme.
#[derive(Debug, Parser)]
#[command(name = "axoneme-agent", version, about)]
pub struct Cli {
    /// What to log: `info`, `debug`, `info,axoneme_kernel=debug`. Default: what AxonemeConfig says, `info` until then.
    #[arg(long, env = "AXONEME_LOG", global = true)]
    pub log: Option<String>,
    /// One JSON object a line instead of text.
    #[arg(long, env = "AXONEME_LOG_JSON", global = true)]
    pub log_json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve this node: rows from the operator, pods from the container runtime.
    Run(Box<Run>),
    /// Serve one node from a directory of manifests, with the operator's part in the same process: a laptop, a load
    /// balancer, a virtual machine outside of any cluster.
    Standalone(Box<Standalone>),
    /// Serve the flows of all nodes at one address.
    Relay(Box<RelayArgs>),
    /// Remove everything that the agent has made on this host. Needs no API server.
    Uninstall(Uninstall),
}

/// Where things are on this host.
#[derive(Clone, Debug, Args)]
pub struct Places {
    /// Intents and inventory; belongs on tmpfs, it must not outlive a reboot.
    #[arg(long, env = "AXONEME_STATE_DIR", default_value = "/run/axoneme/state")]
    pub state_dir: PathBuf,
    /// What may outlive a reboot: the last known place of the operator.
    #[arg(long, env = "AXONEME_CACHE_DIR", default_value = "/var/lib/axoneme")]
    pub cache_dir: PathBuf,
    #[arg(long, env = "AXONEME_CNI_SOCKET", default_value = axoneme_cni::DEFAULT_SOCKET)]
    pub cni_socket: PathBuf,
    #[arg(long, env = "AXONEME_ADMIN_SOCKET", default_value = axoneme_flow::admin::SOCKET)]
    pub admin_socket: PathBuf,
    #[arg(long, env = "AXONEME_CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    #[arg(long, env = "AXONEME_CNI_BIN_DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// Owned directory below a BPF filesystem.
    #[arg(long, env = "AXONEME_BPF_DIR", default_value = "/sys/fs/bpf/axoneme")]
    pub bpf_dir: PathBuf,
    /// Where the address of the API server is told to the operator on this node.
    #[arg(long, env = "AXONEME_BOOTSTRAP", default_value = "/run/axoneme/bootstrap/apiserver")]
    pub bootstrap: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub struct Uninstall {
    #[command(flatten)]
    pub places: Places,
    /// Then stay until SIGTERM: a DaemonSet's container is not started again and again.
    #[arg(long)]
    pub stay: bool,
}

/// What every way to run has in common.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Name of the Node object.
    #[arg(long, env = "NODE_NAME")]
    pub node: String,
    #[command(flatten)]
    pub places: Places,
    /// The host's root as this process sees it: where a kubelet's kubeconfig and the cgroups are looked for.
    #[arg(long, env = "AXONEME_HOST_ROOT", default_value = "/host")]
    pub host_root: PathBuf,
    /// The plugin to install; default: `axoneme-cni` beside this binary.
    #[arg(long, env = "AXONEME_CNI_PLUGIN")]
    pub cni_plugin: Option<PathBuf>,
    /// Leave other network configurations in use beside ours.
    #[arg(long, env = "AXONEME_KEEP_OTHER_CNI")]
    pub keep_other_cni: bool,
    /// cgroup v2 directory for socket load balancing; default: looked for.
    #[arg(long, env = "AXONEME_CGROUP")]
    pub cgroup: Option<PathBuf>,
    /// Seconds that an ADD waits for its rows before the runtime has to ask again.
    #[arg(long, env = "AXONEME_ADD_DEADLINE", default_value_t = 15)]
    pub add_deadline: u64,
    /// Where Prometheus reads the agent's own figures and what probes of other nodes found, in clear text, such as
    /// `[::]:9962`. None: nowhere.
    #[arg(long, env = "AXONEME_PROMETHEUS_SERVE_ADDR")]
    pub prometheus_serve_addr: Option<SocketAddr>,
    /// Memory for flows that the ring (spec.flows.bufferEvents) has no room for any more, in MiB; 0: none. Twelve hold the
    /// last ten minutes at 1,000 a second.
    #[arg(long, env = "AXONEME_FLOW_HISTORY_MIB", default_value_t = PAST_BYTES >> 20, value_parser = mebibytes)]
    pub flow_history_mib: usize,
    #[command(flatten)]
    pub hubble: HubbleArgs,
}

/// So much memory that a node has it.
fn mebibytes(text: &str) -> Result<usize, String> {
    let most = 4096;
    text.parse().ok().filter(|n| *n <= most).ok_or_else(|| format!("{text:?}: must be a number from 0 to {most}"))
}

#[derive(Clone, Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub common: Common,
    /// `host:port` of an operator, in place of asking the API server; may be given several times.
    #[arg(long, env = "AXONEME_OPERATOR", value_delimiter = ',')]
    pub operator: Vec<String>,
    /// CA of the operator's certificate when --operator is given; without it the stream is clear text.
    #[arg(long, env = "AXONEME_OPERATOR_CA")]
    pub operator_ca: Option<PathBuf>,
    /// URL of the API server, in place of looking for it.
    #[arg(long, env = "AXONEME_APISERVER")]
    pub apiserver: Option<String>,
    /// Namespace of the operator.
    #[arg(long, env = "POD_NAMESPACE", default_value = "axoneme-system")]
    pub namespace: String,
    /// Directory with `token` and `ca.crt` for the API server and `axoneme-token` for the operator.
    #[arg(long, env = "AXONEME_TOKEN_DIR", default_value = "/var/run/secrets/kubernetes.io/serviceaccount")]
    pub token_dir: PathBuf,
    /// Leave the container runtime's configuration alone.
    #[arg(long, env = "AXONEME_NO_CNI_INSTALL")]
    pub no_cni_install: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Standalone {
    #[command(flatten)]
    pub common: Common,
    /// Directory of manifests; it must hold the Node of --node.
    #[arg(long, env = "AXONEME_MANIFESTS")]
    pub manifests: PathBuf,
    /// Tell a container runtime on this host of the plugin.
    #[arg(long, env = "AXONEME_CNI_INSTALL")]
    pub cni_install: bool,
}
