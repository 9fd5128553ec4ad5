//! Policy tables, kept as one list of entries per peer.

mod candidates;
pub(super) mod closed;
pub(super) mod size;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use axoneme_model::{
    Direction, ObjectRef, PeerClass, Protocol,
    rows::{DirectionDefault, PolicyEntry, PolicyKey, RuleId, TableId, TableRow},
};

use super::{
    classes::{ClassState, Classes},
    sets::Sets,
};
use crate::{
    changes::{TableChange, TablePatch},
    feature::{Features, Property},
    ids::Ids,
    number::ByClass,
    peer::{Base, PeerKind},
    ports::{Colour, Slot},
    resolve::{Class, Levels, OWN_HOST, Side, matches},
    rules::{RuleIds, RuleKey},
    spec::{Entry, RuleSpec},
    table::{self, TableKey},
};

pub(super) use candidates::candidates;
use closed::{Closed, told};

pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// One entry under a peer: protocol, port, bits, verdict.
type Item = (Option<Protocol>, u16, u8, PolicyEntry);
/// All entries under a peer, in order.
type List = Arc<[Item]>;

/// The entries of one direction of a table, by peer.
#[derive(Clone, Debug, Default)]
struct Lists {
    by_peer: ByClass<List>,
    /// Entries of all peers.
    entries: usize,
}

/// What lists were. None: nobody was told of the table yet.
type Journal<'a> = Option<&'a mut ByClass<Option<List>>>;

#[derive(Clone, Debug)]
pub(super) struct TableState {
    pub(super) key: Arc<TableKey>,
    rules: Vec<Arc<RuleSpec>>,
    policies: BTreeMap<ObjectRef, i64>,
    defaults: [DirectionDefault; 2],
    /// Ingress, egress.
    lists: [Lists; 2],
    /// What is told of it instead, where no map holds it.
    closed: Closed,
    /// Endpoints that use it.
    pub(super) users: usize,
}

/// What a table was when the last change set was taken, as far as it changed.
#[derive(Clone, Debug, Default)]
struct Before {
    /// It did not exist.
    absent: bool,
    policies: Option<BTreeMap<ObjectRef, i64>>,
    defaults: Option<[DirectionDefault; 2]>,
    lists: [ByClass<Option<List>>; 2],
    closed: Option<Closed>,
    /// It was removed: its last state, on top of which the rest of this goes.
    gone: Option<Box<TableState>>,
}

/// Which peers of a table have to be resolved anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Some(BTreeSet<PeerClass>),
    All,
}

impl Default for Scope {
    fn default() -> Self {
        Self::Some(BTreeSet::new())
    }
}

impl Scope {
    pub(super) fn add(&mut self, classes: impl IntoIterator<Item = PeerClass>) {
        if let Self::Some(some) = self {
            some.extend(classes);
        }
    }
}

/// What tables are made from.
pub(super) struct Context<'a> {
    pub(super) config: &'a axoneme_model::world::ClusterConfig,
    pub(super) rules: &'a HashMap<RuleKey, Arc<RuleSpec>>,
    pub(super) rule_ids: &'a RuleIds,
    pub(super) classes: &'a Classes,
    pub(super) sets: &'a Sets,
    pub(super) meant: &'a Meant,
}

/// The classes that entries mean, found once for all tables that a change touches: the rules of a namespace are in the
/// tables of all its pods. Keyed by the address of the entry, so it lives no longer than one change.
#[derive(Debug, Default)]
pub(super) struct Meant(Mutex<HashMap<usize, Arc<[PeerClass]>>>);

impl Meant {
    fn by(&self, entry: &Entry, classes: &Classes, sets: &Sets) -> Arc<[PeerClass]> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.entry(std::ptr::from_ref(entry).addr());
        found.or_insert_with(|| candidates(entry, classes, sets).into()).clone()
    }
}

#[derive(Debug)]
pub(super) struct Tables {
    pub(super) by_id: BTreeMap<TableId, TableState>,
    ids: Ids<Arc<TableKey>>,
    pub(super) by_rule: HashMap<RuleKey, BTreeSet<TableId>>,
    before: BTreeMap<TableId, Before>,
    /// Tables that were made from everything as it is now.
    made: BTreeSet<TableId>,
    /// Tables of which a direction is closed.
    closed: BTreeSet<TableId>,
}

