//! From event bytes to flows.
//!
//! ```text
//!  kernel rings ─▶ decode ─▶ Record (ids, fixed size) ─push─▶ History (ring, fixed memory, wait-free) ─▶ past (packed)
//!                    │ counted                                   │
//!                    ▼                                           ▼  Reader: position + Filter
//!                  Lost ◀──────── overwritten unread ───────── Enricher + NameBook ─▶ Flow (names, Hubble's JSON)
//! ```
//!
//! Nouns: a [`Record`] is what the kernel said; a [`Flow`] is a record with names; the [`History`] keeps the last
//! records; a [`Reader`] walks it for one client; a [`NameBook`], made of rows, answers for ids;
//! a [`Hub`] holds all of it for an agent. [`Lost`] counts what nobody saw, by cause. [`admin`] is what an
//! agent's socket says of itself, so that the agent and the command line cannot drift apart.
//!
//! Invariants: pushing never waits for a reader, never allocates, never fails. Memory is fixed by the capacities given.
//! Any bytes decode to a record or to an error. Names are joined when a flow is read, as of the time of the record, so
//! an address that has changed hands shows the pod that held it then.
//!
//! This crate does not read the kernel's rings, a clock or a socket, and it decides nothing.

pub mod admin;
pub mod decode;
pub mod enrich;
pub mod explain;
pub mod filter;
pub mod flow;
pub mod history;
pub mod hub;
pub mod id;
pub mod lost;
pub mod names;
mod past;
pub mod reason;
pub mod record;
pub mod spec;
pub mod stream;
pub mod summary;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;
mod url;
mod workload;

pub use decode::{ClockOffset, DecodeError, decode_drop, decode_flow, decode_flows};
pub use enrich::Enricher;
pub use filter::{Condition, Filter};
pub use flow::{Content, Flow, Response};
pub use history::{Found, History};
pub use hub::{Feed, Hub, Ring, Session, View};
pub use id::FlowId;
pub use lost::{Cause, Lost};
pub use names::{Change, NameBook, News, Peer};
pub use past::{Archivist, PAST_BYTES};
pub use reason::DropReason;
pub use record::{Event, Facet, Origin, Point, Record, TcpFlags, Traffic, Transport, Verdict};
pub use spec::{FieldError, FilterSpec};
pub use stream::{Query, Reader, Step};
pub use time::Time;
