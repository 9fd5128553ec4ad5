//! A policy that makes a table too large is held back as if it had not come, and the others are not.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axoneme_compile::{Compiler, Event, Fit, Misfits, events};
use axoneme_model::{
    Direction, Identity, ObjectRef, Policy, RuleRef, World,
    rows::{EndpointRow, RowSet, RuleId, TableId, TableRow},
    verdict::{own_host_rule, too_large_rule},
};
use common::{
    random::{self, Rng},
    rig::{Rig, close, mutation, same},
};

fn policies(events: &[Event]) -> BTreeSet<ObjectRef> {
    let last: BTreeMap<&ObjectRef, bool> =
        events.iter().filter_map(|e| if let Event::Policy(o, p) = e { Some((o, p.is_some())) } else { None }).collect();
    last.into_iter().filter(|(_, there)| *there).map(|(o, _)| o.clone()).collect()
}

fn tables(compiler: &Compiler) -> BTreeMap<TableId, TableRow> {
    compiler.compiled().rows.tables
}

fn id_of(rows: &RowSet, rule: &RuleRef) -> Option<RuleId> {
    rows.rules.values().find(|r| r.rule == *rule).map(|r| r.id)
}

fn reason(rows: &RowSet) -> Option<RuleId> {
    id_of(rows, &too_large_rule())
}

fn is_own_host(rows: &RowSet, rule: RuleId) -> bool {
    id_of(rows, &own_host_rule()) == Some(rule)
}

fn is_closed(table: &TableRow, rows: &RowSet) -> bool {
    [table.ingress_default, table.egress_default].iter().any(|d| Some(d.rule) == reason(rows))
}

/// What is in force instead: the version that was, or nothing passes.
fn earlier(world: &World, batch: &[Event], object: &ObjectRef) -> Option<Policy> {
    let asked = batch.iter().rev().find_map(|e| match e {
        Event::Policy(o, p) if o == object => Some(p.clone()),
        _ => None,
    });
    let known = world.policies.get(object);
    match asked {
        Some(asked) => known.cloned().or_else(|| asked.map(|p| p.fail_closed())),
        // in no table before
        None => known.map(Policy::fail_closed),
    }
}

/// A world with numbers for all identities: what a compiler hears that starts late.
fn all_at_once(world: &World, seed: u64) -> Vec<Event> {
    let (_, assignments) = random::compile(world, seed);
    let numbers = assignments.into_iter().map(|(labels, id)| Event::Assignment(labels, Some(id)));
    events(world.clone()).chain(numbers).collect()
}

/// Applies a batch to a compiler with a limit, and what came of it to one without.
struct Twins {
    limited: Rig,
    plain: Rig,
    limit: usize,
    held: usize,
    groups: usize,
    closed: usize,
}

impl Twins {
    fn new(world: &World, limit: usize) -> Self {
        Self { limited: Rig::new(world), plain: Rig::new(world), limit, held: 0, groups: 0, closed: 0 }
    }

    fn apply(&mut self, batch: &[Event], what: &str) -> BTreeSet<ObjectRef> {
        let world = self.limited.compiler.world();
        let before = tables(&self.limited.compiler);
        let instead = |object: &ObjectRef| earlier(&world, batch, object);
        let fit = Fit { limit: self.limit, suspect: &|_| false, innocent: &|_| false, instead: &instead };
        let (changes, held) = self.limited.apply_within(batch.to_vec(), &fit);
        let mut effective = batch.to_vec();
        effective.extend(held.policies.keys().map(|o| Event::Policy(o.clone(), instead(o))));
        let group = |name| Event::CidrGroup(Arc::clone(name), world.cidr_groups.get(name).cloned());
        effective.extend(held.groups.keys().map(group));
        let plain = self.plain.apply(effective);
        let whole = self.plain.compiler.compiled().rows;
        let mut expected = whole.clone();
        let guarding = self.plain.compiler.compiled().guards.into_values().map(|g| g.table).collect();
        close(&mut expected, self.limit, &guarding);
        same(&self.limited.compiler.compiled().rows, &expected, what);
        if held.closed.is_empty() && before.values().all(|t| !is_closed(t, &expected)) {
            assert!(plain == changes, "{what}: told of what did not fit");
        }
        assert_eq!(self.limited.compiler.held(), self.plain.compiler.held(), "{what}");
        // nodes that follow the changes have these rows
        self.limited.check(what);
        self.what_is_told_is_so(&held, &whole, what);
        self.nobody_guilty_was_let_in(batch, &held, &before, &whole, what);
        self.held += held.policies.len();
        self.groups += held.groups.len();
        self.closed += held.closed.len();
        held.policies.into_keys().collect()
    }

