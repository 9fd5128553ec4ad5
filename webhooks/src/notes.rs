//! Warnings about a good object, from what is known of the cluster.
//!
//! Work is bounded by what is looked at, not by a clock, so that the same question has the same answer: where the bound
//! is met nothing is said.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::Arc,
};

use axoneme_crds::axoneme_config::IpamMode;
use axoneme_intake::{Parsed, PodIpPool, Settings};
use axoneme_model::{
    Cidr, DirectedRule, Operator, Peer, Peers, Policy, PortMatch, Ports, Requirement, Rule, Selector, Source, Subject,
    cidr::contains, labels::names::NAMESPACE, policy::ServiceSelector, world::Pod,
};

use crate::view::View;

mod others;

/// Pods that are looked at for one object: a millisecond or two.
const LOOKS: usize = 5_000;
/// Of these, pods whose labels are put together in full: a microsecond or two each.
const MATCHES: usize = 500;

/// What is to be told about an object.
pub(crate) fn of(parsed: &Parsed, view: &dyn View) -> Vec<String> {
    if !view.is_complete() {
        return Vec::new();
    }
    match parsed {
        Parsed::Policy(policy) => of_policy(policy, view),
        Parsed::PodIpPool(pool) => of_pool(pool, view),
        Parsed::Config(settings) => of_settings(settings, view),
        _ => Vec::new(),
    }
}

fn of_policy(policy: &Policy, view: &dyn View) -> Vec<String> {
    let mut out = Vec::new();
    let mut left = Left { looks: LOOKS, matches: MATCHES, may_match: false };
    let cluster = view.cluster_name();
    for (i, rule) in policy.rules.iter().enumerate() {
        subject(policy, i, rule, view, &cluster, &mut left, &mut out);
        for (path, peer) in peers(rule) {
            out.extend(group(path, peer, view));
        }
        for directed in &rule.egress {
            named_ports(directed, view, &cluster, &mut left, &mut out);
        }
    }
    out.extend(crate::refusals::is_unjudged(policy));
    out.append(&mut others::of(policy, view));
    let mut told = BTreeSet::new();
    out.retain(|text| told.insert(text.clone()));
    out
}

fn peers(rule: &Rule) -> impl Iterator<Item = (&Arc<str>, &Peer)> {
    rule.ingress.iter().chain(&rule.egress).flat_map(|d| {
        let peers = if let Peers::OneOf(peers) = &d.peers { peers.as_slice() } else { &[] };
        peers.iter().map(|p| (&d.path, p))
    })
}

fn group(path: &str, peer: &Peer, view: &dyn View) -> Option<String> {
    match peer {
        Peer::CidrGroup { name, .. } if !view.has_cidr_group(name) => {
            Some(format!("{path}: there is no CiliumCIDRGroup {name} yet: until then it matches nobody"))
        }
        Peer::CidrGroups { selector, .. } if !view.has_cidr_group_like(selector) => {
            Some(format!("{path}: no CiliumCIDRGroup has labels {selector} yet: until then it matches nobody"))
        }
        Peer::Services(ServiceSelector::Name { namespace, name }) if !view.has_service(namespace, name) => {
            Some(format!("{path}: there is no Service {namespace}/{name} yet: until then it matches nobody"))
        }
        _ => None,
    }
}

/// What may still be looked at.
struct Left {
    looks: usize,
    matches: usize,
    /// Whether the pod that was looked at last may be matched.
    may_match: bool,
}

impl Left {
    /// Looks at a pod; false: no more can be looked at.
    fn look(&mut self, pod: &Pod, selector: &Selector) -> bool {
        if self.looks == 0 || self.matches == 0 {
            return false;
        }
        self.looks -= 1;
        self.may_match = may_match(selector, pod);
        self.matches -= usize::from(self.may_match);
        true
    }
}

