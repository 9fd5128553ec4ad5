//! What is shown, kept after the one state: what a flush changed is looked at again, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use axoneme_model::{Identity, Labels, rows::TableId};
use axoneme_views::{
    Endpoint, Node, PolicyTable, Shelf, Stance, View as _,
    kinds::{Content, EndpointPolicy, Key},
    store::Scope,
};
use axoneme_wire::Proof;

use crate::core::{Core, Shown};

/// Between two looks at the nodes: thousands of them acknowledge each revision.
const NODES: Duration = Duration::from_secs(1);

type Name = Arc<str>;

/// Follows the state with what is shown of it.
#[derive(Debug)]
pub struct Follow {
    shelf: Arc<Shelf>,
    tables: HashMap<TableId, Table>,
    identities: BTreeMap<Identity, Known>,
    /// How many endpoints nodes have.
    endpoints: HashMap<Name, u32>,
    nodes: BTreeSet<Name>,
    /// When nodes were looked at, and the newest revision then that all were asked to acknowledge.
    looked: Option<(Instant, u64)>,
}

#[derive(Debug, Default)]
struct Table {
    content: Arc<Content>,
    endpoints: BTreeMap<Name, u32>,
}

#[derive(Debug, Default)]
struct Known {
    labels: Option<Labels>,
    endpoints: u32,
}

/// What has to be shown anew because of others.
#[derive(Debug, Default)]
struct Touched {
    tables: BTreeSet<(Name, TableId)>,
    identities: BTreeSet<Identity>,
}

impl Follow {
    #[must_use]
    pub fn new(shelf: Arc<Shelf>) -> Self {
        Self {
            shelf,
            tables: HashMap::new(),
            identities: BTreeMap::new(),
            endpoints: HashMap::new(),
            nodes: BTreeSet::new(),
            looked: None,
        }
    }

    /// Takes over what the last flush changed. `ready`: the whole cluster has been read.
    pub fn follow(&mut self, core: &mut Core, ready: bool, now: Instant) {
        let shown = core.take_shown();
        let mut touched = Touched::default();
        let mut keys = self.look_at_tables(core, &shown, &mut touched);
        keys.extend(shown.pods.keys().cloned());
        keys.extend(shown.endpoints.iter().cloned());
        if !keys.is_empty() {
            let changes: Vec<_> = keys.into_iter().map(|key| self.endpoint(core, &shown, key, &mut touched)).collect();
            self.shelf.endpoints.apply(changes);
        }
        for (id, labels) in shown.identities {
            self.identities.entry(id).or_default().labels = labels;
            touched.identities.insert(id);
        }
        self.show(core, touched);
        self.look_at_nodes(core, now);
        self.shelf.lead(core.is_leading());
        if ready && !self.shelf.is_complete() {
            self.shelf.completed();
        }
    }

    /// Takes tables over. Endpoints whose stances that changes.
    fn look_at_tables(&mut self, core: &Core, shown: &Shown, touched: &mut Touched) -> BTreeSet<Key> {
        let mut changed = BTreeSet::new();
        for id in &shown.tables {
            let Some(row) = core.hub.table(*id) else { continue };
            let content = Content::from(row);
            let table = self.tables.entry(*id).or_default();
            if *table.content == content {
                continue;
            }
            if !table.endpoints.is_empty() && stances(&table.content) != stances(&content) {
                changed.insert(*id);
            }
            table.content = Arc::new(content);
            touched.tables.extend(table.endpoints.keys().map(|namespace| (namespace.clone(), *id)));
        }
        if changed.is_empty() { BTreeSet::new() } else { self.users(&changed) }
    }

    /// Endpoints that have one of these tables. Rare: what isolates a table's subjects is part of what names it.
    fn users(&self, tables: &BTreeSet<TableId>) -> BTreeSet<Key> {
        let (mut users, mut after) = (BTreeSet::new(), None);
        loop {
            let has = |e: &Endpoint| e.policy.as_ref().is_some_and(|p| tables.contains(&p.table));
            let batch = self.shelf.endpoints.batch(&Scope::All, after.as_ref(), has, usize::MAX);
            users.extend(batch.items.iter().map(|(e, _)| e.key()));
            after = batch.more;
            if after.is_none() {
                return users;
            }
        }
    }

    fn endpoint(&mut self, core: &Core, shown: &Shown, key: Key, touched: &mut Touched) -> (Key, Option<Endpoint>) {
        let before = self.shelf.endpoints.get(&key).map(|(e, _)| e);
        let pod = match shown.pods.get(&key) {
            Some(pod) => pod.clone(),
            None => before.as_ref().map(|e| e.pod.clone()),
        };
        let after = pod.map(|pod| {
            let policy = core.hub.endpoint(&pod.uid).map(|row| {
                let of = self.tables.get(&row.table).map_or([Stance::Unknown; 2], |t| stances(&t.content));
                EndpointPolicy::new(row, of)
            });
            Endpoint { pod, policy }
        });
        for (endpoint, more) in [(&before, false), (&after, true)] {
            if let Some(endpoint) = endpoint {
                self.count(endpoint, more, touched);
            }
        }
        (key, after)
    }

