//! Addresses from objects to objects: pools, marks, conditions, events.

use axoneme_wire::NodeReport;

use super::*;

fn config(s: &mut Server, ipam: &Value) {
    s.put(
        Kind::AxonemeConfig,
        json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig", "metadata": {"name": "default"},
            "spec": {"ipFamilies": ["IPv4"], "ipam": ipam}}),
    );
}

fn pool(name: &str, cidrs: &[&str], mask: u8) -> Value {
    json!({"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumPodIPPool",
        "metadata": {"name": name, "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"ipv4": {"cidrs": cidrs, "maskSize": mask}}})
}

fn cilium_node<'a>(s: &'a Server, name: &str) -> &'a Value {
    &s.objects[&ObjectRef::new(Kind::CiliumNode, "", name)]
}

fn object<'a>(s: &'a Server, kind: Kind, name: &str) -> &'a Value {
    &s.objects[&ObjectRef::new(kind, "", name)]
}

fn leader(s: &mut Server) -> Replica {
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.settle(s);
    r
}

/// What a node's agent says that obeys its newest configuration: all closed blocks but those in `used` are given up.
fn report(r: &mut Replica, node: &str, used: &[&str]) {
    let (row, _) = r.core.configs[node].clone();
    let used: Vec<axoneme_model::Cidr> = used.iter().map(|c| c.parse().unwrap()).collect();
    let released = row.blocks.releasing.iter().filter(|b| !used.contains(b)).copied().collect();
    let report = NodeReport { ready: true, blocks_version: row.blocks.version, released, ..NodeReport::default() };
    r.core.cluster.node_report(&node.into(), report);
}

fn row(r: &Replica, pod: &str) -> axoneme_model::rows::EndpointRow {
    r.core.hub.endpoint(pod).unwrap().clone()
}

#[test]
fn a_pod_waits_for_its_pool_with_an_event_and_goes_on_when_the_pool_grows() {
    let mut s = cluster();
    config(&mut s, &json!({"mode": "MultiPool", "multiPool": {"preAllocate": {"default": 0}}}));
    s.put(Kind::CiliumPodIPPool, pool("default", &["10.1.0.0/29"], 29));
    let mut r = leader(&mut s);
    assert_eq!(
        cilium_node(&s, "n1")["spec"]["ipam"]["pools"]["allocated"],
        json!([{"pool": "default", "cidrs": ["10.1.0.0/29"]}])
    );
    let c = conditions(object(&s, Kind::CiliumPodIPPool, "default"));
    assert_eq!((c["AddressesAvailable"].0.as_str(), c["AddressesAvailable"].1.as_str()), ("False", "Exhausted"));
    assert!(c["AddressesAvailable"].2.contains("node n2: no free /29 is left in 10.1.0.0/29"), "{c:?}");
    assert!(c["AddressesAvailable"].2.contains("1 blocks are held by nodes, 0 are free"), "{c:?}");
    let event = s.events.iter().find(|e| e.contains("Pod ns/b Exhausted")).unwrap();
    assert!(event.contains("waits for an address of CiliumPodIPPool default: node n2: no free /29"), "{event}");
    s.put(Kind::CiliumPodIPPool, pool("default", &["10.1.0.0/29", "10.2.0.0/29"], 29));
    r.settle(&mut s);
    assert_eq!(cilium_node(&s, "n2")["spec"]["ipam"]["pools"]["allocated"][0]["cidrs"], json!(["10.2.0.0/29"]));
    let c = conditions(object(&s, Kind::CiliumPodIPPool, "default"));
    assert_eq!((c["AddressesAvailable"].0.as_str(), c["Valid"].0.as_str()), ("True", "True"));
    let before = s.writes;
    for _ in 0..5 {
        r.settle(&mut s);
    }
    assert_eq!(s.writes, before, "a cluster at rest is not written to");
}

