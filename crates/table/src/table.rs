//! Rows by key, with a revision a change and a feed of what changed.

use std::collections::{BTreeMap, BTreeSet};

/// Counts the changes of one table. 0: before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Inserted,
    Updated,
    /// The row was already so, or was not there to remove.
    Unchanged,
    Removed,
}

/// One kind of rows.
///
/// *Expected flow*: [`Table::begin_snapshot`], upserts, [`Table::end_snapshot`], then upserts and removals; the same
/// again after a source was lost. *Guarantees*: [`Table::changes`] names every key that changed after the revision
/// exactly once, in the order of their last change. *Caveats*: removed keys are remembered for the feed until
/// [`Table::forget`].
#[derive(Clone, Debug)]
pub struct Table<K, V> {
    rows: BTreeMap<K, Row<V>>,
    /// Keys that are gone, for readers of the feed.
    removed: BTreeMap<K, Revision>,
    feed: BTreeMap<Revision, K>,
    revision: Revision,
    initialized: bool,
    /// Keys that the running snapshot has not named yet.
    unseen: Option<BTreeSet<K>>,
}

#[derive(Clone, Debug)]
struct Row<V> {
    value: V,
    revision: Revision,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            removed: BTreeMap::new(),
            feed: BTreeMap::new(),
            revision: Revision(0),
            initialized: false,
            unseen: None,
        }
    }
}

impl<K: Ord + Clone, V: PartialEq> Table<K, V> {
    /// Writes a row.
    pub fn upsert(&mut self, key: K, value: V) -> Change {
        if let Some(unseen) = &mut self.unseen {
            unseen.remove(&key);
        }
        let change = match self.rows.get(&key) {
            Some(row) if row.value == value => return Change::Unchanged,
            Some(row) => {
                self.feed.remove(&row.revision);
                Change::Updated
            }
            None => {
                if let Some(revision) = self.removed.remove(&key) {
                    self.feed.remove(&revision);
                }
                Change::Inserted
            }
        };
        let revision = self.advance(key.clone());
        self.rows.insert(key, Row { value, revision });
        change
    }

    /// Takes a row away.
    pub fn remove(&mut self, key: &K) -> Change {
        if let Some(unseen) = &mut self.unseen {
            unseen.remove(key);
        }
        let Some(row) = self.rows.remove(key) else { return Change::Unchanged };
        self.feed.remove(&row.revision);
        let revision = self.advance(key.clone());
        self.removed.insert(key.clone(), revision);
        Change::Removed
    }

    /// Starts a snapshot: rows that it does not name until its end are gone.
    pub fn begin_snapshot(&mut self) {
        self.unseen = Some(self.rows.keys().cloned().collect());
    }

    /// Ends the snapshot: removes what it did not name and returns those keys. The table is initialized from now on.
    pub fn end_snapshot(&mut self) -> Vec<K> {
        let gone: Vec<K> = self.unseen.take().unwrap_or_default().into_iter().collect();
        for key in &gone {
            self.remove(key);
        }
        self.initialized = true;
        gone
    }

    /// Whether a first snapshot was complete.
    pub fn is_initialized(&self) -> bool {
        self.initialized
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key).map(|r| &r.value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter().map(|(k, r)| (k, &r.value))
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Revision of the last change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Keys that changed after `since` with their rows now; none for those that are gone.
    pub fn changes(&self, since: Revision) -> impl Iterator<Item = (&K, Option<&V>)> {
        self.feed.range(Revision(since.0 + 1)..).map(|(_, k)| (k, self.get(k)))
    }

    /// Forgets removed keys that every reader has seen.
    pub fn forget(&mut self, seen: Revision) {
        let old: Vec<(K, Revision)> =
            self.removed.iter().filter(|(_, r)| **r <= seen).map(|(k, r)| (k.clone(), *r)).collect();
        for (key, revision) in old {
            self.removed.remove(&key);
            self.feed.remove(&revision);
        }
    }

    fn advance(&mut self, key: K) -> Revision {
        self.revision.0 += 1;
        self.feed.insert(self.revision, key);
        self.revision
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_equal_row_is_no_change() {
        let mut t = Table::default();
        assert_eq!(t.upsert("a", 1), Change::Inserted);
        let r = t.revision();
        assert_eq!(t.upsert("a", 1), Change::Unchanged);
        assert_eq!(t.remove(&"b"), Change::Unchanged);
        assert_eq!(t.revision(), r);
        assert_eq!(t.changes(r).count(), 0);
    }

    #[test]
    fn a_snapshot_sweeps_what_it_does_not_name() {
        let mut t = Table::default();
        t.upsert("kept", 1);
        t.upsert("gone", 1);
        assert!(!t.is_initialized());
        let r = t.revision();
        t.begin_snapshot();
        t.upsert("kept", 1);
        t.upsert("new", 2);
        assert_eq!(t.end_snapshot(), ["gone"]);
        assert!(t.is_initialized());
        let changes: Vec<_> = t.changes(r).map(|(k, v)| (*k, v.copied())).collect();
        assert_eq!(changes, [("new", Some(2)), ("gone", None)]);
        t.forget(t.revision());
        assert_eq!(t.changes(Revision(0)).map(|(k, _)| *k).collect::<Vec<_>>(), ["kept", "new"]);
    }

    proptest! {
        /// A reader that applies the feed at any moments ends with what the table holds.
        #[test]
        fn the_feed_rebuilds_the_table(ops in prop::collection::vec((0u8..12, prop::option::of(0u8..4), any::<bool>()), 0..200)) {
            let (mut t, mut copy, mut seen) = (Table::default(), BTreeMap::new(), Revision(0));
            for (key, value, read) in ops {
                match value {
                    Some(v) => t.upsert(key, v),
                    None => t.remove(&key),
                };
                if read {
                    for (k, v) in t.changes(seen) {
                        match v {
                            Some(v) => copy.insert(*k, *v),
                            None => copy.remove(k),
                        };
                    }
                    seen = t.revision();
                    t.forget(seen);
                    prop_assert_eq!(&copy, &t.iter().map(|(k, v)| (*k, *v)).collect::<BTreeMap<_, _>>());
                }
            }
        }
    }
}
