//! CiliumNodeConfig.

use std::collections::BTreeSet;

use axoneme_intake::{NodeConfig, Settings, config, difference, node_config};
use serde_json::{Value, json};

use crate::show::refused;

fn object(defaults: &Value) -> Value {
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNodeConfig",
        "metadata": {"name": "n", "namespace": "kube-system"}, "spec": {"nodeSelector": {}, "defaults": defaults}})
}

fn good(defaults: &Value) -> NodeConfig {
    node_config(&object(defaults)).unwrap_or_else(|e| panic!("{defaults}: {e}"))
}

fn cluster(spec: &Value) -> Settings {
    let object = json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig",
        "metadata": {"name": "default"}, "spec": spec});
    config(&object).unwrap_or_else(|e| panic!("{spec}: {e}"))
}

/// Each key means what AxonemeConfig means with that setting, and nothing else.
#[test]
fn every_key_means_the_setting_of_axoneme_config() {
    let native = json!({"mode": "Native"});
    let cases = [
        (json!({"mtu": "1400"}), json!({"mtu": 1400})),
        (json!({"devices": "eth0 eth1,bond+"}), json!({"agent": {"devices": ["eth0", "eth1", "bond+"]}})),
        (json!({"debug": "true"}), json!({"agent": {"logLevel": "Debug"}})),
        (json!({"spec.agent.logLevel": "Warn"}), json!({"agent": {"logLevel": "Warn"}})),
        (json!({"enable-ipv4-masquerade": "false"}), json!({"masquerade": {"ipv4": false}})),
        (json!({"enable-ipv6-masquerade": "0"}), json!({"masquerade": {"ipv6": false}})),
        (
            json!({"spec.masquerade.excludeCIDRs": "10.0.0.0/8, fd00::/8"}),
            json!({"masquerade": {"excludeCIDRs": ["10.0.0.0/8", "fd00::/8"]}}),
        ),
        (json!({"kube-proxy-replacement": "false"}), json!({"services": {"enabled": false}})),
        (json!({"bpf-lb-sock": "false"}), json!({"services": {"socketLB": {"enabled": false}}})),
        (json!({"bpf-lb-sock-hostns-only": "true"}), json!({"services": {"socketLB": {"hostNamespaceOnly": true}}})),
        (
            json!({"bpf-ct-global-tcp-max": "65536", "bpf-ct-global-any-max": "65536"}),
            json!({"conntrack": {"maxEntries": 65536}}),
        ),
        (json!({"bpf-ct-timeout-regular-tcp": "2h13m20s"}), json!({"conntrack": {"tcpEstablishedSeconds": 8000}})),
        (json!({"bpf-ct-timeout-regular-any": "30"}), json!({"conntrack": {"udpSeconds": 30}})),
        (json!({"cni-exclusive": "false"}), json!({"cni": {"exclusive": false}})),
        (
            json!({"cni-chaining-mode": "portmap"}),
            json!({"cni": {"chainedPlugins": [{"type": "portmap", "capabilities": {"portMappings": true}}]}}),
        ),
        (
            json!({"spec.cni.chainedPlugins": "[{\"type\": \"tuning\"}]"}),
            json!({"cni": {"chainedPlugins": [{"type": "tuning"}]}}),
        ),
        (json!({"hubble-event-buffer-capacity": "4095"}), json!({"flows": {"bufferEvents": 4095}})),
        (json!({"hubble-drop-events": "true"}), json!({"flows": {"dropEventsSeconds": 120}})),
        (
            json!({"hubble-drop-events": "true", "hubble-drop-events-interval": "30s"}),
            json!({"flows": {"dropEventsSeconds": 30}}),
        ),
        (
            json!({"auto-direct-node-routes": "true", "ipv4-native-routing-cidr": "10.0.0.0/9"}),
            json!({"routing": {"mode": "Native", "native": {"autoDirectNodeRoutes": true, "ipv4CIDR": "10.0.0.0/9"}}}),
        ),
        (json!({"datapath-mode": "netkit-l2"}), json!({"podDevice": "Netkit"})),
        (json!({"datapath-mode": "auto"}), json!({"podDevice": "Netkit"})),
        // what is as in the cluster
        (json!({"datapath-mode": "veth"}), json!({})),
        (json!({"mtu": "0", "debug": "false", "cni-chaining-mode": "none"}), json!({})),
        (json!({"hubble-drop-events": "false", "hubble-drop-events-interval": "30s"}), json!({})),
        (json!({}), json!({})),
    ];
    for (defaults, spec) in cases {
        let base = if spec.get("routing").is_some() { json!({"routing": native}) } else { json!({}) };
        let (base, wanted) = (cluster(&base), cluster(&spec));
        let config = good(&defaults);
        let mut settings = base.clone();
        config.apply(&mut settings);
        assert_eq!(settings, wanted, "{defaults}");
        let differ: BTreeSet<_> =
            config.paths.iter().filter_map(|p| difference(p, &settings, &base)).map(|d| d.setting).collect();
        assert_eq!(differ.is_empty(), base == wanted, "{defaults}: {differ:?}");
    }
}