#[test]
fn overlapping_too_small_and_invalid_pools_say_so() {
    let mut s = cluster();
    config(&mut s, &json!({"mode": "MultiPool"}));
    s.put(Kind::CiliumPodIPPool, pool("default", &["10.1.0.0/16"], 28));
    s.put(Kind::CiliumPodIPPool, pool("inside", &["10.1.4.0/24"], 28));
    s.put(Kind::CiliumPodIPPool, pool("broken", &["10.9.0.0/28"], 24));
    leader(&mut s);
    let valid = |name: &str| conditions(object(&s, Kind::CiliumPodIPPool, name))["Valid"].clone();
    assert_eq!(valid("default").0, "True");
    let (status, reason, message) = valid("inside");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Overlap"));
    assert!(message.contains("10.1.4.0/24 overlaps with 10.1.0.0/16 of CiliumPodIPPool default"), "{message}");
    assert_eq!(valid("broken").1, "Invalid");
    assert!(valid("broken").2.contains("spec.ipv4.cidrs[0]"), "{}", valid("broken").2);
    assert!(s.events.iter().any(|e| e.contains("CiliumPodIPPool inside Overlap")), "{:?}", s.events);
}

#[test]
fn selectors_and_annotations_choose_the_pool_and_waiting_pods_follow_changes() {
    let mut s = cluster();
    config(&mut s, &json!({"mode": "MultiPool"}));
    for p in ["default", "blue", "red"] {
        s.put(Kind::CiliumPodIPPool, pool(p, &[&format!("10.{}.0.0/16", p.len())], 28));
    }
    let mut r = leader(&mut s);
    assert_eq!(&*row(&r, "a").pool_v4, "default");
    let mut blue = pool("blue", &["10.4.0.0/16"], 28);
    blue["spec"]["podSelector"] = json!({"matchLabels": {"app": "web"}});
    s.put(Kind::CiliumPodIPPool, blue);
    r.settle(&mut s);
    assert_eq!(&*row(&r, "a").pool_v4, "blue", "it has no address yet");
    assert_eq!(&*row(&r, "b").pool_v4, "default");
    // it has one now: what it was told stays
    r.core.cluster.report(&("ns".into(), "a".into()), &"a".into(), &["10.4.0.1".parse().unwrap()].into(), false);
    s.put(Kind::Namespace, json!({"metadata": {"name": "ns", "annotations": {"ipam.cilium.io/ip-pool": "red"}}}));
    r.settle(&mut s);
    assert_eq!((&*row(&r, "a").pool_v4, &*row(&r, "b").pool_v4), ("blue", "red"));
    s.put(
        Kind::Namespace,
        json!({"metadata": {"name": "ns", "annotations": {"ipam.cilium.io/require-pool-match": "true"}}}),
    );
    r.settle(&mut s);
    assert!(row(&r, "b").pool_v4.starts_with("!no CiliumPodIPPool matches"), "{}", row(&r, "b").pool_v4);
    assert!(s.events.iter().any(|e| e.contains("Pod ns/b NoPoolMatches")), "{:?}", s.events);
}

#[test]
fn annotations_mean_nothing_where_there_is_one_pool() {
    let mut s = cluster();
    s.put(Kind::Namespace, json!({"metadata": {"name": "ns", "annotations": {"ipam.cilium.io/ip-pool": "red"}}}));
    let r = leader(&mut s);
    assert_eq!(&*row(&r, "a").pool_v4, "");
}

