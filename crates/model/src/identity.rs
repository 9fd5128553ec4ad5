//! Numeric security identities.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::labels::{LabelKey, Labels};

/// A security identity, numbered as Cilium numbers it: 1–255 reserved, 256–65535 from CiliumIdentity objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(pub u32);

impl Identity {
    pub const UNKNOWN: Self = Self(0);
    pub const HOST: Self = Self(1);
    pub const WORLD: Self = Self(2);
    pub const UNMANAGED: Self = Self(3);
    pub const HEALTH: Self = Self(4);
    pub const INIT: Self = Self(5);
    pub const REMOTE_NODE: Self = Self(6);
    pub const KUBE_APISERVER: Self = Self(7);
    pub const INGRESS: Self = Self(8);
    pub const WORLD_IPV4: Self = Self(9);
    pub const WORLD_IPV6: Self = Self(10);
    /// First and last identity that CiliumIdentity objects may carry.
    pub const FIRST: Self = Self(256);
    pub const LAST: Self = Self(65535);

    /// The reserved label's name (`host`, `world`, …), for reserved identities.
    #[must_use]
    pub const fn reserved_name(self) -> Option<&'static str> {
        Some(match self {
            Self::HOST => "host",
            Self::WORLD => "world",
            Self::UNMANAGED => "unmanaged",
            Self::HEALTH => "health",
            Self::INIT => "init",
            Self::REMOTE_NODE => "remote-node",
            Self::KUBE_APISERVER => "kube-apiserver",
            Self::INGRESS => "ingress",
            Self::WORLD_IPV4 => "world-ipv4",
            Self::WORLD_IPV6 => "world-ipv6",
            _ => return None,
        })
    }

    /// `reserved:NAME` for reserved identities, none otherwise.
    #[must_use]
    pub fn reserved_labels(self) -> Option<Labels> {
        self.reserved_name().map(|n| Labels::new().with(LabelKey::reserved(n), ""))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reserved_name() {
            Some(n) => f.write_str(n),
            None => write!(f, "{}", self.0),
        }
    }
}

/// What a policy table is keyed by: everything that policy can tell apart about a peer's address.
///
/// Equal to the identity's number for a peer that only its labels set apart. Where addresses of one identity differ in
/// what rules read about them (CIDRs, being a Service's backend, named ports of the pod), those that are alike get a
/// class of their own (≥ 2^24, a hash with collisions resolved by the set of classes alone), so that one lookup answers
/// for all rules. What *all* addresses of an identity have in common makes no class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PeerClass(pub u32);

impl PeerClass {
    /// In a policy key: whoever the peer is.
    pub const ANY: Self = Self(0);
    /// In a policy key: every pod of the cluster, at its IPv4 address. This and the other kinds are numbers of reserved
    /// identities (below 256) that Cilium does not give, so that no class can have them.
    pub const PODS_IPV4: Self = Self(252);
    pub const PODS_IPV6: Self = Self(253);
    /// In a policy key: every IPv4 address outside of the cluster.
    pub const WORLD_IPV4: Self = Self(254);
    pub const WORLD_IPV6: Self = Self(255);
    /// First class that is not an identity's number.
    pub const FIRST_COMPOSED: u32 = 1 << 24;

    /// The kind of peer that an address is by whom it belongs to, if there is a kind for that: what is looked up between
    /// the class and [`PeerClass::ANY`].
    #[must_use]
    pub const fn kind_of(identity: Identity, v6: bool) -> Option<Self> {
        match (identity, v6) {
            (Identity::WORLD | Identity::WORLD_IPV4 | Identity::WORLD_IPV6, false) => Some(Self::WORLD_IPV4),
            (Identity::WORLD | Identity::WORLD_IPV4 | Identity::WORLD_IPV6, true) => Some(Self::WORLD_IPV6),
            (Identity(0..=255), _) => None,
            (_, false) => Some(Self::PODS_IPV4),
            (_, true) => Some(Self::PODS_IPV6),
        }
    }

    /// What the number means in a policy key, where it stands for many: `any`, `pods-ipv4`, …
    #[must_use]
    pub const fn wide_name(self) -> Option<&'static str> {
        Some(match self {
            Self::ANY => "any",
            Self::PODS_IPV4 => "pods-ipv4",
            Self::PODS_IPV6 => "pods-ipv6",
            Self::WORLD_IPV4 => "outside-ipv4",
            Self::WORLD_IPV6 => "outside-ipv6",
            _ => return None,
        })
    }

    /// Place in the order of lookup: 0 whoever, 1 a kind, 2 a class.
    #[must_use]
    pub const fn level(self) -> u8 {
        match self {
            Self::ANY => 0,
            Self::PODS_IPV4 | Self::PODS_IPV6 | Self::WORLD_IPV4 | Self::WORLD_IPV6 => 1,
            _ => 2,
        }
    }
}

impl From<Identity> for PeerClass {
    fn from(i: Identity) -> Self {
        Self(i.0)
    }
}
