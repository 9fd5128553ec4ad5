//! What can be said on the command line.

pub mod cluster;

use std::path::PathBuf;

use axoneme_flow::{FilterSpec, Time, admin};
use clap::{Args, Parser, Subcommand, ValueEnum, builder::FalseyValueParser};

/// Exit codes, as the help tells them.
const EXIT_CODES: &str = "\
Exit codes:
  0  done, and all is well
  1  done, and something is not well: a check failed, a manifest has errors, traffic is denied
  2  the command line is wrong
  3  no agent or API server can be reached
  4  the agent or the API server answered with an error, or with something that this version does not understand
  5  a file could not be read, or the output not written";

/// Axoneme on the command line: how a node is, what flows, and why.
#[derive(Debug, Parser)]
#[command(name = "axoneme", version, about, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// Admin socket of the node's agent
    #[arg(long, global = true, value_name = "PATH", env = "AXONEME_SOCKET", hide_env_values = true, default_value = admin::SOCKET)]
    pub socket: PathBuf,
    /// When to colour the output
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = When::Auto)]
    pub color: When,
    /// Never colour the output: the custom of <https://no-color.org>
    #[arg(long, global = true, env = "NO_COLOR", hide = true, value_parser = FalseyValueParser::new())]
    pub no_color: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Health of the node: agent, datapath, row stream, addresses, endpoints
    Status(Status),
    /// Flows: who talks to whom, what passes, what is dropped and which rule says so
    Observe(Box<Observe>),
    /// Who talks most, what is dropped and why, and how the node is: a screen, or one report
    Top(Top),
    /// Pods of the node
    Endpoints(Endpoints),
    /// Security identities that the node knows
    Identities(Identities),
    /// Nodes of the cluster and how their datapaths are, as the operator sees them
    Nodes(cluster::Nodes),
    /// What this node's kernel holds that is not what its rows say
    Drift(Drift),
    /// Policy as the node enforces it
    Policy {
        #[command(subcommand)]
        command: Policy,
    },
    /// Check manifests without a cluster: every error by object and field
    Lint(Lint),
    /// Say whether one pod may talk to another, which rules decide, and what was nearest: of the node, or of manifests
    Explain(Explain),
    /// Settings of the cluster: seen, compared, changed, or translated from Cilium's
    Config {
        #[command(subcommand)]
        command: cluster::Config,
    },
    /// Install Axoneme on a cluster, or finish an installation that was interrupted
    Install(cluster::Install),
    /// Bring an installation to this program's version
    Upgrade(cluster::Upgrade),
    /// Take Axoneme off a cluster and its nodes
    Uninstall(cluster::Uninstall),
    /// Collect versions, objects, views, events and logs of the product into one archive, without secrets
    Sysdump(cluster::Sysdump),
    /// Say what a change of policies would change: which pods get or lose which peers at which ports
    Simulate(Simulate),
    /// Print a completion script for a shell
    Completion {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write manual pages
    Man {
        /// Directory for one page a command; without it the page of the program, to standard output
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Versions of this program and of the agent
    Version(Version),
}

/// How to print a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    Json,
    Yaml,
}

#[derive(Debug, Args)]
pub struct Status {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Wait until the node is ready, for so many seconds at most
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "300")]
    pub wait: Option<u64>,
    /// Also each node that is probed from here: at its address and at its health endpoint, by which protocol, how fast
    #[arg(long)]
    pub health: bool,
}

/// What makes a pair busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Busy {
    /// Connections that it opened, and packets of it that were dropped
    Connections,
    /// Bytes of its connections that were closed
    Bytes,
    /// Packets of it that were dropped
    Drops,
}

#[derive(Debug, Args)]
pub struct Top {
    /// Output format; json and yaml are one report
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Print one report and end; so does an output that is no terminal
    #[arg(long)]
    pub once: bool,
    /// Look at so many seconds before the newest flow [default: 60, of one report all that the node still knows]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub window: Option<u64>,
    /// Seconds between two pictures
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    pub interval: u64,
    /// Most rows of a table
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub rows: usize,
    /// Which pairs come first
    #[arg(long, value_enum, default_value_t = Busy::Connections)]
    pub sort: Busy,
}

