//! API objects → model: all parsing and all validation, for whoever holds an object.
//!
//! ```text
//!  watch ──┐                        ┌─▶ Parsed::{Pod, Policy, Service, …}      whole, in types that cannot be wrong
//!  folder ─┼─▶ Value ──▶ parse ─────┤
//!  webhook ┘                        └─▶ ObjectErrors                            every wrong field, with path and choices
//!                                         └─ fail_closed: what holds without an earlier good version
//! ```
//!
//! Invariants
//! - Pure and total: no IO, no clock, no panic, whatever the object holds.
//! - An object is taken whole or not at all. A field that is understood but not enforced yet is [`Reason::Unsupported`];
//!   an unknown field of a policy is an error, because ignoring it can widen a rule.
//! - All errors of an object come at once.
//!
//! What it does not do: it decides nothing and looks at one object at a time. That a named port exists nowhere or that a
//! CIDR group is missing is for the compiler to say.

mod address;
mod cidr_group;
mod cilium_config;
mod cilium_identity;
mod cilium_node;
mod cilium_policy;
mod cluster_network_policy;
mod config;
mod endpoint_slice;
mod error;
mod field;
mod meta;
mod namespace;
mod network_policy;
mod node;
mod node_config;
mod pod;
mod pod_ip_pool;
mod policy;
mod selector;
mod service;

use std::sync::Arc;

use axoneme_model::{
    Identity, Kind, Labels, ObjectRef, Policy,
    policy::CidrScope,
    world::{CidrGroup, Namespace, Node, Pod, Service},
};
use serde_json::Value;

pub use self::{
    cidr_group::cidr_group,
    cilium_config::{Left, Mapped, Migration, cilium_settings, from_cilium},
    cilium_identity::cilium_identity,
    cilium_node::{CiliumNode, PoolShare, RELEASING, Release, cilium_node},
    cilium_policy::{cilium_clusterwide_network_policy, cilium_network_policy},
    cluster_network_policy::cluster_network_policy,
    config::{
        Agent, CONFIG_NAME, Cni, Conntrack, Difference, Ipam, Masquerade, Native, NodeHealth, Routing, Services,
        Settings, config, difference,
    },
    endpoint_slice::{EndpointSlice, apiserver_addresses, endpoint_slice, merge},
    error::{FieldError, ObjectErrors, Reason},
    namespace::namespace,
    network_policy::network_policy,
    node::node,
    node_config::{NodeConfig, node_config},
    pod::pod,
    pod_ip_pool::{PodIpPool, PoolFamily, pod_ip_pool},
    service::service,
};
use crate::{
    field::{Errors, Field, nearest},
    meta::Meta,
};

/// Cluster-wide settings that change what an object means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whom CIDR rules of Cilium policies mean (`policyCIDRMatchMode`).
    pub cidr_scope: CidrScope,
}

impl Default for Options {
    fn default() -> Self {
        Self { cidr_scope: CidrScope::Outside }
    }
}

/// An object as the model knows it.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    Namespace(Arc<str>, Namespace),
    /// The pod's namespace and name; no pod if it is not on the pod network (any more).
    Pod((Arc<str>, Arc<str>), Option<Box<Pod>>),
    Node(Box<Node>),
    /// Without endpoints, see [`merge`].
    Service(Box<Service>),
    EndpointSlice(EndpointSlice),
    Policy(Policy),
    CidrGroup(Arc<str>, CidrGroup),
    Identity(Identity, Labels),
    CiliumNode(Box<CiliumNode>),
    NodeConfig(Box<NodeConfig>),
    PodIpPool(Box<PodIpPool>),
    Config(Box<Settings>),
    /// A kind that has nothing to do with the network, or that another tool keeps for itself.
    Ignored,
}

/// Reads any object, by its `apiVersion` and `kind`, with default [`Options`].
pub fn parse(object: &Value) -> Result<Parsed, ObjectErrors> {
    parse_with(object, &Options::default())
}

/// Reads any object, by its `apiVersion` and `kind`.
///
/// # Errors
/// Besides what is wrong with the object itself: `apiVersion` or `kind` missing, a kind or version of a group that
/// Axoneme serves which does not exist, or one that is not enforced yet. Kinds of other groups are [`Parsed::Ignored`].
pub fn parse_with(object: &Value, options: &Options) -> Result<Parsed, ObjectErrors> {
    match kind_of(object)? {
        Some(kind) => parse_as(kind, object, options),
        None => Ok(Parsed::Ignored),
    }
}

