//! AxonemeConfig.

use std::time::Duration;

use axoneme_crds::axoneme_config::{IpFamily, IpamMode, LogLevel, OverlayProtocol};
use axoneme_intake::{Native, Reason::Invalid, Routing, Settings, config};
use axoneme_model::{
    policy::CidrScope,
    rows::{DenyResponse, PodDevice},
    world::Enforcement,
};
use serde_json::Value;

use crate::show::{assert_refused, refused, yaml};

fn object(spec: &str) -> Value {
    yaml(&format!(
        "{{apiVersion: axoneme.io/v1alpha1, kind: AxonemeConfig, metadata: {{name: default}}, spec: {spec}}}"
    ))
}

#[test]
fn defaults_are_those_of_the_api_type() {
    let settings = config(&object("{}")).expect("good");
    assert_eq!(settings, Settings::default());
    let written_out = serde_json::to_value(axoneme_crds::AxonemeConfigSpec::default()).expect("serialises");
    let mut explicit = object("{}");
    explicit["spec"] = written_out;
    assert_eq!(config(&explicit).expect("good"), settings, "writing the defaults out changes nothing");
    assert_eq!(&*settings.cluster.cluster_name, "default");
    assert!(settings.has(IpFamily::IPv4) && !settings.has(IpFamily::IPv6));
    assert!(settings.ipam.ipv6.is_none());
    assert_eq!(settings.ipam.ipv4.as_ref().map(|p| p.cidrs.len()), Some(1));
}

#[test]
fn every_setting_is_read() {
    let settings = config(&block()).expect("good");
    assert_eq!(&*settings.cluster.cluster_name, "east");
    assert_eq!(settings.ip_families, [IpFamily::IPv6, IpFamily::IPv4]);
    assert!(settings.cluster.dual_stack_world && !settings.cluster.always_allow_own_host);
    assert_eq!((settings.cluster.enforcement, settings.cluster.audit), (Enforcement::Always, true));
    assert_eq!(settings.options().cidr_scope, CidrScope::OutsideAndNodes);
    assert_eq!(settings.deny_response, DenyResponse::Icmp);
    let Routing::Native(Native { ipv4_cidr: Some(_), ipv6_cidr: Some(_), auto_direct_node_routes: true }) =
        settings.routing
    else {
        panic!("{:?}", settings.routing)
    };
    assert_eq!((settings.mtu, settings.pod_device), (Some(9000), PodDevice::Netkit));
    assert_eq!(settings.ipam.mode, IpamMode::MultiPool);
    assert_eq!(settings.ipam.ipv4.as_ref().map(|p| p.mask_size), Some(25));
    assert_eq!(settings.ipam.ipv6.as_ref().map(|p| p.mask_size), Some(121));
    assert_eq!((&*settings.ipam.default_pool, settings.ipam.pre_allocate["red"]), ("red", 16));
    assert!(!settings.masquerade.ipv4 && !settings.masquerade.ipv6 && settings.masquerade.exclude.len() == 1);
    let services = settings.services;
    assert!(!services.enabled && !services.socket_lb && services.socket_lb_host_only);
    let ct = settings.conntrack;
    let seconds = [ct.tcp_opening, ct.tcp_established, ct.tcp_closing, ct.udp, ct.other];
    assert_eq!((ct.max_entries, seconds), (2048, [1, 2, 3, 4, 5].map(Duration::from_secs)));
    assert!(!settings.cni.exclusive);
    assert_eq!(settings.cni.chained_plugins[0]["snat"], true);
    assert_eq!((settings.flow_buffer_events, settings.agent.log_level), (64, LogLevel::Debug));
    assert_eq!(settings.agent.devices, ["eth+", "ens3"]);
}

