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
use axoneme_model::{Identity, Labels, PackedSet};
use sha2::{Digest as _, Sha256};

/// How many objects are in creation at once. What is to be written lies in memory until it is, and the answers come all at
/// the one task that does everything else.
const CREATIONS: usize = 1024;

/// The numbers of the cluster.
#[derive(Debug)]
pub struct Identities {
    /// As the CiliumIdentity objects say.
    objects: BTreeMap<Identity, Labels>,
    by_labels: BTreeMap<Labels, PackedSet<Identity>>,
    /// Numbers without an object that are not in creation. Looked for one by one, the last of 65 000 would be found
    /// behind tens of thousands that are taken.
    free: BTreeSet<Identity>,
    /// Objects that no wanted set goes by: those of which some may be let go.
    idle: BTreeSet<Identity>,
    wanted: BTreeSet<Labels>,
    /// Wanted, with an object, and not active.
    pending: BTreeSet<Labels>,
    /// Wanted, without an object, and not in creation.
    lacking: BTreeSet<Labels>,
    /// How many are wanted and not active: also those in creation.
    missing: usize,
    /// Sets whose number pods may use, with that number.
    active: Assignments,
    /// What changed in `active`.
    changes: Vec<(Labels, Option<Identity>)>,
    /// Sets that nodes have to learn before pods move, with the revision that told them and when they had to know.
    announced: BTreeMap<Labels, Announcement>,
    /// Numbers in creation, until the object is seen or the attempt failed.
    creating: BTreeMap<Identity, Labels>,
    /// The sets of these.
    under_way: BTreeSet<Labels>,
    unused_since: BTreeMap<Identity, Instant>,
    /// Announced to nodes, and then not wanted any more before a pod could use it.
    withdrawn: Vec<Identity>,
}

