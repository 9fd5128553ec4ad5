//! The packet pipeline, written once for IPv4 and IPv6, for the kernel and for the host.
//!
//! ```text
//!   packet ─▶ header ─▶ conntrack ──hit──▶ forward                    (hot: one cache line, no packet write)
//!                          │ miss, change of state, changed policy
//!                          ▼
//!             fragment ─▶ source check ─▶ service ─▶ peers ─▶ policy ─▶ conntrack ─▶ forward, translate, reject
//! ```
//!
//! The host firewall ([`guard`]) stands beside this: it judges the node's own traffic on its devices.
//!
//! Nouns: a [`Flow`] is what a packet's headers say; an [`End`] is who is behind an address; a [`Verdict`] is what
//! happens to the packet. [`Family`] is IPv4 or IPv6; [`Env`] and [`Maps`] are the maps and constants; [`Packet`] is the
//! buffer. The kernel implements them with helpers (`bpf/programs`), the host with vectors and hash maps ([`host`]), so
//! every stage is tested without a kernel and compared with the compiled programs packet by packet.
//!
//! Invariants: no stage panics or indexes out of bounds; every drop has a [`axoneme_abi::DropReason`]; an established
//! packet reads one conntrack entry, two slot revisions and one epoch, and writes only the entry.
#![no_std]

#[cfg(any(test, feature = "host"))]
extern crate std;

mod conntrack;
mod crc;
mod env;
mod family;
mod forward;
mod fragment;
mod guard;
#[cfg(any(test, feature = "host"))]
pub mod host;
mod icmp;
mod neighbour;
mod overlay;
mod packet;
mod pipeline;
mod policy;
mod reject;
mod service;
pub mod socket;
#[cfg(test)]
mod tests;
mod v4;
mod v6;
mod verdict;
mod work;

pub use env::{Env, Maps, Timeout};
pub use family::{Choice, Family, Flow, FlowKind, Reverse};
pub use fragment::fits;
pub use guard::{Guards, guard};
pub use neighbour::other_protocol;
pub use overlay::to_overlay;
pub use packet::{Packet, Plain};
pub use pipeline::{fast, slow};
pub use policy::End;
pub use v4::V4;
pub use v6::V6;
pub use verdict::{Kind, Verdict};
pub use work::Work;

/// Where a packet is met; a type, so that each program compiles only its own branches.
pub mod hook {
    pub const FROM_CONTAINER: u8 = 0;
    pub const TO_CONTAINER: u8 = 1;
    pub const FROM_NETDEV: u8 = 2;
    pub const FROM_OVERLAY: u8 = 3;
    /// Out of the waiting room. What met the packet first is in its mark, and is what events tell.
    pub const FROM_WAITING: u8 = 5;
    /// What the node sends by its devices: no program of the pods' pipeline, but where the host firewall's events are from.
    pub const FROM_HOST: u8 = 6;
}
