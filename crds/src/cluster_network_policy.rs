//! `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
//!
//! Source: kubernetes-sigs/network-policy-api, `apis/v1alpha2` of bundle v0.2.0, experimental channel. Its short name
//! there is `cnp`, which is CiliumNetworkPolicy's: with both, `kubectl get cnp` warns of the other kind. So it has
//! another one here.

mod peer;
mod port;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    peer::{EgressPeer, IngressPeer, NamespacedPod},
    port::{Port, PortRange, Protocol, ProtocolPorts},
};
use crate::{condition::Condition, selector::LabelSelector};

/// What pods of the whole cluster may send and receive, set by the cluster's administrator: above the policies of the
/// namespaces (tier Admin) or below them (tier Baseline).
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "policy.networking.k8s.io",
    version = "v1alpha2",
    kind = "ClusterNetworkPolicy",
    plural = "clusternetworkpolicies",
    singular = "clusternetworkpolicy",
    shortname = "clusternp",
    status = "ClusterNetworkPolicyStatus",
    doc = "What pods of the whole cluster may send and receive, set by the cluster's administrator.",
    printcolumn = r#"{"name": "Tier", "type": "string", "jsonPath": ".spec.tier"}"#,
    printcolumn = r#"{"name": "Priority", "type": "string", "jsonPath": ".spec.priority"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    annotation("api-approved.kubernetes.io", "https://github.com/kubernetes-sigs/network-policy-api/pull/347"),
    annotation("policy.networking.k8s.io/bundle-version", "v0.2.0"),
    annotation("policy.networking.k8s.io/channel", "experimental"),
    derive = "PartialEq"
)]
pub struct ClusterNetworkPolicySpec {
    /// When the policy is asked. Admin: before the policies of the namespaces, which cannot override it. Baseline:
    /// after them, for pods that none of them selects. What no tier decides is allowed.
    pub tier: Tier,

    /// The policy's place in its tier: the lower, the earlier. Of two policies of the same tier and priority, either may
    /// decide; give each its own.
    #[schemars(extend("minimum" = 0, "maximum" = 1000))]
    pub priority: i32,

    /// The pods that the policy is about. Host-networked pods are never among them.
    pub subject: Subject,

    /// Rules for what the pods receive, in order: the first that matches decides. Without any, the policy does not touch
    /// what they receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxItems" = 25))]
    pub ingress: Option<Vec<IngressRule>>,

    /// Rules for what the pods send, in order: the first that matches decides. Without any, the policy does not touch
    /// what they send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxItems" = 25))]
    pub egress: Option<Vec<EgressRule>>,
}

/// When a policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum Tier {
    /// Before the policies of the namespaces.
    Admin,
    /// After the policies of the namespaces.
    Baseline,
}

/// What a rule does with the traffic that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum Action {
    /// It is accepted, with its replies and related ICMP; no other rule is asked.
    Accept,
    /// It is dropped; no other rule is asked.
    Deny,
    /// The rest of the tier is skipped and the next one decides.
    Pass,
}

/// The pods that a policy is about. Exactly one field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Subject {
    /// All pods of the namespaces that this selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// The pods that this selects in the namespaces that this selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
}

/// A rule for what pods receive.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressRule {
    /// The rule's name in flows and explanations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 100))]
    pub name: Option<String>,

    /// What happens with the traffic: Accept and Deny are final, Pass leaves the decision to the next tier.
    pub action: Action,

    /// The sources; any of them matches.
    #[schemars(extend("minItems" = 1, "maxItems" = 25))]
    pub from: Vec<IngressPeer>,

    /// The protocols and ports; any of them matches. Without any, all traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minItems" = 1, "maxItems" = 25))]
    pub protocols: Option<Vec<Protocol>>,
}

/// A rule for what pods send.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(self.to.exists(p, has(p.networks) || has(p.nodes) || has(p.domainNames)) && has(self.protocols) && \
             self.protocols.exists(p, has(p.destinationNamedPort)))",
    "message": "destinationNamedPort cannot be used with nodes, networks or domainNames: these have no named ports"
}]))]
pub struct EgressRule {
    /// The rule's name in flows and explanations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 100))]
    pub name: Option<String>,

    /// What happens with the traffic: Accept and Deny are final, Pass leaves the decision to the next tier. The rules of
    /// the destination apply besides.
    pub action: Action,

    /// The destinations; any of them matches.
    #[schemars(extend("minItems" = 1, "maxItems" = 25))]
    pub to: Vec<EgressPeer>,

    /// The protocols and ports; any of them matches. Without any, all traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minItems" = 1, "maxItems" = 25))]
    pub protocols: Option<Vec<Protocol>>,
}

/// What became of the policy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetworkPolicyStatus {
    /// Whether the policy was understood (Valid) and how far it is enforced (Enforced).
    #[serde(default)]
    #[schemars(
        with = "Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>",
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}
