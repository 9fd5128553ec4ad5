//! The tables of nodes and their lookup say what the oracle says of nodes, for random clusters, policies and packets.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use axoneme_compile::{Compiled, hosts};
use axoneme_model::{
    Direction, RuleRef, Traffic, World, host_verdict,
    lookup::Whom,
    rows::{HostRow, RowSet, RuleId},
    verdict::{Holder, Side, holder},
};
use common::{
    host::{packets, world},
    random,
    shrink::shrink,
};

const TRAFFIC_A_WORLD: u64 = 250;
/// What the nodes' agents have.
struct Rows {
    compiled: Compiled,
    hosts: BTreeMap<Arc<str>, HostRow>,
}

impl Rows {
    fn of(world: &World, seed: u64) -> Self {
        let (compiled, assignments) = random::compile(world, seed);
        let hosts = hosts(world, &assignments, &BTreeMap::new());
        Self { compiled, hosts }
    }

    /// What the node at `own` says about `other`: allow, audit, rule. None: no node, or one that speaks to itself.
    fn side(&self, direction: Direction, own: IpAddr, other: IpAddr, t: &Traffic) -> Option<(bool, bool, RuleId)> {
        let rows: &RowSet = &self.compiled.rows;
        let node = rows.find_ip(own).filter(|r| r.pod.is_empty() && !r.node.is_empty())?.node.clone();
        if rows.find_ip(other).is_some_and(|r| r.pod.is_empty() && r.node == node) {
            return None;
        }
        let Some(host) = self.hosts.get(&node) else { return Some((true, false, RuleId(0))) };
        let peer = Whom::new(rows.peer_of(other, &node), other);
        let found = host.judge(direction, peer, t.destination, (t.protocol, t.port));
        Some((found.allow, found.audit, found.rule))
    }

    fn rule(&self, id: RuleId) -> Option<&RuleRef> {
        (id != RuleId(0)).then(|| &self.compiled.rows.rules.get(&id).expect("a rule that is told").rule)
    }

    fn differs(&self, world: &World, t: &Traffic) -> Option<String> {
        let expected = host_verdict(world, t);
        let ends = [
            (Direction::Egress, t.source, t.destination, expected.egress),
            (Direction::Ingress, t.destination, t.source, expected.ingress),
        ];
        ends.into_iter().find_map(|(direction, own, other, expected)| {
            let found = self.side(direction, own, other, t);
            let wrong = match (&found, &expected) {
                (None, None) => false,
                (None, Some(e)) => !e.allow || !itself(world, t),
                (Some(_), None) => true,
                (Some((allow, audit, rule)), Some(e)) => {
                    *allow != e.allow || *audit != e.audit.is_some() || !self.explained(world, own, e, *rule)
                }
            };
            wrong.then(|| format!("{direction:?} of {t:?}\n  rows:   {found:?}\n  oracle: {expected:?}"))
        })
    }

    /// The rule is one that the oracle accepts. A node without a table has no rules at all.
    fn explained(&self, world: &World, own: IpAddr, side: &Side, rule: RuleId) -> bool {
        let Holder::Node(node) = holder(world, own) else { return false };
        let accepted = side.audit.as_ref().map_or(&side.rules, |would| &would.rules);
        match self.rule(rule) {
            Some(rule) => accepted.contains(rule),
            None => accepted.is_empty() || !self.hosts.contains_key(&node.name),
        }
    }

    fn first_difference(&self, world: &World, packets: &[Traffic]) -> Option<String> {
        packets.iter().find_map(|t| self.differs(world, t))
    }
}

fn itself(world: &World, t: &Traffic) -> bool {
    matches!((holder(world, t.source), holder(world, t.destination)), (Holder::Node(a), Holder::Node(b)) if a.name == b.name)
}

#[test]
fn tables_of_nodes_say_what_the_oracle_says() {
    let worlds = common::cases(100_000).div_ceil(TRAFFIC_A_WORLD);
    let first = common::first_seed();
    for seed in first..first + worlds {
        let world = world(seed);
        let packets = packets(&world, seed, TRAFFIC_A_WORLD);
        let difference = |w: &World| Rows::of(w, seed).first_difference(w, &packets);
        if difference(&world).is_some() {
            let small = shrink(world, &|w| difference(w).is_some());
            panic!("AXONEME_SEED={seed}\n{small:#?}\n{}", difference(&small).unwrap_or_default());
        }
    }
}

/// The comparison has teeth: whatever entry or default decides a packet, turning it round is noticed, and so is a safe set
/// of which a member is missing.
#[test]
fn a_turned_verdict_is_caught() {
    let (mut turned, mut lifted) = (0, 0);
    for seed in 0..80 {
        let world = world(seed);
        let rows = Rows::of(&world, seed);
        for t in packets(&world, seed, 20) {
            for direction in [Direction::Ingress, Direction::Egress] {
                let (own, other) = match direction {
                    Direction::Ingress => (t.destination, t.source),
                    Direction::Egress => (t.source, t.destination),
                };
                let Some((_, _, rule)) = rows.side(direction, own, other, &t) else { continue };
                let node = rows.compiled.rows.find_ip(own).unwrap().node.clone();
                let Some(host) = rows.hosts.get(&node) else { continue };
                let mut mutant = Rows { compiled: rows.compiled.clone(), hosts: rows.hosts.clone() };
                let changed = mutant.hosts.get_mut(&node).unwrap();
                if let Some((member, _)) = host.safe.iter().find(|(_, id)| **id == rule) {
                    changed.settings.unprotected.insert(*member);
                    lifted += u32::from(mutant.first_difference(&world, &[t]).is_some());
                    continue;
                }
                let peer = Whom::new(rows.compiled.rows.peer_of(other, &node), other);
                match host.table.find(direction, peer, t.protocol, t.port) {
                    Some(hit) => {
                        let all = changed.table.entries.iter_mut();
                        let same = all.filter(|(k, e)| k.direction == direction && **e == *hit);
                        same.for_each(|(_, e)| e.allow = !e.allow);
                    }
                    None if direction == Direction::Ingress => {
                        changed.table.ingress_default.allow = !changed.table.ingress_default.allow;
                    }
                    None => changed.table.egress_default.allow = !changed.table.egress_default.allow,
                }
                turned += 1;
                assert!(mutant.first_difference(&world, &[t]).is_some(), "seed {seed}: {t:?} was not noticed");
            }
        }
    }
    assert!(turned > 500, "only {turned} verdicts were there to turn");
    assert!(lifted > 50, "only {lifted} members of the safe set were missed");
}

/// What the property rests on: every step of the order of evaluation decides, often.
#[test]
fn every_reason_decides_in_the_random_worlds() {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..200 {
        let world = world(seed);
        for t in packets(&world, seed, 50) {
            let decision = host_verdict(&world, &t);
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
        "Baseline true",
        "Deny false",
        "Isolated false",
        "Open true",
        "SameNode true",
        "Safe(Ssh) true",
        "Safe(Dns) true",
        "Safe(ApiServer) true",
        "Safe(Streams) true",
        "Safe(Neighbors) true",
        "Safe(PathErrors) true",
        "would Deny",
        "would Isolated",
    ];
    for reason in expected {
        assert!(seen.get(reason).is_some_and(|n| *n >= 20), "{reason} in {seen:?}");
    }
}
