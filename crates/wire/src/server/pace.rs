//! How often nodes are told what concerns all of them.
//!
//! ```text
//!   revisions      |  |    | |    |   |  |      |
//!   node's own          x                x              a table, an endpoint, a rule: at once, with all before it
//!   sent           ^    ^       ^        ^         ^
//!                  └ at once    └ REST after the last
//! ```
//!
//! Each revision of a large cluster (an address of a pod that came, an identity) goes to all nodes, and each of them
//! acknowledges it: that cost grows with nodes and changes alike, and most of it is not the rows. What came within a
//! while goes as one, the last of each row; the while grows with the nodes, so that what all of them take together does
//! not. A change after a quiet time waits for nothing, nor does what is a node's own.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{
    frame::{Encoded, Frames},
    hub::Entry,
};
use crate::change::{Row, RowChange, RowKey};

/// Between two batches of what is not a node's own, for each connected node: 50,000 batches and acknowledgements a second
/// over all.
const REST: Duration = Duration::from_micros(20);
/// Less is not worth a timer; more would be felt by who waits for the address of a new pod.
const SHORTEST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(100);
/// Ranges of revisions whose joined frames are kept: nodes are not in step, but most have one of few. Longer ones are those
/// of single nodes that were away.
const RANGES: usize = 32;
const LONGEST_RANGE: usize = 64;

/// First and last revision of a range, and what it comes to.
type Range = ((u64, u64), Arc<OnceLock<Arc<Frames>>>);

/// What all sessions share.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Connected nodes.
    pub(super) nodes: AtomicUsize,
    ranges: Mutex<VecDeque<Range>>,
}

impl Pace {
    /// How long a node waits for more, after it was sent something; none: not at all.
    pub(super) fn rest(&self) -> Option<Duration> {
        let nodes = u32::try_from(self.nodes.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        let rest = REST.saturating_mul(nodes).min(LONGEST);
        (rest >= SHORTEST).then_some(rest)
    }

    /// The shared changes of entries that follow each other without a gap, as one: the last of each row.
    pub(super) fn frames(&self, entries: &[&Arc<Entry>]) -> Arc<Frames> {
        let (first, last) = match entries {
            [] => return Arc::default(),
            [one] => return one.frames(),
            [first, .., last] => (first.revision, last.revision),
        };
        let joined = || Arc::new(Frames::of(&fold(entries.iter().flat_map(|e| &e.shared))));
        if entries.len() > LONGEST_RANGE {
            return joined();
        }
        let made = {
            let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
            let known = ranges.iter().find(|(range, _)| *range == (first, last)).map(|(_, made)| made.clone());
            known.unwrap_or_else(|| {
                if ranges.len() == RANGES {
                    ranges.pop_front();
                }
                let made = Arc::new(OnceLock::new());
                ranges.push_back(((first, last), made.clone()));
                made
            })
        };
        made.get_or_init(joined).clone()
    }
}

/// The changes of several revisions as one: the last of each key, patches joined, in an order that is safe to apply.
pub(super) fn fold<'a>(changes: impl Iterator<Item = &'a Arc<Encoded>>) -> Vec<Arc<Encoded>> {
    let mut last: BTreeMap<RowKey, Arc<Encoded>> = BTreeMap::new();
    for c in changes {
        let key = c.change.key();
        let joined = match (last.get(&key).map(|e| &e.change), &c.change) {
            (Some(RowChange::Patch(a)), RowChange::Patch(b)) => Encoded::new(RowChange::Patch(a.clone().then(b))),
            (Some(RowChange::Upsert(Row::Table(t))), RowChange::Patch(p)) => {
                let mut t = t.clone();
                p.apply_to(Arc::make_mut(&mut t));
                Encoded::new(RowChange::Upsert(Row::Table(t)))
            }
            _ => c.clone(),
        };
        last.insert(key, joined);
    }
    let mut folded: Vec<_> = last.into_values().collect();
    folded.sort_by_cached_key(|e| e.change.order());
    folded
}
