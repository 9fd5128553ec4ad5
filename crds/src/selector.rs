//! Label selectors, the same shape in every kind of this crate.
//!
//! Source: `meta/v1 LabelSelector`, and Cilium's rules on label sources.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Selects objects by their labels. All of `matchLabels` and `matchExpressions` must hold; an empty selector selects
/// everything.
///
/// In Cilium kinds a key may carry a label source before a colon (`k8s:app`, `reserved:host`, `any:app`); without one
/// any source matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct LabelSelector {
    /// Labels that must be there with exactly this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BTreeMap<String, crate::schema::LabelValue>>")]
    pub match_labels: Option<BTreeMap<String, String>>,

    /// Requirements on single labels, all of which must hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub match_expressions: Option<Vec<LabelSelectorRequirement>>,
}

/// Selects endpoints (pods and other workloads) by their labels.
pub type EndpointSelector = LabelSelector;

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelectorRequirement {
    /// The label's key.
    pub key: String,

    /// How the label is compared with `values`.
    pub operator: SelectorOperator,

    /// The values to compare with: at least one for In and NotIn, none for Exists and DoesNotExist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub values: Option<Vec<String>>,
}

/// How a selector requirement compares a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum SelectorOperator {
    /// The label is there and its value is one of the given.
    In,
    /// The label is missing, or its value is none of the given.
    NotIn,
    /// The label is there, whatever its value.
    Exists,
    /// The label is missing.
    DoesNotExist,
}
