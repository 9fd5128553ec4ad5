//! A failing world made small, so that a person can read it.

use axoneme_model::World;

/// Removes objects, rules and list entries as long as the world still fails.
pub fn shrink(mut world: World, fails: &dyn Fn(&World) -> bool) -> World {
    loop {
        let before = world.clone();
        for candidate in smaller(&world) {
            // a candidate of the world as it was at the start of the round: apply it only if nothing changed since
            if fails(&candidate) {
                world = candidate;
                break;
            }
        }
        if world == before {
            return world;
        }
    }
}

fn smaller(world: &World) -> Vec<World> {
    let mut out = vec![];
    let mut with = |change: &dyn Fn(&mut World)| {
        let mut w = world.clone();
        change(&mut w);
        out.push(w);
    };
    for key in world.policies.keys() {
        with(&|w| drop(w.policies.remove(key)));
    }
    for key in world.pods.keys() {
        with(&|w| drop(w.pods.remove(key)));
    }
    for key in world.services.keys() {
        with(&|w| drop(w.services.remove(key)));
    }
    for key in world.nodes.keys() {
        with(&|w| drop(w.nodes.remove(key)));
    }
    for key in world.cidr_groups.keys() {
        with(&|w| drop(w.cidr_groups.remove(key)));
    }
    for address in &world.apiserver_addresses {
        with(&|w| w.apiserver_addresses.retain(|a| a != address));
    }
    for (key, policy) in &world.policies {
        for (r, rule) in policy.rules.iter().enumerate() {
            with(&|w| drop(w.policies.get_mut(key).unwrap().rules.remove(r)));
            for i in 0..rule.ingress.len() {
                with(&|w| drop(w.policies.get_mut(key).unwrap().rules[r].ingress.remove(i)));
            }
            for i in 0..rule.egress.len() {
                with(&|w| drop(w.policies.get_mut(key).unwrap().rules[r].egress.remove(i)));
            }
        }
    }
    out
}
