//! What a new leader reads beside its watches.

use super::*;

/// What hands something out, as a list has it.
fn list(s: &Server) -> Vec<SourceEvent> {
    let handed = s.objects.iter().filter(|(o, _)| matches!(o.kind, Kind::CiliumNode | Kind::CiliumIdentity));
    handed.map(|(o, v)| SourceEvent::Apply { kind: o.kind, object: v.clone() }).collect()
}

/// A cluster with all that it needs, and a replica that has heard of it.
fn settled() -> (Server, Replica) {
    let mut s = cluster();
    s.put(Kind::CiliumNetworkPolicy, policy("web", "db", 1));
    let (mut former, mut next) = (Replica::new("a"), Replica::new("b"));
    former.core.lead(Leadership::Me);
    former.settle(&mut s);
    next.hear(&s);
    next.flush();
    (s, next)
}

#[test]
fn what_goes_while_a_new_leader_reads_does_not_come_back_by_its_list() {
    let (mut s, mut next) = settled();
    next.core.reads();
    let read = list(&s);
    // a Node goes, and the garbage collector takes its CiliumNode; somebody deletes an identity
    s.delete(&ObjectRef::new(Kind::Node, "", "n1"));
    s.delete(&ObjectRef::new(Kind::CiliumNode, "", "n1"));
    let identities: Vec<ObjectRef> = s.objects.keys().filter(|o| o.kind == Kind::CiliumIdentity).cloned().collect();
    for identity in &identities {
        s.delete(identity);
    }
    next.hear(&s);
    for e in read {
        next.core.source(e);
    }
    next.core.lead(Leadership::Me);
    next.settle(&mut s);
    let n1 = next.core.cluster.nodes.get("n1");
    assert!(n1.is_none_or(|n| n.cilium.is_none()), "a block that nobody has is taken for ever: {n1:?}");
    let numbers = s.of(Kind::CiliumIdentity).count();
    assert_eq!(numbers, 2, "the leader goes by numbers that are written nowhere");
}

#[test]
fn what_changes_or_comes_back_while_a_new_leader_reads_is_as_it_became() {
    let (mut s, mut next) = settled();
    next.core.reads();
    let read = list(&s);
    let name = ObjectRef::new(Kind::CiliumNode, "", "n2");
    let mut object = s.objects[&name].clone();
    // changed after the list
    object["spec"]["ipam"]["podCIDRs"] = json!(["10.9.0.0/24"]);
    s.put(Kind::CiliumNode, object);
    // gone and made anew: what the watch tells of the end is about the former one
    let other = ObjectRef::new(Kind::CiliumNode, "", "n1");
    let mut anew = s.objects[&other].clone();
    s.delete(&other);
    anew["metadata"]["uid"] = "another".into();
    s.put(Kind::CiliumNode, anew);
    next.hear(&s);
    for e in read {
        next.core.source(e);
    }
    next.core.lead(Leadership::Me);
    let node = |n: &str| next.core.cluster.nodes[n].clone();
    assert_eq!(node("n2").cilium_said.version.as_deref(), s.objects[&name]["metadata"]["resourceVersion"].as_str());
    assert_eq!(node("n1").cilium_said.uid.as_deref(), Some("another"));
    // what goes and comes later is not held to what went then
    let back = s.objects[&other].clone();
    s.delete(&other);
    next.hear(&s);
    s.put(Kind::CiliumNode, back);
    next.hear(&s);
    assert!(next.core.cluster.nodes["n1"].cilium.is_some());
}

#[test]
fn a_list_newer_than_the_watches_counts_also_of_what_they_tell_the_end_of() {
    let (mut s, mut next) = settled();
    let other = ObjectRef::new(Kind::CiliumNode, "", "n1");
    let mut anew = s.objects[&other].clone();
    next.core.reads();
    // the watch lags: what it tells first is the end of the one that was there before the list
    s.delete(&other);
    anew["metadata"]["uid"] = "another".into();
    s.put(Kind::CiliumNode, anew);
    let read = list(&s);
    let end = s.log[next.read].clone();
    assert!(matches!(end, SourceEvent::Delete(_)));
    next.core.source(end);
    next.read += 1;
    for e in read {
        next.core.source(e);
    }
    next.core.lead(Leadership::Me);
    assert_eq!(next.core.cluster.nodes["n1"].cilium_said.uid.as_deref(), Some("another"));
}
