//! Random worlds in which policies select nodes, and traffic of nodes.

use std::{collections::BTreeSet, net::IpAddr};

use axoneme_model::{
    Kind, LabelKey, ObjectRef, Policy, Protocol, Requirement, Safe, Selector, Subject, Traffic, World,
    safe::HostSettings,
};

use super::random::{self, Rng};

/// Ports around the safe set.
const SAFE_PORTS: [u16; 15] = [21, 22, 53, 67, 68, 123, 546, 547, 2379, 2381, 4250, 4789, 6443, 8472, 10250];

/// A random world whose policies often select nodes.
pub fn world(seed: u64) -> World {
    let rng = &mut Rng(seed ^ 0x4057);
    let mut world = random::world(rng);
    let policies = std::mem::take(&mut world.policies);
    for mut policy in policies.into_values() {
        if rng.percent(40) {
            of_nodes(rng, &mut policy);
        }
        world.policies.insert(policy.object.clone(), policy);
    }
    for i in 0..=rng.below(3) {
        let mut policy = random::policy(rng, 10 + i);
        policy.object = ObjectRef::new(Kind::CiliumClusterwideNetworkPolicy, "", &format!("host-{i}"));
        of_nodes(rng, &mut policy);
        world.policies.insert(policy.object.clone(), policy);
    }
    let unprotected: BTreeSet<Safe> =
        if rng.percent(30) { rng.some(&Safe::ALL, 4).into_iter().collect() } else { [].into() };
    world.config.host = HostSettings { enabled: true, unprotected, overlay_port: *rng.pick(&[8472, 8472, 4789]) };
    world
}

/// Makes its rules about nodes.
pub fn of_nodes(rng: &mut Rng, policy: &mut Policy) {
    for rule in &mut policy.rules {
        let pairs = [("role", ["worker", "control"]), ("zone", ["east", "west"])];
        let requirement = |rng: &mut Rng| {
            let (key, values) = *rng.pick(&pairs);
            Requirement::equals(LabelKey::parse(key), rng.pick::<&str>(&values))
        };
        let requirements = match rng.below(8) {
            0..=2 => vec![],
            3 => vec![Requirement::exists(LabelKey::reserved("host"))],
            4 => vec![requirement(rng), requirement(rng)],
            _ => vec![requirement(rng)],
        };
        rule.subject = Subject::Nodes(Selector::new(requirements));
    }
}

pub fn packets(world: &World, seed: u64, count: u64) -> Vec<Traffic> {
    let mut rng = Rng(seed ^ 0x7AFF);
    let all = random::addresses(world);
    let nodes: Vec<IpAddr> =
        world.nodes.values().flat_map(|n| n.addresses.iter().chain(&n.internal_addresses).copied()).collect();
    let packet = |rng: &mut Rng| {
        // the generator's "pods" are whose side is asked, and half of whom they speak with
        let own: Vec<IpAddr> = if rng.percent(70) { vec![*rng.pick(&nodes)] } else { nodes.clone() };
        let mut t = random::traffic(rng, &own, &all);
        if t.source == t.destination && rng.percent(80) {
            let family: Vec<IpAddr> = all.iter().filter(|a| a.is_ipv4() == t.source.is_ipv4()).copied().collect();
            t.destination = *rng.pick(&family);
        }
        if rng.percent(25) {
            match t.protocol {
                Protocol::TCP | Protocol::UDP => t.port = *rng.pick(&SAFE_PORTS),
                Protocol::ICMP => t.port = *rng.pick(&[3, 4, 11, 13]),
                Protocol::ICMPV6 => t.port = *rng.pick(&[2, 5, 129, 134, 143, 144]),
                _ => {}
            }
        }
        t
    };
    (0..count).map(|_| packet(&mut rng)).collect()
}
