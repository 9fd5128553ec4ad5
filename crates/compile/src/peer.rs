//! Peers as tables know them, and the names (classes) that they get.
//!
//! ```text
//!  address ─▶ base (whose it is) + features (what rules read about it) ─▶ class
//! ```
//!
//! The name of a class decides how much a change costs: a class that is renamed is renamed in every table that knows
//! it. So a name holds only what a class needs to be told from the others of its base. Features that all addresses of an
//! identity share set nothing apart; a rule that covers every address of an identity, or none, renames nothing.

use std::collections::HashMap;

use axoneme_model::{Cidr, Identity, LabelKey, Labels, PeerClass};

use crate::feature::{Features, Property};

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Base {
    Pod(Identity),
    /// A node's address, seen from that node.
    Host,
    /// A node's address, seen from another node.
    RemoteNode,
    World,
    /// With `dual_stack_world`, instead of `World`.
    WorldIpv4,
    WorldIpv6,
}

impl Base {
    pub(crate) fn world(dual_stack: bool, v6: bool) -> Self {
        match (dual_stack, v6) {
            (false, _) => Self::World,
            (true, false) => Self::WorldIpv4,
            (true, true) => Self::WorldIpv6,
        }
    }

    pub(crate) const fn identity(self) -> Identity {
        match self {
            Self::Pod(identity) => identity,
            Self::Host => Identity::HOST,
            Self::RemoteNode => Identity::REMOTE_NODE,
            Self::World => Identity::WORLD,
            Self::WorldIpv4 => Identity::WORLD_IPV4,
            Self::WorldIpv6 => Identity::WORLD_IPV6,
        }
    }

    pub(crate) const fn is_pod(self) -> bool {
        matches!(self, Self::Pod(_))
    }

    pub(crate) const fn is_world(self) -> bool {
        matches!(self, Self::World | Self::WorldIpv4 | Self::WorldIpv6)
    }

    /// The labels that `reserved:` selectors see. None for pods.
    pub(crate) fn reserved_labels(self, features: &Features) -> Option<Labels> {
        let labels = self.identity().reserved_labels().filter(|_| !self.is_pod())?;
        let apiserver = features.contains(&Property::ApiServer.into());
        Some(if apiserver { labels.with(LabelKey::reserved("kube-apiserver"), "") } else { labels })
    }
}

/// The bases of one prefix: a list that takes no memory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bases {
    /// Of a node's address: seen from others and from the node itself.
    Node,
    One(Base),
}

impl Bases {
    pub(crate) const fn list(&self) -> &[Base] {
        match self {
            Self::Node => &[Base::RemoteNode, Base::Host],
            Self::One(base) => std::slice::from_ref(base),
        }
    }
}

/// Whom tables can speak of at once, between a class and whoever: the pods or the outside, in one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PeerKind {
    PodsV4,
    PodsV6,
    WorldV4,
    WorldV6,
}

impl PeerKind {
    pub(crate) const ALL: [Self; 4] = [Self::PodsV4, Self::PodsV6, Self::WorldV4, Self::WorldV6];

    /// The kind of an address that has the base. Nodes are of none.
    pub(crate) const fn of(base: Base, v6: bool) -> Option<Self> {
        match (base, v6) {
            (Base::Pod(_), false) => Some(Self::PodsV4),
            (Base::Pod(_), true) => Some(Self::PodsV6),
            (Base::World | Base::WorldIpv4 | Base::WorldIpv6, false) => Some(Self::WorldV4),
            (Base::World | Base::WorldIpv4 | Base::WorldIpv6, true) => Some(Self::WorldV6),
            (Base::Host | Base::RemoteNode, _) => None,
        }
    }

    pub(crate) const fn class(self) -> PeerClass {
        match self {
            Self::PodsV4 => PeerClass::PODS_IPV4,
            Self::PodsV6 => PeerClass::PODS_IPV6,
            Self::WorldV4 => PeerClass::WORLD_IPV4,
            Self::WorldV6 => PeerClass::WORLD_IPV6,
        }
    }

    pub(crate) const fn is_v6(self) -> bool {
        matches!(self, Self::PodsV6 | Self::WorldV6)
    }

    pub(crate) const fn is_pods(self) -> bool {
        matches!(self, Self::PodsV4 | Self::PodsV6)
    }
}

/// The families of a class's addresses. Neither: pods that have none yet; they may get any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    pub(crate) fn add(&mut self, v6: bool) {
        if v6 {
            self.v6 = true;
        } else {
            self.v4 = true;
        }
    }

    pub(crate) const fn none(self) -> bool {
        !self.v4 && !self.v6
    }

    /// The kinds that a class of the base may be looked up with.
    pub(crate) fn kinds(self, base: Base) -> impl Iterator<Item = PeerKind> {
        let families = [self.v4 || self.none(), self.v6 || self.none()];
        [false, true]
            .into_iter()
            .zip(families)
            .filter(|(_, has)| *has)
            .filter_map(move |(v6, _)| PeerKind::of(base, v6))
    }
}

