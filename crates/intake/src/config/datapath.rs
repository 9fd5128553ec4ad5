use std::time::Duration;

use axoneme_crds::{
    AxonemeConfigSpec,
    axoneme_config::{OverlayProtocol, RoutingMode},
};
use axoneme_model::{
    Cidr, Safe,
    cidr::contains,
    policy::CidrScope,
    rows::{DenyResponse, PodDevice},
    safe::HostSettings,
    world::{ClusterConfig, Enforcement},
};

use crate::{address::prefix, field::Field};

/// How packets get from node to node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routing {
    /// Wrapped in packets between nodes.
    Overlay {
        protocol: OverlayProtocol,
        /// UDP port that nodes receive wrapped packets on.
        port: u16,
    },
    /// As they are.
    Native(Native),
    /// As they are between nodes of one subnet, wrapped between others.
    Hybrid {
        protocol: OverlayProtocol,
        port: u16,
        /// Prefixes of nodes' addresses, none of them inside of another.
        subnets: Vec<Cidr>,
    },
}

/// Settings of routing mode Native.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Native {
    /// Prefix that the network routes by itself; none: the prefixes of pods.
    pub ipv4_cidr: Option<Cidr>,
    pub ipv6_cidr: Option<Cidr>,
    /// Whether each node gets a route to every other node's pods.
    pub auto_direct_node_routes: bool,
}

/// Which pod traffic gets the node's address when it leaves the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masquerade {
    pub ipv4: bool,
    pub ipv6: bool,
    /// Destinations that see the pod's own address.
    pub exclude: Vec<Cidr>,
}

/// What kube-proxy would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Services {
    pub enabled: bool,
    /// Backends are chosen when a socket connects.
    pub socket_lb: bool,
    /// Only sockets of the host choose.
    pub socket_lb_host_only: bool,
}

/// The table of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// For each address family.
    pub max_entries: u32,
    pub tcp_opening: Duration,
    pub tcp_established: Duration,
    pub tcp_closing: Duration,
    pub udp: Duration,
    pub other: Duration,
}

/// The section under the name.
fn section<'s>(spec: &'s Field<'_>, name: &'s str) -> Option<Field<'s>> {
    spec.get(name).filter(Field::object)
}

pub(super) fn policy(spec: &Field<'_>) -> (ClusterConfig, CidrScope) {
    let mut config = ClusterConfig::default();
    let mut scope = CidrScope::Outside;
    let Some(policy) = section(spec, "policy") else {
        return (config, scope);
    };
    if let Some(enforcement) = policy.get("enforcement").and_then(|e| {
        e.choice(&[("Default", Enforcement::Default), ("Always", Enforcement::Always), ("Never", Enforcement::Never)])
    }) {
        config.enforcement = enforcement;
    }
    if let Some(modes) = policy.get("cidrMatchMode") {
        for mode in modes.items() {
            scope = mode.choice(&[("Nodes", CidrScope::OutsideAndNodes)]).unwrap_or(scope);
        }
    }
    if let Some(always) = policy.get("allowLocalhost").and_then(|a| a.choice(&[("Auto", true), ("Policy", false)])) {
        config.always_allow_own_host = always;
    }
    config.audit = policy.get("auditMode").and_then(|a| a.bool()).unwrap_or(config.audit);
    (config, scope)
}

/// What a pod hears when its own policy denies what it sends.
pub(super) fn deny_response(spec: &Field<'_>) -> DenyResponse {
    let response = section(spec, "policy").and_then(|policy| {
        policy.get("denyResponse")?.choice(&[("None", DenyResponse::None), ("ICMP", DenyResponse::Icmp)])
    });
    response.unwrap_or_default()
}

/// What connects pods with their nodes.
pub(super) fn pod_device(spec: &Field<'_>) -> PodDevice {
    let device = spec.get("podDevice");
    let device = device.and_then(|d| d.choice(&[("Veth", PodDevice::Veth), ("Netkit", PodDevice::Netkit)]));
    device.unwrap_or_default()
}

/// Settings of the host firewall, for a cluster with this routing.
pub(super) fn host_firewall(spec: &Field<'_>, routing: &Routing) -> HostSettings {
    let mut settings = HostSettings::default();
    if let Routing::Overlay { port, .. } | Routing::Hybrid { port, .. } = routing {
        settings.overlay_port = *port;
    }
    let Some(field) = section(spec, "hostFirewall") else { return settings };
    settings.enabled = field.get("enabled").and_then(|e| e.bool()).unwrap_or(settings.enabled);
    let members = Safe::ALL.map(|member| (member.name(), member));
    let unprotected = field.get("unprotected");
    settings.unprotected = unprotected.iter().flat_map(Field::items).filter_map(|m| m.choice(&members)).collect();
    settings
}

