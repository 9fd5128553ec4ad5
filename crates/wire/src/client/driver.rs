//! Keeps a stream to one of the replicas.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    Command, Credentials, Directory, Event, StreamClient,
    session::{End, Session, Target},
    transport::Transport,
};
use crate::message::{EndpointReport, NodeMessage, NodeReport, Resume};

/// First and longest pause between two rounds over all replicas; doubled in between, each with up to half as jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long a session must have lasted for the next connect to follow at once.
const OF_USE: Duration = Duration::from_secs(5);

/// Between two redirects that are followed.
const REDIRECT_PAUSE: Duration = Duration::from_secs(30);

/// Commands and batches that may wait. A batch queue that is full holds back the stream, and the operator then folds.
const COMMANDS: usize = 1024;
const EVENTS: usize = 8;

/// Who connects.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the Node object.
    pub node: Arc<str>,
    pub agent_version: String,
    /// Where a former process left off, with the rows that it left on disk.
    pub resume: Option<Resume>,
}

/// Runs the stream until cancelled. Its owner spawns [`Self::run`].
#[expect(missing_debug_implementations, reason = "holds trait objects")]
pub struct Driver {
    pub(super) settings: Settings,
    pub(super) directory: Arc<dyn Directory>,
    pub(super) credentials: Arc<dyn Credentials>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) state: State,
    /// None: gRPC.
    pub(super) transport: Option<Arc<dyn Transport>>,
}

/// What outlives a session.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) resume: Option<Resume>,
    pub(super) endpoints: BTreeMap<Arc<str>, EndpointReport>,
    pub(super) node: Option<NodeReport>,
    /// Replica to ask first, after a redirect.
    pub(super) preferred: Option<String>,
    /// When a redirect was followed last.
    redirected: Option<Instant>,
}

impl State {
    /// Remembers the newest report of each key, for the next connect.
    pub(super) fn remember(&mut self, message: &NodeMessage) {
        match message {
            NodeMessage::Endpoint(e) if e.removed => drop(self.endpoints.remove(&e.uid)),
            NodeMessage::Endpoint(e) => drop(self.endpoints.insert(e.uid.clone(), e.clone())),
            NodeMessage::Node(n) => self.node = Some(n.clone()),
            _ => {}
        }
    }

    /// Whether to follow a redirect. A replica that can't be reached from here must not cost the stream to one that can
    /// again and again.
    pub(super) fn follow(&mut self, address: &str) -> bool {
        let now = Instant::now();
        let follow = self.redirected.is_none_or(|at| now - at > REDIRECT_PAUSE);
        if follow {
            self.redirected = Some(now);
            self.preferred = Some(address.to_owned());
        }
        follow
    }

    /// What a new session says first, after its hello.
    pub(super) fn reports(&self) -> impl Iterator<Item = NodeMessage> {
        let node = self.node.iter().cloned().map(NodeMessage::Node);
        node.chain(self.endpoints.values().cloned().map(NodeMessage::Endpoint))
    }
}

impl Driver {
    /// The driver, its handle and what it says.
    #[must_use]
    pub fn new(
        settings: Settings,
        directory: Arc<dyn Directory>,
        credentials: Arc<dyn Credentials>,
    ) -> (Self, StreamClient, mpsc::Receiver<Event>) {
        let (commands_tx, commands) = mpsc::channel(COMMANDS);
        let (events, events_rx) = mpsc::channel(EVENTS);
        let state = State { resume: settings.resume, ..State::default() };
        let driver = Self { settings, directory, credentials, commands, events, state, transport: None };
        (driver, StreamClient { commands: commands_tx }, events_rx)
    }

    /// Goes over this network in place of gRPC.
    #[must_use]
    pub fn over(self, transport: Arc<dyn Transport>) -> Self {
        Self { transport: Some(transport), ..self }
    }

    /// Ends when cancelled or when nobody listens to the events any more.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        while !cancel.is_cancelled() && !self.events.is_closed() {
            match self.round(&cancel).await {
                // a session that was of use: start over at once. One that ended soon was sent away: another process
                // of the same node may be there, and the two must not chase each other
                Round::Served(lasted) if lasted >= OF_USE => pause = FIRST_PAUSE,
                Round::Served(_) | Round::Failed => pause = (pause * 2).min(LONGEST_PAUSE),
            }
            self.rest(pause, &cancel).await;
        }
    }

    /// Asks each replica once, until one serves.
    async fn round(&mut self, cancel: &CancellationToken) -> Round {
        let replicas = match self.directory.replicas().await {
            Ok(r) => r,
            Err(e) => {
                warn!(error = %e, "operator replicas are not known");
                return Round::Failed;
            }
        };
        let mut addresses = replicas.addresses;
        if let Some(p) = self.state.preferred.take() {
            addresses.retain(|a| *a != p);
            addresses.insert(0, p);
        }
        for address in addresses {
            if cancel.is_cancelled() {
                break;
            }
            let target = Target { address, ca_pem: replicas.ca_pem.clone() };
            let started = Instant::now();
            match Session::run(self, &target, cancel).await {
                End::Refused(reason) => warn!(address = %target.address, %reason, "operator replica not available"),
                End::Closed(reason) => {
                    let _ = self.events.send(Event::Disconnected { reason }).await;
                    return Round::Served(started.elapsed());
                }
            }
        }
        Round::Failed
    }

    /// Waits, and goes on taking commands: reports are remembered, the rest is for a session that is gone.
    async fn rest(&mut self, pause: Duration, cancel: &CancellationToken) {
        let share = self.transport.as_ref().map_or_else(|| rand::random_range(0.0..0.5), |t| t.jitter());
        let jitter = pause.mul_f64(share);
        let until = tokio::time::sleep(pause + jitter);
        tokio::pin!(until);
        loop {
            tokio::select! {
                biased;
                () = &mut until => return,
                () = cancel.cancelled() => return,
                Some(c) = self.commands.recv() => match c {
                    Command::Send(m) => self.state.remember(&m),
                    Command::Resync => self.state.resume = None,
                    Command::Ack(_) => {}
                },
            }
        }
    }
}

enum Round {
    /// For how long.
    Served(Duration),
    Failed,
}
