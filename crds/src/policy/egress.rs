use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Authentication, CidrRule, Entity, FqdnSelector, Group, IcmpRule, PortDenyRule, PortRule, Service};
use crate::selector::{EndpointSelector, LabelSelector};

/// One thing that endpoints may send: it allows what goes to one of the destinations AND to one of the ports.
///
/// An entry names at most one kind of destination. Without one, any destination matches.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressRule {
    /// Destination endpoints, selected by their labels. A selector without a namespace label means the policy's own namespace
    /// (CiliumNetworkPolicy) or any namespace (CiliumClusterwideNetworkPolicy). An empty list matches no destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_endpoints: Option<Vec<EndpointSelector>>,

    /// Removed: the additional-requirement form of toEndpoints. Only an empty list is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<String>>", extend("maxItems" = 0))]
    pub to_requires: Option<Vec<LabelSelector>>,

    /// Destination prefixes outside the cluster, such as 192.0.2.0/24 or 2001:db8::/32. Addresses of pods and nodes are not meant,
    /// unless the CIDR match mode says so. Use entities or selectors for those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "toCIDR")]
    #[schemars(with = "Option<Vec<crate::schema::Cidr>>")]
    pub to_cidr: Option<Vec<String>>,

    /// Destination prefixes with exceptions, and groups of prefixes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "toCIDRSet")]
    pub to_cidr_set: Option<Vec<CidrRule>>,

    /// Well-known destinations: world, cluster, host, kube-apiserver and others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_entities: Option<Vec<Entity>>,

    /// Destination services of the cluster, by name or by label. Their backends are meant, on the service's target ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_services: Option<Vec<Service>>,

    /// Destinations that a cloud provider names: security groups, tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_groups: Option<Vec<Group>>,

    /// Destination nodes, selected by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_nodes: Option<Vec<LabelSelector>>,

    /// Destination ports, and rules for what is spoken on them. Without it (and without icmps) all ports and protocols
    /// are allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortRule>>,

    /// Destinations by DNS name: the addresses that pods learned for these names. Cannot be combined with another kind
    /// of destination in the same entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "toFQDNs")]
    pub to_fqdns: Option<Vec<FqdnSelector>>,

    /// ICMP messages. Cannot be combined with toPorts in the same entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmps: Option<Vec<IcmpRule>>,

    /// Whether the connection needs mutual authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
}

/// One thing that endpoints must not send: it denies what goes to one of the destinations AND to one of the ports.
///
/// An entry names at most one kind of destination. Without one, any destination matches.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressDenyRule {
    /// Destination endpoints, selected by their labels. A selector without a namespace label means the policy's own namespace
    /// (CiliumNetworkPolicy) or any namespace (CiliumClusterwideNetworkPolicy). An empty list matches no destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_endpoints: Option<Vec<EndpointSelector>>,

    /// Removed: the additional-requirement form of toEndpoints. Only an empty list is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<String>>", extend("maxItems" = 0))]
    pub to_requires: Option<Vec<LabelSelector>>,

    /// Destination prefixes outside the cluster, such as 192.0.2.0/24 or 2001:db8::/32. Addresses of pods and nodes are not meant,
    /// unless the CIDR match mode says so. Use entities or selectors for those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "toCIDR")]
    #[schemars(with = "Option<Vec<crate::schema::Cidr>>")]
    pub to_cidr: Option<Vec<String>>,

    /// Destination prefixes with exceptions, and groups of prefixes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "toCIDRSet")]
    pub to_cidr_set: Option<Vec<CidrRule>>,

    /// Well-known destinations: world, cluster, host, kube-apiserver and others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_entities: Option<Vec<Entity>>,

    /// Destination services of the cluster, by name or by label. Their backends are meant, on the service's target ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_services: Option<Vec<Service>>,

    /// Destinations that a cloud provider names: security groups, tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_groups: Option<Vec<Group>>,

    /// Destination nodes, selected by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_nodes: Option<Vec<LabelSelector>>,

    /// Destination ports. Without it (and without icmps) all ports and protocols are denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortDenyRule>>,

    /// ICMP messages. Cannot be combined with toPorts in the same entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmps: Option<Vec<IcmpRule>>,
}
