//! Rows and changes of rows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use axoneme_model::{
    Cidr, Identity, ObjectRef,
    rows::{
        DirectionDefault, EndpointRow, IdentityRow, IpRow, NodeConfigRow, NodeRow, PolicyEntry, PolicyKey, RowSet,
        RuleId, RuleRow, ServiceRow, TableId, TableRow,
    },
};

/// The types of rows, in the order in which upserts are safe to apply; removals go the other way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowType {
    Config,
    Node,
    Identity,
    Rule,
    Table,
    Service,
    Ip,
    Endpoint,
}

impl RowType {
    pub const ALL: [Self; 8] =
        [Self::Config, Self::Node, Self::Identity, Self::Rule, Self::Table, Self::Service, Self::Ip, Self::Endpoint];
}

/// One row of any type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    Config(Arc<NodeConfigRow>),
    Node(NodeRow),
    Identity(IdentityRow),
    Rule(RuleRow),
    Table(Arc<TableRow>),
    Service(ServiceRow),
    Ip(Arc<IpRow>),
    Endpoint(Arc<EndpointRow>),
}

/// Key of a row of any type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKey {
    /// Name of the node.
    Config(Arc<str>),
    Node(Arc<str>),
    Identity(Identity),
    Rule(RuleId),
    Table(TableId),
    /// Namespace and name.
    Service(Arc<str>, Arc<str>),
    Ip(Cidr),
    /// Uid of the pod.
    Endpoint(Arc<str>),
}

impl Row {
    #[must_use]
    pub fn key(&self) -> RowKey {
        match self {
            Self::Config(r) => RowKey::Config(r.node.clone()),
            Self::Node(r) => RowKey::Node(r.name.clone()),
            Self::Identity(r) => RowKey::Identity(r.id),
            Self::Rule(r) => RowKey::Rule(r.id),
            Self::Table(r) => RowKey::Table(r.id),
            Self::Service(r) => RowKey::Service(r.namespace.clone(), r.name.clone()),
            Self::Ip(r) => RowKey::Ip(r.prefix),
            Self::Endpoint(r) => RowKey::Endpoint(r.uid.clone()),
        }
    }
}

impl RowKey {
    #[must_use]
    pub const fn row_type(&self) -> RowType {
        match self {
            Self::Config(_) => RowType::Config,
            Self::Node(_) => RowType::Node,
            Self::Identity(_) => RowType::Identity,
            Self::Rule(_) => RowType::Rule,
            Self::Table(_) => RowType::Table,
            Self::Service(..) => RowType::Service,
            Self::Ip(_) => RowType::Ip,
            Self::Endpoint(_) => RowType::Endpoint,
        }
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(n) => write!(f, "config of node {n}"),
            Self::Node(n) => write!(f, "node {n}"),
            Self::Identity(i) => write!(f, "identity {}", i.0),
            Self::Rule(r) => write!(f, "rule {}", r.0),
            Self::Table(t) => write!(f, "table {:016x}", t.0),
            Self::Service(ns, n) => write!(f, "service {ns}/{n}"),
            Self::Ip(p) => write!(f, "address {p}"),
            Self::Endpoint(u) => write!(f, "endpoint {u}"),
        }
    }
}

/// Changes of one table that the receiver already has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePatch {
    pub id: TableId,
    /// None: unchanged.
    pub ingress_default: Option<DirectionDefault>,
    pub egress_default: Option<DirectionDefault>,
    pub upserts: BTreeMap<PolicyKey, PolicyEntry>,
    pub removals: BTreeSet<PolicyKey>,
    /// The whole new list, if it changed.
    pub policies: Option<BTreeMap<ObjectRef, i64>>,
}

impl TablePatch {
    /// A patch that changes nothing.
    #[must_use]
    pub const fn new(id: TableId) -> Self {
        Self {
            id,
            ingress_default: None,
            egress_default: None,
            upserts: BTreeMap::new(),
            removals: BTreeSet::new(),
            policies: None,
        }
    }

    /// What makes `new` of `old`. Both must have the same id.
    #[must_use]
    pub fn between(old: &TableRow, new: &TableRow) -> Self {
        Self {
            id: new.id,
            ingress_default: (old.ingress_default != new.ingress_default).then_some(new.ingress_default),
            egress_default: (old.egress_default != new.egress_default).then_some(new.egress_default),
            upserts: new.entries.iter().filter(|(k, v)| old.entries.get(k) != Some(v)).map(|(k, v)| (*k, *v)).collect(),
            removals: old.entries.keys().filter(|k| !new.entries.contains_key(k)).copied().collect(),
            policies: (old.policies != new.policies).then(|| new.policies.clone()),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::new(self.id)
    }

    pub fn apply_to(&self, table: &mut TableRow) {
        if let Some(d) = self.ingress_default {
            table.ingress_default = d;
        }
        if let Some(d) = self.egress_default {
            table.egress_default = d;
        }
        for k in &self.removals {
            table.entries.remove(k);
        }
        table.entries.extend(self.upserts.iter().map(|(k, v)| (*k, *v)));
        if let Some(p) = &self.policies {
            table.policies.clone_from(p);
        }
    }

    /// The upserts in an order in which every lookup at any time gives the verdict of the table before or after: from
    /// narrow to wide. Defaults go next, then [`Self::removals_in_order`].
    #[must_use]
    pub fn upserts_in_order(&self) -> Vec<(PolicyKey, PolicyEntry)> {
        let mut list: Vec<_> = self.upserts.iter().map(|(k, v)| (*k, *v)).collect();
        list.sort_by_key(|(k, _)| (std::cmp::Reverse(k.narrowness()), *k));
        list
    }

    /// The removals, from wide to narrow.
    #[must_use]
    pub fn removals_in_order(&self) -> Vec<PolicyKey> {
        let mut list: Vec<_> = self.removals.iter().copied().collect();
        list.sort_by_key(|k| (k.narrowness(), *k));
        list
    }

    /// This patch followed by a later one of the same table.
    #[must_use]
    pub fn then(mut self, later: &Self) -> Self {
        self.ingress_default = later.ingress_default.or(self.ingress_default);
        self.egress_default = later.egress_default.or(self.egress_default);
        for k in &later.removals {
            self.upserts.remove(k);
            self.removals.insert(*k);
        }
        for (k, v) in &later.upserts {
            self.removals.remove(k);
            self.upserts.insert(*k, *v);
        }
        if later.policies.is_some() {
            self.policies.clone_from(&later.policies);
        }
        self
    }
}

/// One change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowChange {
    Upsert(Row),
    Remove(RowKey),
    Patch(TablePatch),
}

