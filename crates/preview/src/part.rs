//! The part of a world that the tables of the subjects are made of, compiled before and after.

use std::collections::{BTreeMap, BTreeSet};

use axoneme_compile::{Compiler, Event, PodKey, events};
use axoneme_model::{
    Identity, Labels, Policy, Subject, World,
    rows::{RowSet, TABLE_ENTRIES},
    world::Pod,
};

use crate::{Changes, Limits, is_same};

/// Entries of rules that a table of a node has room for: all but the defaults of both directions.
const ROOM: usize = TABLE_ENTRIES - 2;

/// See the module.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) subjects: BTreeSet<PodKey>,
    pub(crate) own_host: bool,
    pub(crate) before: RowSet,
    pub(crate) after: RowSet,
}

impl Part {
    pub(crate) fn of(world: &World, changes: &Changes, limits: &Limits, caveats: &mut Vec<String>) -> Self {
        let real: BTreeMap<_, _> = changes
            .iter()
            .filter(|(object, after)| match (world.policies.get(*object), after) {
                (Some(before), Some(after)) => !is_same(before, after),
                (before, after) => before.is_some() || after.is_some(),
            })
            .collect();
        let versions: Vec<&Policy> = real
            .iter()
            .flat_map(|(object, after)| world.policies.get(*object).into_iter().chain(after.iter()))
            .collect();
        if versions.iter().any(|p| p.rules.iter().any(|r| matches!(r.subject, Subject::Nodes(_)))) {
            caveats.push("what rules with nodeSelector change for nodes is not part of this".to_owned());
        }
        let mut labels = Sets { world, known: BTreeMap::new() };
        let subjects: BTreeSet<PodKey> = world
            .pods
            .iter()
            .filter(|(_, pod)| labels.any_selects(&versions, pod))
            .map(|(key, _)| key.clone())
            .collect();
        let own_host = world.config.always_allow_own_host;
        if subjects.is_empty() {
            return Self { subjects, own_host, before: RowSet::default(), after: RowSet::default() };
        }
        let part = cut(world, &subjects, limits, caveats);
        let mut compiler = Compiler::new(part.config.clone());
        compiler.apply(events(part));
        let numbered = number(&mut compiler, Identity::FIRST.0);
        let before = compiler.compiled().rows;
        compiler.apply(real.into_iter().map(|(object, after)| Event::Policy(object.clone(), after.clone())));
        number(&mut compiler, numbered);
        let after = compiler.compiled().rows;
        for table in after.tables.values().filter(|t| t.entries.len() > ROOM) {
            let policies: Vec<String> = table.policies.keys().map(ToString::to_string).collect();
            let (entries, policies) = (table.entries.len(), policies.join(", "));
            caveats.push(format!(
                "a table of {entries} entries comes of {policies}: nodes hold {ROOM}, so that the change would be held back"
            ));
        }
        Self { subjects, own_host, before, after }
    }
}

/// Gives numbers to all sets of labels that ask for one. The next number.
fn number(compiler: &mut Compiler, first: u32) -> u32 {
    let wanted = compiler.unnumbered();
    let next = first + u32::try_from(wanted.len()).unwrap_or(u32::MAX - first);
    compiler.apply((first..).map(Identity).zip(wanted).map(|(id, set)| Event::Assignment(set, Some(id))));
    next
}

/// The labels of pods, once for all that have the same.
struct Sets<'w> {
    world: &'w World,
    known: BTreeMap<Labels, bool>,
}

impl Sets<'_> {
    fn any_selects(&mut self, policies: &[&Policy], pod: &Pod) -> bool {
        // a pod that is bound to no node has no table
        if pod.node.is_empty() {
            return false;
        }
        let labels = labels_of(self.world, pod);
        let selects = |labels: &Labels| {
            let mut rules = policies.iter().flat_map(|p| &p.rules);
            rules.any(|r| matches!(&r.subject, Subject::Endpoints(selector) if selector.matches(labels)))
        };
        if let Some(known) = self.known.get(&labels) {
            return *known;
        }
        let found = selects(&labels);
        self.known.insert(labels, found);
        found
    }
}

fn labels_of(world: &World, pod: &Pod) -> Labels {
    pod.security_labels(world.namespaces.get(&pod.namespace), &world.config.cluster_name)
}

/// Without policies that select no subject, which no table of theirs is made of; and with fewer peers, where there are many.
fn cut(world: &World, subjects: &BTreeSet<PodKey>, limits: &Limits, caveats: &mut Vec<String>) -> World {
    let subject = |key: &PodKey| world.pods.get(key).map(|pod| labels_of(world, pod));
    let sets: BTreeSet<Labels> = subjects.iter().filter_map(subject).collect();
    let applies = |p: &Policy| {
        p.rules.iter().any(|r| matches!(&r.subject, Subject::Endpoints(s) if sets.iter().any(|set| s.matches(set))))
    };
    let policies = world.policies.iter().filter(|(_, p)| applies(p)).map(|(o, p)| (o.clone(), p.clone())).collect();
    let mut seen = BTreeSet::new();
    let many = world.pods.len().saturating_sub(subjects.len()) > limits.peers;
    let mut left_out = 0usize;
    let mut stands = |pod: &Pod| {
        let ports: Vec<_> = pod.named_ports.iter().map(|(name, ports)| (name.clone(), ports.clone())).collect();
        let is_first = !many || seen.insert((labels_of(world, pod), ports));
        left_out += usize::from(!is_first);
        is_first
    };
    let pods = world.pods.iter().filter(|(key, pod)| subjects.contains(*key) || stands(pod));
    let pods = pods.map(|(key, pod)| (key.clone(), pod.clone())).collect();
    if left_out > 0 {
        caveats.push(format!("{left_out} pods are left out that others stand for, with the same labels and ports"));
    }
    World {
        config: world.config.clone(),
        namespaces: world.namespaces.clone(),
        pods,
        nodes: world.nodes.clone(),
        services: world.services.clone(),
        cidr_groups: world.cidr_groups.clone(),
        policies,
        apiserver_addresses: world.apiserver_addresses.clone(),
    }
}
