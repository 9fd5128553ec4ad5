use serde_json::json;

use super::*;
use crate::source::{KINDS, SourceEvent};

fn apply(c: &mut Cluster, kind: Kind, object: Value) {
    c.apply(SourceEvent::Apply { kind, object });
}

fn policy(generation: i64, port: &Value) -> Value {
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "web", "namespace": "ns", "generation": generation, "resourceVersion": generation.to_string()},
        "spec": {"endpointSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"toPorts": [{"ports": [{"port": port, "protocol": "TCP"}]}]}]}})
}

fn pod(node: &str, ip: Option<&str>) -> Value {
    let ips = ip.map(|i| json!([{"ip": i}])).unwrap_or(json!([]));
    json!({"metadata": {"name": "a", "namespace": "ns", "uid": "u"}, "spec": {"nodeName": node},
        "status": {"podIPs": ips}})
}

fn addresses(changes: &[WorldChange]) -> Vec<Vec<String>> {
    let of = |c: &WorldChange| match c {
        WorldChange::Pod(_, Some(p)) => Some(p.addresses.iter().map(ToString::to_string).collect()),
        _ => None,
    };
    changes.iter().filter_map(of).collect()
}

#[test]
fn a_broken_policy_keeps_its_last_good_version_and_fails_closed_without() {
    let object = ObjectRef::new(Kind::CiliumNetworkPolicy, "ns", "web");
    let mut c = Cluster::new();
    c.take_changes();
    apply(&mut c, Kind::CiliumNetworkPolicy, policy(1, &json!("70000")));
    assert!(matches!(c.policies[&object].loaded, Loaded::FailClosed(_)));
    apply(&mut c, Kind::CiliumNetworkPolicy, policy(2, &json!("80")));
    assert!(matches!(c.policies[&object].loaded, Loaded::Current(_)));
    assert_eq!(c.take_changes().len(), 2);
    apply(&mut c, Kind::CiliumNetworkPolicy, policy(3, &json!("70000")));
    assert!(matches!(&c.policies[&object].loaded, Loaded::LastGood(p) if p.generation == 2));
    assert!(c.policies[&object].errors.as_ref().unwrap().to_string().contains("70000"));
    assert_eq!(c.take_changes(), vec![], "what is in force did not change");
    c.apply(SourceEvent::Delete(object.clone()));
    assert_eq!(c.take_changes(), vec![WorldChange::Policy(object, None)]);
}

#[test]
fn how_many_policies_cannot_be_in_force_is_kept_with_each_change() {
    let object = ObjectRef::new(Kind::CiliumNetworkPolicy, "ns", "web");
    let mut c = Cluster::new();
    let excess = axoneme_compile::Excess { entries: 9, limit: 8, pod: ("ns".into(), "a".into()) };
    let counted = |c: &Cluster| {
        let searched = c.policies.values().filter(|p| p.errors.is_some() || p.too_large.is_some()).count();
        assert_eq!(c.faulty_policies(), searched);
        searched
    };
    apply(&mut c, Kind::CiliumNetworkPolicy, policy(1, &json!("70000")));
    assert_eq!(counted(&c), 1);
    apply(&mut c, Kind::CiliumNetworkPolicy, policy(2, &json!("80")));
    assert_eq!(counted(&c), 0);
    c.compiled(&object, Some(excess));
    assert_eq!(counted(&c), 1);
    // a write that does not change it
    let mut again = policy(2, &json!("80"));
    again["metadata"]["resourceVersion"] = "3".into();
    apply(&mut c, Kind::CiliumNetworkPolicy, again);
    assert_eq!(counted(&c), 1);
    c.try_again(|_| false);
    assert_eq!(counted(&c), 1);
    c.try_again(|_| true);
    assert_eq!(counted(&c), 0);
    c.compiled(&object, None);
    apply(&mut c, Kind::CiliumNetworkPolicy, policy(4, &json!("70000")));
    assert_eq!(counted(&c), 1);
    c.apply(SourceEvent::Delete(object));
    assert_eq!(counted(&c), 0);
}

#[test]
fn an_older_version_that_comes_late_is_left_out() {
    let object = ObjectRef::new(Kind::CiliumNetworkPolicy, "ns", "web");
    let mut c = Cluster::new();
    apply(&mut c, Kind::CiliumNetworkPolicy, policy(9, &json!("80")));
    apply(&mut c, Kind::CiliumNetworkPolicy, policy(8, &json!("81")));
    assert_eq!(c.policies[&object].generation, 9);
}