pub(super) fn routing(spec: &Field<'_>) -> Routing {
    let default = AxonemeConfigSpec::default().routing;
    let overlay = |protocol: Option<OverlayProtocol>, port: Option<u16>| {
        let protocol = protocol.unwrap_or(default.overlay.protocol);
        (protocol, port.unwrap_or(protocol.default_port()))
    };
    let wrapped = |(protocol, port): (OverlayProtocol, u16)| Routing::Overlay { protocol, port };
    let Some(routing) = section(spec, "routing") else { return wrapped(overlay(None, None)) };
    let modes = [RoutingMode::Overlay, RoutingMode::Native, RoutingMode::Hybrid];
    let modes = modes.map(|mode| (mode_name(mode), mode));
    let mode = routing.get("mode").and_then(|m| m.choice(&modes)).unwrap_or(default.mode);
    // all sections are checked, whichever is used
    let tunnel = section(&routing, "overlay");
    let tunnel = tunnel.as_ref();
    let protocols = [("VXLAN", OverlayProtocol::VXLAN), ("Geneve", OverlayProtocol::Geneve)];
    let protocol = tunnel.and_then(|o| o.get("protocol")?.choice(&protocols));
    let port = tunnel.and_then(|o| o.get("port")?.int(1..=u16::MAX));
    let direct = section(&routing, "native");
    let direct = direct.as_ref();
    let ipv4_cidr = direct.and_then(|n| family_prefix(&n.get("ipv4CIDR")?, true));
    let ipv6_cidr = direct.and_then(|n| family_prefix(&n.get("ipv6CIDR")?, false));
    let routes = direct.and_then(|n| n.get("autoDirectNodeRoutes")?.bool());
    let subnets = section(&routing, "hybrid").as_ref().map(|h| subnets(h)).unwrap_or_default();
    match mode {
        RoutingMode::Overlay => return wrapped(overlay(protocol, port)),
        RoutingMode::Native => {}
        RoutingMode::Hybrid => {
            if subnets.is_empty() {
                routing.missing(
                    "hybrid",
                    "mode Hybrid needs hybrid.subnets: the subnets of the nodes' addresses".to_owned(),
                );
            }
            let (protocol, port) = overlay(protocol, port);
            return Routing::Hybrid { protocol, port, subnets };
        }
    }
    Routing::Native(Native { ipv4_cidr, ipv6_cidr, auto_direct_node_routes: routes.unwrap_or_default() })
}

const fn mode_name(mode: RoutingMode) -> &'static str {
    match mode {
        RoutingMode::Overlay => "Overlay",
        RoutingMode::Native => "Native",
        RoutingMode::Hybrid => "Hybrid",
    }
}

/// The subnets of nodes: a node's address is in one of them at most.
fn subnets(hybrid: &Field<'_>) -> Vec<Cidr> {
    let mut out: Vec<Cidr> = Vec::new();
    let list = hybrid.get("subnets");
    for item in list.iter().flat_map(Field::items) {
        let Some(cidr) = prefix(&item) else { continue };
        match out.iter().find(|o| contains(**o, cidr) || contains(cidr, **o)) {
            Some(other) => item.invalid(format!("overlaps with {other}: a subnet is one link")),
            None => out.push(cidr),
        }
    }
    out
}

fn family_prefix(field: &Field<'_>, v4: bool) -> Option<Cidr> {
    let cidr = prefix(field)?;
    if cidr.is_ipv4() != v4 {
        field.invalid(if v4 { "must be an IPv4 prefix" } else { "must be an IPv6 prefix" });
        return None;
    }
    Some(cidr)
}

pub(super) fn masquerade(spec: &Field<'_>) -> Masquerade {
    let default = AxonemeConfigSpec::default().masquerade;
    let field = section(spec, "masquerade");
    let flag = |name, default| field.as_ref().and_then(|f| f.get(name)?.bool()).unwrap_or(default);
    let exclude = field.as_ref().and_then(|f| f.get("excludeCIDRs"));
    Masquerade {
        ipv4: flag("ipv4", default.ipv4),
        ipv6: flag("ipv6", default.ipv6),
        exclude: exclude.iter().flat_map(Field::items).filter_map(|item| prefix(&item)).collect(),
    }
}

pub(super) fn services(spec: &Field<'_>) -> Services {
    let default = AxonemeConfigSpec::default().services;
    let field = section(spec, "services");
    let socket = field.as_ref().and_then(|f| section(f, "socketLB"));
    let flag = |of: &Option<Field<'_>>, name, default| of.as_ref().and_then(|f| f.get(name)?.bool()).unwrap_or(default);
    Services {
        enabled: flag(&field, "enabled", default.enabled),
        socket_lb: flag(&socket, "enabled", default.socket_lb.enabled),
        socket_lb_host_only: flag(&socket, "hostNamespaceOnly", default.socket_lb.host_namespace_only),
    }
}

pub(super) fn conntrack(spec: &Field<'_>) -> Conntrack {
    let default = AxonemeConfigSpec::default().conntrack;
    let field = section(spec, "conntrack");
    let seconds = |name, default: u32| {
        let read = field.as_ref().and_then(|f| f.get(name)?.int(1..=u32::MAX));
        Duration::from_secs(read.unwrap_or(default).into())
    };
    let entries = field.as_ref().and_then(|f| f.get("maxEntries")?.int(1024..=16_777_216));
    Conntrack {
        max_entries: entries.unwrap_or(default.max_entries),
        tcp_opening: seconds("tcpOpeningSeconds", default.tcp_opening_seconds),
        tcp_established: seconds("tcpEstablishedSeconds", default.tcp_established_seconds),
        tcp_closing: seconds("tcpClosingSeconds", default.tcp_closing_seconds),
        udp: seconds("udpSeconds", default.udp_seconds),
        other: seconds("otherSeconds", default.other_seconds),
    }
}
