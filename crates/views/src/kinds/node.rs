use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use axoneme_model::{Cidr, world::PlainLabels};
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Key, View, joined, label_map, schema_of};
use crate::resource::{Column, Resource};

static RESOURCE: Resource = Resource {
    plural: "nodes",
    singular: "node",
    kind: "Node",
    short: &["axno"],
    namespaced: false,
    columns: &[
        Column::new("Name", "string", 0, "Name of the node."),
        Column::new("State", "string", 0, "Whether its agent serves and has in force what it was told."),
        Column::new("Endpoints", "integer", 0, "Pods on the pod network that run on it."),
        Column::new("Revision", "string", 0, "Newest revision of the rows that is in force on it."),
        Column::new("Drift", "string", 0, "Rows that it could not put in force."),
        Column::new("Addresses", "string", 0, "Addresses of the node."),
        Column::new("Pod CIDRs", "string", 1, "Blocks that its pods take their addresses from."),
        Column::new("Why", "string", 1, "Why it is not ready."),
    ],
    fields: &["status.state"],
    about: "Node is a node's datapath as the operator sees it: whether its agent is connected and serves, which revision \
            of the rows is in force in its kernel, and what it could not put in force. Read-only.",
};

/// A node's datapath.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub name: Arc<str>,
    pub labels: PlainLabels,
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<Cidr>,
    pub endpoints: u32,
    /// Its agent has a stream to the operator.
    pub connected: bool,
    /// Its agent says that it serves.
    pub ready: bool,
    pub reasons: Vec<String>,
    pub capabilities: BTreeMap<String, String>,
    /// Newest revision in force. Who watches is not told of each one.
    pub acknowledged: Option<u64>,
    /// It lacks rows that were there a look ago.
    pub behind: bool,
    /// Rows that could not be put in force, and why.
    pub refused: Vec<String>,
    /// What does not get through between it and others, as probes tell.
    pub unreachable: Option<String>,
}

/// What is known of a node's datapath.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// `Ready`; `Behind`: it lacks rows for seconds; `Drifted`: rows could not be put in force; `NotReady`: its agent says
    /// why; `Disconnected`: its agent has no stream to the operator, and its kernel goes on with what it was told last.
    pub state: String,
    pub addresses: Vec<String>,
    /// Blocks that its pods take their addresses from.
    pub pod_cidrs: Vec<String>,
    /// Pods on the pod network that run on it.
    pub endpoints: u32,
    /// Whether its agent has a stream to the operator.
    pub connected: bool,
    /// Why it is not ready, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// Newest revision of the rows that is in force in its kernel, as the operator that leads counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Rows that it could not put in force, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
    /// What does not get through between it and other nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<String>,
    /// What its kernel and agent can do.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub capabilities: BTreeMap<String, String>,
}

impl Node {
    fn state(&self) -> &'static str {
        match self {
            Self { connected: false, .. } => "Disconnected",
            Self { ready: false, .. } => "NotReady",
            Self { refused, .. } if !refused.is_empty() => "Drifted",
            Self { behind: true, .. } => "Behind",
            _ => "Ready",
        }
    }
}

impl View for Node {
    fn resource() -> &'static Resource {
        &RESOURCE
    }

    fn schema() -> Schema {
        schema_of::<NodeStatus>()
    }

    fn key(&self) -> Key {
        (Arc::default(), self.name.clone())
    }

    fn is_same(&self, other: &Self) -> bool {
        let timeless = |n: &Self| Self { acknowledged: None, ..n.clone() };
        self == other || timeless(self) == timeless(other)
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(|v| &**v)
    }

    fn labels(&self) -> Map<String, Value> {
        label_map(self.labels.iter().map(|(k, v)| (&**k, &**v)))
    }

    fn field(&self, field: &str) -> Option<String> {
        (field == "status.state").then(|| self.state().to_owned())
    }

    fn status(&self) -> Value {
        json!(NodeStatus {
            state: self.state().to_owned(),
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            pod_cidrs: self.pod_cidrs.iter().map(ToString::to_string).collect(),
            endpoints: self.endpoints,
            connected: self.connected,
            reasons: self.reasons.clone(),
            revision: self.acknowledged,
            drift: self.refused.clone(),
            unreachable: self.unreachable.clone(),
            capabilities: self.capabilities.clone(),
        })
    }

    fn cells(&self) -> Vec<Value> {
        let why = self.reasons.iter().chain(&self.unreachable).chain(&self.refused);
        let drift = match self.refused.len() {
            0 => "none".to_owned(),
            1 => "1 row".to_owned(),
            n => format!("{n} rows"),
        };
        vec![
            json!(&*self.name),
            json!(self.state()),
            json!(self.endpoints),
            json!(self.acknowledged.map(|r| r.to_string()).unwrap_or_default()),
            json!(drift),
            json!(joined(&self.addresses)),
            json!(joined(&self.pod_cidrs)),
            json!(why.cloned().collect::<Vec<_>>().join("; ")),
        ]
    }
}
