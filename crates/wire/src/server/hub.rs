//! The owner of the views, the log of revisions, and what the nodes acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use axoneme_model::{
    ObjectRef,
    rows::{EndpointRow, TableId},
};
use bytes::Bytes;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::{
    frame::{self, Encoded},
    session::{Subscribe, Subscription},
    views::Views,
};
use crate::{
    Resume,
    change::{RowChange, RowKey, RowType},
    message::Nack,
};

/// Revisions that the log keeps. A node that comes back within them gets what it missed, later a snapshot.
const LOG: usize = 1024;
/// Revisions after which the encoded snapshot of the shared rows is made anew rather than followed by the log.
const SNAPSHOT_AGE: u64 = 128;

/// One revision, ready to send.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) revision: u64,
    pub(super) shared: Vec<Arc<Encoded>>,
    pub(super) own: HashMap<Arc<str>, Vec<Arc<Encoded>>>,
    /// Frames of `shared`: upserts before the node's own (nodes, identities, services), after them (addresses), removals.
    pub(super) early: Vec<Bytes>,
    pub(super) late: Vec<Bytes>,
    pub(super) gone: Vec<Bytes>,
    pub(super) commit: Bytes,
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

#[derive(Debug, Default)]
struct Peer {
    /// Number of the session that is connected.
    session: Option<(u64, CancellationToken)>,
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
    live: broadcast::Sender<Arc<Entry>>,
    /// Frames of the shared rows and the revision that they stand for.
    snapshot: Option<(u64, Arc<Vec<Bytes>>)>,
    peers: BTreeMap<Arc<str>, Peer>,
    leadership: watch::Sender<Leadership>,
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
            live: broadcast::channel(LOG).0,
            snapshot: None,
            peers: BTreeMap::new(),
            leadership: watch::channel(Leadership::Unknown).0,
            touched: BTreeSet::new(),
        }
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
        self.leadership.send_if_modified(|now| {
            let changed = *now != l;
            *now = l;
            changed
        });
    }

    /// Publishes changes as one revision, which it returns; changes that change nothing make none.
    pub fn publish(&mut self, changes: Vec<RowChange>) -> u64 {
        let revision = self.revision + 1;
        self.touch(&changes);
        let delta = self.views.apply(revision, changes);
        if delta.shared.is_empty() && delta.own.is_empty() {
            return self.revision;
        }
        self.revision = revision;
        let part = |early: bool, gone: bool| {
            let of = |e: &&Arc<Encoded>| {
                let (removal, _) = e.change.order();
                removal == gone && (gone || (e.change.key().row_type() < RowType::Ip) == early)
            };
            frame::frames(delta.shared.iter().filter(of))
        };
        let (early, late, gone) = (part(true, false), part(false, false), part(false, true));
        let commit = frame::commit(revision);
        let entry = Arc::new(Entry { revision, early, late, gone, commit, shared: delta.shared, own: delta.own });
        if self.log.len() == LOG {
            self.log.pop_front();
        }
        self.log.push_back(entry.clone());
        // no receiver: no node is connected
        let _ = self.live.send(entry);
        revision
    }

    fn touch(&mut self, changes: &[RowChange]) {
        for c in changes {
            match c {
                RowChange::Patch(p) => self.touched.extend(p.policies.iter().flat_map(|p| p.keys().cloned())),
                RowChange::Upsert(crate::Row::Table(t)) => self.touched.extend(t.policies.keys().cloned()),
                RowChange::Upsert(crate::Row::Endpoint(e)) => {
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
        if let Some((_, old)) = peer.session.replace((request.session, request.cancel.clone())) {
            old.cancel();
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
        let subscription =
            Subscription { frames, entries, revision: self.revision, live, leadership: self.leadership.subscribe() };
        // the session may be gone already; `closed` follows
        let _ = request.reply.send(subscription);
    }

    fn missed(&self, from: Resume) -> Option<Vec<Arc<Entry>>> {
        let oldest = self.log.front().map_or(self.revision + 1, |e| e.revision);
        let known = from.epoch == self.epoch && from.revision <= self.revision && from.revision + 1 >= oldest;
        known.then(|| self.log.iter().filter(|e| e.revision > from.revision).cloned().collect())
    }

    /// All rows of the node, up to now, without the commit.
    fn snapshot(&mut self, node: &str) -> Vec<Bytes> {
        let (at, shared) = self.shared_snapshot();
        let mut frames = Vec::clone(&shared);
        for (t, rows) in self.views.own(node) {
            push_type(&mut frames, t, &rows);
        }
        // the shared part may be a little older: what came since follows, before the commit
        for e in self.log.iter().filter(|e| e.revision > at) {
            frames.extend(e.early.iter().chain(&e.late).chain(&e.gone).cloned());
        }
        frames
    }

    fn shared_snapshot(&mut self) -> (u64, Arc<Vec<Bytes>>) {
        if let Some((at, frames)) = &self.snapshot
            && self.revision - at < SNAPSHOT_AGE
        {
            return (*at, frames.clone());
        }
        let mut frames = Vec::new();
        for (t, rows) in self.views.shared() {
            push_type(&mut frames, t, &rows);
        }
        let frames = Arc::new(frames);
        self.snapshot = Some((self.revision, frames.clone()));
        (self.revision, frames)
    }

    /// The node has everything up to the revision in force.
    pub fn acknowledged(&mut self, node: &str, session: u64, revision: u64) {
        let Some(peer) = self.peers.get_mut(node).filter(|p| p.is(session)) else { return };
        // a node tells all its refusals before each acknowledgement: what it did not tell since the last one is well now,
        // also at a revision that it has acknowledged before
        let told = std::mem::take(&mut peer.told);
        let mended: Vec<_> = peer.refused.keys().filter(|t| !told.contains(t)).copied().collect();
        peer.refused.retain(|t, _| told.contains(t));
        self.touched.extend(mended.iter().flat_map(|t| self.views.policies(*t)).cloned());
        if revision > peer.acked && revision <= self.revision {
            let from = std::mem::replace(&mut peer.acked, revision);
            let since = self.log.iter().filter(|e| e.revision > from && e.revision <= revision);
            let tables = since.filter_map(|e| e.own.get(node)).flatten().filter_map(|e| match e.change.key() {
                RowKey::Table(t) => Some(t),
                _ => None,
            });
            let tables: BTreeSet<_> = tables.collect();
            self.touched.extend(tables.iter().flat_map(|t| self.views.policies(*t)).cloned());
        }
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
        true
    }

    /// The node left the cluster.
    pub fn forget(&mut self, node: &str) {
        if let Some((_, cancel)) = self.peers.remove(node).and_then(|p| p.session) {
            cancel.cancel();
        }
    }

    /// Nodes with a stream.
    pub fn connected(&self) -> impl Iterator<Item = &Arc<str>> {
        self.peers.iter().filter(|(_, p)| p.session.is_some()).map(|(n, _)| n)
    }

    /// Connected nodes that have not acknowledged the revision yet.
    pub fn behind(&self, revision: u64) -> impl Iterator<Item = &Arc<str>> {
        self.peers.iter().filter(move |(_, p)| p.session.is_some() && p.acked < revision).map(|(n, _)| n)
    }

    /// The revision up to which all connected nodes have acknowledged; the newest if none is connected.
    #[must_use]
    pub fn acked_by_all(&self) -> u64 {
        let connected = self.peers.values().filter(|p| p.session.is_some());
        connected.map(|p| p.acked).min().unwrap_or(self.revision)
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
        self.session.as_ref().is_some_and(|(s, _)| *s == session)
    }
}

fn push_type(frames: &mut Vec<Bytes>, t: RowType, rows: &[Arc<Encoded>]) {
    frames.push(frame::snapshot_begin(t));
    frames.extend(frame::frames(rows));
    frames.push(frame::snapshot_end(t));
}
