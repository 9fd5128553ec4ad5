//! Services.

use axoneme_model::rows::{Backend, Frontend, ServiceRow};

use super::{Wire, WireError, address, address_bytes, list, messages, name, narrow, protocol};
use crate::pb;

impl Wire for ServiceRow {
    type Message = pb::Service;

    fn to_message(&self) -> pb::Service {
        pb::Service {
            namespace: self.namespace.to_string(),
            name: self.name.to_string(),
            frontends: messages(&self.frontends),
            affinity_seconds: self.affinity_seconds,
            internal_local: self.internal_local,
        }
    }

    fn from_message(m: pb::Service) -> Result<Self, WireError> {
        Ok(Self {
            namespace: m.namespace.into(),
            name: name("name", m.name)?,
            frontends: list("frontends", m.frontends)?,
            affinity_seconds: m.affinity_seconds,
            internal_local: m.internal_local,
        })
    }
}

impl Wire for Frontend {
    type Message = pb::Frontend;

    fn to_message(&self) -> pb::Frontend {
        pb::Frontend {
            address: address_bytes(self.address),
            protocol: self.protocol.0.into(),
            port: self.port.into(),
            backends: messages(&self.backends),
        }
    }

    fn from_message(m: pb::Frontend) -> Result<Self, WireError> {
        Ok(Self {
            address: address("address", &m.address)?,
            protocol: protocol("protocol", m.protocol)?,
            port: narrow("port", m.port)?,
            backends: list("backends", m.backends)?,
        })
    }
}

impl Wire for Backend {
    type Message = pb::Backend;

    fn to_message(&self) -> pb::Backend {
        pb::Backend {
            address: address_bytes(self.address),
            port: self.port.into(),
            terminating: self.terminating,
            node: self.node.to_string(),
        }
    }

    fn from_message(m: pb::Backend) -> Result<Self, WireError> {
        Ok(Self {
            address: address("address", &m.address)?,
            port: narrow("port", m.port)?,
            terminating: m.terminating,
            node: m.node.into(),
        })
    }
}
