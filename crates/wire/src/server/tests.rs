//! Both ends of the stream over loopback, and the views against a naive model.

mod pace;
mod quiet;
mod rig;
mod stream;
mod views;
