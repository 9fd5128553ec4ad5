//! The node agent: obeys rows, serves the CNI plugin, and is the only writer of kernel state on its node.
//!
//! ```text
//!   operator ══ wire::client ══▶ rows ─▶ plan ─▶ tables, reconcilers ─▶ Datapath   (maps, programs)
//!                  ▲ ack, nack, reports  │                            └▶ Network    (links, routes, nft)
//!                  └──────────────── Engine ◀── cni::Server ◀── axoneme-cni
//!                                        └──▶ Store (intents, slots, inventory)
//! ```
//!
//! Nouns: an [`endpoint::Intent`] is what the agent means to have for one interface of one pod; the [`engine::Engine`]
//! owns all state and runs on one thread; [`plan`] turns rows into kernel entries and is pure; [`base::Base`] is what a
//! node has once; the [`inventory::Inventory`] is what uninstall removes.
//!
//! Invariants: intent before effect, so that the agent can die on any line; a pod's programs are attached before its
//! link is up; an endpoint moves to a table only after that table is complete; nothing that was found at the start is
//! removed before every input is initialized; with nothing to do nothing is written.
//!
//! It holds no opinion about policy and reads nothing from the API server but the place of the operator.

pub mod admin;
pub mod app;
pub mod args;
pub mod base;
pub mod bpf;
pub mod cni;
pub mod discovery;
pub mod endpoint;
pub mod engine;
pub mod error;
pub mod gate;
pub mod health;
pub mod hubble;
pub mod inventory;
pub mod ipam;
pub mod metrics;
pub mod plan;
pub mod preflight;
pub mod reaper;
pub mod relay;
pub mod run;
pub mod settings;
pub mod source;
pub mod status;
pub mod store;
pub mod tables;
pub mod uninstall;

pub use error::Error;
