//! Policies of nodes.

use axoneme_model::rows::{GuardRow, TableRow};

use super::{size::replica, *};

const NAME: &str = "nodes";

/// Lets the blocks in, each on a port of its own, to nodes that are called so.
fn policy(node: &str, blocks: usize, generation: i64) -> Value {
    let from = |i: usize| {
        let ports = json!([{"ports": [{"port": (20_001 + 2 * i).to_string(), "protocol": "TCP"}]}]);
        json!({"fromCIDR": [format!("198.51.{i}.0/24")], "toPorts": ports})
    };
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": NAME, "generation": generation},
        "spec": {"nodeSelector": {"matchLabels": {"name": node}}, "ingress": (0..blocks).map(from).collect::<Vec<_>>()}})
}

fn object() -> ObjectRef {
    ObjectRef::new(Kind::CiliumClusterwideNetworkPolicy, "", NAME)
}

fn labelled(name: &str, ip: &str) -> Value {
    let mut node = node(name, ip);
    node["metadata"]["labels"] = json!({"name": name});
    node
}

fn put(s: &mut Server, mut policy: Value) {
    if let Some(old) = s.objects.get(&object()) {
        policy["status"] = old["status"].clone();
        policy["metadata"]["uid"] = old["metadata"]["uid"].clone();
    }
    s.put(Kind::CiliumClusterwideNetworkPolicy, policy);
}

fn settings(s: &mut Server, host: &Value, generation: i64) {
    s.put(
        Kind::AxonemeConfig,
        json!({"metadata": {"name": "default", "generation": generation}, "spec": {"hostFirewall": host}}),
    );
}

fn guard(r: &Replica, node: &str) -> Option<(GuardRow, TableRow)> {
    let row = r.core.configs.get(node)?.0.guard.clone()?;
    let table = r.core.rows.all().tables[&row.table].clone();
    Some((row, table))
}

fn enforced(s: &Server) -> (String, String, String) {
    conditions(&s.objects[&object()])["Enforced"].clone()
}

fn two_nodes() -> Server {
    let mut s = cluster();
    s.put(Kind::Node, labelled("n1", "192.168.0.1"));
    s.put(Kind::Node, labelled("n2", "192.168.0.2"));
    s
}

#[test]
fn nodes_that_a_policy_selects_are_guarded_and_others_are_not() {
    let mut s = two_nodes();
    let mut r = replica("a");
    r.settle(&mut s);
    assert_eq!((guard(&r, "n1"), guard(&r, "n2")), (None, None));
    put(&mut s, policy("n1", 2, 1));
    r.settle(&mut s);
    let (row, table) = guard(&r, "n1").expect("guarded");
    assert!(row.unprotected.is_empty() && !table.ingress_default.allow && table.egress_default.allow, "{table:?}");
    assert_eq!((table.entries.len(), table.policies.get(&object())), (2, Some(&1)));
    assert_eq!(guard(&r, "n2"), None);
    let (status, reason, message) = enforced(&s);
    assert_eq!((&*status, &*reason), ("False", "Pending"), "{message}");
    assert!(message.contains("0/1 nodes"), "{message}");
    // settings, then the Node object goes, then the policy selects the other
    settings(&mut s, &json!({"unprotected": ["SSH"]}), 1);
    r.settle(&mut s);
    assert_eq!(guard(&r, "n1").unwrap().0.unprotected, [axoneme_model::Safe::Ssh].into());
    s.delete(&ObjectRef::new(Kind::Node, "", "n1"));
    r.settle(&mut s);
    assert_eq!(guard(&r, "n1"), None, "a node without an object is left alone");
    put(&mut s, policy("n2", 2, 2));
    r.settle(&mut s);
    assert!(guard(&r, "n2").is_some());
    s.delete(&object());
    r.settle(&mut s);
    assert_eq!(guard(&r, "n2"), None);
}

