//! Conditions of policies and of the AxonemeConfig.

use std::collections::BTreeSet;

use axoneme_compile::Excess;
use axoneme_intake::{ObjectErrors, Reason};
use axoneme_model::{Kind, ObjectRef};
use axoneme_wire::server::Enforcement;
use serde_json::{Value, json};

use crate::{
    ipam::Problem,
    state::{ConfigEntry, Loaded, PolicyEntry, TABLE_TOO_LARGE, crowded::Crowd},
    write::{Operation, Part, Write},
};

/// Messages of conditions and events are cut here (the API's own limit for events is 1024 bytes).
const MESSAGE_BYTES: usize = 1000;

/// What nodes say of a table that no map holds, with its size and the limit behind it.
const TOO_LARGE: &str = "policy table needs";

/// A condition without its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub status: bool,
    pub reason: &'static str,
    pub message: String,
}

/// Whether the object could be read.
#[must_use]
pub fn valid(errors: Option<&ObjectErrors>, in_force: &str) -> Condition {
    match errors {
        None => Condition { kind: "Valid", status: true, reason: "Valid", message: "All fields are enforced".into() },
        Some(e) => {
            let fields: Vec<_> = e.errors.iter().map(ToString::to_string).collect();
            let reason = match e.reason() {
                Reason::Invalid => "Invalid",
                Reason::Unsupported => "Unsupported",
            };
            let message = cut(format!("{}{in_force}", fields.join("; ")));
            Condition { kind: "Valid", status: false, reason, message }
        }
    }
}

/// How far the policy is in force. `crowded`: what stands in its way though nobody changed it.
#[must_use]
pub fn enforced(entry: &PolicyEntry, crowded: Option<&Crowd>, e: &Enforcement) -> Condition {
    let generation = entry.loaded.policy().map_or(entry.generation, |p| p.generation);
    let count = format!("{}/{} nodes, generation {generation}", e.enforced, e.nodes);
    if entry.too_large.is_some() {
        let message = cut(format!("{}: {count}", too_large(entry)));
        return Condition { kind: "Enforced", status: false, reason: TABLE_TOO_LARGE, message };
    }
    if let Some(Crowd { reason, message }) = crowded {
        return Condition { kind: "Enforced", status: false, reason, message: cut(format!("{message}: {count}")) };
    }
    let (status, reason, message) = match (&entry.loaded, e.refusals.first()) {
        (Loaded::Nothing, _) => (false, "NotLoaded", "its subjects can't be read".to_owned()),
        (_, Some(r)) if r.reason.contains(TOO_LARGE) => {
            let text = format!(
                "{count}; node {}: {}: let its rules select fewer peers or ports, or write ranges; what was in force before stays",
                r.node, r.reason
            );
            (false, TABLE_TOO_LARGE, text)
        }
        (_, Some(r)) => (false, "Refused", format!("{count}; node {}: {}", r.node, r.reason)),
        (Loaded::FailClosed(_), _) => (false, "FailClosed", format!("{count}: nothing passes at its subjects")),
        (Loaded::LastGood(_), _) => (false, "LastGood", count),
        (Loaded::Current(p), _) if p.audit && e.enforced == e.nodes => {
            (false, "Audit", format!("{count}: what it would deny passes and is told"))
        }
        (Loaded::Current(_), _) if e.enforced == e.nodes => (true, "Enforced", count),
        (Loaded::Current(_), _) => (false, "Pending", count),
    };
    Condition { kind: "Enforced", status, reason, message: cut(message) }
}

/// Why a policy is not in force that no table holds, and what is; empty for others.
#[must_use]
pub fn too_large(entry: &PolicyEntry) -> String {
    let Some(Excess { entries, limit, pod: (namespace, pod) }) = entry.too_large.as_ref().map(|t| &t.excess) else {
        return String::new();
    };
    let in_force = match &entry.loaded {
        Loaded::LastGood(p) => format!("generation {} stays in force", p.generation),
        Loaded::Nothing => "none of it is in force, its nodes are left alone".to_owned(),
        _ => "nothing passes at its subjects until this is mended".to_owned(),
    };
    let subject = if namespace.is_empty() { format!("node {pod}") } else { format!("pod {namespace}/{pod}") };
    format!(
        "with generation {} the policy table of {subject} needs {entries} entries, the limit is {limit}: let its rules \
         select fewer peers or ports, or write ranges; {in_force}",
        entry.generation
    )
}

