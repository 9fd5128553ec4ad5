//! What would make a table larger than nodes can hold is held back.
//!
//! ```text
//!  events ─▶ settle ─▶ a table too large? ──no──────────────────────────────────────────────────────▶ change set
//!              ▲                │ yes: of the policies and CIDR groups that changed, the one that        ▲
//!              │                ▼      makes it grow most                                                │
//!              └──── its earlier version in its place ◀──some──┴──none──▶ the table lets nothing pass ───┘
//! ```
//!
//! A policy that no table held so far (no pod was selected by it, or had a number) counts as changed. What is told of a
//! change set is what differs in the end, so nobody hears of what did not fit.
//!
//! Tables that are too large for other reasons (a pod at which several policies meet, identities that came) have no
//! earlier version to go back to that would be right: what was in force before may allow what policies deny now. The
//! direction that makes such a table too large is closed ([`Closure`]), for the pods that use it and no others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axoneme_model::{
    ObjectRef, Peer, Peers, Policy,
    rows::{RuleId, TableId},
    world::{CidrGroup, matches_plain},
};

use super::{Compiler, Event, tables::size::Growth};
use crate::{ChangeSet, PodKey};

/// What tables may be, and what happens to policies that ask for more.
pub struct Fit<'a> {
    /// Entries that a table may have.
    pub limit: usize,
    /// Whether a policy is known to have made a table too large before: of those that changed, the first to be held back.
    pub suspect: &'a dyn Fn(&ObjectRef) -> bool,
    /// Whether a policy is known not to have been held back, though it met others in a table that was closed: it is not held
    /// back now for having been said anew.
    pub innocent: &'a dyn Fn(&ObjectRef) -> bool,
    /// What is in force instead of a policy that is held back: its last version that fitted, or what is safe without one.
    pub instead: &'a dyn Fn(&ObjectRef) -> Option<Policy>,
}

impl std::fmt::Debug for Fit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fit").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// The table that would have been too large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Entries that it would have had.
    pub entries: usize,
    pub limit: usize,
    /// A pod that would have used it; with an empty namespace the node that it would have guarded.
    pub pod: PodKey,
}

/// A CIDR group whose new content is held back: what it was stays in force for all policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupExcess {
    pub excess: Excess,
    /// The policies that read it, by name or by its labels.
    pub policies: BTreeSet<ObjectRef>,
}

/// A table that is too large though nothing that changed can be held back for it: the pods that use it are closed, but for
/// their own node. A node that it would guard is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closure {
    pub excess: Excess,
    /// Ingress, egress: whether nothing passes. Neither of them: it is a table of nodes.
    pub closed: [bool; 2],
    /// The policies that meet in the table.
    pub policies: BTreeSet<ObjectRef>,
}

/// What did not fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Misfits {
    /// Policies that were replaced by what [`Fit::instead`] gives, now.
    pub policies: BTreeMap<ObjectRef, Excess>,
    /// CIDR groups that are as they were before these events.
    pub groups: BTreeMap<Arc<str>, GroupExcess>,
    /// All tables that are closed, whenever that began.
    pub closed: BTreeMap<TableId, Closure>,
}

/// What a batch of events brought that can be taken back.
#[derive(Default)]
struct Brought {
    policies: BTreeSet<ObjectRef>,
    /// CIDR groups that are there, with what they were. None: new.
    groups: BTreeMap<Arc<str>, Option<CidrGroup>>,
}

/// What is to be held back for a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Culprit {
    Policy(ObjectRef),
    Group(Arc<str>),
}

impl Compiler {
    /// Like [`Compiler::apply`], but holds back what makes a table too large.
    ///
    /// *Expected flow*: policies and CIDR groups of the events, as they should be; the answer names those that are not in
    /// force: policies are replaced by what [`Fit::instead`] gives, CIDR groups by what they were.
    ///
    /// *Guarantees*: rows and change set are those of [`Compiler::apply`] with the replaced policies and groups in the
    /// place of the held ones, but that tables which are too large then are closed. Which are held is a function of the
    /// state before and of the events, whatever their order: of the policies that changed or were in no table and of the
    /// groups that changed, a suspect before others, then the one by which the table grows most, then the one whose name
    /// comes first.
    ///
    /// *Caveats*: a group that is new is held back as if it were not there, so that its policies allow nobody by it, and
    /// deny nobody by it either, as before.
    pub fn apply_within(&mut self, events: impl IntoIterator<Item = Event>, fit: &Fit<'_>) -> (ChangeSet, Misfits) {
        if self.limit != fit.limit {
            self.limit = fit.limit;
            self.tables.touch();
            self.dirty.guard_rows = true;
        }
        let mut brought = self.bring(events);
        let mut held = Misfits::default();
        loop {
            self.bring_up_to_date();
            let culprits = self.culprits(fit, &brought, &held);
            if culprits.is_empty() {
                let changes = self.take();
                held.closed = self.closures();
                return (changes, held);
            }
            for (culprit, excess) in culprits {
                match culprit {
                    Culprit::Policy(object) => {
                        self.note(Event::Policy(object.clone(), (fit.instead)(&object)));
                        held.policies.insert(object, excess);
                    }
                    Culprit::Group(name) => {
                        let policies = self.readers(&name);
                        let before = brought.groups.remove(&name).flatten();
                        self.note(Event::CidrGroup(name.clone(), before));
                        held.groups.insert(name, GroupExcess { excess, policies });
                    }
                }
            }
        }
    }

