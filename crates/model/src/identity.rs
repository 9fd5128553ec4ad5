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
    /// First class that is not an identity's number.
    pub const FIRST_COMPOSED: u32 = 1 << 24;
}

impl From<Identity> for PeerClass {
    fn from(i: Identity) -> Self {
        Self(i.0)
    }
}
