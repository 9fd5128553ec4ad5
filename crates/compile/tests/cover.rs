//! What `axoneme_model::cover` says of two rules holds for every packet of random clusters, by the oracle.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use axoneme_model::{
    Action, DirectedRule, Direction, Peers, Ports, Rule, Selector, Subject, Tier, Traffic, World, cover, verdict,
    world::Enforcement,
};
use common::random::{self, Rng};

/// The rule cut to at most one peer and one port: of such pairs many cover each other.
fn cut(rng: &mut Rng, mut rule: DirectedRule) -> DirectedRule {
    if let Peers::OneOf(peers) = &mut rule.peers
        && !peers.is_empty()
    {
        *peers = vec![rng.pick(peers).clone()];
    }
    if let Ports::OneOf(ports) = &mut rule.ports
        && !ports.is_empty()
    {
        *ports = vec![rng.pick(ports).clone()];
    }
    DirectedRule { action: Action::Allow, ..rule }
}

fn rules(rng: &mut Rng) -> Vec<DirectedRule> {
    let policies: Vec<_> = (0..12).map(|i| random::policy(rng, i)).collect();
    let all = policies.into_iter().flat_map(|p| p.rules).flat_map(|r| r.ingress.into_iter().chain(r.egress));
    all.collect::<Vec<_>>().into_iter().map(|rule| cut(rng, rule)).collect()
}

/// The world in which this rule alone lets anything pass.
fn only(world: &World, rng: &mut Rng, direction: Direction, directed: &DirectedRule) -> World {
    let mut world = World { policies: std::collections::BTreeMap::new(), ..world.clone() };
    world.config.enforcement = Enforcement::Default;
    world.config.always_allow_own_host = false;
    world.config.audit = false;
    let mut policy = random::policy(rng, 0);
    let (list, none) = (vec![directed.clone()], Vec::new());
    let (ingress, egress) = if direction == Direction::Ingress { (list, none) } else { (none, list) };
    let subject = Subject::Endpoints(Selector::all());
    let rule = Rule { subject, log: None, isolates_ingress: true, isolates_egress: true, ingress, egress };
    (policy.tier, policy.audit, policy.rules) = (Tier::Normal, false, vec![rule]);
    world.policies.insert(policy.object.clone(), policy);
    world
}

fn allows(world: &World, direction: Direction, t: &Traffic) -> bool {
    let decision = verdict(world, t);
    let side = if direction == Direction::Ingress { decision.ingress } else { decision.egress };
    side.is_some_and(|s| s.allow)
}

#[test]
fn whatever_the_narrow_rule_lets_pass_the_wide_one_lets_pass() {
    let (mut covering, mut passed) = (0, 0);
    for seed in 0..common::cases(40) {
        let mut rng = Rng(seed);
        let world = random::world(&mut rng);
        let (pods, all): (Vec<_>, _) =
            (world.pods.values().flat_map(|p| p.addresses.iter().copied()).collect(), random::addresses(&world));
        let rules = rules(&mut rng);
        for narrow in &rules {
            let wide = rng.pick(&rules).clone();
            if wide == *narrow || wide.peers == Peers::Any || !cover::directed(&wide, narrow) {
                continue;
            }
            covering += 1;
            let direction = *rng.pick(&[Direction::Ingress, Direction::Egress]);
            let (in_wide, in_narrow) =
                (only(&world, &mut rng, direction, &wide), only(&world, &mut rng, direction, narrow));
            for _ in 0..60 {
                let t = random::traffic(&mut rng, &pods, &all);
                if allows(&in_narrow, direction, &t) {
                    passed += 1;
                    assert!(allows(&in_wide, direction, &t), "seed {seed}: {t:?}\n{wide:?}\n{narrow:?}");
                }
            }
        }
    }
    assert!(covering > 40 && passed > 200, "{covering} pairs, {passed} packets: too few to tell");
}

#[test]
fn whoever_the_narrow_selector_selects_the_wide_one_selects() {
    let (mut covering, mut selected) = (0, 0);
    for seed in 0..common::cases(60) {
        let mut rng = Rng(seed);
        let world = random::world(&mut rng);
        let policies: Vec<_> = (0..30).map(|i| random::policy(&mut rng, i)).collect();
        let subjects: Vec<&Subject> = policies.iter().flat_map(|p| p.rules.iter().map(|r| &r.subject)).collect();
        for narrow in &subjects {
            let wide = *rng.pick(&subjects);
            let (Subject::Endpoints(w), Subject::Endpoints(n)) = (wide, *narrow) else { continue };
            if w == n || w.requirements().is_empty() || !cover::subject(wide, narrow) {
                continue;
            }
            covering += 1;
            for pod in world.pods.values() {
                let labels = pod.security_labels(world.namespaces.get(&pod.namespace), &world.config.cluster_name);
                if n.matches(&labels) {
                    selected += 1;
                    assert!(w.matches(&labels), "seed {seed}: {w} and not {n} selects {labels:?}");
                }
            }
        }
    }
    assert!(covering > 40 && selected > 40, "{covering} pairs, {selected} pods: too few to tell");
}
