//! The server over TLS on loopback, as the API server, `kubectl` and strangers meet it.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod answers;
mod clients;
mod hostile;
mod rig;
mod watching;
