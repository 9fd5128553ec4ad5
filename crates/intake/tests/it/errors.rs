//! Dispatch, messages, and what holds where an object is refused.

use axoneme_intake::{Options, Parsed, Reason, items, kind_of, object_ref, parse, parse_as};
use axoneme_model::{Kind, ObjectRef, Tier};
use serde_json::json;

use crate::show::{refused, subject, yaml};

#[test]
fn all_errors_come_at_once_each_with_object_path_value_and_choices() {
    let errors = refused(&yaml(
        "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, generation: 4}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEntities: [wordl]
    toPorts: [{ports: [{port: '80'}]}, {ports: [{port: ht_tp}], rules: {http: [{}]}}]
  egress:
  - toCIDR: [10.0.0.0/40]
",
    ));
    assert_eq!(errors.object, Some(ObjectRef::new(Kind::CiliumNetworkPolicy, "default", "web")));
    assert_eq!((errors.generation, errors.reason()), (4, Reason::Invalid));
    let text = errors.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    for (path, value) in [
        ("spec.ingress[0].fromEntities[0]", "\"wordl\""),
        ("spec.ingress[0].toPorts[1].ports[0].port", "\"ht_tp\""),
        ("spec.ingress[0].toPorts[1].rules.http", "[{}]"),
        ("spec.egress[0].toCIDR[0]", "\"10.0.0.0/40\""),
    ] {
        let start = format!("CiliumNetworkPolicy default/web: {path}: {value}: ");
        assert!(lines.iter().any(|l| l.starts_with(&start)), "{start}\nnot in\n{text}");
    }
}

#[test]
fn reason_is_unsupported_only_if_nothing_is_wrong() {
    let of = |entry: &str| {
        refused(&yaml(&format!(
            "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: a}}, spec: {{endpointSelector: {{}}, egress: [{entry}]}}}}"
        )))
        .reason()
    };
    assert_eq!(of("{toFQDNs: [{matchName: a.b}]}"), Reason::Unsupported);
    assert_eq!(of("{toFQDNs: [{matchName: a.b}]}, {toCIDR: [a]}"), Reason::Invalid);
}

#[test]
fn long_values_are_shortened() {
    let long = "x".repeat(500);
    let mut object = yaml(
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a}, spec: {endpointSelector: {}, ingress: [{}]}}",
    );
    object["spec"]["ingress"] = json!([{"fromCIDR": [long]}]);
    let errors = refused(&object);
    let value = errors.errors[0].value.as_ref().expect("a value");
    assert!(value.chars().count() < 100 && value.ends_with('…'), "{value}");
}

#[test]
fn refused_policy_tells_what_fails_closed() {
    let errors = refused(&yaml(
        "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop, generation: 9}
specs:
- endpointSelector: {matchLabels: {app: web}}
  ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET}]}}]}]
- endpointSelector: {matchLabels: {app: db}}
  enableDefaultDeny: {egress: false}
  egressDeny: [{toCIDR: [bad]}]
- endpointSelector: {matchLabels: {app: [bad]}}
  egress: [{}]
",
    ));
    let closed = errors.fail_closed.expect("subjects could be read");
    assert_eq!((closed.generation, closed.tier), (9, Tier::Normal));
    let summary: Vec<(String, bool, bool)> =
        closed.rules.iter().map(|r| (subject(r), r.isolates_ingress, r.isolates_egress)).collect();
    let own = "k8s:io.kubernetes.pod.namespace=shop";
    // a deny that is lost must not let pass what it denied, so the direction closes even where the rule would not isolate
    assert_eq!(summary, [(format!("any:app=web,{own}"), true, false), (format!("any:app=db,{own}"), false, true)]);
    assert!(closed.rules.iter().all(|r| r.ingress.is_empty() && r.egress.is_empty()));
}

#[test]
fn fail_closed_of_the_kubernetes_kinds() {
    let np = refused(&yaml(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a}, spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{}]}]}}",
    ));
    let closed = np.fail_closed.expect("readable");
    assert_eq!((closed.rules[0].isolates_ingress, closed.rules[0].isolates_egress), (false, true));
    let admin = refused(&yaml(
        "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: a}, spec: {tier: Admin, priority: 1, \
         subject: {namespaces: {}}, egress: [{action: Accept, to: [{domainNames: [a.b]}]}]}}",
    ));
    let closed = admin.fail_closed.expect("readable");
    assert_eq!(
        (closed.tier, closed.rules[0].isolates_ingress, closed.rules[0].isolates_egress),
        (Tier::Normal, false, true)
    );
    let nodes = refused(&yaml(
        "{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {name: a}, spec: {nodeSelector: {}, ingress: [{fromGroups: [{}]}]}}",
    ));
    assert_eq!(nodes.fail_closed, None, "nodes are no subject that could be closed");
}

