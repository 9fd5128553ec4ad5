//! What the leader should write: pure plans from what is and what should be.

pub mod identities;
pub mod nodes;
pub mod status;

#[cfg(test)]
mod tests;
