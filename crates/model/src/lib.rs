//! The vocabulary of Axoneme and its reference semantics.
//!
//! ```text
//!   World ── namespaces, pods, nodes, services, policies, CIDR groups      what the cluster says (full labels)
//!     │
//!     ├── verdict::{verdict, host_verdict}(world, traffic) ──▶ Decision    the oracle: clear, slow, judged by nobody
//!     │
//!     └── (crate compile) ──▶ rows::*                                      what a node needs to enforce the same
//! ```
//!
//! Invariants: nothing here does IO, reads a clock or depends on another workspace crate. `verdict` reads only
//! `World`; it never sees identities, tables or rows, so it can judge the code that makes them.

pub mod audit;
pub mod bandwidth;
pub mod cidr;
pub mod cover;
pub mod identity;
pub mod labels;
pub mod lookup;
pub mod object;
pub mod packed;
pub mod policy;
pub mod protocol;
pub mod rows;
pub mod safe;
pub mod selector;
pub mod verdict;
pub mod world;

pub use bandwidth::Bandwidth;
pub use cidr::Cidr;
pub use identity::{Identity, PeerClass};
pub use labels::{LabelKey, Labels, Source};
pub use object::{Kind, ObjectRef, RuleRef};
pub use packed::{PackedMap, PackedSet};
pub use policy::{Action, DirectedRule, Direction, Peer, Peers, Policy, PortMatch, Ports, Rule, Subject, Tier};
pub use protocol::Protocol;
pub use safe::Safe;
pub use selector::{Operator, Requirement, Selector};
pub use verdict::{Decision, Traffic, host_verdict, verdict};
pub use world::World;
