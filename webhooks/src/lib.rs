//! Admission: an AdmissionReview in, an AdmissionReview out.
//!
//! ```text
//!   API server ──TLS──▶ server ──bytes──▶ request::read ──▶ review ──▶ answer ──▶ bytes
//!                                                           │    │
//!                                   axoneme_intake::parse ◀─┘    ├─▶ refusals ─┬▶ View (what the operator knows)
//!                                                                └─▶ notes ────┘
//! ```
//!
//! Nouns: a [`Request`] is what the API server asks; a [`Response`] is what it is told; a [`View`] is what is known of
//! the cluster beside the object; *notes* are warnings from it, which never refuse anything; *refusals* are of objects
//! that can be read, and would harm or never be in force.
//!
//! Invariants
//! - What is refused here is what intake can't read or the compiler would hold back whatever the cluster is, found by
//!   the same functions: an object that is admitted is one that the operator can use. One refusal more is of the cluster:
//!   a change that takes addresses away that pods use.
//! - A field that is right but not enforced yet is admitted with a warning: the object then says `Valid=False`,
//!   `reason=Unsupported` in its status. An object that was stored bad can be deleted, and its metadata edited.
//! - [`review`] is a function: no IO, no clock, no panic, and bounded work whatever the object and the cluster hold.
//!
//! What it does not do: it defaults nothing and changes no object, and it is no guard. The operator reads every object
//! as if nobody had looked before, so that a webhook that is away costs a good message and no safety.

mod answer;
mod notes;
mod refusals;
mod request;
mod review;
pub mod server;
mod view;

pub use self::{
    answer::{Denial, Response},
    refusals::ALLOW_RELEASE,
    request::{Malformed, Operation, Request, read},
    review::{ALLOW_DELETION, review},
    view::View,
};
