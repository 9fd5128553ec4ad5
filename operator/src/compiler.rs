//! The compiler as the core uses it: changes of the cluster in, changes of rows out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axoneme_compile::{Change, ChangeSet, Compiler, Event, Fit, Misfits, TableChange};
use axoneme_model::{
    Identity, Labels, Policy,
    rows::{GuardRow, RowSet},
    world::ClusterConfig,
};
use axoneme_wire::{Row, RowChange, RowKey, TablePatch};

use crate::state::WorldChange;

/// The incremental compiler behind the types of the wire.
#[derive(Debug)]
pub struct Rows {
    compiler: Compiler,
    /// What a new compiler has, until it is told.
    start: Option<RowSet>,
}

/// What a change meant.
#[derive(Debug, Default)]
pub struct Applied {
    pub rows: Vec<RowChange>,
    /// Label sets that pods began (true) or ceased to ask for.
    pub wanted: BTreeMap<Labels, bool>,
    /// What guards nodes themselves changed, which their settings tell.
    pub guards: bool,
    /// What no table holds, and what is in force instead.
    pub misfits: Misfits,
}

impl Default for Rows {
    fn default() -> Self {
        let compiler = Compiler::new(ClusterConfig::default());
        Self { start: Some(compiler.compiled().rows), compiler }
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
        let (changes, misfits) = self.compiler.apply_within(changes.into_iter().map(event).chain(numbers), fit);
        let guards = !changes.guards.is_empty();
        let (rows, wanted) = self.rows(changes);
        Applied { rows, wanted, guards, misfits }
    }

    /// See [`Compiler::forget`].
    pub const fn forget(&mut self) {
        self.compiler.forget();
    }

    /// Whether the policy reads labels that no identity holds yet.
    #[must_use]
    pub fn reads_new(&self, policy: &Policy) -> bool {
        self.start.is_none() && self.compiler.reads_new(policy)
    }

    /// Of these sets, those that a pod asks for that has another identity now.
    #[must_use]
    pub fn moves_to(&self, sets: &BTreeSet<Labels>) -> BTreeSet<Labels> {
        sets.iter().filter(|set| self.compiler.moves_to(set)).cloned().collect()
    }

    /// What guards a node itself.
    #[must_use]
    pub fn guard(&self, node: &str) -> Option<&GuardRow> {
        self.compiler.guard(node)
    }

    /// Whether a pod has or asks for the set's number.
    #[must_use]
    pub fn uses(&self, set: &Labels, number: Identity) -> bool {
        self.compiler.uses(set, number)
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

    /// The changes as the wire has them, and the label sets. Of the whole cluster that comes at first there is one copy
    /// on its way, not several.
    fn rows(&mut self, c: ChangeSet) -> (Vec<RowChange>, BTreeMap<Labels, bool>) {
        let ChangeSet { nodes, identities, rules, tables, endpoints, ips, services, guards: _, needs: _, wanted } = c;
        let mut out = self.start.take().map(|start| axoneme_wire::change::upserts(&start)).unwrap_or_default();
        push(&mut out, nodes, Row::Node, RowKey::Node);
        push(&mut out, identities, Row::Identity, RowKey::Identity);
        push(&mut out, rules, Row::Rule, RowKey::Rule);
        push(&mut out, endpoints, Row::Endpoint, RowKey::Endpoint);
        push(&mut out, ips, Row::Ip, RowKey::Ip);
        push(&mut out, services, Row::Service, |(ns, n)| RowKey::Service(ns, n));
        for (id, change) in tables {
            match change {
                TableChange::New => {
                    let row = self.compiler.table(id);
                    out.extend(row.map(|r| RowChange::Upsert(Row::Table(Arc::new(r)))));
                }
                TableChange::Patch(p) => out.push(RowChange::Patch(patch(p))),
                TableChange::Removed => out.push(RowChange::Remove(RowKey::Table(id))),
            }
        }
        (out, wanted)
    }
}

fn push<K, V>(
    out: &mut Vec<RowChange>,
    changes: BTreeMap<K, Change<V>>,
    row: impl Fn(V) -> Row,
    key: impl Fn(K) -> RowKey,
) {
    out.extend(changes.into_iter().map(|(k, c)| match c.after {
        Some(after) => RowChange::Upsert(row(after)),
        None => RowChange::Remove(key(k)),
    }));
}

fn patch(p: axoneme_compile::TablePatch) -> TablePatch {
    TablePatch {
        id: p.id,
        ingress_default: p.ingress_default,
        egress_default: p.egress_default,
        upserts: p.upserts.into_iter().collect(),
        removals: p.removals.into_iter().collect(),
        policies: p.policies,
    }
}

fn event(change: WorldChange) -> Event {
    match change {
        WorldChange::Config(c) => Event::Config(c),
        WorldChange::ApiServer(a) => Event::ApiServer(a),
        WorldChange::Namespace(k, v) => Event::Namespace(k, v),
        WorldChange::Pod(k, v) => Event::Pod(k, v),
        WorldChange::Node(k, v) => Event::Node(k, v.map(|v| *v)),
        WorldChange::Service(k, v) => Event::Service(k, v.map(|v| *v)),
        WorldChange::CidrGroup(k, v) => Event::CidrGroup(k, v),
        WorldChange::Policy(k, v) => Event::Policy(k, v.map(|v| *v)),
    }
}
