//! From what rules match peers by to the rules.

use std::collections::{BTreeSet, HashMap};

use axoneme_model::{Direction, Source};

use super::classes::ClassState;
use crate::{
    feature::{Feature, Features, Property},
    peer::Base,
    rules::RuleKey,
    spec::{Entry, RuleSpec},
};

/// What a rule matches peers by, labels aside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Trait {
    Feature(Feature),
    /// All pods.
    Pods,
    Host,
    RemoteNode,
    World,
    /// Labels of reserved peers.
    Reserved,
    /// Named ports.
    Ports,
}

#[derive(Debug, Default)]
pub(super) struct RuleIndex(HashMap<Trait, BTreeSet<RuleKey>>);

impl RuleIndex {
    pub(super) fn put(&mut self, key: &RuleKey, rule: &RuleSpec, present: bool) {
        let both = [Direction::Ingress, Direction::Egress];
        for found in both.into_iter().flat_map(|d| rule.entries(d)).flat_map(traits) {
            if present {
                self.0.entry(found).or_default().insert(key.clone());
            } else if let Some(keys) = self.0.get_mut(&found) {
                keys.remove(key);
                if keys.is_empty() {
                    self.0.remove(&found);
                }
            }
        }
    }

    /// Rules that may match a class otherwise than by its labels.
    pub(super) fn concerned_with(&self, class: &ClassState) -> BTreeSet<&RuleKey> {
        let mut found: Vec<Trait> = class.features.iter().cloned().map(Trait::Feature).collect();
        found.extend(match class.base {
            Base::Pod(_) => vec![Trait::Pods],
            Base::Host => vec![Trait::Host, Trait::Reserved],
            Base::RemoteNode => vec![Trait::RemoteNode, Trait::Reserved],
            Base::World | Base::WorldIpv4 | Base::WorldIpv6 => vec![Trait::World, Trait::Reserved],
        });
        if class.features.iter().any(|f| matches!(**f, Property::Port { .. })) {
            found.push(Trait::Ports);
        }
        found.iter().filter_map(|t| self.0.get(t)).flatten().collect()
    }

    /// Rules that a difference of features matters to.
    pub(super) fn concerned_with_features(&self, a: &Features, b: &Features) -> BTreeSet<&RuleKey> {
        let (only_a, only_b) = a.differences(b);
        let differing = only_a.into_iter().chain(only_b).map(|f| match **f {
            Property::Port { .. } => Trait::Ports,
            _ => Trait::Feature(f.clone()),
        });
        differing.filter_map(|t| self.0.get(&t)).flatten().collect()
    }
}

fn traits(entry: &Entry) -> Vec<Trait> {
    let peers = &entry.peers;
    let mut found: Vec<Trait> = peers.reads().map(Trait::Feature).collect();
    let reserved = peers.selectors.iter().any(|s| s.keys().any(|k| k.source == Source::Reserved));
    let flags = [
        (peers.pods, Trait::Pods),
        (peers.host, Trait::Host),
        (peers.remote_node, Trait::RemoteNode),
        (peers.world, Trait::World),
        (reserved, Trait::Reserved),
        (entry.ports.has_names(), Trait::Ports),
    ];
    found.extend(flags.into_iter().filter(|(set, _)| *set).map(|(_, t)| t));
    found
}
