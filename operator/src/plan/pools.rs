//! Conditions of CiliumPodIPPools, and events for pods that wait for an address.

use std::sync::Arc;

use axoneme_crds::axoneme_config::IpamMode;
use axoneme_intake::Reason;
use axoneme_model::{Kind, ObjectRef};
use serde_json::json;

use super::status::{Condition, cut, merged};
use crate::{
    ipam::{Choice, Plan, PoolUse, Problem, Trouble},
    state::{Cluster, PoolEntry},
    write::{Operation, Part, Write},
};

/// Pods that are told in one go that they wait; the next go tells the next ones.
const TOLD_AT_ONCE: usize = 32;

/// Writes that bring the conditions of all pools up to date.
#[must_use]
pub fn statuses(cluster: &Cluster, plan: &Plan, now: &str) -> Vec<Write> {
    if cluster.settings.ipam.mode != IpamMode::MultiPool {
        return Vec::new();
    }
    let write = |(name, entry): (&Arc<str>, &PoolEntry)| {
        let problems = plan.problems.iter().filter(|p| p.pool.as_ref() == Some(name)).collect::<Vec<_>>();
        let wanted = [valid(entry, &problems), available(plan.pools.get(name), &problems)];
        let conditions = merged(&entry.raw, entry.generation, &wanted, now)?;
        let object = ObjectRef::new(Kind::CiliumPodIPPool, "", name);
        let body = json!({"status": {"conditions": conditions}});
        Some(Write::new(object, Part::Status, Operation::Merge(body)))
    };
    cluster.pool_objects.iter().filter_map(write).collect()
}

fn texts(problems: &[&Problem], of: &[Trouble]) -> Option<(Trouble, String)> {
    let those: Vec<_> = problems.iter().filter(|p| of.contains(&p.trouble)).collect();
    let first = those.first()?.trouble;
    let texts: Vec<_> = those
        .iter()
        .map(|p| p.node.as_ref().map_or_else(|| p.message.clone(), |n| format!("node {n}: {}", p.message)))
        .collect();
    Some((first, texts.join("; ")))
}

/// Whether blocks can be given from all of it.
fn valid(entry: &PoolEntry, problems: &[&Problem]) -> Condition {
    if let Some(e) = &entry.errors {
        let reason = match e.reason() {
            Reason::Invalid => "Invalid",
            Reason::Unsupported => "Unsupported",
        };
        let fields: Vec<_> = e.errors.iter().map(ToString::to_string).collect();
        let message = cut(format!("{} (what was valid before stays in force)", fields.join("; ")));
        return Condition { kind: "Valid", status: false, reason, message };
    }
    match texts(problems, &[Trouble::Overlap, Trouble::TooSmall]) {
        Some((trouble, text)) => {
            Condition { kind: "Valid", status: false, reason: trouble.reason(), message: cut(text) }
        }
        None => Condition {
            kind: "Valid",
            status: true,
            reason: "Valid",
            message: "Nodes are given blocks of all of its prefixes".into(),
        },
    }
}

/// Whether every node has the blocks that its pods need.
fn available(count: Option<&PoolUse>, problems: &[&Problem]) -> Condition {
    let family = |i: usize, name: &str| {
        let (held, free) = count.map(|c| (c.held.get(i), c.free.get(i)))?;
        let (held, free) = (held.copied().unwrap_or(0), free.copied().unwrap_or(0));
        (held + free > 0).then(|| format!("{name}: {held} blocks are held by nodes, {free} are free"))
    };
    let counts: Vec<_> = [family(0, "IPv4"), family(1, "IPv6")].into_iter().flatten().collect();
    match texts(problems, &[Trouble::Exhausted, Trouble::Missing]) {
        Some((trouble, text)) => {
            let message = cut([vec![text], counts].concat().join("; "));
            Condition { kind: "AddressesAvailable", status: false, reason: trouble.reason(), message }
        }
        None => {
            Condition { kind: "AddressesAvailable", status: true, reason: "Available", message: cut(counts.join("; ")) }
        }
    }
}

/// Events for pods that can't have an address. `told`: whether the object has been told the text.
#[must_use]
pub fn waiting(cluster: &Cluster, plan: &Plan, told: impl Fn(&ObjectRef, &str) -> bool) -> Vec<Write> {
    if cluster.settings.ipam.mode != IpamMode::MultiPool {
        return Vec::new();
    }
    let mut events = Vec::new();
    for (key, lacks) in cluster.waiting() {
        let object = ObjectRef::new(Kind::Pod, &key.0, &key.1);
        let Some(pod) = cluster.pods.get(key) else { continue };
        let choices = cluster.choice(pod).into_iter().zip(lacks).filter(|(_, lacks)| *lacks);
        let why = choices.map(|(c, _)| c).find_map(|c| why(&c, &pod.node, plan));
        let why = why.map(|(reason, text)| (reason, cut(text)));
        if let Some((reason, text)) = why.filter(|(_, text)| !told(&object, text)) {
            events.push(Write::event(object, true, reason, text));
        }
        if events.len() == TOLD_AT_ONCE {
            break;
        }
    }
    events
}

fn why(choice: &Choice, node: &Arc<str>, plan: &Plan) -> Option<(&'static str, String)> {
    if let Some(problem) = choice.problem() {
        let reason = if *choice == Choice::NoMatch { "NoPoolMatches" } else { "PoolAmbiguous" };
        return Some((reason, problem));
    }
    let Choice::Pool(pool) = choice else { return None };
    let here = |p: &&Problem| p.node.as_ref() == Some(node) && p.pool.as_ref() == Some(pool);
    let problem = plan.problems.iter().find(here)?;
    Some((problem.trouble.reason(), format!("the pod waits for an address of {problem}")))
}
