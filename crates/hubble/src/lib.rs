//! Hubble's APIs: what a node saw, served to the clients that people have.
//!
//! ```text
//!  axoneme_flow::Hub ─▶ walk (filter · convert · mask) ─▶ observer.Observer ─┬─▶ unix socket   hubble observe
//!       │                         └─▶ export ─▶ files
//!       │ names ──────▶ peers, agent events ────────────▶ peer.Peer ─────────┴─▶ :4244, mTLS   relays
//! ```
//!
//! Nouns: a [`node::Node`] is what the servers of one node share; a [`walk::Walk`] is one client's place in the
//! history; [`filter::Filters`] are its whitelist and blacklist; [`pb`] is the protocol as protobuf has it.
//!
//! Invariants: nothing here is ever waited for by the one that writes flows; a client costs a position and one step's
//! worth of flows, however slow it is; requests, streams, handshakes and logs are bounded; what cannot be understood
//! is refused with the field's name; what is not known is left out, not guessed.
//!
//! It is a crate beside `axoneme-wire`, not a part of it: the operator speaks that protocol and has no use for this
//! one, and a change of either does not build the other. Like there, generated code is in one module; here it is
//! public, since the relay, the command line and tests are clients.
//!
//! Names, numbers and types of the protocol are Cilium 1.20's; `tests/names.txt` is the written table that the
//! descriptors are held to.

pub mod convert;
pub mod details;
pub mod drops;
pub mod encode;
mod events;
pub mod export;
pub mod filter;
pub mod json;
pub mod mask;
pub mod metrics;
pub mod node;
pub mod observer;
pub mod pb;
pub mod peers;
pub mod relay;
pub mod server;
pub mod walk;
