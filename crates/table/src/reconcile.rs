//! Makes a target equal to what is desired, a row at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::{Duration, Instant},
};

/// Why a row was not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub message: String,
    /// False: the same row will never fit; it is not tried again until it changes.
    pub retry: bool,
}

/// What is made equal.
pub trait Target<K, V> {
    /// Makes the row so. `old` is what the target holds for the key. A failure must leave it as it was.
    fn upsert(&mut self, key: &K, old: Option<&V>, new: &V) -> Result<(), Failure>;
    /// Takes the row away.
    fn remove(&mut self, key: &K, old: &V) -> Result<(), Failure>;
}

/// Where a row stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not tried since its last change.
    Pending,
    /// The target holds it.
    Applied,
    /// The target holds what it held before.
    Failed { failure: Failure, attempts: u32 },
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Calls that changed the target.
    pub writes: usize,
    pub failures: usize,
    /// Adopted rows that nobody wants and that wait for permission to prune.
    pub held: usize,
    /// When to run again for rows that failed.
    pub retry_at: Option<Instant>,
}

/// Waits between attempts: `first`, doubled each time, at most `limit`.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub first: Duration,
    pub limit: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(50), limit: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The wait after so many failed attempts (counted from 1).
    pub fn after(&self, attempts: u32) -> Duration {
        self.first.saturating_mul(1 << attempts.saturating_sub(1).min(20)).min(self.limit)
    }
}

/// What the target holds for a key, as far as is known.
#[derive(Clone, Debug)]
enum Observed<V> {
    Absent,
    /// Equal to `desired`: stored once, since nearly all rows are in this state.
    Same,
    Is(V),
}

#[derive(Debug)]
struct Item<V> {
    desired: Option<V>,
    observed: Observed<V>,
    /// Adopted and never wanted since.
    orphan: bool,
    /// With the number of attempts, and when it is tried again. Few rows fail, and all of them have a place for it.
    failed: Option<Box<(Failure, u32, Option<Instant>)>>,
}

/// Desired rows beside what the target holds.
///
/// *Expected flow*: [`adopt`](Self::adopt) what the target holds at the start, [`set`](Self::set) and
/// [`unset`](Self::unset) as inputs change, [`run`](Self::run) after each batch and at `retry_at`. *Guarantees*: a run
/// with nothing to do makes no call; order of calls is the order of keys, upserts before removals. *Assumptions*:
/// nobody else writes the target between runs; if somebody did, adopt again.
#[derive(Debug)]
pub struct Reconciler<K, V> {
    items: BTreeMap<K, Item<V>>,
    dirty: BTreeSet<K>,
    waiting: BTreeSet<(Instant, K)>,
    backoff: Backoff,
}

impl<K, V> Default for Reconciler<K, V> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), dirty: BTreeSet::new(), waiting: BTreeSet::new(), backoff: Backoff::default() }
    }
}