/// Reads an object of a known kind: items of a list carry no `apiVersion` and `kind`.
pub fn parse_as(kind: Kind, object: &Value, options: &Options) -> Result<Parsed, ObjectErrors> {
    Ok(match kind {
        Kind::Namespace => namespace(object).map(|(name, ns)| Parsed::Namespace(name, ns))?,
        Kind::Pod => {
            let key = object_ref(Kind::Pod, object)?;
            Parsed::Pod((key.namespace, key.name), pod(object)?.map(Box::new))
        }
        Kind::Node => Parsed::Node(Box::new(node(object)?)),
        Kind::Service => Parsed::Service(Box::new(service(object)?)),
        Kind::EndpointSlice => Parsed::EndpointSlice(endpoint_slice(object)?),
        Kind::NetworkPolicy => Parsed::Policy(network_policy(object)?),
        Kind::ClusterNetworkPolicy => Parsed::Policy(cluster_network_policy(object)?),
        Kind::CiliumNetworkPolicy => Parsed::Policy(cilium_network_policy(object, options)?),
        Kind::CiliumClusterwideNetworkPolicy => Parsed::Policy(cilium_clusterwide_network_policy(object, options)?),
        Kind::CiliumCIDRGroup => cidr_group(object).map(|(name, group)| Parsed::CidrGroup(name, group))?,
        Kind::CiliumIdentity => cilium_identity(object).map(|(id, labels)| Parsed::Identity(id, labels))?,
        Kind::CiliumNode => Parsed::CiliumNode(Box::new(cilium_node(object)?)),
        Kind::CiliumNodeConfig => Parsed::NodeConfig(Box::new(node_config(object)?)),
        Kind::CiliumPodIPPool => Parsed::PodIpPool(Box::new(pod_ip_pool(object)?)),
        Kind::AxonemeConfig => Parsed::Config(Box::new(config(object)?)),
        Kind::Builtin => Parsed::Ignored,
    })
}

/// The object's namespace and name. An error if they are missing or wrong; nothing else of the object is looked at.
pub fn object_ref(kind: Kind, object: &Value) -> Result<ObjectRef, ObjectErrors> {
    read(object, kind, |_, meta| (meta.object.clone(), None))
}

/// Kinds by `apiVersion` and `kind`.
const KINDS: [(&str, &str, Kind); 16] = [
    ("v1", "Namespace", Kind::Namespace),
    ("v1", "Pod", Kind::Pod),
    ("v1", "Node", Kind::Node),
    ("v1", "Service", Kind::Service),
    ("discovery.k8s.io/v1", "EndpointSlice", Kind::EndpointSlice),
    ("networking.k8s.io/v1", "NetworkPolicy", Kind::NetworkPolicy),
    ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", Kind::ClusterNetworkPolicy),
    ("cilium.io/v2", "CiliumNetworkPolicy", Kind::CiliumNetworkPolicy),
    ("cilium.io/v2", "CiliumClusterwideNetworkPolicy", Kind::CiliumClusterwideNetworkPolicy),
    ("cilium.io/v2", "CiliumCIDRGroup", Kind::CiliumCIDRGroup),
    ("cilium.io/v2alpha1", "CiliumCIDRGroup", Kind::CiliumCIDRGroup),
    ("cilium.io/v2", "CiliumIdentity", Kind::CiliumIdentity),
    ("cilium.io/v2", "CiliumNode", Kind::CiliumNode),
    ("cilium.io/v2", "CiliumNodeConfig", Kind::CiliumNodeConfig),
    ("cilium.io/v2alpha1", "CiliumPodIPPool", Kind::CiliumPodIPPool),
    ("axoneme.io/v1alpha1", "AxonemeConfig", Kind::AxonemeConfig),
];

/// The objects of a list (`kind: List`, `kind: PodList`), as `kubectl get -o yaml` writes them; none if this is no list.
pub fn items(object: &Value) -> Option<&[Value]> {
    let kind = object.get("kind")?.as_str()?;
    let items = object.get("items")?.as_array()?;
    kind.ends_with("List").then_some(items)
}

/// Kinds of the `cilium.io` group that agents of the peer write for themselves.
const KEPT_BY_OTHERS: [&str; 3] = ["CiliumEndpoint", "CiliumEndpointSlice", "CiliumBGPNodeConfig"];

