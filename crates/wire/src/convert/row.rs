//! Configuration, nodes, identities, addresses, endpoints.

use std::sync::Arc;

use axoneme_model::{
    Bandwidth, Identity, PeerClass, Safe,
    rows::{
        AgentRow, BlockUse, ConntrackTimes, DenyResponse, DirectRow, Edges, EndpointRow, GuardRow, HealthRow,
        IdentityRow, IpRow, NodeConfigRow, NodeRow, OverrideRow, PodDevice, Routing, TableId, Tunnel, TunnelProtocol,
    },
};

use super::{
    At, Wire, WireError, address, address_bytes, addresses, label_messages, labels, list, messages, name, narrow,
    required,
};
use crate::pb;

impl Wire for NodeConfigRow {
    type Message = pb::NodeConfig;

    fn to_message(&self) -> pb::NodeConfig {
        let pool = |(name, cidrs): (&Arc<str>, &Vec<_>)| (name.to_string(), pb::Prefixes { prefixes: messages(cidrs) });
        pb::NodeConfig {
            node: self.node.to_string(),
            cluster_name: self.cluster_name.to_string(),
            ipv4: self.ipv4,
            ipv6: self.ipv6,
            pools: self.pools.iter().map(pool).collect(),
            routing: Some(routing_message(&self.routing)),
            mtu: self.mtu,
            masquerade_v4: self.masquerade_v4,
            masquerade_v6: self.masquerade_v6,
            masquerade_exclude: messages(&self.masquerade_exclude),
            cluster_cidrs: messages(&self.cluster_cidrs),
            services: self.services,
            socket_lb: self.socket_lb,
            always_allow_own_host: self.always_allow_own_host,
            conntrack_entries: self.conntrack_entries,
            devices: self.devices.iter().map(ToString::to_string).collect(),
            blocks: Some(self.blocks.to_message()),
            conntrack_times: Some(self.conntrack_times.to_message()),
            socket_lb_host_only: self.socket_lb_host_only,
            agent: Some(self.agent.to_message()),
            guard: self.guard.as_ref().map(Wire::to_message),
            deny_response: match self.deny_response {
                DenyResponse::None => pb::DenyResponse::Unspecified,
                DenyResponse::Icmp => pb::DenyResponse::Icmp,
            }
            .into(),
            health: self.health.map(|h| pb::Health { interval_seconds: h.interval_seconds, endpoints: h.endpoints }),
            overrides: self.overrides.iter().map(override_message).collect(),
            direct: self.direct.as_ref().map(|d| pb::Direct { subnets: messages(&d.subnets) }),
            also: self.also.map(tunnel_message),
            pod_device: match self.pod_device {
                PodDevice::Veth => pb::PodDevice::Unspecified,
                PodDevice::Netkit => pb::PodDevice::Netkit,
            }
            .into(),
        }
    }

    fn from_message(m: pb::NodeConfig) -> Result<Self, WireError> {
        let pool = |(name, p): (String, pb::Prefixes)| {
            let cidrs = list("prefixes", p.prefixes).at(&format!("pools[{name:?}]"))?;
            Ok((Arc::from(name), cidrs))
        };
        Ok(Self {
            node: name("node", m.node)?,
            cluster_name: m.cluster_name.into(),
            ipv4: m.ipv4,
            ipv6: m.ipv6,
            pools: m.pools.into_iter().map(pool).collect::<Result<_, WireError>>()?,
            routing: routing(required("routing", m.routing)?)?,
            mtu: m.mtu,
            masquerade_v4: m.masquerade_v4,
            masquerade_v6: m.masquerade_v6,
            masquerade_exclude: list("masquerade_exclude", m.masquerade_exclude)?,
            cluster_cidrs: list("cluster_cidrs", m.cluster_cidrs)?,
            services: m.services,
            socket_lb: m.socket_lb,
            // an answer that this version does not know is none, as without the setting
            deny_response: match pb::DenyResponse::try_from(m.deny_response) {
                Ok(pb::DenyResponse::Icmp) => DenyResponse::Icmp,
                Ok(pb::DenyResponse::Unspecified) | Err(_) => DenyResponse::None,
            },
            always_allow_own_host: m.always_allow_own_host,
            conntrack_entries: m.conntrack_entries,
            devices: m.devices.into_iter().map(Into::into).collect(),
            // an operator of the version before doesn't say
            blocks: m.blocks.map(BlockUse::from_message).transpose().at("blocks")?.unwrap_or_default(),
            conntrack_times: m
                .conntrack_times
                .map(ConntrackTimes::from_message)
                .transpose()
                .at("conntrack_times")?
                .unwrap_or_default(),
            socket_lb_host_only: m.socket_lb_host_only,
            agent: m.agent.map(AgentRow::from_message).transpose().at("agent")?.unwrap_or_default(),
            guard: m.guard.map(GuardRow::from_message).transpose().at("guard")?,
            health: m.health.map(|h| HealthRow { interval_seconds: h.interval_seconds, endpoints: h.endpoints }),
            overrides: m.overrides.into_iter().map(override_row).collect(),
            direct: m
                .direct
                .map(|d| Ok(DirectRow { subnets: list("subnets", d.subnets)? }))
                .transpose()
                .at("direct")?,
            also: m.also.map(tunnel).transpose().at("also")?,
            // a device that this version does not know is the usual one
            pod_device: match pb::PodDevice::try_from(m.pod_device) {
                Ok(pb::PodDevice::Netkit) => PodDevice::Netkit,
                Ok(pb::PodDevice::Unspecified) | Err(_) => PodDevice::Veth,
            },
        })
    }
}

