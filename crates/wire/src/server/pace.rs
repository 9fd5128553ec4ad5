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
//!
//! Each session has turns of its own, spread over the while: nodes that were woken by one change would else come all at
//! once ever after, and what is a single node's own would wait behind the thousands.
//!
//! An acknowledgement is asked for where somebody waits for it: with what is a node's own, with identities (pods move to
//! them once all nodes know them) and where the hub's owner says so. All other commits are quiet.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    frame::{self, Encoded, Frames},
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

/// What makes thousands of nodes cheap to serve. All are in use; a bench leaves some out, to say what each gains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Techniques {
    /// What goes to several nodes is encoded once, not for each of them.
    pub shared: bool,
    /// What concerns all nodes goes to each once in a while, not with each revision.
    pub paced: bool,
    /// Nodes acknowledge what somebody waits for, not every commit.
    pub quiet: bool,
}

impl Default for Techniques {
    fn default() -> Self {
        Self { shared: true, paced: true, quiet: true }
    }
}

/// What all sessions share.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Connected nodes.
    pub(super) nodes: AtomicUsize,
    pub(super) techniques: Techniques,
    ranges: Mutex<VecDeque<Range>>,
    /// When the first turn was asked for: turns are counted from then.
    began: OnceLock<Instant>,
}

impl Pace {
    pub(super) fn by(techniques: Techniques) -> Self {
        Self { techniques, ..Self::default() }
    }

    /// How long a node waits for more, after it was sent something; none: not at all.
    pub(super) fn rest(&self) -> Option<Duration> {
        let nodes = u32::try_from(self.nodes.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        let rest = REST.saturating_mul(nodes).min(LONGEST);
        (rest >= SHORTEST && self.techniques.paced).then_some(rest)
    }

    /// The session's next turn; none: it does not rest.
    pub(super) fn turn(&self, session: u64, now: Instant) -> Option<Instant> {
        let rest = self.rest()?;
        let began = *self.began.get_or_init(|| now);
        Some(began + turn(session, now.saturating_duration_since(began), rest))
    }

    /// The shared changes of entries that follow each other without a gap, as one: the last of each row.
    pub(super) fn frames(&self, entries: &[&Arc<Entry>]) -> Arc<Frames> {
        if !self.techniques.shared {
            let all = entries.iter().flat_map(|e| frame::again(&e.shared)).collect::<Vec<_>>();
            return Arc::new(Frames::of(&fold(all.iter())));
        }
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

/// The session's next turn behind `now`. Any number of sessions in a row lie evenly in the time between two turns of one:
/// they are shifted by multiples of the golden ratio.
pub(super) fn turn(session: u64, now: Duration, rest: Duration) -> Duration {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let rest = rest.as_nanos().max(1);
    let shift = (u128::from(session.wrapping_mul(GOLDEN)) * rest) >> 64;
    let now = now.as_nanos();
    let next = if now < shift { shift } else { shift + ((now - shift) / rest + 1) * rest };
    Duration::from_nanos(u64::try_from(next).unwrap_or(u64::MAX))
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
