//! `views.axoneme.io/v1alpha1`: what the operator knows, as Kubernetes objects that `kubectl` lists, gets and watches.
//!
//! ```text
//!   kubectl ─▶ API server ─front-proxy certificate─▶ server ▸ access (who, may they) ▸ request (what is asked)
//!                                                                                          │
//!   operator's state ──changes──▶ Store<Endpoint|Identity|Node|PolicyTable> ──pages, events─▶ answer (object, table)
//! ```
//!
//! Nothing is stored here and nothing is written by way of it: a [`Store`] is a copy, by reference, of what its owner
//! tells. *Invariants*: memory of a list follows the page or the piece that is under way, not the list; a watch that
//! can't tell every change since its version says so (410), and tells none instead of some; who a request is from comes
//! from a verified certificate or a reviewed token, and never from a header alone. It does not decide who may see what:
//! that is asked of the API server ([`Access`]).
//!
//! Contracts: Kubernetes API concepts (list, watch, 410, bookmarks, Table), KEP-3352 (aggregated discovery), KEP-2896
//! (OpenAPI v3), kube-aggregator 0.36 as the caller.

pub mod accept;
pub mod access;
pub mod discovery;
pub mod front_proxy;
pub mod kinds;
pub mod list;
pub mod openapi;
pub mod page;
pub mod present;
pub mod refusal;
pub mod request;
pub mod resource;
pub mod selector;
pub mod server;
pub mod shelf;
pub mod store;
pub mod watch;

pub use access::{Access, Attributes, Unavailable, User};
pub use kinds::{Endpoint, Identity, Node, PolicyTable, Stance, View};
pub use refusal::Refusal;
pub use resource::{GROUP, Resource, VERSION};
pub use shelf::Shelf;
pub use store::Store;