impl Tables {
    pub(super) fn new() -> Self {
        Self {
            by_id: BTreeMap::new(),
            ids: Ids::new("table", 1..=u64::MAX),
            by_rule: HashMap::new(),
            before: BTreeMap::new(),
            made: BTreeSet::new(),
            closed: BTreeSet::new(),
        }
    }

    /// Gives a table its id. True where that takes an id from a table that is there: everything has to be compiled anew.
    pub(super) fn reserve(&mut self, key: &Arc<TableKey>) -> bool {
        self.moves(|ids| ids.insert(key))
    }

    fn moves(&mut self, change: impl FnOnce(&mut Ids<Arc<TableKey>>) -> Vec<Arc<TableKey>>) -> bool {
        let moved = change(&mut self.ids);
        !moved.is_empty() && self.by_id.values().any(|t| moved.contains(&t.key))
    }

    /// The tables that were made since the last call.
    pub(super) fn take_made(&mut self) -> BTreeSet<TableId> {
        std::mem::take(&mut self.made)
    }

    /// One more endpoint uses the table, whose id is reserved.
    pub(super) fn acquire(&mut self, key: Arc<TableKey>, context: &Context<'_>) -> TableId {
        let id = TableId(self.ids.get(&key).unwrap_or(0));
        if !self.by_id.contains_key(&id) {
            self.create(id, key, context);
        }
        if let Some(table) = self.by_id.get_mut(&id) {
            table.users += 1;
        }
        id
    }

    fn create(&mut self, id: TableId, key: Arc<TableKey>, context: &Context<'_>) {
        for rule in &key.rules {
            self.by_rule.entry(rule.clone()).or_default().insert(id);
        }
        let none = DirectionDefault { allow: true, audit: false, rule: RuleId(0) };
        let table = TableState {
            key,
            rules: vec![],
            policies: BTreeMap::new(),
            defaults: [none; 2],
            lists: <[Lists; 2]>::default(),
            closed: Closed::default(),
            users: 0,
        };
        let before = self.before.entry(id).or_insert_with(|| Before { absent: true, ..Before::default() });
        if let Some(gone) = before.gone.take() {
            before.keep(&gone);
        }
        self.by_id.insert(id, table);
        self.made.insert(id);
        self.update(id, &[Scope::All, Scope::All], context);
    }

