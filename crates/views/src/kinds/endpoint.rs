use std::sync::Arc;

use axoneme_model::{
    Labels,
    rows::{EndpointRow, TableId},
    world::Pod,
};
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Key, Stance, View, joined, label_map, schema_of};
use crate::resource::{Column, Resource};

static RESOURCE: Resource = Resource {
    plural: "endpoints",
    singular: "endpoint",
    kind: "Endpoint",
    short: &["axep"],
    namespaced: true,
    columns: &[
        Column::new("Name", "string", 0, "Name of the pod."),
        Column::new("State", "string", 0, "Ready once it has an address and an identity."),
        Column::new("Identity", "integer", 0, "Number by which policy knows the pod."),
        Column::new("Ingress", "string", 0, "What becomes of ingress that no rule is about."),
        Column::new("Egress", "string", 0, "What becomes of egress that no rule is about."),
        Column::new("Addresses", "string", 0, "Addresses of the pod."),
        Column::new("Node", "string", 0, "Node that the pod runs on."),
        Column::new("Table", "string", 1, "Policy table of the pod."),
        Column::new("Service Account", "string", 1, "ServiceAccount of the pod."),
        Column::new("Labels", "string", 1, "Labels that policies can go by."),
    ],
    fields: &["status.node", "status.state", "status.identity", "status.policyTable", "status.serviceAccount"],
    about: "Endpoint is a pod on the pod network as the operator sees it: its addresses, its identity, and the policy \
            table that its node enforces for it. Read-only.",
};

/// A pod on the pod network.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// With the addresses that its node has reported.
    pub pod: Arc<Pod>,
    /// None: not compiled yet.
    pub policy: Option<EndpointPolicy>,
}

/// What policy makes of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPolicy {
    pub identity: axoneme_model::Identity,
    pub table: TableId,
    pub labels: Labels,
    pub pools: [Arc<str>; 2],
    pub ingress: Stance,
    pub egress: Stance,
}

impl EndpointPolicy {
    /// Of the pod's row, with the stances of its table.
    #[must_use]
    pub fn new(row: &EndpointRow, [ingress, egress]: [Stance; 2]) -> Self {
        Self {
            identity: row.identity,
            table: row.table,
            labels: row.labels.clone(),
            pools: [row.pool_v4.clone(), row.pool_v6.clone()],
            ingress,
            egress,
        }
    }
}

/// What is known of a pod.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// `Ready`: it has an address, and an identity that policy knows. `Waiting`: not yet.
    pub state: String,
    /// Addresses of the pod, as its node reports them.
    pub addresses: Vec<String>,
    /// Node that the pod runs on. Empty until it is scheduled.
    pub node: String,
    pub service_account: String,
    /// Number by which policy knows the pod: see `identities`. 0: none yet.
    pub identity: u32,
    /// Labels that policies can go by, each with its source: the pod's own, its namespace's, ServiceAccount and cluster.
    /// Those that some policy reads make its identity: see `identities`.
    pub security_labels: Vec<String>,
    /// Name of the policy table that is enforced for the pod: see `policytables` of its namespace.
    pub policy_table: String,
    /// What becomes of ingress that no rule is about.
    pub ingress: Stance,
    /// What becomes of egress that no rule is about.
    pub egress: Stance,
    /// Pools that the pod takes its addresses from, IPv4 and IPv6, where pools are chosen per pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<String>,
}

impl Endpoint {
    fn state(&self) -> &'static str {
        if self.policy.is_some() && !self.pod.addresses.is_empty() { "Ready" } else { "Waiting" }
    }

    fn identity(&self) -> u32 {
        self.policy.as_ref().map_or(0, |p| p.identity.0)
    }

    fn table(&self) -> String {
        self.policy.as_ref().map(|p| super::policy_table::name(p.table)).unwrap_or_default()
    }

    fn stances(&self) -> [Stance; 2] {
        self.policy.as_ref().map_or([Stance::Unknown; 2], |p| [p.ingress, p.egress])
    }
}

impl View for Endpoint {
    fn resource() -> &'static Resource {
        &RESOURCE
    }

    fn schema() -> Schema {
        schema_of::<EndpointStatus>()
    }

    fn key(&self) -> Key {
        (self.pod.namespace.clone(), self.pod.name.clone())
    }

    fn uid(&self) -> Option<&str> {
        Some(&self.pod.uid)
    }

    fn is_same(&self, other: &Self) -> bool {
        self.policy == other.policy && (Arc::ptr_eq(&self.pod, &other.pod) || self.pod == other.pod)
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.pod.labels.get(key).map(|v| &**v)
    }

    fn labels(&self) -> Map<String, Value> {
        label_map(self.pod.labels.iter().map(|(k, v)| (&**k, &**v)))
    }

    fn field(&self, field: &str) -> Option<String> {
        Some(match field {
            "status.node" => self.pod.node.to_string(),
            "status.state" => self.state().to_owned(),
            "status.identity" => self.identity().to_string(),
            "status.policyTable" => self.table(),
            "status.serviceAccount" => self.pod.service_account.to_string(),
            _ => return None,
        })
    }

    fn status(&self) -> Value {
        let pools = self.policy.iter().flat_map(|p| p.pools.iter()).filter(|p| !p.is_empty());
        let [ingress, egress] = self.stances();
        json!(EndpointStatus {
            state: self.state().to_owned(),
            addresses: self.pod.addresses.iter().map(ToString::to_string).collect(),
            node: self.pod.node.to_string(),
            service_account: self.pod.service_account.to_string(),
            identity: self.identity(),
            security_labels: self.policy.as_ref().map(|p| p.labels.to_strings()).unwrap_or_default(),
            policy_table: self.table(),
            ingress,
            egress,
            pools: pools.map(ToString::to_string).collect(),
        })
    }

    fn cells(&self) -> Vec<Value> {
        let [ingress, egress] = self.stances();
        vec![
            json!(&*self.pod.name),
            json!(self.state()),
            json!(self.identity()),
            json!(ingress.text()),
            json!(egress.text()),
            json!(joined(self.pod.addresses.iter())),
            json!(&*self.pod.node),
            json!(self.table()),
            json!(&*self.pod.service_account),
            json!(self.policy.as_ref().map(|p| joined(p.labels.to_strings())).unwrap_or_default()),
        ]
    }
}
