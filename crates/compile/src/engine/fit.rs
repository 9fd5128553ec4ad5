//! Policies that would make a table larger than nodes can hold are held back.
//!
//! ```text
//!  events ─▶ settle ─▶ a table too large? ──no──▶ change set
//!              ▲                │ yes: of the policies that changed, the one that makes it grow most
//!              └── its earlier version in its place
//! ```
//!
//! A policy that no table held so far (no pod was selected by it, or had a number) counts as changed. What is told of a
//! change set is what differs in the end, so nobody hears of what did not fit. Tables that grow for other reasons (pods
//! with new identities, longer CIDR groups) have no earlier version to go back to that would be right: they are told as
//! they are, and nodes keep what they had.

use std::collections::{BTreeMap, BTreeSet};

use axoneme_model::{
    ObjectRef, Policy,
    rows::{RuleId, TableId},
};

use super::{Compiler, Event, tables::size::Growth};
use crate::{ChangeSet, PodKey};

/// What tables may be, and what happens to policies that ask for more.
pub struct Fit<'a> {
    /// Entries that a table may have.
    pub limit: usize,
    /// Whether a policy is known to have made a table too large before: of those that changed, the first to be held back.
    pub suspect: &'a dyn Fn(&ObjectRef) -> bool,
    /// What is in force instead of a policy that is held back: its last version that fitted, or what is safe without one.
    pub instead: &'a dyn Fn(&ObjectRef) -> Option<Policy>,
}

impl std::fmt::Debug for Fit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fit").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// The table that a policy would have made too large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Entries that it would have had.
    pub entries: usize,
    pub limit: usize,
    /// A pod that would have used it.
    pub pod: PodKey,
}

impl Compiler {
    /// Like [`Compiler::apply`], but holds policies back that make a table too large.
    ///
    /// *Expected flow*: the policies of the events, as they should be; the answer names those that were replaced by what
    /// [`Fit::instead`] gives.
    ///
    /// *Guarantees*: rows and change set are those of [`Compiler::apply`] with the replaced policies in the place of the
    /// held ones. Which are held is a function of the state before and of the events, whatever their order: of the
    /// policies that changed or were in no table, a suspect before others, then the one by whose rules the table grows most, then the one
    /// whose name comes first.
    ///
    /// *Caveats*: a table may still be too large: what is in force instead may not fit either, and tables grow for other
    /// reasons than policies.
    pub fn apply_within(
        &mut self,
        events: impl IntoIterator<Item = Event>,
        fit: &Fit<'_>,
    ) -> (ChangeSet, BTreeMap<ObjectRef, Excess>) {
        let mut changed = BTreeSet::new();
        for event in events {
            match &event {
                Event::Policy(object, Some(_)) => drop(changed.insert(object.clone())),
                Event::Policy(object, None) => drop(changed.remove(object)),
                _ => {}
            }
            self.note(event);
        }
        let mut held = BTreeMap::new();
        loop {
            self.bring_up_to_date();
            let culprits = self.culprits(fit, &changed, &held);
            if culprits.is_empty() {
                return (self.take(), held);
            }
            for (object, excess) in culprits {
                self.note(Event::Policy(object.clone(), (fit.instead)(&object)));
                held.insert(object, excess);
            }
        }
    }

    /// Of each table that is too large, the policy to be held back. Of tables that share one it is looked for only once: the
    /// others may fit without it.
    fn culprits(
        &self,
        fit: &Fit<'_>,
        changed: &BTreeSet<ObjectRef>,
        held: &BTreeMap<ObjectRef, Excess>,
    ) -> BTreeMap<ObjectRef, Excess> {
        let mut culprits = BTreeMap::new();
        for (id, entries, policies) in self.tables.grown_beyond(fit.limit) {
            if policies.keys().any(|p| culprits.contains_key(p)) {
                continue;
            }
            let growth = self.growth(id);
            let of = |object: &&ObjectRef| growth.get(*object).copied().unwrap_or(0);
            let is_new = |p: &&ObjectRef| changed.contains(*p) || !self.tables.had(p);
            let candidates = policies.keys().filter(|p| !held.contains_key(*p)).filter(is_new);
            let culprit = candidates.min_by_key(|p| (!(fit.suspect)(p), std::cmp::Reverse(of(p)), (*p).clone()));
            if let Some(culprit) = culprit {
                let pod = self.pods.with_table(id).cloned().unwrap_or_default();
                culprits.insert(culprit.clone(), Excess { entries, limit: fit.limit, pod });
            }
        }
        culprits
    }

    /// How many more entries name each policy in a table than when the last change set was taken.
    fn growth(&self, id: TableId) -> BTreeMap<ObjectRef, i64> {
        let Growth { before, now } = self.tables.growth(id);
        let mut growth = BTreeMap::new();
        let mut count = |rules: BTreeMap<RuleId, i64>, sign: i64| {
            for (rule, n) in rules {
                if let Some(row) = self.book.rows.get(&rule).or_else(|| self.book.rows.before(&rule)) {
                    *growth.entry(row.rule.object.clone()).or_default() += sign * n;
                }
            }
        };
        count(before, -1);
        count(now, 1);
        growth
    }
}
