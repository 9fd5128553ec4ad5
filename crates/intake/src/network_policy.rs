//! NetworkPolicy (`networking.k8s.io/v1`) → [`Policy`].
//!
//! Source: the API's reference, and the validation of the API server (`pkg/apis/networking/validation`), which the
//! directory source has to repeat.

use axoneme_model::{
    Action, DirectedRule, Direction, Kind, Peer, Peers, Policy, PortMatch, Ports, Protocol, Requirement, Selector,
    Subject, Tier, policy::CidrScope,
};
use serde_json::Value;

use crate::{
    address::{exceptions, prefix},
    error::ObjectErrors,
    field::Field,
    pod::TRANSPORTS,
    policy::{Draft, closed_rule, is_ingress, path},
    read,
    selector::{Keys, is_pod, namespace_is, requirements},
};

/// Reads a NetworkPolicy.
pub fn network_policy(object: &Value) -> Result<Policy, ObjectErrors> {
    read(object, Kind::NetworkPolicy, |root, meta| draft(root, &meta.object.namespace).finish(root, meta))
}

fn draft(root: &Field<'_>, namespace: &str) -> Draft {
    let mut draft = Draft { tier: Tier::Normal, rules: Vec::new(), closed: Vec::new() };
    root.only(&["apiVersion", "kind", "metadata", "spec", "status"]);
    let Some(spec) = root.require("spec") else { return draft };
    spec.only(&["podSelector", "policyTypes", "ingress", "egress"]);
    if !spec.raw().is_object() {
        return draft;
    }
    let before = spec.error_count();
    // the API server fills a missing podSelector in with {}, which selects all
    let mut subject = spec.get("podSelector").map(|s| requirements(&s, Keys::Pod)).unwrap_or_default().into_vec();
    subject.push(namespace_is(namespace));
    let readable = spec.error_count() == before;
    let subject = Subject::Endpoints(Selector::new(subject));

    let (ingress, egress) = directions(&spec);
    let mut rule = closed_rule(subject.clone(), ingress, egress);
    // rules of a direction that policyTypes leaves out are checked, but have no effect
    let entries = entries(&spec, Direction::Ingress, namespace);
    rule.ingress = if ingress { entries } else { Vec::new() };
    let entries = self::entries(&spec, Direction::Egress, namespace);
    rule.egress = if egress { entries } else { Vec::new() };
    draft.rules.push(rule);
    if readable {
        draft.closed.push(closed_rule(subject, ingress, egress));
    }
    draft
}

/// Which directions the policy isolates: those in `policyTypes`; without it Ingress, and Egress if there are rules for it.
fn directions(spec: &Field<'_>) -> (bool, bool) {
    let types = spec.get("policyTypes").filter(|types| types.len() > 0 || !types.raw().is_array());
    let Some(types) = types else { return (true, spec.get("egress").is_some_and(|e| e.len() > 0)) };
    let choices = [("Ingress", Direction::Ingress), ("Egress", Direction::Egress)];
    let named: Vec<Direction> = types.items().filter_map(|t| t.choice(&choices)).collect();
    (named.contains(&Direction::Ingress), named.contains(&Direction::Egress))
}

fn entries(spec: &Field<'_>, direction: Direction, namespace: &str) -> Vec<DirectedRule> {
    let (list, peers) = if is_ingress(direction) { ("ingress", "from") } else { ("egress", "to") };
    let Some(list) = spec.get(list) else { return Vec::new() };
    list.items()
        .map(|item| {
            item.only(&[peers, "ports"]);
            DirectedRule {
                path: path(&item),
                action: Action::Allow,
                peers: all_peers(&item, peers, namespace),
                ports: all_ports(&item),
            }
        })
        .collect()
}

/// A missing or empty list means everybody.
fn all_peers(field: &Field<'_>, name: &str, namespace: &str) -> Peers {
    match field.get(name) {
        Some(list) if list.len() > 0 || !list.raw().is_array() => {
            Peers::OneOf(list.items().filter_map(|item| peer(&item, namespace)).collect())
        }
        _ => Peers::Any,
    }
}

fn peer(field: &Field<'_>, namespace: &str) -> Option<Peer> {
    field.only(&["podSelector", "namespaceSelector", "ipBlock"]);
    let (pods, namespaces) = (field.get("podSelector"), field.get("namespaceSelector"));
    if let Some(block) = field.get("ipBlock") {
        if pods.is_some() || namespaces.is_some() {
            field.invalid("has ipBlock beside a selector; write a peer for each");
        }
        return ip_block(&block);
    }
    if pods.is_none() && namespaces.is_none() {
        // A peer of a kind that a newer API has would look like this. Taking it for everybody would be too much.
        if field.raw().is_object() {
            field.invalid("names no peer; needs podSelector, namespaceSelector or ipBlock");
        }
        return None;
    }
    let mut all: Vec<Requirement> = pods.map(|p| requirements(&p, Keys::Pod)).unwrap_or_default().into_vec();
    match namespaces {
        Some(namespaces) => {
            all.extend(requirements(&namespaces, Keys::Namespace).into_vec());
            all.push(is_pod());
        }
        None => all.push(namespace_is(namespace)),
    }
    Some(Peer::Endpoints(Selector::new(all)))
}

fn ip_block(field: &Field<'_>) -> Option<Peer> {
    field.only(&["cidr", "except"]);
    let cidr = field.require("cidr").and_then(|c| prefix(&c));
    let except = field.get("except").map(|list| exceptions(&list, cidr, true)).unwrap_or_default();
    Some(Peer::Cidr { cidr: cidr?, except, scope: CidrScope::Anyone })
}

/// A missing or empty list means all ports of all protocols.
fn all_ports(field: &Field<'_>) -> Ports {
    match field.get("ports") {
        Some(list) if list.len() > 0 || !list.raw().is_array() => {
            Ports::OneOf(list.items().filter_map(|item| port(&item)).collect())
        }
        _ => Ports::Any,
    }
}

fn port(field: &Field<'_>) -> Option<PortMatch> {
    field.only(&["protocol", "port", "endPort"]);
    let protocol = field.get("protocol").map_or(Some(Protocol::TCP), |p| p.choice(&TRANSPORTS));
    let end = field.get("endPort");
    let Some(port) = field.get("port") else {
        if let Some(end) = end {
            end.invalid("needs port, the first of the range");
        }
        return protocol.map(PortMatch::Protocol);
    };
    if port.raw().is_string() {
        if let Some(end) = end {
            end.invalid("needs a port number, not a name");
        }
        let name = port_name(&port);
        return Some(PortMatch::Named { protocol: Some(protocol?), name: name?.into() });
    }
    let first: Option<u16> = port.int(1..=u16::MAX);
    let last = end.map_or(first, |end| end.int(first.unwrap_or(1)..=u16::MAX));
    Some(PortMatch::Range { protocol: protocol?, first: first?, last: last? })
}

/// The name of a container port: lower case, RFC 6335.
fn port_name<'a>(field: &Field<'a>) -> Option<&'a str> {
    let text = field.str()?;
    let good = crate::cilium_policy::is_service_name(text) && !text.bytes().any(|b| b.is_ascii_uppercase());
    if !good {
        field.invalid(
            "is no port name: at most 15 lower case letters, digits and single hyphens, with at least one letter; a port \
             number is written without quotes",
        );
    }
    good.then_some(text)
}
