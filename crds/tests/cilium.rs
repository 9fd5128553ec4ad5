//! Every name that Cilium's chart has is known here: as a setting, or with the reason why it is none.

use std::collections::BTreeSet;

use axoneme_crds::axoneme_config::{Successor, cilium_setting};

fn names(text: &str) -> Vec<&str> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    // a default may stand behind it
    lines.map(|line| line.split_once(" = ").map_or(line, |(path, _)| path)).collect()
}

#[test]
fn every_key_of_the_config_map_is_known() {
    let keys = names(include_str!("cilium/keys.txt"));
    let unknown: Vec<_> = keys.iter().filter(|key| cilium_setting(key).is_none()).collect();
    assert_eq!(unknown, [&""; 0]);
    assert!(keys.len() > 400, "{}", keys.len());
    let settings: BTreeSet<_> = keys
        .iter()
        .filter_map(|key| match cilium_setting(key) {
            Some(Successor::Setting(path)) => Some(path),
            _ => None,
        })
        .collect();
    assert!(settings.len() > 30, "{settings:?}");
}

#[test]
fn every_value_of_the_chart_is_known() {
    let values = names(include_str!("cilium/values.txt"));
    // its fields are keys of the ConfigMap
    let values: Vec<_> = values.into_iter().filter(|path| *path != "extraConfig").collect();
    let unknown: Vec<_> = values.iter().filter(|path| cilium_setting(path).is_none()).collect();
    assert_eq!(unknown, [&""; 0]);
    assert!(values.len() > 1100, "{}", values.len());
}

#[test]
fn what_nobody_has_heard_of_is_unknown() {
    for name in ["", "enable-ipv7", "extraConfig", "routing", "operatorx.replicas", "ipam.modes"] {
        assert_eq!(cilium_setting(name), None, "{name}");
    }
}

#[test]
fn the_longest_beginning_of_a_path_decides() {
    let reason = |path| match cilium_setting(path) {
        Some(Successor::Gone(reason)) => reason,
        other => panic!("{path}: {other:?}"),
    };
    assert!(reason("hubble.relay.replicas").contains("kustomize"));
    assert!(reason("hubble.metrics.enabled").contains("sets of metrics"));
    assert!(reason("hubble.tls.auto.method").contains("mTLS"));
    assert_eq!(cilium_setting("hubble.eventBufferCapacity"), Some(Successor::Setting("spec.flows.bufferEvents")));
    assert!(matches!(cilium_setting("encryption.enabled"), Some(Successor::Missing(_))));
    assert!(matches!(cilium_setting("enable-node-port"), Some(Successor::Removed(_))));
}