impl RowChange {
    #[must_use]
    pub fn key(&self) -> RowKey {
        match self {
            Self::Upsert(r) => r.key(),
            Self::Remove(k) => k.clone(),
            Self::Patch(p) => RowKey::Table(p.id),
        }
    }

    /// Sorts so that changes can be applied one by one: upserts in the order of [`RowType`], then removals in reverse.
    #[must_use]
    pub fn order(&self) -> (bool, i8) {
        let t = self.key().row_type() as i8;
        match self {
            Self::Remove(_) => (true, -t),
            _ => (false, t),
        }
    }
}

/// Sorts changes into the order that is safe to apply; stable inside a type.
pub fn sort(changes: &mut [RowChange]) {
    changes.sort_by_cached_key(RowChange::order);
}

/// Applies a change to a set of rows. A patch of a table that is not there is an error: the sender and the receiver
/// disagree, and only a snapshot mends that.
pub fn apply(set: &mut RowSet, change: RowChange) -> Result<(), MissingTable> {
    match change {
        RowChange::Upsert(row) => upsert(set, row),
        RowChange::Remove(key) => remove(set, &key),
        RowChange::Patch(p) => p.apply_to(set.tables.get_mut(&p.id).ok_or(MissingTable(p.id))?),
    }
    Ok(())
}

/// A patch for a table that the receiver doesn't have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a patch of table {:016x} came before the table", .0.0)]
pub struct MissingTable(pub TableId);

fn upsert(set: &mut RowSet, row: Row) {
    match row {
        Row::Config(r) => set.config = Some(Arc::unwrap_or_clone(r)),
        Row::Node(r) => drop(set.nodes.insert(r.name.clone(), r)),
        Row::Identity(r) => drop(set.identities.insert(r.id, r)),
        Row::Rule(r) => drop(set.rules.insert(r.id, r)),
        Row::Table(r) => drop(set.tables.insert(r.id, Arc::unwrap_or_clone(r))),
        Row::Service(r) => drop(set.services.insert((r.namespace.clone(), r.name.clone()), r)),
        Row::Ip(r) => drop(set.ips.insert(r.prefix, Arc::unwrap_or_clone(r))),
        Row::Endpoint(r) => drop(set.endpoints.insert(r.uid.clone(), Arc::unwrap_or_clone(r))),
    }
}

fn remove(set: &mut RowSet, key: &RowKey) {
    match key {
        RowKey::Config(_) => set.config = None,
        RowKey::Node(k) => drop(set.nodes.remove(k)),
        RowKey::Identity(k) => drop(set.identities.remove(k)),
        RowKey::Rule(k) => drop(set.rules.remove(k)),
        RowKey::Table(k) => drop(set.tables.remove(k)),
        RowKey::Service(ns, n) => drop(set.services.remove(&(ns.clone(), n.clone()))),
        RowKey::Ip(k) => drop(set.ips.remove(k)),
        RowKey::Endpoint(k) => drop(set.endpoints.remove(k)),
    }
}

/// All rows of a set as upserts, in the order that is safe to apply.
#[must_use]
pub fn upserts(set: &RowSet) -> Vec<RowChange> {
    each(set).collect()
}

/// [`upserts`] one by one: all of them at once are a copy of the set.
pub(crate) fn each(set: &RowSet) -> impl Iterator<Item = RowChange> {
    let rows = set
        .config
        .iter()
        .map(|r| Row::Config(Arc::new(r.clone())))
        .chain(set.nodes.values().cloned().map(Row::Node))
        .chain(set.identities.values().cloned().map(Row::Identity))
        .chain(set.rules.values().cloned().map(Row::Rule))
        .chain(set.tables.values().map(|r| Row::Table(Arc::new(r.clone()))))
        .chain(set.services.values().cloned().map(Row::Service))
        .chain(set.ips.values().map(|r| Row::Ip(Arc::new(r.clone()))))
        .chain(set.endpoints.values().map(|r| Row::Endpoint(Arc::new(r.clone()))));
    rows.map(RowChange::Upsert)
}
