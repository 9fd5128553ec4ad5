//! `cilium.io/v2alpha1` CiliumPodIPPool.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{condition::Condition, selector::LabelSelector};

/// A pool of pod addresses, from which nodes take blocks (IPAM mode MultiPool).
///
/// A pod's pool is found in this order: the pod's annotation, its namespace's annotation, the selectors of the pools,
/// the pool `default`.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "cilium.io",
    version = "v2alpha1",
    kind = "CiliumPodIPPool",
    plural = "ciliumpodippools",
    singular = "ciliumpodippool",
    shortname = "cpip",
    category = "cilium",
    status = "CiliumPodIPPoolStatus",
    doc = "A pool of pod addresses, from which nodes take blocks.",
    printcolumn = r#"{"name": "IPv4", "type": "string", "jsonPath": ".spec.ipv4.cidrs"}"#,
    printcolumn = r#"{"name": "IPv6", "type": "string", "jsonPath": ".spec.ipv6.cidrs"}"#,
    printcolumn = r#"{"name": "Valid", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Valid\")].status"}"#,
    printcolumn = r#"{"name": "Available", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"AddressesAvailable\")].status"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    derive = "Default",
    derive = "PartialEq"
)]
pub struct CiliumPodIPPoolSpec {
    /// The IPv4 addresses of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4PoolSpec>,

    /// The IPv6 addresses of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6PoolSpec>,

    /// Whether pods get the first address of a node's block, which is its network address. Cannot be changed.
    #[serde(rename = "allowFirstIP", default)]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "allowFirstIP cannot be changed"}]))]
    pub allow_first_ip: bool,

    /// Whether pods get the last address of a node's block, which is its broadcast address. Cannot be changed.
    #[serde(rename = "allowLastIP", default)]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "allowLastIP cannot be changed"}]))]
    pub allow_last_ip: bool,

    /// Pods that take their addresses from this pool, selected by their labels. Besides the pod's own labels,
    /// io.kubernetes.pod.namespace and io.kubernetes.pod.name may be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,

    /// Namespaces whose pods take their addresses from this pool. With podSelector, both must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
}

/// The IPv4 addresses of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ipv4PoolSpec {
    /// The prefixes of the pool. A prefix can be added; one that is in use cannot be taken away.
    #[schemars(with = "Vec<crate::schema::Cidr>", extend("minItems" = 1))]
    pub cidrs: Vec<String>,

    /// The prefix length of the blocks that nodes take: 24 gives each block 256 addresses. Cannot be changed.
    #[schemars(extend(
        "minimum" = 1,
        "maximum" = 32,
        "x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "maskSize cannot be changed"}]
    ))]
    pub mask_size: u8,
}

/// The IPv6 addresses of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ipv6PoolSpec {
    /// The prefixes of the pool. A prefix can be added; one that is in use cannot be taken away.
    #[schemars(with = "Vec<crate::schema::Cidr>", extend("minItems" = 1))]
    pub cidrs: Vec<String>,

    /// The prefix length of the blocks that nodes take: 120 gives each block 256 addresses. Cannot be changed.
    #[schemars(extend(
        "minimum" = 1,
        "maximum" = 128,
        "x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "maskSize cannot be changed"}]
    ))]
    pub mask_size: u8,
}

/// What became of a pool.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CiliumPodIPPoolStatus {
    /// Whether blocks can be given from all of the pool (Valid), and whether nodes have what their pods need
    /// (AddressesAvailable).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Option<Vec<Condition>>,
}