/// Name of a class before it gets its number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ClassKey {
    /// The number of the base's identity will do.
    Plain(Base),
    /// Pods, by what sets the address apart within its identity and family. Pods come and go, so no pod gives the name.
    Pods {
        identity: Identity,
        /// The IPv6 addresses of the identity share something that its IPv4 addresses do not.
        v6: bool,
        features: Features,
    },
    /// Others, by the first of the prefixes that have the same features. Prefixes stay while rules come and go, so what
    /// the rules say does not give the name.
    Prefixes { base: Base, first: Cidr },
}

impl ClassKey {
    pub(crate) fn base(&self) -> Base {
        match self {
            Self::Plain(base) | Self::Prefixes { base, .. } => *base,
            Self::Pods { identity, .. } => Base::Pod(*identity),
        }
    }

    /// The number, where the identity's own will do.
    pub(crate) fn plain(&self) -> Option<PeerClass> {
        match self {
            Self::Plain(base) => Some(base.identity().into()),
            Self::Pods { .. } | Self::Prefixes { .. } => None,
        }
    }
}

/// The classes of all addresses and prefixes of one base, which come in order.
pub(crate) fn name(base: Base, members: &[(Cidr, &Features)]) -> Vec<ClassKey> {
    if !base.is_pod() {
        return name_prefixes(base, members);
    }
    let family = |v6: bool| members.iter().filter(move |(p, _)| p.is_ipv6() == v6).map(|(_, f)| *f);
    let naming = Naming::of([family(false), family(true)]);
    members.iter().map(|(prefix, features)| naming.key(base, prefix.is_ipv6(), features)).collect()
}

/// Prefixes with equal features are one class. The class of the first prefix goes by the identity's number.
fn name_prefixes(base: Base, members: &[(Cidr, &Features)]) -> Vec<ClassKey> {
    let mut seen: HashMap<u64, Vec<(Cidr, &Features)>> = HashMap::new();
    let mut keys = Vec::with_capacity(members.len());
    for (prefix, features) in members {
        let mark = features.iter().fold(0u64, |sum, f| sum.wrapping_add(f.mark()));
        let alike = seen.entry(mark).or_default();
        let known = alike.iter().find(|(_, f)| f == features).map(|(first, _)| *first);
        let first = known.unwrap_or(*prefix);
        if known.is_none() {
            alike.push((*prefix, features));
        }
        let plain = members.first().is_some_and(|(p, _)| *p == first);
        keys.push(if plain { ClassKey::Plain(base) } else { ClassKey::Prefixes { base, first } });
    }
    keys
}

/// How the addresses of an identity are named.
#[derive(Debug)]
struct Naming {
    /// What differs among the addresses of a family: IPv4, IPv6.
    differing: [Features; 2],
    tag_v6: bool,
}

impl Naming {
    /// From the features of all addresses of one base, by family (IPv4, IPv6).
    fn of<'a>(members: [impl Iterator<Item = &'a Features>; 2]) -> Self {
        let [v4, v6] = members.map(Tally::of);
        let tag_v6 = v4.members > 0 && v6.members > 0 && v4.common != v6.common;
        Self { differing: [v4.differing(), v6.differing()], tag_v6 }
    }

    fn key(&self, base: Base, v6: bool, features: &Features) -> ClassKey {
        let [differing_v4, differing_v6] = &self.differing;
        let differing = if v6 { differing_v6 } else { differing_v4 };
        let v6 = v6 && self.tag_v6;
        let features: Features = features.iter().filter(|f| differing.contains(f)).cloned().collect();
        if !v6 && features.is_empty() {
            return ClassKey::Plain(base);
        }
        ClassKey::Pods { identity: base.identity(), v6, features }
    }
}

#[derive(Default)]
struct Tally {
    members: usize,
    common: Features,
    union: Features,
}

impl Tally {
    fn of<'a>(members: impl Iterator<Item = &'a Features>) -> Self {
        let mut tally = Self::default();
        for features in members {
            if tally.members == 0 {
                tally.common.clone_from(features);
                tally.union.clone_from(features);
            } else if tally.common != *features || tally.union != *features {
                tally.common.retain(|f| features.contains(f));
                tally.union.extend(features.iter().cloned());
            }
            tally.members += 1;
        }
        tally
    }

    fn differing(&self) -> Features {
        self.union.iter().filter(|f| !self.common.contains(f)).cloned().collect()
    }
}
