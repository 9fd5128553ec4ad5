//! What can be said to commands that ask the API server.

use std::path::PathBuf;

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::Format;

/// Which API server.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Kubeconfig file [default: $KUBECONFIG, else ~/.kube/config, else the pod's own account]
    #[arg(long, value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub context: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Config {
    /// All settings that are in force, and who set each; with what single nodes have of their own
    View(View),
    /// Change settings of the AxonemeConfig: `spec.mtu=1400`, `spec.mtu-` for the default
    Set(Set),
    /// What would differ if the AxonemeConfig were the one of a file
    Diff(Diff),
    /// Which nodes a file's settings would touch, and how each change takes place
    Plan(Diff),
    /// Translate settings of Cilium (its ConfigMap cilium-config, or Helm values) into an AxonemeConfig
    FromCilium(FromCilium),
}

#[derive(Debug, Args)]
pub struct View {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Only settings that are not their defaults, or that nodes have of their own
    #[arg(long)]
    pub changed: bool,
    /// Only settings at or below this path: spec.routing
    #[arg(value_name = "PATH")]
    pub path: Option<String>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

#[derive(Debug, Args)]
pub struct Set {
    /// Settings by their paths: a value as YAML, items of lists behind commas; a `-` in place of `=VALUE` for the default
    #[arg(value_name = "PATH=VALUE", required = true)]
    pub settings: Vec<String>,
    /// Let the API server judge the change, and store nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Take over fields that another manager (kubectl, a GitOps controller) has set; it may set them back
    #[arg(long)]
    pub force_conflicts: bool,
    /// Wait until all nodes run with the settings, for so many seconds at most
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "300")]
    pub wait: Option<u64>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

#[derive(Debug, Args)]
pub struct Diff {
    /// A file with one AxonemeConfig, or - for standard input
    #[arg(short, long = "filename", value_name = "PATH", required = true)]
    pub file: PathBuf,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

#[derive(Debug, Args)]
pub struct FromCilium {
    /// A file with the ConfigMap or with Helm values (YAML or JSON), or - for standard input
    #[arg(
        short,
        long = "filename",
        value_name = "PATH",
        required_unless_present = "namespace",
        conflicts_with = "namespace"
    )]
    pub file: Option<PathBuf>,
    /// Read the ConfigMap cilium-config of this namespace of the cluster
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Write the AxonemeConfig into this file, or - for standard output
    #[arg(short, long, value_name = "PATH")]
    pub write: Option<PathBuf>,
    /// End well although settings are unknown or cannot be taken over; they are named all the same
    #[arg(long)]
    pub allow_unknown: bool,
    /// Output format of the lists
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// What is installed, and where.
#[derive(Debug, Default, Args)]
pub struct What {
    /// A file with the AxonemeConfig to apply
    #[arg(short, long = "values", visible_alias = "filename", value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Registry of the images, in place of the manifests' one
    #[arg(long, value_name = "REGISTRY")]
    pub registry: Option<String>,
    /// Tag of the images, in place of the manifests' one
    #[arg(long, value_name = "TAG")]
    pub tag: Option<String>,
    /// Replicas of the operator; two survive the loss of a node
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5))]
    pub replicas: Option<u32>,
    /// Say what would be made and changed, and store nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Take over fields that another manager (kubectl, a GitOps controller) has set; it may set them back
    #[arg(long)]
    pub force_conflicts: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

#[derive(Debug, Args)]
pub struct Install {
    #[command(flatten)]
    pub what: What,
    /// Wait until agents, operator and relay are ready, for so many seconds at most
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "300")]
    pub wait: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Upgrade {
    #[command(flatten)]
    pub what: What,
    /// How many seconds agents, operator and relay may take until they are ready
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
}

#[derive(Debug, Args)]
pub struct Uninstall {
    /// Remove the kinds, too, and with them all policies, pools and settings that are objects of theirs
    #[arg(long)]
    pub purge: bool,
    /// Image that cleans the nodes [default: that of the agents]
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How many seconds all of it may take: nodes are waited for in any case
    #[arg(long, visible_alias = "wait", value_name = "SECONDS", num_args = 0..=1, default_value_t = 300, default_missing_value = "300")]
    pub timeout: u64,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

#[derive(Debug, Args)]
pub struct Nodes {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Only nodes whose labels match
    #[arg(short = 'l', long, value_name = "SELECTOR", default_value = "", hide_default_value = true)]
    pub selector: String,
    /// Only these
    #[arg(value_name = "NODE")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

#[derive(Debug, Args)]
pub struct Sysdump {
    /// The archive, .tar.gz [default: axoneme-sysdump-N.tar.gz, a new one]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Most mebibytes of each container's log
    #[arg(long, value_name = "MIB", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub log_mib: u32,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}
