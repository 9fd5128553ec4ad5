//! A runner for tests in the layout of [kuttl](https://kuttl.dev), with the semantics that its documentation and, where
//! that is silent, its source give (kudobuilder/kuttl at d691781, after v0.27). The tests stay readable by the upstream
//! tool: what is understood here means the same there.
//!
//! ```text
//!  kuttl-test.yaml ─▶ Suite ─▶ Case (a folder, a namespace) ─▶ Step (an index) ─▶ delete ▸ commands ▸ apply ▸ assert, errors
//!                                                                 │                                    again every second
//!                                                                 └────▶ trait Api ◀── a cluster (kube), a fake (tests)
//! ```
//!
//! # Guarantees
//! - Nothing is skipped in silence. A setting, a kind of the group `kuttl.dev` or a template that upstream knows and this
//!   runner does not is refused by its name before a case begins.
//! - What a case has made is removed when it ends, however it ends: its objects in reverse order, then its namespace.
//! - Every wait ends: steps, commands and the removal of namespaces each have the timeout of the suite or their own.
//!
//! # Caveats
//! Not there: Go templates (`.gotmpl.yaml`), `TestFile`, URLs, more clusters than one (`kubeconfig`, `context`),
//! `crdDir` and `manifestDirs` (the product is installed before the suite), starting kind or a control plane, reports in
//! files. Events of a case's namespace are told when it fails, not always. `matches()` in CEL expressions is not there.

mod api;
mod case;
mod cluster;
mod command;
mod config;
mod expression;
mod files;
mod step;
mod subset;
mod suite;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use self::{
    api::{Api, ApiError, Gvk},
    case::{Case, Failure, Outcome},
    cluster::Cluster,
    command::Shell,
    suite::Suite,
};
