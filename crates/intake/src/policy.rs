//! What the readers of all policy kinds share.

use std::sync::Arc;

use axoneme_model::{Direction, Policy, Rule, Subject, Tier, audit};

use crate::{field::Field, meta::Meta};

/// A policy while it is read.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) tier: Tier,
    pub(crate) rules: Vec<Rule>,
    /// What holds if something in the object is wrong, see [`crate::ObjectErrors::fail_closed`].
    pub(crate) closed: Vec<Rule>,
}

impl Draft {
    /// The policy, and its fail-closed form if any subject could be read.
    pub(crate) fn finish(self, root: &Field<'_>, meta: &Meta) -> (Policy, Option<Policy>) {
        let Meta { object, generation } = meta;
        let audit = audit(root);
        let (object, generation) = (object.clone(), *generation);
        let policy = Policy { object: object.clone(), generation, tier: self.tier, audit, rules: self.rules };
        let isolates = !self.closed.is_empty();
        let closed = Policy { object, generation, tier: Tier::Normal, audit, rules: self.closed };
        (policy, isolates.then_some(closed))
    }
}

/// Whether the policy says that it is to be told instead of enforced ([`audit::MODE`]).
fn audit(root: &Field<'_>) -> bool {
    let Some(metadata) = root.get("metadata").filter(|m| m.raw().is_object()) else { return false };
    let Some(annotations) = metadata.get("annotations").filter(|a| a.raw().is_object()) else { return false };
    let mut modes = annotations.entries().filter(|(key, _)| *key == audit::MODE);
    let mode = modes.next().and_then(|(_, mode)| mode.choice(&[("Enforce", false), ("Audit", true)]));
    mode.unwrap_or(false)
}

/// The rule that isolates the subject and lets nothing pass.
pub(crate) fn closed_rule(subject: Subject, ingress: bool, egress: bool) -> Rule {
    Rule {
        subject,
        log: None,
        isolates_ingress: ingress,
        isolates_egress: egress,
        ingress: Vec::new(),
        egress: Vec::new(),
    }
}

pub(crate) fn path(field: &Field<'_>) -> Arc<str> {
    field.to_string().into()
}

pub(crate) const fn is_ingress(direction: Direction) -> bool {
    matches!(direction, Direction::Ingress)
}
