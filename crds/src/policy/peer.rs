use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::LabelSelector;

/// A prefix with exceptions, or a group of prefixes. Exactly one of `cidr`, `cidrGroupRef` and `cidrGroupSelector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = [
    {"required": ["cidr"]},
    {"required": ["cidrGroupRef"]},
    {"required": ["cidrGroupSelector"]}
]))]
pub struct CidrRule {
    /// A prefix, such as 192.0.2.0/24 or 2001:db8::/32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::schema::Cidr>")]
    pub cidr: Option<String>,

    /// The name of a CiliumCIDRGroup, whose prefixes are meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "maxLength" = 253,
        "pattern" = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
    ))]
    pub cidr_group_ref: Option<String>,

    /// Selects CiliumCIDRGroups by their labels; the prefixes of all of them are meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr_group_selector: Option<LabelSelector>,

    /// Prefixes that are not meant. Each must lie inside `cidr`, or inside a prefix of the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<crate::schema::Cidr>>")]
    pub except: Option<Vec<String>>,
}

/// A well-known set of peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Entity {
    /// Every peer, inside and outside the cluster.
    All,
    /// Everything outside the cluster, IPv4 and IPv6.
    World,
    /// Everything outside the cluster, IPv4 only.
    #[serde(rename = "world-ipv4")]
    WorldIpv4,
    /// Everything outside the cluster, IPv6 only.
    #[serde(rename = "world-ipv6")]
    WorldIpv6,
    /// Everything inside the cluster: pods, nodes, init, health, ingress, unmanaged.
    Cluster,
    /// Everything inside the cluster and the clusters that it is connected with.
    ClusterMesh,
    /// The local node, including its host-networked pods.
    Host,
    /// Endpoints whose identity is not resolved yet.
    Init,
    /// The cluster's ingress proxy.
    Ingress,
    /// Pods that are not networked by this CNI.
    Unmanaged,
    /// Every node of the cluster but the local one.
    RemoteNode,
    /// The endpoints that check the nodes' connectivity.
    Health,
    /// No peer.
    None,
    /// The Kubernetes API server, wherever it runs.
    KubeApiserver,
}

/// A service as destination. At least one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Services that a label selector selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k8s_service_selector: Option<ServiceBySelector>,
    /// One service, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k8s_service: Option<ServiceByName>,
}

/// Services, selected by the labels of the Service object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceBySelector {
    /// Selects Service objects by their labels.
    pub selector: LabelSelector,
    /// The namespace to look in. Without it, the policy's own (CiliumNetworkPolicy) or all
    /// (CiliumClusterwideNetworkPolicy).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A service by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceByName {
    /// The Service object's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// The Service object's namespace. Without it, the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Peers that a cloud provider names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Network interfaces of Amazon EC2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsGroup>,
}

/// Network interfaces of Amazon EC2; those that match all fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsGroup {
    /// Tags that the interface carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Ids of security groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_groups_ids: Option<Vec<String>>,
    /// Names of security groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_groups_names: Option<Vec<String>>,
    /// Deprecated: the region is that of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// A DNS name or a pattern of names. Exactly one of `matchName` and `matchPattern`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = [{"required": ["matchName"]}, {"required": ["matchPattern"]}]))]
pub struct FqdnSelector {
    /// One name, such as example.com. A trailing dot makes no difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 255, "pattern" = "^([-a-zA-Z0-9_]+[.]?)+$"))]
    pub match_name: Option<String>,

    /// A pattern: `*` stands for any characters of one label, `**.` at the front for one or more labels, and `*` alone
    /// for every name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 255, "pattern" = "^([-a-zA-Z0-9_*]+[.]?)+$"))]
    pub match_pattern: Option<String>,
}
