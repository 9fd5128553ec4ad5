//! Rules wait until identities tell apart what they tell apart.
//!
//! ```text
//!   policy reads a new label ──▶ its reader is compiled ──▶ identities split, are announced, pods move ──▶ the policy
//! ```
//!
//! Pods whose labels only the new rules tell apart share an identity until then. Rules that came into force meanwhile
//! would have to be decided for all of them alike: allowed connections of some would be cut. What was in force before
//! stays in force until the new rules can be obeyed exactly, or for [`super::Timing::announce`] at most.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use axoneme_model::{
    Action, DirectedRule, Labels, ObjectRef, Peer, Peers, Policy, Ports, Requirement, Rule, Selector, Subject, Tier,
    labels::LabelKey,
};

use crate::state::WorldChange;

/// A policy that waits.
#[derive(Debug)]
struct Held {
    policy: Box<Policy>,
    /// The label sets that pods ask for since its labels are read, as far as they are not usable yet.
    sets: BTreeSet<Labels>,
    /// The revision by which all pods had moved.
    moved: Option<u64>,
    until: Instant,
}

/// The policies that wait.
#[derive(Debug, Default)]
pub(super) struct Holding {
    held: BTreeMap<ObjectRef, Held>,
}

/// Of an object that no API server can have: the labels that the policy of that name is about to read.
fn reader_of(object: &ObjectRef) -> ObjectRef {
    ObjectRef::new(object.kind, &object.namespace, &format!("{} (labels)", object.name))
}

/// A policy without a subject that reads the same labels of pods.
fn reader(policy: &Policy) -> Policy {
    let peers = policy.rules.iter().flat_map(selectors).cloned().map(Peer::Endpoints).collect();
    let nobody = Selector::new(vec![Requirement::exists(LabelKey::reserved("nobody"))]);
    let entry = DirectedRule { path: "".into(), action: Action::Allow, peers: Peers::OneOf(peers), ports: Ports::Any };
    Policy {
        object: reader_of(&policy.object),
        generation: policy.generation,
        tier: Tier::Normal,
        audit: false,
        rules: vec![Rule {
            subject: Subject::Endpoints(nobody),
            log: None,
            isolates_ingress: false,
            isolates_egress: false,
            ingress: vec![entry],
            egress: vec![],
        }],
    }
}

/// The selectors of pods in a rule.
fn selectors(rule: &Rule) -> impl Iterator<Item = &Selector> {
    let subject = match &rule.subject {
        Subject::Endpoints(selector) => Some(selector),
        Subject::Nodes(_) => None,
    };
    let peers = rule.ingress.iter().chain(&rule.egress).flat_map(|d| match &d.peers {
        Peers::OneOf(peers) => peers.as_slice(),
        Peers::Any => &[],
    });
    subject.into_iter().chain(peers.filter_map(|p| if let Peer::Endpoints(s) = p { Some(s) } else { None }))
}

impl Holding {
    /// Puts readers in place of the policies that read something new. The objects are those that wait from now on.
    pub(super) fn hold(
        &mut self,
        changes: Vec<WorldChange>,
        reads_new: impl Fn(&Policy) -> bool,
        until: Instant,
    ) -> (Vec<WorldChange>, Vec<ObjectRef>) {
        let mut out = Vec::with_capacity(changes.len());
        let mut fresh = Vec::new();
        for change in changes {
            let WorldChange::Policy(object, policy) = change else {
                out.push(change);
                continue;
            };
            if self.held.remove(&object).is_some() {
                out.push(WorldChange::Policy(reader_of(&object), None));
            }
            match policy {
                Some(policy) if reads_new(&policy) => {
                    out.push(WorldChange::Policy(reader_of(&object), Some(Box::new(reader(&policy)))));
                    fresh.push(object.clone());
                    self.held.insert(object, Held { policy, sets: BTreeSet::new(), moved: None, until });
                }
                policy => out.push(WorldChange::Policy(object, policy)),
            }
        }
        (out, fresh)
    }

    /// Pods began to ask for these sets when the readers of these policies were compiled.
    pub(super) fn wait_for(&mut self, fresh: &[ObjectRef], sets: &BTreeSet<Labels>) {
        for object in fresh {
            if let Some(held) = self.held.get_mut(object) {
                held.sets.clone_from(sets);
                held.moved = sets.is_empty().then_some(0);
            }
        }
    }

    /// Sets became usable (they have numbers that pods may use, or no pod asks for them any more), and what that moved
    /// was published by this revision. Whether a policy waits now until all nodes have it.
    pub(super) fn published(&mut self, revision: u64, usable: impl Fn(&Labels) -> bool) -> bool {
        let mut any = false;
        for held in self.held.values_mut().filter(|h| h.moved.is_none()) {
            held.sets.retain(|set| !usable(set));
            held.moved = held.sets.is_empty().then_some(revision);
            any |= held.moved.is_some();
        }
        any
    }

    /// The policies by whose labels all nodes (they have acknowledged all up to `acked`) can tell pods apart, and those
    /// that have waited long enough, each in place of its reader.
    pub(super) fn release(&mut self, acked: u64, now: Instant) -> Vec<WorldChange> {
        let done = self.held.extract_if(.., |_, held| held.moved.is_some_and(|r| r <= acked) || held.until <= now);
        done.flat_map(|(object, held)| {
            let gone = WorldChange::Policy(reader_of(&object), None);
            [WorldChange::Policy(object, Some(held.policy)), gone]
        })
        .collect()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn holds(&self, object: &ObjectRef) -> bool {
        self.held.contains_key(object)
    }
}
