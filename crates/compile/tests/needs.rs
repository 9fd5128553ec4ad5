//! How large a policy's table is for what the policy itself names.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use axoneme_compile::needs::{at_most, entries};
use axoneme_model::{
    Action, DirectedRule, Kind, LabelKey, ObjectRef, Peer, Peers, Policy, PortMatch, Ports, Protocol, Requirement,
    Rule, Selector, Subject, Tier, policy::CidrScope,
};

fn port(n: u16) -> PortMatch {
    PortMatch::Range { protocol: Protocol::TCP, first: n * 2 + 1, last: n * 2 + 1 }
}

fn prefix(n: u16) -> Peer {
    let cidr = format!("10.{}.{}.0/24", n / 256, n % 256).parse().unwrap();
    Peer::Cidr { cidr, except: Vec::new(), scope: CidrScope::Outside }
}

fn allow(peers: Vec<Peer>, ports: Vec<PortMatch>) -> DirectedRule {
    let (peers, ports) = (Peers::OneOf(peers), Ports::OneOf(ports));
    DirectedRule { path: "spec.egress[0]".into(), action: Action::Allow, peers, ports }
}

/// Of pods with a label that the pod which is tried does not have.
fn policy(egress: Vec<DirectedRule>) -> Policy {
    let subject = Subject::Endpoints(Selector::new(vec![Requirement::exists(LabelKey::k8s("app"))]));
    let rule = Rule { subject, log: None, isolates_ingress: false, isolates_egress: true, ingress: Vec::new(), egress };
    let object = ObjectRef::new(Kind::CiliumNetworkPolicy, "a", "p");
    Policy { object, generation: 1, tier: Tier::Normal, audit: false, rules: vec![rule] }
}

#[test]
fn prefixes_need_an_entry_for_each_port_and_labels_none() {
    let all = policy(vec![allow((0..40).map(prefix).collect(), (0..3).map(port).collect())]);
    assert_eq!(entries(&all), 120);
    let own = policy((0..40).map(|n| allow(vec![prefix(n)], vec![port(n)])).collect());
    assert_eq!(entries(&own), 40);
    let labels = policy(vec![allow(vec![Peer::Endpoints(Selector::all())], (0..3).map(port).collect())]);
    assert!(entries(&labels) <= 6, "as many as there are pods: {}", entries(&labels));
    for policy in [all, own, labels] {
        assert!(at_most(&policy) >= entries(&policy), "{} and {}", at_most(&policy), entries(&policy));
    }
}

#[test]
fn rules_of_other_subjects_are_other_tables() {
    let mut both = policy(vec![allow((0..10).map(prefix).collect(), vec![port(1)])]);
    let mut second = both.rules[0].clone();
    second.egress = vec![allow((20..50).map(prefix).collect(), vec![port(2)])];
    both.rules.push(Rule { subject: Subject::Endpoints(Selector::all()), ..second.clone() });
    assert_eq!(entries(&both), 30);
    both.rules[1].subject = both.rules[0].subject.clone();
    assert_eq!(entries(&both), 40);
}
