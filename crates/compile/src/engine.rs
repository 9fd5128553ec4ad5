//! The compiler that remembers: events in, changed rows out.
//!
//! ```text
//!  events ─▶ world ─▶ rules ─▶ pods, label sets ─▶ addresses ─▶ classes ─▶ tables ─▶ endpoints ─▶ changes
//!                       └── what they read decides what the next stages tell apart ──┘
//! ```
//!
//! Each stage takes what the stages before it marked, brings its own state up to date and marks what depends on it. A
//! stage's state is a function of the world alone, so the order of events cannot show.

mod addresses;
mod book;
mod classes;
mod fit;
pub(crate) mod guards;
mod index;
mod pods;
mod sets;
mod settle;
mod tables;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use axoneme_model::{
    Cidr, Identity, Labels, ObjectRef, Policy, World, cidr,
    rows::{
        EndpointRow, GuardRow, IdentityRow, IpRow, NodeRow, RowSet, RuleId, RuleRow, ServiceRow, TableId, TableRow,
    },
    world::{CidrGroup, ClusterConfig, Namespace, Node, Pod, Service},
};

use crate::{
    Assignments, Compiled, Held, PodKey,
    changes::{Change, ChangeSet, Changes, NodeChanges, TableChange, Tracked},
    identity::{always, names_read},
    peer::{Base, Bases},
    row,
    service::service_row,
    spec::RuleSpec,
};

pub use fit::{Closure, Excess, Fit, GroupExcess, Misfits};

/// The key of a pod, once for all who keep it: a dozen indexes do.
type PodRef = Arc<PodKey>;

/// Something in the cluster changed. None: it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything is compiled anew; the changes are still only the rows that differ.
    Config(ClusterConfig),
    Namespace(Arc<str>, Option<Namespace>),
    /// Shared with whoever says it: of a large cluster pods are most of what is kept.
    Pod(PodKey, Option<Arc<Pod>>),
    Node(Arc<str>, Option<Node>),
    Service(PodKey, Option<Service>),
    CidrGroup(Arc<str>, Option<CidrGroup>),
    Policy(ObjectRef, Option<Policy>),
    /// All addresses of the API server.
    ApiServer(BTreeSet<IpAddr>),
    /// The number of a set of identity labels (a CiliumIdentity object).
    Assignment(Labels, Option<Identity>),
}

/// The incremental compiler.
///
/// *Expected flow*: [`Compiler::new`], one [`Compiler::apply`] with everything that the sources list, then one `apply`
/// per event or batch of events; each change set goes to the nodes through [`Compiler::changes_for`], a node that
/// connects gets [`Compiler::for_node`]. The leader numbers what [`Compiler::unnumbered`] names and feeds the numbers
/// back as [`Event::Assignment`].
///
/// *Guarantees*: the rows equal what [`crate::compile`] makes of the same world, assignments and held identities; a
/// change set holds exactly the rows that differ.
///
/// *Caveats*: a pod whose labels ask for an identity without a number keeps the one that it had, or has no endpoint row
/// until there is a number.
#[derive(Debug)]
pub struct Compiler {
    /// All but the pods.
    world: World,
    said: BTreeMap<PodRef, Arc<Pod>>,
    /// What namespaces add to the labels of their pods.
    given: BTreeMap<Arc<str>, Labels>,
    assignments: Assignments,
    book: book::RuleBook,
    index: index::RuleIndex,
    sets: sets::Sets,
    pods: pods::Pods,
    addresses: addresses::Addresses,
    /// The bases that each prefix has.
    placed: HashMap<Cidr, Bases>,
    classes: classes::Classes,
    tables: tables::Tables,
    meant: tables::Meant,
    /// The table of each node that rules select.
    guards: BTreeMap<Arc<str>, TableId>,
    rows: Rows,
    dirty: Dirty,
    /// Entries that tables may have.
    limit: usize,
    /// Nothing is taken from what was compiled before: see [`Compiler::forget`].
    forgetful: bool,
}