fn subject(
    policy: &Policy,
    index: usize,
    rule: &Rule,
    view: &dyn View,
    cluster: &str,
    left: &mut Left,
    out: &mut Vec<String>,
) {
    let Subject::Endpoints(selector) = &rule.subject else { return };
    let mut ports: BTreeMap<&Arc<str>, &Arc<str>> = BTreeMap::new();
    for d in &rule.ingress {
        let Ports::OneOf(list) = &d.ports else { continue };
        ports.extend(list.iter().filter_map(|p| match p {
            PortMatch::Named { name, .. } => Some((name, &d.path)),
            _ => None,
        }));
    }
    let mut matched = false;
    let mut complete = true;
    view.pods(namespace(selector), &mut |pod, ns| {
        complete = left.look(pod, selector);
        if !complete {
            return ControlFlow::Break(());
        }
        if left.may_match && selector.matches(&pod.security_labels(ns, cluster)) {
            matched = true;
            ports.retain(|name, _| !pod.named_ports.contains_key(*name));
        }
        if matched && ports.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if !complete {
        return;
    }
    let path = policy.rule_path(index);
    if !matched {
        out.push(format!("{path}: selects no pod on the pod network now"));
        return;
    }
    for (name, path) in ports {
        out.push(format!("{path}: no container of the selected pods has a port named {name} now: it matches nothing"));
    }
}

/// Ports that an egress rule names and no pod has that it may mean.
fn named_ports(rule: &DirectedRule, view: &dyn View, cluster: &str, left: &mut Left, out: &mut Vec<String>) {
    let (Ports::OneOf(ports), Peers::OneOf(peers)) = (&rule.ports, &rule.peers) else { return };
    let named = ports.iter().filter_map(|p| if let PortMatch::Named { name, .. } = p { Some(name) } else { None });
    let mut missing: BTreeSet<&Arc<str>> = named.collect();
    for peer in peers {
        // whom others mean may have ports of any name
        let Peer::Endpoints(selector) = peer else { return };
        if missing.is_empty() {
            return;
        }
        let mut complete = true;
        view.pods(namespace(selector), &mut |pod, ns| {
            complete = left.look(pod, selector);
            if complete && left.may_match && selector.matches(&pod.security_labels(ns, cluster)) {
                missing.retain(|name| !pod.named_ports.contains_key(*name));
            }
            if complete && !missing.is_empty() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if !complete {
            return;
        }
    }
    let (path, told) = (&rule.path, missing.into_iter());
    out.extend(told.map(|name| format!("{path}: no container of its peers has a port named {name} now")));
}

/// The one namespace whose pods the selector can match, if it says one.
fn namespace(selector: &Selector) -> Option<&str> {
    let one = |r: &Requirement| r.operator == Operator::In && r.values.len() == 1 && r.key.source == Source::K8s;
    let of = selector.requirements().iter().find(|r| one(r) && &*r.key.name == NAMESPACE)?;
    of.values.first().map(|v| &**v)
}

/// Whether the pod's own labels let the selector match; conditions on labels that are derived are left open. Exact for
/// the others, and without making a label set for each pod that is passed over.
fn may_match(selector: &Selector, pod: &Pod) -> bool {
    selector.requirements().iter().all(|r| {
        let own = matches!(r.key.source, Source::K8s | Source::Any);
        let derived = r.key.name.starts_with("io.cilium.k8s.") || &*r.key.name == NAMESPACE;
        if !own || derived {
            return true;
        }
        let value = pod.labels.get(&r.key.name);
        match r.operator {
            Operator::In => value.is_some_and(|v| r.values.contains(v)),
            Operator::NotIn => value.is_none_or(|v| !r.values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    })
}

fn of_pool(pool: &PodIpPool, view: &dyn View) -> Vec<String> {
    let cidrs = |p: &PodIpPool| -> Vec<Cidr> {
        [&p.ipv4, &p.ipv6].into_iter().flatten().flat_map(|f| f.cidrs.iter().copied()).collect()
    };
    let mine = cidrs(pool);
    let mut out = Vec::new();
    let mut outside = view.blocks(&pool.name);
    outside.retain(|(_, block)| !mine.iter().any(|m| contains(*m, *block)));
    if !outside.is_empty() {
        let outside = blocks(&outside);
        out.push(format!(
            "spec: outside of the pool now nodes hold {outside}: pods keep their addresses there, new pods get none"
        ));
    }
    for other in view.pools().iter().filter(|o| o.name != pool.name) {
        for theirs in cidrs(other) {
            let overlap = mine.iter().find(|m| contains(**m, theirs) || contains(theirs, **m));
            let both = overlap.map(|m| format!("spec: {m} overlaps with {theirs} of CiliumPodIPPool {}", other.name));
            out.extend(both.map(|b| format!("{b}: only one of the two gives addresses of it")));
        }
    }
    out
}

/// Blocks in words: how many, and the first few by name.
fn blocks(held: &[(Arc<str>, Cidr)]) -> String {
    const NAMED: usize = 3;
    let named: Vec<String> = held.iter().take(NAMED).map(|(node, b)| format!("{b} of {node}")).collect();
    let more = if held.len() > NAMED { ", …" } else { "" };
    let word = if held.len() == 1 { "block" } else { "blocks" };
    format!("{} {word} ({}{more})", held.len(), named.join(", "))
}

/// What deleting a pool leaves behind.
pub(crate) fn of_deleted_pool(pool: &str, view: &dyn View) -> Vec<String> {
    let held = if view.is_complete() { view.blocks(pool) } else { Vec::new() };
    if held.is_empty() {
        return Vec::new();
    }
    vec![format!("nodes hold {}: pods keep their addresses there, new pods get none of the pool", blocks(&held))]
}

fn of_settings(settings: &Settings, view: &dyn View) -> Vec<String> {
    if !matches!(settings.ipam.mode, IpamMode::MultiPool) {
        return Vec::new();
    }
    let pools = view.pools();
    let named = std::iter::once(("defaultPool", &settings.ipam.default_pool))
        .chain(settings.ipam.pre_allocate.keys().map(|p| ("preAllocate", p)));
    let missing = named.filter(|(_, name)| pools.iter().all(|p| p.name != **name));
    let told = missing.map(|(field, name)| {
        format!("spec.ipam.multiPool.{field}: there is no CiliumPodIPPool {name} yet: nobody gets an address of it")
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use axoneme_model::{
        LabelKey,
        labels::names::{NAMESPACE_LABEL_PREFIX, SERVICE_ACCOUNT},
        world::{Namespace, PlainLabels},
    };
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    /// Names that pods give themselves, namespaces have, and nobody may forge.
    fn name() -> impl Strategy<Value = String> {
        let derived = [NAMESPACE, SERVICE_ACCOUNT].map(str::to_owned);
        let of_namespace = ["a", "b"].map(|l| format!("{NAMESPACE_LABEL_PREFIX}{l}"));
        select([["a", "b"].map(str::to_owned), derived, of_namespace].concat())
    }

    fn labels() -> impl Strategy<Value = PlainLabels> {
        let label = (name(), select(vec!["x", "y"])).prop_map(|(k, v)| (k.as_str().into(), v.into()));
        vec(label, 0..4).prop_map(|l| l.into_iter().collect())
    }

    fn requirement() -> impl Strategy<Value = Requirement> {
        let source = select(vec![Source::Any, Source::K8s, Source::Reserved, Source::Other("cni".into())]);
        let operator = select(vec![Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist]);
        (source, name(), operator, vec(select(vec!["x", "y", "z"]), 1..3)).prop_map(
            |(source, name, operator, values)| {
                let key = LabelKey { source, name: name.as_str().into() };
                Requirement { key, operator, values: values.into_iter().map(Into::into).collect() }
            },
        )
    }

    fn pod(labels: PlainLabels) -> Pod {
        let object = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "x"},
            "spec": {"nodeName": "n", "serviceAccountName": "y", "containers": []}});
        Pod { labels, ..axoneme_intake::pod(&object).unwrap().unwrap() }
    }

    proptest! {
        /// A pod is never passed over that the selector matches, nor is a namespace left out that it can match.
        #[test]
        fn no_pod_is_passed_over(of_pod in labels(), of_namespace in labels(), all in vec(requirement(), 0..4)) {
            let (pod, selector) = (pod(of_pod), Selector::new(all));
            let within = Namespace { labels: of_namespace, ..Namespace::default() };
            let matches = selector.matches(&pod.security_labels(Some(&within), "c"));
            prop_assert!(!matches || may_match(&selector, &pod), "{selector} passes {:?} over", pod.labels);
            prop_assert!(!matches || namespace(&selector).is_none_or(|n| n == "x"), "{selector}");
        }

        /// And those that are passed on for nothing are few: own labels are judged as the selector judges them.
        #[test]
        fn own_labels_decide(of_pod in labels(), all in vec(requirement(), 0..4)) {
            let plain = |r: &Requirement| !r.key.name.contains('.') && matches!(r.key.source, Source::K8s | Source::Any);
            let (pod, selector) = (pod(of_pod), Selector::new(all.into_iter().filter(plain).collect()));
            prop_assert_eq!(may_match(&selector, &pod), selector.matches(&pod.security_labels(None, "c")));
        }
    }
}
