//! Rules and policy tables.

use std::collections::BTreeMap;

use axoneme_model::{
    Direction, ObjectRef, PeerClass, RuleRef,
    rows::{DirectionDefault, PolicyEntry, PolicyKey, RuleId, RuleRow, TableId, TableRow},
};

use super::{At, Wire, WireError, list, narrow, protocol, required};
use crate::{change::TablePatch, pb};

impl Wire for RuleRow {
    type Message = pb::Rule;

    fn to_message(&self) -> pb::Rule {
        pb::Rule {
            id: self.id.0,
            object: Some(self.rule.object.to_message()),
            path: self.rule.path.to_string(),
            allow: self.allow,
            log: self.log.as_deref().unwrap_or_default().to_owned(),
        }
    }

    fn from_message(m: pb::Rule) -> Result<Self, WireError> {
        let object = ObjectRef::from_message(required("object", m.object)?).at("object")?;
        let log = (!m.log.is_empty()).then(|| m.log.into());
        Ok(Self { id: RuleId(m.id), rule: RuleRef { object, path: m.path.into() }, allow: m.allow, log })
    }
}

impl Wire for DirectionDefault {
    type Message = pb::DirectionDefault;

    fn to_message(&self) -> pb::DirectionDefault {
        pb::DirectionDefault { allow: self.allow, audit: self.audit, rule: self.rule.0 }
    }

    fn from_message(m: pb::DirectionDefault) -> Result<Self, WireError> {
        Ok(Self { allow: m.allow, audit: m.audit, rule: RuleId(m.rule) })
    }
}

impl Wire for PolicyKey {
    type Message = pb::TableKey;

    fn to_message(&self) -> pb::TableKey {
        pb::TableKey {
            egress: self.direction == Direction::Egress,
            peer: self.peer.0,
            protocol: self.protocol.map(|p| p.0.into()),
            port: self.port.into(),
            port_bits: self.port_bits.into(),
        }
    }

    fn from_message(m: pb::TableKey) -> Result<Self, WireError> {
        if m.port_bits > 16 {
            return Err(WireError::new("port_bits", format!("{} is more than a port's 16 bits", m.port_bits)));
        }
        Ok(Self {
            direction: if m.egress { Direction::Egress } else { Direction::Ingress },
            peer: PeerClass(m.peer),
            protocol: m.protocol.map(|p| protocol("protocol", p)).transpose()?,
            port: narrow("port", m.port)?,
            port_bits: narrow("port_bits", m.port_bits)?,
        })
    }
}

fn entry_message((key, entry): (&PolicyKey, &PolicyEntry)) -> pb::TableEntry {
    pb::TableEntry {
        key: Some(key.to_message()),
        allow: entry.allow,
        audit: entry.audit,
        rule: entry.rule.0,
        proxy_port: entry.proxy_port.into(),
        auth: entry.auth.into(),
    }
}

fn entry(m: pb::TableEntry) -> Result<(PolicyKey, PolicyEntry), WireError> {
    let key = PolicyKey::from_message(required("key", m.key)?).at("key")?;
    let entry = PolicyEntry {
        allow: m.allow,
        audit: m.audit,
        rule: RuleId(m.rule),
        proxy_port: narrow("proxy_port", m.proxy_port)?,
        auth: narrow("auth", m.auth)?,
    };
    Ok((key, entry))
}

fn entries(field: &str, messages: Vec<pb::TableEntry>) -> Result<BTreeMap<PolicyKey, PolicyEntry>, WireError> {
    messages.into_iter().enumerate().map(|(i, m)| entry(m).at_index(field, i)).collect()
}

fn generation_messages(policies: &BTreeMap<ObjectRef, i64>) -> Vec<pb::PolicyGeneration> {
    policies.iter().map(|(o, g)| pb::PolicyGeneration { object: Some(o.to_message()), generation: *g }).collect()
}

fn generations(messages: Vec<pb::PolicyGeneration>) -> Result<BTreeMap<ObjectRef, i64>, WireError> {
    let one = |(i, m): (usize, pb::PolicyGeneration)| {
        let object = required("object", m.object).and_then(|o| ObjectRef::from_message(o).at("object"));
        Ok((object.at_index("policies", i)?, m.generation))
    };
    messages.into_iter().enumerate().map(one).collect()
}

impl Wire for TableRow {
    type Message = pb::Table;

    fn to_message(&self) -> pb::Table {
        pb::Table {
            id: self.id.0,
            ingress_default: Some(self.ingress_default.to_message()),
            egress_default: Some(self.egress_default.to_message()),
            entries: self.entries.iter().map(entry_message).collect(),
            policies: generation_messages(&self.policies),
        }
    }

    fn from_message(m: pb::Table) -> Result<Self, WireError> {
        Ok(Self {
            id: TableId(m.id),
            ingress_default: DirectionDefault::from_message(required("ingress_default", m.ingress_default)?)?,
            egress_default: DirectionDefault::from_message(required("egress_default", m.egress_default)?)?,
            entries: entries("entries", m.entries)?,
            policies: generations(m.policies)?,
        })
    }
}

impl Wire for TablePatch {
    type Message = pb::TablePatch;

    fn to_message(&self) -> pb::TablePatch {
        pb::TablePatch {
            id: self.id.0,
            ingress_default: self.ingress_default.as_ref().map(Wire::to_message),
            egress_default: self.egress_default.as_ref().map(Wire::to_message),
            upserts: self.upserts.iter().map(entry_message).collect(),
            removals: super::messages(&self.removals),
            policies: self.policies.as_ref().map(|p| pb::PolicyGenerations { policies: generation_messages(p) }),
        }
    }

    fn from_message(m: pb::TablePatch) -> Result<Self, WireError> {
        Ok(Self {
            id: TableId(m.id),
            ingress_default: m.ingress_default.map(DirectionDefault::from_message).transpose()?,
            egress_default: m.egress_default.map(DirectionDefault::from_message).transpose()?,
            upserts: entries("upserts", m.upserts)?,
            removals: list::<PolicyKey>("removals", m.removals)?.into_iter().collect(),
            policies: m.policies.map(|p| generations(p.policies)).transpose().at("policies")?,
        })
    }
}
