//! CiliumNode objects, and the taint and condition of Node objects.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use axoneme_crds::axoneme_config::IpamMode;
use axoneme_intake::RELEASING;
use axoneme_model::{Cidr, Kind, ObjectRef};
use axoneme_wire::Proof;
use serde_json::{Map, Value, json};

use crate::{
    ipam::{Choice, NodePlan, NodeState, Plan},
    plan::status::cut,
    state::{
        Cluster, NodeEntry, NodeUse,
        said::{Address, AddressKind, Allocated, texts},
    },
    write::{Operation, Part, Write},
};

/// The taint that keeps pods away until the agent is ready (upstream: `agent-not-ready-taint-key`).
pub const TAINT: &str = "node.cilium.io/agent-not-ready";

/// Blocks that writes give to nodes, by node, with the version of the CiliumNode that these writes are onto. A write that
/// was not answered may be carried out later, as long as the object has that version; until then nobody else gets them.
pub type Promises = BTreeMap<Arc<str>, (u64, BTreeMap<Arc<str>, Vec<Cidr>>)>;

/// Forgets promises that were kept, or that can't be any more.
pub fn settle(promises: &mut Promises, cluster: &Cluster) {
    promises.retain(|name, (version, _)| cluster.nodes.get(name).is_some_and(|n| n.version() == *version));
}

/// Remembers what a write gives to a node.
pub fn promise(promises: &mut Promises, cluster: &Cluster, name: &Arc<str>, plan: Option<&NodePlan>) {
    let (Some(plan), Some(node)) = (plan, cluster.nodes.get(name)) else { return };
    let (version, promised) = promises.entry(name.clone()).or_default();
    if *version != node.version() {
        promised.clear();
        *version = node.version();
    }
    let blocks = (!plan.blocks.is_empty()).then(|| (Arc::from(""), plan.blocks.clone()));
    for (pool, blocks) in plan.pools.clone().into_iter().chain(blocks) {
        let known = promised.entry(pool).or_default();
        known.extend(blocks.into_iter().filter(|b| !known.contains(b)).collect::<Vec<_>>());
    }
}

/// What allocation knows of all nodes that exist.
#[must_use]
pub fn states(cluster: &Cluster, promises: &Promises) -> BTreeMap<Arc<str>, NodeState> {
    let multi = cluster.settings.ipam.mode == IpamMode::MultiPool;
    // a CiliumNode without a Node holds its blocks until it is deleted
    let state = |(name, n): (&Arc<str>, &NodeEntry)| {
        let uses = cluster.uses(name);
        let demand = if multi { demand(cluster, &uses) } else { BTreeMap::new() };
        let promised = promises.get(name).map(|(_, p)| p.clone()).unwrap_or_default();
        (name.clone(), NodeState { promised, ..n.ipam(demand, uses.in_use) })
    };
    cluster.nodes.iter().map(state).collect()
}

/// Addresses that pods of a node wait for, by pool: IPv4, IPv6.
fn demand(cluster: &Cluster, uses: &NodeUse) -> BTreeMap<Arc<str>, [u32; 2]> {
    let mut demand: BTreeMap<_, [u32; 2]> = BTreeMap::new();
    for (key, lacks) in &uses.waiting {
        let Some(pod) = cluster.pods.get(key) else { continue };
        for (family, choice) in cluster.choice(pod).into_iter().enumerate() {
            if let (Choice::Pool(pool), Some(true)) = (choice, lacks.get(family))
                && let Some(count) = demand.entry(pool).or_default().get_mut(family)
            {
                *count += 1;
            }
        }
    }
    demand
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
    let uid = n.node_said.uid.as_deref()?;
    let labels = n.node.iter().flat_map(|n| n.labels.iter()).map(|(k, v)| (k.to_string(), Value::from(&**v)));
    let labels: Map<String, Value> = labels.collect();
    let addresses: Vec<Value> = addresses(n).iter().map(Address::json).collect();
    let mut body = json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNode",
        "metadata": {"name": &**name, "labels": labels, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": &**name, "uid": uid}]},
        "spec": {"addresses": addresses, "ipam": ipam(cluster, n, plan)},
    });
    if let (Some(marks), Some(metadata)) = (marks(plan), body.get_mut("metadata").and_then(Value::as_object_mut)) {
        metadata.insert("annotations".into(), json!({RELEASING: marks}));
    }
    Some(Write::new(object(name), Part::Object, Operation::Create(body)))
}

/// Only what differs, and only onto the version that it was compared with: two writers never hand out on top of each
/// other.
fn update(cluster: &Cluster, name: &Arc<str>, n: &NodeEntry, plan: &NodePlan) -> Option<Write> {
    let now = &n.cilium_said;
    let mut spec = Map::new();
    let addresses = addresses(n);
    if !now.addresses.is(&addresses) {
        spec.insert("addresses".into(), addresses.iter().map(Address::json).collect());
    }
    let ipam = ipam(cluster, n, plan);
    if !ipam.is_empty() {
        spec.insert("ipam".into(), ipam.into());
    }
    let marks = marks(plan).filter(|_| cluster.settings.ipam.mode == IpamMode::MultiPool);
    let same = marks.as_deref() == now.marks.as_deref();
    if spec.is_empty() && same {
        return None;
    }
    let mut body = json!({"metadata": {"resourceVersion": now.version.as_deref()?}});
    let parts = body.as_object_mut()?;
    if !spec.is_empty() {
        parts.insert("spec".into(), spec.into());
    }
    if !same && let Some(metadata) = parts.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("annotations".into(), json!({RELEASING: marks}));
    }
    Some(Write::new(object(name), Part::Object, Operation::Merge(body)))
}