    fn count(&mut self, endpoint: &Endpoint, more: bool, touched: &mut Touched) {
        let pod = &endpoint.pod;
        if !pod.node.is_empty() {
            count(&mut self.endpoints, pod.node.clone(), more);
        }
        let Some(policy) = &endpoint.policy else { return };
        let known = self.identities.entry(policy.identity).or_default();
        known.endpoints = if more { known.endpoints + 1 } else { known.endpoints.saturating_sub(1) };
        touched.identities.insert(policy.identity);
        let table = self.tables.entry(policy.table).or_default();
        let of = table.endpoints.entry(pod.namespace.clone()).or_default();
        *of = if more { *of + 1 } else { of.saturating_sub(1) };
        touched.tables.insert((pod.namespace.clone(), policy.table));
    }

    fn show(&mut self, core: &Core, touched: Touched) {
        let mut tables = Vec::new();
        for (namespace, id) in touched.tables {
            let Some(table) = self.tables.get_mut(&id) else { continue };
            let endpoints = table.endpoints.get(&namespace).copied().unwrap_or_default();
            let view = PolicyTable { namespace: namespace.clone(), id, endpoints, content: table.content.clone() };
            tables.push((view.key(), (endpoints > 0).then_some(view)));
            if endpoints == 0 {
                table.endpoints.remove(&namespace);
            }
            if table.endpoints.is_empty() && core.hub.table(id).is_none() {
                self.tables.remove(&id);
            }
        }
        if !tables.is_empty() {
            self.shelf.policy_tables.apply(tables);
        }
        let mut identities = Vec::new();
        for id in touched.identities {
            let Some(known) = self.identities.get(&id) else { continue };
            let view = known.labels.as_ref().map(|labels| axoneme_views::Identity {
                id,
                labels: labels.clone(),
                endpoints: known.endpoints,
            });
            if view.is_none() && known.endpoints == 0 {
                self.identities.remove(&id);
            }
            identities.push(((Name::default(), id.0.to_string().into()), view));
        }
        if !identities.is_empty() {
            self.shelf.identities.apply(identities);
        }
    }

    fn look_at_nodes(&mut self, core: &Core, now: Instant) {
        if self.looked.is_some_and(|(at, _)| now.saturating_duration_since(at) < NODES) {
            return;
        }
        // what nodes were asked for at the last look should be in force by now
        let due = self.looked.map_or(0, |(_, revision)| revision);
        self.looked = Some((now, core.hub.asked()));
        let there = core.cluster.nodes.iter().filter(|(_, entry)| entry.node.is_some());
        let nodes: BTreeMap<Name, Node> = there.map(|(name, _)| (name.clone(), self.node(core, name, due))).collect();
        let gone: Vec<_> = self.nodes.iter().filter(|n| !nodes.contains_key(*n)).cloned().collect();
        self.nodes = nodes.keys().cloned().collect();
        let changes = gone.into_iter().map(|n| (n, None)).chain(nodes.into_iter().map(|(n, node)| (n, Some(node))));
        self.shelf.nodes.apply(changes.map(|(name, node)| ((Name::default(), name), node)).collect::<Vec<_>>());
    }

    fn node(&self, core: &Core, name: &Name, due: u64) -> Node {
        let entry = core.cluster.nodes.get(name);
        let object = entry.and_then(|e| e.node.as_ref());
        let report = entry.and_then(|e| e.report.as_ref());
        let row = core.hub.node(name);
        let acknowledged = core.hub.acked(name).filter(|_| core.hub.is_connected(name));
        Node {
            name: name.clone(),
            labels: object.map(|n| n.labels.clone()).unwrap_or_default(),
            addresses: object.map(|n| n.addresses.clone()).unwrap_or_default(),
            pod_cidrs: row.map(|r| r.pod_cidrs.clone()).unwrap_or_default(),
            endpoints: self.endpoints.get(name).copied().unwrap_or_default(),
            connected: core.hub.is_connected(name),
            ready: report.is_some_and(|r| r.ready),
            reasons: report.map(|r| r.reasons.clone()).unwrap_or_default(),
            capabilities: report.map(|r| r.capabilities.clone()).unwrap_or_default(),
            acknowledged,
            behind: acknowledged.is_some_and(|a| a < due),
            refused: core.hub.refusals(name).map(|(id, why)| format!("table {:016x}: {why}", id.0)).collect(),
            unreachable: report.and_then(|r| match &r.proof {
                Proof::Refuted(what) => Some(what.clone()),
                Proof::Unasked | Proof::Proven | Proof::Pending => None,
            }),
        }
    }
}

fn stances(content: &Content) -> [Stance; 2] {
    [content.ingress, content.egress]
}

fn count(counts: &mut HashMap<Name, u32>, name: Name, more: bool) {
    if more {
        *counts.entry(name).or_default() += 1;
    } else if let Some(count) = counts.get_mut(&name) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&name);
        }
    }
}