fn override_message(o: &OverrideRow) -> pb::Override {
    pb::Override {
        setting: o.setting.to_string(),
        value: o.value.to_string(),
        cluster: o.cluster.to_string(),
        from: o.from.to_string(),
    }
}

fn override_row(m: pb::Override) -> OverrideRow {
    OverrideRow { setting: m.setting.into(), value: m.value.into(), cluster: m.cluster.into(), from: m.from.into() }
}

impl Wire for GuardRow {
    type Message = pb::Guard;

    fn to_message(&self) -> pb::Guard {
        pb::Guard {
            table: self.table.0,
            unprotected: self.unprotected.iter().map(|member| member.name().to_owned()).collect(),
            overlay_port: self.overlay_port.into(),
            apiserver: self.apiserver.iter().copied().map(address_bytes).collect(),
        }
    }

    fn from_message(m: pb::Guard) -> Result<Self, WireError> {
        Ok(Self {
            table: TableId(m.table),
            // a member that this version does not have is not in its safe set either
            unprotected: m.unprotected.iter().filter_map(|name| Safe::from_name(name)).collect(),
            overlay_port: narrow("overlay_port", m.overlay_port)?,
            apiserver: addresses("apiserver", &m.apiserver)?,
        })
    }
}

impl Wire for ConntrackTimes {
    type Message = pb::ConntrackTimes;

    fn to_message(&self) -> pb::ConntrackTimes {
        let Self { tcp_opening, tcp_established, tcp_closing, udp, other } = *self;
        pb::ConntrackTimes { tcp_opening, tcp_established, tcp_closing, udp, other }
    }

    fn from_message(m: pb::ConntrackTimes) -> Result<Self, WireError> {
        let pb::ConntrackTimes { tcp_opening, tcp_established, tcp_closing, udp, other } = m;
        Ok(Self { tcp_opening, tcp_established, tcp_closing, udp, other })
    }
}

impl Wire for AgentRow {
    type Message = pb::AgentSettings;

    fn to_message(&self) -> pb::AgentSettings {
        pb::AgentSettings {
            log_level: self.log_level.to_string(),
            flow_buffer: self.flow_buffer,
            drop_events: self.drop_events,
            cni_exclusive: self.cni_exclusive,
            cni_chained: self.cni_chained.iter().map(ToString::to_string).collect(),
        }
    }

    fn from_message(m: pb::AgentSettings) -> Result<Self, WireError> {
        Ok(Self {
            log_level: m.log_level.into(),
            flow_buffer: m.flow_buffer,
            drop_events: m.drop_events,
            cni_exclusive: m.cni_exclusive,
            cni_chained: m.cni_chained.into_iter().map(Into::into).collect(),
        })
    }
}

impl Wire for BlockUse {
    type Message = pb::BlockUse;

    fn to_message(&self) -> pb::BlockUse {
        let edges = self.edges.iter().filter_map(|(name, e)| match *e {
            Edges::Usual => None,
            Edges::Pool { allow_first, allow_last } => Some((name.to_string(), pb::Edges { allow_first, allow_last })),
        });
        pb::BlockUse {
            version: self.version,
            releasing: self.releasing.iter().map(Wire::to_message).collect(),
            edges: edges.collect(),
            unmasqueraded: self.unmasqueraded.iter().map(ToString::to_string).collect(),
        }
    }

    fn from_message(m: pb::BlockUse) -> Result<Self, WireError> {
        let edges = |e: pb::Edges| Edges::Pool { allow_first: e.allow_first, allow_last: e.allow_last };
        Ok(Self {
            version: m.version,
            releasing: list("releasing", m.releasing)?.into_iter().collect(),
            edges: m.edges.into_iter().map(|(name, e)| (Arc::from(name), edges(e))).collect(),
            unmasqueraded: m.unmasqueraded.into_iter().map(Arc::from).collect(),
        })
    }
}

const fn routing_message(r: &Routing) -> pb::node_config::Routing {
    match *r {
        Routing::Vxlan { port } => pb::node_config::Routing::Vxlan(pb::Vxlan { port: port as u32 }),
        Routing::Geneve { port } => pb::node_config::Routing::Geneve(pb::Geneve { port: port as u32 }),
        Routing::Native { auto_direct_node_routes } => {
            pb::node_config::Routing::Native(pb::Native { auto_direct_node_routes })
        }
    }
}

