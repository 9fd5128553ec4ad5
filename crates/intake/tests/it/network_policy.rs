//! NetworkPolicy (`networking.k8s.io/v1`).

use axoneme_intake::Reason::Invalid;
use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use serde_json::Value;

use crate::show::{assert_refused, entry, policy, subject, yaml};

fn np(spec: &str) -> Value {
    yaml(&format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: web, namespace: shop}}, spec: {spec}}}"
    ))
}

fn from(peer: &str) -> Value {
    np(&format!("{{podSelector: {{}}, ingress: [{{from: [{peer}]}}]}}"))
}

#[test]
fn whole_api_type_is_read() {
    let object = NetworkPolicy {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("shop".into()),
            generation: Some(3),
            ..Default::default()
        },
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some([("app".to_owned(), "web".to_owned())].into()),
                match_expressions: Some(vec![LabelSelectorRequirement {
                    key: "tier".into(),
                    operator: "NotIn".into(),
                    values: Some(vec!["db".into()]),
                }]),
            }),
            policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(vec![NetworkPolicyPeer {
                    namespace_selector: Some(LabelSelector::default()),
                    pod_selector: Some(LabelSelector::default()),
                    ip_block: None,
                }]),
                ports: Some(vec![NetworkPolicyPort {
                    port: Some(IntOrString::Int(80)),
                    end_port: Some(90),
                    protocol: Some("UDP".into()),
                }]),
            }]),
            egress: Some(vec![NetworkPolicyEgressRule {
                to: Some(vec![NetworkPolicyPeer {
                    ip_block: Some(IPBlock { cidr: "10.0.0.0/8".into(), except: Some(vec!["10.1.0.0/16".into()]) }),
                    ..Default::default()
                }]),
                ports: Some(vec![NetworkPolicyPort {
                    port: Some(IntOrString::String("dns".into())),
                    ..Default::default()
                }]),
            }]),
        }),
    };
    let policy = policy(&serde_json::to_value(object).expect("serialises"));
    assert_eq!(policy.generation, 3);
    let rule = &policy.rules[0];
    let subject = subject(rule);
    for part in ["k8s:app=web", "k8s:tier notin (db)", "k8s:io.kubernetes.pod.namespace=shop"] {
        assert!(subject.contains(part), "{subject}");
    }
    assert_eq!((rule.isolates_ingress, rule.isolates_egress), (true, true));
    assert_eq!(entry(&rule.ingress[0]), "allow [k8s:io.kubernetes.pod.namespace] on UDP 80-90");
    assert_eq!(entry(&rule.egress[0]), "allow 10.0.0.0/8 but 10.1.0.0/16 whoever on TCP dns");
}

#[test]
fn policy_types_default_to_ingress_and_to_egress_if_there_are_rules() {
    let cases = [
        ("{podSelector: {}}", (true, false)),
        ("{podSelector: {}, policyTypes: []}", (true, false)),
        ("{podSelector: {}, ingress: []}", (true, false)),
        ("{podSelector: {}, egress: []}", (true, false)),
        ("{podSelector: {}, egress: [{}]}", (true, true)),
        ("{podSelector: {}, policyTypes: [Egress]}", (false, true)),
        ("{podSelector: {}, policyTypes: [Ingress, Egress]}", (true, true)),
        ("{podSelector: {}, policyTypes: [Ingress], egress: [{}]}", (true, false)),
        ("{}", (true, false)),
    ];
    for (spec, isolates) in cases {
        let policy = policy(&np(spec));
        let rule = &policy.rules[0];
        assert_eq!((rule.isolates_ingress, rule.isolates_egress), isolates, "{spec}");
        assert!(rule.isolates_egress || rule.egress.is_empty(), "{spec}: a direction that is not named has no rules");
    }
}

