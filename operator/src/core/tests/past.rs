//! Routing mode Hybrid comes and goes in two steps.

use super::*;

fn routing(spec: &Value) -> Value {
    json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig", "metadata": {"name": "default"},
        "spec": {"routing": spec}})
}

#[test]
fn nodes_take_what_comes_past_the_tunnel_before_any_sends_so_and_until_none_does() {
    let mut s = cluster();
    s.put(Kind::AxonemeConfig, routing(&json!({"mode": "Overlay"})));
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.settle(&mut s);
    let direct = |r: &Replica| {
        let all: Vec<_> = r.core.configs.values().map(|(row, _)| row.direct.clone()).collect();
        assert!(all.len() == 2 && all[0] == all[1], "all nodes are told the same: {all:?}");
        all[0].as_ref().map(|d| d.subnets.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(direct(&r), None);
    let one = |r: &mut Replica, s: &Server| {
        r.hear(s);
        drop(r.flush());
        direct(r)
    };
    let hybrid = json!({"mode": "Hybrid", "hybrid": {"subnets": ["192.0.2.0/24"]}});
    s.put(Kind::AxonemeConfig, routing(&hybrid));
    assert_eq!(one(&mut r, &s), Some(vec![]), "taken");
    // no node is connected that would have to acknowledge it
    assert_eq!(one(&mut r, &s), Some(vec!["192.0.2.0/24".to_owned()]), "sent");
    let other = json!({"mode": "Hybrid", "hybrid": {"subnets": ["192.0.2.0/25"]}});
    s.put(Kind::AxonemeConfig, routing(&other));
    assert_eq!(one(&mut r, &s), Some(vec!["192.0.2.0/25".to_owned()]), "all take it already");
    s.put(Kind::AxonemeConfig, routing(&json!({"mode": "Overlay"})));
    assert_eq!(one(&mut r, &s), Some(vec![]), "taken, no longer sent");
    assert_eq!(one(&mut r, &s), None);
    let revision = r.core.hub.revision();
    r.settle(&mut s);
    assert_eq!(r.core.hub.revision(), revision, "nothing more is told");
}
