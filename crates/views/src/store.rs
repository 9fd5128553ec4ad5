//! What is shown of one kind, with a version for each change and the last changes in order.
//!
//! *Guarantees*: a reader that begins at a version it was given is told every later change once and in order, or that it
//! can't be ([`Gone`]). Versions are those of this store: what another replica, or this one before it started anew, gave
//! out is [`Gone`] here (by a random base of 34 bits). One writer; readers hold the lock for a bounded look, so that they
//! never keep the writer waiting for longer than that.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{Arc, PoisonError, RwLock},
};

use rand::Rng as _;
use tokio::sync::watch;

use crate::kinds::{Key, View};

/// Changes that are kept for those who watch.
pub const LOG: usize = 8192;
/// Objects or changes looked at under one hold of the lock.
const LOOK: usize = 2048;
/// Objects written under one hold of the lock.
const WRITE: usize = 1024;
/// Bits of a version that count changes; the others are the base.
const COUNT_BITS: u32 = 30;

/// See the module.
#[derive(Debug)]
pub struct Store<T> {
    inner: RwLock<Inner<T>>,
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner<T> {
    items: BTreeMap<Key, Item<T>>,
    /// Of the newest change.
    version: u64,
    /// Changes behind this version are in the log.
    since: u64,
    log: VecDeque<Logged<T>>,
}

#[derive(Clone, Debug)]
struct Item<T> {
    value: T,
    version: u64,
}

#[derive(Debug)]
struct Logged<T> {
    version: u64,
    before: Option<T>,
    after: Option<T>,
}

/// Which objects a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All, whether or not they have a namespace.
    All,
    Namespace(Arc<str>),
}

/// Objects in order, with the version of each.
#[derive(Debug)]
pub struct Batch<T> {
    pub items: Vec<(T, u64)>,
    /// Behind this one there are others.
    pub more: Option<Key>,
    /// Of the newest change when it was read.
    pub version: u64,
}

/// What happened to an object, to one who sees a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    Added,
    Modified,
    Deleted,
}

/// Changes in order.
#[derive(Debug)]
pub struct Changes<T> {
    pub events: Vec<(Happened, T, u64)>,
    /// Everything up to this version has been told.
    pub reached: u64,
}

/// The changes since that version are not known (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl<T: View> Default for Store<T> {
    fn default() -> Self {
        Self::based_on(base())
    }
}

/// Versions of two stores have nothing in common.
fn base() -> u64 {
    // a number that Go and everybody else can read as signed
    rand::rng().random_range(1..1u64 << 33) << COUNT_BITS
}

impl<T: View> Store<T> {
    fn based_on(version: u64) -> Self {
        let inner = Inner { items: BTreeMap::new(), version, since: version, log: VecDeque::new() };
        Self { inner: RwLock::new(inner), newest: watch::Sender::new(version) }
    }

    /// Takes changes in; None: the object is gone. What makes no difference is no change.
    pub fn apply(&self, changes: impl IntoIterator<Item = (Key, Option<T>)>) {
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let version = {
                // whoever panicked left every part whole
                let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
                changes.by_ref().take(WRITE).for_each(|(key, value)| inner.set(key, value));
                inner.version
            };
            self.newest.send_if_modified(|newest| std::mem::replace(newest, version) != version);
        }
    }

    /// The newest version, and whenever it changes.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    pub fn len(&self) -> usize {
        self.read(|inner| inner.items.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One object and its version.
    pub fn get(&self, key: &Key) -> Option<(T, u64)> {
        self.read(|inner| inner.items.get(key).map(|i| (i.value.clone(), i.version)))
    }

    /// Objects of the scope behind a key that are to be kept, no more than `want` of them, and maybe fewer.
    pub fn batch(&self, scope: &Scope, after: Option<&Key>, keep: impl Fn(&T) -> bool, want: usize) -> Batch<T> {
        self.read(|inner| {
            let (mut items, mut last, mut looked) = (Vec::new(), None, 0);
            let mut range = inner.items.range((start(scope, after), Bound::Unbounded));
            let mut left = || range.next().filter(|(key, _)| scope.holds(key));
            let more = loop {
                let Some((key, item)) = left() else { break None };
                if looked == LOOK || items.len() >= want {
                    break last;
                }
                looked += 1;
                last = Some(key.clone());
                if keep(&item.value) {
                    items.push((item.value.clone(), item.version));
                }
            };
            Batch { items, more, version: inner.version }
        })
    }

    /// What happened behind a version to objects of the scope that are to be kept: some of it, at least.
    pub fn changes(&self, scope: &Scope, since: u64, keep: impl Fn(&T) -> bool) -> Result<Changes<T>, Gone> {
        self.read(|inner| {
            if !(inner.since..=inner.version).contains(&since) {
                return Err(Gone);
            }
            let first = inner.log.partition_point(|l| l.version <= since);
            let (mut events, mut reached) = (Vec::new(), since);
            for logged in inner.log.range(first..).take(LOOK) {
                reached = logged.version;
                let seen = |value: &Option<T>| value.as_ref().filter(|v| scope.holds(&v.key()) && keep(v)).cloned();
                let event = match (seen(&logged.before), seen(&logged.after)) {
                    (None, Some(after)) => Some((Happened::Added, after)),
                    (Some(_), Some(after)) => Some((Happened::Modified, after)),
                    (Some(before), None) => Some((Happened::Deleted, logged.after.clone().unwrap_or(before))),
                    (None, None) => None,
                };
                events.extend(event.map(|(what, value)| (what, value, logged.version)));
            }
            Ok(Changes { events, reached })
        })
    }

    fn read<R>(&self, look: impl FnOnce(&Inner<T>) -> R) -> R {
        look(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Scope {
    fn holds(&self, (namespace, _): &Key) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(only) => only == namespace,
        }
    }
}

fn start(scope: &Scope, after: Option<&Key>) -> Bound<Key> {
    let first = match scope {
        Scope::All => return after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone())),
        Scope::Namespace(namespace) => (namespace.clone(), Arc::default()),
    };
    match after {
        Some(key) if *key > first => Bound::Excluded(key.clone()),
        _ => Bound::Included(first),
    }
}

impl<T: View> Inner<T> {
    fn set(&mut self, key: Key, value: Option<T>) {
        if let (Some(item), Some(value)) = (self.items.get_mut(&key), &value)
            && item.value.is_same(value)
        {
            item.value = value.clone();
            return;
        }
        if value.is_none() && !self.items.contains_key(&key) {
            return;
        }
        self.count();
        let before = match value.clone() {
            Some(value) => self.items.insert(key, Item { value, version: self.version }),
            None => self.items.remove(&key),
        };
        self.log.push_back(Logged { version: self.version, before: before.map(|i| i.value), after: value });
        if self.log.len() > LOG
            && let Some(oldest) = self.log.pop_front()
        {
            self.since = oldest.version;
        }
    }

    fn count(&mut self) {
        self.version += 1;
        if self.version.trailing_zeros() >= COUNT_BITS {
            // counted through: whoever watches begins anew
            self.version = base() + 1;
            self.since = self.version - 1;
            self.log.clear();
        }
    }
}

#[cfg(test)]
mod tests;
