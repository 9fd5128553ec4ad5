//! Names and addresses of a cluster, all computed from its number, so that a cluster can be removed from its number alone.
//!
//! ```text
//!   root netns ──axn1──┐ 172.28.1.0/30
//!                      │                 ┌── axn1-cp      172.30.1.2   etcd, API server, controllers
//!                   axn1-rtr ── br-nodes ┼── axn1-node1   172.30.1.11  containerd, kubelet
//!                      │   172.30.1.0/24 └── axn1-node2   172.30.1.12
//!                      │ 172.31.1.0/24
//!                   axn1-out  172.31.1.2   a host outside: it can route to the nodes, never to pods
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Address families of nodes, pods and services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Family {
    /// IPv4 only.
    #[default]
    V4,
    /// IPv6 only.
    V6,
    /// Both, IPv4 first.
    Dual,
}

impl Family {
    fn pick<T>(self, v4: T, v6: T) -> Vec<T> {
        match self {
            Family::V4 => vec![v4],
            Family::V6 => vec![v6],
            Family::Dual => vec![v4, v6],
        }
    }
}

/// Where an address lies on the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The router, on the nodes' subnet: every node's default gateway.
    Gateway,
    /// The control plane, on the nodes' subnet.
    ControlPlane,
    /// A node, counted from 1.
    Node(u8),
    /// The router, on the outside subnet.
    OutsideGateway,
    /// The outside host.
    Outside,
    /// The router, on the link to the machine's own network namespace.
    RootGateway,
    /// The machine's own end of that link.
    Root,
}

/// All names and addresses of one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    /// 1 to [`MAX_ID`].
    pub id: u8,
    /// Which addresses it has.
    pub family: Family,
}

/// Clusters that can run side by side.
pub(crate) const MAX_ID: u8 = 9;
/// Nodes that a cluster can have.
pub(crate) const MAX_NODES: u8 = 200;
/// Bits of a node's pod range.
pub(crate) const NODE_MASK_V4: u8 = 24;
pub(crate) const NODE_MASK_V6: u8 = 64;

impl Layout {
    /// The prefix of every name that the cluster gives to something of the machine.
    pub(crate) fn prefix(self) -> String {
        format!("axn{}", self.id)
    }

    /// The network namespace of `rtr`, `cp`, `out` or a node.
    pub(crate) fn netns(self, of: &str) -> String {
        format!("{}-{of}", self.prefix())
    }

    /// A place's addresses, IPv4 first.
    pub(crate) fn addresses(self, place: Place) -> Vec<IpAddr> {
        let (net, host) = match place {
            Place::Gateway => (30, 1),
            Place::ControlPlane => (30, 2),
            Place::Node(number) => (30, 10 + u16::from(number)),
            Place::OutsideGateway => (31, 1),
            Place::Outside => (31, 2),
            Place::Root => (28, 1),
            Place::RootGateway => (28, 2),
        };
        let v4 = Ipv4Addr::new(172, net, self.id, host as u8);
        let v6 = Ipv6Addr::new(0xfd00, decimal(u16::from(net)), u16::from(self.id), 0, 0, 0, 0, decimal(host));
        self.family.pick(IpAddr::V4(v4), IpAddr::V6(v6))
    }

    /// A place's first address.
    pub(crate) fn address(self, place: Place) -> IpAddr {
        self.addresses(place).first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// A place's addresses with the length of its subnet.
    pub(crate) fn prefixed(self, place: Place) -> Vec<String> {
        self.addresses(place).iter().map(|ip| format!("{ip}/{}", if ip.is_ipv4() { 24 } else { 64 })).collect()
    }

    /// The subnets of the nodes and of the outside.
    pub(crate) fn node_subnets(self) -> Vec<String> {
        self.family.pick(format!("172.30.{}.0/24", self.id), format!("fd00:30:{}::/64", self.id))
    }

    /// See [`Layout::node_subnets`].
    pub(crate) fn outside_subnets(self) -> Vec<String> {
        self.family.pick(format!("172.31.{}.0/24", self.id), format!("fd00:31:{}::/64", self.id))
    }

    /// What the controller manager hands out to nodes, comma separated.
    pub(crate) fn pod_ranges(self) -> String {
        self.family.pick(format!("10.24{}.0.0/16", self.id), format!("fd00:24:{}::/48", self.id)).join(",")
    }

    /// Service addresses, comma separated.
    pub(crate) fn service_ranges(self) -> String {
        self.family.pick(format!("10.9{}.0.0/16", self.id), format!("fd00:9:{}::/112", self.id)).join(",")
    }

    /// A service address by its number in the range: 1 is the API server, 10 is DNS.
    pub(crate) fn service_address(self, number: u8) -> String {
        let all = self.family.pick(format!("10.9{}.0.{number}", self.id), format!("fd00:9:{}::{number:x}", self.id));
        all.into_iter().next().unwrap_or_default()
    }

    /// The API server's URL on the underlay.
    pub(crate) fn api_url(self) -> String {
        match self.address(Place::ControlPlane) {
            IpAddr::V4(ip) => format!("https://{ip}:6443"),
            IpAddr::V6(ip) => format!("https://[{ip}]:6443"),
        }
    }
}

/// The hexadecimal number that reads like this decimal one: node 11 is `::11`, as in its IPv4 address.
fn decimal(number: u16) -> u16 {
    ((number / 100 % 10) << 8) | ((number / 10 % 10) << 4) | (number % 10)
}

/// A node's name by its number.
pub(crate) fn node_name(number: u8) -> String {
    format!("node{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_read_alike() {
        let layout = Layout { id: 3, family: Family::Dual };
        let text: Vec<String> = layout.prefixed(Place::Node(12));
        assert_eq!(text, ["172.30.3.22/24", "fd00:30:3::22/64"]);
        assert_eq!(layout.service_ranges(), "10.93.0.0/16,fd00:9:3::/112");
        assert_eq!(Layout { id: 3, family: Family::V6 }.api_url(), "https://[fd00:30:3::2]:6443");
    }

    #[test]
    fn clusters_and_nodes_never_share_an_address() {
        let mut seen = std::collections::BTreeSet::new();
        for id in 1..=MAX_ID {
            let layout = Layout { id, family: Family::Dual };
            for number in 1..=MAX_NODES {
                for ip in layout.addresses(Place::Node(number)) {
                    assert!(seen.insert(ip), "{ip} twice");
                }
            }
        }
    }
}
