//! The stages, in order.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use axoneme_model::{Cidr, Identity, PeerClass, audit::is_audited, cidr, rows::TableId, world::Enforcement};

use super::{
    Compiler, PodRef,
    addresses::{Member, Owner},
    book::Turnover,
    classes::{ClassChanges, ClassState, Material},
    pods::PodState,
    sets::{SetId, Use},
    tables::{Context, DIRECTIONS, Meant, Scope, candidates},
};
use crate::{
    feature::{Features, Property},
    identity::identity_labels,
    peer::{Base, Bases},
    row,
    rules::RuleKey,
    spec::{NamedPorts, RuleSpec},
    table::TableKey,
};

/// What tables are made from: all fields but the tables themselves.
macro_rules! context {
    ($compiler:expr) => {
        Context {
            config: &$compiler.world.config,
            rules: &$compiler.book.rules,
            rule_ids: &$compiler.book.ids,
            classes: &$compiler.classes,
            sets: &$compiler.sets,
            meant: &$compiler.meant,
        }
    };
}
pub(super) use context;

impl Compiler {
    /// Brings everything up to date. True if an id went from one table to another: everything has to be compiled anew.
    pub(super) fn settle(&mut self) -> bool {
        let changed = self.settle_rules();
        self.settle_pods();
        self.settle_addresses();
        let classes = self.settle_classes();
        self.settle_ips();
        self.meant = Meant::default();
        if !self.settle_endpoints() {
            return true;
        }
        self.mark_changed(&changed);
        self.mark_classes(&classes);
        self.settle_tables();
        self.meant = Meant::default();
        self.sets.sweep();
        let mut moved = false;
        for id in std::mem::take(&mut self.dirty.released) {
            moved |= self.tables.release(id);
        }
        moved
    }

    /// Policies → rules; marks tables, and everything that is told apart by other things now.
    fn settle_rules(&mut self) -> Vec<Changed> {
        let mut turnover = Turnover::default();
        for object in std::mem::take(&mut self.dirty.policies) {
            let policy = self.world.policies.get(&object);
            self.book.replace(&object, policy, &self.world.cidr_groups, &mut turnover);
        }
        if turnover.renumbered {
            // so rare that nobody needs to know which tables name the rules
            self.book.row_anew();
            self.dirty.tables.extend(self.tables.by_id.keys().map(|id| (*id, [Scope::All, Scope::All])));
        }
        let mut changed = vec![];
        if turnover.rules.values().flat_map(|(old, new)| [old, new]).flatten().any(|r| r.nodes.is_some()) {
            self.dirty.guards.extend(self.world.nodes.keys().cloned());
        }
        for (key, (old, new)) in turnover.rules {
            if let (Some(old), Some(new)) = (&old, &new) {
                let directions = self.mark_old(&key, old, new);
                changed.push(Changed { key: key.clone(), rule: new.clone(), directions });
            }
            self.use_selectors(&key, old.as_deref(), new.as_deref());
            for (rule, present) in old.iter().map(|r| (r, false)).chain(new.iter().map(|r| (r, true))) {
                self.index.put(&key, rule, present);
            }
        }
        if !turnover.names.is_empty() {
            self.dirty.pods.extend(self.pods.with_labels(&turnover.names).cloned());
        }
        for name in &turnover.ports {
            self.dirty.pods.extend(self.pods.with_port(name).cloned());
        }
        for feature in &turnover.features {
            let read = self.book.features.contains(feature);
            let touched = self.addresses.read(&self.world, feature, read);
            self.dirty.prefixes.extend(touched.anew);
            self.dirty.bases.extend(
                touched.toggled.iter().filter_map(|p| self.placed.get(p)).flat_map(|b| b.list().iter().copied()),
            );
        }
        changed
    }

    /// Marks what a rule that changes matched so far and says which directions changed. Runs before anything else is
    /// brought up to date.
    fn mark_old(&mut self, key: &RuleKey, old: &RuleSpec, new: &RuleSpec) -> [bool; 2] {
        let mode = old.audit != new.audit;
        let changed =
            DIRECTIONS.map(|d| mode || old.entries(d) != new.entries(d) || old.isolates(d) != new.isolates(d));
        let Some(tables) = self.tables.by_rule.get(key) else { return changed };
        let mut scopes = <[Scope; 2]>::default();
        for ((d, scope), changed) in DIRECTIONS.into_iter().zip(&mut scopes).zip(changed) {
            // what is below the entries of every class changes with such a rule
            let broad = |r: &RuleSpec| r.entries(d).iter().any(|e| e.peers.is_broad());
            if changed && (mode || broad(old) || broad(new)) {
                *scope = Scope::All;
            } else if changed {
                scope.add(old.entries(d).iter().flat_map(|e| candidates(e, &self.classes, &self.sets)));
            }
        }
        for id in tables {
            mark(&mut self.dirty.tables, *id, &scopes);
        }
        changed
    }

