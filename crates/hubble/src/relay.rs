//! The relay: one observer for all nodes.
//!
//! ```text
//!   peer.Peer of a node ─▶ Pool (a connection a node) ─┬▶ source ─ 8 flows ─┐
//!                                                      ├▶ source ─ 8 flows ─┼▶ Merge ─▶ client
//!                                                      └▶ source ─ …        ┘  by time
//! ```
//!
//! *Guarantees*: flows come in the order of their times as long as nodes keep up; memory for a client is a few flows a
//! node, whatever they send. A node that is lost, slow or gone is named in the stream (`node_status`), and holds up
//! the others for no longer than [`PATIENCE`], and the end of a stream for no longer than [`LAST`].
//!
//! *Caveats*: order between nodes is as good as their clocks. In a stream that follows, a flow is held for
//! [`WINDOW`], so that others of the same time can come before it.

mod merge;
mod pool;
mod service;
mod source;

pub use merge::{LAST, PATIENCE, WINDOW};
pub use pool::{ClientTls, Pool};
pub use service::{Service, routes};

/// Port of relays.
pub const PORT: u16 = 4245;