#[test]
fn a_block_goes_back_only_by_mark_report_and_write_onto_the_same_object() {
    let mut s = cluster();
    config(&mut s, &json!({"mode": "MultiPool", "multiPool": {"preAllocate": {"default": 0}}}));
    s.put(Kind::CiliumPodIPPool, pool("default", &["10.1.0.0/24"], 28));
    let mut r = leader(&mut s);
    let allocated = |s: &Server| cilium_node(s, "n1")["spec"]["ipam"]["pools"]["allocated"].clone();
    assert_eq!(allocated(&s)[0]["cidrs"], json!(["10.1.0.0/28"]));
    report(&mut r, "n1", &[]);
    r.settle(&mut s);
    // the prefix leaves the pool
    s.put(Kind::CiliumPodIPPool, pool("default", &["10.2.0.0/24"], 28));
    r.settle(&mut s);
    assert_eq!(cilium_node(&s, "n1")["metadata"]["annotations"]["axoneme.io/releasing"], "10.1.0.0/28");
    let (row, _) = &r.core.configs["n1"];
    assert_eq!(row.blocks.releasing, ["10.1.0.0/28".parse().unwrap()].into());
    assert!(row.pools["default"].contains(&"10.1.0.0/28".parse().unwrap()), "it is still the node's");
    // a report of the time before the mark is none
    let stale = NodeReport {
        blocks_version: row.blocks.version - 1,
        released: ["10.1.0.0/28".parse().unwrap()].into(),
        ..NodeReport::default()
    };
    r.core.cluster.node_report(&"n1".into(), stale);
    r.settle(&mut s);
    assert_eq!(allocated(&s)[0]["cidrs"], json!(["10.1.0.0/28", "10.2.0.0/28"]));
    report(&mut r, "n1", &["10.1.0.0/28"]);
    r.settle(&mut s);
    assert_eq!(allocated(&s)[0]["cidrs"], json!(["10.1.0.0/28", "10.2.0.0/28"]), "an address of it is in use");
    // another leader goes on where the first was
    let mut other = Replica::new("b");
    other.core.lead(Leadership::Me);
    other.settle(&mut s);
    report(&mut other, "n1", &[]);
    other.settle(&mut s);
    assert_eq!(allocated(&s)[0]["cidrs"], json!(["10.2.0.0/28"]));
    assert!(cilium_node(&s, "n1")["metadata"]["annotations"].get("axoneme.io/releasing").is_none());
    // the first leader's view is old: its write is refused
    report(&mut r, "n1", &[]);
    for w in r.flush() {
        if w.key.object.kind == Kind::CiliumNode && &*w.key.object.name == "n1" {
            assert_eq!(s.write(&w), Outcome::Conflict);
        }
    }
}

#[test]
fn pods_of_a_pool_that_says_so_are_not_masqueraded() {
    let mut s = cluster();
    config(&mut s, &json!({"mode": "MultiPool"}));
    let mut own = pool("default", &["10.1.0.0/24"], 28);
    own["metadata"]["annotations"] = json!({"ipam.cilium.io/skip-masquerade": "true"});
    own["spec"]["allowFirstIP"] = true.into();
    s.put(Kind::CiliumPodIPPool, own);
    let r = leader(&mut s);
    let (row, _) = &r.core.configs["n1"];
    assert_eq!(row.blocks.unmasqueraded, ["default".into()].into());
    let edges = axoneme_model::rows::Edges::Pool { allow_first: true, allow_last: false };
    assert_eq!(row.blocks.edges["default"], edges);
}

#[test]
fn a_cluster_with_one_pool_takes_up_pools_where_it_stands() {
    let mut s = cluster();
    let mut r = leader(&mut s);
    let before = cilium_node(&s, "n1")["spec"]["ipam"]["podCIDRs"].clone();
    s.put(Kind::CiliumPodIPPool, pool("default", &["10.244.0.0/16"], 24));
    config(&mut s, &json!({"mode": "MultiPool"}));
    r.settle(&mut s);
    let ipam = &cilium_node(&s, "n1")["spec"]["ipam"];
    assert_eq!(ipam["pools"]["allocated"], json!([{"pool": "default", "cidrs": before}]));
    assert!(ipam.get("podCIDRs").is_none(), "{ipam}");
    let writes = s.writes;
    r.settle(&mut s);
    assert_eq!(s.writes, writes);
}

#[test]
fn a_ciliumnode_that_somebody_deletes_comes_back_as_it_was() {
    let mut s = cluster();
    let mut r = leader(&mut s);
    let before = cilium_node(&s, "n1")["spec"]["ipam"].clone();
    let taken = before["podCIDRs"][0].as_str().unwrap().to_owned();
    s.delete(&ObjectRef::new(Kind::CiliumNode, "", "n1"));
    // at the same time a node comes that would take the first free block
    s.put(Kind::Node, node("n0", "192.0.2.9"));
    r.settle(&mut s);
    assert_eq!(cilium_node(&s, "n1")["spec"]["ipam"], before);
    assert_ne!(cilium_node(&s, "n0")["spec"]["ipam"]["podCIDRs"][0], taken);
    // and an operator that never saw it goes by the addresses of the pods
    s.delete(&ObjectRef::new(Kind::CiliumNode, "", "n1"));
    let mut p = pod("a", "n1", "web");
    p["status"] = json!({"podIPs": [{"ip": taken.replace(".0/24", ".7")}]});
    s.put(Kind::Pod, p);
    s.put(Kind::Node, node("m", "192.0.2.8"));
    let mut other = Replica::new("b");
    other.core.lead(Leadership::Me);
    for (o, v) in s.objects.clone() {
        other.core.source(SourceEvent::Apply { kind: o.kind, object: v });
    }
    other.read = s.log.len();
    other.settle(&mut s);
    assert_eq!(cilium_node(&s, "n1")["spec"]["ipam"], before);
}

