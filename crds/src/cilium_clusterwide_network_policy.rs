//! `cilium.io/v2` CiliumClusterwideNetworkPolicy.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    policy::{PolicyStatus, Rule},
    resource::{impl_resource, impl_serialize},
};

/// What pods of any namespace, or nodes, may send and receive, on the network and above it. Either `spec` or `specs`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.spec) || has(self.specs)", "message": "spec or specs must be set"}
]))]
pub struct CiliumClusterwideNetworkPolicy {
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

impl_resource!(CiliumClusterwideNetworkPolicy {
    group: "cilium.io",
    version: "v2",
    plural: "ciliumclusterwidenetworkpolicies",
    singular: "ciliumclusterwidenetworkpolicy",
    scope: ClusterResourceScope "Cluster",
    short_names: ["ccnp"],
    categories: ["cilium", "ciliumpolicy"],
    columns: [

        ("Valid", "string", "Whether the policy was understood.", ".status.conditions[?(@.type=='Valid')].status"),
        ("Enforced", "string", "Whether every node enforces the policy.", ".status.conditions[?(@.type=='Enforced')].status")
        , ("Age", "date", "", ".metadata.creationTimestamp")
    ],
});
impl_serialize!(CiliumClusterwideNetworkPolicy, required: [], optional: [spec, specs, status]);

impl CiliumClusterwideNetworkPolicy {
    /// All rules of the policy: that of `spec`, then those of `specs`.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.spec.iter().chain(self.specs.iter().flatten())
    }
}
