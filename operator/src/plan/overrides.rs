//! What people see of settings of single nodes: the status of CiliumNodeConfigs, and of CiliumNodes.
//!
//! What a node has acknowledged is told of the CiliumNodeConfigs only. In a CiliumNode it would be a new version of that
//! object, which nodes are told of (multi-pool), which they would have to acknowledge.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axoneme_model::{Kind, ObjectRef, world::Node};
use serde_json::{Value, json};

use super::status::{Condition, cut, merged, valid};
use crate::{
    state::{Cluster, NodeConfigEntry, Resolved},
    write::{Operation, Part, Write},
};

/// Nodes that a condition names.
const NAMED: usize = 5;

/// What became of one object.
#[derive(Debug, Default)]
struct Use {
    selected: usize,
    applied: usize,
    /// The first of the nodes that do not run with it yet.
    pending: Vec<Arc<str>>,
    /// Settings with their values.
    differ: BTreeSet<String>,
    /// Settings about which another object decides, and on how many nodes.
    overruled: BTreeMap<(&'static str, String), usize>,
}

/// Writes that bring the status of CiliumNodeConfigs up to date. `runs`: whether a node runs with what is said of it.
#[must_use]
pub fn statuses(cluster: &Cluster, runs: impl Fn(&str) -> bool, now: &str) -> Vec<Write> {
    if cluster.overrides.is_empty() {
        return Vec::new();
    }
    let mut uses: BTreeMap<ObjectRef, Use> = BTreeMap::new();
    for (name, node) in cluster.nodes.iter().filter_map(|(name, n)| Some((name, n.node.as_ref()?))) {
        let resolved = cluster.overrides.resolve(&cluster.settings, &node.labels);
        count(&mut uses, cluster, node, &resolved, |u| {
            u.selected += 1;
            if runs(name) {
                u.applied += 1;
            } else if u.pending.len() < NAMED {
                u.pending.push(name.clone());
            }
        });
    }
    let none = Use::default();
    let write = |(object, entry): (ObjectRef, &NodeConfigEntry)| {
        status(&object, entry, uses.get(&object).unwrap_or(&none), now)
    };
    cluster.overrides.iter().filter_map(write).collect()
}

fn count(
    uses: &mut BTreeMap<ObjectRef, Use>,
    cluster: &Cluster,
    node: &Node,
    resolved: &Resolved<'_>,
    select: impl Fn(&mut Use),
) {
    let in_force = cluster.overrides.iter().filter_map(|(object, e)| Some((object, &e.in_force.as_ref()?.0)));
    for (object, config) in in_force.filter(|(_, config)| config.selects(&node.labels)) {
        let of = uses.entry(object.clone()).or_default();
        select(of);
        for path in &config.paths {
            if let Some(other) = resolved.decides(path).filter(|by| **by != object) {
                *of.overruled.entry((path, format!("{}/{}", other.namespace, other.name))).or_default() += 1;
            }
        }
    }
    for (d, from) in resolved.differences() {
        uses.entry(from.clone()).or_default().differ.insert(format!("{}={}", d.setting, d.value));
    }
}

fn status(object: &ObjectRef, entry: &NodeConfigEntry, of: &Use, now: &str) -> Option<Write> {
    let in_force = match &entry.in_force {
        Some((_, generation)) => format!(" (generation {generation} stays in force)"),
        None => " (none of it is in force)".to_owned(),
    };
    let wanted = [valid(entry.errors.as_ref(), &in_force), applied(entry, of)];
    let conditions = merged(&entry.raw, entry.generation, &wanted, now);
    let nodes = json!({"selected": of.selected, "applied": of.applied});
    let differ = json!(of.differ);
    let is = |field: &str, wanted: &Value| entry.raw.pointer(&format!("/status/{field}")) == Some(wanted);
    if conditions.is_none() && is("nodes", &nodes) && is("differ", &differ) {
        return None;
    }
    let conditions = conditions.map(Value::from).or_else(|| entry.raw.pointer("/status/conditions").cloned());
    let body = json!({"status": {"conditions": conditions, "observedGeneration": entry.generation, "nodes": nodes,
        "differ": differ}});
    Some(Write::new(object.clone(), Part::Status, Operation::Merge(body)))
}

fn applied(entry: &NodeConfigEntry, of: &Use) -> Condition {
    let generation = entry.in_force.as_ref().map_or(entry.generation, |(_, generation)| *generation);
    let mut parts = vec![format!("{}/{} nodes, generation {generation}", of.applied, of.selected)];
    if !of.pending.is_empty() {
        let more = (of.selected - of.applied).saturating_sub(of.pending.len());
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        parts.push(format!("not yet: {}{more}", of.pending.join(", ")));
    }
    let overruled = of.overruled.iter();
    parts.extend(overruled.map(|((setting, by), nodes)| format!("{setting} is that of {by} on {nodes} of them")));
    let all = of.applied == of.selected && entry.errors.is_none();
    let reason = if all { "Applied" } else { "Pending" };
    Condition { kind: "Applied", status: all, reason, message: cut(parts.join("; ")) }
}

/// Writes that bring into the status of CiliumNodes in what the nodes' settings differ from the cluster's.
#[must_use]
pub fn of_nodes(cluster: &Cluster) -> Vec<Write> {
    let write = |(name, node): (&Arc<str>, &crate::state::NodeEntry)| {
        node.cilium.as_ref()?;
        let resolved = cluster.overrides.resolve(&cluster.settings, &node.node.as_ref()?.labels);
        let row = |(d, from): (axoneme_intake::Difference, &ObjectRef)| {
            json!({"setting": d.setting, "value": d.value, "cluster": d.cluster,
                "from": format!("{}/{}", from.namespace, from.name)})
        };
        let wanted: Vec<Value> = resolved.differences().map(row).collect();
        let now = node.cilium_said.overrides.as_deref();
        if now.map_or(wanted.is_empty(), |now| *now == *wanted) {
            return None;
        }
        let wanted = if wanted.is_empty() { Value::Null } else { wanted.into() };
        let object = ObjectRef::new(Kind::CiliumNode, "", name);
        let body = json!({"status": {"overrides": wanted}});
        Some(Write::new(object, Part::Status, Operation::Merge(body)))
    };
    cluster.nodes.iter().filter_map(write).collect()
}