fn routing(m: pb::node_config::Routing) -> Result<Routing, WireError> {
    Ok(match m {
        pb::node_config::Routing::Vxlan(v) => Routing::Vxlan { port: narrow("vxlan.port", v.port)? },
        pb::node_config::Routing::Geneve(g) => Routing::Geneve { port: narrow("geneve.port", g.port)? },
        pb::node_config::Routing::Native(n) => Routing::Native { auto_direct_node_routes: n.auto_direct_node_routes },
    })
}

const fn tunnel_message(t: Tunnel) -> pb::Tunnel {
    let port = t.port as u32;
    let protocol = match t.protocol {
        TunnelProtocol::Vxlan => pb::tunnel::Protocol::Vxlan(pb::Vxlan { port }),
        TunnelProtocol::Geneve => pb::tunnel::Protocol::Geneve(pb::Geneve { port }),
    };
    pb::Tunnel { protocol: Some(protocol) }
}

fn tunnel(m: pb::Tunnel) -> Result<Tunnel, WireError> {
    Ok(match required("protocol", m.protocol)? {
        pb::tunnel::Protocol::Vxlan(v) => {
            Tunnel { protocol: TunnelProtocol::Vxlan, port: narrow("vxlan.port", v.port)? }
        }
        pb::tunnel::Protocol::Geneve(g) => {
            Tunnel { protocol: TunnelProtocol::Geneve, port: narrow("geneve.port", g.port)? }
        }
    })
}

impl Wire for NodeRow {
    type Message = pb::Node;

    fn to_message(&self) -> pb::Node {
        pb::Node {
            name: self.name.to_string(),
            addresses: self.addresses.iter().copied().map(address_bytes).collect(),
            pod_cidrs: messages(&self.pod_cidrs),
        }
    }

    fn from_message(m: pb::Node) -> Result<Self, WireError> {
        Ok(Self {
            name: name("name", m.name)?,
            addresses: addresses("addresses", &m.addresses)?,
            pod_cidrs: list("pod_cidrs", m.pod_cidrs)?,
        })
    }
}

impl Wire for IdentityRow {
    type Message = pb::Identity;

    fn to_message(&self) -> pb::Identity {
        pb::Identity { id: self.id.0, labels: label_messages(&self.labels) }
    }

    fn from_message(m: pb::Identity) -> Result<Self, WireError> {
        Ok(Self { id: Identity(m.id), labels: labels(m.labels) })
    }
}

impl Wire for IpRow {
    type Message = pb::Ip;

    fn to_message(&self) -> pb::Ip {
        pb::Ip {
            prefix: Some(self.prefix.to_message()),
            identity: self.identity.0,
            peer: self.peer.0,
            local_identity: (self.local_identity != self.identity).then_some(self.local_identity.0),
            local_peer: (self.local_peer != self.peer).then_some(self.local_peer.0),
            tunnel: self.tunnel.map(address_bytes),
            node: self.node.to_string(),
            pod: self.pod.to_string(),
        }
    }

    fn from_message(m: pb::Ip) -> Result<Self, WireError> {
        Ok(Self {
            prefix: Wire::from_message(required("prefix", m.prefix)?).at("prefix")?,
            identity: Identity(m.identity),
            peer: PeerClass(m.peer),
            local_identity: Identity(m.local_identity.unwrap_or(m.identity)),
            local_peer: PeerClass(m.local_peer.unwrap_or(m.peer)),
            tunnel: m.tunnel.map(|t| address("tunnel", &t)).transpose()?,
            node: m.node.into(),
            pod: m.pod.into(),
        })
    }
}

impl Wire for EndpointRow {
    type Message = pb::Endpoint;

    fn to_message(&self) -> pb::Endpoint {
        pb::Endpoint {
            uid: self.uid.to_string(),
            namespace: self.namespace.to_string(),
            name: self.name.to_string(),
            node: self.node.to_string(),
            identity: self.identity.0,
            peer: self.peer.0,
            table: self.table.0,
            addresses: self.addresses.iter().copied().map(address_bytes).collect(),
            pool_v4: self.pool_v4.to_string(),
            pool_v6: self.pool_v6.to_string(),
            labels: label_messages(&self.labels),
            ingress_bandwidth: self.bandwidth.ingress,
            egress_bandwidth: self.bandwidth.egress,
        }
    }

    fn from_message(m: pb::Endpoint) -> Result<Self, WireError> {
        Ok(Self {
            uid: name("uid", m.uid)?,
            namespace: m.namespace.into(),
            name: m.name.into(),
            node: m.node.into(),
            identity: Identity(m.identity),
            peer: PeerClass(m.peer),
            table: TableId(m.table),
            addresses: addresses("addresses", &m.addresses)?,
            pool_v4: m.pool_v4.into(),
            pool_v6: m.pool_v6.into(),
            labels: labels(m.labels),
            bandwidth: Bandwidth { ingress: m.ingress_bandwidth, egress: m.egress_bandwidth },
        })
    }
}
