//! Objects from YAML, and rules as one line of text, so that tests read as tables.

use axoneme_intake::{ObjectErrors, Parsed, Reason, parse};
use axoneme_model::{
    Action, DirectedRule, Peer, Peers, Policy, PortMatch, Ports, Rule, Subject,
    policy::{CidrScope, ServiceSelector},
};
use serde_json::Value;

pub(crate) fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("test YAML is wrong: {e}\n{text}"))
}

pub(crate) fn policy(object: &Value) -> Policy {
    match parse(object) {
        Ok(Parsed::Policy(policy)) => policy,
        Ok(other) => panic!("not a policy: {other:?}"),
        Err(errors) => panic!("refused:\n{errors}"),
    }
}

pub(crate) fn refused(object: &Value) -> ObjectErrors {
    match parse(object) {
        Err(errors) => errors,
        Ok(parsed) => panic!("accepted: {parsed:?}"),
    }
}

/// Asserts that the only thing wrong with the object is at `path`, for the reason, with a message that has `words` in it.
#[track_caller]
pub(crate) fn assert_refused(object: &Value, path: &str, reason: Reason, words: &str) {
    let errors = refused(object);
    let [error] = errors.errors.as_slice() else { panic!("not one error:\n{errors}") };
    assert_eq!(error.path, path, "{error}");
    assert_eq!(error.reason, reason, "{error}");
    assert!(error.message.contains(words), "{error}\nlacks {words:?}");
}

fn scope(scope: CidrScope) -> &'static str {
    match scope {
        CidrScope::Outside => "",
        CidrScope::OutsideAndNodes => " or node",
        CidrScope::Anyone => " whoever",
    }
}

fn peer(peer: &Peer) -> String {
    let list = |except: &[axoneme_model::Cidr]| except.iter().map(|c| format!(" but {c}")).collect::<Vec<_>>().concat();
    match peer {
        Peer::Endpoints(s) => format!("[{s}]"),
        Peer::Entity(e) => format!("{e:?}"),
        Peer::Cidr { cidr, except, scope: s } => format!("{cidr}{}{}", list(except), scope(*s)),
        Peer::CidrGroup { name, except, scope: s } => format!("group {name}{}{}", list(except), scope(*s)),
        Peer::CidrGroups { selector, except, scope: s } => format!("groups [{selector}]{}{}", list(except), scope(*s)),
        Peer::Nodes(s) => format!("nodes [{s}]"),
        Peer::Services(ServiceSelector::Name { namespace, name }) => format!("service {namespace}/{name}"),
        Peer::Services(ServiceSelector::Labels { namespace, selector }) => {
            format!("services {}[{selector}]", namespace.as_deref().map(|n| format!("{n}/")).unwrap_or_default())
        }
    }
}

fn port(port: &PortMatch) -> String {
    match port {
        PortMatch::Protocol(p) => p.to_string(),
        PortMatch::Range { protocol, first, last } if first == last => format!("{protocol} {first}"),
        PortMatch::Range { protocol, first, last } => format!("{protocol} {first}-{last}"),
        PortMatch::Named { protocol: Some(p), name } => format!("{p} {name}"),
        PortMatch::Named { protocol: None, name } => format!("any {name}"),
        PortMatch::IcmpType { protocol, icmp_type } => format!("{protocol} type {icmp_type}"),
    }
}

/// `allow PEERS on PORTS`, lists joined by `, `.
pub(crate) fn entry(rule: &DirectedRule) -> String {
    let action = match rule.action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Pass => "pass",
    };
    let join = |items: Vec<String>| items.join(", ");
    let peers = match &rule.peers {
        Peers::Any => "anybody".to_owned(),
        Peers::OneOf(list) if list.is_empty() => "nobody".to_owned(),
        Peers::OneOf(list) => join(list.iter().map(peer).collect()),
    };
    let ports = match &rule.ports {
        Ports::Any => "all ports".to_owned(),
        Ports::OneOf(list) if list.is_empty() => "no port".to_owned(),
        Ports::OneOf(list) => join(list.iter().map(port).collect()),
    };
    format!("{action} {peers} on {ports}")
}

pub(crate) fn subject(rule: &Rule) -> String {
    match &rule.subject {
        Subject::Endpoints(s) => s.to_string(),
        Subject::Nodes(s) => format!("nodes {s}"),
    }
}