/// Rows that are kept as they are sent.
#[derive(Debug, Default)]
struct Rows {
    nodes: Tracked<Arc<str>, NodeRow>,
    identities: Tracked<Identity, IdentityRow>,
    /// Shared with whoever sends them on.
    endpoints: Tracked<Arc<str>, Arc<EndpointRow>>,
    ips: Tracked<Cidr, Arc<IpRow>>,
    services: Tracked<(Arc<str>, Arc<str>), ServiceRow>,
    wanted: Tracked<Labels, ()>,
    guards: Tracked<Arc<str>, GuardRow>,
    /// How many endpoints of a node use a table, and whether it guards the node itself.
    needs: Tracked<(Arc<str>, TableId), usize>,
}

/// What has to be looked at again.
#[derive(Debug, Default)]
struct Dirty {
    policies: BTreeSet<ObjectRef>,
    pods: BTreeSet<PodRef>,
    services: BTreeSet<PodKey>,
    prefixes: BTreeSet<Cidr>,
    bases: BTreeSet<Base>,
    /// Prefixes whose row may change though nothing about their class did.
    ips: BTreeSet<Cidr>,
    /// Label sets that other rules apply to.
    sets: BTreeSet<sets::SetId>,
    endpoints: BTreeSet<PodRef>,
    /// Nodes that other rules may select.
    guards: BTreeSet<Arc<str>>,
    /// What nodes are told of their guards may differ.
    guard_rows: bool,
    tables: BTreeMap<TableId, [tables::Scope; 2]>,
    /// Uses of tables that ended.
    released: Vec<TableId>,
    apiserver: bool,
    /// Start from scratch.
    everything: bool,
}

impl Compiler {
    #[must_use]
    pub fn new(config: ClusterConfig) -> Self {
        let mut new = Self::empty(World { config, ..World::default() }, Assignments::new());
        new.settle();
        new
    }

    fn empty(world: World, assignments: Assignments) -> Self {
        let mut rows = Rows::default();
        for (id, row) in row::reserved() {
            rows.identities.set(id, Some(row));
        }
        let dirty = Dirty { prefixes: crate::everywhere().into_iter().collect(), ..Dirty::default() };
        Self {
            world,
            said: BTreeMap::new(),
            given: BTreeMap::new(),
            assignments,
            book: book::RuleBook::new(),
            index: index::RuleIndex::default(),
            sets: sets::Sets::default(),
            pods: pods::Pods::default(),
            addresses: addresses::Addresses::new(),
            placed: HashMap::new(),
            classes: classes::Classes::new(),
            tables: tables::Tables::new(),
            meant: tables::Meant::default(),
            guards: BTreeMap::new(),
            rows,
            dirty,
            limit: usize::MAX,
            forgetful: false,
        }
    }

    /// From now on compiles everything anew with each batch of events: the same changes, at the cost of the whole cluster.
    /// For a bench that says what it gains to remember.
    pub const fn forget(&mut self) {
        self.forgetful = true;
    }

    /// Takes the events in and returns what they change. Events of a batch that undo each other change nothing.
    pub fn apply(&mut self, events: impl IntoIterator<Item = Event>) -> ChangeSet {
        for event in events {
            self.note(event);
        }
        self.bring_up_to_date();
        self.take()
    }

    fn bring_up_to_date(&mut self) {
        if self.forgetful || self.dirty.everything || self.settle() {
            self.anew();
        }
    }

    /// Puts an event into the world and marks what it concerns.
    fn note(&mut self, event: Event) {
        match event {
            Event::Config(config) => {
                self.dirty.everything |= config != self.world.config;
                self.world.config = config;
            }
            Event::Namespace(name, namespace) => {
                put(&mut self.given, name.clone(), namespace.as_ref().map(Namespace::given_labels));
                put(&mut self.world.namespaces, name.clone(), namespace);
                let first = (name.clone(), Arc::from(""));
                let pods = self.said.range::<PodKey, _>(first..).take_while(|(key, _)| key.0 == name);
                self.dirty.pods.extend(pods.map(|(k, _)| k.clone()));
            }
            Event::Pod(key, pod) => {
                let known = self.said.get_key_value(&key).map(|(known, _)| known.clone());
                let key = known.unwrap_or_else(|| Arc::new(key));
                put(&mut self.said, key.clone(), pod);
                self.dirty.pods.insert(key);
            }
            Event::Node(name, node) => self.note_node(name, node),
            Event::Service(key, service) => {
                self.rows.services.set(key.clone(), service.as_ref().and_then(service_row));
                put(&mut self.world.services, key.clone(), service);
                self.dirty.services.insert(key);
            }
            Event::CidrGroup(name, group) => {
                put(&mut self.world.cidr_groups, name, group);
                self.dirty.policies.extend(self.book.grouped().cloned());
            }
            Event::Policy(object, policy) => {
                put(&mut self.world.policies, object.clone(), policy);
                self.dirty.policies.insert(object);
            }
            Event::ApiServer(addresses) => {
                self.world.apiserver_addresses = addresses;
                self.dirty.apiserver = true;
                self.dirty.guard_rows = true;
            }
            Event::Assignment(labels, identity) => {
                self.dirty.pods.extend(self.pods.of_labels(&self.sets, &labels));
                put(&mut self.assignments, labels, identity);
            }
        }
    }

