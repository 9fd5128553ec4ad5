//! Process plumbing that every binary of the house shares.
//!
//! ```text
//!   config ──▶ telemetry ──▶ [ the program ] ──▶ readiness ──▶ admin socket (0600, peer credentials)
//!                               ▲   clock              │
//!                     drain ────┘ SIGTERM, SIGINT      └─ what is still awaited, by name
//! ```
//!
//! Invariants: time is read only through [`clock`]; the admin socket answers only its own user and root; every wait
//! in a drain has a deadline. It decides nothing and knows no domain word.

pub mod admin;
pub mod apiserver;
pub mod clock;
pub mod config;
pub mod drain;
pub mod readiness;
pub mod telemetry;
