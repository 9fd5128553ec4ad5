//! Tables that outgrow their map though no policy changed.

use axoneme_model::{Direction, rows::TableRow};

use super::{
    size::{ROOM, enforced, object, prefixes, replica, rows},
    *,
};

/// Reads a group, on every second of some ports, so that no two make a range.
fn reader(name: &str, selects: (&str, &str), ports: usize) -> Value {
    let to: Vec<Value> = (0..ports).map(|p| json!({"port": (30_001 + 2 * p).to_string(), "protocol": "TCP"})).collect();
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": "ns", "generation": 1},
        "spec": {"endpointSelector": {"matchLabels": {selects.0: selects.1}},
            "egress": [{"toCIDRSet": [{"cidrGroupRef": "partners"}], "toPorts": [{"ports": to}]}]}})
}

fn group(name: &str, from: usize, blocks: usize) -> Value {
    let cidrs: Vec<String> = (from..from + blocks).map(|i| format!("198.51.{i}.0/24")).collect();
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata": {"name": name}, "spec": {"externalCIDRs": cidrs}})
}

/// One port each to blocks of its own: blocks of one rule would be one class.
fn narrow(name: &str, selects: (&str, &str), from: usize, blocks: usize) -> Value {
    let rule = |i: usize| {
        let ports = json!([{"port": (20_001 + 2 * i).to_string(), "protocol": "TCP"}]);
        json!({"toCIDR": [format!("198.51.{i}.0/24")], "toPorts": [{"ports": ports}]})
    };
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": "ns", "generation": 1},
        "spec": {"endpointSelector": {"matchLabels": {selects.0: selects.1}},
            "egress": (from..from + blocks).map(rule).collect::<Vec<_>>()}})
}

fn table(rows: &RowSet, pod: &str) -> TableRow {
    rows.tables[&rows.endpoints.values().find(|e| &*e.name == pod).unwrap().table].clone()
}

fn egress(table: &TableRow) -> usize {
    table.entries.keys().filter(|k| k.direction == Direction::Egress).count()
}

/// All but the tables of some pods.
fn others(mut rows: RowSet, pods: &[&str]) -> RowSet {
    let own: Vec<_> = rows.endpoints.values().filter(|e| pods.contains(&&*e.name)).map(|e| e.table).collect();
    rows.tables.retain(|id, _| !own.contains(id));
    rows.endpoints.retain(|_, e| !pods.contains(&&*e.name));
    rows.ips.retain(|_, ip| !pods.iter().any(|p| ip.pod.ends_with(p)));
    rows
}

#[test]
fn a_group_that_grows_too_large_stays_as_it_was_and_comes_when_it_fits() {
    let mut s = cluster();
    s.put(Kind::CiliumCIDRGroup, group("partners", 0, 3));
    s.put(Kind::CiliumNetworkPolicy, reader("p", ("app", "web"), 5));
    s.put(Kind::CiliumNetworkPolicy, policy_of_db());
    let mut r = replica("a");
    r.settle(&mut s);
    let good = rows(&r);
    assert_eq!(prefixes(&good).len(), 3);
    // none of what it was is left in it
    s.put(Kind::CiliumCIDRGroup, group("partners", 100, 20));
    r.settle(&mut s);
    assert!(rows(&r) == good, "what is in force did not stay whole");
    let (status, reason, message) = enforced(&s, "p");
    assert_eq!((&*status, &*reason), ("False", "TableTooLarge"));
    for part in ["20 CIDRs of CiliumCIDRGroup partners", "pod ns/a", "entries", "limit is 40", "stays in force"] {
        assert!(message.contains(part), "{part} is not in {message:?}");
    }
    assert_eq!(enforced(&s, "db").1, "Pending", "a policy that does not read the group is held up by it");
    assert!(s.events.iter().any(|e| e.contains("partners TableTooLarge")), "{:?}", s.events);
    // the group is said again as it is, and time passes: nothing more is written or published
    s.put(Kind::CiliumCIDRGroup, group("partners", 100, 20));
    r.settle(&mut s);
    let (writes, revision, events) = (s.writes, r.core.hub.revision(), s.events.len());
    for _ in 0..30 {
        r.settle(&mut s);
    }
    assert_eq!((s.writes, r.core.hub.revision(), s.events.len()), (writes, revision, events));

    s.put(Kind::CiliumCIDRGroup, group("partners", 100, 4));
    r.settle(&mut s);
    assert_eq!(prefixes(&rows(&r)).len(), 4);
    assert!(prefixes(&rows(&r)).iter().all(|p| p.starts_with("198.51.10")));
    assert_eq!(enforced(&s, "p").1, "Pending");
}

fn policy_of_db() -> Value {
    let mut p = policy("db", "nobody", 1);
    p["metadata"]["name"] = "db".into();
    p
}

