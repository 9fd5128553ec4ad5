//! The operator: cluster decisions, made once, in pure code.
//!
//! ```text
//!   source::{kube, directory} ──▶ core ──▶ state::Cluster ──▶ compiler ──▶ wire::server::Hub ══▶ nodes
//!                                  │  ▲                                          │
//!                                  │  └── acks, reports ◀────────────────────────┘
//!                                  └─▶ identity, ipam, status (pure plans) ──▶ writer ──▶ API server   (leader only)
//! ```
//!
//! Invariants: one task owns all state; nothing is compiled, sent or pruned before every source is initialised; only
//! the holder of the Lease writes; a write that would change nothing is not made; a broken object stops nothing else.

pub mod admission;
pub mod app;
pub mod auth;
pub mod compiler;
pub mod configs;
pub mod connect;
pub mod core;
pub mod discovery;
pub mod http;
pub mod identity;
pub mod ipam;
pub mod lease;
pub mod metrics;
pub mod options;
pub mod pki;
pub mod plan;
pub mod source;
pub mod standalone;
pub mod state;
pub mod time;
pub mod turns;
pub mod views;
pub mod write;
pub mod writer;
