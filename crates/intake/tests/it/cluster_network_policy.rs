//! ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`).

use axoneme_intake::Reason::{Invalid, Unsupported};
use axoneme_model::Tier;
use serde_json::Value;

use crate::show::{assert_refused, entry, policy, refused, subject, yaml};

fn object(spec: &str) -> Value {
    yaml(&format!(
        "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: base}}, spec: {spec}}}"
    ))
}

fn admin(fields: &str) -> Value {
    object(&format!("{{tier: Admin, priority: 10, subject: {{namespaces: {{}}}}, {fields}}}"))
}

const PODS: &str = "k8s:io.kubernetes.pod.namespace";

#[test]
fn tiers_subjects_and_actions() {
    let admin = policy(&object(
        "{tier: Admin, priority: 0, subject: {pods: {namespaceSelector: {matchLabels: {team: red}}, podSelector: \
         {matchLabels: {app: a}}}}, ingress: [{name: one, action: Accept, from: [{namespaces: {}}]}, {action: Deny, from: \
         [{pods: {podSelector: {}}}]}, {action: Pass, from: [{namespaces: {matchLabels: {a: b}}}]}]}",
    ));
    assert_eq!(admin.tier, Tier::Admin { priority: 0 });
    let rule = &admin.rules[0];
    assert_eq!((rule.isolates_ingress, rule.isolates_egress), (false, false));
    assert_eq!(subject(rule), format!("k8s:app=a,k8s:io.cilium.k8s.namespace.labels.team=red,{PODS}"));
    let entries: Vec<String> = rule.ingress.iter().map(entry).collect();
    assert_eq!(entries[0], format!("allow [{PODS}] on all ports"));
    assert_eq!(entries[1], format!("deny [{PODS}] on all ports"));
    assert_eq!(entries[2], format!("pass [k8s:io.cilium.k8s.namespace.labels.a=b,{PODS}] on all ports"));
    assert_eq!(&*rule.ingress[2].path, "spec.ingress[2]");
}

#[test]
fn pass_in_the_last_tier_is_what_comes_after_it() {
    let baseline = policy(&object(
        "{tier: Baseline, priority: 1000, subject: {namespaces: {}}, egress: [{action: Pass, to: [{networks: [10.0.0.0/8]}]}, \
         {action: Deny, to: [{networks: [0.0.0.0/0]}]}]}",
    ));
    assert_eq!(baseline.tier, Tier::Baseline { priority: 1000 });
    let entries: Vec<String> = baseline.rules[0].egress.iter().map(entry).collect();
    assert_eq!(entries, ["allow 10.0.0.0/8 whoever on all ports", "deny 0.0.0.0/0 whoever on all ports"]);
}

#[test]
fn egress_peers_and_protocols() {
    let cases = [
        ("to: [{nodes: {matchLabels: {role: db}}}]", "nodes [k8s:role=db] on all ports"),
        ("to: [{networks: [10.0.0.0/8, 'fd00::/8']}]", "10.0.0.0/8 whoever, fd00::/8 whoever on all ports"),
        (
            "to: [{networks: [0.0.0.0/0]}], protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: \
             {range: {start: 1, end: 9}}}}, {sctp: {destinationPort: {number: 5}}}]",
            "0.0.0.0/0 whoever on TCP 80, UDP 1-9, SCTP 5",
        ),
    ];
    for (fields, meaning) in cases {
        let policy = policy(&admin(&format!("egress: [{{action: Deny, {fields}}}]")));
        assert_eq!(entry(&policy.rules[0].egress[0]), format!("deny {meaning}"), "{fields}");
    }
    let named =
        policy(&admin("egress: [{action: Accept, to: [{namespaces: {}}], protocols: [{destinationNamedPort: http}]}]"));
    assert_eq!(entry(&named.rules[0].egress[0]), format!("allow [{PODS}] on any http"));
}