#[test]
fn a_group_that_is_held_back_comes_when_other_policies_make_room() {
    let mut s = cluster();
    s.put(Kind::CiliumCIDRGroup, group("partners", 0, 3));
    s.put(Kind::CiliumNetworkPolicy, reader("p", ("app", "web"), 5));
    s.put(Kind::CiliumNetworkPolicy, narrow("large", ("app", "web"), 200, 19));
    let mut r = replica("a");
    r.settle(&mut s);
    assert_eq!(enforced(&s, "large").1, "Pending");
    s.put(Kind::CiliumCIDRGroup, group("partners", 0, 30));
    let before = prefixes(&rows(&r));
    r.settle(&mut s);
    assert_eq!(prefixes(&rows(&r)), before);
    assert_eq!(enforced(&s, "p").1, "TableTooLarge");
    assert_eq!(enforced(&s, "large").1, "Pending", "a policy is blamed that has nothing to do with the group");
    s.put(Kind::CiliumCIDRGroup, group("partners", 0, 4));
    r.settle(&mut s);
    assert_eq!(prefixes(&rows(&r)).len(), 23);
    s.put(Kind::CiliumCIDRGroup, group("partners", 0, 7));
    r.settle(&mut s);
    s.delete(&object("large"));
    r.settle(&mut s);
    let began = r.now;
    while prefixes(&rows(&r)).len() != 7 {
        r.settle(&mut s);
        assert!(r.now.duration_since(began) <= ROOM + Duration::from_secs(2), "never tried again");
    }
    assert_eq!(enforced(&s, "p").1, "Pending");
}

#[test]
fn a_pod_at_which_too_many_policies_meet_is_closed_and_others_are_not() {
    let mut s = cluster();
    s.put(Kind::CiliumNetworkPolicy, narrow("one", ("app", "web"), 0, 25));
    s.put(Kind::CiliumNetworkPolicy, narrow("two", ("tier", "edge"), 100, 25));
    s.put(Kind::CiliumNetworkPolicy, policy_of_db());
    let mut edge = pod("c", "n1", "other");
    edge["metadata"]["labels"]["tier"] = "edge".into();
    s.put(Kind::Pod, edge);
    let mut r = replica("a");
    r.settle(&mut s);
    let before = others(rows(&r), &["both"]);
    assert!(egress(&table(&before, "a")) == 25 && egress(&table(&before, "c")) == 25);

    let mut both = pod("both", "n2", "web");
    both["metadata"]["labels"]["tier"] = "edge".into();
    s.put(Kind::Pod, both);
    r.settle(&mut s);
    let now = rows(&r);
    let mut same = others(now.clone(), &["both"]);
    same.identities.clone_from(&before.identities);
    assert!(same == before, "pods that have nothing to do with it are touched");
    let closed = table(&now, "both");
    assert!(!closed.egress_default.allow && egress(&closed) == 0, "{closed:?}");
    assert!(closed.ingress_default.allow, "the direction that is not too large is as policies say");
    assert_eq!(&*now.rules[&closed.egress_default.rule].rule.object.name, "table-too-large");
    for name in ["one", "two"] {
        let (status, reason, message) = enforced(&s, name);
        assert_eq!((&*status, &*reason), ("False", "CombinationTooLarge"), "{name}");
        for part in ["2 policies", "pod ns/both", "51 entries", "limit is 40", "egress"] {
            assert!(message.contains(part), "{part} is not in {message:?}");
        }
        assert!(s.events.iter().any(|e| e.contains(&format!("{name} CombinationTooLarge"))), "{:?}", s.events);
    }
    assert_eq!(enforced(&s, "db").1, "Pending");

    // another replica finds the same, and writes nothing
    let (writes, events) = (s.writes, s.events.len());
    let mut other = replica("b");
    other.settle(&mut s);
    assert!(rows(&other) == now, "a replica that starts finds something else");
    assert_eq!((s.writes, s.events.len()), (writes, events));

    // fewer labels: it is as any other
    s.put(Kind::Pod, pod("both", "n2", "web"));
    other.settle(&mut s);
    assert_eq!(egress(&table(&rows(&other), "both")), 25);
    assert_eq!((enforced(&s, "one").1, enforced(&s, "two").1), ("Pending".into(), "Pending".into()));
}

#[test]
fn a_condition_of_closed_pods_is_not_written_with_every_pod() {
    let mut s = cluster();
    s.put(Kind::CiliumNetworkPolicy, narrow("one", ("app", "web"), 0, 25));
    s.put(Kind::CiliumNetworkPolicy, narrow("two", ("tier", "edge"), 100, 25));
    // both are in force somewhere: a policy that meets others at its first pod is the one to be held back
    let mut edge = pod("c", "n1", "other");
    edge["metadata"]["labels"]["tier"] = "edge".into();
    s.put(Kind::Pod, edge);
    let mut r = replica("a");
    r.settle(&mut s);
    for i in 0..3 {
        let mut both = pod(&format!("both-{i}"), "n2", "web");
        both["metadata"]["labels"]["tier"] = "edge".into();
        s.put(Kind::Pod, both);
        r.settle(&mut s);
    }
    let (writes, condition) = (s.writes, enforced(&s, "one"));
    assert_eq!(condition.1, "CombinationTooLarge");
    for i in 3..6 {
        let mut both = pod(&format!("both-{i}"), "n2", "web");
        both["metadata"]["labels"]["tier"] = "edge".into();
        s.put(Kind::Pod, both);
        r.settle(&mut s);
    }
    assert_eq!((s.writes, enforced(&s, "one")), (writes, condition));
    assert_eq!(egress(&table(&rows(&r), "both-5")), 0);
}
