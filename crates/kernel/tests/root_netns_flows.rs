//! Flows against the oracle: each trace point and verdict, IPv4 and IPv6, on one node and between two, by the tunnel and by
//! native routes, with a restart of the nodes' process in between.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_errors_doc,
    reason = "a test fails by panicking, and reads best in one piece"
)]

mod modes;
mod rig;

use modes::flows::hold;
use rig::cluster::Mode;

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn flows_by_the_tunnel_are_those_that_the_oracle_says_must_be_seen() {
    println!("{} flows", hold(Mode::Vxlan));
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn flows_by_native_routes_are_those_that_the_oracle_says_must_be_seen() {
    println!("{} flows", hold(Mode::Native));
}