    fn use_selectors(&mut self, key: &RuleKey, old: Option<&RuleSpec>, new: Option<&RuleSpec>) {
        let subject = |r: Option<&RuleSpec>| r.and_then(|r| r.subject.clone());
        let peers = |r: Option<&RuleSpec>| {
            let entries = r.into_iter().flat_map(|r| DIRECTIONS.into_iter().flat_map(|d| r.entries(d)));
            entries.flat_map(|e| e.peers.selectors.iter().cloned()).collect::<Vec<_>>()
        };
        let (before, now) = (subject(old), subject(new));
        let ports = |r: Option<&RuleSpec>| r.map(|r| r.own_ports().cloned().collect::<BTreeSet<_>>());
        // other named ports of the subject make other tables, too
        let same = old.is_some() && new.is_some() && before == now && ports(old) == ports(new);
        for selector in peers(new) {
            self.sets.start(&selector, key, Use::Peer);
        }
        if let Some(selector) = now.filter(|_| !same) {
            self.dirty.sets.extend(self.sets.start(&selector, key, Use::Subject));
        }
        for selector in peers(old) {
            self.sets.stop(&selector, key, Use::Peer);
        }
        if let Some(selector) = before.filter(|_| !same) {
            self.dirty.sets.extend(self.sets.stop(&selector, key, Use::Subject));
        }
    }

    fn settle_pods(&mut self) {
        for key in std::mem::take(&mut self.dirty.pods) {
            let now = self.pod_state(&key);
            let before = self.pods.put(&key, now.as_ref());
            if let Some(old) = before.as_ref().filter(|b| now.as_ref().is_none_or(|n| n.uid != b.uid)) {
                self.rows.endpoints.set(old.uid.clone(), None);
            }
            if let Some(labels) = before.as_ref().and_then(|b| self.sets.leave(b.set)) {
                self.rows.wanted.set(labels, None);
            }
            self.dirty.endpoints.insert(key.clone());
            if before != now {
                self.mark_pod(&key, before.as_ref(), now.as_ref());
            }
        }
    }

    /// What a pod is now. Enters its label set.
    fn pod_state(&mut self, key: &PodRef) -> Option<PodState> {
        let pod = self.said.get(key)?;
        let security = self.security_labels_of(pod);
        let names = &self.book.names;
        let labels = identity_labels(&security, |name| names.contains(name));
        let bound = !pod.node.is_empty();
        // pods that ask for the same share the memory
        let labels = self.sets.known(labels);
        let own = self.assignments.get(&labels).map(|n| (*n, labels.clone()));
        let identity = own.or_else(|| self.pods.previous(key, &pod.uid)).filter(|_| bound);
        let read = pod.named_ports.iter().filter(|(name, _)| self.book.ports.contains(&***name));
        let ports: Features = read
            .flat_map(|(name, ports)| {
                ports.iter().map(|(protocol, port)| {
                    Property::Port { name: name.clone(), protocol: *protocol, port: *port }.into()
                })
            })
            .collect();
        let addresses = pod.addresses.iter().filter(|_| bound).copied().collect();
        let port_names = pod.named_ports.keys().cloned().collect();
        let (uid, node) = (pod.uid.clone(), pod.node.clone());
        let moves = identity.as_ref().is_some_and(|(_, of)| *of != labels);
        let (set, new) = self.sets.enter(labels.clone());
        if new {
            self.rows.wanted.set(labels, Some(()));
        }
        // replicas have the same labels: two are looked at, since others may have any number of different ones
        let mut alike = self.pods.of_set(set).filter_map(|k| self.pods.get(k)).take(2).map(|s| &s.security);
        let security = alike.find(|s| **s == security).cloned().unwrap_or(security);
        Some(PodState { uid, node, security, set, identity, moves, ports, addresses, port_names })
    }

