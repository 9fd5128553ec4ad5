//! Peers as tables know them, and the names (classes) that they get.
//!
//! ```text
//!  address ─▶ base (whose it is) + features (what rules read about it) ─▶ class
//! ```
//!
//! Features that all addresses of a base share set nothing apart, so they are not part of the name: a rule that covers
//! every address of an identity, or none, renames nothing. Only what differs *within* a base and address family makes a
//! composed class.

use std::collections::BTreeSet;

use axoneme_model::{Identity, LabelKey, Labels, PeerClass};

use crate::feature::{Feature, Features};

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
        Some(match features.contains(&Feature::ApiServer) {
            true => labels.with(LabelKey::reserved("kube-apiserver"), ""),
            false => labels,
        })
    }
}

/// Name of a class before it gets its number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClassKey {
    pub(crate) base: Base,
    /// The IPv6 addresses of a base share something that its IPv4 addresses do not.
    pub(crate) v6: bool,
    /// What sets the address apart within its base and family.
    pub(crate) features: Features,
}

impl ClassKey {
    /// The number, where the identity's own will do.
    pub(crate) fn plain(&self) -> Option<PeerClass> {
        (!self.v6 && self.features.is_empty()).then(|| self.base.identity().into())
    }
}

/// How the addresses of a base are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Naming {
    /// What differs among the addresses of a family: IPv4, IPv6.
    differing: [Features; 2],
    tag_v6: bool,
}

impl Naming {
    /// From the features of all addresses of one base, by family (IPv4, IPv6).
    pub(crate) fn of<'a>(members: [impl Iterator<Item = &'a Features>; 2]) -> Self {
        let [v4, v6] = members.map(Tally::of);
        let tag_v6 = v4.members > 0 && v6.members > 0 && v4.common != v6.common;
        Self { differing: [v4.differing(), v6.differing()], tag_v6 }
    }

    pub(crate) fn key(&self, base: Base, v6: bool, features: &Features) -> ClassKey {
        let [differing_v4, differing_v6] = &self.differing;
        let differing = if v6 { differing_v6 } else { differing_v4 };
        ClassKey {
            base,
            v6: v6 && self.tag_v6,
            features: features.intersection(differing).cloned().collect::<BTreeSet<_>>(),
        }
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
        self.union.difference(&self.common).cloned().collect()
    }
}