    fn bring(&mut self, events: impl IntoIterator<Item = Event>) -> Brought {
        let mut brought = Brought::default();
        let mut before: BTreeMap<Arc<str>, Option<CidrGroup>> = BTreeMap::new();
        for event in events {
            match &event {
                Event::Policy(object, Some(_)) => drop(brought.policies.insert(object.clone())),
                Event::Policy(object, None) => drop(brought.policies.remove(object)),
                Event::CidrGroup(name, _) => {
                    let was = || self.world.cidr_groups.get(name).cloned();
                    before.entry(name.clone()).or_insert_with(was);
                }
                _ => {}
            }
            self.note(event);
        }
        before.retain(|name, was| self.world.cidr_groups.get(name).is_some_and(|now| was.as_ref() != Some(now)));
        brought.groups = before;
        brought
    }

    /// Of each table that is too large, what is to be held back. Of tables that share it it is looked for only once: the
    /// others may fit without it.
    fn culprits(&self, fit: &Fit<'_>, brought: &Brought, held: &Misfits) -> BTreeMap<Culprit, Excess> {
        let mut culprits = BTreeMap::new();
        for (id, entries, policies) in self.tables.grown_beyond(fit.limit) {
            let is_found = |c: &Culprit| match c {
                Culprit::Policy(object) => policies.contains_key(object),
                Culprit::Group(name) => policies.keys().any(|p| self.reads_group(p, name)),
            };
            if culprits.keys().any(is_found) {
                continue;
            }
            let growth = self.growth(id);
            let of = |object: &ObjectRef| growth.get(object).copied().unwrap_or(0);
            let (new, old): (Vec<&ObjectRef>, Vec<&ObjectRef>) =
                policies.keys().filter(|p| !(fit.innocent)(p)).partition(|p| {
                    !held.policies.contains_key(*p) && (brought.policies.contains(*p) || !self.tables.had(p))
                });
            let mut candidates: Vec<(bool, i64, Culprit)> =
                new.into_iter().map(|p| ((fit.suspect)(p), of(p), Culprit::Policy(p.clone()))).collect();
            for name in brought.groups.keys() {
                // what a policy brings that changed itself is its own
                let readers: Vec<&&ObjectRef> = old.iter().filter(|p| self.reads_group(p, name)).collect();
                if !readers.is_empty() {
                    let growth = readers.into_iter().map(|p| of(p)).sum();
                    candidates.push((false, growth, Culprit::Group(name.clone())));
                }
            }
            let culprit = candidates.into_iter().min_by_key(|(suspect, growth, c)| (!suspect, -growth, c.clone()));
            if let Some((.., culprit)) = culprit {
                culprits.insert(culprit, self.excess(id, entries));
            }
        }
        culprits
    }

    fn excess(&self, id: TableId, entries: usize) -> Excess {
        let node = || self.guarded_by(id).map(|node| (Arc::from(""), node.clone()));
        let pod = self.pods.with_table(id).map(|key| (**key).clone()).or_else(node).unwrap_or_default();
        Excess { entries, limit: self.limit, pod }
    }

    fn closures(&self) -> BTreeMap<TableId, Closure> {
        let closure = |id: &TableId| {
            let (policies, closed, entries) = self.tables.closure(*id)?;
            let policies = policies.keys().cloned().collect();
            Some((*id, Closure { excess: self.excess(*id, entries), closed, policies }))
        };
        let alone = self.guards_beyond();
        self.tables.closed().iter().chain(&alone).filter_map(closure).collect()
    }

    fn readers(&self, group: &str) -> BTreeSet<ObjectRef> {
        self.book.grouped().filter(|p| self.reads_group(p, group)).cloned().collect()
    }

    /// Whether the policy means the group as it is now.
    fn reads_group(&self, policy: &ObjectRef, group: &str) -> bool {
        let (Some(policy), Some(content)) = (self.world.policies.get(policy), self.world.cidr_groups.get(group)) else {
            return false;
        };
        let rules = policy.rules.iter().flat_map(|r| r.ingress.iter().chain(&r.egress));
        let peers = rules.filter_map(|d| if let Peers::OneOf(peers) = &d.peers { Some(peers) } else { None }).flatten();
        peers.into_iter().any(|p| match p {
            Peer::CidrGroup { name, .. } => **name == *group,
            Peer::CidrGroups { selector, .. } => matches_plain(selector, &content.labels),
            _ => false,
        })
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
