//! Selectors of peers that match nothing of a world: a typing error, or something that is not there yet.

use axoneme_model::{
    Labels, Peer, Peers, Policy, Selector, Source, World, policy::ServiceSelector, world::matches_plain,
};

/// Of these policies: the rule and the selector, as `Kind namespace/name path: selector`. Those that may mean something
/// outside of the world (CIDRs, entities, reserved labels) always match.
pub(super) fn selectors<'p>(world: &World, policies: impl Iterator<Item = &'p Policy>) -> Vec<String> {
    let of_pod = |p: &axoneme_model::world::Pod| {
        p.security_labels(world.namespaces.get(&p.namespace), &world.config.cluster_name)
    };
    let known = Known { world, pods: world.pods.values().map(of_pod).collect() };
    let mut out = Vec::new();
    for policy in policies {
        for rule in policy.rules.iter().flat_map(|r| r.ingress.iter().chain(&r.egress)) {
            let Peers::OneOf(peers) = &rule.peers else { continue };
            let unmatched = peers.iter().filter_map(|peer| known.unmatched(peer));
            out.extend(unmatched.map(|selector| format!("{} {}: {selector}", policy.object, rule.path)));
        }
    }
    out.sort();
    // one selector may have become several peers
    out.dedup();
    out
}

struct Known<'w> {
    world: &'w World,
    /// Labels of each pod, with those of its namespace.
    pods: Vec<Labels>,
}

impl Known<'_> {
    /// The peer in words, if nobody is meant by it.
    fn unmatched(&self, peer: &Peer) -> Option<String> {
        let world = self.world;
        let (matches, words) = match peer {
            Peer::Endpoints(selector) => (self.any_pod(selector), format!("pods {selector}")),
            // manifests of applications have no nodes; then nothing can be said of them
            Peer::Nodes(selector) => {
                let real = || world.nodes.values().filter(|n| *n.name != *crate::world::SOMEWHERE);
                let any = real().next().is_none() || real().any(|n| matches_plain(selector, &n.labels));
                (any, format!("nodes {selector}"))
            }
            Peer::CidrGroup { name, .. } => (world.cidr_groups.contains_key(name), format!("CiliumCIDRGroup {name}")),
            Peer::CidrGroups { selector, .. } => {
                let any = world.cidr_groups.values().any(|g| matches_plain(selector, &g.labels));
                (any, format!("CiliumCIDRGroups {selector}"))
            }
            Peer::Services(selector) => (self.any_service(selector), words_of(selector)),
            Peer::Entity(_) | Peer::Cidr { .. } => return None,
        };
        (!matches).then_some(words)
    }

    fn any_pod(&self, selector: &Selector) -> bool {
        selector.keys().any(|k| k.source == Source::Reserved) || self.pods.iter().any(|labels| selector.matches(labels))
    }

    fn any_service(&self, wanted: &ServiceSelector) -> bool {
        let services = &self.world.services;
        match wanted {
            ServiceSelector::Name { namespace, name } => services.contains_key(&(namespace.clone(), name.clone())),
            ServiceSelector::Labels { namespace, selector } => services
                .values()
                .filter(|s| namespace.as_ref().is_none_or(|n| *n == s.namespace))
                .any(|s| matches_plain(selector, &s.labels)),
        }
    }
}

fn words_of(selector: &ServiceSelector) -> String {
    match selector {
        ServiceSelector::Name { namespace, name } => format!("Service {namespace}/{name}"),
        ServiceSelector::Labels { namespace: Some(namespace), selector } => {
            format!("Services {selector} of namespace {namespace}")
        }
        ServiceSelector::Labels { namespace: None, selector } => format!("Services {selector}"),
    }
}
