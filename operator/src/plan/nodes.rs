//! CiliumNode objects, and the taint and condition of Node objects.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use axoneme_crds::axoneme_config::IpamMode;
use axoneme_model::{Cidr, Kind, ObjectRef};
use serde_json::{Map, Value, json};

use crate::{
    ipam::{NodePlan, NodeState, Plan},
    state::{Cluster, NodeEntry},
    write::{Operation, Part, Write},
};

/// The taint that keeps pods away until the agent is ready (upstream: `agent-not-ready-taint-key`).
pub const TAINT: &str = "node.cilium.io/agent-not-ready";

/// Addresses that the pods bound to each node need, by pool: node → pool → [IPv4, IPv6].
#[must_use]
pub fn demand(cluster: &Cluster) -> BTreeMap<Arc<str>, BTreeMap<Arc<str>, [u32; 2]>> {
    let mut demand: BTreeMap<_, BTreeMap<_, [u32; 2]>> = BTreeMap::new();
    if cluster.settings.ipam.mode != IpamMode::MultiPool {
        return demand;
    }
    for pod in cluster.pods.values().filter(|p| !p.node.is_empty()) {
        let node: &mut BTreeMap<_, [u32; 2]> = demand.entry(pod.node.clone()).or_default();
        let [v4, v6] = pools_of(cluster, pod);
        node.entry(v4).or_default()[0] += 1;
        node.entry(v6).or_default()[1] += 1;
    }
    demand
}

/// The pools of a pod, for each family: its annotation, its namespace's, the pools' selectors, the default.
#[must_use]
pub fn pools_of(cluster: &Cluster, pod: &axoneme_model::world::Pod) -> [Arc<str>; 2] {
    let namespace = cluster.namespaces.get(&pod.namespace);
    let annotated = |family: &str| {
        let of = |a: &BTreeMap<Arc<str>, Arc<str>>| a.get(family).or_else(|| a.get("ipam.cilium.io/ip-pool")).cloned();
        of(&pod.annotations).or_else(|| namespace.and_then(|n| of(&n.annotations)))
    };
    let other = || cluster.pool_of(pod).map_or_else(|| cluster.settings.ipam.default_pool.clone(), |p| p.name.clone());
    ["ipam.cilium.io/ipv4-pool", "ipam.cilium.io/ipv6-pool"].map(|f| annotated(f).unwrap_or_else(other))
}

/// What allocation knows of all nodes that exist.
#[must_use]
pub fn states(cluster: &Cluster) -> BTreeMap<Arc<str>, NodeState> {
    let mut demand = demand(cluster);
    // a CiliumNode without a Node holds its blocks until it is deleted
    cluster.nodes.iter().map(|(name, n)| (name.clone(), n.ipam(demand.remove(name).unwrap_or_default()))).collect()
}

/// Writes that make CiliumNodes what the plan says, of nodes that exist; and removes those of nodes that don't.
#[must_use]
pub fn cilium_nodes(cluster: &Cluster, plan: &Plan) -> Vec<Write> {
    let writes = cluster.nodes.iter().filter_map(|(name, n)| match (&n.node, &n.cilium) {
        (Some(_), None) => create(cluster, name, n, plan.nodes.get(name)?),
        (Some(_), Some(_)) => update(cluster, name, n, plan.nodes.get(name)?),
        (None, Some(_)) => remove(name, n),
        (None, None) => None,
    });
    writes.collect()
}

fn object(name: &str) -> ObjectRef {
    ObjectRef::new(Kind::CiliumNode, "", name)
}

fn create(cluster: &Cluster, name: &Arc<str>, n: &NodeEntry, plan: &NodePlan) -> Option<Write> {
    let uid = n.node_raw.pointer("/metadata/uid").and_then(Value::as_str)?;
    let labels = n.node_raw.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({}));
    let body = json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNode",
        "metadata": {"name": &**name, "labels": labels, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": &**name, "uid": uid}]},
        "spec": {"addresses": addresses(n), "ipam": ipam(cluster, n, plan)},
    });
    Some(Write::new(object(name), Part::Object, Operation::Create(body)))
}

/// Only what differs, and only onto the version that it was compared with: two writers never hand out on top of each
/// other.
fn update(cluster: &Cluster, name: &Arc<str>, n: &NodeEntry, plan: &NodePlan) -> Option<Write> {
    let mut spec = Map::new();
    let now = n.cilium_raw.get("spec").cloned().unwrap_or_default();
    let addresses = addresses(n);
    if now.get("addresses") != Some(&addresses) {
        spec.insert("addresses".into(), addresses);
    }
    let mut ipam = ipam(cluster, n, plan);
    ipam.retain(|k, v| now.get("ipam").and_then(|i| i.get(k)) != Some(v));
    if !ipam.is_empty() {
        spec.insert("ipam".into(), ipam.into());
    }
    if spec.is_empty() {
        return None;
    }
    let version = n.cilium_raw.pointer("/metadata/resourceVersion").cloned()?;
    let body = json!({"metadata": {"resourceVersion": version}, "spec": spec});
    Some(Write::new(object(name), Part::Object, Operation::Merge(body)))
}

