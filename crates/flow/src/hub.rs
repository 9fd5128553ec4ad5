//! Everything an agent needs to keep and to tell flows, in one place.
//!
//! ```text
//!   ring reader ── Feed (one) ──▶ history ◀── Session (many) ◀── admin socket
//!   rows ───────── Hub::names ──▶ names  ◀──┘
//! ```

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;

use crate::{
    decode::{ClockOffset, decode_drop, decode_flows},
    enrich::Enricher,
    flow::Flow,
    history::History,
    lost::{Cause, Lost},
    names::NameBook,
    record::Record,
    spec::FieldError,
    stream::{Query, Reader, Step},
};

/// Which of the kernel's rings an event came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    Drops,
    Flows,
}

impl Ring {
    const fn cause(self) -> Cause {
        match self {
            Self::Drops => Cause::DropRing,
            Self::Flows => Cause::FlowRing,
        }
    }
}

/// Flows of one node: what happened lately, who is who, and what was lost.
#[derive(Debug)]
pub struct Hub {
    history: ArcSwap<History>,
    /// Events that the history should hold; the feed sees to it.
    capacity: AtomicUsize,
    lost: Lost,
    names: RwLock<NameBook>,
    enricher: Enricher,
    /// A [`ClockOffset`].
    clock: AtomicI64,
}

/// The one that writes the history. There is one of it for each hub, and it is not copied: records have one writer.
#[derive(Debug)]
pub struct Feed {
    hub: Arc<Hub>,
}

impl Hub {
    /// Keeps the last `capacity` events of `node` ([`History::RECORD_BYTES`] each). For `cluster` and `instance` see
    /// [`Enricher::new`].
    #[must_use]
    pub fn new(node: &str, cluster: &str, instance: u64, capacity: usize) -> (Arc<Self>, Feed) {
        let hub = Arc::new(Self {
            history: ArcSwap::from_pointee(History::new(capacity)),
            capacity: AtomicUsize::new(capacity.max(1)),
            lost: Lost::default(),
            names: RwLock::new(NameBook::new(node, NameBook::DEPARTED)),
            enricher: Enricher::new(node, cluster, instance),
            clock: AtomicI64::new(0),
        });
        (hub.clone(), Feed { hub })
    }

    /// Changes the names. Readers wait meanwhile, the feed does not.
    pub fn names<T>(&self, change: impl FnOnce(&mut NameBook) -> T) -> T {
        change(&mut self.names.write().unwrap_or_else(PoisonError::into_inner))
    }

    #[must_use]
    pub fn lost(&self) -> &Lost {
        &self.lost
    }

    /// Events that nobody saw, by the name of the cause; causes without loss are left out.
    #[must_use]
    pub fn lost_by_cause(&self) -> BTreeMap<String, u64> {
        self.lost.iter().filter(|l| l.1 > 0).map(|(cause, n)| (cause.name().to_owned(), n)).collect()
    }

    /// Lets `look` see everything as of now. Changes of names wait meanwhile, so it should be done within a millisecond
    /// or so; the feed does not wait.
    pub fn read<T>(&self, look: impl FnOnce(&View<'_>) -> T) -> T {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let history = self.history.load();
        look(&View { history: &history, enricher: &self.enricher, names: &names })
    }

    /// How many events are kept as they are; of older ones see [`Self::remember`].
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed) as u64
    }

    /// Bytes that may be taken for what the ring has to give up, beside the ring: [`crate::Archivist`] packs it. Until this
    /// is called there is no such thing.
    pub fn remember(&self, bytes: usize) {
        self.history.load().past().set_room(bytes);
    }

    pub(crate) fn read_history<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.history.load())
    }

    /// How many events there are now, the packed ones with them. Gaps among those are not taken off.
    #[must_use]
    pub fn held(&self) -> u64 {
        let history = self.history.load();
        history.head() - history.oldest()
    }

    /// The number of the oldest event that is there.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.history.load().oldest()
    }

    /// Changes how many events are kept (at least one), from the next one on. The newest stay, readers go on.
    pub fn keep(&self, capacity: usize) {
        self.capacity.store(capacity.max(1), Ordering::Relaxed);
    }

    /// How many events there were since the start.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.history.load().head()
    }

    /// A reader of its own for a query.
    pub fn open(self: &Arc<Self>, query: &Query) -> Result<Session, Vec<FieldError>> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let reader = Reader::open(query, &self.history.load(), &self.enricher, &names)?;
        Ok(Session { hub: self.clone(), reader })
    }
}

/// The flows and names of a moment.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub history: &'a History,
    pub enricher: &'a Enricher,
    pub names: &'a NameBook,
}

impl View<'_> {
    /// Name of the cluster; empty: it has none, or it is not known yet.
    #[must_use]
    pub fn cluster(&self) -> &Arc<str> {
        self.names.cluster().unwrap_or_else(|| self.enricher.cluster())
    }

    /// The record with its names.
    #[must_use]
    pub fn flow(&self, sequence: u64, record: &Record) -> Flow {
        self.enricher.flow(sequence, record, self.names)
    }
}

impl Feed {
    /// Takes a record that is none of the kernel's (tests, simulations). Never waits.
    pub fn push(&mut self, record: &Record) {
        let wanted = self.hub.capacity.load(Ordering::Relaxed);
        let history = self.hub.history.load();
        if history.capacity() == wanted as u64 {
            return history.push(record);
        }
        let other = history.resized(wanted);
        other.push(record);
        self.hub.history.store(Arc::new(other));
    }

