//! What is said of policies that are told instead of enforced.

use super::*;

fn condition(s: &Server) -> (String, String) {
    let (status, reason, _) = conditions(s.of(Kind::CiliumNetworkPolicy).next().unwrap())["Enforced"].clone();
    (status, reason)
}

#[test]
fn an_audited_policy_is_not_said_to_be_enforced() {
    let mut s = cluster();
    // of no pod: nobody has to acknowledge it
    let enforced = policy("nobody", "db", 1);
    let mut audited = enforced.clone();
    audited["metadata"]["annotations"] = json!({"policy.axoneme.io/mode": "Audit"});
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    // an annotation is no new generation
    for (object, expected) in [(&audited, ("False", "Audit")), (&enforced, ("True", "Enforced"))] {
        s.put(Kind::CiliumNetworkPolicy, object.clone());
        r.settle(&mut s);
        let (status, reason) = condition(&s);
        assert_eq!((&*status, &*reason), expected);
    }
}
