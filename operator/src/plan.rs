//! What the leader should write: pure plans from what is and what should be.

pub mod identities;
pub mod lent;
pub mod nodes;
pub mod overrides;
pub mod pools;
pub mod status;

#[cfg(test)]
mod tests;
