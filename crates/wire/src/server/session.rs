//! One node's stream.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use super::{
    Inbound,
    frame::{self, Encoded},
    hub::{Entry, Leadership},
};
use crate::{
    PROTOCOL, Resume,
    change::{Row, RowChange, RowKey},
    convert::Wire,
    message::{Hello, NodeMessage},
    pb,
};

/// From the connect to the hello.
const HELLO: Duration = Duration::from_secs(10);
/// Entries that wait before they are folded into one.
const FOLD: usize = 8;
/// Revisions without a row for the node after which it is told the revision anyway, so that it can resume.
const IDLE_COMMIT: u64 = 64;

/// A session that wants rows.
#[derive(Debug)]
pub struct Subscribe {
    pub node: Arc<str>,
    /// Number of the session; unique in the process.
    pub session: u64,
    pub hello: Hello,
    pub(super) resume: Option<Resume>,
    /// Whether the node waits for a welcome: false when a session that lagged starts over.
    pub(super) first: bool,
    pub(super) cancel: CancellationToken,
    pub(super) reply: oneshot::Sender<Subscription>,
}

/// What a session sends first, and where it goes on.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) frames: Vec<Bytes>,
    pub(super) entries: Vec<Arc<Entry>>,
    /// Revision of all these together.
    pub(super) revision: u64,
    pub(super) live: broadcast::Receiver<Arc<Entry>>,
    pub(super) leadership: watch::Receiver<Leadership>,
}

pub(super) type Outbound = mpsc::Sender<Result<Bytes, Status>>;

/// One session, from hello to close.
pub(super) struct Session {
    pub(super) node: Arc<str>,
    pub(super) number: u64,
    pub(super) inbound: mpsc::Sender<Inbound>,
    pub(super) outbound: Outbound,
    pub(super) cancel: CancellationToken,
}

impl Session {
    pub(super) async fn run(self, mut stream: Streaming<pb::NodeMessage>) {
        let hello = match tokio::time::timeout(HELLO, self.hello(&mut stream)).await {
            Ok(Ok(h)) => h,
            Ok(Err(status)) => return self.end(status).await,
            Err(_) => return self.end(Status::deadline_exceeded("no hello came")).await,
        };
        info!(node = %self.node, version = %hello.agent_version, "node connected");
        let status = tokio::select! {
            status = self.receive(stream) => status,
            status = self.send(hello) => status,
            () = self.cancel.cancelled() => Status::cancelled("the node has a newer session, or the operator stops"),
        };
        info!(node = %self.node, reason = status.message(), "node disconnected");
        let closed = Inbound::Closed { node: self.node.clone(), session: self.number };
        let _ = self.inbound.send(closed).await;
        self.end(status).await;
    }

    async fn end(&self, status: Status) {
        // a node that doesn't read its stream gets no reason, and no wait either
        let _ = tokio::time::timeout(Duration::from_secs(1), self.outbound.send(Err(status))).await;
    }

    async fn hello(&self, stream: &mut Streaming<pb::NodeMessage>) -> Result<Hello, Status> {
        let first = stream.next().await.ok_or_else(|| Status::cancelled("the node ended the stream"))??;
        let hello = match NodeMessage::from_message(first) {
            Ok(NodeMessage::Hello(h)) => h,
            Ok(_) => return Err(Status::invalid_argument("the first message must be a hello")),
            Err(e) => return Err(Status::invalid_argument(e.to_string())),
        };
        if hello.node != self.node {
            let text = format!("hello.node: the token is bound to node {}, not to {}", self.node, hello.node);
            return Err(Status::permission_denied(text));
        }
        if hello.protocol + 1 < PROTOCOL {
            let text = format!("hello.protocol: {} is older than this operator can serve", hello.protocol);
            return Err(Status::failed_precondition(text));
        }
        Ok(hello)
    }

    /// Hands on what the node says, until it ends or says what can't be understood.
    async fn receive(&self, mut stream: Streaming<pb::NodeMessage>) -> Status {
        loop {
            let message = match stream.next().await {
                None => return Status::ok("the node ended the stream"),
                Some(Err(status)) => return status,
                Some(Ok(m)) => m,
            };
            // a newer agent may say more than this version knows
            if message.body.is_none() {
                debug!(node = %self.node, "message of an unknown kind ignored");
                continue;
            }
            let message = match NodeMessage::from_message(message) {
                Ok(NodeMessage::Hello(_)) => return Status::invalid_argument("a second hello"),
                Ok(m) => m,
                Err(e) => {
                    warn!(node = %self.node, error = %e, "malformed message, session closed");
                    return Status::invalid_argument(e.to_string());
                }
            };
            let inbound = Inbound::Message { node: self.node.clone(), session: self.number, message };
            if self.inbound.send(inbound).await.is_err() {
                return Status::unavailable("the operator stops");
            }
        }
    }