    fn note_node(&mut self, name: Arc<str>, node: Option<Node>) {
        let old = self.world.nodes.get(&name);
        let before: BTreeSet<IpAddr> = old.into_iter().flat_map(row::addresses).collect();
        let now: BTreeSet<IpAddr> = node.iter().flat_map(row::addresses).collect();
        before.difference(&now).for_each(|a| self.addresses.claim_node(*a, &name, false));
        now.difference(&before).for_each(|a| self.addresses.claim_node(*a, &name, true));
        self.dirty.prefixes.extend(before.union(&now).copied().map(cidr::host));
        // what its pods are reached by
        self.dirty.ips.extend(self.pods.prefixes_on(&name));
        self.rows.nodes.set(name.clone(), node.as_ref().map(row::node));
        self.dirty.guards.insert(name.clone());
        put(&mut self.world.nodes, name, node);
    }

    /// Collects what changed since the last time.
    fn take(&mut self) -> ChangeSet {
        self.pods.told();
        self.tables.close_beyond(self.limit, &self.book.ids);
        self.settle_guard_rows();
        let needs = self.rows.needs.take().into_iter().filter_map(|(k, c)| match (c.before, c.after) {
            (None, Some(_)) => Some((k, true)),
            (Some(_), None) => Some((k, false)),
            _ => None,
        });
        ChangeSet {
            nodes: self.rows.nodes.take(),
            identities: self.rows.identities.take(),
            rules: self.book.rows.take(),
            tables: self.tables.take(),
            endpoints: self.rows.endpoints.take(),
            ips: self.rows.ips.take(),
            services: self.rows.services.take(),
            guards: self.rows.guards.take(),
            needs: needs.collect(),
            wanted: self.rows.wanted.take().into_iter().map(|(k, c)| (k, c.after.is_some())).collect(),
        }
    }

    /// Compiles everything anew: for changes of settings, and for table ids that went from
    /// one key to another.
    fn anew(&mut self) {
        let world = std::mem::take(&mut self.world);
        let start = World { config: world.config.clone(), ..World::default() };
        let mut new = Self::empty(start, std::mem::take(&mut self.assignments));
        new.pods.remember(self.pods.identities());
        (new.limit, new.forgetful) = (self.limit, self.forgetful);
        let pods = std::mem::take(&mut self.said).into_iter().map(|(k, v)| Event::Pod(PodKey::clone(&k), Some(v)));
        for event in events(world).chain(pods) {
            new.note(event);
        }
        let moved = new.settle();
        debug_assert!(!moved, "no table had an id before");
        new.rows.nodes.succeed(&self.rows.nodes);
        new.rows.identities.succeed(&self.rows.identities);
        new.rows.endpoints.succeed(&self.rows.endpoints);
        new.rows.ips.succeed(&self.rows.ips);
        new.rows.services.succeed(&self.rows.services);
        new.rows.wanted.succeed(&self.rows.wanted);
        new.rows.guards.succeed(&self.rows.guards);
        new.rows.needs.succeed(&self.rows.needs);
        new.book.rows.succeed(&self.book.rows);
        new.tables.succeed(&self.tables);
        *self = new;
    }

    /// What the cluster says, as far as events have told: a copy of all of it.
    #[must_use]
    pub fn world(&self) -> World {
        let pods = self.said.iter().map(|(key, pod)| (PodKey::clone(key), Pod::clone(pod))).collect();
        World { pods, ..self.world.clone() }
    }

