//! `axoneme.io/v1alpha1` AxonemeConfig: the settings of the whole cluster, in one typed object.

mod datapath;
mod foreign;
mod ipam;
mod node;
mod routing;
mod unknown;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::foreign::cilium_setting;
pub use self::unknown::{Successor, successor, validate_unknown};
pub use self::{
    datapath::{
        AllowLocalhost, CidrMatchMode, Conntrack, DenyResponse, HostFirewall, Masquerade, Policy, PolicyEnforcement,
        SafeMember, Services, SocketLb,
    },
    ipam::{ClusterPool, Ipam, IpamMode, Ipv4Pool, Ipv6Pool, MultiPool},
    node::{Agent, ChainedPlugin, Cni, Flows, LogLevel, NodeHealth},
    routing::{HybridRouting, NativeRouting, Overlay, OverlayProtocol, Routing, RoutingMode},
};
use crate::condition::Condition;

/// The settings of Axoneme in this cluster. There is one, named `default`; without it every setting has its default.
/// A change takes effect without a restart, unless the field says otherwise.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[kube(
    group = "axoneme.io",
    version = "v1alpha1",
    kind = "AxonemeConfig",
    plural = "axonemeconfigs",
    singular = "axonemeconfig",
    shortname = "axc",
    category = "axoneme",
    status = "AxonemeConfigStatus",
    doc = "The settings of Axoneme in this cluster. There is one, named `default`.",
    validation = ("self.metadata.name == 'default'", "there is one AxonemeConfig; its name must be \"default\""),
    printcolumn = r#"{"name": "Routing", "type": "string", "jsonPath": ".spec.routing.mode"}"#,
    printcolumn = r#"{"name": "IPAM", "type": "string", "jsonPath": ".spec.ipam.mode"}"#,
    printcolumn = r#"{"name": "Valid", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Valid\")].status"}"#,
    printcolumn = r#"{"name": "Applied", "type": "integer", "description": "Nodes that run with these settings.", "jsonPath": ".status.nodes.applied"}"#,
    printcolumn = r#"{"name": "Nodes", "type": "integer", "description": "Nodes of the cluster.", "jsonPath": ".status.nodes.total"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    derive = "Default",
    derive = "PartialEq"
)]
pub struct AxonemeConfigSpec {
    /// The cluster's name, as flows and identities show it.
    #[schemars(extend("maxLength" = 32, "pattern" = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub cluster_name: String,

    /// The address families that pods get. The order says which one is a pod's first.
    #[schemars(extend("minItems" = 1, "maxItems" = 2, "x-kubernetes-list-type" = "set"))]
    pub ip_families: Vec<IpFamily>,

    /// How packets get from node to node.
    pub routing: Routing,

    /// The size of the largest packet that a pod may send, in bytes. Without it: that of the node's uplink, less what the
    /// overlay and encryption add.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1280, "maximum" = 65535))]
    pub mtu: Option<u32>,

    /// What connects a pod with its node. Pods keep what they have until they are made anew.
    pub pod_device: PodDevice,

    /// Where pods get their addresses from.
    pub ipam: Ipam,

    /// Which pod traffic gets the node's address when it leaves the cluster.
    pub masquerade: Masquerade,

    /// How policies are applied.
    pub policy: Policy,

    /// Policies of nodes.
    pub host_firewall: HostFirewall,

    /// Service addresses: what kube-proxy would do.
    pub services: Services,

    /// The table of connections.
    pub conntrack: Conntrack,

    /// The CNI files on the nodes.
    pub cni: Cni,

    /// The record of what was forwarded and dropped.
    pub flows: Flows,

    /// How nodes find out whether they reach each other.
    pub node_health: NodeHealth,

    /// The agent on the nodes.
    pub agent: Agent,
}

impl Default for AxonemeConfigSpec {
    fn default() -> Self {
        Self {
            cluster_name: "default".into(),
            ip_families: vec![IpFamily::IPv4],
            routing: Routing::default(),
            mtu: None,
            pod_device: PodDevice::default(),
            ipam: Ipam::default(),
            masquerade: Masquerade::default(),
            policy: Policy::default(),
            host_firewall: HostFirewall::default(),
            services: Services::default(),
            conntrack: Conntrack::default(),
            cni: Cni::default(),
            flows: Flows::default(),
            node_health: NodeHealth::default(),
            agent: Agent::default(),
        }
    }
}

/// What connects a pod with its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum PodDevice {
    /// A veth pair.
    #[default]
    Veth,
    /// A netkit pair in L2 mode. Nodes with a kernel before 6.7, or without netkit, make veth pairs and say so.
    Netkit,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum IpFamily {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}

/// What became of the settings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AxonemeConfigStatus {
    /// Whether the settings were understood (Valid) and how far they are applied (Applied).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Option<Vec<Condition>>,

    /// The generation of the object that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// How many nodes run with the settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCount>,
}

/// How many nodes run with the settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCount {
    /// Nodes that acknowledged the settings of observedGeneration.
    pub applied: i64,
    /// Nodes of the cluster.
    pub total: i64,
}
