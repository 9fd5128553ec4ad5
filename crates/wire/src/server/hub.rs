//! The owner of the views, the log of revisions, and what the nodes acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, OnceLock, atomic::Ordering},
};

use axoneme_model::{
    ObjectRef,
    rows::{EndpointRow, NodeRow, TableId, TableRow},
};
use bytes::Bytes;
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::{
    frame::{self, Encoded, Frames},
    pace::{Pace, Techniques},
    session::{Subscribe, Subscription},
    views::Views,
};
use crate::{
    Resume,
    change::{Row, RowChange, RowKey, RowType},
    message::Nack,
};

/// Revisions that the log keeps. A node that comes back within them gets what it missed, later a snapshot.
const LOG: usize = 1024;
/// Changes that all revisions of the log have together, one for each node that one goes to. Of the first revision, which
/// is the whole cluster, the log would hold a second copy, and a snapshot is not much longer.
const LOG_CHANGES: usize = 32_768;
/// Revisions after which the encoded snapshot of the shared rows is made anew rather than followed by the log.
const SNAPSHOT_AGE: u64 = 128;

/// One revision, ready to send.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) revision: u64,
    pub(super) shared: Vec<Arc<Encoded>>,
    pub(super) own: HashMap<Arc<str>, Vec<Arc<Encoded>>>,
    /// All nodes are to say when they have it in force.
    pub(super) asks: bool,
    frames: OnceLock<Arc<Frames>>,
}

impl Entry {
    /// `shared`, encoded by the first session that sends it.
    pub(super) fn frames(&self) -> Arc<Frames> {
        self.frames.get_or_init(|| Arc::new(Frames::of(&self.shared))).clone()
    }

    /// Changes, one for each node that one goes to.
    fn changes(&self) -> usize {
        self.shared.len() + self.own.values().map(Vec::len).sum::<usize>()
    }
}

/// Who writes status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Leadership {
    /// Nobody is known to.
    #[default]
    Unknown,
    Me,
    /// Another replica, at this `host:port`: sessions are sent there.
    Other(String),
}

/// How far a policy is enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enforcement {
    /// Nodes that have the newest tables of the policy in force.
    pub enforced: usize,
    /// Nodes that need it: those with an endpoint that it selects.
    pub nodes: usize,
    pub refusals: Vec<Refusal>,
}

/// A node that could not put a table of the policy in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    pub node: Arc<str>,
    pub reason: String,
}

/// A session that is connected.
#[derive(Debug)]
struct Connected {
    number: u64,
    cancel: CancellationToken,
    /// There is something of the node's own to be sent.
    wake: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Peer {
    session: Option<Connected>,
    acked: u64,
    refused: BTreeMap<TableId, Nack>,
    /// Tables refused since the last acknowledgement.
    told: BTreeSet<TableId>,
}

/// See the module's picture. All methods are quick: nothing here waits.
#[derive(Debug)]
pub struct Hub {
    epoch: u64,
    operator: Arc<str>,
    revision: u64,
    views: Views,
    log: VecDeque<Arc<Entry>>,
    /// Changes of all entries of the log.
    logged: usize,
    live: broadcast::Sender<Arc<Entry>>,
    /// Frames of the shared rows and the revision that they stand for.
    snapshot: Option<(u64, Arc<Vec<Bytes>>)>,
    peers: BTreeMap<Arc<str>, Peer>,
    /// How many connected nodes have acknowledged just up to a revision.
    acked: BTreeMap<u64, usize>,
    /// The revision up to which all nodes were asked to.
    asked: u64,
    leadership: watch::Sender<Leadership>,
    pub(super) pace: Arc<Pace>,
    /// Policies whose enforcement may have changed since [`Self::take_touched`].
    touched: BTreeSet<ObjectRef>,
}

impl Hub {
    /// `operator` is the replica's name. The epoch is random: revisions of another process mean nothing here.
    #[must_use]
    pub fn new(operator: &str) -> Self {
        Self {
            epoch: rand::random(),
            operator: operator.into(),
            revision: 0,
            views: Views::default(),
            log: VecDeque::new(),
            logged: 0,
            live: broadcast::channel(LOG).0,
            snapshot: None,
            peers: BTreeMap::new(),
            acked: BTreeMap::new(),
            asked: 0,
            leadership: watch::channel(Leadership::Unknown).0,
            pace: Arc::default(),
            touched: BTreeSet::new(),
        }
    }

