//! The settings of each node, as rows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axoneme_crds::axoneme_config::{IpFamily, IpamMode};
use axoneme_intake::{Conntrack, Routing, Settings};
use axoneme_model::{
    Cidr,
    rows::{self, AgentRow, BlockUse, ConntrackTimes, NodeConfigRow},
};

use crate::{ipam::Blocks, state::Cluster};

/// A row for each node that exists.
#[must_use]
pub fn rows(cluster: &Cluster) -> BTreeMap<Arc<str>, NodeConfigRow> {
    let all = cluster_cidrs(cluster);
    let mode = cluster.settings.ipam.mode;
    let unmasqueraded = cluster.pools.iter().filter(|(_, p)| p.spec.skip_masquerade).map(|(n, _)| n.clone());
    let unmasqueraded: BTreeSet<Arc<str>> = unmasqueraded.filter(|_| mode == IpamMode::MultiPool).collect();
    let nodes = cluster.nodes.iter().filter(|(_, n)| n.node.is_some());
    nodes
        .map(|(name, n)| {
            let in_use = cluster.uses(name).in_use;
            let pools = n.pools(mode, &in_use);
            let mut blocks = n.block_use(mode, &in_use);
            blocks.unmasqueraded = unmasqueraded.iter().filter(|p| pools.contains_key(*p)).cloned().collect();
            (name.clone(), row(&cluster.settings, name, pools, blocks, &all))
        })
        .collect()
}

fn row(
    s: &Settings,
    node: &Arc<str>,
    pools: BTreeMap<Arc<str>, Vec<Cidr>>,
    blocks: BlockUse,
    all: &[Cidr],
) -> NodeConfigRow {
    let mut exclude = s.masquerade.exclude.clone();
    let routing = match &s.routing {
        Routing::Overlay { port, .. } => rows::Routing::Vxlan { port: *port },
        Routing::Native { ipv4_cidr, ipv6_cidr, auto_direct_node_routes } => {
            // what the network routes by itself sees pods' own addresses
            exclude.extend(ipv4_cidr.iter().chain(ipv6_cidr));
            rows::Routing::Native { auto_direct_node_routes: *auto_direct_node_routes }
        }
    };
    NodeConfigRow {
        node: node.clone(),
        cluster_name: s.cluster.cluster_name.clone(),
        ipv4: s.has(IpFamily::IPv4),
        ipv6: s.has(IpFamily::IPv6),
        pools,
        routing,
        mtu: s.mtu.unwrap_or(0),
        masquerade_v4: s.masquerade.ipv4,
        masquerade_v6: s.masquerade.ipv6,
        masquerade_exclude: exclude,
        cluster_cidrs: all.to_vec(),
        services: s.services.enabled,
        socket_lb: s.services.socket_lb,
        always_allow_own_host: s.cluster.always_allow_own_host,
        conntrack_entries: s.conntrack.max_entries,
        conntrack_times: conntrack_times(&s.conntrack),
        socket_lb_host_only: s.services.socket_lb_host_only,
        agent: agent(s),
        devices: s.agent.devices.iter().map(|d| d.as_str().into()).collect(),
        blocks,
    }
}

fn conntrack_times(c: &Conntrack) -> ConntrackTimes {
    // settings are whole seconds of 32 bits
    let seconds = |d: Duration| u32::try_from(d.as_secs()).unwrap_or(u32::MAX);
    ConntrackTimes {
        tcp_opening: seconds(c.tcp_opening),
        tcp_established: seconds(c.tcp_established),
        tcp_closing: seconds(c.tcp_closing),
        udp: seconds(c.udp),
        other: seconds(c.other),
    }
}

fn agent(s: &Settings) -> AgentRow {
    AgentRow {
        log_level: s.agent.log_level.directive().into(),
        flow_buffer: s.flow_buffer_events,
        cni_exclusive: s.cni.exclusive,
        cni_chained: s.cni.chained_plugins.iter().map(|p| p.to_string().into()).collect(),
    }
}

/// All prefixes that pods may have addresses of: those of the pools, and what nodes hold outside of them (a pool that
/// was edited). As few as possible.
fn cluster_cidrs(cluster: &Cluster) -> Vec<Cidr> {
    let ipam = &cluster.settings.ipam;
    let mut all = Blocks::default();
    match ipam.mode {
        IpamMode::ClusterPool => {
            [&ipam.ipv4, &ipam.ipv6].into_iter().flatten().flat_map(|f| &f.cidrs).for_each(|c| all.insert(*c));
        }
        IpamMode::MultiPool => {
            let families = cluster.pools.values().flat_map(|p| [&p.spec.ipv4, &p.spec.ipv6]).flatten();
            families.flat_map(|f| &f.cidrs).for_each(|c| all.insert(*c));
        }
        IpamMode::Kubernetes | IpamMode::CRD => {}
    }
    for (name, n) in &cluster.nodes {
        n.pools(ipam.mode, &cluster.uses(name).in_use).into_values().flatten().for_each(|c| all.insert(c));
    }
    all.prefixes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_blocks_become_one_prefix() {
        let mut b = Blocks::default();
        for c in ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.4.0/24", "fd00::/120", "::/1", "8000::/1"] {
            b.insert(c.parse().unwrap());
        }
        let text: Vec<_> = b.prefixes().iter().map(ToString::to_string).collect();
        assert_eq!(text, ["10.0.0.0/23", "10.0.2.0/24", "10.0.4.0/24", "::/0"]);
    }
}
