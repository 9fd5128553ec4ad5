//! A compiler with what surrounds it, and events that happen to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::Arc,
};

use axoneme_compile::{Assignments, ChangeSet, Compiler, Event, Fit, Misfits, compile};
use axoneme_model::{
    Direction, Identity, RuleRef, Tier, World,
    rows::{GuardRow, RowSet, RuleId, TableId, TableRow},
    verdict::{own_host_rule, too_large_rule},
};

use super::random::{self, NODES, Rng};

/// Puts events in another order. Nothing but the order of two events of one object matters, and a world has one each.
pub fn shuffle<T>(mut list: Vec<T>, rng: &mut Rng) -> Vec<T> {
    for i in (1..list.len()).rev() {
        list.swap(i, rng.below(i as u64 + 1) as usize);
    }
    list
}

/// A compiler with what surrounds it: the leader that numbers identities, and nodes that follow.
#[derive(Debug)]
pub struct Rig {
    pub compiler: Compiler,
    assignments: Assignments,
    nodes: BTreeMap<&'static str, RowSet>,
    /// What nodes were told of what guards them.
    guards: BTreeMap<Arc<str>, GuardRow>,
    pub next: u32,
    limit: usize,
}

impl Rig {
    pub fn new(world: &World) -> Self {
        let compiler = Compiler::new(world.config.clone());
        let mut rig = Self {
            compiler,
            assignments: Assignments::new(),
            nodes: BTreeMap::new(),
            guards: BTreeMap::new(),
            next: 256,
            limit: usize::MAX,
        };
        let rows = |n: &'static str| (n, RowSet::default());
        rig.nodes = NODES.into_iter().map(rows).collect();
        rig
    }

    pub fn apply(&mut self, events: Vec<Event>) -> ChangeSet {
        self.learn(&events);
        let changes = self.compiler.apply(events);
        self.follow(&changes);
        changes
    }

    pub fn apply_within(&mut self, events: Vec<Event>, fit: &Fit<'_>) -> (ChangeSet, Misfits) {
        self.learn(&events);
        self.limit = fit.limit;
        let (changes, held) = self.compiler.apply_within(events, fit);
        self.follow(&changes);
        (changes, held)
    }

    fn learn(&mut self, events: &[Event]) {
        for event in events {
            if let Event::Assignment(labels, Some(id)) = event {
                self.assignments.insert(labels.clone(), *id);
                self.next = self.next.max(id.0 + 1);
            }
        }
    }

    fn follow(&mut self, changes: &ChangeSet) {
        for (node, change) in &changes.guards {
            match &change.after {
                Some(row) => drop(self.guards.insert(node.clone(), row.clone())),
                None => drop(self.guards.remove(node)),
            }
        }
        for (node, rows) in &mut self.nodes {
            self.compiler.changes_for(changes, node).apply(rows);
        }
    }

    /// The leader numbers some of what is wanted.
    pub fn number(&mut self, rng: &mut Rng, percent: u64) {
        let mut events = vec![];
        for labels in self.compiler.unnumbered() {
            if rng.percent(percent) {
                let id = Identity(self.next);
                self.next += 1;
                events.push(Event::Assignment(labels, Some(id)));
            }
        }
        self.apply(events);
    }

    pub fn check(&self, what: &str) {
        let mut expected = compile(&self.compiler.world(), &self.assignments, &self.compiler.held());
        // a node whose table does not fit is left alone; the table itself stays as it is
        let guarding = expected.guards.values().map(|g| g.table).collect();
        close(&mut expected.rows, self.limit, &guarding);
        let fits = |id| expected.rows.tables.get(id).is_some_and(|t| t.entries.len() <= self.limit);
        let wanted: BTreeMap<_, _> = expected.guards.iter().filter(|(_, g)| fits(&g.table)).collect();
        let found = self.compiler.compiled();
        assert_eq!(found.guards.iter().collect::<BTreeMap<_, _>>(), wanted, "{what}: guards");
        assert!(wanted.iter().all(|(node, g)| self.compiler.guard(node) == Some(*g)), "{what}");
        assert!(self.guards.iter().collect::<BTreeMap<_, _>>() == wanted, "{what}: guards that were told");
        same(&found.rows, &expected.rows, what);
        assert_eq!(found.wanted, expected.wanted, "{what}: wanted");
        for (node, rows) in &self.nodes {
            let snapshot = self.compiler.for_node(node);
            assert_eq!(snapshot, expected.for_node(node), "{what}: snapshot of {node}");
            let mut followed = rows.clone();
            // a node may know more rules than its tables name
            followed.rules.retain(|id, _| snapshot.rules.contains_key(id));
            same(&followed, &snapshot, &format!("{what}: {node}"));
        }
    }
}

/// Tables that are too large, as nodes are told of them: of the direction that has more entries, or of both, only that the
/// pods' own node reaches them.
pub fn close(rows: &mut RowSet, limit: usize, guarding: &BTreeSet<TableId>) {
    let id = |rule: RuleRef| rows.rules.values().find(|r| r.rule == rule).map(|r| r.id);
    let (Some(own), Some(reason)) = (id(own_host_rule()), id(too_large_rule())) else { return };
    let too_large = |t: &&mut TableRow| t.entries.len() > limit && !guarding.contains(&t.id);
    for table in rows.tables.values_mut().filter(too_large) {
        let size = |t: &TableRow, d: Direction| t.entries.keys().filter(|k| k.direction == d).count();
        let more_ingress = size(table, Direction::Ingress) > size(table, Direction::Egress);
        let (first, other) = if more_ingress {
            (Direction::Ingress, Direction::Egress)
        } else {
            (Direction::Egress, Direction::Ingress)
        };
        close_direction(table, first, own, reason);
        if table.entries.len() > limit {
            close_direction(table, other, own, reason);
        }
    }
}