    /// Serves nodes in another way, for a bench. Before the first of them subscribes.
    pub fn serve_by(&mut self, techniques: Techniques) {
        self.pace = Arc::new(Pace::by(techniques));
    }

    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Sessions are told when this changes.
    pub fn set_leadership(&self, l: Leadership) {
        let changed = self.leadership.send_if_modified(|now| {
            let changed = *now != l;
            *now = l;
            changed
        });
        if changed {
            // what wakes them; it holds nothing that a node could get, and is in no log
            let _ = self.live.send(Arc::new(Entry { revision: self.revision, ..Entry::default() }));
        }
    }

    /// Publishes changes as one revision, which it returns; changes that change nothing make none.
    pub fn publish(&mut self, changes: Vec<RowChange>) -> u64 {
        let revision = self.revision + 1;
        self.touch(&changes);
        // nobody who comes later is sent so much change by change
        let unheard = changes.len() > LOG_CHANGES && self.live.receiver_count() == 0;
        let delta = self.views.apply(revision, changes, unheard);
        if !delta.any {
            return self.revision;
        }
        self.revision = revision;
        // a node that loses a table acknowledges nothing of it
        self.touched.extend(delta.dropped.iter().flat_map(|t| self.views.policies(*t)).cloned());
        if self.snapshot.as_ref().is_some_and(|(at, _)| revision - at >= SNAPSHOT_AGE) {
            self.snapshot = None;
        }
        if unheard {
            (self.log, self.logged) = (VecDeque::new(), 0);
            return revision;
        }
        // pods move to an identity once all nodes have it
        let asks = delta.shared.iter().any(|e| matches!(e.change, RowChange::Upsert(Row::Identity(_))));
        self.asked = if asks { revision } else { self.asked };
        let entry = Arc::new(Entry { revision, shared: delta.shared, own: delta.own, asks, ..Entry::default() });
        self.keep(entry.clone());
        let wakes = entry.own.keys().filter_map(|node| self.peers.get(node)?.session.as_ref());
        let wakes: Vec<_> = wakes.map(|s| s.wake.clone()).collect();
        // no receiver: no node is connected
        let _ = self.live.send(entry);
        for wake in wakes {
            wake.notify_one();
        }
        revision
    }

    /// Somebody waits until all nodes have acknowledged what is published up to now: those that were not asked to are.
    /// Nodes are asked in any case where a change is their own, and with identities.
    pub fn await_all(&mut self) {
        if self.asked < self.revision {
            self.asked = self.revision;
            // it holds nothing that a node could get, and is in no log: whoever connects is asked with the first commit
            let _ = self.live.send(Arc::new(Entry { revision: self.revision, asks: true, ..Entry::default() }));
        }
    }

    /// The revision up to which every node was asked to say that it has it in force.
    #[must_use]
    pub const fn asked(&self) -> u64 {
        self.asked
    }

    /// Puts the newest revision into the log, without a gap: what does not fit has no place for those before it either.
    fn keep(&mut self, entry: Arc<Entry>) {
        self.logged += entry.changes();
        self.log.push_back(entry);
        while self.log.len() > LOG || self.logged > LOG_CHANGES {
            let Some(oldest) = self.log.pop_front() else { break };
            self.logged -= oldest.changes();
        }
    }

    /// The oldest revision that the log has; the one to come if it has none.
    fn oldest(&self) -> u64 {
        self.log.front().map_or(self.revision + 1, |e| e.revision)
    }

    /// What the log has behind the revision.
    fn since(&self, revision: u64) -> impl Iterator<Item = &Arc<Entry>> {
        let first = self.log.partition_point(|e| e.revision <= revision);
        self.log.range(first..)
    }

    fn touch(&mut self, changes: &[RowChange]) {
        for c in changes {
            match c {
                RowChange::Patch(p) => self.touched.extend(p.policies.iter().flat_map(|p| p.keys().cloned())),
                RowChange::Upsert(Row::Table(t)) => self.touched.extend(t.policies.keys().cloned()),
                RowChange::Upsert(Row::Endpoint(e)) => {
                    self.touched.extend(self.views.policies(e.table).cloned());
                }
                _ => {}
            }
            if let RowKey::Table(t) = c.key() {
                self.touched.extend(self.views.policies(t).cloned());
            }
        }
    }

