//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy (`cilium.io/v2`) → [`Policy`].
//!
//! Source: Cilium 1.20, `pkg/policy/api` (validation), `pkg/policy/utils` (how entries become selectors),
//! `pkg/k8s/apis/cilium.io/utils` (implicit namespaces). Where upstream accepts what can only be a mistake (a port range
//! that ends before it begins, an entry in `toPorts` without a port), this refuses it and says what to write.

mod peer;
mod port;

pub(crate) use self::port::is_service_name;

use std::sync::Arc;

use axoneme_model::{
    Action, DirectedRule, Direction, Kind, LabelKey, Operator, Peers, Policy, Rule, Selector, Source, Subject, Tier,
    labels::names::NAMESPACE, policy::CidrScope,
};
use serde_json::Value;

use crate::{
    Options,
    error::ObjectErrors,
    field::Field,
    meta::Meta,
    policy::{Draft, closed_rule, is_ingress, path},
    read,
    selector::{Keys, namespace_is, requirements},
};

/// Reads a CiliumNetworkPolicy.
pub fn cilium_network_policy(object: &Value, options: &Options) -> Result<Policy, ObjectErrors> {
    read(object, Kind::CiliumNetworkPolicy, |root, meta| {
        draft(root, &Scope { namespace: Some(&meta.object.namespace), cidr: options.cidr_scope }).finish(root, meta)
    })
}

/// Reads a CiliumClusterwideNetworkPolicy.
pub fn cilium_clusterwide_network_policy(object: &Value, options: &Options) -> Result<Policy, ObjectErrors> {
    read(object, Kind::CiliumClusterwideNetworkPolicy, |root, meta: &Meta| {
        draft(root, &Scope { namespace: None, cidr: options.cidr_scope }).finish(root, meta)
    })
}

/// What an entry means depends on where the object is.
#[derive(Clone, Copy, Debug)]
struct Scope<'a> {
    /// None for the clusterwide kind.
    namespace: Option<&'a str>,
    cidr: CidrScope,
}

fn draft(root: &Field<'_>, scope: &Scope<'_>) -> Draft {
    let mut draft = Draft { tier: Tier::Normal, rules: Vec::new(), closed: Vec::new() };
    root.only(&["apiVersion", "kind", "metadata", "spec", "specs", "status"]);
    if !root.has("spec") && !root.has("specs") {
        root.missing("spec", "one of spec and specs is required".to_owned());
    }
    if let Some(spec) = root.get("spec") {
        rule(&spec, scope, &mut draft);
    }
    if let Some(specs) = root.get("specs") {
        for spec in specs.items() {
            rule(&spec, scope, &mut draft);
        }
    }
    draft
}

const LISTS: [(&str, Direction, Action); 4] = [
    ("ingressDeny", Direction::Ingress, Action::Deny),
    ("ingress", Direction::Ingress, Action::Allow),
    ("egressDeny", Direction::Egress, Action::Deny),
    ("egress", Direction::Egress, Action::Allow),
];

/// One `spec`. `labels`, `description` and `log` change no verdict; `log` is told by the flows that the rule decides.
fn rule(field: &Field<'_>, scope: &Scope<'_>, draft: &mut Draft) {
    field.only(&[
        "endpointSelector",
        "nodeSelector",
        "ingress",
        "ingressDeny",
        "egress",
        "egressDeny",
        "labels",
        "enableDefaultDeny",
        "description",
        "log",
    ]);
    if !field.raw().is_object() {
        return;
    }
    let subject = subject(field, scope);
    let has = |d: Direction| {
        LISTS.iter().any(|(name, direction, _)| *direction == d && field.get(name).is_some_and(|l| l.len() > 0))
    };
    let (has_ingress, has_egress) = (has(Direction::Ingress), has(Direction::Egress));
    if !has_ingress && !has_egress {
        field.invalid(
            "needs an entry in ingress, ingressDeny, egress or egressDeny; for default-deny without exceptions write an \
             empty entry: {}",
        );
    }
    let deny = field.get("enableDefaultDeny");
    if let Some(deny) = &deny {
        deny.only(&["ingress", "egress"]);
    }
    let isolates =
        |name, default| deny.and_then(|d| d.get(name).map(|v| v.bool().unwrap_or(default))).unwrap_or(default);
    let mut out = Rule {
        subject: Subject::Endpoints(Selector::all()),
        log: log(field),
        isolates_ingress: isolates("ingress", has_ingress),
        isolates_egress: isolates("egress", has_egress),
        ingress: Vec::new(),
        egress: Vec::new(),
    };
    for (name, direction, action) in LISTS {
        let Some(list) = field.get(name) else { continue };
        let entries = list.items().map(|item| entry(&item, scope, direction, action));
        if is_ingress(direction) { out.ingress.extend(entries) } else { out.egress.extend(entries) }
    }
    extras(field);
    if let Some(subject) = subject {
        // a list that is there, even if it is empty, says that somebody cares for the direction
        let speaks = |d: Direction| LISTS.iter().any(|(name, direction, _)| *direction == d && field.has(name));
        // a node is never closed for what is wrong in a policy: nobody could reach it to mend that
        if matches!(subject, Subject::Endpoints(_)) {
            draft.closed.push(closed_rule(
                subject.clone(),
                speaks(Direction::Ingress) || out.isolates_ingress,
                speaks(Direction::Egress) || out.isolates_egress,
            ));
        }
        out.subject = subject;
        draft.rules.push(out);
    }
}