    /// Marks what depends on a pod.
    fn mark_pod(&mut self, key: &PodRef, before: Option<&PodState>, now: Option<&PodState>) {
        let addresses = |s: Option<&PodState>| s.into_iter().flat_map(|s| s.addresses.iter().copied()).collect();
        let (old, new): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = (addresses(before), addresses(now));
        old.difference(&new).for_each(|a| self.addresses.claim_pod(*a, key, false));
        new.difference(&old).for_each(|a| self.addresses.claim_pod(*a, key, true));
        let prefixes: Vec<Cidr> = old.union(&new).copied().map(cidr::host).collect();
        self.dirty.prefixes.extend(&prefixes);
        self.dirty.ips.extend(prefixes);
        for (state, present) in before.into_iter().map(|s| (s, false)).chain(now.into_iter().map(|s| (s, true))) {
            let Some((identity, labels)) = &state.identity else { continue };
            let base = self.classes.bases.entry(Base::Pod(*identity)).or_default();
            if present {
                base.pods.insert(key.clone());
            } else {
                base.pods.remove(key);
            }
            self.dirty.bases.insert(Base::Pod(*identity));
            let row = self.pods.has_identity(*identity).then(|| row::identity(*identity, labels));
            self.rows.identities.set(*identity, row);
        }
    }

    fn settle_addresses(&mut self) {
        for key in std::mem::take(&mut self.dirty.services) {
            self.dirty.prefixes.extend(self.addresses.contribute_service(&self.world, &key));
        }
        if std::mem::take(&mut self.dirty.apiserver) {
            self.dirty.prefixes.extend(self.addresses.contribute_apiserver(&self.world));
        }
        for prefix in std::mem::take(&mut self.dirty.prefixes) {
            let pods = &self.pods;
            let ports = |key: &PodRef| pods.get(key).map(|p| p.ports.clone()).unwrap_or_default();
            let (before, now) = self.addresses.refresh(&self.world, prefix, ports);
            let bases = now.as_ref().and_then(|m| self.bases_of(prefix, m));
            let old = match bases {
                Some(bases) => self.placed.insert(prefix, bases),
                None => self.placed.remove(&prefix),
            };
            if before == now && old == bases {
                continue;
            }
            let [gone, come] = [&old, &bases].map(|b| b.as_ref().map_or(&[][..], Bases::list));
            for (base, present) in gone.iter().map(|b| (b, false)).chain(come.iter().map(|b| (b, true))) {
                let state = self.classes.bases.entry(*base).or_default();
                if present {
                    state.prefixes.insert(prefix);
                } else {
                    state.prefixes.remove(&prefix);
                }
                self.dirty.bases.insert(*base);
            }
            // of two pods that claim an address only one goes by its class
            for member in before.into_iter().chain(now) {
                if let Owner::Pod(key) = member.owner {
                    self.dirty.endpoints.insert(key);
                }
            }
            self.dirty.ips.insert(prefix);
        }
    }

    fn bases_of(&self, prefix: Cidr, member: &Member) -> Option<Bases> {
        match &member.owner {
            Owner::Node(_) => Some(Bases::Node),
            Owner::Pod(key) => {
                let identity = self.pods.get(key).and_then(|p| p.identity.as_ref());
                identity.map(|(identity, _)| Bases::One(Base::Pod(*identity)))
            }
            Owner::Outside => Some(Bases::One(Base::world(self.world.config.dual_stack_world, prefix.is_ipv6()))),
        }
    }

    fn settle_classes(&mut self) -> ClassChanges {
        let mut changes = ClassChanges::new();
        while let Some(base) = self.dirty.bases.pop_first() {
            let Some(state) = self.classes.bases.get(&base) else { continue };
            let members = state.prefixes.iter().filter_map(|p| self.addresses.members.get(p).map(|m| (*p, m)));
            let set = |m: &Member| match &m.owner {
                Owner::Pod(key) => self.pods.get(key).map(|p| p.set),
                Owner::Node(_) | Owner::Outside => None,
            };
            let material = Material {
                base,
                members: members.map(|(p, m)| (p, m.features.clone(), set(m))).collect(),
                pods: state.pods.iter().filter_map(|k| self.pods.get(k)).map(|p| (p.set, &p.ports)).collect(),
            };
            let (moved, again) = self.classes.rebuild(&material, &mut changes);
            self.dirty.bases.extend(again);
            for prefix in moved {
                if let Some(Member { owner: Owner::Pod(key), .. }) = self.addresses.members.get(&prefix) {
                    self.dirty.endpoints.insert(key.clone());
                }
                self.dirty.ips.insert(prefix);
            }
        }
        changes.retain(|_, (before, now)| before != now);
        changes
    }

