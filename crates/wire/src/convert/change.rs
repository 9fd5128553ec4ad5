//! Changes, rows of any type and their keys.

use std::sync::Arc;

use axoneme_model::{
    Identity,
    rows::{RuleId, TableId},
};

use super::{At, Wire, WireError, name, required};
use crate::{
    change::{Row, RowChange, RowKey, RowType},
    pb,
};

impl Wire for RowType {
    type Message = i32;

    fn to_message(&self) -> i32 {
        let t = match self {
            Self::Config => pb::RowType::Config,
            Self::Node => pb::RowType::Node,
            Self::Identity => pb::RowType::Identity,
            Self::Rule => pb::RowType::Rule,
            Self::Table => pb::RowType::Table,
            Self::Service => pb::RowType::Service,
            Self::Ip => pb::RowType::Ip,
            Self::Endpoint => pb::RowType::Endpoint,
        };
        t.into()
    }

    fn from_message(m: i32) -> Result<Self, WireError> {
        Ok(match pb::RowType::try_from(m) {
            Ok(pb::RowType::Config) => Self::Config,
            Ok(pb::RowType::Node) => Self::Node,
            Ok(pb::RowType::Identity) => Self::Identity,
            Ok(pb::RowType::Rule) => Self::Rule,
            Ok(pb::RowType::Table) => Self::Table,
            Ok(pb::RowType::Service) => Self::Service,
            Ok(pb::RowType::Ip) => Self::Ip,
            Ok(pb::RowType::Endpoint) => Self::Endpoint,
            Ok(pb::RowType::Unspecified) | Err(_) => {
                return Err(WireError::new("type", format!("{m} is no row type that this version knows")));
            }
        })
    }
}

impl Wire for RowKey {
    type Message = pb::RowKey;

    fn to_message(&self) -> pb::RowKey {
        use pb::row_key::Key;
        let key = match self {
            Self::Config(n) => Key::Config(n.to_string()),
            Self::Node(n) => Key::Node(n.to_string()),
            Self::Identity(i) => Key::Identity(i.0),
            Self::Rule(r) => Key::Rule(r.0),
            Self::Table(t) => Key::Table(t.0),
            Self::Service(ns, n) => Key::Service(pb::ServiceKey { namespace: ns.to_string(), name: n.to_string() }),
            Self::Ip(p) => Key::Ip(p.to_message()),
            Self::Endpoint(u) => Key::Endpoint(u.to_string()),
        };
        pb::RowKey { key: Some(key) }
    }

    fn from_message(m: pb::RowKey) -> Result<Self, WireError> {
        use pb::row_key::Key;
        Ok(match required("key", m.key)? {
            Key::Config(n) => Self::Config(name("config", n)?),
            Key::Node(n) => Self::Node(name("node", n)?),
            Key::Identity(i) => Self::Identity(Identity(i)),
            Key::Rule(r) => Self::Rule(RuleId(r)),
            Key::Table(t) => Self::Table(TableId(t)),
            Key::Service(s) => Self::Service(s.namespace.into(), name("service.name", s.name)?),
            Key::Ip(p) => Self::Ip(Wire::from_message(p).at("ip")?),
            Key::Endpoint(u) => Self::Endpoint(name("endpoint", u)?),
        })
    }
}

impl Wire for Row {
    type Message = pb::Row;

    fn to_message(&self) -> pb::Row {
        use pb::row::Row as Message;
        let row = match self {
            Self::Config(r) => Message::Config(r.to_message()),
            Self::Node(r) => Message::Node(r.to_message()),
            Self::Identity(r) => Message::Identity(r.to_message()),
            Self::Rule(r) => Message::Rule(r.to_message()),
            Self::Table(r) => Message::Table(r.to_message()),
            Self::Service(r) => Message::Service(r.to_message()),
            Self::Ip(r) => Message::Ip(r.to_message()),
            Self::Endpoint(r) => Message::Endpoint(r.to_message()),
        };
        pb::Row { row: Some(row) }
    }

    fn from_message(m: pb::Row) -> Result<Self, WireError> {
        use pb::row::Row as Message;
        Ok(match required("row", m.row)? {
            Message::Config(r) => Self::Config(Arc::new(Wire::from_message(r).at("config")?)),
            Message::Node(r) => Self::Node(Wire::from_message(r).at("node")?),
            Message::Identity(r) => Self::Identity(Wire::from_message(r).at("identity")?),
            Message::Rule(r) => Self::Rule(Wire::from_message(r).at("rule")?),
            Message::Table(r) => Self::Table(Arc::new(Wire::from_message(r).at("table")?)),
            Message::Service(r) => Self::Service(Wire::from_message(r).at("service")?),
            Message::Ip(r) => Self::Ip(Arc::new(Wire::from_message(r).at("ip")?)),
            Message::Endpoint(r) => Self::Endpoint(Arc::new(Wire::from_message(r).at("endpoint")?)),
        })
    }
}

impl Wire for RowChange {
    type Message = pb::Change;

    fn to_message(&self) -> pb::Change {
        use pb::change::Change;
        let change = match self {
            Self::Upsert(r) => Change::Upsert(r.to_message()),
            Self::Remove(k) => Change::Remove(k.to_message()),
            Self::Patch(p) => Change::Patch(p.to_message()),
        };
        pb::Change { change: Some(change) }
    }

    fn from_message(m: pb::Change) -> Result<Self, WireError> {
        use pb::change::Change;
        Ok(match required("change", m.change)? {
            Change::Upsert(r) => Self::Upsert(Wire::from_message(r).at("upsert")?),
            Change::Remove(k) => Self::Remove(Wire::from_message(k).at("remove")?),
            Change::Patch(p) => Self::Patch(Wire::from_message(p).at("patch")?),
        })
    }
}