#[test]
fn each_protocol_has_its_port_where_none_is_set() {
    let routing = |spec| config(&object(spec)).expect("good").routing;
    let overlay = |protocol, port| Routing::Overlay { protocol, port };
    assert_eq!(routing("{}"), overlay(OverlayProtocol::VXLAN, 8472));
    assert_eq!(routing("{routing: {overlay: {protocol: VXLAN}}}"), overlay(OverlayProtocol::VXLAN, 8472));
    assert_eq!(routing("{routing: {overlay: {protocol: Geneve}}}"), overlay(OverlayProtocol::Geneve, 6081));
    assert_eq!(routing("{routing: {overlay: {protocol: Geneve, port: 7}}}"), overlay(OverlayProtocol::Geneve, 7));
    let hybrid = routing("{routing: {mode: Hybrid, overlay: {protocol: Geneve}, hybrid: {subnets: [10.0.0.0/8]}}}");
    assert!(matches!(hybrid, Routing::Hybrid { protocol: OverlayProtocol::Geneve, port: 6081, .. }), "{hybrid:?}");
}

fn block() -> Value {
    yaml(
        "apiVersion: axoneme.io/v1alpha1
kind: AxonemeConfig
metadata: {name: default}
spec:
  clusterName: east
  ipFamilies: [IPv6, IPv4]
  routing: {mode: Native, native: {ipv4CIDR: 10.0.0.0/8, ipv6CIDR: 'fd00::/8', autoDirectNodeRoutes: true}}
  mtu: 9000
  podDevice: Netkit
  ipam:
    mode: MultiPool
    clusterPool: {ipv4: {cidrs: [10.1.0.0/16], maskSize: 25}, ipv6: {cidrs: ['fd01::/104'], maskSize: 121}}
    multiPool: {defaultPool: red, preAllocate: {red: 16}}
  masquerade: {ipv4: false, ipv6: false, excludeCIDRs: [172.16.0.0/12]}
  policy: {enforcement: Always, cidrMatchMode: [Nodes], allowLocalhost: Policy, auditMode: true, denyResponse: ICMP}
  services: {enabled: false, socketLB: {enabled: false, hostNamespaceOnly: true}}
  conntrack: {maxEntries: 2048, tcpOpeningSeconds: 1, tcpEstablishedSeconds: 2, tcpClosingSeconds: 3, udpSeconds: 4, otherSeconds: 5}
  cni: {exclusive: false, chainedPlugins: [{type: portmap, snat: true}]}
  flows: {bufferEvents: 64}
  agent: {logLevel: Debug, devices: [eth+, ens3]}
",
    )
}

