//! Where rows come from and where reports go.

use axoneme_wire::client::{Event, StreamClient};
use tokio::sync::mpsc;

use crate::engine::Outgoing;

/// The other end has gone for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody listens to this node's reports any more")]
pub struct Gone;

/// Takes what the node says.
#[async_trait::async_trait]
pub trait Operator: Send + Sync {
    async fn tell(&self, message: Outgoing) -> Result<(), Gone>;
}

/// A stream of rows with its way back: gRPC to the operator, or channels inside one process.
#[expect(missing_debug_implementations, reason = "holds a trait object")]
pub struct RowSource {
    pub events: mpsc::Receiver<Event>,
    pub operator: Box<dyn Operator>,
}

#[async_trait::async_trait]
impl Operator for StreamClient {
    async fn tell(&self, message: Outgoing) -> Result<(), Gone> {
        match message {
            Outgoing::Ack(at) => self.ack(at).await,
            Outgoing::Nack(n) => self.nack(n).await,
            Outgoing::Endpoint(e) => self.endpoint(e).await,
            Outgoing::Node(n) => self.node(n).await,
            Outgoing::Event(e) => self.event(e).await,
            Outgoing::Resync => self.resync().await,
        }
        .map_err(|_| Gone)
    }
}

#[async_trait::async_trait]
impl Operator for mpsc::Sender<Outgoing> {
    async fn tell(&self, message: Outgoing) -> Result<(), Gone> {
        self.send(message).await.map_err(|_| Gone)
    }
}

/// Channels inside one process: the source, the sender of its events and the receiver of its reports.
pub fn in_process(capacity: usize) -> (RowSource, mpsc::Sender<Event>, mpsc::Receiver<Outgoing>) {
    let (events_tx, events) = mpsc::channel(capacity);
    let (operator, outgoing) = mpsc::channel(capacity);
    (RowSource { events, operator: Box::new(operator) }, events_tx, outgoing)
}
