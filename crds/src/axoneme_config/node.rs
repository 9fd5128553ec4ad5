use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The CNI files on the nodes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Cni {
    /// Whether the configurations of other CNI plugins are put aside, so that no pod starts without Axoneme. They are put
    /// back when Axoneme is removed.
    pub exclusive: bool,

    /// CNI plugins that run after Axoneme's for each pod, in this order, such as portmap. Each is written into the CNI
    /// configuration as it stands here.
    #[schemars(extend("maxItems" = 16))]
    pub chained_plugins: Vec<ChainedPlugin>,
}

impl Default for Cni {
    fn default() -> Self {
        Self { exclusive: true, chained_plugins: Vec::new() }
    }
}

/// The configuration of a CNI plugin: its type, and whatever else it knows.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct ChainedPlugin {
    /// The plugin's type, which is the name of its program.
    #[serde(rename = "type")]
    #[schemars(extend("minLength" = 1))]
    pub type_: String,

    /// The plugin's own settings.
    #[serde(flatten)]
    #[schemars(skip)]
    pub settings: serde_json::Map<String, serde_json::Value>,
}

/// The record of what was forwarded and dropped.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Flows {
    /// How many flows each node keeps for those who ask later; the oldest make room.
    #[schemars(extend("minimum" = 64, "maximum" = 1_048_576))]
    pub buffer_events: u32,

    /// How often what policy denies a pod is told again as an Event of that pod, in seconds; the first time it is told at
    /// once. 0: no Events of denials.
    #[schemars(extend("minimum" = 0, "maximum" = 86_400))]
    pub drop_events_seconds: u32,
}

impl Default for Flows {
    fn default() -> Self {
        Self { buffer_events: 16_384, drop_events_seconds: 0 }
    }
}

/// How nodes find out whether they reach each other: each agent probes all nodes by ICMP and HTTP (port 4240). What it
/// found is in `axoneme status`, in its metrics, and in the condition NetworkUnavailable of a node that packets do not
/// get through.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeHealth {
    /// Whether nodes probe each other.
    pub enabled: bool,

    /// Seconds between probes of the same node, times the natural logarithm of one more than the number of nodes: with 60,
    /// 66 seconds among 2 nodes, 277 among 100, 511 among 5000. So the cost follows the node, not the cluster.
    #[schemars(extend("minimum" = 1, "maximum" = 3600))]
    pub interval_seconds: u32,

    /// Whether each node has a health endpoint, an address of its pod CIDR like a pod's, that others probe too: that
    /// proves tunnels and routes, and not only the network between nodes. Has no effect in IPAM mode MultiPool.
    pub endpoints: bool,
}

impl Default for NodeHealth {
    fn default() -> Self {
        Self { enabled: true, interval_seconds: 60, endpoints: true }
    }
}

/// The agent on the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Agent {
    /// How much the agent writes into its log.
    pub log_level: LogLevel,

    /// The network interfaces of the nodes that lead to other nodes and out of the cluster. A name may end in `+`, which
    /// stands for any characters. Without any: those that have a default route or the node's address.
    #[schemars(extend("maxItems" = 32, "x-kubernetes-list-type" = "set"))]
    #[schemars(with = "Vec<crate::schema::DeviceName>")]
    pub devices: Vec<String>,
}

/// How much is written into a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what looks wrong.
    Warn,
    /// And what was done.
    #[default]
    Info,
    /// And how.
    Debug,
    /// And everything else.
    Trace,
}

impl LogLevel {
    /// As filters of `tracing` spell it.
    #[must_use]
    pub const fn directive(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
