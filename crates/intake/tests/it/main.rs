//! What intake promises, seen from outside.

#![expect(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests; clippy.toml spares only the tests themselves"
)]

mod cilium_config;
mod cilium_policy;
mod cilium_refused;
mod cluster_network_policy;
mod config;
mod corpus;
mod errors;
mod examples;
mod ipam;
mod kubernetes;
mod network_policy;
mod node_config;
mod robustness;
mod schema;
mod show;
