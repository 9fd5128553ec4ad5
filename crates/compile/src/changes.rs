//! What differs between two states of the rows.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use axoneme_model::{
    Cidr, Identity, Labels, ObjectRef,
    rows::{
        DirectionDefault, EndpointRow, GuardRow, IdentityRow, IpRow, NodeRow, PolicyEntry, PolicyKey, RowSet, RuleId,
        RuleRow, ServiceRow, TableId, TableRow,
    },
};

/// A row that changed. `before` is none for a new one, `after` for one that went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<V> {
    pub before: Option<V>,
    pub after: Option<V>,
}

/// Changed rows by key.
pub type Changes<K, V> = BTreeMap<K, Change<V>>;

/// What [`crate::Compiler::apply`] changed: rows of the whole cluster. [`crate::Compiler::changes_for`] cuts out what a
/// node needs. A change set that is empty means that nothing a node could notice has changed.
///
/// *Expected flow*: an agent applies, in this order, `identities`, `nodes`, `rules`, new tables and the upserts of
/// patches, `ips`, `services`, `endpoints`; then the removals of patches, removed tables, and what was removed of the
/// others. *Guarantees*: in that order no packet meets a verdict that neither the state before nor the state after
/// gives it because of a missing table or peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeSet {
    pub nodes: Changes<Arc<str>, NodeRow>,
    pub identities: Changes<Identity, IdentityRow>,
    pub rules: Changes<RuleId, RuleRow>,
    pub tables: BTreeMap<TableId, TableChange>,
    pub endpoints: Changes<Arc<str>, Arc<EndpointRow>>,
    pub ips: Changes<Cidr, Arc<IpRow>>,
    pub services: Changes<(Arc<str>, Arc<str>), ServiceRow>,
    /// What guards nodes themselves, by node. The tables are among the tables.
    pub guards: Changes<Arc<str>, GuardRow>,
    /// Tables that a node starts (`true`) or stops (`false`) to need.
    pub needs: BTreeMap<(Arc<str>, TableId), bool>,
    /// Identity labels that became wanted (`true`) or are not wanted any more (`false`), with or without a number.
    pub wanted: BTreeMap<Labels, bool>,
}

impl ChangeSet {
    /// Whether no row changed. `wanted` is not a row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
            && self.identities.is_empty()
            && self.rules.is_empty()
            && self.tables.is_empty()
            && self.endpoints.is_empty()
            && self.ips.is_empty()
            && self.services.is_empty()
            && self.guards.is_empty()
            && self.needs.is_empty()
    }
}

/// What happened to a policy table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableChange {
    /// It is new: [`crate::Compiler::table`] has it.
    New,
    Patch(TablePatch),
    Removed,
}

/// The difference of a table's content.
///
/// *Guarantees*: applied entry by entry in the order of the lists, upserts before removals, every lookup at any time
/// gives the verdict of the table before or of the table after, never a third one: upserts go from narrow to wide (the
/// entries of a peer before those of anyone), removals from wide to narrow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablePatch {
    pub id: TableId,
    /// New defaults. They go between upserts and removals.
    pub ingress_default: Option<DirectionDefault>,
    pub egress_default: Option<DirectionDefault>,
    /// The policies that the table enforces now, if that changed.
    pub policies: Option<BTreeMap<ObjectRef, i64>>,
    pub upserts: Vec<(PolicyKey, PolicyEntry)>,
    pub removals: Vec<PolicyKey>,
}

impl TablePatch {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ingress_default.is_none()
            && self.egress_default.is_none()
            && self.policies.is_none()
            && self.upserts.is_empty()
            && self.removals.is_empty()
    }

    /// Makes `table` what it is after the change.
    pub fn apply(&self, table: &mut TableRow) {
        table.entries.extend(self.upserts.iter().copied());
        table.ingress_default = self.ingress_default.unwrap_or(table.ingress_default);
        table.egress_default = self.egress_default.unwrap_or(table.egress_default);
        for key in &self.removals {
            table.entries.remove(key);
        }
        if let Some(policies) = &self.policies {
            table.policies.clone_from(policies);
        }
    }

    pub(crate) fn sort(&mut self) {
        self.upserts.sort_by_key(|(k, _)| (std::cmp::Reverse(k.narrowness()), *k));
        self.removals.sort_by_key(|k| (k.narrowness(), *k));
    }
}

/// The changes that one node has to hear of, rows ready to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeChanges {
    pub nodes: Changes<Arc<str>, NodeRow>,
    pub identities: Changes<Identity, IdentityRow>,
    /// Rules that new entries name.
    pub rules: BTreeMap<RuleId, RuleRow>,
    /// Rules that no table names any more, here or elsewhere.
    pub rules_removed: BTreeSet<RuleId>,
    pub tables: BTreeMap<TableId, TableRow>,
    pub patches: Vec<TablePatch>,
    pub tables_removed: BTreeSet<TableId>,
    pub endpoints: Changes<Arc<str>, Arc<EndpointRow>>,
    pub ips: Changes<Cidr, Arc<IpRow>>,
    pub services: Changes<(Arc<str>, Arc<str>), ServiceRow>,
}

