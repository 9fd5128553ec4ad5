//! Cilium's ConfigMap and Helm values, read.

use std::collections::BTreeMap;

use axoneme_intake::{Migration, cilium_settings, from_cilium};
use serde_json::{Value, json};

fn read(source: &Value) -> Migration {
    from_cilium(&cilium_settings(source).expect("settings"))
}

fn config_map(data: &[(&str, &str)]) -> Migration {
    let data: BTreeMap<_, _> = data.iter().copied().collect();
    read(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cilium-config"}, "data": data}))
}

fn refused(migration: &Migration) -> Vec<String> {
    migration.refused.iter().map(|l| format!("{}={}: {}", l.key, l.text, l.reason)).collect()
}

fn meaningless(migration: &Migration) -> Vec<&str> {
    migration.meaningless.iter().map(|l| l.key.as_str()).collect()
}

#[test]
fn a_config_map_becomes_the_settings_that_say_the_same() {
    let migration = config_map(&[
        ("cluster-name", "prod-eu"),
        ("enable-ipv4", "true"),
        ("enable-ipv6", "true"),
        ("routing-mode", "tunnel"),
        ("tunnel-protocol", "geneve"),
        ("tunnel-port", "0"),
        ("ipam", "cluster-pool"),
        ("cluster-pool-ipv4-cidr", "10.12.0.0/16 10.13.0.0/16"),
        ("cluster-pool-ipv4-mask-size", "25"),
        ("enable-policy", "always"),
        ("policy-cidr-match-mode", "nodes"),
        ("policy-deny-response", "icmp"),
        ("enable-host-firewall", "false"),
        ("enable-ipv6-masquerade", "false"),
        ("kube-proxy-replacement", "true"),
        ("bpf-ct-global-tcp-max", "524288"),
        ("bpf-ct-global-any-max", "262144"),
        ("bpf-ct-timeout-regular-tcp", "2h13m20s"),
        ("hubble-drop-events", "true"),
        ("hubble-drop-events-interval", "5m"),
        ("hubble-event-buffer-capacity", "4095"),
        ("debug", "true"),
        ("mtu", "1400"),
        ("cni-chaining-mode", "portmap"),
        ("devices", "eth0 eth1"),
        ("enable-wireguard", "false"),
        ("envoy-base-id", "0"),
        ("monitor-aggregation", "medium"),
    ]);
    assert_eq!(refused(&migration), [""; 0]);
    assert_eq!(
        migration.config()["spec"],
        json!({
            "clusterName": "prod-eu",
            "ipFamilies": ["IPv4", "IPv6"],
            "routing": {"mode": "Overlay", "overlay": {"protocol": "Geneve"}},
            "ipam": {"mode": "ClusterPool", "clusterPool": {"ipv4": {"cidrs": ["10.12.0.0/16", "10.13.0.0/16"], "maskSize": 25}}},
            "policy": {"enforcement": "Always", "cidrMatchMode": ["Nodes"], "denyResponse": "ICMP"},
            "hostFirewall": {"enabled": false},
            "masquerade": {"ipv6": false},
            "services": {"enabled": true},
            "conntrack": {"maxEntries": 786_432, "tcpEstablishedSeconds": 8000},
            "flows": {"dropEventsSeconds": 300, "bufferEvents": 4095},
            "agent": {"logLevel": "Debug", "devices": ["eth0", "eth1"]},
            "mtu": 1400,
            "cni": {"chainedPlugins": [{"type": "portmap", "capabilities": {"portMappings": true}}]},
        })
    );
    axoneme_intake::config(&migration.config()).unwrap();
    assert_eq!(meaningless(&migration), ["enable-wireguard", "envoy-base-id", "monitor-aggregation"]);
    let note = |key: &str| migration.mapped.iter().find(|m| m.key == key).unwrap().note;
    assert!(note("kube-proxy-replacement").contains("NodePort"));
    assert!(note("bpf-ct-global-any-max").contains("sum"));
}

#[test]
fn helm_values_are_the_same_settings_by_other_names() {
    let migration = read(&json!({
        "ipv4": {"enabled": false}, "ipv6": {"enabled": true},
        "routingMode": "native", "autoDirectNodeRoutes": true, "ipv6NativeRoutingCIDR": "fd00::/64",
        "ipam": {"mode": "multi-pool", "multiPoolPreAllocation": "default=8,blue=16"},
        "ipMasqAgent": {"enabled": false, "config": {"nonMasqueradeCIDRs": ["10.0.0.0/8", "fd00::/8"]}},
        "bpf": {"datapathMode": "netkit", "ctTcpMax": 65536, "masquerade": true},
        "MTU": 0, "devices": ["eth0"], "cni": {"exclusive": false},
        "hubble": {"dropEventEmitter": {"enabled": false, "interval": "2m"}, "relay": {"enabled": true}},
        "operator": {"replicas": 2},
        "extraConfig": {"allow-localhost": "policy", "bpf-map-dynamic-size-ratio": "0.1"},
    }));
    assert_eq!(refused(&migration), [""; 0]);
    assert_eq!(
        migration.config()["spec"],
        json!({
            "ipFamilies": ["IPv6"],
            "routing": {"mode": "Native", "native": {"autoDirectNodeRoutes": true, "ipv6CIDR": "fd00::/64"}},
            "ipam": {"mode": "MultiPool", "multiPool": {"preAllocate": {"default": 8, "blue": 16}}},
            "masquerade": {"excludeCIDRs": ["10.0.0.0/8", "fd00::/8"]},
            "podDevice": "Netkit",
            "conntrack": {"maxEntries": 65_536},
            "agent": {"devices": ["eth0"]},
            "cni": {"exclusive": false},
            "flows": {"dropEventsSeconds": 0},
            "policy": {"allowLocalhost": "Policy"},
        })
    );
}

#[test]
fn what_is_unknown_removed_wrong_or_not_there_yet_is_named() {
    let migration = config_map(&[
        ("enable-ipv7", "true"),
        ("enable-node-port", "false"),
        ("enable-wireguard", "true"),
        ("cluster-id", "7"),
        ("ipam", "eni"),
        ("mtu", "12"),
        ("cluster-pool-ipv4-mask-size", "8"),
        ("cluster-pool-ipv4-cidr", "10.0.0.0/16"),
        ("kube-proxy-replacement", "strict"),
        ("enable-ip-masq-agent", "true"),
        ("subnet-topology", "10.0.0.0/24,10.1.0.0/24;10.2.0.0/24"),
        ("cluster-name", "prod"),
    ]);
    let told = refused(&migration);
    for (start, part) in [
        ("enable-ipv7=true: ", "no setting of Cilium 1.20"),
        ("enable-node-port=false: ", "taken it away"),
        ("enable-wireguard=true: ", "in clear text"),
        ("cluster-id=7: ", "cluster mesh"),
        ("ipam=eni: ", "multi-pool"),
        ("mtu=12: ", "1280"),
        ("cluster-pool-ipv4-", "10.0.0.0/16"),
        ("kube-proxy-replacement=strict: ", "true"),
        ("enable-ip-masq-agent=true: ", "nonMasqueradeCIDRs"),
        ("subnet-topology=", "spans them"),
    ] {
        assert!(told.iter().any(|t| t.starts_with(start) && t.contains(part)), "{start}{part}: {told:#?}");
    }
    // what is good is left, and is admitted
    assert_eq!(migration.config()["spec"]["clusterName"], "prod");
    axoneme_intake::config(&migration.config()).unwrap();
}

#[test]
fn settings_that_contradict_each_other_are_told() {
    let told = refused(&config_map(&[("tunnel", "disabled"), ("routing-mode", "tunnel")]));
    assert_eq!(told, ["tunnel=disabled: spec.routing.mode is one setting, which routing-mode makes \"Overlay\""]);
    let told = refused(&config_map(&[("enable-ipv4", "false"), ("enable-ipv6", "no")]));
    assert_eq!(told.len(), 2, "{told:?}");
}

#[test]
fn the_defaults_of_the_chart_lose_nothing() {
    let lines = include_str!("../../../../crds/tests/cilium/values.txt").lines();
    let values: BTreeMap<String, Value> = lines
        .filter_map(|line| line.split_once(" = "))
        .map(|(path, default)| (path.to_owned(), serde_json::from_str(default).unwrap()))
        .collect();
    assert!(values.len() > 1000);
    let migration = from_cilium(&values);
    assert_eq!(refused(&migration), [""; 0]);
    let all = migration.mapped.len() + migration.meaningless.len();
    assert_eq!(all, values.len(), "each is told, and told once");
    axoneme_intake::config(&migration.config()).unwrap();
}

#[test]
fn nothing_that_a_file_holds_panics() {
    for source in
        [json!(null), json!([1]), json!("x"), json!({"kind": "ConfigMap"}), json!({"kind": "ConfigMap", "data": 3})]
    {
        assert_eq!(cilium_settings(&source), None, "{source}");
    }
    for value in
        [json!([{"a": 1}]), json!(-1), json!(1e300), json!("\u{0}"), json!([[["x"]]]), json!("99999999999999999999")]
    {
        for key in [
            "mtu",
            "devices",
            "tunnel-port",
            "ipam-multi-pool-pre-allocation",
            "bpf-ct-global-tcp-max",
            "enable-ipv4",
            "hubble-drop-events-interval",
            "cluster-pool-ipv4-cidr",
            "subnet-topology",
            "hubble-drop-events",
        ] {
            let migration = from_cilium(&BTreeMap::from([(key.to_owned(), value.clone())]));
            let told = migration.mapped.len() + migration.meaningless.len() + migration.refused.len();
            assert!(told >= 1, "{key}={value}");
            axoneme_intake::config(&migration.config()).unwrap();
        }
    }
}
