//! The kernel's side: the only crate that names aya, netlink, network namespaces, nftables.
//!
//! ```text
//!   node-agent ── plan ──▶ trait Datapath (maps, programs, links)   bpf::Loader  | fake::Datapath
//!                     └──▶ trait Network  (links, routes, nft)      net::Netlink | fake::Network
//! ```
//!
//! It speaks in addresses, interface indexes and numbers and knows no policy, pod or Kubernetes word.

pub mod bpf;
pub mod datapath;
pub mod fake;
pub mod grace;
pub mod net;
