//! `cilium.io/v2` CiliumIdentity.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::resource::{impl_resource, impl_serialize};

/// A set of labels that policies tell apart, with the number that stands for it in the datapath. The object's name is
/// that number. Written by the operator; not meant to be edited.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CiliumIdentity {
    /// Standard object metadata.
    #[serde(default)]
    #[schemars(skip)]
    pub metadata: ObjectMeta,

    /// The labels, each with its source before a colon: k8s:app, k8s:io.kubernetes.pod.namespace, ... The labels in
    /// metadata are a copy for selecting with kubectl; these are the ones that count.
    #[serde(rename = "security-labels")]
    pub security_labels: BTreeMap<String, String>,
}

impl_resource!(CiliumIdentity {
    group: "cilium.io",
    version: "v2",
    plural: "ciliumidentities",
    singular: "ciliumidentity",
    scope: ClusterResourceScope "Cluster",
    short_names: ["ciliumid"],
    categories: ["cilium"],
    columns: [
        (
            "Namespace",
            "string",
            "The namespace of the pods that have this identity.",
            ".metadata.labels.io\\.kubernetes\\.pod\\.namespace"
        ),
        ("Age", "date", "", ".metadata.creationTimestamp")
    ],
});
impl_serialize!(CiliumIdentity, required: [security_labels as "security-labels"], optional: []);
