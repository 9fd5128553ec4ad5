use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where pods get their addresses from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Ipam {
    /// ClusterPool: each node gets a block of clusterPool. MultiPool: nodes get blocks of CiliumPodIPPools as they need
    /// them. Kubernetes: each node uses the podCIDRs of its Node object. CRD: each node uses the addresses in
    /// spec.ipam.pool of its CiliumNode, which somebody else writes. Cannot be changed, but from ClusterPool to MultiPool:
    /// the blocks of the nodes go to the default pool then.
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self == oldSelf || (oldSelf == 'ClusterPool' && self == 'MultiPool')",
        "message": "the IPAM mode cannot be changed but from ClusterPool to MultiPool: pods would keep addresses that nobody accounts for"
    }]))]
    pub mode: IpamMode,

    /// Settings of mode ClusterPool.
    pub cluster_pool: ClusterPool,

    /// Settings of mode MultiPool.
    pub multi_pool: MultiPool,
}

/// Where pods get their addresses from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum IpamMode {
    /// Blocks of one pool of the cluster.
    #[default]
    ClusterPool,
    /// Blocks of CiliumPodIPPools.
    MultiPool,
    /// The podCIDRs of the Node object.
    Kubernetes,
    /// The addresses in the CiliumNode object.
    CRD,
}

/// The pool of IPAM mode ClusterPool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterPool {
    /// IPv4 addresses.
    pub ipv4: Ipv4Pool,
    /// IPv6 addresses.
    pub ipv6: Ipv6Pool,
}

/// IPv4 addresses of the cluster's pool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "self.cidrs.all(c, !isCIDR(c) || cidr(c).ip().family() == 4)",
        "message": "cidrs must be IPv4 prefixes",
        "fieldPath": ".cidrs"
    },
    {
        "rule": "self.cidrs.all(c, !isCIDR(c) || cidr(c).prefixLength() <= self.maskSize)",
        "message": "maskSize must be at least the prefix length of each of cidrs, or no block fits",
        "fieldPath": ".maskSize"
    }
]))]
pub struct Ipv4Pool {
    /// The prefixes of the pool. They must not overlap with each other, with those of services or with the nodes'
    /// network. A prefix can be added; one that is in use cannot be taken away.
    #[schemars(with = "Vec<crate::schema::CelCidr>", extend("minItems" = 1, "maxItems" = 32, "x-kubernetes-list-type" = "set"))]
    pub cidrs: Vec<String>,

    /// The prefix length of each node's block: 24 gives each node 256 addresses.
    #[schemars(extend("minimum" = 8, "maximum" = 32))]
    pub mask_size: u8,
}

impl Default for Ipv4Pool {
    fn default() -> Self {
        Self { cidrs: vec!["10.244.0.0/16".into()], mask_size: 24 }
    }
}

/// IPv6 addresses of the cluster's pool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "self.cidrs.all(c, !isCIDR(c) || cidr(c).ip().family() == 6)",
        "message": "cidrs must be IPv6 prefixes",
        "fieldPath": ".cidrs"
    },
    {
        "rule": "self.cidrs.all(c, !isCIDR(c) || cidr(c).prefixLength() <= self.maskSize)",
        "message": "maskSize must be at least the prefix length of each of cidrs, or no block fits",
        "fieldPath": ".maskSize"
    }
]))]
pub struct Ipv6Pool {
    /// The prefixes of the pool. They must not overlap with each other, with those of services or with the nodes'
    /// network. A prefix can be added; one that is in use cannot be taken away.
    #[schemars(with = "Vec<crate::schema::CelCidr>", extend("minItems" = 1, "maxItems" = 32, "x-kubernetes-list-type" = "set"))]
    pub cidrs: Vec<String>,

    /// The prefix length of each node's block: 120 gives each node 256 addresses.
    #[schemars(extend("minimum" = 8, "maximum" = 128))]
    pub mask_size: u8,
}

impl Default for Ipv6Pool {
    fn default() -> Self {
        Self { cidrs: vec!["fd00:10:244::/104".into()], mask_size: 120 }
    }
}

/// Settings of IPAM mode MultiPool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MultiPool {
    /// The CiliumPodIPPool of pods that nothing gives another.
    #[schemars(extend("minLength" = 1, "maxLength" = 253))]
    pub default_pool: String,

    /// How many free addresses each node should always hold, by pool. A pool that is not named: 8 for the default
    /// pool, 0 for others.
    pub pre_allocate: BTreeMap<String, u32>,
}

impl Default for MultiPool {
    fn default() -> Self {
        Self { default_pool: "default".into(), pre_allocate: BTreeMap::new() }
    }
}