#[test]
fn wrong_settings_are_named() {
    let cases = [
        ("{clusterName: East}", "spec.clusterName", "lower case"),
        ("{clusterName: ''}", "spec.clusterName", "1 to 32"),
        ("{ipFamilies: []}", "spec.ipFamilies", "at least one"),
        ("{ipFamilies: [IPv4, IPv4]}", "spec.ipFamilies[1]", "twice"),
        ("{ipFamilies: [v4]}", "spec.ipFamilies[0]", "IPv6"),
        ("{mtu: 1279}", "spec.mtu", "1280"),
        ("{podDevice: netkit}", "spec.podDevice", "did you mean Netkit?"),
        ("{routing: {mode: Tunnel}}", "spec.routing.mode", "Overlay, Native"),
        ("{routing: {overlay: {protocol: GRE}}}", "spec.routing.overlay.protocol", "VXLAN, Geneve"),
        ("{routing: {mode: Hybrid}}", "spec.routing.hybrid", "needs hybrid.subnets"),
        (
            "{routing: {hybrid: {subnets: [10.0.0.0/8, 10.1.0.0/16]}}}",
            "spec.routing.hybrid.subnets[1]",
            "overlaps with 10.0.0.0/8",
        ),
        ("{routing: {overlay: {port: 0}}}", "spec.routing.overlay.port", "1 to 65535"),
        ("{routing: {native: {ipv4CIDR: 'fd00::/8'}}}", "spec.routing.native.ipv4CIDR", "IPv4"),
        ("{routing: {native: {ipv6CIDR: 10.0.0.0/8}}}", "spec.routing.native.ipv6CIDR", "IPv6"),
        ("{ipam: {mode: cluster-pool}}", "spec.ipam.mode", "did you mean ClusterPool?"),
        ("{ipam: {clusterPool: {ipv4: {cidrs: []}}}}", "spec.ipam.clusterPool.ipv4.cidrs", "at least one"),
        (
            "{ipam: {clusterPool: {ipv4: {cidrs: [10.0.0.0/25]}}}}",
            "spec.ipam.clusterPool.ipv4.cidrs[0]",
            "smaller than one block",
        ),
        (
            "{ipam: {clusterPool: {ipv4: {maskSize: 15}}}}",
            "spec.ipam.clusterPool.ipv4.maskSize",
            "larger than the pool",
        ),
        ("{ipam: {clusterPool: {ipv4: {maskSize: 33}}}}", "spec.ipam.clusterPool.ipv4.maskSize", "8 to 32"),
        ("{ipam: {multiPool: {defaultPool: ''}}}", "spec.ipam.multiPool.defaultPool", "CiliumPodIPPool"),
        ("{ipam: {multiPool: {preAllocate: {a: -1}}}}", "spec.ipam.multiPool.preAllocate[a]", "whole number"),
        ("{masquerade: {excludeCIDRs: [a]}}", "spec.masquerade.excludeCIDRs[0]", "prefix"),
        ("{policy: {enforcement: Sometimes}}", "spec.policy.enforcement", "Default, Always, Never"),
        ("{policy: {cidrMatchMode: [Pods]}}", "spec.policy.cidrMatchMode[0]", "Nodes"),
        ("{policy: {allowLocalhost: yes}}", "spec.policy.allowLocalhost", ""),
        ("{policy: {denyResponse: icmp}}", "spec.policy.denyResponse", "did you mean ICMP?"),
        ("{conntrack: {maxEntries: 1}}", "spec.conntrack.maxEntries", "1024"),
        ("{conntrack: {udpSeconds: 0}}", "spec.conntrack.udpSeconds", "1 to"),
        ("{cni: {confPath: /a}}", "spec.cni.confPath", "DaemonSet"),
        ("{cni: {chainedPlugins: [{}]}}", "spec.cni.chainedPlugins[0].type", "required"),
        ("{flows: {bufferEvents: 1}}", "spec.flows.bufferEvents", "64"),
        ("{agent: {logLevel: info}}", "spec.agent.logLevel", "did you mean Info?"),
        ("{agent: {devices: [a/b]}}", "spec.agent.devices[0]", "interface"),
        ("{services: 1}", "spec.services", "must be an object"),
        ("[]", "spec", "must be an object"),
    ];
    for (spec, path, words) in cases {
        assert_refused(&object(spec), path, Invalid, words);
    }
}

#[test]
fn unknown_and_renamed_settings_are_told_their_place() {
    let cases = [
        ("{tunnelProtocol: vxlan}", "spec.tunnelProtocol", "spec.routing.overlay.protocol"),
        ("{policyEnforcementMode: always}", "spec.policyEnforcementMode", "spec.policy.enforcement"),
        ("{policyDenyResponse: icmp}", "spec.policyDenyResponse", "spec.policy.denyResponse"),
        ("{kubeProxyReplacement: true}", "spec.kubeProxyReplacement", "spec.services.enabled"),
    ];
    for (spec, path, words) in cases {
        assert_refused(&object(spec), path, Invalid, words);
    }
}

#[test]
fn all_wrong_settings_come_at_once() {
    let errors =
        refused(&object("{mtu: 1, clusterName: A, agent: {logLevel: x}, flows: {bufferEvents: x}, nonsense: 1}"));
    assert_eq!(errors.errors.len(), 5, "{errors}");
}

#[test]
fn there_is_one_config() {
    let mut other = object("{}");
    other["metadata"]["name"] = "other".into();
    assert_refused(&other, "metadata.name", Invalid, "default");
}