impl<K: Ord + Clone + Debug, V: PartialEq + Clone> Reconciler<K, V> {
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, ..Self::default() }
    }

    /// Takes the target's present rows as observed, in place of what was believed.
    pub fn adopt(&mut self, present: impl IntoIterator<Item = (K, V)>) {
        let mut present: BTreeMap<K, V> = present.into_iter().collect();
        for (key, item) in &mut self.items {
            item.observed = match (present.remove(key), &item.desired) {
                (Some(p), Some(d)) if p == *d => Observed::Same,
                (Some(p), _) => Observed::Is(p),
                (None, _) => Observed::Absent,
            };
            item.failed = None;
            self.dirty.insert(key.clone());
        }
        for (key, value) in present {
            self.dirty.insert(key.clone());
            let item = Item { desired: None, observed: Observed::Is(value), orphan: true, failed: None };
            self.items.insert(key, item);
        }
        self.waiting.clear();
    }

    /// Wants the row. Whether that is a change.
    pub fn set(&mut self, key: K, value: V) -> bool {
        let Some(item) = self.items.get_mut(&key) else {
            let item = Item { desired: Some(value), observed: Observed::Absent, orphan: false, failed: None };
            self.dirty.insert(key.clone());
            self.items.insert(key, item);
            return true;
        };
        item.orphan = false;
        if item.desired.as_ref() == Some(&value) {
            return false;
        }
        item.observed = match std::mem::replace(&mut item.observed, Observed::Absent) {
            Observed::Is(v) if v == value => Observed::Same,
            Observed::Same => item.desired.take().map_or(Observed::Absent, Observed::Is),
            other => other,
        };
        item.desired = Some(value);
        self.touch(&key);
        true
    }

    /// Takes no more memory than the rows need, after many have come in their order: the nodes of the tree are half full.
    pub fn compact(&mut self) {
        self.items = std::mem::take(&mut self.items).into_iter().collect();
    }

    /// No longer wants the row. Whether that is a change.
    pub fn unset(&mut self, key: &K) -> bool {
        let Some(item) = self.items.get_mut(key) else { return false };
        let Some(old) = item.desired.take() else { return false };
        if matches!(item.observed, Observed::Same) {
            item.observed = Observed::Is(old);
        }
        self.touch(key);
        true
    }

    /// No longer wants the row, and knows that nobody does: one that was adopted and never wanted goes without pruning.
    pub fn release(&mut self, key: &K) {
        self.unset(key);
        if let Some(item) = self.items.get_mut(key) {
            item.orphan = false;
            self.touch(key);
        }
    }

    /// No longer wants the row, which the target loses by other means.
    pub fn forget(&mut self, key: &K) {
        self.unset(key);
        self.touch(key);
        self.dirty.remove(key);
        self.items.remove(key);
    }

    /// Applies what is due. `prune` allows the removal of adopted rows that were never wanted.
    pub fn run(&mut self, now: Instant, prune: bool, target: &mut impl Target<K, V>) -> Outcome {
        while let Some((at, key)) = self.waiting.first().cloned() {
            if at > now {
                break;
            }
            self.waiting.pop_first();
            self.dirty.insert(key);
        }
        let mut outcome = Outcome::default();
        let (wanted, gone): (Vec<K>, Vec<K>) = std::mem::take(&mut self.dirty)
            .into_iter()
            .partition(|k| self.items.get(k).is_some_and(|i| i.desired.is_some()));
        for key in wanted.into_iter().chain(gone) {
            self.apply(key, now, prune, target, &mut outcome);
        }
        outcome.retry_at = self.waiting.first().map(|(at, _)| *at);
        outcome
    }

    fn apply(&mut self, key: K, now: Instant, prune: bool, target: &mut impl Target<K, V>, outcome: &mut Outcome) {
        let Some(item) = self.items.get_mut(&key) else { return };
        let result = match (&item.desired, &item.observed) {
            (Some(_), Observed::Same) | (None, Observed::Absent | Observed::Same) => Ok(false),
            (Some(new), Observed::Absent) => target.upsert(&key, None, new).map(|()| true),
            (Some(new), Observed::Is(old)) => target.upsert(&key, Some(old), new).map(|()| true),
            (None, Observed::Is(_)) if item.orphan && !prune => {
                outcome.held += 1;
                self.dirty.insert(key);
                return;
            }
            (None, Observed::Is(old)) => target.remove(&key, old).map(|()| true),
        };
        match result {
            Ok(wrote) => {
                outcome.writes += usize::from(wrote);
                item.failed = None;
                item.observed = Observed::Same;
                if item.desired.is_none() {
                    self.items.remove(&key);
                }
            }
            Err(failure) => {
                outcome.failures += 1;
                let attempts = item.failed.as_ref().map_or(1, |f| f.1 + 1);
                let at = failure.retry.then(|| now + self.backoff.after(attempts));
                item.failed = Some(Box::new((failure, attempts, at)));
                self.waiting.extend(at.map(|at| (at, key)));
            }
        }
    }

    /// A changed row is tried at once, whatever its earlier failures.
    fn touch(&mut self, key: &K) {
        if let Some(item) = self.items.get_mut(key)
            && let Some(at) = item.failed.take().and_then(|f| f.2)
        {
            self.waiting.remove(&(at, key.clone()));
        }
        self.dirty.insert(key.clone());
    }

    /// Where the row stands; none for a row that is neither wanted nor there.
    pub fn status(&self, key: &K) -> Option<Status> {
        let item = self.items.get(key)?;
        Some(match (item.failed.as_deref(), &item.observed) {
            (Some((failure, attempts, _)), _) => Status::Failed { failure: failure.clone(), attempts: *attempts },
            (None, Observed::Same) if item.desired.is_some() => Status::Applied,
            _ => Status::Pending,
        })
    }

    /// Whether the target holds exactly this.
    pub fn is_applied(&self, key: &K) -> bool {
        self.items.get(key).is_some_and(|i| i.desired.is_some() && matches!(i.observed, Observed::Same))
    }

    pub fn desired(&self, key: &K) -> Option<&V> {
        self.items.get(key)?.desired.as_ref()
    }

    /// What the target holds for the key, as far as is known.
    pub fn observed(&self, key: &K) -> Option<&V> {
        let item = self.items.get(key)?;
        match &item.observed {
            Observed::Absent => None,
            Observed::Same => item.desired.as_ref(),
            Observed::Is(v) => Some(v),
        }
    }

    /// Rows that the next run looks at, with what the target holds, as far as is known, and what is wanted.
    pub fn pending(&self) -> impl Iterator<Item = (&K, Option<&V>, Option<&V>)> {
        self.dirty.iter().filter_map(|k| Some((k, self.observed(k), self.items.get(k)?.desired.as_ref())))
    }

    /// Everything that is wanted.
    pub fn iter_desired(&self) -> impl Iterator<Item = (&K, &V)> {
        self.items.iter().filter_map(|(k, i)| Some((k, i.desired.as_ref()?)))
    }

    /// Rows that failed, with message and attempts.
    pub fn failures(&self) -> impl Iterator<Item = (&K, &Failure, u32)> {
        self.items.iter().filter_map(|(k, i)| i.failed.as_deref().map(|(f, n, _)| (k, f, *n)))
    }

    /// Rows that the target does not hold as they are wanted, as far as is known; those that nobody wants among them.
    pub fn differing(&self) -> usize {
        let same = |i: &&Item<V>| i.desired.is_some() && matches!(i.observed, Observed::Same);
        self.items.len() - self.items.values().filter(same).count()
    }

    /// Rows that are wanted.
    pub fn len(&self) -> usize {
        self.items.values().filter(|i| i.desired.is_some()).count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Fake {
        rows: BTreeMap<u8, u8>,
        calls: usize,
        fail: BTreeMap<u8, bool>,
    }

    impl Fake {
        fn check(&mut self, key: u8) -> Result<(), Failure> {
            self.calls += 1;
            match self.fail.get(&key) {
                Some(retry) => Err(Failure { message: format!("{key} does not fit"), retry: *retry }),
                None => Ok(()),
            }
        }
    }

    impl Target<u8, u8> for Fake {
        fn upsert(&mut self, key: &u8, old: Option<&u8>, new: &u8) -> Result<(), Failure> {
            assert_eq!(old, self.rows.get(key), "the reconciler knows what is there");
            self.check(*key)?;
            self.rows.insert(*key, *new);
            Ok(())
        }

        fn remove(&mut self, key: &u8, old: &u8) -> Result<(), Failure> {
            assert_eq!(Some(old), self.rows.get(key));
            self.check(*key)?;
            self.rows.remove(key);
            Ok(())
        }
    }

    #[test]
    fn nothing_to_do_is_no_call() {
        let (mut r, mut t, now) = (Reconciler::default(), Fake::default(), Instant::now());
        t.rows = BTreeMap::from([(1, 1), (2, 2)]);
        r.adopt(t.rows.clone());
        r.set(1, 1);
        r.set(2, 2);
        assert_eq!(r.run(now, true, &mut t), Outcome::default());
        assert_eq!(t.calls, 0);
        assert_eq!(r.status(&1), Some(Status::Applied));
    }

    #[test]
    fn rows_that_wait_failed_or_are_left_over_are_counted() {
        let (mut r, mut t, now) = (Reconciler::default(), Fake::default(), Instant::now());
        t.rows = BTreeMap::from([(1, 1), (2, 2), (3, 3)]);
        r.adopt(t.rows.clone());
        assert_eq!(r.differing(), 3, "nobody wants them");
        r.set(1, 1);
        r.set(2, 5);
        r.set(4, 4);
        t.fail.insert(4, false);
        assert_eq!(r.differing(), 3, "one is as it should be, one to be changed, one to be made, one left over");
        r.run(now, false, &mut t);
        assert_eq!(r.differing(), 2, "one that never fits, and one that waits to be pruned");
        r.unset(&4);
        r.run(now, true, &mut t);
        assert_eq!(r.differing(), 0);
    }

    #[test]
    fn adopted_rows_are_pruned_only_with_permission() {
        let (mut r, mut t, now) = (Reconciler::default(), Fake::default(), Instant::now());
        t.rows = BTreeMap::from([(1, 1), (9, 9)]);
        r.adopt(t.rows.clone());
        r.set(1, 2);
        let o = r.run(now, false, &mut t);
        assert_eq!((o.writes, o.held), (1, 1));
        assert!(t.rows.contains_key(&9));
        // a row that was wanted and is not any more needs no permission
        r.unset(&1);
        assert_eq!(r.run(now, false, &mut t).writes, 1);
        assert_eq!(t.rows, BTreeMap::from([(9, 9)]));
        assert_eq!(r.run(now, true, &mut t).writes, 1);
        assert!(t.rows.is_empty() && r.is_empty());
    }

    #[test]
    fn an_adopted_row_that_is_known_to_be_left_over_goes_without_permission() {
        let (mut r, mut t, now) = (Reconciler::default(), Fake::default(), Instant::now());
        t.rows = BTreeMap::from([(1, 1), (9, 9)]);
        r.adopt(t.rows.clone());
        r.release(&1);
        r.release(&5);
        assert_eq!(r.run(now, false, &mut t).writes, 1);
        assert_eq!(t.rows, BTreeMap::from([(9, 9)]));
    }

    #[test]
    fn a_failed_row_waits_longer_each_time_and_stops_nobody() {
        let (mut r, mut t, now) = (Reconciler::default(), Fake::default(), Instant::now());
        t.fail.insert(1, true);
        r.set(1, 1);
        r.set(2, 2);
        let first = r.run(now, true, &mut t);
        assert_eq!((first.writes, first.failures), (1, 1));
        assert_eq!(first.retry_at, Some(now + Duration::from_millis(50)));
        assert_eq!(r.run(now, true, &mut t).failures, 0, "not before its time");
        let second = r.run(now + Duration::from_millis(50), true, &mut t);
        assert_eq!(second.retry_at, Some(now + Duration::from_millis(150)));
        assert!(matches!(r.status(&1), Some(Status::Failed { attempts: 2, .. })));
        t.fail.clear();
        r.set(1, 3);
        assert_eq!(r.run(now + Duration::from_millis(60), true, &mut t).writes, 1, "a changed row is tried at once");
        assert_eq!(r.status(&1), Some(Status::Applied));
    }

    #[test]
    fn a_row_that_never_fits_keeps_the_old_one() {
        let (mut r, mut t, now) = (Reconciler::default(), Fake::default(), Instant::now());
        r.set(1, 1);
        r.run(now, true, &mut t);
        t.fail.insert(1, false);
        r.set(1, 2);
        assert_eq!(r.run(now, true, &mut t).retry_at, None);
        assert_eq!((t.rows.get(&1), r.observed(&1)), (Some(&1), Some(&1)));
        let calls = t.calls;
        r.run(now + Duration::from_hours(1), true, &mut t);
        assert_eq!(t.calls, calls);
        // back to what is there: applied without a call
        r.set(1, 1);
        r.run(now, true, &mut t);
        assert_eq!((t.calls, r.status(&1)), (calls, Some(Status::Applied)));
    }

    proptest! {
        /// Whatever the order of wishes, failures and runs: once nothing fails, target = desired, and then no calls.
        #[test]
        fn it_converges(start in prop::collection::btree_map(0u8..8, 0u8..3, 0..8),
                        ops in prop::collection::vec((0u8..8, prop::option::of(0u8..3), 0u8..4), 0..100)) {
            let mut t = Fake { rows: start.clone(), ..Fake::default() };
            let (mut r, mut now, mut want) = (Reconciler::default(), Instant::now(), BTreeMap::new());
            r.adopt(start);
            for (key, value, action) in ops {
                if let Some(v) = value {
                    r.set(key, v);
                    want.insert(key, v);
                } else {
                    r.unset(&key);
                    want.remove(&key);
                }
                match action {
                    0 => { t.fail.insert(key, true); }
                    1 => { t.fail.remove(&key); }
                    2 => { r.run(now, false, &mut t); }
                    _ => { now += Duration::from_millis(70); r.run(now, true, &mut t); }
                }
            }
            t.fail.clear();
            now += Duration::from_mins(1);
            r.run(now, true, &mut t);
            prop_assert_eq!(&t.rows, &want);
            let calls = t.calls;
            r.run(now + Duration::from_mins(1), true, &mut t);
            prop_assert_eq!(t.calls, calls);
        }
    }
}
