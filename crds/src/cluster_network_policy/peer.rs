use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::LabelSelector;

/// A source. Exactly one field.
///
/// An object that sets none comes from a newer version of the API: an Accept rule then matches nothing by it, a Deny or
/// Pass rule denies everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct IngressPeer {
    /// All pods of the namespaces that this selects, without host-networked pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,

    /// The pods that this selects in the namespaces that this selects, without host-networked pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
}

/// A destination. Exactly one field.
///
/// An object that sets none comes from a newer version of the API: an Accept rule then matches nothing by it, a Deny or
/// Pass rule denies everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct EgressPeer {
    /// All pods of the namespaces that this selects, without host-networked pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,

    /// The pods that this selects in the namespaces that this selects, without host-networked pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,

    /// The nodes that this selects, by the addresses in their status. Empty selects all nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<LabelSelector>,

    /// Prefixes, such as 10.0.0.0/8 or fd00::/8. Meant for what lies outside the cluster, but pods and nodes with such
    /// an address match too; a Pass rule for pods in front keeps them out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Option<Vec<crate::schema::CelCidr>>",
        extend("minItems" = 1, "maxItems" = 25, "x-kubernetes-list-type" = "set")
    )]
    pub networks: Option<Vec<String>>,

    /// DNS names; only in Accept rules. `*.` at the front stands for one or more labels: *.kubernetes.io means
    /// www.kubernetes.io and a.b.kubernetes.io, not kubernetes.io itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Option<Vec<crate::schema::DomainName>>",
        extend("minItems" = 1, "maxItems" = 25, "x-kubernetes-list-type" = "set")
    )]
    pub domain_names: Option<Vec<String>>,
}

/// Pods of several namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedPod {
    /// The namespaces, by their labels. Empty selects all.
    #[serde(default)]
    pub namespace_selector: LabelSelector,
    /// The pods, by their labels. Empty selects all.
    pub pod_selector: LabelSelector,
}
