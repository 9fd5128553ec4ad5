//! From what rules match peers by to the rules.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use axoneme_model::Direction;

use super::classes::ClassState;
use crate::{
    feature::{Feature, Features, Property},
    peer::{Base, PeerKind},
    rules::RuleKey,
    spec::{Entry, RuleSpec, names_reserved},
};

const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// What a rule matches peers by, labels aside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Trait {
    /// It reads the feature.
    Feature(Feature),
    /// That a member of the group has the feature sets it apart from the rest of its kind.
    Apart(Feature, Group),
    /// It means all of the kind, but for exceptions.
    Excepting(PeerKind),
    Host,
    RemoteNode,
    /// Labels of reserved peers.
    Reserved,
    /// Named ports.
    Ports,
}

/// Bases that features mean the same to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Group {
    Pods,
    Nodes,
    World,
}

impl Group {
    const ALL: [Self; 3] = [Self::Pods, Self::Nodes, Self::World];

    fn of(base: Base) -> Self {
        match base {
            Base::Pod(_) => Self::Pods,
            Base::Host | Base::RemoteNode => Self::Nodes,
            Base::World | Base::WorldIpv4 | Base::WorldIpv6 => Self::World,
        }
    }

    /// The kinds that a member of the group with the feature may be of.
    fn kinds(self, feature: &Feature) -> impl Iterator<Item = PeerKind> {
        let kinds: &[PeerKind] = match self {
            Self::Pods => &[PeerKind::PodsV4, PeerKind::PodsV6],
            Self::World => &[PeerKind::WorldV4, PeerKind::WorldV6],
            Self::Nodes => &[],
        };
        let v6 = match &**feature {
            Property::Cidr(block) => Some(block.cidr.is_ipv6()),
            _ => None,
        };
        kinds.iter().copied().filter(move |k| v6.is_none_or(|v6| v6 == k.is_v6()))
    }
}

#[derive(Debug, Default)]
pub(super) struct RuleIndex(HashMap<Trait, BTreeSet<RuleKey>>);

impl RuleIndex {
    pub(super) fn put(&mut self, key: &RuleKey, rule: &RuleSpec, present: bool) {
        for found in BOTH.into_iter().flat_map(|d| rule.entries(d)).flat_map(traits) {
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

    /// Rules that may say another thing about the class than about the rest of its kind, otherwise than by its labels.
    pub(super) fn concerned_with<'a>(
        &'a self,
        class: &ClassState,
        rules: &HashMap<RuleKey, Arc<RuleSpec>>,
    ) -> BTreeSet<&'a RuleKey> {
        let group = Group::of(class.base);
        let mut found: Vec<Trait> = class.features.iter().map(|f| Trait::Apart(f.clone(), group)).collect();
        found.extend(match class.base {
            Base::Pod(_) => vec![],
            Base::Host => vec![Trait::Host, Trait::Reserved],
            Base::RemoteNode => vec![Trait::RemoteNode, Trait::Reserved],
            Base::World | Base::WorldIpv4 | Base::WorldIpv6 => vec![Trait::Reserved],
        });
        if class.features.iter().any(|f| matches!(**f, Property::Port { .. })) {
            found.push(Trait::Ports);
        }
        let mut concerned: BTreeSet<&RuleKey> = found.iter().filter_map(|t| self.0.get(t)).flatten().collect();
        for kind in class.families.kinds(class.base) {
            let left_out = |e: &Entry| e.peers.excepts(kind) && !e.peers.matches_features(&class.features);
            let excepting = self.0.get(&Trait::Excepting(kind)).into_iter().flatten();
            concerned.extend(excepting.filter(|key| {
                let entries = rules.get(*key).into_iter().flat_map(|r| BOTH.into_iter().flat_map(|d| r.entries(d)));
                entries.into_iter().any(left_out)
            }));
        }
        concerned
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
    for group in Group::ALL {
        let apart = |f: &Feature| group == Group::Nodes || group.kinds(f).any(|kind| !peers.is_wide(kind));
        found.extend(peers.reads().filter(apart).map(|f| Trait::Apart(f, group)));
    }
    found.extend(PeerKind::ALL.into_iter().filter(|k| peers.excepts(*k)).map(Trait::Excepting));
    let reserved = peers.selectors.iter().any(names_reserved);
    let flags = [
        (peers.host, Trait::Host),
        (peers.remote_node, Trait::RemoteNode),
        (reserved, Trait::Reserved),
        (entry.ports.has_names(), Trait::Ports),
    ];
    found.extend(flags.into_iter().filter(|(set, _)| *set).map(|(_, t)| t));
    found
}
