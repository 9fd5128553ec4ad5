use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The addresses that a node has to give to its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct IpamSpec {
    /// The IPv4 addresses that the node may give to pods, by address. Used where addresses come one by one (IPAM mode
    /// CRD and those of cloud providers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<BTreeMap<String, AllocationIp>>,

    /// The IPv6 addresses that the node may give to pods, by address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_pool: Option<BTreeMap<String, AllocationIp>>,

    /// The blocks that the node asks for and holds (IPAM mode MultiPool).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pools: Option<IpamPools>,

    /// The blocks that the node holds (IPAM modes ClusterPool and Kubernetes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "podCIDRs")]
    #[schemars(with = "Option<Vec<crate::schema::Cidr>>")]
    pub pod_cidrs: Option<Vec<String>>,

    /// How many addresses the node gets when it joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0))]
    pub min_allocate: Option<i64>,

    /// How many addresses the node may hold at most. 0 means any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0))]
    pub max_allocate: Option<i64>,

    /// How many free addresses the node should always hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0))]
    pub pre_allocate: Option<i64>,

    /// How many addresses beyond pre-allocate may be taken in one go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0))]
    pub max_above_watermark: Option<i64>,

    /// Tags of the static address that the node should get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub static_ip_tags: Option<BTreeMap<String, String>>,
}

/// The blocks that a node asks for and holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct IpamPools {
    /// What the node asks for, by pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pool"]))]
    pub requested: Option<Vec<IpamPoolRequest>>,

    /// What the node holds, by pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pool"]))]
    pub allocated: Option<Vec<IpamPoolAllocation>>,
}

/// What a node asks for of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct IpamPoolRequest {
    /// The CiliumPodIPPool's name.
    #[schemars(length(min = 1))]
    pub pool: String,

    /// How many addresses the node needs, including spare ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed: Option<IpamPoolDemand>,
}

/// How many addresses a node needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct IpamPoolDemand {
    /// IPv4 addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_addrs: Option<i64>,

    /// IPv6 addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_addrs: Option<i64>,
}

/// What a node holds of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct IpamPoolAllocation {
    /// The CiliumPodIPPool's name.
    #[schemars(length(min = 1))]
    pub pool: String,

    /// Whether pods get the first address of a block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "allowFirstIP")]
    pub allow_first_ip: Option<bool>,

    /// Whether pods get the last address of a block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "allowLastIP")]
    pub allow_last_ip: Option<bool>,

    /// The blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<crate::schema::Cidr>>")]
    pub cidrs: Option<Vec<String>>,
}

/// Who holds an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AllocationIp {
    /// The pod that holds the address, as namespace/name. Empty where it is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,

    /// The cloud provider's resource that the address belongs to, such as a network interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
}

/// The state of a node's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct IpamStatus {
    /// The IPv4 addresses of spec.ipam.pool that are in use, by address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<BTreeMap<String, AllocationIp>>,

    /// The IPv6 addresses of spec.ipam.ipv6-pool that are in use, by address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_used: Option<BTreeMap<String, AllocationIp>>,

    /// The state of the blocks of spec.ipam.podCIDRs, by block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_cidrs: Option<BTreeMap<String, PodCidrStatus>>,

    /// What the operator has to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_status: Option<OperatorStatus>,

    /// IPv4 addresses that are being given back, by address: operator and agent shake hands over each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_ips: Option<BTreeMap<String, ReleaseStatus>>,

    /// IPv6 addresses that are being given back, by address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "release-ipv6s")]
    pub release_ipv6s: Option<BTreeMap<String, ReleaseStatus>>,

    /// The static address that the node got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned_static_ip: Option<String>,
}

/// The state of a block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PodCidrStatus {
    /// Whether pods use the block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PodCidrState")]
    pub status: Option<PodCidrState>,
}

/// Whether pods use a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PodCidrState {
    /// The node gave it back.
    Released,
    /// All of its addresses are in use.
    Depleted,
    /// Some of its addresses are in use.
    InUse,
}

/// What the operator has to say about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct OperatorStatus {
    /// Why the operator cannot give the node what it asks for. Empty where it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How far the hand-back of an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseStatus {
    /// The operator wants it back.
    MarkedForRelease,
    /// The agent no longer uses it.
    ReadyForRelease,
    /// The agent uses it.
    DoNotRelease,
    /// The operator took it.
    Released,
}
