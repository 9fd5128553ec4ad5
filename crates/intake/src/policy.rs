//! What the readers of all policy kinds share.

use std::sync::Arc;

use axoneme_model::{Direction, Policy, Rule, Subject, Tier};

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
    pub(crate) fn finish(self, meta: &Meta) -> (Policy, Option<Policy>) {
        let Meta { object, generation } = meta;
        let policy = Policy { object: object.clone(), generation: *generation, tier: self.tier, rules: self.rules };
        let closed = (!self.closed.is_empty()).then(|| Policy {
            object: object.clone(),
            generation: *generation,
            tier: Tier::Normal,
            rules: self.closed,
        });
        (policy, closed)
    }
}

/// The rule that isolates the subject and lets nothing pass.
pub(crate) fn closed_rule(subject: Subject, ingress: bool, egress: bool) -> Rule {
    Rule { subject, isolates_ingress: ingress, isolates_egress: egress, ingress: Vec::new(), egress: Vec::new() }
}

pub(crate) fn path(field: &Field<'_>) -> Arc<str> {
    field.to_string().into()
}

pub(crate) const fn is_ingress(direction: Direction) -> bool {
    matches!(direction, Direction::Ingress)
}