    /// One endpoint less uses the table. True where everything has to be compiled anew.
    pub(super) fn release(&mut self, id: TableId) -> bool {
        let Some(table) = self.by_id.get_mut(&id) else { return false };
        table.users -= 1;
        if table.users > 0 {
            return false;
        }
        let Some(table) = self.by_id.remove(&id) else { return false };
        for rule in &table.key.rules {
            if let Some(ids) = self.by_rule.get_mut(rule) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_rule.remove(rule);
                }
            }
        }
        let before = self.before.entry(id).or_default();
        let key = table.key.clone();
        before.gone = (!before.absent).then(|| Box::new(table));
        self.moves(|ids| ids.remove(&key))
    }

    /// Resolves the given peers of a table anew, per direction.
    pub(super) fn update(&mut self, id: TableId, scopes: &[Scope; 2], context: &Context<'_>) {
        let Some(table) = self.by_id.get_mut(&id) else { return };
        let before = self.before.entry(id).or_default();
        table.rules = table.key.rules.iter().filter_map(|k| context.rules.get(k).cloned()).collect();
        let rules: Vec<&RuleSpec> = table.rules.iter().map(|r| &**r).collect();
        let policies: BTreeMap<ObjectRef, i64> = rules.iter().map(|r| (r.object.clone(), r.generation)).collect();
        if policies != table.policies {
            let old = std::mem::replace(&mut table.policies, policies);
            before.policies.get_or_insert(old);
        }
        let key = table.key.clone();
        let defaults = DIRECTIONS.map(|d| table::default(context.config, context.rule_ids, &rules, &key, d));
        let told = std::mem::replace(&mut table.defaults, defaults);
        if defaults != told {
            before.defaults.get_or_insert(told);
        }
        let directions = DIRECTIONS.into_iter().zip(scopes).zip(told.into_iter().zip(defaults));
        let places = table.lists.iter_mut().zip(before.lists.iter_mut());
        let absent = before.absent;
        for (((direction, scope), (told, default)), (lists, journal)) in directions.zip(places) {
            let journal = Some(journal).filter(|_| !absent);
            let side = table::side(context.config, &rules, &table.key, direction, default);
            let resolver = Resolver { side: &side, default, context };
            match scope {
                Scope::Some(classes) if told == default => {
                    if !classes.is_empty() {
                        resolver.some(classes, lists, journal);
                    }
                }
                // entries may repeat the default, or leave something to it
                Scope::Some(_) | Scope::All => resolver.all(lists, journal),
            }
        }
    }

    pub(super) fn row(&self, id: TableId) -> Option<TableRow> {
        let table = self.by_id.get(&id)?;
        let [ingress_default, egress_default] = table.closed.defaults(table.defaults);
        let mut entries = BTreeMap::new();
        for ((direction, lists), shutter) in DIRECTIONS.into_iter().zip(&table.lists).zip(table.closed.0) {
            for (peer, list) in &lists.by_peer {
                entries.extend(list.iter().filter(|e| told(shutter, e)).map(|e| keyed(direction, *peer, e)));
            }
        }
        Some(TableRow { id, ingress_default, egress_default, entries, policies: table.policies.clone() })
    }

    /// Whether a table of nodes changed since the last change set was taken.
    pub(super) fn touched_nodes(&self) -> bool {
        self.before.keys().filter_map(|id| self.by_id.get(id)).any(|t| t.key.nodes)
    }

    /// How many entries a table has, if it is there.
    pub(super) fn entries(&self, id: TableId) -> Option<usize> {
        Some(self.by_id.get(&id)?.lists.iter().map(|l| l.entries).sum())
    }

    /// The rules that a table names.
    pub(super) fn named(&self, id: TableId) -> BTreeSet<RuleId> {
        let Some(table) = self.by_id.get(&id) else { return BTreeSet::new() };
        let lists = table.lists.iter().zip(table.closed.0);
        let lists = lists.flat_map(|(lists, shutter)| lists.by_peer.values().map(move |list| (list, shutter)));
        let entries = lists.flat_map(|(l, shutter)| l.iter().filter(move |e| told(shutter, e)).map(|e| e.3.rule));
        entries.chain(table.closed.defaults(table.defaults).iter().map(|d| d.rule)).collect()
    }

    /// Takes the place of another compiler's tables: what changed is what differs from what those last told.
    pub(super) fn succeed(&mut self, old: &Self) {
        self.before.clear();
        let ids: BTreeSet<TableId> =
            old.by_id.keys().chain(old.before.keys()).chain(self.by_id.keys()).copied().collect();
        for id in ids {
            self.before.insert(id, old.told(id));
        }
        for (id, before) in &mut self.before {
            let Some(table) = self.by_id.get(id) else { continue };
            for (mine, now) in before.lists.iter_mut().zip(&table.lists) {
                for class in now.by_peer.keys() {
                    mine.entry(*class).or_insert(None);
                }
            }
        }
    }

    /// A table as it was when the last change set was taken.
    fn told(&self, id: TableId) -> Before {
        let journal = self.before.get(&id);
        let Some(table) = self.by_id.get(&id) else {
            let mut told = journal.cloned().unwrap_or(Before { absent: true, ..Before::default() });
            if let Some(gone) = told.gone.take() {
                told.keep(&gone);
            }
            return told;
        };
        let mut told = journal.cloned().unwrap_or_default();
        if !told.absent {
            told.keep(table);
        }
        told
    }

    /// What changed since the last call.
    pub(super) fn take(&mut self) -> BTreeMap<TableId, TableChange> {
        let before = std::mem::take(&mut self.before);
        let change = |(id, before): (TableId, Before)| match (before.absent, self.by_id.get(&id)) {
            (true, None) => None,
            (true, Some(_)) => Some((id, TableChange::New)),
            (false, None) => Some((id, TableChange::Removed)),
            (false, Some(table)) => {
                let patch = before.patch(id, table);
                (!patch.is_empty()).then_some((id, TableChange::Patch(patch)))
            }
        };
        before.into_iter().filter_map(change).collect()
    }
}

impl Before {
    /// Remembers all of a table that goes away: it may come back before the change set is taken.
    fn keep(&mut self, table: &TableState) {
        self.policies.get_or_insert_with(|| table.policies.clone());
        self.defaults.get_or_insert(table.defaults);
        self.closed.get_or_insert(table.closed);
        for (mine, lists) in self.lists.iter_mut().zip(&table.lists) {
            for (class, list) in &lists.by_peer {
                mine.entry(*class).or_insert_with(|| Some(list.clone()));
            }
        }
    }

