//! Settings of single nodes: which objects say them, and what a node's settings are with them.
//!
//! Objects are laid over the settings of the cluster in the order of their names, as Cilium does: the last one that has
//! a setting decides. Objects of one name in two namespaces follow the order of the namespaces.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use axoneme_intake::{Difference, FieldError, NodeConfig, ObjectErrors, Reason, Settings, difference};
use axoneme_model::{Kind, ObjectRef, rows::OverrideRow, world::PlainLabels};
use serde_json::Value;

use super::Name;

/// Where Cilium's users have their objects.
const CILIUM: &str = "kube-system";

/// A CiliumNodeConfig object.
#[derive(Clone, Debug, Default)]
pub struct NodeConfigEntry {
    pub raw: Value,
    pub generation: i64,
    pub errors: Option<ObjectErrors>,
    /// The last good version, with its generation.
    pub in_force: Option<(NodeConfig, i64)>,
}

/// All CiliumNodeConfigs.
#[derive(Debug, Default)]
pub struct Overrides {
    /// By name, then namespace.
    entries: BTreeMap<(Name, Name), NodeConfigEntry>,
    /// Namespaces whose objects count; empty: all do, where there is no API server that guards them.
    namespaces: BTreeSet<Name>,
}

/// The settings of one node.
#[derive(Debug)]
pub struct Resolved<'a> {
    pub settings: Cow<'a, Settings>,
    cluster: &'a Settings,
    /// Who decided, by the setting's path.
    from: BTreeMap<&'static str, &'a NodeConfig>,
}

impl Resolved<'_> {
    /// The object that decides about the setting.
    pub fn decides(&self, setting: &str) -> Option<&ObjectRef> {
        self.from.get(setting).map(|config| &config.object)
    }

    /// In what the node differs from the cluster, and because of which object.
    pub fn differences(&self) -> impl Iterator<Item = (Difference, &ObjectRef)> {
        self.from.iter().filter_map(|(path, config)| {
            let difference = difference(path, &self.settings, self.cluster)?;
            Some((difference, &config.object))
        })
    }

    /// The same as a node is told.
    #[must_use]
    pub fn rows(&self) -> Vec<OverrideRow> {
        let row = |(d, from): (Difference, &ObjectRef)| OverrideRow {
            setting: d.setting.into(),
            value: d.value.into(),
            cluster: d.cluster.into(),
            from: from.to_string().into(),
        };
        self.differences().map(row).collect()
    }
}

impl Overrides {
    /// Only objects of this namespace count from now on, and of that in which Cilium has them: whoever may write into one
    /// of these owns the nodes already, and others must not by writing into their own.
    pub fn count_in(&mut self, namespace: &str) {
        self.namespaces = [namespace, CILIUM].into_iter().map(Name::from).collect();
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// In the order in which they are laid over each other.
    pub fn iter(&self) -> impl Iterator<Item = (ObjectRef, &NodeConfigEntry)> {
        let object = |(name, namespace): &(Name, Name)| ObjectRef::new(Kind::CiliumNodeConfig, namespace, name);
        self.entries.iter().map(move |(key, entry)| (object(key), entry))
    }

    #[must_use]
    pub fn get(&self, object: &ObjectRef) -> Option<&NodeConfigEntry> {
        self.entries.get(&(object.name.clone(), object.namespace.clone()))
    }

    /// What is wrong with where an object is.
    pub(super) fn misplaced(&self, object: &ObjectRef, generation: i64) -> Option<ObjectErrors> {
        if self.namespaces.is_empty() || self.namespaces.contains(&object.namespace) {
            return None;
        }
        let there: Vec<&str> = self.namespaces.iter().map(AsRef::as_ref).collect();
        let error = FieldError {
            path: "metadata.namespace".into(),
            value: Some(format!("{:?}", object.namespace)),
            message: format!("settings of nodes count in {} only", there.join(" and ")),
            reason: Reason::Invalid,
        };
        Some(ObjectErrors {
            kind: Some(object.kind),
            object: Some(object.clone()),
            generation,
            errors: vec![error],
            fail_closed: None,
        })
    }

    /// Whether settings of nodes may have changed.
    pub(super) fn set(&mut self, config: NodeConfig, raw: Value, generation: i64) -> bool {
        let key = (config.object.name.clone(), config.object.namespace.clone());
        let entry = self.entries.entry(key).or_default();
        let changed = entry.in_force.as_ref().is_none_or(|(old, _)| *old != config);
        *entry = NodeConfigEntry { raw, generation, errors: None, in_force: Some((config, generation)) };
        changed
    }

    pub(super) fn refuse(&mut self, object: &ObjectRef, raw: Value, errors: ObjectErrors) {
        let entry = self.entries.entry((object.name.clone(), object.namespace.clone())).or_default();
        (entry.raw, entry.generation, entry.errors) = (raw, errors.generation, Some(errors));
    }

    pub(super) fn remove(&mut self, object: &ObjectRef) {
        self.entries.remove(&(object.name.clone(), object.namespace.clone()));
    }

    /// The settings of a node with these labels.
    #[must_use]
    pub fn resolve<'a>(&'a self, cluster: &'a Settings, labels: &PlainLabels) -> Resolved<'a> {
        let mut resolved = Resolved { settings: Cow::Borrowed(cluster), cluster, from: BTreeMap::new() };
        let in_force = self.entries.values().filter_map(|e| e.in_force.as_ref());
        for (config, _) in in_force.filter(|(config, _)| config.selects(labels)) {
            config.apply(resolved.settings.to_mut());
            resolved.from.extend(config.paths.iter().map(|path| (*path, config)));
        }
        resolved
    }
}

#[cfg(test)]
mod tests;
