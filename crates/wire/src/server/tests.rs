//! Both ends of the stream over loopback, and the views against a naive model.

mod rig;
mod stream;
mod views;
