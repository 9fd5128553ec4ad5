//! Policies that no table can hold.

use axoneme_model::Direction;

use super::*;

const LIMIT: usize = 40;
pub(super) const ROOM: Duration = Duration::from_secs(10);

pub(super) fn replica(name: &str) -> Replica {
    let mut r = Replica::with(name, Timing { hearing: Duration::ZERO, table_entries: LIMIT, ..Timing::default() });
    r.core.lead(Leadership::Me);
    r
}

/// Blocks of the outside, each on a port of its own so that they differ, and all of them on every second of some ports.
fn cidrs(name: &str, first: usize, blocks: usize, ports: usize, generation: i64) -> Value {
    let block = |i: usize| format!("198.51.{}.0/24", first + i);
    let port = |n: usize| json!([{"ports": [{"port": n.to_string(), "protocol": "TCP"}]}]);
    let own = (0..blocks).map(|i| json!({"toCIDR": [block(i)], "toPorts": port(20_001 + 2 * (first + i))}));
    let shared = (0..ports)
        .map(|p| json!({"toCIDR": (0..blocks).map(block).collect::<Vec<_>>(), "toPorts": port(30_001 + 2 * p)}));
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": "ns", "generation": generation},
        "spec": {"endpointSelector": {"matchLabels": {"app": "web"}}, "egress": own.chain(shared).collect::<Vec<_>>()}})
}

pub(super) fn enforced(s: &Server, name: &str) -> (String, String, String) {
    conditions(&s.objects[&object(name)])["Enforced"].clone()
}

pub(super) fn object(name: &str) -> ObjectRef {
    ObjectRef::new(Kind::CiliumNetworkPolicy, "ns", name)
}

pub(super) fn rows(r: &Replica) -> RowSet {
    r.core.rows.all()
}

fn changed(s: &mut Server, name: &str, mut to: Value) {
    // what the API server keeps when the specification is replaced
    let old = &s.objects[&object(name)];
    to["status"] = old["status"].clone();
    to["metadata"]["uid"] = old["metadata"]["uid"].clone();
    s.put(Kind::CiliumNetworkPolicy, to);
}

pub(super) fn prefixes(rows: &RowSet) -> Vec<String> {
    rows.ips.keys().map(ToString::to_string).filter(|p| p.starts_with("198.51.")).collect()
}

#[test]
fn a_version_that_no_table_holds_leaves_all_rows_as_they_were() {
    let mut s = cluster();
    s.put(Kind::CiliumNetworkPolicy, cidrs("p", 0, 3, 2, 1));
    let mut r = replica("a");
    r.settle(&mut s);
    let good = rows(&r);
    assert_eq!(prefixes(&good), ["198.51.0.0/24", "198.51.1.0/24", "198.51.2.0/24"]);
    // other blocks: those of the good version are in none of its rules
    changed(&mut s, "p", cidrs("p", 100, 10, 10, 2));
    r.settle(&mut s);
    assert_eq!(rows(&r), good, "what is in force did not stay whole");
    let (status, reason, message) = enforced(&s, "p");
    assert_eq!((&*status, &*reason), ("False", "TableTooLarge"));
    for part in ["generation 2", "111 entries", "limit is 40", "pod ns/a", "generation 1 stays in force"] {
        assert!(message.contains(part), "{part} is not in {message:?}");
    }
    assert_eq!(conditions(&s.objects[&object("p")])["Valid"].0, "True");
    assert!(s.events.iter().any(|e| e.contains("ns/p TableTooLarge") && e.contains("111 entries")), "{:?}", s.events);
    // its own status comes back, and time passes: nothing more is written or published
    let (writes, revision) = (s.writes, r.core.hub.revision());
    for _ in 0..30 {
        r.settle(&mut s);
    }
    assert_eq!((s.writes, r.core.hub.revision()), (writes, revision));

    changed(&mut s, "p", cidrs("p", 100, 3, 2, 3));
    r.settle(&mut s);
    assert_eq!(prefixes(&rows(&r)), ["198.51.100.0/24", "198.51.101.0/24", "198.51.102.0/24"]);
    assert_eq!(enforced(&s, "p").1, "Pending", "{:?}", enforced(&s, "p"));
}

#[test]
fn two_versions_that_do_not_fit_leave_the_one_that_did() {
    let mut s = cluster();
    s.put(Kind::CiliumNetworkPolicy, cidrs("p", 0, 3, 2, 1));
    let mut r = replica("a");
    r.settle(&mut s);
    let good = rows(&r);
    for (ports, generation) in (10..13).zip(2..) {
        changed(&mut s, "p", cidrs("p", 100, 10, ports, generation));
        r.settle(&mut s);
        assert_eq!(rows(&r), good, "generation {generation}");
        assert!(enforced(&s, "p").2.contains("generation 1 stays in force"));
    }
    // and one that cannot be read at all, after one that does not fit
    let mut broken = cidrs("p", 0, 3, 2, 5);
    broken["spec"]["egress"][0]["toCIDR"] = json!(["198.51.100.0/40"]);
    changed(&mut s, "p", broken);
    r.settle(&mut s);
    assert_eq!(rows(&r), good);
    assert_eq!(enforced(&s, "p").1, "LastGood");
    s.delete(&object("p"));
    r.settle(&mut s);
    assert!(prefixes(&rows(&r)).is_empty() && rows(&r).rules.values().all(|rule| rule.rule.object != object("p")));
}

