//! Settings of single nodes, from objects to rows and to what people see.

use super::*;

fn config(spec: &Value) -> Value {
    json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig",
        "metadata": {"name": "default", "generation": 1}, "spec": spec})
}

fn of_nodes(name: &str, generation: i64, defaults: &Value) -> Value {
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNodeConfig",
        "metadata": {"name": name, "namespace": "kube-system", "generation": generation},
        "spec": {"nodeSelector": {"matchLabels": {"net": "jumbo"}}, "defaults": defaults}})
}

fn labelled(name: &str, ip: &str, labels: &Value) -> Value {
    let mut node = node(name, ip);
    node["metadata"]["labels"] = labels.clone();
    node
}

fn status<'a>(s: &'a Server, name: &str) -> &'a Value {
    &s.objects[&ObjectRef::new(Kind::CiliumNodeConfig, "kube-system", name)]
}

fn overrides(s: &Server, node: &str) -> Value {
    s.objects[&ObjectRef::new(Kind::CiliumNode, "", node)].pointer("/status/overrides").cloned().unwrap_or_default()
}

#[test]
fn a_nodes_own_settings_reach_it_alone_and_are_told_where_they_come_from() {
    let mut s = cluster();
    s.put(Kind::AxonemeConfig, config(&json!({"mtu": 1500})));
    s.put(Kind::Node, labelled("n1", "192.0.2.1", &json!({"net": "jumbo"})));
    let mut r = Replica::new("a");
    r.core.settings_in("axoneme-system");
    r.core.lead(Leadership::Me);
    r.settle(&mut s);
    let other = r.core.configs["n2"].1;
    s.put(Kind::CiliumNodeConfig, of_nodes("jumbo", 1, &json!({"mtu": "9000", "debug": "false", "devices": "eth1"})));
    r.settle(&mut s);

    let (row, revision) = r.core.configs["n1"].clone();
    assert_eq!((row.mtu, &*row.devices), (9000, ["eth1".into()].as_slice()));
    let told: Vec<_> =
        row.overrides.iter().map(|o| format!("{} {}/{} {}", o.setting, o.value, o.cluster, o.from)).collect();
    let from = "CiliumNodeConfig kube-system/jumbo";
    assert_eq!(told, [format!("spec.agent.devices eth1/ {from}"), format!("spec.mtu 9000/1500 {from}")]);
    assert_eq!(r.core.overridden["n1"], revision);
    assert_eq!((r.core.configs["n2"].0.mtu, r.core.configs["n2"].1), (1500, other), "nothing is sent to the others");

    let c = conditions(status(&s, "jumbo"));
    assert_eq!((&*c["Valid"].0, &*c["Applied"].0, &*c["Applied"].1), ("True", "False", "Pending"));
    assert_eq!(c["Applied"].2, "0/1 nodes, generation 1; not yet: n1");
    assert_eq!(status(&s, "jumbo")["status"]["nodes"], json!({"selected": 1, "applied": 0}));
    assert_eq!(status(&s, "jumbo")["status"]["differ"], json!(["spec.agent.devices=eth1", "spec.mtu=9000"]));
    assert_eq!(
        overrides(&s, "n1"),
        json!([{"setting": "spec.agent.devices", "value": "eth1", "cluster": "", "from": "kube-system/jumbo"},
            {"setting": "spec.mtu", "value": "9000", "cluster": "1500", "from": "kube-system/jumbo"}])
    );
    assert_eq!(overrides(&s, "n2"), Value::Null);
    let before = s.writes;
    for _ in 0..20 {
        r.settle(&mut s);
    }
    assert_eq!(s.writes, before, "a cluster at rest is not written to");

    // the cluster comes to have the node's MTU: nothing to tell of it any more
    s.put(Kind::AxonemeConfig, config(&json!({"mtu": 9000})));
    r.settle(&mut s);
    assert_eq!(overrides(&s, "n1").as_array().map(Vec::len), Some(1));
    // the node loses its label, and with it the settings
    s.put(Kind::Node, labelled("n1", "192.0.2.1", &json!({})));
    r.settle(&mut s);
    assert_eq!((r.core.configs["n1"].0.devices.len(), overrides(&s, "n1")), (0, Value::Null));
    assert_eq!(conditions(status(&s, "jumbo"))["Applied"].2, "0/0 nodes, generation 1");
}

#[test]
fn one_that_is_overruled_is_told_by_whom_and_a_broken_one_stays_as_it_was() {
    let mut s = cluster();
    s.put(Kind::Node, labelled("n1", "192.0.2.1", &json!({"net": "jumbo"})));
    s.put(Kind::CiliumNodeConfig, of_nodes("10-a", 1, &json!({"mtu": "9000", "debug": "true"})));
    s.put(Kind::CiliumNodeConfig, of_nodes("20-b", 1, &json!({"mtu": "8000"})));
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.settle(&mut s);
    assert_eq!(r.core.configs["n1"].0.mtu, 8000);
    let message = conditions(status(&s, "10-a"))["Applied"].2.clone();
    assert!(message.ends_with("spec.mtu is that of kube-system/20-b on 1 of them"), "{message}");

    s.put(Kind::CiliumNodeConfig, of_nodes("20-b", 2, &json!({"mtu": "7000", "routing-mode": "native"})));
    r.settle(&mut s);
    assert_eq!(r.core.configs["n1"].0.mtu, 8000, "none of the broken version counts");
    let c = conditions(status(&s, "20-b"));
    assert_eq!((&*c["Valid"].0, &*c["Valid"].1, &*c["Applied"].0), ("False", "Invalid", "False"));
    assert!(
        c["Valid"].2.contains("spec.defaults[routing-mode]") && c["Valid"].2.ends_with("(generation 1 stays in force)")
    );
    assert!(
        s.events
            .iter()
            .any(|e| e.starts_with("CiliumNodeConfig kube-system/20-b Invalid: spec.defaults[routing-mode]"))
    );

    s.delete(&ObjectRef::new(Kind::CiliumNodeConfig, "kube-system", "20-b"));
    r.settle(&mut s);
    assert_eq!(r.core.configs["n1"].0.mtu, 9000);
}

#[test]
fn nodes_that_run_with_what_is_said_of_them_are_counted() {
    let mut s = cluster();
    s.put(Kind::CiliumNodeConfig, of_nodes("all", 3, &json!({"mtu": "1400"})));
    for n in 0..9 {
        s.put(Kind::Node, labelled(&format!("j{n}"), &format!("192.0.2.1{n}"), &json!({"net": "jumbo"})));
    }
    let mut r = Replica::new("a");
    r.hear(&s);
    let told = |runs: &dyn Fn(&str) -> bool| {
        let writes = crate::plan::overrides::statuses(&r.core.cluster, runs, "2026-01-01T00:00:00Z");
        let [Write { operation: Operation::Merge(body), .. }] = writes.as_slice() else { panic!("{writes:?}") };
        body.clone()
    };
    let some = told(&|n| n == "j3" || n == "n1");
    assert_eq!(some["status"]["nodes"], json!({"selected": 9, "applied": 1}));
    assert_eq!(conditions(&some)["Applied"].2, "1/9 nodes, generation 3; not yet: j0, j1, j2, j4, j5 and 3 more");
    let all = told(&|_| true);
    assert_eq!(conditions(&all)["Applied"], ("True".into(), "Applied".into(), "9/9 nodes, generation 3".into()));
}
