use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Authentication, CidrRule, Entity, Group, IcmpRule, PortDenyRule, PortRule};
use crate::selector::{EndpointSelector, LabelSelector};

/// One thing that endpoints may receive: it allows what comes from one of the sources AND goes to one of the ports.
///
/// An entry names at most one kind of source. Without one, any source matches.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressRule {
    /// Source endpoints, selected by their labels. A selector without a namespace label means the policy's own namespace
    /// (CiliumNetworkPolicy) or any namespace (CiliumClusterwideNetworkPolicy). An empty list matches no source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_endpoints: Option<Vec<EndpointSelector>>,

    /// Removed: the additional-requirement form of fromEndpoints. Only an empty list is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<String>>", extend("maxItems" = 0))]
    pub from_requires: Option<Vec<LabelSelector>>,

    /// Source prefixes outside the cluster, such as 192.0.2.0/24 or 2001:db8::/32. Addresses of pods and nodes are not meant,
    /// unless the CIDR match mode says so. Use entities or selectors for those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "fromCIDR")]
    #[schemars(with = "Option<Vec<crate::schema::Cidr>>")]
    pub from_cidr: Option<Vec<String>>,

    /// Source prefixes with exceptions, and groups of prefixes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "fromCIDRSet")]
    pub from_cidr_set: Option<Vec<CidrRule>>,

    /// Well-known sources: world, cluster, host, kube-apiserver and others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_entities: Option<Vec<Entity>>,

    /// Sources that a cloud provider names: security groups, tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_groups: Option<Vec<Group>>,

    /// Source nodes, selected by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_nodes: Option<Vec<LabelSelector>>,

    /// Destination ports, and rules for what is spoken on them. Without it (and without icmps) all ports and protocols
    /// are allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortRule>>,

    /// ICMP messages. Cannot be combined with toPorts in the same entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmps: Option<Vec<IcmpRule>>,

    /// Whether the connection needs mutual authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
}

/// One thing that endpoints must not receive: it denies what comes from one of the sources AND goes to one of the ports.
///
/// An entry names at most one kind of source. Without one, any source matches.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressDenyRule {
    /// Source endpoints, selected by their labels. A selector without a namespace label means the policy's own namespace
    /// (CiliumNetworkPolicy) or any namespace (CiliumClusterwideNetworkPolicy). An empty list matches no source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_endpoints: Option<Vec<EndpointSelector>>,

    /// Removed: the additional-requirement form of fromEndpoints. Only an empty list is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<String>>", extend("maxItems" = 0))]
    pub from_requires: Option<Vec<LabelSelector>>,

    /// Source prefixes outside the cluster, such as 192.0.2.0/24 or 2001:db8::/32. Addresses of pods and nodes are not meant,
    /// unless the CIDR match mode says so. Use entities or selectors for those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "fromCIDR")]
    #[schemars(with = "Option<Vec<crate::schema::Cidr>>")]
    pub from_cidr: Option<Vec<String>>,

    /// Source prefixes with exceptions, and groups of prefixes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "fromCIDRSet")]
    pub from_cidr_set: Option<Vec<CidrRule>>,

    /// Well-known sources: world, cluster, host, kube-apiserver and others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_entities: Option<Vec<Entity>>,

    /// Sources that a cloud provider names: security groups, tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_groups: Option<Vec<Group>>,

    /// Source nodes, selected by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_nodes: Option<Vec<LabelSelector>>,

    /// Destination ports. Without it (and without icmps) all ports and protocols are denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortDenyRule>>,

    /// ICMP messages. Cannot be combined with toPorts in the same entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmps: Option<Vec<IcmpRule>>,
}