    fn settle_ips(&mut self) {
        for prefix in std::mem::take(&mut self.dirty.ips) {
            let row = self.ip_row(prefix);
            self.rows.ips.set(prefix, row.map(Arc::new));
        }
    }

    fn ip_row(&self, prefix: Cidr) -> Option<axoneme_model::rows::IpRow> {
        let member = self.addresses.members.get(&prefix)?;
        let bases = self.placed.get(&prefix)?;
        let class = |base: &Base| self.classes.bases.get(base)?.class_of(prefix);
        match (&member.owner, bases.list()) {
            (Owner::Node(name), [remote, host]) => {
                Some(row::node_ip(prefix, self.world.nodes.get(name)?, class(remote)?, class(host)?))
            }
            (Owner::Pod(key), [base]) => {
                let pod = self.said.get(key)?;
                Some(row::pod_ip(prefix, pod, self.world.nodes.get(&pod.node), base.identity(), class(base)?))
            }
            (Owner::Outside, [base]) => Some(row::world_ip(prefix, base.identity(), class(base)?)),
            _ => None,
        }
    }

    /// Gives every endpoint its table and row. Tables that nobody uses any more stay until the end. False if an id went
    /// from one table to another.
    fn settle_endpoints(&mut self) -> bool {
        for set in std::mem::take(&mut self.dirty.sets) {
            self.dirty.endpoints.extend(self.pods.of_set(set).cloned());
        }
        let mut rules = HashMap::new();
        let mut keys = vec![];
        for key in std::mem::take(&mut self.dirty.endpoints) {
            let table = self.table_key(&key, &mut rules);
            keys.push((key, table));
        }
        let guards = self.guard_keys();
        // first all ids, then the tables: an id that moves while no table has it yet does no harm
        let mut moved = false;
        for key in keys.iter().filter_map(|(_, k)| k.as_ref()).chain(guards.iter().filter_map(|(_, k)| k.as_ref())) {
            moved |= self.tables.reserve(key);
        }
        if !moved {
            for (key, table) in keys {
                self.put_endpoint(&key, table);
            }
            for (node, table) in guards {
                self.put_guard(&node, table);
            }
        }
        !moved
    }

    fn table_key(&self, key: &PodRef, known: &mut HashMap<SetId, Applying>) -> Option<Arc<TableKey>> {
        let state = self.pods.get(key).filter(|s| s.identity.is_some())?;
        let applying = known.entry(state.set).or_insert_with(|| self.applying(state.set));
        let pod = self.said.get(key)?;
        let bound = pod.named_ports.iter().filter(|(name, _)| applying.ports.contains(*name));
        let named_ports: NamedPorts = bound.map(|(name, ports)| (name.clone(), ports.clone())).collect();
        let enforced = self.world.config.enforcement != Enforcement::Never;
        let audit = enforced && is_audited(&self.world.config, self.world.namespaces.get(&pod.namespace), pod);
        Some(Arc::new(TableKey { rules: applying.rules.clone(), named_ports, audit, nodes: false }))
    }

    /// The rules that apply to pods of a label set.
    fn applying(&self, set: SetId) -> Applying {
        if self.world.config.enforcement == Enforcement::Never {
            return Applying::default();
        }
        let rules: Vec<RuleKey> = self.sets.rules(set, Use::Subject).into_iter().cloned().collect();
        let specs = rules.iter().filter_map(|k| self.book.rules.get(k));
        let ports = specs.flat_map(|r| r.own_ports()).cloned().collect();
        Applying { rules, ports }
    }

    fn put_endpoint(&mut self, key: &PodRef, table: Option<Arc<TableKey>>) {
        let context = context!(self);
        let now = table.map(|t| self.tables.acquire(t, &context));
        let node = self.pods.get(key).map(|s| s.node.clone()).unwrap_or_default();
        let before = match now {
            Some(id) => self.pods.tables.insert(key.clone(), (id, node.clone())),
            None => self.pods.tables.remove(key),
        };
        if let Some(id) = now {
            self.count_need(node, id, true);
        }
        if let Some((id, node)) = before {
            self.count_need(node, id, false);
            self.dirty.released.push(id);
        }
        let Some(state) = self.pods.get(key) else { return };
        let row = self.said.get(key).zip(state.identity.as_ref()).zip(now).map(|((pod, (identity, _)), id)| {
            let namespace = self.world.namespaces.get(&pod.namespace);
            row::endpoint(pod, namespace, state.security.clone(), *identity, self.peer_of(key, state, *identity), id)
        });
        self.rows.endpoints.set(state.uid.clone(), row.map(Arc::new));
    }

