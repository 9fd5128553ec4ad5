use std::{collections::BTreeMap, sync::Arc};

use axoneme_model::{
    ObjectRef,
    rows::{TableId, TableRow},
};
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Key, Stance, View, joined, schema_of};
use crate::resource::{Column, Resource};

static RESOURCE: Resource = Resource {
    plural: "policytables",
    singular: "policytable",
    kind: "PolicyTable",
    short: &["axpt"],
    namespaced: true,
    columns: &[
        Column::new("Name", "string", 0, "Id of the table."),
        Column::new("Endpoints", "integer", 0, "Pods of the namespace that it is enforced for."),
        Column::new("Ingress", "string", 0, "What becomes of ingress that no entry is about."),
        Column::new("Egress", "string", 0, "What becomes of egress that no entry is about."),
        Column::new("Entries", "integer", 0, "Entries of the table."),
        Column::new("Policies", "string", 0, "Policies that it enforces."),
    ],
    fields: &["status.ingress", "status.egress"],
    about: "PolicyTable is what nodes enforce for those pods of the namespace to which the same rules apply. A table \
            that pods of several namespaces share is shown in each of them. Read-only.",
};

/// A table, as far as one namespace has to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTable {
    pub namespace: Arc<str>,
    pub id: TableId,
    /// Pods of the namespace.
    pub endpoints: u32,
    /// The same for all namespaces.
    pub content: Arc<Content>,
}

/// What a table holds, without its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub ingress: Stance,
    pub egress: Stance,
    pub entries: usize,
    /// With the generation that each was compiled from.
    pub policies: BTreeMap<ObjectRef, i64>,
}

impl From<&TableRow> for Content {
    fn from(row: &TableRow) -> Self {
        Self {
            ingress: row.ingress_default.into(),
            egress: row.egress_default.into(),
            entries: row.entries.len(),
            policies: row.policies.clone(),
        }
    }
}

/// What is known of a table.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTableStatus {
    /// Pods of this namespace that it is enforced for. Which: `endpoints` with this table, by field selector
    /// `status.policyTable`.
    pub endpoints: u32,
    /// What becomes of ingress that no entry is about.
    pub ingress: Stance,
    /// What becomes of egress that no entry is about.
    pub egress: Stance,
    /// How many entries it has in the nodes' maps, which hold 16,384 of a table.
    pub entries: u64,
    /// Policies that it enforces.
    pub policies: Vec<PolicyOfTable>,
}

/// A policy that a table enforces.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyOfTable {
    pub kind: String,
    /// Empty for policies of the whole cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    pub name: String,
    /// Generation of the object that the table was compiled from.
    pub generation: i64,
}

/// Name of the table's object.
pub(super) fn name(id: TableId) -> String {
    format!("{:016x}", id.0)
}

impl View for PolicyTable {
    fn resource() -> &'static Resource {
        &RESOURCE
    }

    fn schema() -> Schema {
        schema_of::<PolicyTableStatus>()
    }

    fn key(&self) -> Key {
        (self.namespace.clone(), name(self.id).into())
    }

    fn is_same(&self, other: &Self) -> bool {
        self == other
    }

    fn label(&self, _: &str) -> Option<&str> {
        None
    }

    fn labels(&self) -> Map<String, Value> {
        Map::new()
    }

    fn field(&self, field: &str) -> Option<String> {
        match field {
            "status.ingress" => Some(self.content.ingress.text().to_owned()),
            "status.egress" => Some(self.content.egress.text().to_owned()),
            _ => None,
        }
    }

    fn status(&self) -> Value {
        let policies = self.content.policies.iter().map(|(object, generation)| PolicyOfTable {
            kind: object.kind.as_str().to_owned(),
            namespace: object.namespace.to_string(),
            name: object.name.to_string(),
            generation: *generation,
        });
        json!(PolicyTableStatus {
            endpoints: self.endpoints,
            ingress: self.content.ingress,
            egress: self.content.egress,
            entries: self.content.entries as u64,
            policies: policies.collect(),
        })
    }

    fn cells(&self) -> Vec<Value> {
        vec![
            json!(name(self.id)),
            json!(self.endpoints),
            json!(self.content.ingress.text()),
            json!(self.content.egress.text()),
            json!(self.content.entries),
            json!(joined(self.content.policies.keys())),
        ]
    }
}