/// Fields that describe the rule.
fn extras(field: &Field<'_>) {
    if let Some(labels) = field.get("labels") {
        for label in labels.items() {
            label.only(&["key", "value", "source"]);
            for part in ["key", "value", "source"] {
                if let Some(part) = label.get(part) {
                    part.str();
                }
            }
        }
    }
    if let Some(description) = field.get("description") {
        description.str();
    }
}

/// What flows say that the rule decided. A text without characters says nothing.
fn log(field: &Field<'_>) -> Option<Arc<str>> {
    let log = field.get("log")?;
    log.only(&["value"]);
    let value = log.get("value")?;
    let text = value.str()?;
    if text.chars().count() > 32 || text.chars().any(char::is_control) {
        value.invalid("must be at most 32 printable characters");
        return None;
    }
    (!text.is_empty()).then(|| text.into())
}

/// Whom the rule is about, pods or nodes; none (with an error) if that cannot be told or is not enforced.
fn subject(field: &Field<'_>, scope: &Scope<'_>) -> Option<Subject> {
    let before = field.error_count();
    let (endpoints, nodes) = (field.get("endpointSelector"), field.get("nodeSelector"));
    if endpoints.is_some() && nodes.is_some() {
        field.invalid("has both endpointSelector and nodeSelector; write a rule for each");
    }
    if endpoints.is_none() && nodes.is_none() {
        field.missing("endpointSelector", "is required; {} selects all endpoints".to_owned());
    }
    if let Some(nodes) = nodes {
        let selector = requirements(&nodes, Keys::Object);
        if scope.namespace.is_some() {
            nodes.invalid("selects nodes, which only a CiliumClusterwideNetworkPolicy can");
        }
        return (field.error_count() == before).then(|| Subject::Nodes(selector.into_selector()));
    }
    let endpoints = endpoints?;
    let mut selector = requirements(&endpoints, Keys::Endpoint);
    let positive = |o: Operator| matches!(o, Operator::In | Operator::Exists);
    if let Some(reserved) = selector.iter().find(|r| r.key.source == Source::Reserved && positive(r.operator)) {
        endpoints.unsupported(format!("selects {}; policies are enforced on pods only", reserved.key));
    }
    if let Some(namespace) = scope.namespace {
        // upstream replaces a namespace in matchLabels, so that the policy cannot reach out of its own
        let own = LabelKey { source: Source::K8s, name: NAMESPACE.into() };
        selector.labels.retain(|r| r.key != own);
        selector.labels.push(namespace_is(namespace));
    }
    (field.error_count() == before).then(|| Subject::Endpoints(selector.into_selector()))
}

/// One entry of one of the four lists.
fn entry(field: &Field<'_>, scope: &Scope<'_>, direction: Direction, action: Action) -> DirectedRule {
    let names = if is_ingress(direction) { &peer::INGRESS } else { &peer::EGRESS };
    let mut known: Vec<&str> = names.all().collect();
    known.extend(["toPorts", "icmps"]);
    if action == Action::Allow {
        known.push("authentication");
    }
    field.only(&known);
    let ports = port::ports(field, action);
    let peers = match peer::peers(field, names, scope, action) {
        Some(peers) => Peers::OneOf(peers),
        // without a peer, ports are for everybody; with neither, the entry lets nothing pass
        None if ports.is_some() => Peers::Any,
        None => Peers::OneOf(Vec::new()),
    };
    if let Some(authentication) = field.get("authentication") {
        authentication_is_off(&authentication);
    }
    DirectedRule { path: path(field), action, peers, ports: ports.unwrap_or(axoneme_model::Ports::Any) }
}

fn authentication_is_off(field: &Field<'_>) {
    field.only(&["mode"]);
    if let Some(mode) = field.require("mode")
        && mode.choice(&[("disabled", false), ("required", true), ("test-always-fail", true)]) == Some(true)
    {
        mode.unsupported("mutual authentication is not enforced yet; only disabled is");
    }
}
