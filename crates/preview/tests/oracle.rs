//! What a preview says is what the oracle's verdicts say, for random clusters, changes and packets.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

#[path = "../../compile/tests/common/mod.rs"]
mod common;

use std::{collections::BTreeSet, net::IpAddr};

use axoneme_model::{
    Cidr, Protocol, Traffic, World, verdict,
    verdict::{Holder, holder},
    world::Pod,
};
use axoneme_preview::{Changes, Limits, Line, Preview, preview};
use common::random::{self, Rng};

const ALL: Limits = Limits { peers: usize::MAX, pairs: usize::MAX, lines: usize::MAX, names: usize::MAX };

fn changes(rng: &mut Rng, world: &World) -> Changes {
    let mut changes = Changes::new();
    let there: Vec<_> = world.policies.keys().cloned().collect();
    for n in 0..=rng.below(2) {
        let mut policy = random::policy(rng, 90 + n);
        if there.is_empty() || rng.percent(50) {
            changes.insert(policy.object.clone(), Some(policy));
            continue;
        }
        let object = rng.pick(&there).clone();
        policy.object = object.clone();
        changes.insert(object, rng.percent(70).then_some(policy));
    }
    changes
}

fn applied(world: &World, changes: &Changes) -> World {
    let mut world = world.clone();
    for (object, policy) in changes {
        match policy {
            Some(policy) => drop(world.policies.insert(object.clone(), policy.clone())),
            None => drop(world.policies.remove(object)),
        }
    }
    world
}

fn name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn holds(words: &[String], t: &Traffic) -> bool {
    words.iter().any(|word| {
        let Some((protocol, ports)) = word.split_once(' ') else { return word == "everything" };
        let within = match ports.split_once('-') {
            _ if ports.starts_with("any ") => true,
            Some((first, last)) => (first.parse().unwrap()..=last.parse().unwrap()).contains(&t.port),
            None => ports.parse() == Ok(t.port),
        };
        protocol == t.protocol.to_string() && within
    })
}

/// Whether the peer is named: as a pod, or by a prefix that holds the address.
fn means(world: &World, line: &Line, peer: IpAddr) -> bool {
    if let Holder::Pod(pod) = holder(world, peer) {
        return line.peers.contains(&name(pod));
    }
    let prefix = |p: &String| p.rsplit(' ').next().unwrap().parse::<Cidr>().is_ok_and(|c| c.contains(peer));
    line.peers.iter().any(prefix)
}

/// Of one side of a packet: the pod whose it is, whether it was allowed and whether it will be.
struct Side {
    pod: String,
    direction: &'static str,
    peer: IpAddr,
    allow: [bool; 2],
}

fn sides(world: &World, after: &World, t: &Traffic) -> Vec<Side> {
    let decisions = [verdict(world, t), verdict(after, t)];
    let of = |address, peer, direction, allow: [Option<bool>; 2]| {
        let Holder::Pod(pod) = holder(world, address) else { return None };
        Some(Side { pod: name(pod), direction, peer, allow: [allow[0]?, allow[1]?] })
    };
    let [was, is] = &decisions;
    let said = |side: &Option<axoneme_model::verdict::Side>| side.as_ref().map(|s| s.allow);
    let egress = of(t.source, t.destination, "egress", [said(&was.egress), said(&is.egress)]);
    let ingress = of(t.destination, t.source, "ingress", [said(&was.ingress), said(&is.ingress)]);
    egress.into_iter().chain(ingress).collect()
}

fn told<'a>(world: &World, answer: &'a Preview, side: &Side, t: &Traffic) -> Option<&'a Line> {
    answer.lines.iter().find(|l| {
        l.direction == side.direction
            && l.pods.contains(&side.pod)
            && means(world, l, side.peer)
            && holds(if side.allow[1] { &l.gains } else { &l.loses }, t)
    })
}

#[test]
fn every_verdict_that_changes_is_told_and_no_other() {
    let judged = [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol::ICMPV6];
    let (mut changed, mut same) = (0, 0);
    for seed in 0..common::cases(60) {
        let mut rng = Rng(seed);
        let world = random::world(&mut rng);
        let changes = changes(&mut rng, &world);
        let after = applied(&world, &changes);
        let answer = preview(&world, &changes, &ALL);
        let (pods, all): (Vec<_>, _) =
            (world.pods.values().flat_map(|p| p.addresses.iter().copied()).collect(), random::addresses(&world));
        for _ in 0..150 {
            let mut t = random::traffic(&mut rng, &pods, &all);
            if matches!(t.protocol, Protocol::ICMP | Protocol::ICMPV6) {
                t.port %= 256;
            }
            for side in sides(&world, &after, &t).iter().filter(|_| judged.contains(&t.protocol)) {
                let line = told(&world, &answer, side, &t);
                if side.allow[0] == side.allow[1] {
                    same += 1;
                    // of a prefix with narrower ones inside, and of a pod with two addresses, it may be the other part;
                    // a line of several pods means each of them and the others
                    let Holder::Pod(peer) = holder(&world, side.peer) else { continue };
                    let alone = peer.addresses.len() == 1 && name(peer) != side.pod;
                    assert!(line.is_none() || !alone, "seed {seed}: {t:?} is told: {line:#?}");
                } else {
                    changed += 1;
                    let pod = &side.pod;
                    assert!(line.is_some(), "seed {seed}: {pod} {} {t:?} is not told: {answer:#?}", side.direction);
                }
            }
        }
    }
    assert!(changed > 100 && same > 1_000, "{changed} changed, {same} did not: too few to tell");
}

#[test]
fn what_changes_nothing_says_nothing_and_limits_count_what_they_leave_out() {
    let mut cut = 0;
    for seed in 0..20 {
        let mut rng = Rng(seed);
        let world = random::world(&mut rng);
        let same: Changes = world.policies.iter().map(|(o, p)| (o.clone(), Some(p.clone()))).collect();
        let answer = preview(&world, &same, &ALL);
        assert!(answer.lines.is_empty() && answer.affected == 0);
        assert!(answer.policies.iter().all(|p| p.change == "same"));
        let changes = changes(&mut rng, &world);
        let (whole, part) =
            (preview(&world, &changes, &ALL), preview(&world, &changes, &Limits { lines: 1, names: 1, ..ALL }));
        assert_eq!((part.lines.len() + part.more, part.affected), (whole.lines.len(), whole.affected));
        for (part, whole) in part.lines.iter().zip(&whole.lines) {
            assert!(part.pods.len() <= 1 && part.pod_count == whole.pods.len() && part.peer_count == whole.peers.len());
        }
        cut += usize::from(part.more > 0);
        let few = preview(&world, &changes, &Limits { pairs: 3, ..ALL });
        let all: BTreeSet<String> = whole.lines.iter().flat_map(|l| l.pods.clone()).collect();
        assert!(few.lines.iter().flat_map(|l| &l.pods).all(|p| all.contains(p)));
    }
    assert!(cut > 5, "only {cut} answers were longer than one line");
}
