//! What tests share: a workload that serves, probes and counts lost packets.
//!
//! The `axoneme-workload` binary is the image that the demo and the cluster tests run in pods; the same functions run
//! in network namespaces. Nothing here ships with the product.

pub mod probe;
pub mod serve;
pub mod stream;
