//! The operator's end of the stream.
//!
//! ```text
//!   core task:  Hub::publish(changes) ──▶ Views ──▶ Entry (encoded once) ──▶ log + broadcast ─┐
//!               Hub::subscribe ◀── Inbound::Subscribe ── session ◀── gRPC ◀── node            │
//!               Hub::{acknowledged, refused} ◀── Inbound::Message ──┘  └── frames ◀───────────┘
//! ```
//!
//! [`Hub`] has one owner, which also reads [`Inbound`]; sessions hold nothing but a cursor. A session that lags has its
//! changes folded key by key; one that fell out of the log gets a new snapshot. So no queue grows with a slow node.

mod frame;
mod hub;
mod pace;
mod service;
mod session;
mod tls;
mod views;

use std::sync::Arc;

pub use hub::{Enforcement, Hub, Leadership, Refusal};
pub use pace::Techniques;
pub use service::{ServeError, Service, Tls, serve};
pub use session::Subscribe;
pub use tls::BadCertificate;

use crate::message::NodeMessage;

/// Says which node a token belongs to.
#[async_trait::async_trait]
pub trait Authenticator: Send + Sync {
    /// Name of the node that the token is bound to.
    async fn node(&self, token: &str) -> Result<Arc<str>, Denied>;
}

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The token is wrong: expired, for another audience, not bound to a node, or of another account.
    #[error("{0}")]
    Invalid(String),
    /// Whether it is right can't be found out now.
    #[error("{0}")]
    Unavailable(String),
}

/// What sessions tell the owner of the [`Hub`].
#[derive(Debug)]
pub enum Inbound {
    /// A node wants rows: hand it to [`Hub::subscribe`].
    Subscribe(Subscribe),
    /// The node said something (never a hello).
    Message { node: Arc<str>, session: u64, message: NodeMessage },
    /// The session ended: hand it to [`Hub::closed`].
    Closed { node: Arc<str>, session: u64 },
}

#[cfg(test)]
mod tests;
