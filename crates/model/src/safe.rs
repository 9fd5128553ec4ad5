//! The safe set: traffic of a node that no policy cuts.
//!
//! A host policy that forgets one of these locks its author out of the node, or the node out of the cluster, and then
//! nobody can take the policy back. So they pass before any policy is asked, whatever denies them, and only a setting that
//! names a member takes it out ([`HostSettings::unprotected`]). Cilium has no such set: it tells its users to try a policy
//! in audit mode first. Calico has one (failsafe ports).
//!
//! | member | in | out |
//! |---|---|---|
//! | `Neighbors` | ICMPv6 130–137, 143 | the same |
//! | `PathErrors` | ICMP 3, 11, 12; ICMPv6 1–4 | the same |
//! | `DHCP` | UDP 68, 546 | UDP 67, 547 |
//! | `DNS` | | UDP, TCP 53 |
//! | `NTP` | | UDP 123 |
//! | `SSH` | TCP 22 | |
//! | `Kubelet` | TCP 10250 | TCP 10250 |
//! | `APIServer` | TCP 6443 | TCP 6443; TCP to the API server's addresses |
//! | `Etcd` | TCP 2379–2380 | TCP 2379–2380 |
//! | `Streams` | TCP 4240, 4244, 4250–4252; UDP, the overlay's port | the same |
//!
//! "In" and "out" are by who begins: answers pass with their connection. Ports are those of the destination.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    object::{Kind, ObjectRef, RuleRef},
    policy::Direction,
    protocol::Protocol,
};

/// A member of the safe set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Safe {
    /// Router and neighbour discovery (RFC 4861) and multicast listeners (RFC 3810): without them IPv6 has no links.
    Neighbors,
    /// That a packet could not be delivered, above all that it is too large (RFC 1191, RFC 8201).
    PathErrors,
    Dhcp,
    Dns,
    Ntp,
    Ssh,
    Kubelet,
    ApiServer,
    Etcd,
    /// What the product itself speaks between nodes: operator, webhooks, flows, probes, overlay.
    Streams,
}

/// Ports of a member, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SafePorts {
    pub member: Safe,
    pub direction: Direction,
    pub protocol: Protocol,
    /// Destination ports or ICMP types, both inclusive.
    pub first: u16,
    pub last: u16,
}

const fn ports(member: Safe, direction: Direction, protocol: Protocol, first: u16, last: u16) -> SafePorts {
    SafePorts { member, direction, protocol, first, last }
}

const IN: Direction = Direction::Ingress;
const OUT: Direction = Direction::Egress;

/// The safe set, but for what a cluster's settings and addresses add: the overlay's port and the API server's addresses.
pub const SAFE_PORTS: [SafePorts; 34] = [
    ports(Safe::Neighbors, IN, Protocol::ICMPV6, 130, 137),
    ports(Safe::Neighbors, IN, Protocol::ICMPV6, 143, 143),
    ports(Safe::Neighbors, OUT, Protocol::ICMPV6, 130, 137),
    ports(Safe::Neighbors, OUT, Protocol::ICMPV6, 143, 143),
    ports(Safe::PathErrors, IN, Protocol::ICMP, 3, 3),
    ports(Safe::PathErrors, IN, Protocol::ICMP, 11, 12),
    ports(Safe::PathErrors, IN, Protocol::ICMPV6, 1, 4),
    ports(Safe::PathErrors, OUT, Protocol::ICMP, 3, 3),
    ports(Safe::PathErrors, OUT, Protocol::ICMP, 11, 12),
    ports(Safe::PathErrors, OUT, Protocol::ICMPV6, 1, 4),
    ports(Safe::Dhcp, IN, Protocol::UDP, 68, 68),
    ports(Safe::Dhcp, IN, Protocol::UDP, 546, 546),
    ports(Safe::Dhcp, OUT, Protocol::UDP, 67, 67),
    ports(Safe::Dhcp, OUT, Protocol::UDP, 547, 547),
    ports(Safe::Dns, OUT, Protocol::UDP, 53, 53),
    ports(Safe::Dns, OUT, Protocol::TCP, 53, 53),
    ports(Safe::Ntp, OUT, Protocol::UDP, 123, 123),
    ports(Safe::Ssh, IN, Protocol::TCP, 22, 22),
    ports(Safe::Kubelet, IN, Protocol::TCP, 10250, 10250),
    ports(Safe::Kubelet, OUT, Protocol::TCP, 10250, 10250),
    ports(Safe::ApiServer, IN, Protocol::TCP, 6443, 6443),
    ports(Safe::ApiServer, OUT, Protocol::TCP, 6443, 6443),
    ports(Safe::Etcd, IN, Protocol::TCP, 2379, 2380),
    ports(Safe::Etcd, OUT, Protocol::TCP, 2379, 2380),
    // probes of nodes, flows, operator, webhooks, views
    ports(Safe::Streams, IN, Protocol::TCP, 4240, 4240),
    ports(Safe::Streams, IN, Protocol::TCP, 4244, 4244),
    ports(Safe::Streams, IN, Protocol::TCP, 4250, 4252),
    ports(Safe::Streams, OUT, Protocol::TCP, 4240, 4240),
    ports(Safe::Streams, OUT, Protocol::TCP, 4244, 4244),
    ports(Safe::Streams, OUT, Protocol::TCP, 4250, 4252),
    // the usual overlay, beside the one that is set: nodes change one after the other
    ports(Safe::Streams, IN, Protocol::UDP, 8472, 8472),
    ports(Safe::Streams, OUT, Protocol::UDP, 8472, 8472),
    ports(Safe::Streams, IN, Protocol::UDP, 6081, 6081),
    ports(Safe::Streams, OUT, Protocol::UDP, 6081, 6081),
];

