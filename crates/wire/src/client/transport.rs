//! How streams reach replicas, where it is not by gRPC.

use bytes::Bytes;
use futures::stream::BoxStream;
use tonic::Status;

/// What the node says: whole encoded messages.
pub type Outgoing = BoxStream<'static, Bytes>;
/// What the operator says, likewise.
pub type Incoming = BoxStream<'static, Result<Bytes, Status>>;

/// A network that tests own. Without one a [`super::Driver`] speaks gRPC.
#[async_trait::async_trait]
pub trait Transport: Send + Sync {
    /// Opens a stream to the replica at `address`; its other end is [`crate::server::Service::accept`].
    ///
    /// Errors: why there is none, in words.
    async fn open(&self, address: &str, token: &str, outgoing: Outgoing) -> Result<Incoming, String>;

    /// By which share of it the next pause between two rounds is longer than planned, below one half.
    fn jitter(&self) -> f64;
}
