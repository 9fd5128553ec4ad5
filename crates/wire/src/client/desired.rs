//! The rows that the node should have.

use std::{collections::BTreeSet, sync::Arc};

use axoneme_model::rows::RowSet;

use super::Batch;
use crate::{
    Resume, RowType,
    change::{self, MissingTable, Row, RowChange, RowKey, TablePatch},
};

/// Set of rows with the point in the operator's history that it stands for. Can be written to disk and taken up again:
/// [`Self::restore`].
#[derive(Clone, Debug, Default)]
pub struct Desired {
    rows: RowSet,
    at: Option<Resume>,
}

impl Desired {
    /// From a copy on disk.
    #[must_use]
    pub const fn restore(rows: RowSet, at: Option<Resume>) -> Self {
        Self { rows, at }
    }

    #[must_use]
    pub const fn rows(&self) -> &RowSet {
        &self.rows
    }

    /// What to resume from; none before the first batch.
    #[must_use]
    pub const fn at(&self) -> Option<Resume> {
        self.at
    }

    /// Folds a batch and returns what really changed, in an order that is safe to apply: a snapshot of what is already
    /// there changes nothing, rows that it doesn't name are removed, and a table that is there already becomes a patch.
    ///
    /// Errors: a patch of an unknown table; nothing of the batch is lost by asking for a resync then.
    pub fn fold(&mut self, batch: Batch) -> Result<Vec<RowChange>, MissingTable> {
        let (gone, snapshot) = (self.absent(&batch), !batch.complete.is_empty());
        let mut changes = Vec::new();
        for c in batch.changes.into_iter().chain(gone) {
            if let Some(c) = self.news(c) {
                change::apply(&mut self.rows, c.clone())?;
                changes.push(c);
            }
        }
        self.at = Some(batch.at);
        if snapshot {
            self.compact();
        }
        change::sort(&mut changes);
        Ok(changes)
    }

    /// Rows that come in their order leave the nodes of a tree half full; a tree that is made at once has none to spare.
    fn compact(&mut self) {
        self.rows.ips = std::mem::take(&mut self.rows.ips).into_iter().collect();
        self.rows.identities = std::mem::take(&mut self.rows.identities).into_iter().collect();
    }

    /// Removals of the rows that a complete snapshot of their type doesn't name.
    fn absent(&self, batch: &Batch) -> Vec<RowChange> {
        if batch.complete.is_empty() {
            return Vec::new();
        }
        let named: BTreeSet<RowKey> = batch.changes.iter().map(RowChange::key).collect();
        let complete: BTreeSet<RowType> = batch.complete.iter().copied().collect();
        let held = keys(&self.rows).filter(|k| complete.contains(&k.row_type()));
        held.filter(|k| !named.contains(k)).map(RowChange::Remove).collect()
    }

    /// The change as it concerns this set; none if it changes nothing.
    fn news(&self, change: RowChange) -> Option<RowChange> {
        match change {
            RowChange::Upsert(Row::Table(new)) => match self.rows.tables.get(&new.id) {
                Some(old) => Some(TablePatch::between(old, &new)).filter(|p| !p.is_empty()).map(RowChange::Patch),
                None => Some(RowChange::Upsert(Row::Table(new))),
            },
            RowChange::Upsert(row) => (!holds(&self.rows, &row)).then_some(RowChange::Upsert(row)),
            RowChange::Remove(key) => has(&self.rows, &key).then_some(RowChange::Remove(key)),
            RowChange::Patch(p) => Some(RowChange::Patch(p)),
        }
    }
}

fn holds(rows: &RowSet, row: &Row) -> bool {
    match row {
        Row::Config(r) => rows.config.as_ref() == Some(r),
        Row::Node(r) => rows.nodes.get(&r.name) == Some(r),
        Row::Identity(r) => rows.identities.get(&r.id) == Some(r),
        Row::Rule(r) => rows.rules.get(&r.id) == Some(r),
        Row::Table(r) => rows.tables.get(&r.id) == Some(&**r),
        Row::Service(r) => rows.services.get(&(r.namespace.clone(), r.name.clone())) == Some(r),
        Row::Ip(r) => rows.ips.get(&r.prefix) == Some(&**r),
        Row::Endpoint(r) => rows.endpoints.get(&r.uid) == Some(&**r),
    }
}

fn has(rows: &RowSet, key: &RowKey) -> bool {
    match key {
        RowKey::Config(n) => rows.config.as_ref().is_some_and(|c| c.node == *n),
        RowKey::Node(k) => rows.nodes.contains_key(k),
        RowKey::Identity(k) => rows.identities.contains_key(k),
        RowKey::Rule(k) => rows.rules.contains_key(k),
        RowKey::Table(k) => rows.tables.contains_key(k),
        RowKey::Service(ns, n) => rows.services.contains_key(&(Arc::clone(ns), Arc::clone(n))),
        RowKey::Ip(k) => rows.ips.contains_key(k),
        RowKey::Endpoint(k) => rows.endpoints.contains_key(k),
    }
}

fn keys(rows: &RowSet) -> impl Iterator<Item = RowKey> {
    let config = rows.config.iter().map(|c| RowKey::Config(c.node.clone()));
    config
        .chain(rows.nodes.keys().cloned().map(RowKey::Node))
        .chain(rows.identities.keys().copied().map(RowKey::Identity))
        .chain(rows.rules.keys().copied().map(RowKey::Rule))
        .chain(rows.tables.keys().copied().map(RowKey::Table))
        .chain(rows.services.keys().cloned().map(|(ns, n)| RowKey::Service(ns, n)))
        .chain(rows.ips.keys().copied().map(RowKey::Ip))
        .chain(rows.endpoints.keys().cloned().map(RowKey::Endpoint))
}

#[cfg(test)]
mod tests;
