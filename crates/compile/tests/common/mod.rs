//! Random clusters, the reading of rows, and the comparison with the oracle. Shared by the test binaries.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::disallowed_methods, reason = "how many cases to try is asked for by the environment")]

pub mod host;
pub mod judge;
pub mod random;
pub mod rig;
pub mod shrink;

/// Number of traffic cases of a property test: `AXONEME_CASES`, or the default that CI runs.
pub fn cases(default: u64) -> u64 {
    std::env::var("AXONEME_CASES").ok().map_or(default, |v| v.parse().expect("AXONEME_CASES is a number"))
}

/// First seed: `AXONEME_SEED`, to repeat a failure.
pub fn first_seed() -> u64 {
    std::env::var("AXONEME_SEED").ok().map_or(0, |v| v.parse().expect("AXONEME_SEED is a number"))
}