    /// No table is larger than it may be, and those that would be are named with what they would need.
    fn what_is_told_is_so(&self, held: &Misfits, whole: &RowSet, what: &str) {
        assert!(held.policies.values().all(|e| e.entries > self.limit && e.limit == self.limit), "{what}");
        assert!(held.groups.values().all(|g| g.excess.entries > self.limit && !g.policies.is_empty()), "{what}");
        let rows = self.limited.compiler.compiled().rows;
        for (id, table) in &whole.tables {
            let too_large = table.entries.len() > self.limit;
            let told = held.closed.get(id);
            assert_eq!(too_large, told.is_some(), "{what}: {id:?}");
            let Some(told) = told else { continue };
            assert_eq!(told.excess.entries, table.entries.len(), "{what}: {id:?}");
            assert!(told.policies.iter().eq(table.policies.keys()), "{what}: {id:?}");
            let (namespace, name) = &told.excess.pod;
            if namespace.is_empty() {
                let guards = self.plain.compiler.compiled().guards;
                assert!(guards.get(name).is_some_and(|g| g.table == *id), "{what}: {name} is not guarded by {id:?}");
                assert_eq!(told.closed, [false; 2], "{what}: a node is closed");
                continue;
            }
            let uses =
                |e: &EndpointRow| e.table == *id && (&e.namespace, &e.name) == (&told.excess.pod.0, &told.excess.pod.1);
            assert!(rows.endpoints.values().any(uses), "{what}: {:?} does not use {id:?}", told.excess.pod);
            let now = &rows.tables[id];
            assert_eq!(told.closed, [now.ingress_default, now.egress_default].map(|d| Some(d.rule) == reason(&rows)));
            for (direction, closed) in [Direction::Ingress, Direction::Egress].into_iter().zip(told.closed) {
                let allowed = now.entries.iter().filter(|(k, e)| k.direction == direction && e.allow);
                assert!(!closed || allowed.into_iter().all(|(_, e)| is_own_host(&rows, e.rule)), "{what}: {now:#?}");
            }
        }
    }

    /// What is too large is not so by something that changed and could have been held back.
    fn nobody_guilty_was_let_in(
        &self,
        batch: &[Event],
        held: &Misfits,
        before: &BTreeMap<TableId, TableRow>,
        whole: &RowSet,
        what: &str,
    ) {
        let changed = policies(batch);
        for (id, table) in &whole.tables {
            let had = before.get(id).map_or(0, |t| t.entries.len());
            let is_open = before.get(id).is_none_or(|t| !is_closed(t, whole));
            let grown = table.entries.len() > self.limit && table.entries.len() > had && is_open;
            let was = |p: &ObjectRef| before.values().any(|t| t.policies.contains_key(p));
            let guilty =
                table.policies.keys().find(|p| (changed.contains(*p) || !was(p)) && !held.policies.contains_key(*p));
            assert!(!grown || guilty.is_none(), "{what}: {guilty:?} was let into {id:?}");
        }
    }

    /// The leader numbers some of what is wanted.
    fn number(&mut self, rng: &mut Rng, percent: u64, what: &str) {
        let wanted = self.limited.compiler.unnumbered().into_iter().filter(|_| rng.percent(percent));
        let numbers = wanted.zip(self.limited.next..).map(|(l, n)| Event::Assignment(l, Some(Identity(n))));
        let numbers: Vec<Event> = numbers.collect();
        self.apply(&numbers, &format!("{what} numbered"));
    }
}

