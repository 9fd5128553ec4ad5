//! Seeds of the simulated cluster. A seed that fails prints how to play it again.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail")]
#![allow(clippy::disallowed_methods, reason = "which seeds to play is asked for by the environment")]

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use axoneme_simulation::{Outcome, Plan, Sabotage, run};

/// Seeds that CI plays; 100,000 by `AXONEME_SEEDS=100000`, the one that failed by `AXONEME_SEED=N AXONEME_SEEDS=1`.
const SEEDS: u64 = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|v| v.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn replay(seed: u64) -> String {
    format!("AXONEME_SEED={seed} AXONEME_SEEDS=1 cargo test -p axoneme-simulation --test seeds faulty_ -- --nocapture")
}

fn told(seed: u64, outcome: &Outcome) -> String {
    format!("seed {seed}: {:#?}\nplay it again: {}", outcome.wrong, replay(seed))
}

/// Plays seeds on two threads until `enough` of them failed as `counts` says. What failed, and how many packets were
/// judged.
fn play(
    seeds: std::ops::Range<u64>,
    plan: impl Fn(u64) -> Plan + Sync,
    enough: usize,
    counts: impl Fn(&Outcome) -> bool + Sync,
) -> (Vec<(u64, Outcome)>, u64) {
    let (next, judged, failed) = (AtomicU64::new(seeds.start), AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || failed.lock().unwrap().iter().filter(|(_, o)| counts(o)).count() >= enough {
                        return;
                    }
                    let outcome = run(&plan(seed));
                    judged.fetch_add(outcome.tally.judged, Ordering::Relaxed);
                    if !outcome.wrong.is_empty() {
                        failed.lock().unwrap().push((seed, outcome));
                    }
                }
            });
        }
    });
    (failed.into_inner().unwrap(), judged.into_inner())
}

#[test]
fn faulty_clusters_converge_allow_nothing_that_is_denied_and_give_nothing_twice() {
    let (first, count) = (number("AXONEME_SEED").unwrap_or(0), number("AXONEME_SEEDS").unwrap_or(SEEDS));
    if count == 1 {
        println!("{}", run(&Plan::of(first)).trace);
    }
    let begun = Instant::now();
    let (failed, judged) = play(first..first + count, Plan::of, 3, |_| true);
    println!("{count} seeds, {judged} packets judged, in {:.1} s", begun.elapsed().as_secs_f64());
    let failed: Vec<String> = failed.iter().map(|(seed, outcome)| told(*seed, outcome)).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(count == 1 || judged > 100 * count, "only {judged} packets of {count} seeds could be held to the oracle");
}

#[test]
fn a_seed_is_one_run_to_the_byte() {
    for seed in 0..8 {
        let (a, b) = (run(&Plan::of(seed)), run(&Plan::of(seed)));
        let differs = a.trace.lines().zip(b.trace.lines()).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(a.trace, b.trace, "seed {seed}");
    }
}

/// What the simulation is for: each of these faults of the code is found within so many seeds.
fn is_noticed(sabotage: Sabotage, within: u64, how: &str) {
    let (failed, _) = {
        let counts = |o: &Outcome| o.wrong.iter().any(|w| w.contains(how));
        play(0..within, |seed| Plan { sabotage, ..Plan::of(seed) }, 1, counts)
    };
    let said: Vec<&String> = failed.iter().flat_map(|(_, outcome)| &outcome.wrong).collect();
    assert!(said.iter().any(|w| w.contains(how)), "{sabotage:?}: {said:#?}");
}

#[test]
fn an_agent_that_loses_a_delta_is_noticed() {
    is_noticed(Sabotage::AgentLosesDelta, 30, "not as the objects say");
}

#[test]
fn a_kernel_that_ignores_a_patch_is_noticed() {
    is_noticed(Sabotage::KernelIgnoresPatch, 30, " differs in ");
}

#[test]
fn an_operator_that_ignores_a_resume_is_noticed() {
    is_noticed(Sabotage::OperatorIgnoresResume, 40, "not as the objects say");
}

#[test]
fn a_watch_that_loses_a_deletion_is_noticed() {
    is_noticed(Sabotage::WatchLosesDelete, 20, "not as the objects say");
}

#[test]
fn a_kernel_that_opens_defaults_is_noticed() {
    is_noticed(Sabotage::KernelOpensDefaults, 20, "allows it");
}

#[test]
fn a_leader_that_does_not_read_what_was_handed_out_is_noticed() {
    is_noticed(Sabotage::LeaderDoesNotRead, 60, " of node ");
}

#[test]
fn an_agent_that_forgets_its_intents_is_noticed() {
    is_noticed(Sabotage::AgentForgetsIntents, 30, "is given to");
}
