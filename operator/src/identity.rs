//! Numbers for label sets: which CiliumIdentity objects to make and which to let go. Pure but for the time that its
//! caller tells.
//!
//! ```text
//!   wanted by pods ──▶ no number ──▶ create ──▶ object seen ──▶ announced ──▶ acked (or deadline) ──▶ active
//!                                                                  └─ at once, where no pod moves to it
//!   unused ──▶ grace ──▶ delete
//! ```
//!
//! A pod whose identity changes keeps the old one until the new one is active: nodes know an identity before any
//! address moves to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use axoneme_compile::Assignments;
use axoneme_model::{Identity, Labels};
use sha2::{Digest as _, Sha256};

/// The numbers of the cluster.
#[derive(Debug, Default)]
pub struct Identities {
    /// As the CiliumIdentity objects say.
    objects: BTreeMap<Identity, Labels>,
    /// Sets whose number pods may use, with that number.
    active: Assignments,
    /// Sets that nodes have to learn before pods move, with the revision that told them and when they had to know.
    announced: BTreeMap<Labels, Announcement>,
    /// Numbers in creation, until the object is seen or the attempt failed.
    creating: BTreeMap<Identity, Labels>,
    unused_since: BTreeMap<Identity, Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Announcement {
    identity: Identity,
    revision: u64,
    deadline: Instant,
}

/// What the leader should do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub create: Vec<(Identity, Labels)>,
    pub delete: Vec<Identity>,
}

impl Identities {
    /// An object is there. Of two objects with the same labels the lower number counts; the other ends unused.
    pub fn observed(&mut self, id: Identity, labels: Labels) {
        self.creating.remove(&id);
        if self.objects.get(&id) == Some(&labels) {
            return;
        }
        // somebody rewrote the object: nothing may go by its old labels
        if let Some(old) = self.objects.insert(id, labels) {
            self.let_go(id, &old);
        }
    }

    /// The object is gone. Pods that use the number keep it until they have another.
    pub fn removed(&mut self, id: Identity) {
        self.unused_since.remove(&id);
        if let Some(labels) = self.objects.remove(&id) {
            self.let_go(id, &labels);
        }
    }

    fn let_go(&mut self, id: Identity, labels: &Labels) {
        if self.active.get(labels) == Some(&id) {
            self.active.remove(labels);
        }
        if self.announced.get(labels).is_some_and(|a| a.identity == id) {
            self.announced.remove(labels);
        }
    }

    /// The attempt to create failed (somebody else took the number, or the API server did not answer).
    pub fn not_created(&mut self, id: Identity) {
        self.creating.remove(&id);
    }

    /// Numbers that pods may use.
    #[must_use]
    pub const fn active(&self) -> &Assignments {
        &self.active
    }

    /// Objects with their labels.
    pub fn objects(&self) -> impl Iterator<Item = (&Identity, &Labels)> {
        self.objects.iter()
    }

    /// Makes numbers of wanted sets usable: at once where no pod moves to them, else after the announcement. Returns
    /// the sets to announce now, to be confirmed with [`Self::announced`]. True: the active numbers changed.
    pub fn advance(
        &mut self,
        wanted: &BTreeSet<Labels>,
        moves_to: &BTreeSet<Labels>,
        acked: u64,
        now: Instant,
    ) -> (bool, Vec<(Identity, Labels)>) {
        let mut changed = false;
        let mut announce = Vec::new();
        for (id, labels) in &self.objects {
            if self.active.contains_key(labels) || !wanted.contains(labels) {
                continue;
            }
            let ready = match self.announced.get(labels) {
                None if moves_to.contains(labels) => {
                    announce.push((*id, labels.clone()));
                    false
                }
                None => true,
                Some(a) => a.revision <= acked || a.deadline <= now,
            };
            if ready {
                self.announced.remove(labels);
                self.active.insert(labels.clone(), *id);
                changed = true;
            }
        }
        (changed, announce)
    }

    /// The set was published with this revision.
    pub fn announced(&mut self, identity: Identity, labels: Labels, revision: u64, deadline: Instant) {
        self.announced.insert(labels, Announcement { identity, revision, deadline });
    }

    /// Objects to create for wanted sets, and to delete after `grace` without use. `in_use` are numbers that pods have
    /// now, wanted or not.
    pub fn plan(
        &mut self,
        wanted: &BTreeSet<Labels>,
        in_use: &BTreeSet<Identity>,
        grace: Duration,
        now: Instant,
    ) -> Plan {
        let known: BTreeSet<&Labels> = self.objects.values().chain(self.creating.values()).collect();
        let missing: Vec<Labels> = wanted.iter().filter(|l| !known.contains(l)).cloned().collect();
        let mut plan = Plan::default();
        for labels in missing {
            let Some(id) = self.free(&labels) else { break };
            self.creating.insert(id, labels.clone());
            plan.create.push((id, labels));
        }
        let mut canonical: BTreeMap<&Labels, Identity> = BTreeMap::new();
        for (id, labels) in &self.objects {
            canonical.entry(labels).or_insert(*id);
        }
        let used = |id: &Identity, labels: &Labels| {
            in_use.contains(id)
                || self.active.get(labels) == Some(id) && wanted.contains(labels)
                || (wanted.contains(labels) && canonical.get(labels) == Some(id))
        };
        let (used, unused): (Vec<_>, Vec<_>) = self.objects.iter().partition(|(id, l)| used(id, l));
        for (id, _) in used {
            self.unused_since.remove(id);
        }
        for (id, _) in unused {
            let since = *self.unused_since.entry(*id).or_insert(now);
            if now.duration_since(since) >= grace {
                plan.delete.push(*id);
            }
        }
        plan
    }

    /// How many more sets can get a number.
    #[must_use]
    pub fn room(&self) -> usize {
        let all = (Identity::LAST.0 - Identity::FIRST.0 + 1) as usize;
        all.saturating_sub(self.objects.len() + self.creating.len())
    }

    /// A free number, found from a hash of the labels on: replicas and restarts try the same one first.
    fn free(&self, labels: &Labels) -> Option<Identity> {
        let hash = Sha256::digest(labels.to_strings().join(";").as_bytes());
        let start = hash.first_chunk::<4>().map_or(0, |b| u32::from_be_bytes(*b));
        let span = Identity::LAST.0 - Identity::FIRST.0 + 1;
        (0..span)
            .map(|i| Identity(Identity::FIRST.0 + (start % span + i) % span))
            .find(|id| !self.objects.contains_key(id) && !self.creating.contains_key(id))
    }
}

#[cfg(test)]
mod tests;
