//! What guards nodes: a table a node, of the rules that select it.

use std::{collections::BTreeSet, sync::Arc};

use axoneme_model::{
    rows::{GuardRow, TableId},
    world::{ClusterConfig, Enforcement, Node},
};

use super::{Compiler, settle::context, tables::Context};
use crate::{
    rules::RuleKey,
    spec::{NamedPorts, RuleSpec},
    table::TableKey,
};

/// The rules that select a node, in order of evaluation, as the key of its table. None where there are none, and where
/// nodes are not guarded. `rules`: in any order.
pub(crate) fn guard_key<'a>(
    config: &ClusterConfig,
    rules: impl Iterator<Item = (&'a RuleKey, &'a RuleSpec)>,
    node: &Node,
) -> Option<TableKey> {
    if config.enforcement == Enforcement::Never || !config.host.enabled {
        return None;
    }
    let labels = node.host_labels();
    let selects = |rule: &RuleSpec| rule.nodes.as_ref().is_some_and(|s| s.matches(&labels));
    let mut rules: Vec<RuleKey> = rules.filter(|(_, r)| selects(r)).map(|(key, _)| key.clone()).collect();
    rules.sort();
    (!rules.is_empty()).then(|| TableKey { rules, named_ports: NamedPorts::new(), audit: config.audit, nodes: true })
}

impl Compiler {
    /// Of the nodes that are marked, the tables that they should have.
    pub(super) fn guard_keys(&mut self) -> Vec<(Arc<str>, Option<Arc<TableKey>>)> {
        let nodes = std::mem::take(&mut self.dirty.guards);
        if nodes.is_empty() {
            return Vec::new();
        }
        // few policies are about nodes: their rules are looked for once
        let rules = self.book.rules.iter().filter(|(_, r)| r.nodes.is_some());
        let rules: Vec<(&RuleKey, &RuleSpec)> = rules.map(|(key, r)| (key, &**r)).collect();
        let key = |node: &Arc<str>| {
            guard_key(&self.world.config, rules.iter().copied(), self.world.nodes.get(node)?).map(Arc::new)
        };
        nodes.into_iter().map(|node| (node.clone(), key(&node))).collect()
    }

    pub(super) fn put_guard(&mut self, node: &Arc<str>, table: Option<Arc<TableKey>>) {
        let context = context!(self);
        let now = table.map(|t| self.tables.acquire(t, &context));
        let before = match now {
            Some(id) => self.guards.insert(node.clone(), id),
            None => self.guards.remove(node),
        };
        if let Some(id) = now {
            self.count_need(node.clone(), id, true);
        }
        if let Some(id) = before {
            self.count_need(node.clone(), id, false);
            self.dirty.released.push(id);
        }
        if now.is_none() {
            self.rows.guards.set(node.clone(), None);
        }
        self.dirty.guard_rows = true;
    }

    /// What nodes are told. A table that no map holds guards nobody.
    pub(super) fn settle_guard_rows(&mut self) {
        if !std::mem::take(&mut self.dirty.guard_rows) && !self.tables.touched_nodes() {
            return;
        }
        for (node, id) in &self.guards {
            let fits = self.tables.entries(*id).is_some_and(|entries| entries <= self.limit);
            let row = || GuardRow {
                table: *id,
                unprotected: self.world.config.host.unprotected.clone(),
                overlay_port: self.world.config.host.overlay_port,
                apiserver: self.world.apiserver_addresses.clone(),
            };
            self.rows.guards.set(node.clone(), fits.then(row));
        }
    }

    /// A node that the table guards, or would.
    pub(super) fn guarded_by(&self, table: TableId) -> Option<&Arc<str>> {
        self.guards.iter().find(|(_, id)| **id == table).map(|(node, _)| node)
    }

    /// Tables of nodes that no map holds.
    pub(super) fn guards_beyond(&self) -> BTreeSet<TableId> {
        let too_large = |id: &&TableId| self.tables.entries(**id).is_some_and(|entries| entries > self.limit);
        self.guards.values().filter(too_large).copied().collect()
    }

    /// What guards a node itself.
    #[must_use]
    pub fn guard(&self, node: &str) -> Option<&GuardRow> {
        self.rows.guards.get(&Arc::from(node))
    }
}