#[test]
fn a_policy_that_does_not_fit_is_as_if_it_had_not_come() {
    let first = common::first_seed();
    let (mut held, mut groups, mut closed, mut steps) = (0, 0, 0, 0);
    for seed in first..first + common::cases(30_000) / 400 {
        let rng = &mut Rng(seed ^ 0xF17);
        let world = random::world(rng);
        let mut twins = Twins::new(&world, 8 + rng.below(40) as usize);
        let start = all_at_once(&world, seed);
        twins.apply(&start, &format!("AXONEME_SEED={seed} start"));
        twins.number(rng, 70, &format!("AXONEME_SEED={seed} start"));
        for step in 0..20 {
            let batch: Vec<Event> =
                (0..=rng.below(3)).map(|_| mutation(&twins.limited.compiler.world(), rng)).collect();
            let what = format!("AXONEME_SEED={seed} step {step} {batch:#?}");
            twins.apply(&batch, &what);
            twins.number(rng, 60, &what);
            steps += 1;
        }
        (held, groups, closed) = (held + twins.held, groups + twins.groups, closed + twins.closed);
    }
    assert!(held * 50 > steps, "held back only {held} in {steps} steps: the test shows nothing");
    let shown = format!("{groups} groups held back and {closed} tables closed in {steps} steps");
    // a run that was made short may miss them
    assert!(steps < 1000 || groups * 1000 > steps && closed * 50 > steps, "only {shown}: the test shows nothing");
}

#[test]
fn what_is_held_back_would_not_have_fitted() {
    let mut held = 0;
    for seed in 0..400 {
        let rng = &mut Rng(seed ^ 0xB1A3E);
        let world = random::world(rng);
        let mut twins = Twins::new(&world, 8 + rng.below(30) as usize);
        let start = all_at_once(&world, seed);
        twins.plain.apply(start.clone());
        twins.limited.apply(start.clone());
        let i = rng.below(8);
        let policy = random::policy(rng, i);
        let batch = [Event::Policy(policy.object.clone(), Some(policy.clone()))];
        let what = format!("seed {seed}");
        let had = tables(&twins.limited.compiler);
        if twins.apply(&batch, &what).is_empty() {
            continue;
        }
        held += 1;
        let mut wanted = Rig::new(&world);
        wanted.apply(start);
        wanted.apply(batch.to_vec());
        let rows = tables(&wanted.compiler);
        let grown = rows.iter().filter(|(id, t)| t.entries.len() > had.get(id).map_or(0, |h| h.entries.len()));
        let mut sizes = grown.filter(|(_, t)| t.policies.contains_key(&policy.object)).map(|(_, t)| t.entries.len());
        assert!(sizes.any(|n| n > twins.limit), "{what}");
    }
    assert!(held > 10, "held back only {held}");
}

#[test]
fn which_policy_is_held_back_does_not_depend_on_the_order_of_events() {
    let mut seen = 0;
    for seed in 0..150 {
        let rng = &mut Rng(seed ^ 0x0D3);
        let world = random::world(rng);
        let limit = 6 + rng.below(20) as usize;
        let run = |batch: Vec<Event>| {
            let mut rig = Rig::new(&world);
            let instead = |object: &ObjectRef| world.policies.get(object).map(Policy::fail_closed);
            let fit = Fit { limit, suspect: &|_| false, innocent: &|_| false, instead: &instead };
            let (_, held) = rig.apply_within(batch, &fit);
            (held, rig.compiler.compiled())
        };
        let forth = all_at_once(&world, seed);
        let other = common::rig::shuffle(forth.clone(), rng);
        let (held, rows) = run(forth);
        assert_eq!((&held, &rows), (&run(other).0, &rows), "seed {seed}");
        seen += held.policies.len();
    }
    assert!(seen > 20, "held back only {seen}");
}

#[test]
fn a_suspect_is_held_back_before_the_larger_one() {
    let mut shown = 0;
    for seed in 0..300 {
        let rng = &mut Rng(seed ^ 0x5u64);
        let world = random::world(rng);
        let limit = 6 + rng.below(20) as usize;
        let start = all_at_once(&world, seed);
        let run = |suspect: Option<&ObjectRef>| {
            let mut rig = Rig::new(&world);
            let instead = |object: &ObjectRef| world.policies.get(object).map(Policy::fail_closed);
            let suspect = |object: &ObjectRef| suspect == Some(object);
            rig.apply_within(start.clone(), &Fit { limit, suspect: &suspect, innocent: &|_| false, instead: &instead })
                .1
                .policies
        };
        let first = run(None);
        for suspect in world.policies.keys().filter(|p| !first.contains_key(*p)) {
            let now = run(Some(suspect));
            shown += usize::from(now.contains_key(suspect));
            // it is held for a table of its own rules only
            assert!(!now.is_empty() || first.is_empty(), "seed {seed}");
        }
    }
    assert!(shown > 5, "only {shown}");
}