/// The annotation that marks blocks; none: no block is marked.
fn marks(plan: &NodePlan) -> Option<String> {
    let blocks: Vec<_> = plan.releasing.iter().map(ToString::to_string).collect();
    (!blocks.is_empty()).then(|| blocks.join(","))
}

fn remove(name: &Arc<str>, n: &NodeEntry) -> Option<Write> {
    // only what this operator made for a Node: an external one may be there on purpose
    let now = &n.cilium_said;
    let text = |t: &Option<Box<str>>| t.as_deref().map(str::to_owned);
    let delete = Operation::Delete { uid: text(&now.uid), resource_version: text(&now.version) };
    now.is_of_node.then(|| Write::new(object(name), Part::Object, delete))
}

/// What the CiliumNode should list: addresses of the Node, then those that it has on its pod-facing interfaces.
fn addresses(n: &NodeEntry) -> Vec<Address> {
    let internal = n.internal_addresses();
    let internal =
        internal.iter().map(|a: &IpAddr| Address { kind: AddressKind::CiliumInternal, text: a.to_string().into() });
    n.node_said.addresses.iter().cloned().chain(internal).collect()
}

/// What of `spec.ipam` is not as it should be.
fn ipam(cluster: &Cluster, n: &NodeEntry, plan: &NodePlan) -> Map<String, Value> {
    let (mut ipam, now) = (Map::new(), &n.cilium_said);
    match cluster.settings.ipam.mode {
        IpamMode::ClusterPool | IpamMode::Kubernetes => {
            if !plan.blocks.is_empty() && !now.blocks.is(&plan.blocks) {
                ipam.insert("podCIDRs".into(), texts(&plan.blocks));
            }
        }
        IpamMode::MultiPool => {
            let wanted = pools(cluster, n, plan);
            if !now.pools.is(&wanted) {
                let mut pools = json!({"allocated": wanted.iter().map(Allocated::json).collect::<Vec<_>>()});
                // what an agent of the peer asked for stays as it is
                if let (Some(requested), Some(pools)) = (&now.requested, pools.as_object_mut()) {
                    pools.insert("requested".into(), Value::clone(requested));
                }
                ipam.insert("pools".into(), pools);
            }
            // a cluster that had one pool before: the blocks are in `pools` now
            if now.blocks.is_there() {
                ipam.insert("podCIDRs".into(), Value::Null);
            }
        }
        IpamMode::CRD => {}
    }
    ipam
}

fn pools(cluster: &Cluster, n: &NodeEntry, plan: &NodePlan) -> Vec<Allocated> {
    let allocated = plan.pools.iter().map(|(name, blocks)| {
        // of a pool that is gone, what was written when the blocks were given
        let written = n.cilium.as_ref().and_then(|c| c.pools.get(name));
        let edges = cluster.pools.get(name).map(|p| [p.spec.allow_first_address, p.spec.allow_last_address]);
        let edges = edges.or_else(|| written.map(|w| [w.allow_first_address, w.allow_last_address]));
        Allocated { pool: (&**name).into(), blocks: blocks.clone(), edges: edges.unwrap_or_default() }
    });
    allocated.collect()
}

/// The Node object's taint and condition, once its agent is ready and probes have proved its datapath; and the condition
/// alone where they refute it, from which the node lifecycle controller makes a taint of its own. `since` is the time to
/// write for the condition.
#[must_use]
pub fn ready(name: &Arc<str>, n: &NodeEntry, since: &str) -> Vec<Write> {
    let report = n.report.as_ref().filter(|r| r.ready && n.node.is_some());
    let object = ObjectRef::new(Kind::Node, "", name);
    let mut writes = Vec::new();
    match report.map(|r| &r.proof) {
        None | Some(Proof::Pending) => return writes,
        Some(Proof::Refuted(why)) => {
            writes.extend(network_unavailable(n, &object, ("True", "DatapathNotProven", &cut(why.clone())), since));
            return writes;
        }
        Some(Proof::Proven | Proof::Unasked) => {}
    }
    let now = &n.node_said;
    if !now.taints.is_empty() {
        let rest: Vec<_> = now.taints.iter().filter(|t| t.get("key").is_none_or(|k| k != TAINT)).collect();
        let body = json!({"metadata": {"resourceVersion": now.version}, "spec": {"taints": rest}});
        writes.push(Write::new(object.clone(), Part::Object, Operation::Merge(body)));
    }
    let up = ("False", "AxonemeIsUp", "The agent networks pods of this node");
    writes.extend(network_unavailable(n, &object, up, since));
    writes
}

/// The write that makes the condition so; none if it says so already, whatever its words.
fn network_unavailable(
    n: &NodeEntry,
    object: &ObjectRef,
    (status, reason, message): (&str, &str, &str),
    since: &str,
) -> Option<Write> {
    if n.node_said.network_unavailable.as_deref() == Some(status) {
        return None;
    }
    let condition = json!({"type": "NetworkUnavailable", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since, "lastHeartbeatTime": since});
    let body = json!({"status": {"conditions": [condition]}});
    Some(Write::new(object.clone(), Part::Status, Operation::Strategic(body)))
}
