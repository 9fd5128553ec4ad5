//! Which rows which node needs.
//!
//! Nodes, identities, addresses and services go to all nodes. A node also gets its own configuration and endpoints, the
//! tables of these endpoints and the one that guards the node itself, and the rules that these tables name.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use axoneme_model::{
    Cidr, Identity, ObjectRef,
    rows::{EndpointRow, IdentityRow, IpRow, NodeConfigRow, NodeRow, RuleId, RuleRow, ServiceRow, TableId, TableRow},
};

use bytes::Bytes;

use super::frame::{self, Encoded};
use crate::change::{self, Row, RowChange, RowKey, RowType, TablePatch};

type Name = Arc<str>;

/// The rows of all nodes, and what each node has been sent.
#[derive(Debug, Default)]
pub(super) struct Views {
    nodes: BTreeMap<Name, NodeRow>,
    identities: BTreeMap<Identity, IdentityRow>,
    services: BTreeMap<(Name, Name), ServiceRow>,
    ips: BTreeMap<Cidr, Arc<IpRow>>,
    rules: HashMap<RuleId, RuleRow>,
    tables: HashMap<TableId, Table>,
    configs: BTreeMap<Name, Arc<NodeConfigRow>>,
    endpoints: HashMap<Name, Arc<EndpointRow>>,
    held: BTreeMap<Name, View>,
    /// Nodes that have a table.
    users: HashMap<TableId, BTreeSet<Name>>,
    /// Tables that enforce a policy.
    by_policy: HashMap<ObjectRef, BTreeSet<TableId>>,
}

#[derive(Debug)]
struct Table {
    row: Arc<TableRow>,
    /// How many entries and defaults name a rule.
    rules: HashMap<RuleId, u32>,
    /// The whole row, encoded; made when the first node needs it.
    encoded: Option<Arc<Encoded>>,
}

/// What one node has.
#[derive(Debug, Default)]
struct View {
    endpoints: BTreeSet<Name>,
    tables: BTreeMap<TableId, Use>,
    rules: HashMap<RuleId, u32>,
}

/// A table on a node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Use {
    /// Endpoints that use it, and the node itself, if it guards it.
    endpoints: u32,
    /// Revision that brought the policies (with their generations) that the table enforces.
    pub(super) policies_since: u64,
    /// Revision that changed it last.
    pub(super) changed: u64,
}

/// What a revision brings: to all, and to single nodes. In an order that is safe to apply.
#[derive(Debug, Default)]
pub(super) struct Delta {
    pub(super) shared: Vec<Arc<Encoded>>,
    pub(super) own: HashMap<Name, Vec<Arc<Encoded>>>,
    /// Tables that nodes have no more.
    pub(super) dropped: BTreeSet<TableId>,
    /// Whether anything changed.
    pub(super) any: bool,
    /// Nobody is there to be sent it.
    unheard: bool,
}

impl Delta {
    fn share(&mut self, change: RowChange) {
        self.any = true;
        if !self.unheard {
            self.shared.push(Encoded::new(change));
        }
    }

    fn own(&mut self, node: &Name, change: Arc<Encoded>) {
        self.any = true;
        if self.unheard {
            return;
        }
        self.own.entry(node.clone()).or_default().push(change);
    }
}

impl Views {
    /// Takes changes in; what changes nothing is left out. `unheard`: nobody is there to be sent them, so that only
    /// whether anything changed is told.
    pub(super) fn apply(&mut self, revision: u64, mut changes: Vec<RowChange>, unheard: bool) -> Delta {
        change::sort(&mut changes);
        let mut delta = Delta { unheard, ..Delta::default() };
        for c in changes {
            match c {
                RowChange::Upsert(row) => self.upsert(revision, row, &mut delta),
                RowChange::Patch(p) => self.patch(revision, p, &mut delta),
                RowChange::Remove(key) => self.remove(key, &mut delta),
            }
        }
        delta.shared.sort_by_cached_key(|e| e.change.order());
        for own in delta.own.values_mut() {
            settle(own);
            own.sort_by_cached_key(|e| e.change.order());
        }
        delta
    }

    fn upsert(&mut self, revision: u64, row: Row, delta: &mut Delta) {
        match row {
            Row::Node(r) if put(&mut self.nodes, r.name.clone(), &r) => delta.share(RowChange::Upsert(Row::Node(r))),
            Row::Identity(r) if put(&mut self.identities, r.id, &r) => delta.share(RowChange::Upsert(Row::Identity(r))),
            Row::Service(r) if put(&mut self.services, (r.namespace.clone(), r.name.clone()), &r) => {
                delta.share(RowChange::Upsert(Row::Service(r)));
            }
            Row::Ip(r) if put(&mut self.ips, r.prefix, &r) => delta.share(RowChange::Upsert(Row::Ip(r))),
            Row::Config(r) if self.configs.get(&r.node) != Some(&r) => self.upsert_config(revision, r, delta),
            Row::Rule(r) => self.upsert_rule(r, delta),
            Row::Table(r) => self.upsert_table(revision, r, delta),
            Row::Endpoint(r) => self.upsert_endpoint(revision, r, delta),
            Row::Node(_) | Row::Identity(_) | Row::Service(_) | Row::Ip(_) | Row::Config(_) => {}
        }
    }