    /// A pod with the labels that selectors see, as far as events have told.
    #[must_use]
    pub fn security_labels(&self, pod: &PodKey) -> Option<Labels> {
        self.said.get(pod).map(|pod| self.security_labels_of(pod))
    }

    fn security_labels_of(&self, pod: &Pod) -> Labels {
        let none = Labels::new();
        pod.security_labels_within(self.given.get(&pod.namespace).unwrap_or(&none), &self.world.config.cluster_name)
    }

    /// All rows of the cluster.
    #[must_use]
    pub fn compiled(&self) -> Compiled {
        let rows = RowSet {
            config: None,
            nodes: self.rows.nodes.rows().clone(),
            identities: self.rows.identities.rows().clone(),
            rules: self.book.rows.rows().clone(),
            tables: self.tables.by_id.keys().filter_map(|id| Some((*id, self.tables.row(*id)?))).collect(),
            endpoints: self.rows.endpoints.rows().iter().map(|(k, e)| (k.clone(), EndpointRow::clone(e))).collect(),
            ips: self.ip_rows(),
            services: self.rows.services.rows().clone(),
        };
        let guards = self.rows.guards.rows().clone();
        Compiled { rows, wanted: self.rows.wanted.rows().keys().cloned().collect(), guards }
    }

    /// All rows that a node needs, for a snapshot.
    #[must_use]
    pub fn for_node(&self, node: &str) -> RowSet {
        let first = (Arc::from(node), TableId(0));
        let needed = self.rows.needs.rows().range(first..).take_while(|((n, _), _)| **n == *node);
        let tables: BTreeMap<TableId, TableRow> =
            needed.filter_map(|((_, id), _)| Some((*id, self.tables.row(*id)?))).collect();
        let named = tables.keys().flat_map(|id| self.tables.named(*id));
        let endpoints = self.rows.endpoints.rows().iter().filter(|(_, e)| &*e.node == node);
        RowSet {
            config: None,
            nodes: self.rows.nodes.rows().clone(),
            identities: self.rows.identities.rows().clone(),
            rules: self.rule_rows(named),
            endpoints: endpoints.map(|(k, e)| (k.clone(), EndpointRow::clone(e))).collect(),
            tables,
            ips: self.ip_rows(),
            services: self.rows.services.rows().clone(),
        }
    }

    /// What a change set means to one node.
    #[must_use]
    pub fn changes_for(&self, changes: &ChangeSet, node: &str) -> NodeChanges {
        let needs = |id: TableId| self.rows.needs.get(&(Arc::from(node), id)).is_some();
        let mut out = NodeChanges {
            nodes: changes.nodes.clone(),
            identities: changes.identities.clone(),
            rules_removed: changes.rules.iter().filter(|(_, c)| c.after.is_none()).map(|(id, _)| *id).collect(),
            endpoints: Self::endpoint_changes(changes, node),
            ips: changes.ips.clone(),
            services: changes.services.clone(),
            ..NodeChanges::default()
        };
        let first = (Arc::from(node), TableId(0));
        for ((_, id), needed) in changes.needs.range(first..).take_while(|((n, _), _)| **n == *node) {
            match self.tables.row(*id).filter(|_| *needed) {
                Some(row) => drop(out.tables.insert(*id, row)),
                None => drop(out.tables_removed.insert(*id)),
            }
        }
        for (id, change) in &changes.tables {
            match change {
                TableChange::Patch(patch) if needs(*id) && !out.tables.contains_key(id) => {
                    out.patches.push(patch.clone());
                }
                TableChange::Patch(_) | TableChange::New | TableChange::Removed => {}
            }
        }
        let named = out.tables.keys().flat_map(|id| self.tables.named(*id));
        let patched = out.patches.iter().flat_map(|p| {
            let defaults = p.ingress_default.iter().chain(&p.egress_default).map(|d| d.rule);
            p.upserts.iter().map(|(_, e)| e.rule).chain(defaults)
        });
        out.rules = self.rule_rows(named.chain(patched));
        let renamed = changes.rules.iter().filter(|(_, c)| c.before.is_some());
        out.rules.extend(renamed.filter_map(|(id, c)| Some((*id, c.after.clone()?))));
        out
    }

