//! Ids from hashes, with collisions resolved the same way whatever the order of events.
//!
//! A key asks for the ids of its own endless sequence one after the other; where two keys want the same id, the one with
//! the smaller digest has it. Which key ends up with which id is then a function of the set of keys alone (the stable
//! matching of deferred acceptance is unique, because all ids prefer keys alike). With 2^32 ids and 10^5 keys one
//! collision is likely, so it has to be right; it need not be fast.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    ops::RangeInclusive,
};

use crate::digest::digest;

#[derive(Debug)]
pub(crate) struct Ids<K> {
    domain: &'static str,
    range: RangeInclusive<u64>,
    keys: HashMap<K, Place>,
    owners: HashMap<u64, K>,
    /// Who was refused an id, and takes it when it gets free.
    refused: HashMap<u64, BTreeSet<(u128, K)>>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    digest: u128,
    id: u64,
    /// How many ids of its sequence the key was refused.
    refusals: u32,
}

impl<K: Clone + Ord + Hash> Ids<K> {
    pub(crate) fn new(domain: &'static str, range: RangeInclusive<u64>) -> Self {
        #[cfg(test)]
        let range = crowd::limit(domain, range);
        Self { domain, range, keys: HashMap::new(), owners: HashMap::new(), refused: HashMap::new() }
    }

    pub(crate) fn get(&self, key: &K) -> Option<u64> {
        self.keys.get(key).map(|p| p.id)
    }

    /// Adds a key and returns the other keys whose id changed by that (practically always none).
    pub(crate) fn insert(&mut self, key: &K) -> Vec<K> {
        if self.keys.contains_key(key) {
            return vec![];
        }
        let mut moved = vec![];
        let mut seeker = (key.clone(), digest(self.domain, key), 0);
        while let Some(displaced) = self.seat(seeker) {
            moved.push(displaced.0.clone());
            seeker = displaced;
        }
        moved
    }

    /// Seats the key at the first id that it may have; returns whom it displaced, with the next step of its sequence.
    fn seat(&mut self, (key, digest, mut refusals): (K, u128, u32)) -> Option<(K, u128, u32)> {
        loop {
            let id = self.candidate(digest, refusals);
            let owner = self.owners.get(&id).and_then(|o| self.keys.get(o).map(|p| (o.clone(), *p)));
            match owner {
                Some((owner, place)) if (place.digest, &owner) < (digest, &key) => {
                    self.refused.entry(id).or_default().insert((digest, key.clone()));
                    refusals += 1;
                }
                displaced => {
                    self.owners.insert(id, key.clone());
                    self.keys.insert(key, Place { digest, id, refusals });
                    let (owner, place) = displaced?;
                    self.refused.entry(id).or_default().insert((place.digest, owner.clone()));
                    return Some((owner, place.digest, place.refusals + 1));
                }
            }
        }
    }

    /// Removes a key and returns the other keys whose id changed by that.
    pub(crate) fn remove(&mut self, key: &K) -> Vec<K> {
        let mut moved = vec![];
        let Some(place) = self.keys.remove(key) else { return moved };
        self.forget_refusals(key, place.digest, 0..place.refusals);
        let mut free = place.id;
        loop {
            self.owners.remove(&free);
            let Some((digest, heir)) = self.refused.get_mut(&free).and_then(BTreeSet::pop_first) else { break };
            self.refused.retain(|_, r| !r.is_empty());
            let Some(old) = self.keys.get(&heir).copied() else { break };
            let refusals = (0..old.refusals).find(|i| self.candidate(digest, *i) == free).unwrap_or(0);
            self.forget_refusals(&heir, digest, refusals..old.refusals);
            self.owners.insert(free, heir.clone());
            self.keys.insert(heir.clone(), Place { digest, id: free, refusals });
            moved.push(heir);
            free = old.id;
        }
        moved
    }

    fn forget_refusals(&mut self, key: &K, digest: u128, steps: std::ops::Range<u32>) {
        for step in steps {
            let id = self.candidate(digest, step);
            if let Some(r) = self.refused.get_mut(&id) {
                r.remove(&(digest, key.clone()));
                if r.is_empty() {
                    self.refused.remove(&id);
                }
            }
        }
    }

    fn candidate(&self, of: u128, step: u32) -> u64 {
        let h = if step == 0 { of as u64 } else { digest("step", &(of, step)) as u64 };
        let size = (self.range.end() - self.range.start()).saturating_add(1);
        self.range.start() + h % size
    }
}

/// Makes ids scarce in tests, so that keys collide all the time.
#[cfg(test)]
pub(crate) mod crowd {
    use std::{cell::Cell, ops::RangeInclusive};

    thread_local! {
        static SCARCE: Cell<bool> = const { Cell::new(false) };
    }

    /// Whether the ids that this thread makes from now on are scarce.
    pub(crate) fn set(scarce: bool) {
        SCARCE.set(scarce);
    }

    pub(super) fn limit(domain: &str, range: RangeInclusive<u64>) -> RangeInclusive<u64> {
        let count = match domain {
            "class" => 120,
            "rule" => 200,
            "table" => 24,
            _ => return range,
        };
        if SCARCE.get() { *range.start()..=*range.start() + count } else { range }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(ids: &Ids<u32>, of: &[u32]) -> Vec<Option<u64>> {
        of.iter().map(|k| ids.get(k)).collect()
    }

    /// Forty keys in fifty ids collide all the time.
    #[test]
    fn ids_depend_on_the_set_of_keys_and_not_on_the_order_of_events() {
        let keys: Vec<u32> = (0..40).collect();
        let mut expected = Ids::new("t", 1..=50);
        for key in &keys {
            expected.insert(key);
        }
        let expected = assignment(&expected, &keys);
        for seed in 0..200u64 {
            let mut ids = Ids::new("t", 1..=50);
            let mut order: Vec<u32> = (0..48).collect();
            order.sort_by_key(|k| digest("order", &(seed, *k)));
            for k in &order {
                ids.insert(k);
            }
            for k in order.iter().filter(|k| **k >= 40) {
                ids.remove(k);
            }
            assert_eq!(assignment(&ids, &keys), expected, "seed {seed}");
            assert_eq!(ids.owners.len(), 40);
        }
    }

    #[test]
    fn moves_are_reported_and_nothing_is_left_behind() {
        let mut ids = Ids::new("t", 1..=12);
        let mut known: HashMap<u32, u64> = HashMap::new();
        for round in 0..2000u32 {
            let key = (digest("k", &round) % 12) as u32;
            let moved = if known.contains_key(&key) { ids.remove(&key) } else { ids.insert(&key) };
            match ids.get(&key) {
                Some(id) => known.insert(key, id),
                None => known.remove(&key),
            };
            for k in moved {
                known.insert(k, ids.get(&k).unwrap());
            }
            for (k, id) in &known {
                assert_eq!(ids.get(k), Some(*id), "round {round}");
            }
        }
        for k in 0..12 {
            ids.remove(&k);
        }
        assert!(ids.owners.is_empty() && ids.refused.is_empty());
    }
}