    fn remove(&mut self, key: RowKey, delta: &mut Delta) {
        let shared = match &key {
            RowKey::Node(k) => self.nodes.remove(k).is_some(),
            RowKey::Identity(k) => self.identities.remove(k).is_some(),
            RowKey::Service(ns, n) => self.services.remove(&(ns.clone(), n.clone())).is_some(),
            RowKey::Ip(k) => self.ips.remove(k).is_some(),
            RowKey::Config(node) => {
                if let Some(old) = self.configs.remove(node) {
                    delta.own(&node.clone(), Encoded::new(RowChange::Remove(key.clone())));
                    if let Some(guard) = &old.guard {
                        self.drop_table(&old.node, guard.table, delta);
                    }
                }
                false
            }
            // nodes that hold it drop it with the last table that names it
            RowKey::Rule(k) => {
                self.rules.remove(k);
                false
            }
            RowKey::Table(k) => {
                if let Some(t) = self.tables.remove(k) {
                    self.index_policies(&t.row, false);
                }
                false
            }
            RowKey::Endpoint(k) => {
                self.remove_endpoint(k, delta);
                false
            }
        };
        if shared {
            delta.share(RowChange::Remove(key));
        }
    }

    fn upsert_config(&mut self, revision: u64, r: Arc<NodeConfigRow>, delta: &mut Delta) {
        let node = r.node.clone();
        self.held.entry(node.clone()).or_default();
        let now = r.guard.as_ref().map(|g| g.table);
        let old = self.configs.insert(node.clone(), r.clone()).and_then(|old| Some(old.guard.as_ref()?.table));
        if now != old {
            if let Some(table) = now {
                self.hold_table(revision, &node, table, delta);
            }
            if let Some(table) = old {
                self.drop_table(&node, table, delta);
            }
        }
        delta.own(&node, upsert(Row::Config(r)));
    }

    fn upsert_rule(&mut self, r: RuleRow, delta: &mut Delta) {
        if self.rules.get(&r.id) == Some(&r) {
            return;
        }
        let id = r.id;
        self.rules.insert(id, r.clone());
        let change = upsert(Row::Rule(r));
        for (node, _) in self.held.iter().filter(|(_, v)| v.rules.contains_key(&id)) {
            delta.own(node, change.clone());
        }
    }

    fn upsert_table(&mut self, revision: u64, new: Arc<TableRow>, delta: &mut Delta) {
        if let Some(old) = self.tables.get(&new.id) {
            return self.patch(revision, TablePatch::between(&old.row, &new), delta);
        }
        self.index_policies(&new, true);
        let id = new.id;
        self.tables.insert(id, Table { rules: rules_of(&new), row: new, encoded: None });
        // an endpoint may have named the table before it was there
        for node in self.users(id) {
            self.send_table(revision, &node, id, delta);
        }
    }

    fn patch(&mut self, revision: u64, p: TablePatch, delta: &mut Delta) {
        let Some(table) = self.tables.get_mut(&p.id).filter(|_| !p.is_empty()) else { return };
        let before = std::mem::take(&mut table.rules);
        table.encoded = None;
        let old = p.policies.as_ref().map(|_| table.row.clone());
        p.apply_to(Arc::make_mut(&mut table.row));
        table.rules = rules_of(&table.row);
        let row = table.row.clone();
        let added: Vec<_> = table.rules.keys().filter(|r| !before.contains_key(r)).copied().collect();
        let dropped: Vec<_> = before.into_keys().filter(|r| !table.rules.contains_key(r)).collect();
        if let Some(old) = old {
            self.index_policies(&old, false);
            self.index_policies(&row, true);
        }
        let (id, policies) = (p.id, p.policies.is_some());
        let change = Encoded::new(RowChange::Patch(p));
        for node in self.users(id) {
            delta.own(&node, change.clone());
            self.hold_rules(&node, &added, delta);
            self.drop_rules(&node, &dropped, delta);
            if let Some(u) = self.held.get_mut(&node).and_then(|v| v.tables.get_mut(&id)) {
                u.changed = revision;
                if policies {
                    u.policies_since = revision;
                }
            }
        }
    }