    /// What to add to the kernel's clock from now on. Measure it at the start and every minute or so.
    pub fn set_clock(&mut self, offset: ClockOffset) {
        self.hub.clock.store(offset.0, Ordering::Relaxed);
    }

    /// Takes an event. Bytes that are none are counted. Never waits.
    pub fn take(&mut self, ring: Ring, bytes: &[u8]) {
        let clock = ClockOffset(self.hub.clock.load(Ordering::Relaxed));
        let decoded = match ring {
            Ring::Drops => decode_drop(bytes, clock).map(|record| self.push(&record)),
            Ring::Flows => decode_flows(bytes, clock).map(|records| records.for_each(|r| self.push(&r))),
        };
        if decoded.is_err() {
            self.hub.lost.add(Cause::Undecodable, 1);
        }
    }

    /// The kernel's own count of events that found the ring full, since its start.
    pub fn set_lost(&mut self, ring: Ring, total: u64) {
        self.hub.lost.set(ring.cause(), total);
    }
}

/// A reader with what it reads.
#[derive(Debug)]
pub struct Session {
    hub: Arc<Hub>,
    reader: Reader,
}

impl Session {
    /// See [`Reader::step`]. A budget of a few hundred keeps names from being held for long.
    pub fn step(&mut self, budget: usize) -> Step {
        let hub = &self.hub;
        let names = hub.names.read().unwrap_or_else(PoisonError::into_inner);
        self.reader.step(budget, &hub.history.load(), &hub.enricher, &names, &hub.lost)
    }

    /// The lines of a step as JSON.
    #[must_use]
    pub fn json(step: &Step) -> Vec<String> {
        match step {
            // a response is plain data: there is nothing in it that JSON could refuse
            Step::Lines(lines) => lines.iter().filter_map(|l| serde_json::to_string(l).ok()).collect(),
            Step::Nothing | Step::Idle | Step::End => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use axoneme_abi::event::{DropEvent, FlowEvent};

    use super::*;

    fn event<T>(family: usize, more: &[(usize, u8)]) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<T>()];
        bytes[family] = 4;
        for (offset, value) in more {
            bytes[*offset] = *value;
        }
        bytes
    }

    #[test]
    fn a_history_of_another_size_keeps_the_newest_and_its_readers() {
        let (hub, mut feed) = Hub::new("n1", "", 1, 4);
        let drop = event::<DropEvent>(std::mem::offset_of!(DropEvent, family), &[]);
        for _ in 0..6 {
            feed.take(Ring::Drops, &drop);
        }
        let mut session = hub.open(&Query { follow: true, ..Query::default() }).unwrap();
        assert!(matches!(session.step(100), Step::Lines(l) if l.len() == 4));
        hub.keep(16);
        for n in 0..10 {
            feed.take(Ring::Drops, &drop);
            assert_eq!((hub.capacity(), hub.seen()), (16, 7 + n));
        }
        assert!(matches!(session.step(100), Step::Lines(l) if l.len() == 10), "its reader has missed nothing");
        assert_eq!(hub.read(|v| (v.history.oldest(), v.history.head())), (2, 16));
        hub.keep(0);
        feed.take(Ring::Drops, &drop);
        assert_eq!(hub.read(|v| (v.history.oldest(), v.history.head())), (16, 17));
    }

    #[test]
    fn events_go_in_at_the_feed_and_come_out_as_lines() {
        let (hub, mut feed) = Hub::new("n1", "prod", 1, 8);
        feed.set_clock(ClockOffset(1_000));
        let mut follower = hub.open(&Query { follow: true, last: Some(0), ..Query::default() }).unwrap();
        assert_eq!(follower.step(10), Step::Idle);
        let dropped = event::<DropEvent>(
            std::mem::offset_of!(DropEvent, family),
            &[(std::mem::offset_of!(DropEvent, reason), 133)],
        );
        let opened =
            event::<FlowEvent>(std::mem::offset_of!(FlowEvent, family), &[(std::mem::offset_of!(FlowEvent, kind), 1)]);
        feed.take(Ring::Drops, &dropped);
        feed.take(Ring::Flows, &opened);
        feed.take(Ring::Flows, &dropped);
        let lines = Session::json(&follower.step(10));
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains(r#""drop_reason_desc":"POLICY_DENIED""#), "{}", lines[0]);
        assert!(lines[1].contains(r#""time":"1970-01-01T00:00:00.000001Z""#), "{}", lines[1]);
        assert_eq!(follower.step(10), Step::Idle);
        feed.set_lost(Ring::Flows, 5);
        assert_eq!(hub.lost_by_cause(), BTreeMap::from([("flow-ring".into(), 5), ("undecodable".into(), 1)]));
        assert_eq!(hub.seen(), 2);
    }

    #[test]
    fn the_feed_goes_on_while_names_are_held() {
        let (hub, mut feed) = Hub::new("n1", "", 1, 8);
        let opened =
            event::<FlowEvent>(std::mem::offset_of!(FlowEvent, family), &[(std::mem::offset_of!(FlowEvent, kind), 1)]);
        hub.names(|_| feed.take(Ring::Flows, &opened));
        assert_eq!(hub.seen(), 1);
    }
}