#[test]
fn domain_names_are_not_enforced_yet() {
    let object = admin("egress: [{action: Accept, to: [{domainNames: [a.b]}]}]");
    assert_refused(&object, "spec.egress[0].to[0].domainNames", Unsupported, "not enforced");
    let denied = refused(&admin("egress: [{action: Deny, to: [{domainNames: [a.b]}]}]"));
    assert_eq!(denied.reason(), Invalid, "{denied}");
}

#[test]
fn wrong_specs_are_named() {
    let subject = "subject: {namespaces: {}}";
    let specs = [
        (format!("{{tier: Platform, priority: 1, {subject}}}"), "spec.tier", "Admin, Baseline"),
        (format!("{{priority: 1, {subject}}}"), "spec.tier", "required"),
        (format!("{{tier: Admin, {subject}}}"), "spec.priority", "required"),
        (format!("{{tier: Admin, priority: 1001, {subject}}}"), "spec.priority", "0 to 1000"),
        (format!("{{tier: Admin, priority: -1, {subject}}}"), "spec.priority", "0 to 1000"),
        ("{tier: Admin, priority: 1}".to_owned(), "spec.subject", "required"),
        ("{tier: Admin, priority: 1, subject: {}}".to_owned(), "spec.subject", "exactly one of namespaces, pods"),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {}, pods: {podSelector: {}}}}".to_owned(),
            "spec.subject",
            "exactly one",
        ),
        ("{tier: Admin, priority: 1, subject: {pods: {}}}".to_owned(), "spec.subject.pods.podSelector", "required"),
    ];
    for (spec, path, words) in specs {
        assert_refused(&object(&spec), path, Invalid, words);
    }
}

#[test]
fn wrong_rules_are_named() {
    let many = vec!["{namespaces: {}}"; 26].join(", ");
    let all = "{namespaces: {}}";
    let rules = [
        ("ingress", format!("{{action: Allow, from: [{all}]}}"), ".action", "Accept, Deny, Pass"),
        ("ingress", format!("{{from: [{all}]}}"), ".action", "required"),
        ("ingress", "{action: Deny}".to_owned(), ".from", "required"),
        ("ingress", "{action: Deny, from: []}".to_owned(), ".from", "1 to 25"),
        ("ingress", format!("{{action: Deny, from: [{many}]}}"), ".from", "1 to 25"),
        ("ingress", "{action: Deny, from: [{}]}".to_owned(), ".from[0]", "exactly one"),
        ("egress", "{action: Deny, to: [{networks: [10.0.0.0]}]}".to_owned(), ".to[0].networks[0]", "prefix"),
        ("egress", "{action: Deny, to: [{networks: []}]}".to_owned(), ".to[0].networks", "1 to 25"),
        ("ingress", format!("{{action: Deny, from: [{all}], protocols: []}}"), ".protocols", "1 to 25"),
        ("ingress", format!("{{action: Deny, from: [{all}], protocols: [{{}}]}}"), ".protocols[0]", "exactly one"),
        (
            "ingress",
            format!("{{action: Deny, from: [{all}], protocols: [{{tcp: {{}}}}]}}"),
            ".protocols[0].tcp.destinationPort",
            "required",
        ),
        (
            "ingress",
            format!("{{action: Deny, from: [{all}], protocols: [{{tcp: {{destinationPort: {{number: 0}}}}}}]}}"),
            ".protocols[0].tcp.destinationPort.number",
            "1 to 65535",
        ),
        (
            "ingress",
            format!(
                "{{action: Deny, from: [{all}], protocols: [{{tcp: {{destinationPort: {{range: {{start: 9, end: 9}}}}}}}}]}}"
            ),
            ".protocols[0].tcp.destinationPort.range",
            "less than end",
        ),
        (
            "egress",
            "{action: Deny, to: [{nodes: {}}], protocols: [{destinationNamedPort: a}]}".to_owned(),
            "",
            "no named ports",
        ),
    ];
    for (list, rule, path, words) in rules {
        assert_refused(&admin(&format!("{list}: [{rule}]")), &format!("spec.{list}[0]{path}"), Invalid, words);
    }
}
