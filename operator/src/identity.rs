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
    by_labels: BTreeMap<Labels, BTreeSet<Identity>>,
    wanted: BTreeSet<Labels>,
    /// Wanted and not active.
    missing: BTreeSet<Labels>,
    /// Sets whose number pods may use, with that number.
    active: Assignments,
    /// What changed in `active`.
    changes: Vec<(Labels, Option<Identity>)>,
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

impl Identities {
    /// Pods began or ceased to ask for a set.
    pub fn want(&mut self, labels: Labels, wanted: bool) {
        if !wanted {
            self.missing.remove(&labels);
            self.announced.remove(&labels);
            self.wanted.remove(&labels);
            return;
        }
        if !self.active.contains_key(&labels) {
            self.missing.insert(labels.clone());
        }
        self.wanted.insert(labels);
    }

    /// An object is there. Of two objects with the same labels the lower number counts; the other ends unused.
    pub fn observed(&mut self, id: Identity, labels: Labels) {
        self.creating.remove(&id);
        if self.objects.get(&id) == Some(&labels) {
            return;
        }
        // somebody rewrote the object: nothing may go by its old labels
        self.removed(id);
        self.by_labels.entry(labels.clone()).or_default().insert(id);
        self.objects.insert(id, labels);
    }

    /// The object is gone. Pods that use the number keep it until they have another.
    pub fn removed(&mut self, id: Identity) {
        self.unused_since.remove(&id);
        let Some(labels) = self.objects.remove(&id) else { return };
        if let Some(ids) = self.by_labels.get_mut(&labels) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_labels.remove(&labels);
            }
        }
        if self.announced.get(&labels).is_some_and(|a| a.identity == id) {
            self.announced.remove(&labels);
        }
        if self.active.get(&labels) == Some(&id) {
            self.active.remove(&labels);
            self.changes.push((labels.clone(), None));
            if self.wanted.contains(&labels) {
                self.missing.insert(labels);
            }
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

    /// Whether pods may use the set's number, or none asks for it.
    #[must_use]
    pub fn is_usable(&self, labels: &Labels) -> bool {
        self.active.contains_key(labels) || !self.wanted.contains(labels)
    }

    /// What changed in the numbers that pods may use, since the last call.
    pub fn take_changes(&mut self) -> Vec<(Labels, Option<Identity>)> {
        std::mem::take(&mut self.changes)
    }

    /// Wanted sets that have an object and are not active yet.
    #[must_use]
    pub fn pending(&self) -> BTreeSet<Labels> {
        self.missing.iter().filter(|l| self.by_labels.contains_key(*l)).cloned().collect()
    }

    /// Wanted sets that pods can't use yet.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.missing.len()
    }

    /// Makes numbers of wanted sets usable: at once where no pod moves to them, else when all nodes have acknowledged
    /// (`acked`: up to this revision) the announcement or its deadline has come. Returns the sets to announce now, to
    /// be confirmed with [`Self::announced`].
    pub fn advance(&mut self, moves_to: &BTreeSet<Labels>, acked: u64, now: Instant) -> Vec<(Identity, Labels)> {
        let mut announce = Vec::new();
        for labels in self.pending() {
            let Some(id) = self.by_labels.get(&labels).and_then(|ids| ids.first()).copied() else { continue };
            match self.announced.get(&labels) {
                None if moves_to.contains(&labels) => announce.push((id, labels)),
                Some(a) if a.revision > acked && a.deadline > now => {}
                _ => {
                    self.announced.remove(&labels);
                    self.missing.remove(&labels);
                    self.active.insert(labels.clone(), id);
                    self.changes.push((labels, Some(id)));
                }
            }
        }
        announce
    }

    /// The set was published with this revision.
    pub fn announced(&mut self, identity: Identity, labels: Labels, revision: u64, deadline: Instant) {
        self.announced.insert(labels, Announcement { identity, revision, deadline });
    }

    /// Whether an announcement is out that has not come to its end.
    #[must_use]
    pub fn is_announcing(&self) -> bool {
        !self.announced.is_empty()
    }

    /// Objects to create for wanted sets.
    pub fn create(&mut self) -> Vec<(Identity, Labels)> {
        let under_way: BTreeSet<&Labels> = self.creating.values().collect();
        let none = |l: &&Labels| !self.by_labels.contains_key(*l) && !under_way.contains(l);
        let missing: Vec<Labels> = self.missing.iter().filter(none).cloned().collect();
        let mut create = Vec::new();
        for labels in missing {
            let Some(id) = self.free(&labels) else { break };
            self.creating.insert(id, labels.clone());
            create.push((id, labels));
        }
        create
    }

    /// Objects that were not used for `grace`. `in_use` says whether a pod has the number, wanted or not.
    pub fn collect(&mut self, in_use: impl Fn(Identity) -> bool, grace: Duration, now: Instant) -> Vec<Identity> {
        let canonical = |id: &Identity, l: &Labels| self.by_labels.get(l).and_then(|ids| ids.first()) == Some(id);
        let used = |id: &Identity, l: &Labels| in_use(*id) || (self.wanted.contains(l) && canonical(id, l));
        let unused: BTreeSet<Identity> =
            self.objects.iter().filter(|(id, l)| !used(id, l)).map(|(id, _)| *id).collect();
        self.unused_since.retain(|id, _| unused.contains(id));
        for id in &unused {
            self.unused_since.entry(*id).or_insert(now);
        }
        let old = self.unused_since.iter().filter(|(_, since)| now.duration_since(**since) >= grace);
        old.map(|(id, _)| *id).collect()
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