impl Safe {
    pub const ALL: [Self; 10] = [
        Self::Neighbors,
        Self::PathErrors,
        Self::Dhcp,
        Self::Dns,
        Self::Ntp,
        Self::Ssh,
        Self::Kubelet,
        Self::ApiServer,
        Self::Etcd,
        Self::Streams,
    ];

    /// What settings and rules call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Neighbors => "Neighbors",
            Self::PathErrors => "PathErrors",
            Self::Dhcp => "DHCP",
            Self::Dns => "DNS",
            Self::Ntp => "NTP",
            Self::Ssh => "SSH",
            Self::Kubelet => "Kubelet",
            Self::ApiServer => "APIServer",
            Self::Etcd => "Etcd",
            Self::Streams => "Streams",
        }
    }

    /// The member of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Its bit in a set of members, for nodes.
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Provenance of what it lets pass.
    #[must_use]
    pub fn rule(self) -> RuleRef {
        let path: Arc<str> = format!("safe.{}", self.name()).into();
        RuleRef { object: ObjectRef::new(Kind::Builtin, "", "host-safe-set"), path }
    }
}

/// Settings of the host firewall that change verdicts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSettings {
    /// Policies of nodes are enforced. Off, all traffic of nodes passes.
    #[serde(default = "enabled")]
    pub enabled: bool,
    /// Members of the safe set that are left to policy.
    pub unprotected: BTreeSet<Safe>,
    /// UDP port of the overlay between nodes.
    pub overlay_port: u16,
}

const fn enabled() -> bool {
    true
}

impl Default for HostSettings {
    fn default() -> Self {
        Self { enabled: true, unprotected: BTreeSet::new(), overlay_port: 8472 }
    }
}

impl HostSettings {
    /// The member of the safe set that a first packet belongs to, if it is of one that is not left to policy.
    /// `to_apiserver`: its destination is one of the API server's addresses.
    #[must_use]
    pub fn safe(&self, direction: Direction, protocol: Protocol, port: u16, to_apiserver: bool) -> Option<Safe> {
        let hit =
            |p: &&SafePorts| p.direction == direction && p.protocol == protocol && (p.first..=p.last).contains(&port);
        let overlay = protocol == Protocol::UDP && port == self.overlay_port;
        let apiserver = direction == Direction::Egress && protocol == Protocol::TCP && to_apiserver;
        let by_port = SAFE_PORTS.iter().filter(hit).map(|p| p.member);
        let settled = [overlay.then_some(Safe::Streams), apiserver.then_some(Safe::ApiServer)];
        by_port.chain(settled.into_iter().flatten()).find(|member| !self.unprotected.contains(member))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_known_by_their_names_and_bits() {
        let mut bits = 0;
        for member in Safe::ALL {
            assert_eq!(Safe::from_name(member.name()), Some(member));
            assert_eq!(bits & member.bit(), 0, "{member:?}");
            bits |= member.bit();
            assert!(SAFE_PORTS.iter().any(|p| p.member == member), "{member:?} has ports");
        }
        assert_eq!(bits.count_ones(), 10);
        assert_eq!(Safe::from_name("ssh"), None);
    }

    #[test]
    fn ports_are_one_members() {
        for (i, a) in SAFE_PORTS.iter().enumerate() {
            assert!(a.first <= a.last, "{a:?}");
            for b in &SAFE_PORTS[i + 1..] {
                let apart = a.last < b.first || b.last < a.first;
                assert!(apart || a.direction != b.direction || a.protocol != b.protocol, "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn only_a_setting_that_names_a_member_takes_it_out() {
        let all = HostSettings::default();
        let ssh = |s: &HostSettings| s.safe(Direction::Ingress, Protocol::TCP, 22, false);
        assert_eq!(ssh(&all), Some(Safe::Ssh));
        for member in Safe::ALL {
            let settings = HostSettings { unprotected: BTreeSet::from([member]), ..HostSettings::default() };
            assert_eq!(ssh(&settings).is_none(), member == Safe::Ssh, "without {member:?}");
        }
        assert_eq!(all.safe(Direction::Egress, Protocol::TCP, 22, false), None, "out of the node SSH is like the rest");
        assert_eq!(all.safe(Direction::Ingress, Protocol::UDP, 22, false), None);
    }

    #[test]
    fn a_cluster_adds_its_overlay_and_its_api_server() {
        let settings = HostSettings { overlay_port: 4789, ..HostSettings::default() };
        for direction in [Direction::Ingress, Direction::Egress] {
            assert_eq!(settings.safe(direction, Protocol::UDP, 4789, false), Some(Safe::Streams));
            assert_eq!(settings.safe(direction, Protocol::UDP, 8472, false), Some(Safe::Streams));
            assert_eq!(settings.safe(direction, Protocol::TCP, 4789, false), None);
        }
        assert_eq!(settings.safe(Direction::Egress, Protocol::TCP, 443, false), None);
        assert_eq!(settings.safe(Direction::Egress, Protocol::TCP, 443, true), Some(Safe::ApiServer));
        assert_eq!(settings.safe(Direction::Egress, Protocol::UDP, 443, true), None);
        assert_eq!(settings.safe(Direction::Ingress, Protocol::TCP, 443, true), None);
        let lifted = HostSettings { unprotected: BTreeSet::from([Safe::ApiServer]), ..settings };
        assert_eq!(lifted.safe(Direction::Egress, Protocol::TCP, 6443, true), None);
    }
}