    fn endpoint_changes(changes: &ChangeSet, node: &str) -> Changes<Arc<str>, Arc<EndpointRow>> {
        let here = |row: &Option<Arc<EndpointRow>>| row.clone().filter(|e| &*e.node == node);
        let cut = changes.endpoints.iter().map(|(uid, c)| {
            let change = Change { before: here(&c.before), after: here(&c.after) };
            (uid.clone(), change)
        });
        cut.filter(|(_, c)| c.before != c.after).collect()
    }

    fn ip_rows(&self) -> BTreeMap<Cidr, IpRow> {
        self.rows.ips.rows().iter().map(|(prefix, row)| (*prefix, IpRow::clone(row))).collect()
    }

    fn rule_rows(&self, named: impl Iterator<Item = RuleId>) -> BTreeMap<RuleId, RuleRow> {
        named.filter_map(|id| Some((id, self.book.rows.get(&id)?.clone()))).collect()
    }

    /// A policy table of the cluster.
    #[must_use]
    pub fn table(&self, id: TableId) -> Option<TableRow> {
        self.tables.row(id)
    }

    /// The identity labels that pods ask for and that have no number: for the leader to allocate.
    #[must_use]
    pub fn unnumbered(&self) -> BTreeSet<Labels> {
        let wanted = self.rows.wanted.rows().keys();
        wanted.filter(|l| !self.assignments.contains_key(*l)).cloned().collect()
    }

    /// Whether the policy reads a label of pods that nothing in the world reads yet: identities would split.
    #[must_use]
    pub fn reads_new(&self, policy: &Policy) -> bool {
        let groups = BTreeMap::new();
        let new = |name: &Arc<str>| !always(name) && !self.book.names.contains(name);
        let rules = (0..).zip(&policy.rules).map(|(i, rule)| RuleSpec::of(policy, i, rule, &groups));
        rules.into_iter().any(|rule| rule.selectors().flat_map(names_read).any(new))
    }

    /// The numbers that no pod has or asks for: they may be taken back after a while.
    #[must_use]
    pub fn unused(&self) -> Assignments {
        self.assignments.iter().filter(|(l, id)| !self.uses(l, **id)).map(|(l, id)| (l.clone(), *id)).collect()
    }

    /// Whether this is the number of the set, and a pod has it or asks for it.
    #[must_use]
    pub fn uses(&self, set: &Labels, number: Identity) -> bool {
        self.assignments.get(set) == Some(&number)
            && (self.rows.wanted.get(set).is_some() || self.pods.has_identity(number))
    }

    /// Whether a pod asks for the set that has the identity of another.
    #[must_use]
    pub fn moves_to(&self, set: &Labels) -> bool {
        self.sets.find(set).is_some_and(|set| self.pods.moves_to(set))
    }

    /// The identities that pods keep while the one that their labels ask for has no number.
    #[must_use]
    pub fn held(&self) -> Held {
        self.pods.held()
    }

    /// The nodes that need a table: who has to acknowledge a change of its policies.
    pub fn nodes_of(&self, table: TableId) -> impl Iterator<Item = &Arc<str>> {
        self.rows.needs.rows().keys().filter(move |(_, id)| *id == table).map(|(node, _)| node)
    }
}

/// A world as the events that make it.
pub fn events(world: World) -> impl Iterator<Item = Event> {
    let World { config, namespaces, pods, nodes, services, cidr_groups, policies, apiserver_addresses } = world;
    std::iter::once(Event::Config(config))
        .chain(namespaces.into_iter().map(|(k, v)| Event::Namespace(k, Some(v))))
        .chain(nodes.into_iter().map(|(k, v)| Event::Node(k, Some(v))))
        .chain(pods.into_iter().map(|(k, v)| Event::Pod(k, Some(Arc::new(v)))))
        .chain(services.into_iter().map(|(k, v)| Event::Service(k, Some(v))))
        .chain(cidr_groups.into_iter().map(|(k, v)| Event::CidrGroup(k, Some(v))))
        .chain(policies.into_iter().map(|(k, v)| Event::Policy(k, Some(v))))
        .chain(std::iter::once(Event::ApiServer(apiserver_addresses)))
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}