#[test]
fn lent_addresses_are_reported_as_used_and_given_back_when_asked_for() {
    let mut s = cluster();
    config(&mut s, &json!({"mode": "CRD"}));
    let mut r = leader(&mut s);
    let mut lent = cilium_node(&s, "n1").clone();
    lent["spec"]["ipam"]["pool"] = json!({"10.7.0.1": {}, "10.7.0.2": {}, "10.7.0.3": {}});
    s.put(Kind::CiliumNode, lent);
    r.settle(&mut s);
    let pools = r.core.configs["n1"].0.pools.clone();
    assert_eq!(pools["default"].len(), 3);
    r.core.cluster.report(&("ns".into(), "a".into()), &"a".into(), &["10.7.0.2".parse().unwrap()].into(), false);
    r.settle(&mut s);
    assert_eq!(cilium_node(&s, "n1")["status"]["ipam"]["used"], json!({"10.7.0.2": {"owner": "ns/a"}}));
    // its giver wants two back
    let mut asked = cilium_node(&s, "n1").clone();
    asked["status"]["ipam"]["release-ips"] =
        json!({"10.7.0.2": "marked-for-release", "10.7.0.3": "marked-for-release"});
    s.put(Kind::CiliumNode, asked);
    r.settle(&mut s);
    let answers = |s: &Server| cilium_node(s, "n1")["status"]["ipam"]["release-ips"].clone();
    assert_eq!(answers(&s)["10.7.0.2"], "do-not-release", "a pod has it");
    assert_eq!(answers(&s)["10.7.0.3"], "marked-for-release", "the node has not said yet");
    report(&mut r, "n1", &[]);
    r.settle(&mut s);
    assert_eq!(answers(&s)["10.7.0.3"], "ready-for-release");
    assert!(r.core.configs["n1"].0.blocks.releasing.contains(&"10.7.0.3/32".parse().unwrap()));
    let mut done = cilium_node(&s, "n1").clone();
    done["status"]["ipam"]["release-ips"]["10.7.0.3"] = "released".into();
    done["spec"]["ipam"]["pool"].as_object_mut().unwrap().remove("10.7.0.3");
    // and one that a pod has is taken without asking: it stays the pod's
    done["spec"]["ipam"]["pool"].as_object_mut().unwrap().remove("10.7.0.2");
    s.put(Kind::CiliumNode, done);
    r.settle(&mut s);
    assert_eq!(answers(&s), json!({"10.7.0.2": "do-not-release"}));
    let row = &r.core.configs["n1"].0;
    assert!(row.blocks.releasing.contains(&"10.7.0.2/32".parse().unwrap()) && row.pools["default"].len() == 2);
    let before = s.writes;
    r.settle(&mut s);
    assert_eq!(s.writes, before);
}

#[test]
fn many_refused_objects_are_told_a_few_at_a_time_and_all_in_the_end() {
    let mut s = cluster();
    for i in 0..100 {
        let mut bad = policy("web", "db", 1);
        bad["metadata"]["name"] = format!("p{i}").into();
        bad["spec"]["ingress"] = json!([{"toPorts": [{"ports": [{"port": "99999", "protocol": "TCP"}]}]}]);
        s.put(Kind::CiliumNetworkPolicy, bad);
    }
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.hear(&s);
    let first = r.flush().iter().filter(|w| matches!(w.operation, Operation::Event { .. })).count();
    assert_eq!(first, 64);
    let mut told = first;
    for _ in 0..10 {
        r.now += Duration::from_secs(1);
        told += r.flush().iter().filter(|w| matches!(w.operation, Operation::Event { .. })).count();
    }
    assert_eq!(told, 100);
}
