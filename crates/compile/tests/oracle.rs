//! `compile` and table lookup say what the oracle says, for random clusters, policies and packets.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::collections::BTreeMap;

use axoneme_compile::Compiled;
use axoneme_model::{Direction, Traffic, World, lookup::Whom, verdict};
use common::{
    judge::{Nodes, differs},
    random::{self, Rng},
    shrink::shrink,
};

const TRAFFIC_A_WORLD: u64 = 250;

fn packets(world: &World, seed: u64, count: u64) -> Vec<Traffic> {
    let mut rng = Rng(seed ^ 0x7AFF);
    let all = random::addresses(world);
    let pods: Vec<_> = world.pods.values().flat_map(|p| p.addresses.iter().copied()).collect();
    (0..count).map(|_| random::traffic(&mut rng, &pods, &all)).collect()
}

fn first_difference(world: &World, compiled: &Compiled, packets: &[Traffic]) -> Option<String> {
    let nodes = Nodes::of(compiled);
    packets.iter().find_map(|t| differs(world, &nodes, t))
}

fn check(seed: u64) {
    let world = random::world(&mut Rng(seed));
    let packets = packets(&world, seed, TRAFFIC_A_WORLD);
    let fails = |w: &World| first_difference(w, &random::compile(w, seed).0, &packets).is_some();
    if fails(&world) {
        let small = shrink(world, &fails);
        let difference = first_difference(&small, &random::compile(&small, seed).0, &packets);
        panic!("AXONEME_SEED={seed}\n{small:#?}\n{}", difference.unwrap_or_default());
    }
}

#[test]
fn tables_say_what_the_oracle_says() {
    let worlds = common::cases(100_000).div_ceil(TRAFFIC_A_WORLD);
    let first = common::first_seed();
    (first..first + worlds).for_each(check);
}

/// The comparison has teeth: whatever entry or default decides a packet, turning it round is noticed.
#[test]
fn a_turned_verdict_is_caught() {
    let mut turned = 0;
    for seed in 0..60 {
        let world = random::world(&mut Rng(seed));
        let (compiled, _) = random::compile(&world, seed);
        for t in packets(&world, seed, 20) {
            let Some(mutant) = turn(&compiled, &t, |allow, _| *allow = !*allow) else { continue };
            turned += 1;
            assert!(first_difference(&world, &mutant, &[t]).is_some(), "seed {seed}: {t:?} was not noticed");
        }
    }
    assert!(turned > 300, "only {turned} verdicts were there to turn");
}

/// What is told of and not enforced is part of the comparison: neither telling less nor telling more goes unnoticed.
#[test]
fn a_turned_audit_is_caught() {
    let (mut silenced, mut invented) = (0, 0);
    for seed in 0..60 {
        let world = random::world(&mut Rng(seed));
        let (compiled, _) = random::compile(&world, seed);
        for t in packets(&world, seed, 20) {
            let Some(mutant) = turn(&compiled, &t, |_, audit| *audit = !*audit) else { continue };
            let told = verdict(&world, &t).egress.is_some_and(|side| side.audit.is_some());
            *(if told { &mut silenced } else { &mut invented }) += 1;
            assert!(first_difference(&world, &mutant, &[t]).is_some(), "seed {seed}: {t:?} was not noticed");
        }
    }
    assert!(silenced > 30 && invented > 200, "only {silenced} were silenced and {invented} invented");
}

/// The same rows, with the entry or default turned that decides about the packet at its source.
fn turn(compiled: &Compiled, t: &Traffic, change: impl Fn(&mut bool, &mut bool)) -> Option<Compiled> {
    let mut mutant = compiled.clone();
    let rows = &mut mutant.rows;
    let row = rows.find_ip(t.source)?.clone();
    let destination = rows.find_ip(t.destination)?;
    let peer = Whom::new(rows.peer_of(t.destination, &row.node), t.destination);
    if row.pod.is_empty() || row.pod == destination.pod {
        return None;
    }
    let endpoint = rows.endpoints.values().find(|e| *row.pod == *format!("{}/{}", e.namespace, e.name))?.clone();
    let table = rows.tables.get_mut(&endpoint.table)?;
    let egress = Direction::Egress;
    match table.find(egress, peer, t.protocol, t.port).copied() {
        Some(hit) => {
            let entries = table.entries.iter_mut().filter(|(k, e)| k.direction == egress && **e == hit);
            entries.for_each(|(_, e)| change(&mut e.allow, &mut e.audit));
        }
        None => change(&mut table.egress_default.allow, &mut table.egress_default.audit),
    }
    Some(mutant)
}

/// What is said of a kind is looked at: without those entries verdicts are wrong, and they have exceptions.
#[test]
fn a_missing_kind_is_caught() {
    let (mut caught, mut excepted) = (0, 0);
    for seed in 0..150 {
        let world = random::world(&mut Rng(seed));
        let (mut compiled, _) = random::compile(&world, seed);
        for table in compiled.rows.tables.values_mut() {
            let levels = |d| table.entries.keys().filter(move |k| k.direction == d).map(|k| k.peer.level());
            let both = |d| levels(d).any(|l| l == 1) && levels(d).any(|l| l == 2);
            excepted += usize::from(both(Direction::Ingress) || both(Direction::Egress));
            table.entries.retain(|k, _| k.peer.level() != 1);
        }
        caught += usize::from(first_difference(&world, &compiled, &packets(&world, seed, 50)).is_some());
    }
    assert!(caught > 30, "only {caught} worlds were wrong without the entries of kinds");
    assert!(excepted > 60, "only {excepted} tables had exceptions beside the entries of kinds");
}

/// What the property rests on: the random worlds make every step of the order of evaluation decide, often.
#[test]
fn every_reason_decides_in_the_random_worlds() {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..150 {
        let world = random::world(&mut Rng(seed));
        for t in packets(&world, seed, 50) {
            let decision = verdict(&world, &t);
            for side in [decision.egress, decision.ingress].into_iter().flatten() {
                *seen.entry(format!("{:?} {}", side.reason, side.allow)).or_default() += 1;
                if let Some(would) = &side.audit {
                    *seen.entry(format!("would {:?}", would.reason)).or_default() += 1;
                }
            }
        }
    }
    let expected = [
        "Admin false",
        "Admin true",
        "Allow true",
        "Baseline false",
        "Baseline true",
        "Deny false",
        "Isolated false",
        "NotEnforced true",
        "Open true",
        "OwnHost true",
        "SamePod true",
        "would Admin",
        "would Baseline",
        "would Deny",
        "would Isolated",
    ];
    for reason in expected {
        assert!(seen.get(reason).is_some_and(|n| *n >= 20), "{reason} in {seen:?}");
    }
}