#[test]
fn kinds_are_told_apart() {
    let kind = |text: &str| kind_of(&yaml(text));
    assert_eq!(kind("{apiVersion: v1, kind: Pod}"), Ok(Some(Kind::Pod)));
    assert_eq!(kind("{apiVersion: cilium.io/v2, kind: CiliumNode}"), Ok(Some(Kind::CiliumNode)));
    for ignored in [
        "{apiVersion: apps/v1, kind: Deployment}",
        "{apiVersion: v1, kind: Secret}",
        "{apiVersion: example.org/v7, kind: Pod}",
        "{apiVersion: cilium.io/v2, kind: CiliumEndpoint}",
    ] {
        assert_eq!(kind(ignored), Ok(None), "{ignored}");
        assert_eq!(parse(&yaml(ignored)), Ok(Parsed::Ignored), "{ignored}");
    }
    let wrong = [
        ("{kind: Pod}", "apiVersion", Reason::Invalid, "required"),
        ("{apiVersion: v1}", "kind", Reason::Invalid, "required"),
        ("[]", "", Reason::Invalid, "must be an object"),
        (
            "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolcy}",
            "kind",
            Reason::Invalid,
            "did you mean CiliumNetworkPolicy?",
        ),
        (
            "{apiVersion: cilium.io/v1, kind: CiliumNetworkPolicy}",
            "apiVersion",
            Reason::Invalid,
            "there is cilium.io/v2",
        ),
        (
            "{apiVersion: networking.k8s.io/v1beta1, kind: NetworkPolicy}",
            "apiVersion",
            Reason::Invalid,
            "networking.k8s.io/v1",
        ),
        ("{apiVersion: cilium.io/v2, kind: CiliumEgressGatewayPolicy}", "kind", Reason::Unsupported, "not enforced"),
        (
            "{apiVersion: policy.networking.k8s.io/v1alpha1, kind: AdminNetworkPolicy}",
            "kind",
            Reason::Unsupported,
            "not enforced",
        ),
        ("{apiVersion: axoneme.io/v1alpha1, kind: Config}", "kind", Reason::Invalid, "AxonemeConfig"),
    ];
    for (text, path, reason, words) in wrong {
        let errors = kind(text).expect_err(text);
        let [error] = errors.errors.as_slice() else { panic!("{text}\n{errors}") };
        assert_eq!((error.path.as_str(), error.reason), (path, reason), "{errors}");
        assert!(error.message.contains(words), "{errors}");
    }
}

#[test]
fn lists_are_not_passed_over() {
    let list = yaml("{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod, metadata: {name: a}}]}");
    let [pod] = items(&list).expect("a list") else { panic!("one item") };
    assert_eq!(kind_of(pod), Ok(Some(Kind::Pod)));
    assert_eq!(items(pod), None);
    for text in [
        "{apiVersion: v1, kind: List, items: []}",
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicyList, items: []}",
    ] {
        let errors = refused(&yaml(text));
        assert!(errors.errors[0].message.contains("is a list"), "{errors}");
    }
}

#[test]
fn metadata_is_checked_once() {
    let cases = [
        (json!({}), "metadata"),
        (json!({"metadata": {}}), "metadata.name"),
        (json!({"metadata": {"name": ""}}), "metadata.name"),
        (json!({"metadata": {"name": 1}}), "metadata.name"),
        (json!({"metadata": []}), "metadata"),
        (json!({"metadata": {"name": "a", "namespace": "b/c"}}), "metadata.namespace"),
        (json!({"metadata": {"name": "a", "generation": "x"}}), "metadata.generation"),
    ];
    for (object, path) in cases {
        let errors = object_ref(Kind::Pod, &object).expect_err("wrong");
        assert_eq!(errors.errors.len(), 1, "{errors}");
        assert_eq!(errors.errors[0].path, path, "{errors}");
    }
    let good = json!({"metadata": {"name": "a", "namespace": "b"}});
    assert_eq!(object_ref(Kind::Pod, &good), Ok(ObjectRef::new(Kind::Pod, "b", "a")));
    assert_eq!(object_ref(Kind::Node, &good), Ok(ObjectRef::new(Kind::Node, "", "a")), "nodes have no namespace");
    let no_namespace = json!({"metadata": {"name": "a"}});
    assert_eq!(object_ref(Kind::Pod, &no_namespace), Ok(ObjectRef::new(Kind::Pod, "default", "a")));
}

#[test]
fn items_of_lists_need_no_kind() {
    let item = json!({"metadata": {"name": "a"}, "spec": {"podSelector": {}}});
    assert!(matches!(parse_as(Kind::NetworkPolicy, &item, &Options::default()), Ok(Parsed::Policy(_))));
    assert!(parse(&item).is_err());
}

#[test]
fn a_policy_says_whether_it_is_enforced() {
    let policies = [
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: META, spec: {podSelector: {}}}",
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: META, spec: {endpointSelector: {}, ingress: [{}]}}",
        "{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: META, spec: {endpointSelector: {}, ingress: [{}]}}",
        "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: META, spec: {tier: Admin,
          priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}",
    ];
    let meta = |mode: &str| format!("{{name: a, annotations: {{policy.axoneme.io/mode: {mode}}}}}");
    for text in policies {
        let of = |meta: &str| match parse(&yaml(&text.replace("META", meta))) {
            Ok(Parsed::Policy(p)) => p.audit,
            other => panic!("{other:?}"),
        };
        assert_eq!([of("{name: a}"), of(&meta("Enforce")), of(&meta("Audit"))], [false, false, true], "{text}");
        // a misspelt wish is no leave to enforce, and none to let everything pass
        let errors = refused(&yaml(&text.replace("META", &meta("audit"))));
        let told = errors.to_string();
        assert!(
            told.contains("metadata.annotations[policy.axoneme.io/mode]") && told.contains("Enforce, Audit"),
            "{told}"
        );
        assert!(!errors.fail_closed.expect("readable").audit);
        // what is wrong with an audited policy isolates nobody
        let broken = yaml(&text.replace("META", &meta("Audit")).replace("spec: {", "spec: {misspelt: 1, "));
        assert!(refused(&broken).fail_closed.expect("readable").audit);
    }
}