fn remove(name: &Arc<str>, n: &NodeEntry) -> Option<Write> {
    // only what this operator made for a Node: an external one may be there on purpose
    let owner = n.cilium_raw.pointer("/metadata/ownerReferences/0/kind").and_then(Value::as_str);
    let text = |p: &str| n.cilium_raw.pointer(p).and_then(Value::as_str).map(str::to_owned);
    let delete = Operation::Delete { uid: text("/metadata/uid"), resource_version: text("/metadata/resourceVersion") };
    (owner == Some("Node")).then(|| Write::new(object(name), Part::Object, delete))
}

fn addresses(n: &NodeEntry) -> Value {
    let of_node = |kind: &str| {
        let list = n.node_raw.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten();
        let of_kind = list.filter(|a| a.get("type").is_some_and(|t| t == kind));
        of_kind.filter_map(|a| a.get("address")).map(|a| json!({"type": kind, "ip": a})).collect::<Vec<_>>()
    };
    let internal = n.internal_addresses();
    let internal = internal.iter().map(|a: &IpAddr| json!({"type": "CiliumInternalIP", "ip": a.to_string()}));
    let mut all = of_node("InternalIP");
    all.extend(of_node("ExternalIP"));
    all.extend(internal);
    all.into()
}

fn ipam(cluster: &Cluster, n: &NodeEntry, plan: &NodePlan) -> Map<String, Value> {
    let mut ipam = Map::new();
    match cluster.settings.ipam.mode {
        IpamMode::ClusterPool | IpamMode::Kubernetes => {
            if !plan.blocks.is_empty() {
                ipam.insert("podCIDRs".into(), texts(&plan.blocks));
            }
        }
        IpamMode::MultiPool => drop(ipam.insert("pools".into(), pools(cluster, n, plan))),
        IpamMode::CRD => {}
    }
    ipam
}

fn pools(cluster: &Cluster, n: &NodeEntry, plan: &NodePlan) -> Value {
    let allocated = plan.pools.iter().map(|(name, blocks)| {
        let mut one = json!({"pool": &**name, "cidrs": texts(blocks)});
        if let Some(pool) = cluster.pools.get(name)
            && let Some(one) = one.as_object_mut()
        {
            for (field, set) in [("allowFirstIP", pool.allow_first_address), ("allowLastIP", pool.allow_last_address)] {
                if set {
                    one.insert(field.into(), true.into());
                }
            }
        }
        one
    });
    let mut pools = json!({"allocated": allocated.collect::<Vec<_>>()});
    // what an agent of the peer asked for stays as it is
    if let Some(requested) = n.cilium_raw.pointer("/spec/ipam/pools/requested")
        && let Some(pools) = pools.as_object_mut()
    {
        pools.insert("requested".into(), requested.clone());
    }
    pools
}

fn texts(cidrs: &[Cidr]) -> Value {
    cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().into()
}

/// The Node object's taint and condition, once its agent is ready. `since` is the time to write for the condition.
#[must_use]
pub fn ready(name: &Arc<str>, n: &NodeEntry, since: &str) -> Vec<Write> {
    let (Some(_), true) = (&n.node, n.report.as_ref().is_some_and(|r| r.ready)) else { return Vec::new() };
    let object = ObjectRef::new(Kind::Node, "", name);
    let mut writes = Vec::new();
    let taints = n.node_raw.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
    let rest: Vec<_> = taints.iter().filter(|t| t.get("key").is_none_or(|k| k != TAINT)).cloned().collect();
    if rest.len() != taints.len() {
        let version = n.node_raw.pointer("/metadata/resourceVersion").cloned();
        let body = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": rest}});
        writes.push(Write::new(object.clone(), Part::Object, Operation::Merge(body)));
    }
    let conditions = n.node_raw.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let network = conditions.into_iter().find(|c| c.get("type").is_some_and(|t| t == "NetworkUnavailable"));
    if network.and_then(|c| c.get("status")).is_none_or(|s| s != "False") {
        let condition = json!({"type": "NetworkUnavailable", "status": "False", "reason": "AxonemeIsUp",
            "message": "The agent networks pods of this node", "lastTransitionTime": since, "lastHeartbeatTime": since});
        let body = json!({"status": {"conditions": [condition]}});
        writes.push(Write::new(object, Part::Status, Operation::Strategic(body)));
    }
    writes
}
