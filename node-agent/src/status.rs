//! What the admin socket says of a node: the document that the command line reads, with what only people look at.

use std::collections::BTreeMap;

use axoneme_flow::admin::Status;
use serde::Serialize;

use crate::engine::Counters;

/// [`Status`] with more facts; readers of [`Status`] ignore them.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    #[serde(flatten)]
    pub status: Status,
    /// Life of the operator process that the rows came from.
    pub epoch: u64,
    pub counters: Counters,
    /// How much is not in force as it is wanted, by kind ([`crate::engine::Part`]).
    pub drift: BTreeMap<&'static str, u64>,
}