    fn patch(self, id: TableId, table: &TableState) -> TablePatch {
        let (was, is) = (self.closed.unwrap_or(table.closed), table.closed);
        let [ingress, egress] = was.defaults(self.defaults.unwrap_or(table.defaults));
        let [ingress_now, egress_now] = is.defaults(table.defaults);
        let mut patch = TablePatch {
            id,
            ingress_default: (ingress != ingress_now).then_some(ingress_now),
            egress_default: (egress != egress_now).then_some(egress_now),
            policies: self.policies.filter(|p| *p != table.policies).map(|_| table.policies.clone()),
            ..TablePatch::default()
        };
        let shutters = was.0.into_iter().zip(is.0);
        for (((direction, mut before), now), (was, is)) in
            DIRECTIONS.into_iter().zip(self.lists).zip(&table.lists).zip(shutters)
        {
            if was != is {
                // what did not change under the shutter is told of, too
                for (peer, list) in &now.by_peer {
                    before.entry(*peer).or_insert_with(|| Some(list.clone()));
                }
            }
            for (peer, before) in before {
                let (before, now) = (before.as_deref().unwrap_or_default(), now.by_peer.get(&peer));
                let now = now.map(|l| &**l).unwrap_or_default();
                let had = |of: &Item| find(before, of).filter(|e| told(was, e));
                let has = |of: &Item| find(now, of).filter(|e| told(is, e));
                let gone = before.iter().filter(|b| told(was, b) && has(b).is_none());
                patch.removals.extend(gone.map(|b| keyed(direction, peer, b).0));
                let new = now.iter().filter(|n| told(is, n) && had(n) != Some(*n));
                patch.upserts.extend(new.map(|n| keyed(direction, peer, n)));
            }
        }
        patch.sort();
        patch
    }
}

/// What a list has under the key of an entry.
fn find<'a>(list: &'a [Item], of: &Item) -> Option<&'a Item> {
    list.binary_search_by_key(&(of.0, of.1, of.2), |e| (e.0, e.1, e.2)).ok().and_then(|place| list.get(place))
}

fn keyed(direction: Direction, peer: PeerClass, entry: &Item) -> (PolicyKey, PolicyEntry) {
    let (protocol, port, port_bits, entry) = *entry;
    (PolicyKey { direction, peer, protocol, port, port_bits }, entry)
}

struct Resolver<'a> {
    side: &'a Side<'a>,
    default: DirectionDefault,
    context: &'a Context<'a>,
}

impl Resolver<'_> {
    fn some(&self, classes: &BTreeSet<PeerClass>, lists: &mut Lists, mut journal: Journal<'_>) {
        let mut known = Known::new(self);
        for id in classes {
            let class = self.context.classes.by_id.get(id);
            let list = class.and_then(|c| known.list(c, &self.side.matching(&self.class(*id, c))));
            put(lists, journal.as_deref_mut(), *id, list);
        }
    }

    fn class<'b>(&'b self, id: PeerClass, class: &'b ClassState) -> Class<'b> {
        let labels = class.sets.iter().filter_map(|s| self.context.sets.labels(*s)).collect();
        Class { id, base: class.base, families: class.families, labels, features: &class.features }
    }

    fn all(&self, lists: &mut Lists, mut journal: Journal<'_>) {
        let mut known = Known::new(self);
        let mut now: ByClass<List> = ByClass::default();
        now.extend(known.levels.entries().filter_map(|(peer, slots)| Some((peer, self.finish(slots)?))));
        let apart = self.set_apart();
        now.reserve(apart.len());
        for apart in apart.chunk_by(|(a, _), (b, _)| a == b) {
            let Some((id, _)) = apart.first().copied() else { continue };
            let Some(class) = self.context.classes.by_id.get(&id) else { continue };
            let matching = self.matching(id, class, &known.levels, apart.iter().map(|(_, colour)| *colour));
            now.extend(known.list(class, &matching).map(|l| (id, l)));
        }
        let hosts = self.context.classes.reserved.get(&Base::Host).into_iter().flatten();
        let hosts = hosts.filter_map(|id| Some((*id, self.context.classes.by_id.get(id)?)));
        for (id, class) in hosts.filter(|_| self.side.own_host) {
            now.extend(known.list(class, &[]).map(|l| (id, l)));
        }
        let gone: Vec<PeerClass> = lists.by_peer.keys().filter(|id| !now.contains_key(id)).copied().collect();
        for id in gone {
            put(lists, journal.as_deref_mut(), id, None);
        }
        for (id, list) in now {
            put(lists, journal.as_deref_mut(), id, Some(list));
        }
    }

    /// The classes that may be told apart from the rest of their kind, with the positions of the rules that do so: in
    /// order. One list, because most changes are spent here.
    fn set_apart(&self) -> Vec<(PeerClass, Colour)> {
        let mut apart = vec![];
        for (entry, colour) in self.side.entries.iter().zip(0..) {
            if !entry.peers.any || self.side.reads_peer_ports(entry) {
                let meant = self.context.meant.by(entry, self.context.classes, self.context.sets);
                apart.extend(meant.iter().map(|id| (*id, colour)));
            }
        }
        apart.sort_unstable();
        apart
    }

    /// The positions of the rules that match a class: those that mean its kind, exceptions aside, and those that set it
    /// apart.
    fn matching(
        &self,
        id: PeerClass,
        class: &ClassState,
        levels: &Levels,
        apart: impl Iterator<Item = Colour>,
    ) -> Vec<Colour> {
        let mut matching: Vec<Colour> = apart.collect();
        let own = matching.len();
        matching.extend(levels.below(class.base, class.families).into_iter().flat_map(|l| &l.rules));
        if own < matching.len() {
            matching.sort_unstable();
            matching.dedup();
        }
        if matching.iter().filter_map(|c| self.side.entry(*c)).all(|e| e.peers.any || !e.peers.is_broad()) {
            return matching;
        }
        let class_of = self.class(id, class);
        // `candidates` names just the classes that a narrow entry means
        matching.retain(|c| {
            self.side.entry(*c).is_some_and(|e| e.peers.any || !e.peers.is_broad() || matches(e, &class_of))
        });
        matching
    }

    fn finish(&self, slots: &[Slot]) -> Option<List> {
        let entry = |s: &Slot| (s.0, s.1, s.2, table::entry(self.context.rule_ids, self.side, self.default, s.3));
        (!slots.is_empty()).then(|| {
            let mut list: Vec<Item> = slots.iter().map(entry).collect();
            list.sort_unstable_by_key(|e| (e.0, e.1, e.2));
            list.into()
        })
    }
}

