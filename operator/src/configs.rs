//! The settings of each node, as rows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axoneme_crds::axoneme_config::{IpFamily, IpamMode, OverlayProtocol};
use axoneme_intake::{Conntrack, Routing, Settings};
use axoneme_model::{
    Cidr,
    rows::{
        self, AgentRow, BlockUse, ConntrackTimes, DirectRow, GuardRow, HealthRow, NodeConfigRow, Tunnel, TunnelProtocol,
    },
};

use crate::{
    core::{Past, Tunnels},
    ipam::Blocks,
    state::Cluster,
};

/// How far nodes are with what they cannot change in one moment.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub past: Past,
    pub tunnels: Tunnels,
}

/// The tunnel that the settings ask for.
#[must_use]
pub fn tunnel(routing: &Routing) -> Option<Tunnel> {
    let (Routing::Overlay { protocol, port } | Routing::Hybrid { protocol, port, .. }) = routing else { return None };
    let protocol = match protocol {
        OverlayProtocol::VXLAN => TunnelProtocol::Vxlan,
        OverlayProtocol::Geneve => TunnelProtocol::Geneve,
    };
    Some(Tunnel { protocol, port: *port })
}

/// A row for each node that exists. `guard`: what guards a node itself.
#[must_use]
pub fn rows(
    cluster: &Cluster,
    told: Told,
    guard: impl Fn(&str) -> Option<GuardRow>,
) -> BTreeMap<Arc<str>, NodeConfigRow> {
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
            let labels = n.node.as_ref().map(|n| &n.labels);
            let resolved = labels.map(|labels| cluster.overrides.resolve(&cluster.settings, labels));
            let settings = resolved.as_ref().map_or(&cluster.settings, |r| &*r.settings);
            let mut row = row(settings, name, (pools, blocks, guard(name)), &all);
            row.direct = match told.past {
                Past::Off => None,
                Past::Taken => Some(DirectRow::default()),
                Past::Sent => row.direct,
            };
            if let Some(sent) = told.tunnels.sent {
                (row.routing, row.also) = (sent.into(), told.tunnels.taken);
            }
            if let (Some(guard), Some(port)) = (&mut row.guard, told.tunnels.guarded_port()) {
                guard.overlay_port = port;
            }
            row.overrides = resolved.map(|r| r.rows()).unwrap_or_default();
            (name.clone(), row)
        })
        .collect()
}

fn row(
    s: &Settings,
    node: &Arc<str>,
    (pools, blocks, guard): (BTreeMap<Arc<str>, Vec<Cidr>>, BlockUse, Option<GuardRow>),
    all: &[Cidr],
) -> NodeConfigRow {
    let mut exclude = s.masquerade.exclude.clone();
    if let Routing::Native(n) = &s.routing {
        // what the network routes by itself sees pods' own addresses
        exclude.extend(n.ipv4_cidr.iter().chain(&n.ipv6_cidr));
    }
    let direct_routes = matches!(&s.routing, Routing::Native(n) if n.auto_direct_node_routes);
    let native = rows::Routing::Native { auto_direct_node_routes: direct_routes };
    let routing = tunnel(&s.routing).map_or(native, rows::Routing::from);
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
        deny_response: s.deny_response,
        conntrack_entries: s.conntrack.max_entries,
        conntrack_times: conntrack_times(&s.conntrack),
        socket_lb_host_only: s.services.socket_lb_host_only,
        agent: agent(s),
        devices: s.agent.devices.iter().map(|d| d.as_str().into()).collect(),
        blocks,
        guard,
        health: health(s),
        overrides: Vec::new(),
        direct: match &s.routing {
            Routing::Hybrid { subnets, .. } => Some(DirectRow { subnets: subnets.clone() }),
            Routing::Overlay { .. } | Routing::Native(_) => None,
        },
        also: None,
        pod_device: s.pod_device,
    }
}

fn health(s: &Settings) -> Option<HealthRow> {
    let health = &s.node_health;
    // of a multi-pool block no address is set aside
    let endpoints = health.endpoints && s.ipam.mode != IpamMode::MultiPool;
    health.enabled.then_some(HealthRow { interval_seconds: health.interval_seconds, endpoints })
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
        drop_events: s.drop_events_seconds,
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
    use serde_json::{Value, json};

    use super::*;

    /// All that is made of settings.
    fn outcome(spec: &Value) -> impl PartialEq + std::fmt::Debug {
        let object = json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig",
            "metadata": {"name": "default"}, "spec": spec});
        let s = axoneme_intake::config(&object).unwrap_or_else(|e| panic!("{spec}: {e:?}"));
        let row = row(&s, &"n".into(), (BTreeMap::new(), BlockUse::default(), None), &[]);
        (row, s.cluster, s.cidr_scope, s.ipam)
    }

    fn leaves(path: &str, value: &Value, out: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(k, v)| leaves(&format!("{path}/{k}"), v, out)),
            leaf => out.push((path.to_owned(), leaf.clone())),
        }
    }

    fn with(base: &Value, path: &str, leaf: &Value) -> Value {
        let mut spec = base.clone();
        let mut at = &mut spec;
        for key in path.trim_start_matches('/').split('/') {
            at = at.as_object_mut().unwrap().entry(key).or_insert_with(|| json!({}));
        }
        *at = leaf.clone();
        spec
    }

    /// A setting that is accepted and changes nothing would be a promise that nobody keeps.
    #[test]
    fn every_setting_is_heeded() {
        let example = include_str!("../../crds/tests/examples/config-full.yaml");
        let object: Value = serde_saphyr::from_str(example).unwrap();
        let mut all = Vec::new();
        leaves("", &object["spec"], &mut all);
        assert!(all.len() > 30, "{all:?}");
        let bases = [
            json!({"ipam": {"mode": "Kubernetes"}}),
            json!({"routing": {"mode": "Native"}}),
            json!({"routing": {"mode": "Hybrid", "hybrid": {"subnets": ["198.51.100.0/24"]}}}),
            json!({"ipFamilies": ["IPv4", "IPv6"]}),
        ];
        for (path, leaf) in &all {
            // whichever of the two is not the default
            let values = leaf.as_bool().map_or_else(|| vec![leaf.clone()], |_| vec![json!(true), json!(false)]);
            let changes = |base: &Value| values.iter().any(|v| outcome(&with(base, path, v)) != outcome(base));
            assert!(bases.iter().any(changes), "{path}: {leaf} changes nothing");
        }
    }

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