    /// The class of the pod's first address, or what it goes by until it has one.
    fn peer_of(&self, key: &PodRef, state: &PodState, identity: Identity) -> PeerClass {
        let own = |prefix: &Cidr| {
            self.addresses.members.get(prefix).is_some_and(|m| matches!(&m.owner, Owner::Pod(k) if k == key))
        };
        let first = state.addresses.iter().copied().map(cidr::host).find(own);
        let base = self.classes.bases.get(&Base::Pod(identity));
        first.and_then(|p| base?.class_of(p)).unwrap_or_else(|| identity.into())
    }

    pub(super) fn count_need(&mut self, node: Arc<str>, table: TableId, more: bool) {
        let key = (node, table);
        let count = self.rows.needs.get(&key).copied().unwrap_or(0);
        let count = if more { count + 1 } else { count.saturating_sub(1) };
        self.rows.needs.set(key, (count > 0).then_some(count));
    }

    /// Marks what rules that changed match now.
    fn mark_changed(&mut self, changed: &[Changed]) {
        for Changed { key, rule, directions } in changed {
            let Some(tables) = self.tables.by_rule.get(key) else { continue };
            let mut scopes = <[Scope; 2]>::default();
            for ((d, scope), _) in DIRECTIONS.into_iter().zip(&mut scopes).zip(directions).filter(|(_, c)| **c) {
                scope.add(rule.entries(d).iter().flat_map(|e| candidates(e, &self.classes, &self.sets)));
            }
            for id in tables {
                mark(&mut self.dirty.tables, *id, &scopes);
            }
        }
    }

    /// Marks what peers that came, went or changed mean to tables.
    fn mark_classes(&mut self, changes: &ClassChanges) {
        for (id, (before, now)) in changes {
            let same =
                |(b, n): &(&ClassState, &ClassState)| b.base == n.base && b.sets == n.sets && b.families == n.families;
            let both = before.as_ref().zip(now.as_ref()).filter(same);
            let rules = if let Some((b, n)) = both {
                self.index.concerned_with_features(&b.features, &n.features)
            } else {
                let states = before.iter().chain(now);
                let by_labels = states.clone().flat_map(|c| c.sets.iter().flat_map(|s| self.sets.rules(*s, Use::Peer)));
                by_labels.chain(states.clone().flat_map(|c| self.index.concerned_with(c, &self.book.rules))).collect()
            };
            let mut scopes = <[Scope; 2]>::default();
            for scope in &mut scopes {
                scope.add([*id]);
            }
            for table in rules.into_iter().filter_map(|r| self.tables.by_rule.get(r)).flatten() {
                mark(&mut self.dirty.tables, *table, &scopes);
            }
            if before.iter().chain(now).any(|c| c.base == Base::Host) {
                for table in self.tables.by_id.keys() {
                    mark(&mut self.dirty.tables, *table, &scopes);
                }
            }
        }
    }

    fn settle_tables(&mut self) {
        let made = self.tables.take_made();
        for (id, scopes) in std::mem::take(&mut self.dirty.tables) {
            // a new table was made from all this already
            if !made.contains(&id) {
                self.tables.update(id, &scopes, &context!(self));
            }
        }
    }
}

/// A rule with another content.
struct Changed {
    key: RuleKey,
    rule: Arc<RuleSpec>,
    /// Which directions differ.
    directions: [bool; 2],
}

/// What applies to a label set.
#[derive(Default)]
struct Applying {
    rules: Vec<RuleKey>,
    /// Named ports of the subject that the rules read.
    ports: BTreeSet<Arc<str>>,
}

fn mark(tables: &mut BTreeMap<TableId, [Scope; 2]>, id: TableId, scopes: &[Scope; 2]) {
    for (have, more) in tables.entry(id).or_default().iter_mut().zip(scopes) {
        match more {
            Scope::All => *have = Scope::All,
            Scope::Some(classes) => have.add(classes.iter().copied()),
        }
    }
}
