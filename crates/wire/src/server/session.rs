//! One node's stream.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::{
    sync::{Notify, broadcast, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{debug, info, warn};

use super::{
    Inbound, frame,
    hub::{Entry, Leadership},
    pace::{Pace, fold},
};
use crate::{
    PROTOCOL, Resume,
    change::{Row, RowChange},
    convert::Wire,
    message::{Hello, NodeMessage},
    pb,
};

/// From the connect to the hello.
const HELLO: Duration = Duration::from_secs(10);
/// Revisions without a row for the node after which it is told the revision anyway, so that it can resume.
const IDLE_COMMIT: u64 = 64;

/// What a node says, decoded.
pub(super) trait Said: Stream<Item = Result<pb::NodeMessage, Status>> + Send + Unpin {}

impl<S: Stream<Item = Result<pb::NodeMessage, Status>> + Send + Unpin> Said for S {}

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
    /// Something of the node's own was published.
    pub(super) wake: Arc<Notify>,
    pub(super) pace: Arc<Pace>,
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
    pub(super) async fn run(self, mut stream: impl Said) {
        let hello = match tokio::time::timeout(HELLO, self.hello(&mut stream)).await {
            Ok(Ok(h)) => h,
            Ok(Err(status)) => return self.end(status).await,
            Err(_) => return self.end(Status::deadline_exceeded("no hello came")).await,
        };
        info!(node = %self.node, version = %hello.agent_version, "node connected");
        // in an order, here and below, so that a simulated network can play a fault twice
        let status = tokio::select! {
            biased;
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

    async fn hello(&self, stream: &mut impl Said) -> Result<Hello, Status> {
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
    async fn receive(&self, mut stream: impl Said) -> Status {
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
        let Subscription { frames, entries, revision, mut live, mut leadership, wake, pace } = s;
        self.frames(frames).await?;
        self.entries(&entries, &pace).await?;
        self.frames([frame::commit(revision, false)]).await?;
        let mut told = revision;
        leadership.mark_changed();
        // until when only what is the node's own is sent; what waits meanwhile
        let (mut rest, mut entries) = (None, Vec::new());
        loop {
            if leadership.has_changed().unwrap_or(false) {
                self.redirect(&mut leadership).await?;
            }
            let over = match rest {
                Some(until) => tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(until) => true,
                    () = wake.notified() => false,
                },
                // a change of leadership comes as an entry without rows
                None => match live.recv().await {
                    Ok(e) => {
                        entries.push(e);
                        true
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => return Ok(()),
                    Err(broadcast::error::RecvError::Closed) => return Err(Status::unavailable("the operator stops")),
                },
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
            if !over && !entries.iter().any(|e| e.own.contains_key(&self.node)) {
                continue;
            }
            rest = None;
            let Some(last) = entries.last().map(|e| e.revision) else { continue };
            let asked = entries.iter().any(|e| e.asks || e.own.contains_key(&self.node)) || !pace.techniques.quiet;
            let asks = entries.iter().any(|e| e.asks);
            let any = self.entries(&std::mem::take(&mut entries), &pace).await?;
            if any {
                rest = pace.turn(self.number, Instant::now());
            }
            if any || asks || last - told >= IDLE_COMMIT {
                self.frames([frame::commit(last, !asked)]).await?;
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

    /// Sends entries as one; says whether the node got any row. The commit is the caller's.
    async fn entries(&self, entries: &[Arc<Entry>], pace: &Pace) -> Result<bool, Status> {
        // those that only wake are no revision
        let entries: Vec<_> = entries.iter().filter(|e| !e.shared.is_empty() || !e.own.is_empty()).collect();
        let shared = pace.frames(&entries);
        let mut own = entries.iter().filter_map(|e| e.own.get(&self.node));
        let own = match (own.next(), own.next()) {
            (None, _) => Vec::new(),
            (Some(one), None) => one.clone(),
            (Some(_), Some(_)) => fold(entries.iter().filter_map(|e| e.own.get(&self.node)).flatten()),
        };
        let own = if pace.techniques.shared { own } else { frame::again(&own) };
        let part = |which: fn(&RowChange) -> bool| frame::frames(own.iter().filter(|c| which(&c.change)));
        self.frames(shared.early.iter().cloned()).await?;
        self.frames(part(|c| matches!(c, RowChange::Upsert(r) if !is_endpoint(r)) || is_patch(c))).await?;
        self.frames(shared.late.iter().cloned()).await?;
        self.frames(part(|c| matches!(c, RowChange::Upsert(r) if is_endpoint(r)))).await?;
        self.frames(part(|c| matches!(c, RowChange::Remove(_)))).await?;
        self.frames(shared.gone.iter().cloned()).await?;
        Ok(!own.is_empty() || entries.iter().any(|e| !e.shared.is_empty()))
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
