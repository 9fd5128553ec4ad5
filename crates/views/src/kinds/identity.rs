use std::sync::Arc;

use axoneme_model::{
    Labels,
    labels::{LabelKey, Source, names},
};
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Key, View, joined, label_map, schema_of};
use crate::resource::{Column, Resource};

static RESOURCE: Resource = Resource {
    plural: "identities",
    singular: "identity",
    kind: "Identity",
    short: &["axid"],
    namespaced: false,
    columns: &[
        Column::new("Name", "string", 0, "Number of the identity."),
        Column::new("Namespace", "string", 0, "Namespace of its pods."),
        Column::new("Service Account", "string", 0, "ServiceAccount of its pods."),
        Column::new("Endpoints", "integer", 0, "Pods that have it."),
        Column::new("Labels", "string", 0, "Labels that make it."),
    ],
    fields: &["status.namespace"],
    about: "Identity is what policy can tell apart about pods: the labels that some policy reads, namespace and \
            ServiceAccount, behind one number. Read-only.",
};

/// A number with its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub id: axoneme_model::Identity,
    pub labels: Labels,
    pub endpoints: u32,
}

/// What is known of an identity.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdentityStatus {
    /// The number: below 256 what is reserved, such as 1 for a pod's own node and 2 for the world.
    pub id: u32,
    /// Namespace of its pods; empty for what is reserved.
    pub namespace: String,
    /// Labels that make it, each with its source.
    pub labels: Vec<String>,
    /// How many pods have it.
    pub endpoints: u32,
}

impl Identity {
    fn of_pods(&self, name: &str) -> &str {
        self.labels.get(&LabelKey::k8s(name)).unwrap_or_default()
    }
}

impl View for Identity {
    fn resource() -> &'static Resource {
        &RESOURCE
    }

    fn schema() -> Schema {
        schema_of::<IdentityStatus>()
    }

    fn key(&self) -> Key {
        (Arc::default(), self.id.0.to_string().into())
    }

    fn is_same(&self, other: &Self) -> bool {
        self == other
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(&LabelKey::k8s(key))
    }

    fn labels(&self) -> Map<String, Value> {
        label_map(self.labels.iter().filter(|(k, _)| k.source == Source::K8s).map(|(k, v)| (&*k.name, v)))
    }

    fn field(&self, field: &str) -> Option<String> {
        (field == "status.namespace").then(|| self.labels.namespace().unwrap_or_default().to_owned())
    }

    fn status(&self) -> Value {
        json!(IdentityStatus {
            id: self.id.0,
            namespace: self.labels.namespace().unwrap_or_default().to_owned(),
            labels: self.labels.to_strings(),
            endpoints: self.endpoints,
        })
    }

    fn cells(&self) -> Vec<Value> {
        vec![
            json!(self.id.0.to_string()),
            json!(self.labels.namespace().unwrap_or_default()),
            json!(self.of_pods(names::SERVICE_ACCOUNT)),
            json!(self.endpoints),
            json!(joined(self.labels.to_strings())),
        ]
    }
}
