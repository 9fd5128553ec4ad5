//! How large a policy's table is for what the policy itself names, whatever the cluster holds.

use std::{collections::BTreeSet, sync::Arc};

use axoneme_model::{
    DirectedRule, Identity, PackedSet, Peer, Peers, Policy, PortMatch, Ports, Rule, Selector, Subject, World,
    world::{NamedPorts, Node, PlainLabels, Pod},
};

use crate::{Compiler, Event};

/// Entries that the table of one of its subjects has at least: of a pod without labels in a cluster of one node, with
/// rules of one subject at a time. Prefixes count; selectors, entities and groups don't, which mean what there is.
///
/// *Caveats*: it compiles: the time is that of [`at_most`].
#[must_use]
pub fn entries(policy: &Policy) -> usize {
    let subjects: BTreeSet<&Subject> = policy.rules.iter().map(|r| &r.subject).collect();
    subjects.into_iter().map(|s| of_subject(policy, s)).max().unwrap_or(0)
}

fn of_subject(policy: &Policy, subject: &Subject) -> usize {
    let all = |r: &Rule| Rule { subject: Subject::Endpoints(Selector::all()), ..r.clone() };
    let rules = policy.rules.iter().filter(|r| r.subject == *subject).map(all).collect();
    let mut world = World::default();
    world.policies.insert(policy.object.clone(), Policy { rules, ..policy.clone() });
    let node: Arc<str> = "n".into();
    world.nodes.insert(node.clone(), Node { name: node.clone(), ..Node::default() });
    let pod = Pod {
        namespace: "n".into(),
        name: "p".into(),
        uid: "p".into(),
        labels: PlainLabels::new(),
        annotations: PlainLabels::new(),
        service_account: "default".into(),
        node,
        addresses: PackedSet::new(),
        named_ports: NamedPorts::new(),
    };
    world.pods.insert((pod.namespace.clone(), pod.name.clone()), pod);
    let mut compiler = Compiler::new(world.config.clone());
    compiler.apply(crate::events(world));
    let wanted = compiler.unnumbered();
    compiler.apply((Identity::FIRST.0..).map(Identity).zip(wanted).map(|(id, set)| Event::Assignment(set, Some(id))));
    compiler.compiled().rows.tables.values().map(|t| t.entries.len()).max().unwrap_or(0)
}

/// A number that [`entries`] does not go beyond, for a glance at each rule: places where prefixes begin times prefixes of
/// ports.
#[must_use]
pub fn at_most(policy: &Policy) -> usize {
    let of = |list: fn(&Rule) -> &Vec<DirectedRule>| {
        let of_rule = |d: &DirectedRule| (prefixes(&d.peers), port_prefixes(&d.ports));
        let sums = policy.rules.iter().flat_map(list).map(of_rule);
        let (peers, ports) = sums.fold((ALWAYS, 1), |(a, b), (peers, ports)| (a + peers, b + ports));
        peers.saturating_mul(ports)
    };
    of(|r| &r.ingress).saturating_add(of(|r| &r.egress))
}

/// Classes of a cluster without pods and rules, with room: world of each family, node, host, the pod itself, kinds.
const ALWAYS: usize = 16;

fn prefixes(peers: &Peers) -> usize {
    let Peers::OneOf(peers) = peers else { return 0 };
    let of = |p: &Peer| match p {
        Peer::Cidr { except, .. } => 1 + except.len(),
        Peer::CidrGroup { except, .. } | Peer::CidrGroups { except, .. } => except.len(),
        Peer::Endpoints(_) | Peer::Entity(_) | Peer::Nodes(_) | Peer::Services(_) => 0,
    };
    peers.iter().map(of).sum()
}

fn port_prefixes(ports: &Ports) -> usize {
    let Ports::OneOf(ports) = ports else { return 1 };
    let of = |p: &PortMatch| match p {
        // a range of 16 bits is at most 30 prefixes, and what is left beside it as many
        PortMatch::Range { first, last, .. } if first != last => 60,
        _ => 2,
    };
    ports.iter().map(of).sum()
}
