//! Who: `fromEndpoints`, `toCIDRSet` and the like.

use axoneme_model::{
    Action, Peer,
    policy::{Entity, ServiceSelector},
};

use super::Scope;
use crate::{
    address::{exceptions, prefix, prefix_or_address},
    field::Field,
    selector::{Keys, is_pod, namespace_is, requirements},
};

/// The names of an entry's peer lists.
#[derive(Debug)]
pub(super) struct Names {
    endpoints: &'static str,
    cidr: &'static str,
    cidr_set: &'static str,
    entities: &'static str,
    nodes: &'static str,
    groups: &'static str,
    requires: &'static str,
    services: Option<&'static str>,
    fqdns: Option<&'static str>,
}

pub(super) const INGRESS: Names = Names {
    endpoints: "fromEndpoints",
    cidr: "fromCIDR",
    cidr_set: "fromCIDRSet",
    entities: "fromEntities",
    nodes: "fromNodes",
    groups: "fromGroups",
    requires: "fromRequires",
    services: None,
    fqdns: None,
};

pub(super) const EGRESS: Names = Names {
    endpoints: "toEndpoints",
    cidr: "toCIDR",
    cidr_set: "toCIDRSet",
    entities: "toEntities",
    nodes: "toNodes",
    groups: "toGroups",
    requires: "toRequires",
    services: Some("toServices"),
    fqdns: Some("toFQDNs"),
};

impl Names {
    /// The lists that name peers.
    fn lists(&self) -> impl Iterator<Item = &'static str> {
        [self.endpoints, self.cidr, self.cidr_set, self.entities, self.nodes, self.groups]
            .into_iter()
            .chain(self.services)
            .chain(self.fqdns)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &'static str> {
        self.lists().chain([self.requires])
    }
}

const ENTITIES: [(&str, Entity); 14] = [
    ("all", Entity::All),
    ("world", Entity::World),
    ("world-ipv4", Entity::WorldIpv4),
    ("world-ipv6", Entity::WorldIpv6),
    ("cluster", Entity::Cluster),
    // there is no mesh of clusters yet, so the mesh is this cluster
    ("cluster-mesh", Entity::Cluster),
    ("host", Entity::Host),
    ("init", Entity::Init),
    ("ingress", Entity::Ingress),
    ("unmanaged", Entity::Unmanaged),
    ("remote-node", Entity::RemoteNode),
    ("health", Entity::Health),
    ("none", Entity::None),
    ("kube-apiserver", Entity::KubeApiserver),
];

/// The peers of an entry; none if it has no peer list, an empty vector if it has an empty one.
pub(super) fn peers(field: &Field<'_>, names: &Names, scope: &Scope<'_>, action: Action) -> Option<Vec<Peer>> {
    if let Some(requires) = field.get(names.requires)
        && requires.items().count() > 0
    {
        requires.invalid(format!("was removed; add the requirements to each selector of {}", names.endpoints));
    }
    let present: Vec<Field<'_>> = names.lists().filter_map(|name| field.get(name)).collect();
    let used: Vec<&Field<'_>> = present.iter().filter(|list| list.len() > 0).collect();
    // both lists of prefixes are one kind: an address matches if it is in either
    let kind = |name| if name == names.cidr { names.cidr_set } else { name };
    if let Some(first) = used.first()
        && let Some(second) = used.iter().find(|list| kind(list.name()) != kind(first.name()))
    {
        field.invalid(format!(
            "combines {} and {}; an entry names one kind of peer: write an entry for each",
            first.name(),
            second.name()
        ));
    }
    let mut out = Vec::new();
    for list in &present {
        read_list(list, names, scope, action, &mut out);
    }
    if present.is_empty() {
        return None;
    }
    // an empty list selects nobody, whatever stands beside it
    if used.len() < present.len() {
        out.clear();
    }
    Some(out)
}