#[derive(Debug, Args)]
pub struct Endpoints {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Only pods of this namespace
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Only pods whose name begins so
    #[arg(value_name = "POD")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
pub struct Identities {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Only these
    #[arg(value_name = "ID")]
    pub ids: Vec<u32>,
}

#[derive(Debug, Args)]
pub struct Drift {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Have the agent mend what it finds
    #[arg(long)]
    pub repair: bool,
}

#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Compiled policy tables, with the rule behind each entry
    Tables(Tables),
    /// Who may connect to a pod, at which ports, and which rules let them
    WhoCan(WhoCan),
    /// Which pods policy isolates, which policies and rules never decide, and which selectors match nobody
    Coverage(Coverage),
}

#[derive(Debug, Args)]
pub struct WhoCan {
    /// The pod that is connected to: namespace/pod
    pub target: String,
    /// Ask manifests and not the agent: YAML or JSON files, directories (read recursively), or - for standard input
    #[arg(short, long = "filename", value_name = "PATH", num_args = 1..)]
    pub files: Vec<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct Coverage {
    /// Ask manifests and not the agent: YAML or JSON files, directories (read recursively), or - for standard input
    #[arg(short, long = "filename", value_name = "PATH", num_args = 1..)]
    pub files: Vec<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct Tables {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Only tables with this id, or of this pod (namespace/name)
    #[arg(value_name = "TABLE|POD")]
    pub of: Option<String>,
}

#[derive(Debug, Args)]
pub struct Lint {
    /// Manifests: YAML or JSON files, directories (read recursively), or - for standard input
    #[arg(short, long = "filename", value_name = "PATH", required = true, num_args = 1..)]
    pub files: Vec<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// Who opens the connection: namespace/pod or an address
    #[arg(required_unless_present = "flow")]
    pub source: Option<String>,
    /// Who is asked: namespace/pod, an address, or without -f that of a service
    #[arg(required_unless_present = "flow")]
    pub destination: Option<String>,
    /// Port, with a protocol if it is not TCP: 80, 53/udp, 8/icmp (type)
    #[arg(default_value = "80")]
    pub port: String,
    /// Explain a flow of this node by its uuid
    #[arg(long, value_name = "UUID", conflicts_with_all = ["source", "files"])]
    pub flow: Option<String>,
    /// Ask manifests and not the agent: YAML or JSON files, directories (read recursively), or - for standard input
    #[arg(short, long = "filename", value_name = "PATH", num_args = 1..)]
    pub files: Vec<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct Simulate {
    /// Policies as they would be: YAML or JSON files, directories (read recursively), or - for standard input
    #[arg(short, long = "filename", value_name = "PATH", required = true, num_args = 1..)]
    pub files: Vec<PathBuf>,
    /// Everything as it is now: namespaces, pods or workloads, policies; files, directories, or - for standard input
    #[arg(short, long, value_name = "PATH", required = true, num_args = 1..)]
    pub manifests: Vec<PathBuf>,
    /// The policies would be deleted, not applied
    #[arg(long)]
    pub delete: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct Version {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Do not ask the agent
    #[arg(long)]
    pub client: bool,
}

/// How to print flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FlowFormat {
    /// A line a flow, with identities
    Compact,
    /// Columns
    Table,
    /// Hubble's JSON, a flow a line
    Json,
    /// The same as json
    Jsonpb,
}

#[derive(Debug, Args)]
pub struct Observe {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = FlowFormat::Compact)]
    pub output: FlowFormat,
    /// Show the node in each line
    #[arg(long)]
    pub print_node_name: bool,
    #[command(flatten)]
    pub range: Range,
    #[command(flatten)]
    pub filter: Filters,
}

/// Which part of the history.
#[derive(Debug, Args)]
#[command(next_help_heading = "Range")]
pub struct Range {
    /// Begin with the newest N flows that match [default: 20, with --follow 0]
    #[arg(long, value_name = "N", conflicts_with = "all")]
    pub last: Option<u64>,
    /// Begin with the oldest flow that the agent still has
    #[arg(long)]
    pub all: bool,
    /// Go on with new flows until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Only flows from this time on (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub since: Option<Time>,
    /// Only flows before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub until: Option<Time>,
}

/// What to look for. Each flag may be given more than once or with values separated by commas: any of them may match;
/// all flags that are given must.
#[derive(Debug, Args)]
#[command(next_help_heading = "Filters (of one flag any value may match, of several flags all must)")]
pub struct Filters {
    /// Pods by namespace/name-prefix, namespace/ or /name-prefix; name-prefix alone is in namespace default
    #[arg(long, value_delimiter = ',')]
    pub pod: Vec<String>,
    #[arg(long, value_name = "POD", value_delimiter = ',')]
    pub from_pod: Vec<String>,
    #[arg(long, value_name = "POD", value_delimiter = ',')]
    pub to_pod: Vec<String>,
    #[arg(short, long, value_delimiter = ',')]
    pub namespace: Vec<String>,
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    pub from_namespace: Vec<String>,
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    pub to_namespace: Vec<String>,
    /// Addresses or prefixes
    #[arg(long, value_delimiter = ',')]
    pub ip: Vec<String>,
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub from_ip: Vec<String>,
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub to_ip: Vec<String>,
    /// Ports or ranges of ports: 80, 8000-8080
    #[arg(long, value_delimiter = ',')]
    pub port: Vec<String>,
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    pub from_port: Vec<String>,
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    pub to_port: Vec<String>,
    /// Identities by number or reserved name (host, world, …)
    #[arg(long, value_delimiter = ',')]
    pub identity: Vec<String>,
    #[arg(long, value_name = "IDENTITY", value_delimiter = ',')]
    pub from_identity: Vec<String>,
    #[arg(long, value_name = "IDENTITY", value_delimiter = ',')]
    pub to_identity: Vec<String>,
    /// Label selectors of Kubernetes: app=web, "k8s:app in (web, api)"
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub label: Vec<String>,
    #[arg(long, value_name = "SELECTOR")]
    pub from_label: Vec<String>,
    #[arg(long, value_name = "SELECTOR")]
    pub to_label: Vec<String>,
    /// FORWARDED, DROPPED, AUDIT, …
    #[arg(long, value_delimiter = ',')]
    pub verdict: Vec<String>,
    /// Reasons of drops: POLICY_DENIED, …
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    pub drop_reason_desc: Vec<String>,
    /// tcp, udp, sctp, icmp, icmpv4, icmpv6, …
    #[arg(long, value_delimiter = ',')]
    pub protocol: Vec<String>,
    /// TCP flags that must all be set: SYN,ACK
    #[arg(long, value_name = "FLAGS")]
    pub tcp_flags: Vec<String>,
    /// ingress or egress
    #[arg(long, value_name = "DIRECTION", value_delimiter = ',')]
    pub traffic_direction: Vec<String>,
    /// Policies that decided, by name or namespace/name
    #[arg(long, value_delimiter = ',')]
    pub policy: Vec<String>,
    /// Leave out flows that match: a filter as above without its dashes, --not port=53
    #[arg(long, value_name = "FILTER=VALUE")]
    pub not: Vec<String>,
}

impl Filters {
    /// The filter without its `not`, which is words still.
    pub fn spec(&self) -> FilterSpec {
        let f = self;
        FilterSpec {
            pod: f.pod.clone(),
            from_pod: f.from_pod.clone(),
            to_pod: f.to_pod.clone(),
            namespace: f.namespace.clone(),
            from_namespace: f.from_namespace.clone(),
            to_namespace: f.to_namespace.clone(),
            ip: f.ip.clone(),
            from_ip: f.from_ip.clone(),
            to_ip: f.to_ip.clone(),
            port: f.port.clone(),
            from_port: f.from_port.clone(),
            to_port: f.to_port.clone(),
            identity: f.identity.clone(),
            from_identity: f.from_identity.clone(),
            to_identity: f.to_identity.clone(),
            label: f.label.clone(),
            from_label: f.from_label.clone(),
            to_label: f.to_label.clone(),
            verdict: f.verdict.clone(),
            drop_reason_desc: f.drop_reason_desc.clone(),
            protocol: f.protocol.clone(),
            tcp_flags: f.tcp_flags.clone(),
            traffic_direction: f.traffic_direction.clone(),
            policy: f.policy.clone(),
            reply: None,
            not: None,
        }
    }
}