impl Default for Identities {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            by_labels: BTreeMap::new(),
            free: (Identity::FIRST.0..=Identity::LAST.0).map(Identity).collect(),
            idle: BTreeSet::new(),
            wanted: BTreeSet::new(),
            pending: BTreeSet::new(),
            lacking: BTreeSet::new(),
            missing: 0,
            active: Assignments::new(),
            changes: Vec::new(),
            announced: BTreeMap::new(),
            creating: BTreeMap::new(),
            under_way: BTreeSet::new(),
            unused_since: BTreeMap::new(),
            withdrawn: Vec::new(),
        }
    }
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
            self.withdrawn.extend(self.announced.remove(&labels).map(|a| a.identity));
            if self.wanted.remove(&labels) {
                self.missing -= usize::from(!self.active.contains_key(&labels));
                self.sort(&labels);
            }
            return;
        }
        let set = labels.clone();
        if self.wanted.insert(labels) {
            self.adopt(&set);
            self.missing += usize::from(!self.active.contains_key(&set));
            self.sort(&set);
        }
    }

    /// Objects that were there before the set was wanted keep it in the memory in which those who want it keep it.
    fn adopt(&mut self, labels: &Labels) {
        let Some(ids) = self.by_labels.remove(labels) else { return };
        self.objects.extend(ids.iter().map(|id| (*id, labels.clone())));
        self.by_labels.insert(labels.clone(), ids);
    }

    /// Puts a set where it belongs: what is looked through at each flush is what has something to come, not all there is.
    fn sort(&mut self, labels: &Labels) {
        let missing = self.wanted.contains(labels) && !self.active.contains_key(labels);
        let has_object = self.by_labels.contains_key(labels);
        toggle(&mut self.pending, labels, missing && has_object);
        toggle(&mut self.lacking, labels, missing && !has_object && !self.under_way.contains(labels));
        let wanted = self.wanted.contains(labels);
        for (place, id) in self.by_labels.get(labels).into_iter().flatten().enumerate() {
            // of two objects with the same labels the lower number counts
            if wanted && place == 0 {
                self.idle.remove(id);
            } else {
                self.idle.insert(*id);
            }
        }
    }

    /// Whether a number may be given is looked at again.
    fn refree(&mut self, id: Identity) {
        let given = self.objects.contains_key(&id) || self.creating.contains_key(&id);
        if !given && (Identity::FIRST..=Identity::LAST).contains(&id) {
            self.free.insert(id);
        } else {
            self.free.remove(&id);
        }
    }

    /// An object is there. Of two objects with the same labels the lower number counts; the other ends unused.
    pub fn observed(&mut self, id: Identity, labels: Labels) {
        self.not_created(id);
        if self.objects.get(&id) == Some(&labels) {
            return;
        }
        // somebody rewrote the object: nothing may go by its old labels
        self.removed(id);
        let labels = self.wanted.get(&labels).cloned().unwrap_or(labels);
        self.by_labels.entry(labels.clone()).or_default().insert(id);
        self.sort(&labels);
        self.objects.insert(id, labels);
        self.refree(id);
    }

    /// The object is gone. Pods that use the number keep it until they have another.
    pub fn removed(&mut self, id: Identity) {
        self.unused_since.remove(&id);
        let Some(labels) = self.objects.remove(&id) else { return };
        self.idle.remove(&id);
        self.refree(id);
        if let Some(ids) = self.by_labels.get_mut(&labels) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_labels.remove(&labels);
            }
        }
        if self.announced.get(&labels).is_some_and(|a| a.identity == id) {
            self.announced.remove(&labels);
            self.withdrawn.push(id);
        }
        if self.active.get(&labels) == Some(&id) {
            self.active.remove(&labels);
            self.changes.push((labels.clone(), None));
            self.missing += usize::from(self.wanted.contains(&labels));
        }
        self.sort(&labels);
    }

    /// The attempt to create failed (somebody else took the number, or the API server did not answer).
    pub fn not_created(&mut self, id: Identity) {
        let Some(labels) = self.creating.remove(&id) else { return };
        self.refree(id);
        self.under_way.remove(&labels);
        self.sort(&labels);
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
        self.pending.clone()
    }

    /// Wanted sets that pods can't use yet.
    #[must_use]
    pub const fn missing(&self) -> usize {
        self.missing
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
                    self.pending.remove(&labels);
                    self.missing -= 1;
                    self.active.insert(labels.clone(), id);
                    self.changes.push((labels, Some(id)));
                }
            }
        }
        announce
    }

    /// The set was published with this revision.
    pub fn announced(&mut self, identity: Identity, labels: Labels, revision: u64, deadline: Instant) {
        if self.wanted.contains(&labels) {
            self.announced.insert(labels, Announcement { identity, revision, deadline });
        } else {
            self.withdrawn.push(identity);
        }
    }

    /// What nodes were told for nothing since the last call: no pod can come to use it by that announcement.
    pub fn take_withdrawn(&mut self) -> Vec<Identity> {
        let mut withdrawn = std::mem::take(&mut self.withdrawn);
        withdrawn.retain(|id| !self.is_active(*id) && !self.announced.values().any(|a| a.identity == *id));
        withdrawn
    }

    /// Whether pods may use the number: only by the labels of its object.
    fn is_active(&self, id: Identity) -> bool {
        self.objects.get(&id).is_some_and(|labels| self.active.get(labels) == Some(&id))
    }

    /// Whether an announcement is out that has not come to its end.
    #[must_use]
    pub fn is_announcing(&self) -> bool {
        !self.announced.is_empty()
    }

    /// Objects to create for wanted sets; the rest of many when some of these are there.
    pub fn create(&mut self) -> Vec<(Identity, Labels)> {
        let mut create = Vec::new();
        while self.creating.len() < CREATIONS
            && let Some(labels) = self.lacking.first().cloned()
        {
            let Some(id) = self.free(&labels) else { break };
            self.lacking.remove(&labels);
            self.under_way.insert(labels.clone());
            self.creating.insert(id, labels.clone());
            self.refree(id);
            create.push((id, labels));
        }
        create
    }

    /// Objects that were not used for `grace`. `in_use` says whether a pod has the number of these labels, wanted or not.
    pub fn collect(
        &mut self,
        in_use: impl Fn(&Labels, Identity) -> bool,
        grace: Duration,
        now: Instant,
    ) -> Vec<Identity> {
        let objects = self.idle.iter().filter_map(|id| Some((*id, self.objects.get(id)?)));
        let unused: BTreeSet<Identity> =
            objects.filter(|(id, labels)| !in_use(labels, *id)).map(|(id, _)| id).collect();
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
        let start = Identity(Identity::FIRST.0 + start % span);
        self.free.range(start..).next().or_else(|| self.free.first()).copied()
    }
}

/// Puts the set in or takes it out.
fn toggle(sets: &mut BTreeSet<Labels>, labels: &Labels, present: bool) {
    if !present {
        sets.remove(labels);
    } else if !sets.contains(labels) {
        sets.insert(labels.clone());
    }
}

#[cfg(test)]
mod tests;