#[test]
fn without_a_version_that_fitted_nothing_passes_at_its_subjects() {
    let mut s = cluster();
    s.put(Kind::CiliumNetworkPolicy, cidrs("p", 100, 10, 10, 2));
    s.put(Kind::CiliumNetworkPolicy, policy_named("other"));
    let mut r = replica("a");
    r.settle(&mut s);
    let rows = rows(&r);
    let a = rows.endpoints.values().find(|e| &*e.name == "a").unwrap();
    let table = &rows.tables[&a.table];
    assert!(!table.egress_default.allow, "{table:?}");
    assert!(table.entries.keys().all(|k| k.direction == Direction::Ingress), "{table:?}");
    assert!(prefixes(&rows).is_empty());
    let (status, reason, message) = enforced(&s, "p");
    assert_eq!((&*status, &*reason), ("False", "TableTooLarge"));
    assert!(message.contains("111 entries") && message.contains("nothing passes"), "{message}");
    assert_eq!(enforced(&s, "other").1, "Pending", "another policy is held up by it");
}

/// A policy for the other pod.
fn policy_named(name: &str) -> Value {
    let mut p = policy("db", "web", 1);
    p["metadata"]["name"] = name.into();
    p
}

#[test]
fn the_policy_that_came_last_is_held_back_and_still_is_after_a_restart() {
    let mut s = cluster();
    s.put(Kind::CiliumNetworkPolicy, cidrs("large", 0, 5, 6, 1));
    let mut r = replica("a");
    r.settle(&mut s);
    s.put(Kind::CiliumNetworkPolicy, cidrs("small", 100, 3, 2, 1));
    r.settle(&mut s);
    assert_eq!(enforced(&s, "large").1, "Pending");
    let (_, reason, message) = enforced(&s, "small");
    assert!(reason == "TableTooLarge" && message.contains("45 entries"), "{reason} {message}");
    let before = rows(&r);
    assert_eq!(prefixes(&before).len(), 5);
    // by its size alone the large one would be held back; what was told of the small one decides
    let mut other = replica("b");
    other.settle(&mut s);
    assert_eq!(rows(&other), before);
    assert_eq!((enforced(&s, "large").1, enforced(&s, "small").1), ("Pending".into(), "TableTooLarge".into()));
}

#[test]
fn a_policy_comes_into_force_when_there_is_room() {
    let mut s = cluster();
    s.put(Kind::CiliumNetworkPolicy, cidrs("first", 0, 5, 6, 1));
    let mut r = replica("a");
    r.settle(&mut s);
    s.put(Kind::CiliumNetworkPolicy, cidrs("second", 100, 3, 2, 1));
    r.settle(&mut s);
    assert_eq!(prefixes(&rows(&r)).len(), 5);
    s.delete(&object("first"));
    r.settle(&mut s);
    assert!(prefixes(&rows(&r)).is_empty(), "it fails closed until it is tried again");
    let began = r.now;
    while prefixes(&rows(&r)).is_empty() {
        r.settle(&mut s);
        assert!(r.now.duration_since(began) <= ROOM + Duration::from_secs(2), "never tried again");
    }
    assert_eq!(prefixes(&rows(&r)), ["198.51.100.0/24", "198.51.101.0/24", "198.51.102.0/24"]);
    assert_eq!(enforced(&s, "second").1, "Pending");
}

#[test]
fn a_policy_that_reads_new_labels_and_does_not_fit_leaves_identities_alone() {
    let mut s = cluster();
    s.put(Kind::CiliumNetworkPolicy, cidrs("p", 0, 3, 2, 1));
    let mut r = replica("a");
    r.settle(&mut s);
    let good = rows(&r);
    let mut large = cidrs("p", 100, 10, 10, 2);
    large["spec"]["egress"][0] = json!({"toEndpoints": [{"matchLabels": {"noise": "b"}}]});
    changed(&mut s, "p", large);
    r.settle(&mut s);
    assert_eq!(enforced(&s, "p").1, "TableTooLarge");
    assert_eq!((&rows(&r).tables, &rows(&r).ips, &rows(&r).endpoints), (&good.tables, &good.ips, &good.endpoints));
    s.put(Kind::Pod, pod("c", "n1", "web"));
    let revision = r.core.hub.revision();
    for _ in 0..30 {
        r.settle(&mut s);
    }
    assert!(
        r.core.hub.revision() <= revision + 2,
        "identities come and go with it: {revision}, {}",
        r.core.hub.revision()
    );
}