/// Kinds of the groups that Axoneme serves which exist and are not enforced yet.
const NOT_YET: [&str; 19] = [
    "AdminNetworkPolicy",
    "BaselineAdminNetworkPolicy",
    "CiliumBGPAdvertisement",
    "CiliumBGPClusterConfig",
    "CiliumBGPNodeConfigOverride",
    "CiliumBGPPeerConfig",
    "CiliumClusterwideEnvoyConfig",
    "CiliumDatapathPlugin",
    "CiliumEgressGatewayPolicy",
    "CiliumEnvoyConfig",
    "CiliumGatewayClassConfig",
    "CiliumL2AnnouncementPolicy",
    "CiliumLoadBalancerIPPool",
    "CiliumLocalRedirectPolicy",
    "CiliumNetworkDriverClusterConfig",
    "CiliumNetworkDriverNodeConfig",
    "CiliumResourceIPPool",
    "TracingPolicy",
    "TracingPolicyNamespaced",
];

/// Which kind an object is; none for kinds that are [`Parsed::Ignored`].
pub fn kind_of(object: &Value) -> Result<Option<Kind>, ObjectErrors> {
    let errors = Errors::default();
    let kind = find_kind(&Field::root(object, &errors));
    if errors.len() == 0 {
        return Ok(kind);
    }
    Err(ObjectErrors { kind: None, object: None, generation: 0, errors: errors.into_vec(), fail_closed: None })
}

fn find_kind(root: &Field<'_>) -> Option<Kind> {
    if !root.object() {
        return None;
    }
    let (version_field, kind_field) = (root.require("apiVersion"), root.require("kind"));
    let version = version_field?.str();
    let kind_field = kind_field?;
    let (version, kind) = (version?, kind_field.str()?);
    if let Some(single) = kind.strip_suffix("List")
        && (version == "v1" && single.is_empty() || KINDS.iter().any(|(v, k, _)| (*v, *k) == (version, single)))
    {
        kind_field.invalid("is a list; its items are objects of their own");
        return None;
    }
    if let Some((_, _, found)) = KINDS.iter().find(|(v, k, _)| (*v, *k) == (version, kind)) {
        return Some(*found);
    }
    let group = version.split_once('/').map_or("", |(group, _)| group);
    if !matches!(group, "cilium.io" | "axoneme.io" | "policy.networking.k8s.io") {
        // another version of a kind that matters must not be passed over
        if let Some((known, ..)) = KINDS.iter().find(|(v, k, _)| *k == kind && same_group(v, version)) {
            root.get("apiVersion")?.invalid(format!("no such version of {kind}; there is {known}"));
        }
        return None;
    }
    if KEPT_BY_OTHERS.contains(&kind) {
        return None;
    }
    if NOT_YET.contains(&kind) {
        kind_field.unsupported("this kind is not enforced yet");
        return None;
    }
    let versions: Vec<&str> = KINDS.iter().filter(|(_, k, _)| *k == kind).map(|(v, ..)| *v).collect();
    if versions.is_empty() {
        let kinds = || KINDS.iter().filter(|(v, ..)| same_group(v, version)).map(|(_, k, _)| *k);
        kind_field.invalid(match nearest(kind, kinds()) {
            Some(near) => format!("no such kind in {group}; did you mean {near}?"),
            None => format!("no such kind in {group}; there are {}", kinds().collect::<Vec<_>>().join(", ")),
        });
    } else {
        root.get("apiVersion")?.invalid(format!("no such version of {kind}; there is {}", versions.join(", ")));
    }
    None
}

fn same_group(a: &str, b: &str) -> bool {
    let group = |version: &str| version.rsplit_once('/').map(|(group, _)| group.to_owned());
    group(a) == group(b)
}

/// Reads an object's metadata and whatever `body` reads; any error turns the result into [`ObjectErrors`].
fn read<T>(
    object: &Value,
    kind: Kind,
    body: impl FnOnce(&Field<'_>, &Meta) -> (T, Option<Policy>),
) -> Result<T, ObjectErrors> {
    let errors = Errors::default();
    let root = Field::root(object, &errors);
    let meta = Meta::read(&root, kind);
    let (parsed, fail_closed) = body(&root, &meta);
    if errors.len() == 0 {
        return Ok(parsed);
    }
    let Meta { object, generation } = meta;
    let named = !object.name.is_empty();
    Err(ObjectErrors {
        kind: Some(kind),
        generation,
        errors: errors.into_vec(),
        // without a name there is nothing to keep it under
        fail_closed: fail_closed.filter(|_| named).map(Box::new),
        object: named.then_some(object),
    })
}