fn read_list(list: &Field<'_>, names: &Names, scope: &Scope<'_>, action: Action, out: &mut Vec<Peer>) {
    let name = list.name();
    for item in list.items() {
        if name == names.endpoints {
            out.push(endpoints(&item, scope));
        } else if name == names.cidr {
            out.extend(prefix_or_address(&item).map(|cidr| Peer::Cidr { cidr, except: Vec::new(), scope: scope.cidr }));
        } else if name == names.cidr_set {
            out.extend(cidr_rule(&item, scope));
        } else if name == names.entities {
            out.extend(item.choice(&ENTITIES).map(Peer::Entity));
        } else if name == names.nodes {
            out.push(Peer::Nodes(requirements(&item, Keys::Object).into_selector()));
        } else if Some(name) == names.services {
            out.extend(service(&item).map(Peer::Services));
        }
    }
    if list.len() == 0 {
        return;
    }
    if name == names.groups {
        list.unsupported("peers that a cloud provider names are not enforced yet");
    } else if Some(name) == names.fqdns && action == Action::Deny {
        list.invalid("cannot be denied: DNS names are for allow rules; deny prefixes with toCIDRSet");
    } else if Some(name) == names.fqdns {
        list.unsupported("DNS names are not enforced yet; name prefixes with toCIDRSet");
    }
}

/// A selector without a namespace means the policy's own; in the clusterwide kind it means pods of any namespace.
fn endpoints(field: &Field<'_>, scope: &Scope<'_>) -> Peer {
    let mut selector = requirements(field, Keys::Endpoint);
    if !selector.names_reserved() && !selector.names_namespace() {
        match scope.namespace {
            None => selector.expressions.push(is_pod()),
            Some(own) if !selector.names_namespace_labels() => selector.labels.push(namespace_is(own)),
            Some(_) => {}
        }
    }
    Peer::Endpoints(selector.into_selector())
}

fn cidr_rule(field: &Field<'_>, scope: &Scope<'_>) -> Option<Peer> {
    const CHOICES: [&str; 3] = ["cidr", "cidrGroupRef", "cidrGroupSelector"];
    field.only(&["cidr", "cidrGroupRef", "cidrGroupSelector", "except"]);
    if field.raw().is_object() && CHOICES.iter().filter(|c| field.has(c)).count() != 1 {
        field.invalid("needs exactly one of cidr, cidrGroupRef and cidrGroupSelector");
    }
    let scope = scope.cidr;
    let except = |outer| field.get("except").map(|list| exceptions(&list, outer, false)).unwrap_or_default();
    if let Some(cidr) = field.get("cidr") {
        let cidr = prefix(&cidr);
        let except = except(cidr);
        return Some(Peer::Cidr { cidr: cidr?, except, scope });
    }
    if let Some(group) = field.get("cidrGroupRef") {
        let name = group.str().filter(|name| !name.is_empty());
        if name.is_none() {
            group.invalid("must be the name of a CiliumCIDRGroup");
        }
        return Some(Peer::CidrGroup { name: name?.into(), except: except(None), scope });
    }
    let selector = field.get("cidrGroupSelector")?;
    let selector = requirements(&selector, Keys::Object).into_selector();
    Some(Peer::CidrGroups { selector, except: except(None), scope })
}

/// One entry of `toServices`.
fn service(field: &Field<'_>) -> Option<ServiceSelector> {
    field.only(&["k8sService", "k8sServiceSelector"]);
    let (name, selector) = (field.get("k8sService"), field.get("k8sServiceSelector"));
    if field.raw().is_object() && name.is_some() == selector.is_some() {
        field.invalid("needs exactly one of k8sService and k8sServiceSelector");
    }
    if let Some(service) = name {
        service.only(&["serviceName", "namespace"]);
        let name = service.require("serviceName").and_then(|n| n.str());
        let namespace = service.get("namespace").and_then(|n| n.str()).filter(|n| !n.is_empty());
        if namespace.is_none() && name.is_some() {
            // Cilium takes it as any namespace; the reader of the policy most likely takes it as its own
            service.unsupported("is not enforced without a namespace; name the one that the service is in");
        }
        return Some(ServiceSelector::Name { namespace: namespace?.into(), name: name?.into() });
    }
    let selector = selector?;
    selector.only(&["selector", "namespace"]);
    let labels = selector.require("selector").map(|s| requirements(&s, Keys::Object).into_selector());
    let namespace = selector.get("namespace").and_then(|n| n.str()).filter(|n| !n.is_empty());
    Some(ServiceSelector::Labels { namespace: namespace.map(Into::into), selector: labels? })
}
