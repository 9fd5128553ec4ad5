//! Rows with revisions, and a reconciler that makes something else equal to them.
//!
//! ```text
//!   source ──upsert/remove──▶ Table ──changes since r──▶ plan ──set/unset──▶ Reconciler ──upsert/remove──▶ target
//!             snapshot begin/end (sweep)                             adopt ▲ what the target already holds
//! ```
//!
//! Invariants: an equal row written again is no change; a reconciler that has nothing to do makes no call; what was
//! adopted and never wanted is removed only when the caller says that every input is initialized; a failed row is
//! tried again later and never keeps others from being applied. The crate knows no domain word.

pub mod reconcile;
pub mod table;

pub use reconcile::{Backoff, Failure, Outcome, Reconciler, Status, Target};
pub use table::{Change, Revision, Table};