/// The write that makes the conditions of a policy these; none if they are, or if the kind has no conditions.
#[must_use]
pub fn policy(object: &ObjectRef, entry: &PolicyEntry, enforced: Condition, now: &str) -> Option<Write> {
    if object.kind == Kind::NetworkPolicy {
        return None;
    }
    let in_force = match &entry.loaded {
        Loaded::LastGood(p) => format!(" (generation {} stays in force)", p.generation),
        Loaded::FailClosed(_) => " (nothing passes at its subjects until this is mended)".to_owned(),
        Loaded::Current(_) | Loaded::Nothing => String::new(),
    };
    let wanted = [valid(entry.errors.as_ref(), &in_force), enforced];
    let conditions = merged(&entry.said(), entry.generation, &wanted, now)?;
    Some(status(object, &json!({"conditions": conditions})))
}

/// The write that makes the status of the settings this; none if it is.
#[must_use]
pub fn config(
    entry: &ConfigEntry,
    problems: &BTreeSet<Problem>,
    applied: usize,
    nodes: usize,
    now: &str,
) -> Option<Write> {
    let object = ObjectRef::new(Kind::AxonemeConfig, "", axoneme_intake::CONFIG_NAME);
    let message = format!("{applied}/{nodes} nodes, generation {}", entry.generation);
    let all = applied == nodes && entry.errors.is_none();
    let applied_condition =
        Condition { kind: "Applied", status: all, reason: if all { "Applied" } else { "Pending" }, message };
    let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
    let addresses = Condition {
        kind: "AddressesAvailable",
        status: problems.is_empty(),
        reason: if problems.is_empty() { "Available" } else { "PoolProblem" },
        message: cut(if texts.is_empty() { "Every node has what it needs".into() } else { texts.join("; ") }),
    };
    let wanted = [valid(entry.errors.as_ref(), " (earlier settings stay in force)"), applied_condition, addresses];
    let conditions = merged(&entry.raw, entry.generation, &wanted, now);
    let nodes = json!({"applied": applied, "total": nodes});
    if conditions.is_none() && entry.raw.pointer("/status/nodes") == Some(&nodes) {
        return None;
    }
    let now = entry.raw.pointer("/status/conditions").cloned();
    let conditions = conditions.map(Value::from).or(now);
    let body = json!({"conditions": conditions, "observedGeneration": entry.generation, "nodes": nodes});
    Some(status(&object, &body))
}

fn status(object: &ObjectRef, status: &Value) -> Write {
    Write::new(object.clone(), Part::Status, Operation::Merge(json!({"status": status})))
}

/// The whole list of conditions, those of others included; none if nothing would change. The time of a condition
/// changes with its status only.
pub(super) fn merged(raw: &Value, generation: i64, wanted: &[Condition], now: &str) -> Option<Vec<Value>> {
    let mut list = raw.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let before = list.clone();
    for c in wanted {
        let status = if c.status { "True" } else { "False" };
        let old = list.iter_mut().find(|o| o.get("type").is_some_and(|t| t == c.kind));
        let same = old.as_ref().is_some_and(|o| o.get("status").is_some_and(|s| s == status));
        let since = old.as_ref().filter(|_| same).and_then(|o| o.get("lastTransitionTime").cloned());
        let new = json!({"type": c.kind, "status": status, "reason": c.reason, "message": c.message,
            "observedGeneration": generation, "lastTransitionTime": since.unwrap_or_else(|| now.into())});
        match old {
            Some(o) => *o = new,
            None => list.push(new),
        }
    }
    (list != before).then_some(list)
}

pub(crate) fn cut(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES {
        let at = (0..=MESSAGE_BYTES).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
        message.truncate(at);
        message.push('…');
    }
    message
}

/// The event that tells of a broken object whose kind has no conditions.
#[must_use]
pub fn event(object: &ObjectRef, errors: &ObjectErrors) -> Write {
    let reason = match errors.reason() {
        Reason::Invalid => "Invalid",
        Reason::Unsupported => "Unsupported",
    };
    let fields: Vec<_> = errors.errors.iter().map(ToString::to_string).collect();
    Write::event(object.clone(), true, reason, cut(fields.join("; ")))
}