#[test]
fn switched_off_nobody_is_guarded_and_the_policy_says_so() {
    let mut s = two_nodes();
    put(&mut s, policy("n1", 2, 1));
    let mut r = replica("a");
    r.settle(&mut s);
    assert!(guard(&r, "n1").is_some());
    settings(&mut s, &json!({"enabled": false}), 1);
    r.settle(&mut s);
    assert_eq!(guard(&r, "n1"), None);
    let (status, reason, message) = enforced(&s);
    assert_eq!((&*status, &*reason), ("False", "HostFirewallDisabled"));
    assert!(message.contains("spec.hostFirewall.enabled"), "{message}");
    settings(&mut s, &json!({"enabled": true}), 2);
    r.settle(&mut s);
    assert!(guard(&r, "n1").is_some());
    assert_eq!(enforced(&s).1, "Pending");
}

/// Neither what cannot be read nor what does not fit closes a node.
#[test]
fn a_policy_that_cannot_be_in_force_closes_no_node() {
    let mut broken = policy("n1", 2, 2);
    broken["spec"]["ingress"][0]["fromCIDR"] = json!(["198.51.100.0/40"]);
    let large = || policy("n1", 50, 2);
    for (wrong, reason) in [(broken, ["NotLoaded", "LastGood"]), (large(), ["TableTooLarge", "TableTooLarge"])] {
        for earlier in [false, true] {
            let mut s = two_nodes();
            let mut r = replica("a");
            if earlier {
                put(&mut s, policy("n1", 2, 1));
                r.settle(&mut s);
            }
            let before = guard(&r, "n1");
            assert_eq!(before.is_some(), earlier);
            put(&mut s, wrong.clone());
            r.settle(&mut s);
            assert_eq!(guard(&r, "n1"), before, "what was in force stays, and nothing else comes");
            let (status, said, message) = enforced(&s);
            assert_eq!((&*status, &*said), ("False", reason[usize::from(earlier)]), "{message}");
            assert!(said != "TableTooLarge" || message.contains("node n1"), "{message}");
        }
    }
}

/// Several policies that fit each, and not together: the node is left alone, and they say so.
#[test]
fn policies_that_do_not_fit_together_leave_the_node_alone() {
    let mut s = two_nodes();
    let mut first = policy("n1", 30, 1);
    first["spec"]["nodeSelector"] = json!({"matchLabels": {"left": "yes"}});
    let mut second = policy("n1", 30, 1);
    second["metadata"]["name"] = "second".into();
    for (i, rule) in second["spec"]["ingress"].as_array_mut().unwrap().iter_mut().enumerate() {
        rule["fromCIDR"] = json!([format!("198.51.{}.0/24", 100 + i)]);
    }
    second["spec"]["nodeSelector"] = json!({"matchLabels": {"right": "yes"}});
    put(&mut s, first);
    s.put(Kind::CiliumClusterwideNetworkPolicy, second);
    for (name, label) in [("n1", "left"), ("n2", "right")] {
        let mut node = labelled(name, if name == "n1" { "192.168.0.1" } else { "192.168.0.2" });
        node["metadata"]["labels"][label] = "yes".into();
        s.put(Kind::Node, node);
    }
    let mut r = replica("a");
    r.settle(&mut s);
    assert!(guard(&r, "n1").is_some() && guard(&r, "n2").is_some(), "each fits");
    let mut both = labelled("n1", "192.168.0.1");
    both["metadata"]["labels"] = json!({"left": "yes", "right": "yes"});
    s.put(Kind::Node, both);
    r.settle(&mut s);
    assert_eq!(guard(&r, "n1"), None, "left alone");
    assert!(guard(&r, "n2").is_some());
    let (status, reason, message) = enforced(&s);
    assert_eq!((&*status, &*reason), ("False", "CombinationTooLarge"), "{message}");
    assert!(message.contains("node n1") && message.contains("left alone"), "{message}");
}
