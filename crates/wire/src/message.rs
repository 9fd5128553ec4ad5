//! What a node tells the operator.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use axoneme_model::{Cidr, Identity, ObjectRef, rows::TableId};

use crate::change::RowKey;

/// First message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Name of the Node object. The operator compares it with the node that the token is bound to.
    pub node: Arc<str>,
    pub agent_version: String,
    /// Newest protocol that the agent speaks.
    pub protocol: u32,
    /// Where the node left off; none asks for snapshots.
    pub resume: Option<Resume>,
}

/// A point in one operator's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Life of one operator process.
    pub epoch: u64,
    pub revision: u64,
}

/// A row that the node could not put in force. The operator shows it in the condition of the policies concerned; the
/// node keeps its last-good state for the row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    pub revision: u64,
    /// None: the row could not be named.
    pub key: Option<RowKey>,
    pub reason: String,
}

/// State of one endpoint as the node enforces it. Sent on each change and for all endpoints after each connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointReport {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub container_id: Arc<str>,
    pub addresses: BTreeSet<IpAddr>,
    /// Addresses, policy and programs are live.
    pub ready: bool,
    pub identity: Identity,
    /// Table in force.
    pub table: TableId,
    /// The endpoint is gone from the node; the other fields hold its last state.
    pub removed: bool,
}

/// State of the node. Sent on each change and after each connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeReport {
    pub ready: bool,
    /// Why it isn't ready, one sentence each.
    pub reasons: Vec<String>,
    /// Addresses the node holds on its own pod-facing interfaces.
    pub addresses: Vec<IpAddr>,
    /// What the node can do: name → value.
    pub capabilities: BTreeMap<String, String>,
    /// The version of [`axoneme_model::rows::BlockUse`] that `released` is about.
    pub blocks_version: u64,
    /// Of its `releasing`, the blocks of which no address is in use or at rest.
    pub released: BTreeSet<Cidr>,
    /// Whether packets get through to other nodes and pods.
    pub proof: Proof,
}

/// Whether packets get through from a node to others and to pods, as probes tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Proof {
    /// Nobody probes: nothing is known against it.
    #[default]
    Unasked,
    Proven,
    /// Not probed yet.
    Pending,
    /// What does not get through.
    Refuted(String),
}

/// Something a person should know; the leader makes an Event of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEvent {
    pub warning: bool,
    /// CamelCase.
    pub reason: String,
    pub message: String,
    /// None: the node itself.
    pub object: Option<ObjectRef>,
}

/// Any message of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeMessage {
    Hello(Hello),
    /// All rows up to and with this revision are in force, but for those refused by [`Nack`].
    Ack(u64),
    Nack(Nack),
    Endpoint(EndpointReport),
    Node(NodeReport),
    Event(NodeEvent),
}
