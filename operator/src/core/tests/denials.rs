//! Events of what policy denied: there may be any number of them, and others are read, too.

use axoneme_wire::NodeEvent;

use super::*;

fn denial(n: u32) -> NodeEvent {
    let object = Some(ObjectRef::new(Kind::Pod, "ns", &format!("p{n}")));
    NodeEvent { warning: true, reason: "PacketDrop".into(), message: format!("Egress to 10.0.0.{n} denied"), object }
}

fn events<'w>(writes: &'w [Write], wanted: &str) -> Vec<&'w str> {
    let of = |w: &'w Write| match &w.operation {
        Operation::Event { reason, message, .. } if reason == wanted => Some(message.as_str()),
        _ => None,
    };
    writes.iter().filter_map(of).collect()
}

#[test]
fn a_flood_of_denials_hides_no_other_event_and_is_bounded() {
    let mut s = cluster();
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.settle(&mut s);
    let node: Arc<str> = "n1".into();
    for n in 0..1000 {
        r.core.tell(&node, denial(n));
    }
    s.put(Kind::NetworkPolicy, json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "np", "namespace": "ns"}, "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/40"}}]}]}}));
    r.hear(&s);
    let first = r.flush();
    assert_eq!(events(&first, "Invalid").len(), 1, "told at once");
    let denied = events(&first, "PacketDrop");
    assert_eq!(denied.len(), 32);
    assert_eq!(denied[0], "n1: Egress to 10.0.0.0 denied");
    assert!(events(&r.flush(), "PacketDrop").is_empty(), "no more at once");
    let mut rest = 0;
    for _ in 0..100 {
        r.now += Duration::from_secs(1);
        rest += events(&r.flush(), "PacketDrop").len();
    }
    assert_eq!(32 + rest, 128, "what waits is bounded, and follows");
}