impl NodeChanges {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Makes the rows of a node what they are after the change.
    pub fn apply(&self, rows: &mut RowSet) {
        merge(&mut rows.nodes, &self.nodes);
        merge(&mut rows.identities, &self.identities);
        rows.rules.extend(self.rules.iter().map(|(k, v)| (*k, v.clone())));
        rows.tables.extend(self.tables.iter().map(|(k, v)| (*k, v.clone())));
        for patch in &self.patches {
            if let Some(table) = rows.tables.get_mut(&patch.id) {
                patch.apply(table);
            }
        }
        merge_shared(&mut rows.ips, &self.ips);
        merge(&mut rows.services, &self.services);
        merge_shared(&mut rows.endpoints, &self.endpoints);
        rows.tables.retain(|id, _| !self.tables_removed.contains(id));
        rows.rules.retain(|id, _| !self.rules_removed.contains(id));
    }
}

fn merge_shared<K: Ord + Clone, V: Clone>(rows: &mut BTreeMap<K, V>, changes: &Changes<K, Arc<V>>) {
    for (key, change) in changes {
        match &change.after {
            Some(row) => drop(rows.insert(key.clone(), V::clone(row))),
            None => drop(rows.remove(key)),
        }
    }
}

fn merge<K: Ord + Clone, V: Clone>(rows: &mut BTreeMap<K, V>, changes: &Changes<K, V>) {
    for (key, change) in changes {
        match &change.after {
            Some(row) => drop(rows.insert(key.clone(), row.clone())),
            None => drop(rows.remove(key)),
        }
    }
}

/// Rows that remember what they were when the last change set was taken.
#[derive(Clone, Debug)]
pub(crate) struct Tracked<K, V> {
    rows: BTreeMap<K, V>,
    before: BTreeMap<K, Option<V>>,
}

impl<K, V> Default for Tracked<K, V> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), before: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> Tracked<K, V> {
    pub(crate) fn rows(&self) -> &BTreeMap<K, V> {
        &self.rows
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }

    /// What the row was when the last change set was taken, if it changed.
    pub(crate) fn before(&self, key: &K) -> Option<&V> {
        self.before.get(key)?.as_ref()
    }

    /// Puts the row, or removes it.
    pub(crate) fn set(&mut self, key: K, row: Option<V>) {
        let before = match (self.rows.entry(key.clone()), row) {
            (Entry::Occupied(e), Some(row)) if *e.get() == row => return,
            (Entry::Occupied(mut e), Some(row)) => Some(e.insert(row)),
            (Entry::Occupied(e), None) => Some(e.remove()),
            (Entry::Vacant(e), Some(row)) => {
                e.insert(row);
                None
            }
            (Entry::Vacant(_), None) => return,
        };
        self.before.entry(key).or_insert(before);
    }

    /// Takes the place of other rows: what changed is what differs from what those last told.
    pub(crate) fn succeed(&mut self, old: &Self) {
        let mut told = old.rows.clone();
        for (key, before) in &old.before {
            match before {
                Some(row) => drop(told.insert(key.clone(), row.clone())),
                None => drop(told.remove(key)),
            }
        }
        self.before = self.rows.keys().map(|k| (k.clone(), None)).collect();
        self.before.extend(told.into_iter().map(|(k, row)| (k, Some(row))));
    }

    /// What changed since the last call.
    pub(crate) fn take(&mut self) -> Changes<K, V> {
        let rows = &self.rows;
        let changes = std::mem::take(&mut self.before).into_iter();
        changes
            .map(|(key, before)| {
                let after = rows.get(&key).cloned();
                (key, Change { before, after })
            })
            .filter(|(_, c)| c.before != c.after)
            .collect()
    }
}

/// How often something is used.
#[derive(Clone, Debug)]
pub(crate) struct Counter<K>(std::collections::HashMap<K, usize>);

impl<K> Default for Counter<K> {
    fn default() -> Self {
        Self(std::collections::HashMap::new())
    }
}

impl<K: std::hash::Hash + Eq + Clone> Counter<K> {
    /// True if it was not used before.
    pub(crate) fn add(&mut self, key: &K) -> bool {
        if let Some(n) = self.0.get_mut(key) {
            *n += 1;
            return false;
        }
        self.0.insert(key.clone(), 1);
        true
    }

    /// True if it is not used any more.
    pub(crate) fn sub(&mut self, key: &K) -> bool {
        match self.0.get_mut(key) {
            Some(n) if *n > 1 => {
                *n -= 1;
                false
            }
            Some(_) => self.0.remove(key).is_some(),
            None => false,
        }
    }

    pub(crate) fn contains<Q: ?Sized + std::hash::Hash + Eq>(&self, key: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
    {
        self.0.contains_key(key)
    }
}