fn close_direction(table: &mut TableRow, direction: Direction, own: RuleId, reason: RuleId) {
    let denies = table.entries.iter().any(|(k, e)| k.direction == direction && !e.allow);
    table.entries.retain(|k, e| k.direction != direction || e.rule == own);
    let default = match direction {
        Direction::Ingress => &mut table.ingress_default,
        Direction::Egress => &mut table.egress_default,
    };
    let audit = default.allow && !denies;
    (default.allow, default.audit, default.rule) = (audit, audit, reason);
}

pub fn same(found: &RowSet, expected: &RowSet, what: &str) {
    differ(&found.nodes, &expected.nodes, &format!("{what}: nodes"));
    differ(&found.identities, &expected.identities, &format!("{what}: identities"));
    differ(&found.rules, &expected.rules, &format!("{what}: rules"));
    differ(&found.services, &expected.services, &format!("{what}: services"));
    differ(&found.ips, &expected.ips, &format!("{what}: ips"));
    for (id, table) in &expected.tables {
        if let Some(mine) = found.tables.get(id) {
            differ(&mine.entries, &table.entries, &format!("{what}: entries of {id:?}"));
        }
    }
    differ(&found.tables, &expected.tables, &format!("{what}: tables"));
    differ(&found.endpoints, &expected.endpoints, &format!("{what}: endpoints"));
}

/// Panics with only what differs.
fn differ<K: Ord + Debug, V: PartialEq + Debug>(found: &BTreeMap<K, V>, expected: &BTreeMap<K, V>, what: &str) {
    let keys: BTreeSet<&K> = found.keys().chain(expected.keys()).collect();
    let differing: Vec<String> = keys
        .into_iter()
        .filter(|k| found.get(k) != expected.get(k))
        .map(|k| format!("{k:?}\n  found    {:?}\n  expected {:?}", found.get(k), expected.get(k)))
        .collect();
    assert!(differing.is_empty(), "{what}\n{}", differing.join("\n"));
}

/// An event that could happen to the world.
pub fn mutation(world: &World, rng: &mut Rng) -> Event {
    let other = random::world(&mut Rng(rng.next()));
    match rng.below(16) {
        0 => Event::Config(random::config(rng)),
        1 => {
            let name = *rng.pick(&random::NAMESPACES);
            Event::Namespace(name.into(), rng.percent(85).then(|| random::namespace(rng)))
        }
        2 | 3 => {
            let i = rng.below(3) as usize;
            let node = rng.percent(85).then(|| random::node(rng, NODES[i], 1 + i as u8));
            Event::Node(NODES[i].into(), node)
        }
        4 => {
            let name = *rng.pick(&["partners", "mirrors"]);
            Event::CidrGroup(name.into(), rng.percent(80).then(|| random::cidr_group(rng)))
        }
        5 => Event::ApiServer(random::apiserver(rng, world)),
        6 | 7 => {
            let name = *rng.pick(&["front", "back", "outer"]);
            let service = random::service(rng, name, world);
            Event::Service((service.namespace.clone(), service.name.clone()), rng.percent(70).then_some(service))
        }
        8 | 9 => match world.policies.keys().nth(rng.below(6) as usize) {
            Some(object) => Event::Policy(object.clone(), None),
            None => Event::ApiServer(other.apiserver_addresses),
        },
        10..=12 => policy_mutation(world, rng),
        _ => pod_mutation(world, rng),
    }
}

/// Another policy, or a known one with other content, with one list changed, or only with another generation.
fn policy_mutation(world: &World, rng: &mut Rng) -> Event {
    let i = rng.below(8);
    let mut policy = random::policy(rng, i);
    if let Some(known) = world.policies.values().nth(rng.below(6) as usize) {
        match rng.below(10) {
            0..=4 => {
                policy.object = known.object.clone();
                policy.tier = known.tier;
                for rule in policy.rules.iter_mut().filter(|_| policy.tier != Tier::Normal) {
                    (rule.isolates_ingress, rule.isolates_egress) = (false, false);
                }
            }
            5 | 6 => {
                policy = known.clone();
                policy.generation += 1;
            }
            7 | 8 => {
                let other = policy;
                policy = known.clone();
                if let (Some(mine), Some(other)) = (policy.rules.first_mut(), other.rules.first()) {
                    mine.ingress.clone_from(&other.ingress);
                }
            }
            _ => {}
        }
    }
    Event::Policy(policy.object.clone(), Some(policy))
}

/// Another pod, one that goes, or a known one with one thing changed.
fn pod_mutation(world: &World, rng: &mut Rng) -> Event {
    let i = rng.below(8) as u8;
    let mut pod = random::pod(rng, i);
    if rng.percent(20) {
        pod.uid = format!("{}-again", pod.uid).into();
    }
    match world.pods.values().nth(rng.below(8) as usize) {
        Some(known) if rng.percent(50) => {
            let mut near = known.clone();
            match rng.below(3) {
                0 => near.labels = pod.labels,
                1 => near.addresses = pod.addresses,
                _ => near.named_ports = pod.named_ports,
            }
            Event::Pod((near.namespace.clone(), near.name.clone()), Some(near.into()))
        }
        _ => Event::Pod((pod.namespace.clone(), pod.name.clone()), rng.percent(75).then(|| pod.into())),
    }
}
