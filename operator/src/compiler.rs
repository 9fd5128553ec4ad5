//! The compiler as the core uses it: changes of the cluster in, changes of rows out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axoneme_compile::{Change, ChangeSet, Compiler, Event, Excess, Fit, TableChange};
use axoneme_model::{Identity, Labels, ObjectRef, Policy, world::ClusterConfig};
use axoneme_wire::{Row, RowChange, RowKey, TablePatch};

use crate::state::WorldChange;

/// The incremental compiler behind the types of the wire.
#[derive(Debug)]
pub struct Rows {
    compiler: Compiler,
    first: bool,
}

/// What a change meant.
#[derive(Debug, Default)]
pub struct Applied {
    pub rows: Vec<RowChange>,
    /// Label sets that pods began (true) or ceased to ask for.
    pub wanted: BTreeMap<Labels, bool>,
    /// Policies that no table holds: what `fit` says is in force instead.
    pub too_large: BTreeMap<ObjectRef, Excess>,
}

impl Default for Rows {
    fn default() -> Self {
        Self { compiler: Compiler::new(ClusterConfig::default()), first: true }
    }
}

impl Rows {
    /// Takes changes in, and numbers that pods may use from now on or no more.
    pub fn apply(
        &mut self,
        changes: Vec<WorldChange>,
        numbers: Vec<(Labels, Option<Identity>)>,
        fit: &Fit<'_>,
    ) -> Applied {
        let numbers = numbers.into_iter().map(|(l, id)| Event::Assignment(l, id));
        let (changes, too_large) = self.compiler.apply_within(changes.into_iter().map(event).chain(numbers), fit);
        let rows = self.rows(&changes);
        self.first = false;
        Applied { rows, wanted: changes.wanted, too_large }
    }

    /// Whether the policy reads labels that no identity holds yet.
    #[must_use]
    pub fn reads_new(&self, policy: &Policy) -> bool {
        !self.first && self.compiler.reads_new(policy)
    }

    /// Of these sets, those that a pod asks for that has another identity now.
    #[must_use]
    pub fn moves_to(&self, sets: &BTreeSet<Labels>) -> BTreeSet<Labels> {
        if sets.is_empty() {
            return BTreeSet::new();
        }
        let world = self.compiler.world();
        let held = self.compiler.held();
        let labels = held.keys().filter_map(|key| {
            let pod = world.pods.get(key)?;
            Some(pod.security_labels(world.namespaces.get(&pod.namespace), &world.config.cluster_name))
        });
        let labels: Vec<Labels> = labels.collect();
        let asks = |l: &Labels, set: &Labels| set.iter().all(|(k, v)| l.get(k) == Some(v));
        sets.iter().filter(|s| labels.iter().any(|l| asks(l, s))).cloned().collect()
    }

    /// Numbers that no pod has or asks for.
    #[must_use]
    pub fn unused(&self) -> BTreeSet<Identity> {
        self.compiler.unused().into_values().collect()
    }

    /// All rows but the settings.
    #[cfg(test)]
    pub(crate) fn all(&self) -> axoneme_model::rows::RowSet {
        self.compiler.compiled().rows
    }

    #[cfg(test)]
    pub(crate) fn endpoints(&self) -> BTreeMap<Arc<str>, axoneme_model::rows::EndpointRow> {
        self.all().endpoints
    }

    fn rows(&self, c: &ChangeSet) -> Vec<RowChange> {
        let mut out = Vec::new();
        if self.first {
            // what a new compiler has from the start is in no change set
            let all = self.compiler.compiled().rows;
            return axoneme_wire::change::upserts(&all);
        }
        push(&mut out, &c.nodes, Row::Node, |k| RowKey::Node(Arc::clone(k)));
        push(&mut out, &c.identities, Row::Identity, |k| RowKey::Identity(*k));
        push(&mut out, &c.rules, Row::Rule, |k| RowKey::Rule(*k));
        push(&mut out, &c.endpoints, Row::Endpoint, |k| RowKey::Endpoint(Arc::clone(k)));
        push(&mut out, &c.ips, Row::Ip, |k| RowKey::Ip(*k));
        push(&mut out, &c.services, Row::Service, |(ns, n)| RowKey::Service(Arc::clone(ns), Arc::clone(n)));
        for (id, change) in &c.tables {
            match change {
                TableChange::New => {
                    let row = self.compiler.table(*id);
                    out.extend(row.map(|r| RowChange::Upsert(Row::Table(Arc::new(r)))));
                }
                TableChange::Patch(p) => out.push(RowChange::Patch(patch(p))),
                TableChange::Removed => out.push(RowChange::Remove(RowKey::Table(*id))),
            }
        }
        out
    }
}

fn push<K, V: Clone>(
    out: &mut Vec<RowChange>,
    changes: &BTreeMap<K, Change<V>>,
    row: impl Fn(V) -> Row,
    key: impl Fn(&K) -> RowKey,
) {
    out.extend(changes.iter().map(|(k, c)| match &c.after {
        Some(after) => RowChange::Upsert(row(after.clone())),
        None => RowChange::Remove(key(k)),
    }));
}

fn patch(p: &axoneme_compile::TablePatch) -> TablePatch {
    TablePatch {
        id: p.id,
        ingress_default: p.ingress_default,
        egress_default: p.egress_default,
        upserts: p.upserts.iter().copied().collect(),
        removals: p.removals.iter().copied().collect(),
        policies: p.policies.clone(),
    }
}

fn event(change: WorldChange) -> Event {
    match change {
        WorldChange::Config(c) => Event::Config(c),
        WorldChange::ApiServer(a) => Event::ApiServer(a),
        WorldChange::Namespace(k, v) => Event::Namespace(k, v),
        WorldChange::Pod(k, v) => Event::Pod(k, v.map(|v| *v)),
        WorldChange::Node(k, v) => Event::Node(k, v.map(|v| *v)),
        WorldChange::Service(k, v) => Event::Service(k, v.map(|v| *v)),
        WorldChange::CidrGroup(k, v) => Event::CidrGroup(k, v),
        WorldChange::Policy(k, v) => Event::Policy(k, v.map(|v| *v)),
    }
}