    async fn send(&self, hello: Hello) -> Status {
        let mut resume = hello.resume;
        let mut first = true;
        loop {
            let Some(subscription) = self.subscribe(hello.clone(), resume, first).await else {
                return Status::unavailable("the operator stops");
            };
            if let Err(status) = self.follow(subscription).await {
                return status;
            }
            debug!(node = %self.node, "node fell out of the log, starts over with snapshots");
            (resume, first) = (None, false);
        }
    }

    async fn subscribe(&self, hello: Hello, resume: Option<Resume>, first: bool) -> Option<Subscription> {
        let (reply, answer) = oneshot::channel();
        let (node, session, cancel) = (self.node.clone(), self.number, self.cancel.clone());
        let request = Subscribe { node, session, hello, resume, first, cancel, reply };
        self.inbound.send(Inbound::Subscribe(request)).await.ok()?;
        answer.await.ok()
    }

    /// Sends what is published, until the node lags by more than the log.
    async fn follow(&self, s: Subscription) -> Result<(), Status> {
        let Subscription { frames, entries, revision, mut live, mut leadership } = s;
        self.frames(frames).await?;
        self.entries(&entries).await?;
        self.frames([frame::commit(revision)]).await?;
        let mut told = revision;
        loop {
            self.redirect(&mut leadership).await?;
            let entry = tokio::select! {
                e = live.recv() => e,
                Ok(()) = leadership.changed() => continue,
            };
            let mut entries = match entry {
                Ok(e) => vec![e],
                Err(broadcast::error::RecvError::Lagged(_)) => return Ok(()),
                Err(broadcast::error::RecvError::Closed) => return Err(Status::unavailable("the operator stops")),
            };
            loop {
                match live.try_recv() {
                    Ok(e) => entries.push(e),
                    Err(broadcast::error::TryRecvError::Lagged(_)) => return Ok(()),
                    Err(_) => break,
                }
            }
            // sent already, with the snapshot
            entries.retain(|e| e.revision > revision);
            let Some(last) = entries.last().map(|e| e.revision) else { continue };
            if self.entries(&entries).await? || last - told >= IDLE_COMMIT {
                self.frames([frame::commit(last)]).await?;
                told = last;
            }
        }
    }

    async fn redirect(&self, leadership: &mut watch::Receiver<Leadership>) -> Result<(), Status> {
        let other = match &*leadership.borrow_and_update() {
            Leadership::Other(address) => Some(address.clone()),
            _ => None,
        };
        match other {
            Some(address) => self.frames([frame::redirect(&address)]).await,
            None => Ok(()),
        }
    }

    /// Sends entries, folded when there are many; says whether the node got any row. The commit is the caller's.
    async fn entries(&self, entries: &[Arc<Entry>]) -> Result<bool, Status> {
        if entries.len() > FOLD {
            let folded = fold(entries, &self.node);
            self.frames(frame::frames(&folded)).await?;
            return Ok(!folded.is_empty());
        }
        let mut any = false;
        for (i, e) in entries.iter().enumerate() {
            let own = e.own.get(&self.node).map(Vec::as_slice).unwrap_or_default();
            if own.is_empty() && e.shared.is_empty() {
                continue;
            }
            any = true;
            let part = |which: fn(&RowChange) -> bool| frame::frames(own.iter().filter(|c| which(&c.change)));
            self.frames(e.early.iter().cloned()).await?;
            self.frames(part(|c| matches!(c, RowChange::Upsert(r) if !is_endpoint(r)) || is_patch(c))).await?;
            self.frames(e.late.iter().cloned()).await?;
            self.frames(part(|c| matches!(c, RowChange::Upsert(r) if is_endpoint(r)))).await?;
            self.frames(part(|c| matches!(c, RowChange::Remove(_)))).await?;
            self.frames(e.gone.iter().cloned()).await?;
            // each revision is a commit of its own, so that none is larger than what was published at once
            if i + 1 < entries.len() {
                self.frames([e.commit.clone()]).await?;
            }
        }
        Ok(any)
    }

    async fn frames(&self, frames: impl IntoIterator<Item = Bytes>) -> Result<(), Status> {
        for f in frames {
            self.outbound.send(Ok(f)).await.map_err(|_| Status::cancelled("the node ended the stream"))?;
        }
        Ok(())
    }
}

const fn is_endpoint(r: &Row) -> bool {
    matches!(r, Row::Endpoint(_))
}

const fn is_patch(c: &RowChange) -> bool {
    matches!(c, RowChange::Patch(_))
}

/// The changes of several revisions as one: the last of each key, patches joined.
fn fold(entries: &[Arc<Entry>], node: &str) -> Vec<Arc<Encoded>> {
    let mut last: BTreeMap<RowKey, Arc<Encoded>> = BTreeMap::new();
    for e in entries {
        for c in e.shared.iter().chain(e.own.get(node).into_iter().flatten()) {
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
    }
    let mut folded: Vec<_> = last.into_values().collect();
    folded.sort_by_cached_key(|e| e.change.order());
    folded
}