/// A list with what it was made for beside the rules: ports of the peer that they read, kinds of its addresses.
type Made = (Features, Vec<PeerKind>, Option<List>);

/// Lists that were made before: many peers match the same rules.
struct Known<'a> {
    resolver: &'a Resolver<'a>,
    levels: Levels,
    /// By the rules that match; few share these and differ in the rest.
    lists: HashMap<Box<[Colour]>, Vec<Made>>,
    own_host: Option<List>,
}

impl<'a> Known<'a> {
    fn new(resolver: &'a Resolver<'a>) -> Self {
        let own_host = resolver.finish(&[(None, 0, 0, OWN_HOST)]);
        Self { resolver, levels: resolver.side.levels(), lists: HashMap::new(), own_host }
    }

    /// The entries of a class that these rules match.
    fn list(&mut self, class: &ClassState, matching: &[Colour]) -> Option<List> {
        let (side, resolver, levels) = (self.resolver.side, self.resolver, &self.levels);
        if side.owns(class.base) {
            return self.own_host.clone();
        }
        let reads_ports = matching.iter().filter_map(|c| side.entry(*c)).any(|e| side.reads_peer_ports(e));
        let ports = if reads_ports { port_features(&class.features) } else { Features::default() };
        let kinds = || class.families.kinds(class.base);
        let known = self.lists.get(matching).into_iter().flatten();
        let known =
            known.filter(|(p, k, _)| *p == ports && k.iter().copied().eq(kinds())).map(|(.., list)| list).next();
        if let Some(list) = known {
            return list.clone();
        }
        let below = levels.below(class.base, class.families);
        let list = resolver.finish(&side.list(matching, &ports, &below, levels));
        self.lists.entry(matching.into()).or_default().push((ports, kinds().collect(), list.clone()));
        list
    }
}

fn put(lists: &mut Lists, journal: Journal<'_>, id: PeerClass, now: Option<List>) {
    if lists.by_peer.get(&id) == now.as_ref() {
        return;
    }
    lists.entries += now.as_ref().map_or(0, |l| l.len());
    let old = match now {
        Some(list) => lists.by_peer.insert(id, list),
        None => lists.by_peer.remove(&id),
    };
    lists.entries -= old.as_ref().map_or(0, |l| l.len());
    if let Some(journal) = journal {
        journal.entry(id).or_insert(old);
    }
}

fn port_features(features: &Features) -> Features {
    features.iter().filter(|f| matches!(***f, Property::Port { .. })).cloned().collect()
}
