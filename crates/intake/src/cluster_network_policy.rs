//! ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`) → [`Policy`].
//!
//! Source: kubernetes-sigs/network-policy-api, `apis/v1alpha2`.

use axoneme_model::{
    Action, DirectedRule, Direction, Kind, Peer, Peers, Policy, PortMatch, Ports, Protocol, Rule, Selector, Subject,
    Tier, policy::CidrScope,
};
use serde_json::Value;

use crate::{
    address::prefix,
    error::ObjectErrors,
    field::Field,
    policy::{Draft, closed_rule, is_ingress, path},
    read,
    selector::{Keys, is_pod, requirements},
};

/// Most rules, peers, protocols and networks that one list may have.
const MAX: usize = 25;

/// Reads a ClusterNetworkPolicy.
pub fn cluster_network_policy(object: &Value) -> Result<Policy, ObjectErrors> {
    read(object, Kind::ClusterNetworkPolicy, |root, meta| draft(root).finish(root, meta))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TierName {
    Admin,
    Baseline,
}

fn draft(root: &Field<'_>) -> Draft {
    let mut draft = Draft { tier: Tier::Normal, rules: Vec::new(), closed: Vec::new() };
    root.only(&["apiVersion", "kind", "metadata", "spec", "status"]);
    let Some(spec) = root.require("spec") else { return draft };
    spec.only(&["tier", "priority", "subject", "ingress", "egress"]);
    if !spec.raw().is_object() {
        return draft;
    }
    let tier =
        spec.require("tier").and_then(|t| t.choice(&[("Admin", TierName::Admin), ("Baseline", TierName::Baseline)]));
    let priority = spec.require("priority").and_then(|p| p.int(0..=1000)).unwrap_or_default();
    let tier = tier.unwrap_or(TierName::Admin);
    draft.tier = match tier {
        TierName::Admin => Tier::Admin { priority },
        TierName::Baseline => Tier::Baseline { priority },
    };
    let before = spec.error_count();
    let selector = spec.require("subject").and_then(|s| {
        one_field(&s, &["namespaces", "pods"]);
        pods_of(&s)
    });
    let readable = spec.error_count() == before;
    let rule = |subject| Rule {
        subject,
        log: None,
        isolates_ingress: false,
        isolates_egress: false,
        ingress: entries(&spec, Direction::Ingress, tier),
        egress: entries(&spec, Direction::Egress, tier),
    };
    let subject = Subject::Endpoints(selector.unwrap_or_default());
    let rule = rule(subject.clone());
    if readable {
        draft.closed.push(closed_rule(subject, !rule.ingress.is_empty(), !rule.egress.is_empty()));
    }
    draft.rules.push(rule);
    draft
}

/// Checks that exactly one of the fields is set. An object with none comes from a newer version of the API.
fn one_field(field: &Field<'_>, known: &[&str]) {
    field.only(known);
    if field.raw().is_object() && known.iter().filter(|k| field.has(k)).count() != 1 {
        field.invalid(format!("needs exactly one of {}", known.join(", ")));
    }
}

/// The pods that `namespaces` or `pods` selects.
fn pods_of(field: &Field<'_>) -> Option<Selector> {
    if let Some(namespaces) = field.get("namespaces") {
        return Some(requirements(&namespaces, Keys::Namespace).into_selector().and(is_pod()));
    }
    let pods = field.get("pods")?;
    pods.only(&["namespaceSelector", "podSelector"]);
    let mut all = Vec::new();
    if let Some(namespaces) = pods.get("namespaceSelector") {
        all.extend(requirements(&namespaces, Keys::Namespace).into_vec());
    }
    if let Some(labels) = pods.require("podSelector") {
        all.extend(requirements(&labels, Keys::Pod).into_vec());
    }
    all.push(is_pod());
    Some(Selector::new(all))
}

fn at_most(list: &Field<'_>, least: usize) {
    if list.raw().is_array() && !(least..=MAX).contains(&list.len()) {
        list.invalid(format!("must have {least} to {MAX} items"));
    }
}

fn entries(spec: &Field<'_>, direction: Direction, tier: TierName) -> Vec<DirectedRule> {
    let name = if is_ingress(direction) { "ingress" } else { "egress" };
    let Some(list) = spec.get(name) else { return Vec::new() };
    at_most(&list, 0);
    list.items().filter_map(|item| entry(&item, direction, tier)).collect()
}

fn entry(field: &Field<'_>, direction: Direction, tier: TierName) -> Option<DirectedRule> {
    let peers = if is_ingress(direction) { "from" } else { "to" };
    field.only(&["name", "action", peers, "protocols"]);
    if let Some(name) = field.get("name")
        && name.str().is_some_and(|n| n.chars().count() > 100)
    {
        name.invalid("must be at most 100 characters");
    }
    let action = field
        .require("action")
        .and_then(|a| a.choice(&[("Accept", Action::Allow), ("Deny", Action::Deny), ("Pass", Action::Pass)]));
    // nothing comes after the last tier, and what no tier decides is allowed
    let action = match (action, tier) {
        (Some(Action::Pass), TierName::Baseline) => Some(Action::Allow),
        (action, _) => action,
    };
    let list = field.require(peers);
    if let Some(list) = &list {
        at_most(list, 1);
    }
    let mut out = Vec::new();
    for item in list.iter().flat_map(Field::items) {
        peer(&item, direction, action, &mut out);
    }
    let ports = ports(field);
    if !is_ingress(direction) {
        named_ports_need_pods(field, list.as_ref());
    }
    Some(DirectedRule { path: path(field), action: action?, peers: Peers::OneOf(out), ports })
}

fn peer(field: &Field<'_>, direction: Direction, action: Option<Action>, out: &mut Vec<Peer>) {
    if is_ingress(direction) {
        one_field(field, &["namespaces", "pods"]);
    } else {
        one_field(field, &["namespaces", "pods", "nodes", "networks", "domainNames"]);
    }
    out.extend(pods_of(field).map(Peer::Endpoints));
    if is_ingress(direction) {
        return;
    }
    if let Some(nodes) = field.get("nodes") {
        out.push(Peer::Nodes(requirements(&nodes, Keys::Pod).into_selector()));
    }
    if let Some(networks) = field.get("networks") {
        at_most(&networks, 1);
        for network in networks.items() {
            out.extend(prefix(&network).map(|cidr| Peer::Cidr { cidr, except: Vec::new(), scope: CidrScope::Anyone }));
        }
    }
    if let Some(names) = field.get("domainNames") {
        if action.is_some_and(|a| a != Action::Allow) {
            names.invalid("can only be accepted, not denied or passed");
        }
        names.unsupported("DNS names are not enforced yet; name prefixes with networks");
    }
}

fn ports(field: &Field<'_>) -> Ports {
    let Some(list) = field.get("protocols") else { return Ports::Any };
    at_most(&list, 1);
    Ports::OneOf(list.items().filter_map(|item| protocol(&item)).collect())
}

fn protocol(field: &Field<'_>) -> Option<PortMatch> {
    one_field(field, &["tcp", "udp", "sctp", "destinationNamedPort"]);
    if let Some(name) = field.get("destinationNamedPort") {
        let text = name.str()?;
        if text.is_empty() {
            name.invalid("must be the name of a container port");
        }
        return Some(PortMatch::Named { protocol: None, name: text.into() });
    }
    [("tcp", Protocol::TCP), ("udp", Protocol::UDP), ("sctp", Protocol::SCTP)]
        .into_iter()
        .find_map(|(name, protocol)| field.get(name).map(|_| (name, protocol)))
        .and_then(|(name, protocol)| {
            let found = field.get(name)?;
            found.only(&["destinationPort"]);
            port(&found.require("destinationPort")?, protocol)
        })
}

fn port(field: &Field<'_>, protocol: Protocol) -> Option<PortMatch> {
    one_field(field, &["number", "range"]);
    if let Some(number) = field.get("number") {
        let number = number.int(1..=u16::MAX)?;
        return Some(PortMatch::Range { protocol, first: number, last: number });
    }
    let range = field.get("range")?;
    range.only(&["start", "end"]);
    let first = range.require("start").and_then(|s| s.int(1..=u16::MAX));
    let last = range.require("end").and_then(|e| e.int(1..=u16::MAX));
    let (first, last) = (first?, last?);
    if first >= last {
        range.invalid("start must be less than end");
        return None;
    }
    Some(PortMatch::Range { protocol, first, last })
}

/// Nodes, networks and domain names have no container ports.
fn named_ports_need_pods(field: &Field<'_>, peers: Option<&Field<'_>>) {
    let without_names = |p: Field<'_>| p.has("nodes") || p.has("networks") || p.has("domainNames");
    let named = field
        .get("protocols")
        .is_some_and(|list| list.raw().is_array() && list.items().any(|item| item.has("destinationNamedPort")));
    if named && peers.is_some_and(|list| list.raw().is_array() && list.items().any(without_names)) {
        field.invalid("has destinationNamedPort beside nodes, networks or domainNames, which have no named ports");
    }
}
