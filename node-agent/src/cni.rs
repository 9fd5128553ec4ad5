//! The agent's side of CNI: the socket, and the files that the runtime reads.

pub mod install;
pub mod server;
