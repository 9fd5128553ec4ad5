//! `cilium.io/v2` CiliumNetworkPolicy.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    policy::{PolicyStatus, Rule},
    resource::{impl_resource, impl_serialize},
};

/// What pods of this namespace may send and receive, on the network and above it. Either `spec` or `specs`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.spec) || has(self.specs)", "message": "spec or specs must be set"},
    {
        "rule": "!has(self.spec) || !has(self.spec.nodeSelector)",
        "message": "nodeSelector is for CiliumClusterwideNetworkPolicy; a CiliumNetworkPolicy has endpointSelector",
        "fieldPath": ".spec.nodeSelector"
    }
]))]
pub struct CiliumNetworkPolicy {
    /// Standard object metadata.
    #[serde(default)]
    #[schemars(skip)]
    pub metadata: ObjectMeta,

    /// The policy, as one rule.
    #[serde(default)]
    pub spec: Option<Rule>,

    /// The policy, as a list of rules.
    #[serde(default)]
    pub specs: Option<Vec<Rule>>,

    /// What became of the policy.
    #[serde(default)]
    pub status: Option<PolicyStatus>,
}

impl_resource!(CiliumNetworkPolicy {
    group: "cilium.io",
    version: "v2",
    plural: "ciliumnetworkpolicies",
    singular: "ciliumnetworkpolicy",
    scope: NamespaceResourceScope "Namespaced",
    short_names: ["cnp", "ciliumnp"],
    categories: ["cilium", "ciliumpolicy"],
    columns: [
        ("Age", "date", "", ".metadata.creationTimestamp"),
        ("Valid", "string", "Whether the policy was understood.", ".status.conditions[?(@.type=='Valid')].status"),
        ("Enforced", "string", "Whether every node enforces the policy.", ".status.conditions[?(@.type=='Enforced')].status")

    ],
});
impl_serialize!(CiliumNetworkPolicy, required: [], optional: [spec, specs, status]);

impl CiliumNetworkPolicy {
    /// All rules of the policy: that of `spec`, then those of `specs`.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.spec.iter().chain(self.specs.iter().flatten())
    }
}
