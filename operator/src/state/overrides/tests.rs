use proptest::{collection as many, prelude::*};
use serde_json::json;

use super::*;
use crate::{source::SourceEvent, state::Cluster};

fn object(name: &str, namespace: &str, selector: &Value, defaults: &Value) -> Value {
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNodeConfig",
        "metadata": {"name": name, "namespace": namespace, "generation": 1},
        "spec": {"nodeSelector": selector, "defaults": defaults}})
}

fn apply(cluster: &mut Cluster, object: Value) {
    cluster.apply(SourceEvent::Apply { kind: Kind::CiliumNodeConfig, object });
}

fn labels(pairs: &[(&str, &str)]) -> PlainLabels {
    pairs.iter().map(|(k, v)| (Name::from(*k), Name::from(*v))).collect()
}

fn mtu(cluster: &Cluster, of: &[(&str, &str)]) -> (Option<u32>, Vec<String>) {
    let of = labels(of);
    let resolved = cluster.overrides.resolve(&cluster.settings, &of);
    let text = |(d, from): (Difference, &ObjectRef)| format!("{} {} {} {}", d.setting, d.value, d.cluster, from.name);
    (resolved.settings.mtu, resolved.differences().map(text).collect())
}

#[test]
fn the_last_name_that_has_a_setting_decides_whatever_the_order_of_events() {
    let all = [
        object("20-jumbo", "kube-system", &json!({"matchLabels": {"net": "jumbo"}}), &json!({"mtu": "9000"})),
        object("10-all", "axoneme-system", &json!({}), &json!({"mtu": "1400", "debug": "true"})),
    ];
    for order in [[0, 1], [1, 0]] {
        let mut c = Cluster::new();
        for i in order {
            apply(&mut c, all[i].clone());
        }
        let of_all = "spec.agent.logLevel Debug Info 10-all".to_owned();
        assert_eq!(
            mtu(&c, &[("net", "jumbo")]),
            (Some(9000), vec![of_all.clone(), "spec.mtu 9000  20-jumbo".to_owned()])
        );
        assert_eq!(mtu(&c, &[]), (Some(1400), vec![of_all, "spec.mtu 1400  10-all".to_owned()]));
        c.apply(SourceEvent::Delete(ObjectRef::new(Kind::CiliumNodeConfig, "kube-system", "20-jumbo")));
        assert_eq!(mtu(&c, &[("net", "jumbo")]).0, Some(1400));
        assert!(c.take_touched().configs);
    }
}

#[test]
fn without_a_selector_no_node_is_meant() {
    let mut c = Cluster::new();
    apply(&mut c, object("a", "kube-system", &Value::Null, &json!({"mtu": "1400"})));
    assert_eq!(mtu(&c, &[("a", "b")]), (None, vec![]));
}

#[test]
fn a_broken_version_leaves_the_good_one_in_force() {
    let mut c = Cluster::new();
    apply(&mut c, object("a", "kube-system", &json!({}), &json!({"mtu": "1400"})));
    apply(&mut c, object("a", "kube-system", &json!({}), &json!({"mtu": "1500", "enable-ipv6": "true"})));
    assert_eq!(mtu(&c, &[]).0, Some(1400), "none of the broken one counts");
    let name = ObjectRef::new(Kind::CiliumNodeConfig, "kube-system", "a");
    assert!(c.overrides.get(&name).is_some_and(|e| e.errors.is_some()));
    assert!(c.take_touched().refused.contains(&name));
    apply(&mut c, object("a", "kube-system", &json!({}), &json!({"mtu": "1500"})));
    assert_eq!(mtu(&c, &[]).0, Some(1500));
}

#[test]
fn who_may_write_into_another_namespace_does_not_set_nodes_up() {
    let mut c = Cluster::new();
    c.overrides.count_in("net");
    for (namespace, counts) in [("shop", false), ("net", true), ("kube-system", true)] {
        apply(&mut c, object("a", namespace, &json!({}), &json!({"mtu": "1400"})));
        assert_eq!(mtu(&c, &[]).0.is_some(), counts, "{namespace}");
        let name = ObjectRef::new(Kind::CiliumNodeConfig, namespace, "a");
        let told = c.errors.get(&name).map(ToString::to_string).unwrap_or_default();
        assert_eq!(told.contains("metadata.namespace"), !counts, "{told}");
        c.apply(SourceEvent::Delete(name));
    }
}

/// One setting a key, so that layers can be compared with a map.
fn layers() -> impl Strategy<Value = Vec<(String, bool, BTreeMap<&'static str, u32>)>> {
    let key = prop::sample::select(vec!["mtu", "bpf-ct-global-tcp-max", "hubble-event-buffer-capacity"]);
    many::vec(("[a-c]{1,2}", any::<bool>(), many::btree_map(key, 2000u32..2010, 0..3)), 0..6)
}

proptest! {
    #[test]
    fn layers_are_a_map_that_is_written_in_the_order_of_names(layers in layers()) {
        let mut c = Cluster::new();
        // of one name there is one object
        let mut wanted: BTreeMap<String, (bool, BTreeMap<&str, u32>)> = BTreeMap::new();
        for (name, selected, defaults) in layers {
            let text: BTreeMap<_, _> = defaults.iter().map(|(k, v)| (*k, v.to_string())).collect();
            let selector = if selected { json!({"matchLabels": {"in": "yes"}}) } else { json!({"matchLabels": {"in": "no"}}) };
            apply(&mut c, object(&name, "kube-system", &selector, &json!(text)));
            wanted.insert(name, (selected, defaults));
        }
        let flat: BTreeMap<&str, u32> = wanted.into_values().filter(|l| l.0).flat_map(|l| l.1).collect();
        let of = labels(&[("in", "yes")]);
        let resolved = c.overrides.resolve(&c.settings, &of);
        let s = &resolved.settings;
        prop_assert_eq!(s.mtu, flat.get("mtu").copied());
        prop_assert_eq!(s.conntrack.max_entries, flat.get("bpf-ct-global-tcp-max").copied().unwrap_or(c.settings.conntrack.max_entries));
        prop_assert_eq!(s.flow_buffer_events, flat.get("hubble-event-buffer-capacity").copied().unwrap_or(c.settings.flow_buffer_events));
        prop_assert_eq!(resolved.rows().len(), flat.len());
    }
}
