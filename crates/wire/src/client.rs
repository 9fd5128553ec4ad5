//! The node's end of the stream.
//!
//! ```text
//!   Directory ──▶ replicas, CA ┐
//!   Credentials ──▶ token      ├──▶ Driver::run ──▶ Event::{Connected, Batch, Disconnected}
//!   StreamClient::{ack, nack, endpoint, node, event} ──▶┘
//! ```
//!
//! The driver keeps one stream, reconnects with backoff, resumes where it left off, and repeats the latest reports after
//! each connect, so that its owner reports each state once. [`Desired`] folds batches into the set of rows and says what
//! changed.

mod desired;
mod directory;
mod driver;
mod names;
mod session;
mod transport;

pub use desired::Desired;
pub use directory::{Credentials, Directory, Fixed, LEADER_ANNOTATION, Replicas, TokenFile};
pub use driver::{Driver, Settings};
pub use transport::{Incoming, Outgoing, Transport};

use tokio::sync::mpsc;

use crate::{
    RowChange, RowType,
    message::{EndpointReport, Nack, NodeEvent, NodeMessage, NodeReport, Resume},
};

/// What the stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A replica answered; batches follow.
    Connected {
        operator: String,
        address: String,
        /// False: the first batch is a snapshot.
        resumed: bool,
        leader: bool,
    },
    Batch(Batch),
    /// The stream ended; the driver is looking for a replica. Rows stay as they are.
    Disconnected {
        reason: String,
    },
}

/// All changes of one commit (or of several, folded).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What to acknowledge, and what to resume from.
    pub at: Resume,
    /// Types of which `changes` names every row: others of that type are gone. Types with a row that could not be
    /// understood are left out, so that nothing is pruned by mistake.
    pub complete: Vec<RowType>,
    /// In an order that is safe to apply one by one.
    pub changes: Vec<RowChange>,
}

/// Handle to a running [`Driver`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StreamClient {
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
pub(crate) enum Command {
    Ack(Resume),
    Send(NodeMessage),
    /// Drop the stream and ask for snapshots.
    Resync,
}

/// The driver has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream's driver has ended")]
pub struct Stopped;

impl StreamClient {
    /// All rows up to and with this point are in force, but for those refused with [`Self::nack`]. An acknowledgement
    /// of an earlier operator's epoch is dropped.
    pub async fn ack(&self, at: Resume) -> Result<(), Stopped> {
        self.command(Command::Ack(at)).await
    }

    /// A row could not be put in force.
    pub async fn nack(&self, nack: Nack) -> Result<(), Stopped> {
        self.command(Command::Send(NodeMessage::Nack(nack))).await
    }

    /// The state of an endpoint; the newest of each uid is repeated after a reconnect.
    pub async fn endpoint(&self, report: EndpointReport) -> Result<(), Stopped> {
        self.command(Command::Send(NodeMessage::Endpoint(report))).await
    }

    /// The state of the node; the newest is repeated after a reconnect.
    pub async fn node(&self, report: NodeReport) -> Result<(), Stopped> {
        self.command(Command::Send(NodeMessage::Node(report))).await
    }

    /// Best effort: lost when no replica is connected.
    pub async fn event(&self, event: NodeEvent) -> Result<(), Stopped> {
        self.command(Command::Send(NodeMessage::Event(event))).await
    }

    /// Asks for snapshots of everything: the rows at hand don't fit the changes that came.
    pub async fn resync(&self) -> Result<(), Stopped> {
        self.command(Command::Resync).await
    }

    async fn command(&self, c: Command) -> Result<(), Stopped> {
        self.commands.send(c).await.map_err(|_| Stopped)
    }
}
