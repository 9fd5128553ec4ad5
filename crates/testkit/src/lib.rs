//! What tests share: a workload that serves, probes and counts lost packets.
//!
//! The `axoneme-workload` binary is the image that the demo and the cluster tests run in pods; the same functions run
//! in network namespaces. [`kuttl`] runs the cases of `kuttl-tests/`, by the binary `axoneme-kuttl`. Nothing here ships
//! with the product.

pub mod kuttl;
pub mod probe;
pub mod serve;
pub mod stream;