    fn upsert_endpoint(&mut self, revision: u64, r: Arc<EndpointRow>, delta: &mut Delta) {
        let old = self.endpoints.get(&r.uid);
        if old == Some(&r) {
            return;
        }
        let (moved, old_table) = (old.is_some_and(|o| o.node != r.node), old.map(|o| o.table));
        if moved {
            self.remove_endpoint(&r.uid, delta);
        }
        let (uid, node, table) = (r.uid.clone(), r.node.clone(), r.table);
        self.endpoints.insert(uid.clone(), r.clone());
        if node.is_empty() {
            return;
        }
        self.held.entry(node.clone()).or_default().endpoints.insert(uid);
        if moved || old_table != Some(table) {
            self.hold_table(revision, &node, table, delta);
            if let Some(old) = old_table.filter(|_| !moved) {
                self.drop_table(&node, old, delta);
            }
        }
        delta.own(&node, upsert(Row::Endpoint(r)));
    }

    fn remove_endpoint(&mut self, uid: &Name, delta: &mut Delta) {
        let Some(old) = self.endpoints.remove(uid) else { return };
        if old.node.is_empty() {
            return;
        }
        if let Some(v) = self.held.get_mut(&old.node) {
            v.endpoints.remove(uid);
        }
        delta.own(&old.node, Encoded::new(RowChange::Remove(RowKey::Endpoint(uid.clone()))));
        self.drop_table(&old.node, old.table, delta);
    }

    fn hold_table(&mut self, revision: u64, node: &Name, id: TableId, delta: &mut Delta) {
        let u = self.held.entry(node.clone()).or_default().tables.entry(id).or_default();
        u.endpoints += 1;
        if u.endpoints == 1 {
            self.users.entry(id).or_default().insert(node.clone());
            self.send_table(revision, node, id, delta);
        }
    }

    fn send_table(&mut self, revision: u64, node: &Name, id: TableId, delta: &mut Delta) {
        let Some(change) = self.encoded_table(id) else { return };
        if let Some(u) = self.held.get_mut(node).and_then(|v| v.tables.get_mut(&id)) {
            (u.policies_since, u.changed) = (revision, revision);
        }
        delta.own(node, change);
        let rules: Vec<_> = self.tables.get(&id).map(|t| t.rules.keys().copied().collect()).unwrap_or_default();
        self.hold_rules(node, &rules, delta);
    }

    fn drop_table(&mut self, node: &Name, id: TableId, delta: &mut Delta) {
        let Some(view) = self.held.get_mut(node) else { return };
        let Some(u) = view.tables.get_mut(&id) else { return };
        u.endpoints = u.endpoints.saturating_sub(1);
        if u.endpoints > 0 {
            return;
        }
        view.tables.remove(&id);
        if let Some(users) = self.users.get_mut(&id) {
            users.remove(node);
            if users.is_empty() {
                self.users.remove(&id);
            }
        }
        delta.own(node, Encoded::new(RowChange::Remove(RowKey::Table(id))));
        delta.dropped.insert(id);
        let rules: Vec<_> = self.tables.get(&id).map(|t| t.rules.keys().copied().collect()).unwrap_or_default();
        self.drop_rules(node, &rules, delta);
    }

    fn hold_rules(&mut self, node: &Name, ids: &[RuleId], delta: &mut Delta) {
        let view = self.held.entry(node.clone()).or_default();
        for id in ids {
            let held = view.rules.entry(*id).or_default();
            *held += 1;
            if let (1, Some(r)) = (*held, self.rules.get(id)) {
                delta.own(node, upsert(Row::Rule(r.clone())));
            }
        }
    }

    fn drop_rules(&mut self, node: &Name, ids: &[RuleId], delta: &mut Delta) {
        let Some(view) = self.held.get_mut(node) else { return };
        for id in ids {
            let Some(held) = view.rules.get_mut(id) else { continue };
            *held -= 1;
            if *held == 0 {
                view.rules.remove(id);
                delta.own(node, Encoded::new(RowChange::Remove(RowKey::Rule(*id))));
            }
        }
    }

    fn encoded_table(&mut self, id: TableId) -> Option<Arc<Encoded>> {
        let table = self.tables.get_mut(&id)?;
        Some(table.encoded.get_or_insert_with(|| upsert(Row::Table(table.row.clone()))).clone())
    }

    fn users(&self, id: TableId) -> Vec<Name> {
        self.users.get(&id).into_iter().flatten().cloned().collect()
    }

    fn index_policies(&mut self, row: &TableRow, add: bool) {
        for policy in row.policies.keys() {
            let tables = self.by_policy.entry(policy.clone()).or_default();
            let _ = if add { tables.insert(row.id) } else { tables.remove(&row.id) };
            if tables.is_empty() {
                self.by_policy.remove(policy);
            }
        }
    }

