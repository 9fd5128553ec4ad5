//! `cilium.io/v2` CiliumNodeConfig.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{condition::Condition, selector::LabelSelector};

/// Settings of some nodes, in place of those of the whole cluster. It counts in the namespace of Axoneme and in
/// `kube-system`.
///
/// Where several select a node they are laid over the settings of the cluster in the order of their names, and the last
/// one that has a setting decides.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "cilium.io",
    version = "v2",
    kind = "CiliumNodeConfig",
    plural = "ciliumnodeconfigs",
    singular = "ciliumnodeconfig",
    category = "cilium",
    namespaced,
    status = "CiliumNodeConfigStatus",
    doc = "Settings of some nodes, in place of those of the whole cluster.",
    printcolumn = r#"{"name": "Valid", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Valid\")].status"}"#,
    printcolumn = r#"{"name": "Applied", "type": "integer", "description": "Selected nodes that run with these settings.", "jsonPath": ".status.nodes.applied"}"#,
    printcolumn = r#"{"name": "Nodes", "type": "integer", "description": "Nodes that are selected.", "jsonPath": ".status.nodes.selected"}"#,
    printcolumn = r#"{"name": "Settings", "type": "string", "description": "What differs from the settings of the cluster.", "jsonPath": ".status.differ"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    derive = "Default",
    derive = "PartialEq"
)]
pub struct CiliumNodeConfigSpec {
    /// Settings by name: keys of Cilium's ConfigMap, such as `mtu` or `devices`, or paths of AxonemeConfig, such as
    /// `spec.agent.logLevel`. All values are text. A setting that all nodes must have alike, or that there is not, makes
    /// the whole object invalid.
    pub defaults: BTreeMap<String, String>,

    /// The nodes, by their labels. Empty: all nodes. Without it: no node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
}

/// What became of the settings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CiliumNodeConfigStatus {
    /// Whether the settings were understood (Valid) and whether the selected nodes run with them (Applied).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Option<Vec<Condition>>,

    /// The generation of the object that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The nodes that are selected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<SelectedNodes>,

    /// The settings in which a selected node differs from the cluster because of this object, with their values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub differ: Option<Vec<String>>,
}

/// How many nodes an object selects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SelectedNodes {
    /// Nodes that are selected.
    pub selected: i64,
    /// Of these, those that run with what the object says of them.
    pub applied: i64,
}
