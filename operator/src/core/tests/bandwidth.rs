//! What pods say of how much of their traffic passes: into rows, and into events where it is not enforced.

use axoneme_model::Bandwidth;

use super::*;

fn annotated(annotations: &Value) -> Value {
    let mut object = pod("a", "n1", "web");
    object["metadata"]["annotations"] = annotations.clone();
    object
}

#[test]
fn annotations_become_limits_while_the_pod_runs_and_what_is_none_is_told_by_name() {
    let mut s = cluster();
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    let row = |r: &Replica| r.core.hub.endpoint("a").unwrap().bandwidth;
    let told = |s: &Server| s.events.iter().filter(|e| e.contains("BandwidthRefused")).cloned().collect::<Vec<_>>();
    let (ingress, egress) = ("kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth");
    for (annotations, expected) in [
        (json!({}), Bandwidth { ingress: 0, egress: 0 }),
        (json!({ingress: "10M", egress: "1Gi"}), Bandwidth { ingress: 1_250_000, egress: 134_217_728 }),
        (json!({egress: "20M"}), Bandwidth { ingress: 0, egress: 2_500_000 }),
    ] {
        s.put(Kind::Pod, annotated(&annotations));
        r.settle(&mut s);
        assert_eq!(row(&r), expected);
    }
    assert_eq!(told(&s), Vec::<String>::new());
    let wrong = json!({ingress: "10M", egress: "10Mbit", "bandwidth.cilium.io/priority": "guaranteed"});
    s.put(Kind::Pod, annotated(&wrong));
    r.settle(&mut s);
    assert_eq!(row(&r), Bandwidth { ingress: 1_250_000, egress: 0 }, "the other one counts");
    let [event] = told(&s).try_into().unwrap();
    for part in ["Pod ns/a", "[kubernetes.io/egress-bandwidth]: \"10Mbit\"", "[bandwidth.cilium.io/priority]"] {
        assert!(event.contains(part), "{event}");
    }
    // an update of something else tells nothing anew
    let mut other = annotated(&wrong);
    other["metadata"]["labels"]["noise"] = "other".into();
    s.put(Kind::Pod, other);
    r.settle(&mut s);
    assert_eq!(told(&s).len(), 1);
    // a replica that begins to lead tells what it finds
    let mut next = Replica::new("b");
    next.settle(&mut s);
    next.core.lead(Leadership::Me);
    next.settle(&mut s);
    assert_eq!(told(&s).len(), 2);
}
