//! Rows that take no thinking.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use axoneme_model::{
    Bandwidth, Cidr, Identity, Labels, PeerClass,
    rows::{EndpointRow, IdentityRow, IpRow, NodeRow, TableId},
    world::{Namespace, Node, PlainLabels, Pod},
};

/// Annotations that choose address pools (Cilium's `ipam.cilium.io/*`): both families, or one.
const POOL: &str = "ipam.cilium.io/ip-pool";
const POOL_V4: &str = "ipam.cilium.io/ipv4-pool";
const POOL_V6: &str = "ipam.cilium.io/ipv6-pool";

/// All addresses of a node.
pub(crate) fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    node.addresses.iter().chain(&node.internal_addresses).copied()
}

pub(crate) fn node(node: &Node) -> NodeRow {
    NodeRow { name: node.name.clone(), addresses: node.addresses.clone(), pod_cidrs: node.pod_cidrs.clone() }
}

pub(crate) fn identity(id: Identity, labels: &Labels) -> IdentityRow {
    IdentityRow { id, labels: labels.clone() }
}

/// The identities that are always there.
pub(crate) fn reserved() -> BTreeMap<Identity, IdentityRow> {
    let reserved = (1..Identity::FIRST.0).map(Identity);
    reserved.filter_map(|id| Some((id, identity(id, &id.reserved_labels()?)))).collect()
}

pub(crate) fn node_ip(prefix: Cidr, node: &Node, remote: PeerClass, local: PeerClass) -> IpRow {
    IpRow {
        prefix,
        identity: Identity::REMOTE_NODE,
        peer: remote,
        local_identity: Identity::HOST,
        local_peer: local,
        tunnel: None,
        node: node.name.clone(),
        pod: Arc::default(),
    }
}

/// `node`: the one that the pod is bound to, if it is known.
pub(crate) fn pod_ip(prefix: Cidr, pod: &Pod, node: Option<&Node>, identity: Identity, peer: PeerClass) -> IpRow {
    IpRow {
        prefix,
        identity,
        peer,
        local_identity: identity,
        local_peer: peer,
        tunnel: node.and_then(underlay),
        node: pod.node.clone(),
        pod: format!("{}/{}", pod.namespace, pod.name).into(),
    }
}

/// Where to send packets for a node's pods: IPv4 before IPv6, so that all pods of a node go one way.
fn underlay(node: &Node) -> Option<IpAddr> {
    node.addresses.iter().find(|a| a.is_ipv4()).or_else(|| node.addresses.first()).copied()
}

pub(crate) fn world_ip(prefix: Cidr, identity: Identity, peer: PeerClass) -> IpRow {
    IpRow {
        prefix,
        identity,
        peer,
        local_identity: identity,
        local_peer: peer,
        tunnel: None,
        node: Arc::default(),
        pod: Arc::default(),
    }
}

pub(crate) fn endpoint(
    pod: &Pod,
    namespace: Option<&Namespace>,
    labels: Labels,
    identity: Identity,
    peer: PeerClass,
    table: TableId,
) -> EndpointRow {
    EndpointRow {
        uid: pod.uid.clone(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        node: pod.node.clone(),
        identity,
        peer,
        table,
        addresses: std::collections::BTreeSet::new(),
        pool_v4: pool(pod, namespace, POOL_V4),
        pool_v6: pool(pod, namespace, POOL_V6),
        labels,
        bandwidth: Bandwidth::of(&pod.annotations),
    }
}

/// The pod's choice, else its namespace's; the family's own annotation before the one for both.
fn pool(pod: &Pod, namespace: Option<&Namespace>, family: &str) -> Arc<str> {
    let of = |a: &PlainLabels| a.get(family).or_else(|| a.get(POOL)).cloned();
    of(&pod.annotations).or_else(|| namespace.and_then(|n| of(&n.annotations))).unwrap_or_default()
}
