//! The incremental compiler equals the plain one, whatever the order of events, and its changes lead a node from one
//! state of its rows to the next.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use axoneme_compile::{Event, events};
use common::{
    host,
    random::{self, Rng},
    rig::{Rig, mutation, shuffle},
};

#[test]
fn rows_do_not_depend_on_the_order_of_events() {
    for seed in 0..150 {
        let rng = &mut Rng(seed);
        let world = random::world(rng);
        let mut rig = Rig::new(&world);
        let mut rest = shuffle(events(world).collect(), rng);
        while !rest.is_empty() {
            let batch = rest.split_off(rest.len().saturating_sub(1 + rng.below(4) as usize));
            rig.apply(batch);
            rig.number(rng, 30);
        }
        rig.number(rng, 100);
        rig.check(&format!("AXONEME_SEED={seed}"));
    }
}

#[test]
fn changes_lead_from_one_state_to_the_next() {
    let first = common::first_seed();
    for seed in first..first + common::cases(30_000) / 400 {
        let rng = &mut Rng(seed ^ 0x1CE);
        let world = random::world(rng);
        let mut rig = Rig::new(&world);
        rig.apply(events(world).collect());
        rig.number(rng, 90);
        rig.check(&format!("AXONEME_SEED={seed} start"));
        for step in 0..25 {
            let batch: Vec<Event> = (0..=rng.below(3)).map(|_| mutation(&rig.compiler.world(), rng)).collect();
            let what = format!("AXONEME_SEED={seed} step {step} {batch:#?}");
            rig.apply(batch.clone());
            rig.check(&what);
            assert!(rig.apply(batch.into_iter().rev().take(1).collect()).is_empty(), "{what}: told twice");
            rig.number(rng, 60);
            rig.check(&format!("{what} numbered"));
        }
    }
}

/// As above, with policies that select nodes among the others.
#[test]
fn what_guards_nodes_follows_too() {
    let (mut guarded, mut alone) = (0, 0);
    for seed in 0..common::cases(8_000) / 200 {
        let rng = &mut Rng(seed ^ 0x9A4D);
        let world = host::world(seed);
        let mut rig = Rig::new(&world);
        rig.apply(shuffle(events(world).collect(), rng));
        rig.number(rng, 90);
        for step in 0..20 {
            let mut batch: Vec<Event> = (0..=rng.below(3)).map(|_| mutation(&rig.compiler.world(), rng)).collect();
            for event in &mut batch {
                match event {
                    Event::Policy(_, Some(policy)) if rng.percent(60) => host::of_nodes(rng, policy),
                    Event::Config(config) => config.host.enabled = rng.percent(80),
                    _ => {}
                }
            }
            let what = format!("seed {seed} step {step} {batch:#?}");
            rig.apply(batch.clone());
            rig.check(&what);
            assert!(rig.apply(batch.into_iter().rev().take(1).collect()).is_empty(), "{what}: told twice");
            rig.number(rng, 60);
            rig.check(&format!("{what} numbered"));
            let nodes = rig.compiler.world().nodes;
            let with = nodes.keys().filter(|n| rig.compiler.guard(n).is_some()).count();
            (guarded, alone) = (guarded + with, alone + nodes.len() - with);
        }
    }
    assert!(guarded > 300 && alone > 300, "{guarded} guarded, {alone} not");
}

/// A compiler that remembers nothing says the same of each change: it only takes longer.
#[test]
fn who_forgets_says_the_same() {
    let mut changes = 0;
    for seed in 0..40 {
        let world = random::world(&mut Rng(seed));
        let (mut one, mut other) = (Rig::new(&world), Rig::new(&world));
        other.compiler.forget();
        let rng = &mut Rng(seed ^ 0xF063);
        let mut both = |rng: &mut Rng, batch: Vec<Event>, numbered: u64, what: &str| {
            let change = one.apply(batch.clone());
            assert_eq!(other.apply(batch), change, "seed {seed}, {what}");
            let mut same = Rng(rng.0);
            one.number(rng, numbered);
            other.number(&mut same, numbered);
            other.check(&format!("seed {seed}, {what}"));
            changes += usize::from(!change.is_empty());
            one.compiler.world()
        };
        let mut now = both(rng, events(world).collect(), 90, "start");
        for step in 0..10 {
            let batch: Vec<Event> = (0..=rng.below(3)).map(|_| mutation(&now, rng)).collect();
            now = both(rng, batch.clone(), 60, &format!("step {step} {batch:#?}"));
        }
    }
    assert!(changes > 200, "{changes}");
}
