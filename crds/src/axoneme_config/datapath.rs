use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which pod traffic gets the node's address when it leaves the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Masquerade {
    /// Whether IPv4 traffic does.
    pub ipv4: bool,
    /// Whether IPv6 traffic does.
    pub ipv6: bool,
    /// Destinations that see the pod's own address.
    #[serde(rename = "excludeCIDRs")]
    #[schemars(with = "Vec<crate::schema::CelCidr>", extend("maxItems" = 1024))]
    pub exclude_cidrs: Vec<String>,
}

impl Default for Masquerade {
    fn default() -> Self {
        Self { ipv4: true, ipv6: true, exclude_cidrs: Vec::new() }
    }
}

/// How policies are applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// Default: an endpoint that no policy selects may send and receive anything. Always: every endpoint is in
    /// default-deny. Never: policies are not enforced.
    pub enforcement: PolicyEnforcement,

    /// What CIDR rules of Cilium policies match besides addresses outside the cluster.
    #[schemars(extend("maxItems" = 1, "x-kubernetes-list-type" = "set"))]
    pub cidr_match_mode: Vec<CidrMatchMode>,

    /// Whether a pod's own node may always reach it. Auto: yes, so that kubelet's probes work. Policy: only if a policy
    /// allows it.
    pub allow_localhost: AllowLocalhost,

    /// Policies are not enforced; what they would deny passes and is told as flows with the verdict AUDIT and the rule.
    /// The annotation policy.axoneme.io/mode says otherwise for a namespace or a pod (Enforce).
    pub audit_mode: bool,

    /// What a pod hears when its own egress policy denies what it sends. None: nothing, it waits until it gives up. ICMP:
    /// an ICMP or ICMPv6 error "administratively prohibited", by which a connection fails at once. What the policy of the
    /// other end denies is never answered.
    pub deny_response: DenyResponse,
}

/// Policies of nodes: CiliumClusterwideNetworkPolicies with a nodeSelector.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HostFirewall {
    /// Whether they are enforced. When it is off, all traffic of nodes passes.
    pub enabled: bool,

    /// Members of the safe set that are left to policy. The safe set is traffic of nodes that passes whatever policies
    /// say, since without it nobody could mend a policy; what is named here can be cut.
    #[schemars(extend("maxItems" = 10, "x-kubernetes-list-type" = "set"))]
    pub unprotected: Vec<SafeMember>,
}

impl Default for HostFirewall {
    fn default() -> Self {
        Self { enabled: true, unprotected: Vec::new() }
    }
}

/// A member of the safe set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum SafeMember {
    /// Router and neighbor discovery of IPv6, and multicast listeners.
    Neighbors,
    /// ICMP errors: that a packet could not be delivered, above all that it is too large.
    PathErrors,
    /// Getting an address.
    DHCP,
    /// Asking for names.
    DNS,
    /// Asking for the time.
    NTP,
    /// TCP 22 to the node.
    SSH,
    /// TCP 10250.
    Kubelet,
    /// TCP 6443, and all TCP to the API server's addresses.
    APIServer,
    /// TCP 2379 and 2380.
    Etcd,
    /// What Axoneme speaks between nodes: operator, webhooks, flows, overlay.
    Streams,
}

/// Which endpoints are in default-deny.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum PolicyEnforcement {
    /// Those that a policy selects.
    #[default]
    Default,
    /// All.
    Always,
    /// None: policies are not enforced.
    Never,
}

/// What CIDR rules match besides addresses outside the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum CidrMatchMode {
    /// Addresses of nodes.
    Nodes,
}

/// What a pod hears when its own egress policy denies what it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum DenyResponse {
    /// Nothing.
    #[default]
    None,
    /// An ICMP or ICMPv6 error: "administratively prohibited".
    ICMP,
}

/// Whether a pod's own node may always reach it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum AllowLocalhost {
    /// Yes.
    #[default]
    Auto,
    /// Only if a policy allows it.
    Policy,
}

/// Service addresses: what kube-proxy would do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Services {
    /// Whether Axoneme serves ClusterIP services. When it is off, kube-proxy must run.
    pub enabled: bool,

    /// Choosing the backend when a socket connects, before there is a packet.
    #[serde(rename = "socketLB")]
    pub socket_lb: SocketLb,
}

impl Default for Services {
    fn default() -> Self {
        Self { enabled: true, socket_lb: SocketLb::default() }
    }
}

/// Choosing the backend when a socket connects, before there is a packet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SocketLb {
    /// Whether sockets do. When it is off, packets are translated one by one.
    pub enabled: bool,

    /// Whether only sockets of the host do, for meshes that redirect pods' connections by service address.
    pub host_namespace_only: bool,
}

impl Default for SocketLb {
    fn default() -> Self {
        Self { enabled: true, host_namespace_only: false }
    }
}

/// The table of connections of each node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Conntrack {
    /// How many connections a node can hold, for each address family. When it is full, the least recently used make
    /// room. A change takes effect when the agent restarts.
    #[schemars(extend("minimum" = 1024, "maximum" = 16_777_216))]
    pub max_entries: u32,

    /// Seconds until an idle TCP connection is forgotten that is being opened.
    #[schemars(extend("minimum" = 1))]
    pub tcp_opening_seconds: u32,

    /// Seconds until an idle TCP connection is forgotten that is open.
    #[schemars(extend("minimum" = 1))]
    pub tcp_established_seconds: u32,

    /// Seconds until an idle TCP connection is forgotten that is being closed.
    #[schemars(extend("minimum" = 1))]
    pub tcp_closing_seconds: u32,

    /// Seconds until idle UDP traffic is forgotten.
    #[schemars(extend("minimum" = 1))]
    pub udp_seconds: u32,

    /// Seconds until idle traffic of other protocols is forgotten: ICMP, SCTP and others.
    #[schemars(extend("minimum" = 1))]
    pub other_seconds: u32,
}

impl Default for Conntrack {
    fn default() -> Self {
        // The timeouts are Cilium's defaults (8000 s is above the 2 h of TCP keep-alive), so that a migration changes
        // no connection's life.
        Self {
            max_entries: 131_072,
            tcp_opening_seconds: 60,
            tcp_established_seconds: 8000,
            tcp_closing_seconds: 10,
            udp_seconds: 60,
            other_seconds: 60,
        }
    }
}