    /// Serves a session: what it missed if the log still has it, else snapshots; then all that is published. A former
    /// session of the node is ended.
    pub fn subscribe(&mut self, request: Subscribe) {
        let live = self.live.subscribe();
        let peer = self.peers.entry(request.node.clone()).or_default();
        let wake = Arc::new(Notify::new());
        let session = Connected { number: request.session, cancel: request.cancel.clone(), wake: wake.clone() };
        match peer.session.replace(session) {
            // the same session once more: it fell out of the log
            Some(old) if old.number == request.session => {}
            Some(old) => old.cancel.cancel(),
            None => {
                count(&mut self.acked, peer.acked, true);
                self.pace.nodes.fetch_add(1, Ordering::Relaxed);
            }
        }
        peer.told.clear();
        let missed = request.resume.and_then(|r| self.missed(r));
        let leader = *self.leadership.borrow() == Leadership::Me;
        let mut frames = Vec::new();
        if request.first {
            frames.push(frame::welcome(self.epoch, &self.operator, missed.is_some(), leader));
        }
        let snapshot = missed.is_none().then(|| self.snapshot(&request.node));
        frames.extend(snapshot.into_iter().flatten());
        let entries = missed.unwrap_or_default();
        let (leadership, pace) = (self.leadership.subscribe(), self.pace.clone());
        let subscription = Subscription { frames, entries, revision: self.revision, live, leadership, wake, pace };
        // the session may be gone already; `closed` follows
        let _ = request.reply.send(subscription);
    }

    fn missed(&self, from: Resume) -> Option<Vec<Arc<Entry>>> {
        let known = from.epoch == self.epoch && from.revision <= self.revision && from.revision + 1 >= self.oldest();
        known.then(|| self.since(from.revision).cloned().collect())
    }

    /// All rows of the node, up to now, without the commit.
    fn snapshot(&mut self, node: &str) -> Vec<Bytes> {
        let (at, shared) = self.shared_snapshot();
        let mut frames = Vec::clone(&shared);
        for (t, mut rows) in self.views.own(node) {
            if !self.pace.techniques.shared {
                rows = frame::again(&rows);
            }
            push_type(&mut frames, t, frame::frames(&rows));
        }
        // the shared part may be a little older: what came since follows, before the commit
        for e in self.since(at) {
            let f = e.frames();
            frames.extend(f.early.iter().chain(&f.late).chain(&f.gone).cloned());
        }
        frames
    }

    fn shared_snapshot(&mut self) -> (u64, Arc<Vec<Bytes>>) {
        if let Some((at, frames)) = &self.snapshot
            && self.revision - at < SNAPSHOT_AGE
            && at + 1 >= self.oldest()
            && self.pace.techniques.shared
        {
            return (*at, frames.clone());
        }
        let mut frames = Vec::new();
        for (t, rows) in self.views.shared() {
            push_type(&mut frames, t, rows);
        }
        let frames = Arc::new(frames);
        self.snapshot = Some((self.revision, frames.clone()));
        (self.revision, frames)
    }

    /// The node has everything up to the revision in force. The revision up to which that was known before, where this
    /// one is newer.
    pub fn acknowledged(&mut self, node: &str, session: u64, revision: u64) -> Option<u64> {
        let peer = self.peers.get_mut(node).filter(|p| p.is(session))?;
        // a node tells all its refusals before each acknowledgement: what it did not tell since the last one is well now,
        // also at a revision that it has acknowledged before
        let told = std::mem::take(&mut peer.told);
        let mended: Vec<_> = peer.refused.keys().filter(|t| !told.contains(t)).copied().collect();
        peer.refused.retain(|t, _| told.contains(t));
        self.touched.extend(mended.iter().flat_map(|t| self.views.policies(*t)).cloned());
        if revision <= peer.acked || revision > self.revision {
            return None;
        }
        let from = std::mem::replace(&mut peer.acked, revision);
        count(&mut self.acked, from, false);
        count(&mut self.acked, revision, true);
        // thousands of nodes acknowledge each revision: what it brought is told by the node's tables, not by the log
        let brought = self.views.brought(node, from, revision);
        self.touched.extend(brought.flat_map(|t| self.views.policies(t)).cloned());
        Some(from)
    }

    /// The node could not put a row in force.
    pub fn refused(&mut self, node: &str, session: u64, nack: Nack) {
        let Some(peer) = self.peers.get_mut(node).filter(|p| p.is(session)) else { return };
        if let Some(RowKey::Table(t)) = nack.key {
            peer.told.insert(t);
            peer.refused.insert(t, nack);
            self.touched.extend(self.views.policies(t).cloned());
        }
    }

