//! What a change of policies would change: which pods get or lose which peers at which ports.
//!
//! ```text
//!  World, Changes ─▶ subjects: pods that a changed policy selects ─▶ the part of the world that their tables are made of
//!                                                                      │ compiled before and after, by the operator's compiler
//!                                                                      ▼
//!                    tables × peers, before and after ─▶ ranges of ports that differ ─▶ Preview
//! ```
//!
//! Nouns: a *change* is a policy as it would be, or that it would be gone; a *subject* is a pod that some changed policy
//! selects, before or after: no other's table can change. Peers are compared by their addresses, since numbers of
//! identities and classes are not the same before and after.
//!
//! Invariants: the answer is a function of world and changes; it is bounded by [`Limits`], with counts of what is left out;
//! what it says of a pod is what the pod's own table says (the other end's is another line). No IO, no clock.

mod compare;
mod part;
mod ports;

use std::collections::BTreeMap;

use axoneme_model::{ObjectRef, Policy, World};
use serde::{Deserialize, Serialize};

/// Policies as they would be; none: gone.
pub type Changes = BTreeMap<ObjectRef, Option<Policy>>;

/// How much is looked at and told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pods that are no subjects and are peers each by itself; where there are more, one of those with the same labels and
    /// ports stands for all.
    pub peers: usize,
    /// Pairs of a table and peers that it takes for the same that are compared.
    pub pairs: usize,
    /// Lines of the answer.
    pub lines: usize,
    /// Names of a line.
    pub names: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { peers: 10_000, pairs: 200_000, lines: 1_000, names: 20 }
    }
}

/// What would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Preview {
    /// Each changed policy.
    pub policies: Vec<PolicyChange>,
    /// Pods that these select, before or after.
    pub selected: usize,
    /// Of these, pods for which something would change.
    pub affected: usize,
    /// What would change, at most [`Limits::lines`].
    pub lines: Vec<Line>,
    /// Lines that are left out.
    pub more: usize,
    /// Entries of all tables of the selected pods.
    pub entries: Counts,
    /// What is not in this answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caveats: Vec<String>,
}

/// One policy of the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChange {
    /// `Kind namespace/name`.
    pub policy: String,
    /// `added`, `changed`, `removed` or `same`.
    pub change: String,
}

/// A number before and after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub before: usize,
    pub after: usize,
}

/// What changes in the same way for some pods and some peers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Line {
    /// `namespace/name`, at most [`Limits::names`].
    pub pods: Vec<Who>,
    pub pod_count: usize,
    /// `ingress` or `egress`, as the pods see it.
    pub direction: String,
    /// Pods, or prefixes with what they are: `world 10.0.0.0/8`, `host 192.168.0.1/32`.
    pub peers: Vec<Who>,
    pub peer_count: usize,
    /// What is allowed after and not before: `TCP 80`, `UDP 1-1023`, `everything`.
    pub gains: Vec<String>,
    /// What is allowed before and not after.
    pub loses: Vec<String>,
    /// The rules that decide so after: none where no policy speaks of it any more.
    pub rules: Vec<String>,
}

/// A name.
pub type Who = String;

/// What the changes would change in the world.
#[must_use]
pub fn preview(world: &World, changes: &Changes, limits: &Limits) -> Preview {
    let told = changes.iter().map(|(object, after)| {
        let change = match (world.policies.get(object), after) {
            (None, Some(_)) => "added",
            (None, None) => "same",
            (Some(before), Some(after)) if is_same(before, after) => "same",
            (Some(_), Some(_)) => "changed",
            (Some(_), None) => "removed",
        };
        PolicyChange { policy: object.to_string(), change: change.to_owned() }
    });
    let mut preview = Preview { policies: told.collect(), ..Preview::default() };
    let part = part::Part::of(world, changes, limits, &mut preview.caveats);
    preview.selected = part.subjects.len();
    if !part.subjects.is_empty() {
        compare::compare(&part, limits, &mut preview);
    }
    preview
}

/// Whether two versions say the same: which of them it is makes no difference.
fn is_same(before: &Policy, after: &Policy) -> bool {
    (before.tier, before.audit, &before.rules) == (after.tier, after.audit, &after.rules)
}
