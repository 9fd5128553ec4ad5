//! A cluster's control plane in one thread and with its own time, so that a fault can be played again.
//!
//! ```text
//!   Scenario (a seed) ──▶ user, weather ──▶ Api ◀── writes, Lease ── Replica: Core, Hub, Service   real
//!                                            │ watches ─────────────▶    ▲
//!                                            ▼                           │ Net: late, cut, broken off
//!   kubelet ── CNI ──▶ Machine: Driver, Desired, Engine  real ◀──────────┘
//!                         └▶ fake datapath, network, disk ──▶ Checks against the oracle and a fresh compile
//! ```
//!
//! Real are the operator's core, its election, the stream at both ends with its encoding, and the agent's engine. A part
//! of its own stands for what is around them: the API server, its watches (`source::kube` has tests of its own), the
//! writer's and the elector's requests, gRPC and TLS, the kernel, the disk, the kubelet.
//!
//! Invariants: one seed is one run, byte for byte of its trace; nothing reads the machine's clock, its randomness or its
//! network; all tasks run on one thread. It judges and does not mend.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a rig of tests: where its own invariants break it must stop"
)]

pub mod api;
pub mod check;
pub mod dice;
pub mod history;
pub mod kernel;
pub mod machine;
pub mod net;
pub mod pod;
pub mod replica;
pub mod sabotage;
pub mod scenario;
pub mod sim;
pub mod store;

pub use sabotage::Sabotage;
pub use scenario::{Outcome, Plan, run};
