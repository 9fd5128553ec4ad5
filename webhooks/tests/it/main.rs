//! The reviewer as the API server meets it.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod cases;
mod fuzz;
mod http;
mod view;
