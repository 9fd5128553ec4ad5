//! The wire: rows from the operator to a node, acknowledgements and reports back.
//!
//! ```text
//!   RowChange ──▶ server::Hub ──▶ per-node views ──▶ log of revisions ──▶ sessions ══ gRPC/TLS ══▶ client::StreamClient
//!   server::Inbound ◀── Ack, Nack, EndpointReport, NodeReport, NodeEvent ◀═══════════════════════════════════┘
//! ```
//!
//! Everything above this crate speaks [`axoneme_model::rows`] and the plain types of [`change`] and [`message`];
//! generated protobuf types never leave it.
//!
//! Invariants:
//! - A node is sent its own endpoints and configuration, the tables of its endpoints and the rules these name; nodes,
//!   identities, addresses and services go to all.
//! - A change is encoded once, however many nodes it goes to.
//! - Nothing here waits for a slow node: a session that lags gets its changes folded, or a new snapshot.
//! - No message from a peer can panic a process: what can't be understood is an error that names the field.
//!
//! It does not decide anything, touch the API server or the kernel.

pub mod archive;
pub mod change;
pub mod client;
mod convert;
pub mod message;
pub mod server;

pub use change::{Row, RowChange, RowKey, RowType, TablePatch};
pub use convert::WireError;
pub use message::{EndpointReport, Hello, Nack, NodeEvent, NodeReport, Proof, Resume};

/// Version of the protocol that this build speaks. An operator serves agents one version older and one newer.
pub const PROTOCOL: u32 = 1;

/// Name that the operator's certificate carries, whatever address it is reached by.
pub const SERVER_NAME: &str = "axoneme-operator";

/// Audience that an agent's ServiceAccount token must name.
pub const TOKEN_AUDIENCE: &str = "axoneme";

/// Port that operators serve the stream on, unless told otherwise.
pub const DEFAULT_PORT: u16 = 4250;

#[expect(
    clippy::pedantic,
    clippy::large_enum_variant,
    unreachable_pub,
    reason = "generated; used inside this crate only"
)]
mod pb {
    tonic::include_proto!("axoneme.v1");
}