#[test]
fn a_reported_address_goes_before_the_status_and_a_removed_endpoint_has_none() {
    let mut c = Cluster::new();
    c.take_changes();
    let key: Key = ("ns".into(), "a".into());
    apply(&mut c, Kind::Pod, pod("n", None));
    c.report(&key, &"u".into(), &["10.0.0.1".parse().unwrap()].into(), false);
    apply(&mut c, Kind::Pod, pod("n", Some("10.0.0.1")));
    c.report(&key, &"u".into(), &["10.0.0.1".parse().unwrap()].into(), false);
    c.report(&key, &"u".into(), &BTreeSet::new(), true);
    c.report(&key, &"other".into(), &BTreeSet::new(), true);
    let said = addresses(&c.take_changes());
    assert_eq!(said, [vec![], vec!["10.0.0.1".to_owned()], vec!["10.0.0.1".to_owned()], vec![]]);
    assert_eq!(c.gone.len(), 1, "nothing is kept of a pod that was never there");
    c.apply(SourceEvent::Delete(ObjectRef::new(Kind::Pod, "ns", "a")));
    assert!(c.gone.is_empty() && c.reported.is_empty());
}

#[test]
fn broken_objects_of_all_kinds_stop_nothing() {
    let mut c = Cluster::new();
    for kind in KINDS {
        for nonsense in
            [json!(null), json!([]), json!({"metadata": 7}), json!({"metadata": {"name": "x"}, "spec": "no"})]
        {
            apply(&mut c, kind, nonsense);
        }
    }
    apply(
        &mut c,
        Kind::Node,
        json!({"metadata": {"name": "n"}, "status": {"addresses": [
        {"type": "InternalIP", "address": "192.0.2.1"}]}}),
    );
    assert_eq!(c.nodes["n"].node.as_ref().unwrap().addresses.len(), 1);
    assert!(!c.is_synced());
    for k in KINDS {
        c.apply(SourceEvent::Synced(k));
    }
    assert!(c.is_synced());
}

#[test]
fn slices_and_service_meet_in_any_order() {
    let service = json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": {"clusterIP": "10.96.0.1",
        "clusterIPs": ["10.96.0.1"], "ports": [{"port": 80, "protocol": "TCP"}]}});
    let slice = |ip: &str| {
        json!({"metadata": {"name": "s-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"port": 80, "protocol": "TCP"}], "endpoints": [{"addresses": [ip]}]})
    };
    let last = |c: &mut Cluster| {
        c.take_changes().into_iter().rev().find_map(|c| match c {
            WorldChange::Service(_, s) => s.map(|s| s.endpoints.len()),
            _ => None,
        })
    };
    let mut c = Cluster::new();
    apply(&mut c, Kind::EndpointSlice, slice("10.0.0.1"));
    assert_eq!(last(&mut c), None);
    apply(&mut c, Kind::Service, service);
    assert_eq!(last(&mut c), Some(1));
    c.apply(SourceEvent::Delete(ObjectRef::new(Kind::EndpointSlice, "ns", "s-1")));
    assert_eq!(last(&mut c), Some(0));
}

#[test]
fn the_ipam_mode_says_which_prefixes_a_node_has() {
    let mut c = Cluster::new();
    apply(&mut c, Kind::Node, json!({"metadata": {"name": "n"}, "spec": {"podCIDRs": ["10.9.0.0/24"]}}));
    apply(
        &mut c,
        Kind::CiliumNode,
        json!({"metadata": {"name": "n"}, "spec": {"ipam": {"podCIDRs": ["10.0.1.0/24"],
        "pools": {"allocated": [{"pool": "blue", "cidrs": ["10.5.0.0/28"]}]}, "pool": {"10.7.0.9": {}}}}}),
    );
    let mut cidrs = |mode: &str| {
        apply(
            &mut c,
            Kind::AxonemeConfig,
            json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig",
            "metadata": {"name": "default"}, "spec": {"ipam": {"mode": mode}}}),
        );
        let mode = c.settings.ipam.mode;
        c.nodes["n"]
            .pools(mode, &BTreeSet::new())
            .into_iter()
            .map(|(p, c)| format!("{p}={}", c[0]))
            .collect::<Vec<_>>()
            .concat()
    };
    assert_eq!(cidrs("ClusterPool"), "default=10.0.1.0/24");
    assert_eq!(cidrs("Kubernetes"), "default=10.9.0.0/24");
    assert_eq!(cidrs("MultiPool"), "blue=10.5.0.0/28");
    assert_eq!(cidrs("CRD"), "default=10.7.0.9/32");
}