    /// The rows that go to all nodes as frames, by type.
    pub(super) fn shared(&self) -> Vec<(RowType, Vec<Bytes>)> {
        vec![
            (RowType::Node, frame::rows(self.nodes.values().cloned().map(Row::Node))),
            (RowType::Identity, frame::rows(self.identities.values().cloned().map(Row::Identity))),
            (RowType::Service, frame::rows(self.services.values().cloned().map(Row::Service))),
            (RowType::Ip, frame::rows(self.ips.values().cloned().map(Row::Ip))),
        ]
    }

    /// The rows of one node only, by type.
    pub(super) fn own(&mut self, node: &str) -> Vec<(RowType, Vec<Arc<Encoded>>)> {
        let tables: Vec<_> = self.held.get(node).map(|v| v.tables.keys().copied().collect()).unwrap_or_default();
        let tables = tables.into_iter().filter_map(|t| self.encoded_table(t)).collect();
        let config = self.configs.get(node).cloned().map(Row::Config).map(upsert);
        let view = self.held.get(node);
        let rules = view.into_iter().flat_map(|v| v.rules.keys()).filter_map(|r| self.rules.get(r));
        let endpoints = view.into_iter().flat_map(|v| &v.endpoints).filter_map(|e| self.endpoints.get(e));
        vec![
            (RowType::Config, config.into_iter().collect()),
            (RowType::Rule, rules.cloned().map(Row::Rule).map(upsert).collect()),
            (RowType::Table, tables),
            (RowType::Endpoint, endpoints.cloned().map(Row::Endpoint).map(upsert).collect()),
        ]
    }

    pub(super) fn endpoint(&self, uid: &str) -> Option<&EndpointRow> {
        self.endpoints.get(uid).map(|e| &**e)
    }

    pub(super) fn table(&self, id: TableId) -> Option<&TableRow> {
        self.tables.get(&id).map(|t| &*t.row)
    }

    pub(super) fn node(&self, name: &str) -> Option<&NodeRow> {
        self.nodes.get(name)
    }

    /// Tables that enforce the policy, with the nodes that have them.
    pub(super) fn uses(&self, policy: &ObjectRef) -> impl Iterator<Item = (&Name, TableId, i64, Use)> {
        let tables = self.by_policy.get(policy).into_iter().flatten();
        let generations = tables.filter_map(|t| Some((*t, *self.tables.get(t)?.row.policies.get(policy)?)));
        generations.flat_map(move |(t, g)| {
            let users = self.users.get(&t).into_iter().flatten();
            users.filter_map(move |n| Some((n, t, g, *self.held.get(n)?.tables.get(&t)?)))
        })
    }

    /// The node's tables whose policies came with the revisions behind `from` up to `to`.
    pub(super) fn brought(&self, node: &str, from: u64, to: u64) -> impl Iterator<Item = TableId> {
        let tables = self.held.get(node).into_iter().flat_map(|v| &v.tables);
        tables.filter(move |(_, u)| (from + 1..=to).contains(&u.policies_since)).map(|(t, _)| *t)
    }

    /// Policies that a table enforces.
    pub(super) fn policies(&self, table: TableId) -> impl Iterator<Item = &ObjectRef> {
        self.tables.get(&table).into_iter().flat_map(|t| t.row.policies.keys())
    }
}

fn upsert(row: Row) -> Arc<Encoded> {
    Encoded::new(RowChange::Upsert(row))
}

/// A rule or a table may be let go by one change and taken up by the next: only how it ends counts.
fn settle(own: &mut Vec<Arc<Encoded>>) {
    let removal = |e: &Arc<Encoded>| matches!(e.change, RowChange::Remove(_));
    let ends: HashMap<RowKey, bool> = own.iter().map(|e| (e.change.key(), removal(e))).collect();
    own.retain(|e| ends.get(&e.change.key()) == Some(&removal(e)));
}

/// Whether the row is new or differs.
fn put<K: Ord, V: Clone + PartialEq>(map: &mut BTreeMap<K, V>, key: K, row: &V) -> bool {
    if map.get(&key) == Some(row) {
        return false;
    }
    map.insert(key, row.clone());
    true
}

fn rules_of(t: &TableRow) -> HashMap<RuleId, u32> {
    let mut rules = HashMap::new();
    let defaults = [t.ingress_default.rule, t.egress_default.rule];
    for r in t.entries.values().map(|e| e.rule).chain(defaults).filter(|r| *r != RuleId::default()) {
        *rules.entry(r).or_default() += 1;
    }
    rules
}