#[test]
fn peers() {
    let all = "k8s:io.kubernetes.pod.namespace";
    let cases = [
        ("{podSelector: {matchLabels: {a: b}}}", "[k8s:a=b,k8s:io.kubernetes.pod.namespace=shop]".to_owned()),
        ("{podSelector: {}}", "[k8s:io.kubernetes.pod.namespace=shop]".to_owned()),
        ("{namespaceSelector: {}}", format!("[{all}]")),
        (
            "{namespaceSelector: {matchLabels: {team: red}}}",
            format!("[k8s:io.cilium.k8s.namespace.labels.team=red,{all}]"),
        ),
        (
            "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: x}}, podSelector: {matchLabels: {a: b}}}",
            format!("[k8s:a=b,k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=x,{all}]"),
        ),
        (
            "{namespaceSelector: {matchExpressions: [{key: team, operator: DoesNotExist}]}}",
            format!("[!k8s:io.cilium.k8s.namespace.labels.team,{all}]"),
        ),
        ("{ipBlock: {cidr: 10.1.2.3/8}}", "10.0.0.0/8 whoever".to_owned()),
        ("{ipBlock: {cidr: '::/0', except: ['fd00::/8']}}", "::/0 but fd00::/8 whoever".to_owned()),
    ];
    for (peer, meaning) in cases {
        let policy = policy(&from(peer));
        assert_eq!(entry(&policy.rules[0].ingress[0]), format!("allow {meaning} on all ports"), "{peer}");
    }
}

#[test]
fn missing_and_empty_lists_mean_everything() {
    for spec in ["{}", "{from: [], ports: []}", "{from: null}"] {
        let policy = policy(&np(&format!("{{podSelector: {{}}, ingress: [{spec}]}}")));
        assert_eq!(entry(&policy.rules[0].ingress[0]), "allow anybody on all ports", "{spec}");
    }
}

#[test]
fn ports() {
    let cases = [
        ("{}", "TCP"),
        ("{protocol: UDP}", "UDP"),
        ("{port: 80}", "TCP 80"),
        ("{port: 80, endPort: 90, protocol: SCTP}", "SCTP 80-90"),
        ("{port: http}", "TCP http"),
        ("{port: dns-udp, protocol: UDP}", "UDP dns-udp"),
    ];
    for (port, meaning) in cases {
        let policy = policy(&np(&format!("{{podSelector: {{}}, egress: [{{ports: [{port}]}}]}}")));
        assert_eq!(entry(&policy.rules[0].egress[0]), format!("allow anybody on {meaning}"), "{port}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let peers = [
        ("{}", "", "names no peer"),
        ("{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}", "", "beside a selector"),
        ("{ipBlock: {}}", ".ipBlock.cidr", "required"),
        ("{ipBlock: {cidr: 10.0.0.0}}", ".ipBlock.cidr", "prefix"),
        ("{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}", ".ipBlock.except[0]", "smaller"),
        ("{ipBlock: {cidr: 10.0.0.0/8, except: [0.0.0.0/0]}}", ".ipBlock.except[0]", "inside of"),
        ("{serviceAccountSelector: {}}", ".serviceAccountSelector", "no such field"),
    ];
    for (peer, path, words) in peers {
        let errors = crate::show::refused(&from(peer));
        let path = format!("spec.ingress[0].from[0]{path}");
        assert!(errors.errors.iter().any(|e| e.path == path && e.message.contains(words)), "{peer}\n{errors}");
    }
    let ports = [
        ("{port: 0}", ".port", "1 to 65535"),
        ("{port: 65536}", ".port", "1 to 65535"),
        ("{port: 80, endPort: 79}", ".endPort", "80 to 65535"),
        ("{port: http, endPort: 80}", ".endPort", "port number"),
        ("{endPort: 80}", ".endPort", "needs port"),
        ("{port: '80'}", ".port", "without quotes"),
        ("{port: HTTP}", ".port", "lower case"),
        ("{protocol: ICMP}", ".protocol", "SCTP"),
    ];
    for (port, path, words) in ports {
        let object = np(&format!("{{podSelector: {{}}, ingress: [{{ports: [{port}]}}]}}"));
        assert_refused(&object, &format!("spec.ingress[0].ports[0]{path}"), Invalid, words);
    }
    assert_refused(&np("{podSelector: {}, policyTypes: [Both]}"), "spec.policyTypes[0]", Invalid, "Egress");
    let no_spec = yaml("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a}}");
    assert_refused(&no_spec, "spec", Invalid, "required");
}