#[test]
fn what_differs_is_told_as_text() {
    let base = cluster(&json!({"routing": {"mode": "Native"}}));
    let config = good(&json!({"devices": "eth1,eth2", "mtu": "1400", "ipv6-native-routing-cidr": "fd00::/8",
        "bpf-ct-timeout-regular-tcp": "1h"}));
    let mut settings = base.clone();
    config.apply(&mut settings);
    let differ = config.paths.iter().filter_map(|p| difference(p, &settings, &base));
    let texts: Vec<_> = differ.map(|d| format!("{} {:?} {:?}", d.setting, d.value, d.cluster)).collect();
    assert_eq!(
        texts,
        [
            r#"spec.agent.devices "eth1,eth2" """#,
            r#"spec.conntrack.tcpEstablishedSeconds "3600" "8000""#,
            r#"spec.mtu "1400" """#,
            r#"spec.routing.native.ipv6CIDR "fd00::/8" """#
        ]
    );
}

#[test]
fn settings_of_mode_native_have_no_effect_in_the_overlay_as_in_the_cluster() {
    let base = cluster(&json!({}));
    let mut settings = base.clone();
    good(&json!({"auto-direct-node-routes": "true"})).apply(&mut settings);
    assert_eq!(settings, base);
}

#[test]
fn what_can_not_differ_is_refused_by_name_with_the_reason() {
    let cases = [
        ("routing-mode", "native", "spec.routing.mode: both ends of a packet"),
        ("tunnel-protocol", "geneve", "spec.routing.overlay.protocol: both ends of a tunnel"),
        ("tunnel-port", "8473", "spec.routing.overlay.port: both ends of a tunnel"),
        ("enable-ipv6", "true", "spec.ipFamilies: a pod must reach"),
        ("cluster-name", "east", "spec.clusterName: identities"),
        ("enable-policy", "never", "spec.policy.enforcement: what a policy means"),
        ("policy-audit-mode", "true", "spec.policy.auditMode: what a policy means"),
        ("enable-host-firewall", "true", "spec.hostFirewall.enabled: the nodeSelector of a policy"),
        ("enable-health-checking", "false", "spec.nodeHealth.enabled: nodes probe each other"),
        ("cluster-pool-ipv4-cidr", "10.0.0.0/8", "spec.ipam.clusterPool.ipv4.cidrs: the operator gives"),
        ("identity-allocation-mode", "kvstore", "no such setting; identities are always kept"),
        ("write-cni-conf-when-ready", "/x", "no such setting; the CNI configuration is always written"),
        ("enable-ip-masq-agent", "true", "use spec.masquerade.excludeCIDRs"),
        ("bpf-lb-acceleration", "native", "no such setting; a parameter of NodePort"),
        ("bpf-lb-accelerate", "native", "no such setting; keys are those of"),
        ("ipv4.enabled", "true", "no such setting; keys are those of"),
        ("spec.mtuu", "1", "did you mean spec.mtu?"),
        ("spec.nonsense.at.all", "1", "no such setting"),
        ("mtu", "900", "from 1280 to 65535"),
        ("mtu", "big", "must be a whole number"),
        ("debug", "yes", "must be \"true\" or \"false\""),
        ("devices", "a-name-that-is-too-long", "at most 15 characters"),
        ("cni-chaining-mode", "aws-cni", "must be none or portmap"),
        ("bpf-ct-timeout-regular-tcp", "soon", "a duration such as 2h13m20s"),
        ("spec.cni.chainedPlugins", "[", "must be JSON"),
        ("ipv4-native-routing-cidr", "fd00::/8", "must be an IPv4 prefix"),
    ];
    for (key, value, words) in cases {
        let errors = refused(&object(&json!({key: value, "cni-exclusive": "false"})));
        let [error] = errors.errors.as_slice() else { panic!("{key}: {errors}") };
        assert!(error.path.starts_with(&format!("spec.defaults[{key}]")), "{error}");
        assert!(error.message.contains(words), "{key}: {error}");
    }
}

#[test]
fn two_keys_of_one_setting_must_agree_and_values_are_text() {
    let both = refused(&object(&json!({"bpf-ct-global-tcp-max": "65536", "bpf-ct-global-any-max": "4096"})));
    assert!(
        both.to_string().contains("spec.conntrack.maxEntries is one setting, of which bpf-ct-global-any-max says 4096")
    );
    assert_eq!(good(&json!({})).object.to_string(), "CiliumNodeConfig kube-system/n");
    let number = refused(&object(&json!({"mtu": 1400})));
    assert!(number.to_string().contains("put it in quotes"), "{number}");
    let typo = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNodeConfig", "metadata": {"name": "n", "namespace": "x"},
        "spec": {"nodeSelectors": {}, "defaults": {}}});
    assert!(refused(&typo).to_string().contains("did you mean nodeSelector?"));
}
