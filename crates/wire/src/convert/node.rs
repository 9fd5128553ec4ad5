//! Messages of a node.

use axoneme_model::{Identity, ObjectRef, rows::TableId};

use super::{At, Wire, WireError, address_bytes, addresses, list, name, required};
use crate::{
    change::RowKey,
    message::{EndpointReport, Hello, Nack, NodeEvent, NodeMessage, NodeReport, Proof, Resume},
    pb,
};

impl Wire for NodeMessage {
    type Message = pb::NodeMessage;

    fn to_message(&self) -> pb::NodeMessage {
        use pb::node_message::Body;
        let body = match self {
            Self::Hello(h) => Body::Hello(h.to_message()),
            Self::Ack(revision) => Body::Ack(pb::Ack { revision: *revision }),
            Self::Nack(n) => Body::Nack(n.to_message()),
            Self::Endpoint(e) => Body::Endpoint(e.to_message()),
            Self::Node(n) => Body::Node(n.to_message()),
            Self::Event(e) => Body::Event(e.to_message()),
        };
        pb::NodeMessage { body: Some(body) }
    }

    fn from_message(m: pb::NodeMessage) -> Result<Self, WireError> {
        use pb::node_message::Body;
        Ok(match required("body", m.body)? {
            Body::Hello(h) => Self::Hello(Wire::from_message(h).at("hello")?),
            Body::Ack(a) => Self::Ack(a.revision),
            Body::Nack(n) => Self::Nack(Wire::from_message(n).at("nack")?),
            Body::Endpoint(e) => Self::Endpoint(Wire::from_message(e).at("endpoint")?),
            Body::Node(n) => Self::Node(Wire::from_message(n).at("node")?),
            Body::Event(e) => Self::Event(Wire::from_message(e).at("event")?),
        })
    }
}

impl Wire for Hello {
    type Message = pb::Hello;

    fn to_message(&self) -> pb::Hello {
        pb::Hello {
            node: self.node.to_string(),
            agent_version: self.agent_version.clone(),
            protocol: self.protocol,
            resume: self.resume.map(|r| pb::Resume { epoch: r.epoch, revision: r.revision }),
        }
    }

    fn from_message(m: pb::Hello) -> Result<Self, WireError> {
        Ok(Self {
            node: name("node", m.node)?,
            agent_version: m.agent_version,
            protocol: m.protocol,
            resume: m.resume.map(|r| Resume { epoch: r.epoch, revision: r.revision }),
        })
    }
}

impl Wire for Nack {
    type Message = pb::Nack;

    fn to_message(&self) -> pb::Nack {
        pb::Nack { revision: self.revision, key: self.key.as_ref().map(Wire::to_message), reason: self.reason.clone() }
    }

    fn from_message(m: pb::Nack) -> Result<Self, WireError> {
        Ok(Self { revision: m.revision, key: m.key.map(RowKey::from_message).transpose().at("key")?, reason: m.reason })
    }
}

impl Wire for EndpointReport {
    type Message = pb::EndpointReport;

    fn to_message(&self) -> pb::EndpointReport {
        pb::EndpointReport {
            uid: self.uid.to_string(),
            namespace: self.namespace.to_string(),
            name: self.name.to_string(),
            container_id: self.container_id.to_string(),
            addresses: self.addresses.iter().copied().map(address_bytes).collect(),
            ready: self.ready,
            identity: self.identity.0,
            table: self.table.0,
            removed: self.removed,
        }
    }

    fn from_message(m: pb::EndpointReport) -> Result<Self, WireError> {
        Ok(Self {
            uid: name("uid", m.uid)?,
            namespace: m.namespace.into(),
            name: m.name.into(),
            container_id: m.container_id.into(),
            addresses: addresses("addresses", &m.addresses)?,
            ready: m.ready,
            identity: Identity(m.identity),
            table: TableId(m.table),
            removed: m.removed,
        })
    }
}

impl Wire for NodeReport {
    type Message = pb::NodeReport;

    fn to_message(&self) -> pb::NodeReport {
        pb::NodeReport {
            ready: self.ready,
            reasons: self.reasons.clone(),
            addresses: self.addresses.iter().copied().map(address_bytes).collect(),
            capabilities: self.capabilities.clone(),
            blocks_version: self.blocks_version,
            released: self.released.iter().map(Wire::to_message).collect(),
            proof: match self.proof {
                Proof::Unasked => pb::Proof::Unspecified,
                Proof::Proven => pb::Proof::Proven,
                Proof::Pending => pb::Proof::Pending,
                Proof::Refuted(_) => pb::Proof::Refuted,
            }
            .into(),
            unproven: if let Proof::Refuted(why) = &self.proof { why.clone() } else { String::new() },
        }
    }

    fn from_message(m: pb::NodeReport) -> Result<Self, WireError> {
        let proof = match m.proof() {
            pb::Proof::Unspecified => Proof::Unasked,
            pb::Proof::Proven => Proof::Proven,
            pb::Proof::Pending => Proof::Pending,
            pb::Proof::Refuted => Proof::Refuted(m.unproven.clone()),
        };
        Ok(Self {
            proof,
            ready: m.ready,
            reasons: m.reasons,
            addresses: addresses("addresses", &m.addresses)?,
            capabilities: m.capabilities,
            blocks_version: m.blocks_version,
            released: list("released", m.released)?.into_iter().collect(),
        })
    }
}

impl Wire for NodeEvent {
    type Message = pb::NodeEvent;

    fn to_message(&self) -> pb::NodeEvent {
        pb::NodeEvent {
            warning: self.warning,
            reason: self.reason.clone(),
            message: self.message.clone(),
            object: self.object.as_ref().map(Wire::to_message),
        }
    }

    fn from_message(m: pb::NodeEvent) -> Result<Self, WireError> {
        Ok(Self {
            warning: m.warning,
            reason: m.reason,
            message: m.message,
            object: m.object.map(ObjectRef::from_message).transpose().at("object")?,
        })
    }
}
