//! Everything that is shown.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    kinds::{Endpoint, Identity, Node, PolicyTable},
    refusal::Refusal,
    store::Store,
};

/// The stores of all kinds. One writer, which owns the state that they copy.
#[derive(Debug, Default)]
pub struct Shelf {
    pub endpoints: Arc<Store<Endpoint>>,
    pub identities: Arc<Store<Identity>>,
    pub nodes: Arc<Store<Node>>,
    pub policy_tables: Arc<Store<PolicyTable>>,
    complete: AtomicBool,
    leading: AtomicBool,
}

impl Shelf {
    /// The whole cluster has been read: what is not here is not there.
    pub fn completed(&self) {
        self.complete.store(true, Ordering::Release);
    }

    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Whether nodes tell this replica what they have in force.
    pub fn lead(&self, leading: bool) {
        self.leading.store(leading, Ordering::Release);
    }

    /// Whether a resource can be shown now: nothing is, rather than a part.
    pub fn serves(&self, plural: &str) -> Result<(), Refusal> {
        if !self.is_complete() {
            return Err(Refusal::unavailable("this operator has not read the whole cluster yet"));
        }
        if plural == "nodes" && !self.leading.load(Ordering::Acquire) {
            return Err(Refusal::unavailable(
                "nodes tell their state to the operator that leads, and this one does not: ask by way of the API server",
            ));
        }
        Ok(())
    }
}