    /// The session ended. Whether the node has no other.
    pub fn closed(&mut self, node: &str, session: u64) -> bool {
        let Some(peer) = self.peers.get_mut(node).filter(|p| p.is(session)) else { return false };
        peer.session = None;
        count(&mut self.acked, peer.acked, false);
        self.pace.nodes.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// The node left the cluster.
    pub fn forget(&mut self, node: &str) {
        let Some(peer) = self.peers.remove(node) else { return };
        if let Some(session) = peer.session {
            count(&mut self.acked, peer.acked, false);
            self.pace.nodes.fetch_sub(1, Ordering::Relaxed);
            session.cancel.cancel();
        }
    }

    /// Nodes with a stream.
    pub fn connected(&self) -> impl Iterator<Item = &Arc<str>> {
        self.peers.iter().filter(|(_, p)| p.session.is_some()).map(|(n, _)| n)
    }

    /// How many nodes have a stream.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.pace.nodes.load(Ordering::Relaxed)
    }

    /// Connected nodes that have not acknowledged the revision yet.
    pub fn behind(&self, revision: u64) -> impl Iterator<Item = &Arc<str>> {
        self.peers.iter().filter(move |(_, p)| p.session.is_some() && p.acked < revision).map(|(n, _)| n)
    }

    /// The revision up to which all connected nodes have acknowledged; the newest if none is connected.
    #[must_use]
    pub fn acked_by_all(&self) -> u64 {
        self.acked.first_key_value().map_or(self.revision, |(acked, _)| *acked)
    }

    /// Newest revision that the node acknowledged.
    #[must_use]
    pub fn acked(&self, node: &str) -> Option<u64> {
        self.peers.get(node).map(|p| p.acked)
    }

    /// Policies whose enforcement may have changed since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<ObjectRef> {
        std::mem::take(&mut self.touched)
    }

    /// The row of a pod as it was published last.
    #[must_use]
    pub fn endpoint(&self, uid: &str) -> Option<&EndpointRow> {
        self.views.endpoint(uid)
    }

    /// The row of a table as it was published last.
    #[must_use]
    pub fn table(&self, id: TableId) -> Option<&TableRow> {
        self.views.table(id)
    }

    /// The row of a node as it was published last.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeRow> {
        self.views.node(name)
    }

    /// Whether the node has a stream.
    #[must_use]
    pub fn is_connected(&self, node: &str) -> bool {
        self.peers.get(node).is_some_and(|p| p.session.is_some())
    }

    /// Tables that the node could not put in force, with its words.
    pub fn refusals(&self, node: &str) -> impl Iterator<Item = (TableId, &str)> {
        self.peers.get(node).into_iter().flat_map(|p| &p.refused).map(|(t, n)| (*t, n.reason.as_str()))
    }

    /// How far the policy is enforced at that generation.
    #[must_use]
    pub fn enforcement(&self, policy: &ObjectRef, generation: i64) -> Enforcement {
        let mut nodes: BTreeMap<&Arc<str>, bool> = BTreeMap::new();
        let mut refusals = BTreeSet::new();
        for (node, table, g, on_node) in self.views.uses(policy) {
            let peer = self.peers.get(node);
            let nack = peer.and_then(|p| p.refused.get(&table)).filter(|n| n.revision >= on_node.changed);
            if let Some(n) = nack {
                refusals.insert(Refusal { node: node.clone(), reason: n.reason.clone() });
            }
            let acked = peer.is_some_and(|p| p.acked >= on_node.policies_since);
            *nodes.entry(node).or_insert(true) &= acked && nack.is_none() && g == generation;
        }
        Enforcement {
            enforced: nodes.values().filter(|ok| **ok).count(),
            nodes: nodes.len(),
            refusals: refusals.into_iter().collect(),
        }
    }
}

impl Peer {
    fn is(&self, session: u64) -> bool {
        self.session.as_ref().is_some_and(|s| s.number == session)
    }
}

/// One more or one less that has acknowledged up to the revision.
fn count(acked: &mut BTreeMap<u64, usize>, revision: u64, more: bool) {
    let nodes = acked.entry(revision).or_default();
    *nodes = if more { *nodes + 1 } else { nodes.saturating_sub(1) };
    if *nodes == 0 {
        acked.remove(&revision);
    }
}

fn push_type(frames: &mut Vec<Bytes>, t: RowType, rows: Vec<Bytes>) {
    frames.push(frame::snapshot_begin(t));
    frames.extend(rows);
    frames.push(frame::snapshot_end(t));
}
