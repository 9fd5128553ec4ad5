//! Whether nodes reach each other: each agent probes every node, and what probes find is shown, counted, and told of a
//! node that packets do not get through.
//!
//! ```text
//!   rows ─▶ Engine ─▶ Plan ─▶ task ══ Input ══▶ Mesh::step ══ Effect::Visit ══▶ probe (ICMP, HTTP) ─▶ other nodes
//!              ▲                 │                 └─▶ Proof, matrix
//!              └── Mail::Health ─┘ answer (HTTP on port 4240: node addresses, health endpoint)
//! ```
//!
//! Nouns: a [`Lane`] is one way to a node: to its own address or to its health endpoint, by one protocol; a *visit* probes
//! all lanes of one node; a [`lane::Standing`] is what is known of a lane; the [`mesh::Mesh`] is all of it, and decides.
//! The *health endpoint* of a node is an address of its pod CIDR in a network namespace of its own behind the programs,
//! as a pod is, with identity `reserved:health`: what answers there came through tunnel or routes and the programs.
//!
//! Invariants: everything that is decided is decided in [`mesh`] and [`lane`], which read no clock and do no IO; all IO is
//! in [`probe`], [`answer`] and [`task`]. A visit costs the same whatever the size of the cluster; visits of a node are
//! further apart the more nodes there are (as the peers' are: the interval times ln(1 + nodes)), and at most
//! [`mesh::IN_FLIGHT`] are under way. Nothing is written to the API for a probe: the operator is told of a change of
//! [`axoneme_wire::Proof`], which takes several probes.
//!
//! Health endpoints are no subjects of policy, so that a default-deny does not make a node look broken; probes of node
//! addresses by HTTP are in the safe set of the host firewall, those by ICMP are left to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use axoneme_model::rows::{HealthRow, NodeConfigRow, NodeRow};

pub mod answer;
pub mod lane;
pub mod mesh;
pub mod metrics;
pub mod probe;
pub mod task;
pub mod view;

/// TCP port that probes are answered on, at node addresses and at health endpoints (Cilium's `cluster-health-port`).
pub const PORT: u16 = 4240;

/// What of a node is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Its own address: the network between nodes.
    Node,
    /// Its health endpoint: the network of pods.
    Endpoint,
}

impl Place {
    /// As the peers' metrics call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Endpoint => "endpoint",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Icmp,
    Http,
}

impl Protocol {
    /// As the peers' metrics call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::Http => "http",
        }
    }
}

/// One way to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    pub place: Place,
    pub protocol: Protocol,
    pub address: IpAddr,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} by {}", self.place.name(), self.address, self.protocol.name())
    }
}

/// Whom to probe, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Name of the own node, which is probed, too.
    pub own: Arc<str>,
    /// Before it grows with the number of nodes.
    pub interval: Duration,
    pub nodes: BTreeMap<Arc<str>, Vec<Lane>>,
}

impl Peers {
    /// Of the rows. `underlay`: the own addresses; a family that this node does not speak is not probed.
    #[must_use]
    pub fn new(
        own: &Arc<str>,
        health: HealthRow,
        config: &NodeConfigRow,
        nodes: &BTreeMap<Arc<str>, NodeRow>,
        underlay: &[IpAddr],
    ) -> Self {
        let speaks = |a: &IpAddr| underlay.iter().any(|u| u.is_ipv4() == a.is_ipv4());
        let lanes = |node: &NodeRow| {
            let mut seen = BTreeSet::new();
            // the first address of each family: the others are the same machine
            let own = node.addresses.iter().copied().filter(speaks).filter(|a| seen.insert(a.is_ipv4()));
            let own: Vec<_> = own.map(|a| (Place::Node, a)).collect();
            let has = |a: &IpAddr| if a.is_ipv4() { config.ipv4 } else { config.ipv6 };
            let endpoints = node.health_addresses().filter(has).filter(speaks).filter(|_| health.endpoints);
            let places = own.into_iter().chain(endpoints.map(|a| (Place::Endpoint, a)));
            let both = [Protocol::Icmp, Protocol::Http];
            places.flat_map(|(place, address)| both.map(|protocol| Lane { place, protocol, address })).collect()
        };
        Self {
            own: own.clone(),
            interval: Duration::from_secs(health.interval_seconds.max(1).into()),
            nodes: nodes.iter().map(|(name, row)| (name.clone(), lanes(row))).collect(),
        }
    }
}

/// What the engine wants of the task.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// None: nobody is probed, and no probe is answered.
    pub peers: Option<Peers>,
    pub cluster: Arc<str>,
    /// Node addresses to answer at.
    pub addresses: Vec<IpAddr>,
    /// Namespace of the health endpoint, to answer in.
    pub endpoint: Option<Arc<OwnedFd>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_probed_at_its_addresses_and_at_its_health_endpoint() {
        let node = |name: &str, addresses: &[&str], cidrs: &[&str]| NodeRow {
            name: name.into(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            pod_cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
        };
        let rows = [
            node("n1", &["192.168.0.1"], &["10.0.1.0/24"]),
            node("n2", &["192.168.0.2", "192.168.9.2", "fd00::2"], &["10.0.2.0/24", "10.0.9.0/24", "fd01::/64"]),
            node("n3", &["192.168.0.3"], &["10.0.3.4/31"]),
        ];
        let rows: BTreeMap<Arc<str>, NodeRow> = rows.into_iter().map(|n| (n.name.clone(), n)).collect();
        let config: NodeConfigRow = serde_json::from_value(serde_json::json!({
            "node": "n1", "cluster_name": "default", "ipv4": true, "ipv6": true, "pools": {},
            "routing": {"Vxlan": {"port": 8472}}, "mtu": 0, "masquerade_v4": true, "masquerade_v6": false,
            "masquerade_exclude": [], "cluster_cidrs": [], "services": true, "socket_lb": true,
            "always_allow_own_host": true, "conntrack_entries": 1024, "devices": []
        }))
        .unwrap();
        let places = |health, underlay: &[&str]| {
            let underlay: Vec<IpAddr> = underlay.iter().map(|a| a.parse().unwrap()).collect();
            let peers = Peers::new(&"n1".into(), health, &config, &rows, &underlay);
            let text = |lanes: &[Lane]| {
                assert!(lanes.iter().any(|l| l.protocol == Protocol::Icmp));
                let http = lanes.iter().filter(|l| l.protocol == Protocol::Http);
                http.map(|l| format!("{} {}", l.place.name(), l.address)).collect::<Vec<_>>().join(", ")
            };
            peers.nodes.values().map(|l| text(l)).collect::<Vec<_>>()
        };
        let on = HealthRow { interval_seconds: 60, endpoints: true };
        let n1 = "node 192.168.0.1, endpoint 10.0.1.1";
        let n3 = "node 192.168.0.3";
        assert_eq!(places(on, &["192.168.0.1"]), [n1, "node 192.168.0.2, endpoint 10.0.2.1", n3]);
        let both = "node 192.168.0.2, node fd00::2, endpoint 10.0.2.1, endpoint fd01::1";
        assert_eq!(places(on, &["192.168.0.1", "fd00::1"]), [n1, both, n3]);
        let off = HealthRow { endpoints: false, ..on };
        assert_eq!(places(off, &["192.168.0.1"]), ["node 192.168.0.1", "node 192.168.0.2", n3]);
    }
}
