//! Services at the socket: the address that a program connects or sends to is replaced once, before there is a packet,
//! and turned back where the program asks whom it speaks to.

use crate::{
    Family, Maps,
    family::{Choice, TCP},
    service::choose_with_affinity,
};

/// Maps of the socket hooks.
pub trait Sockets<F: Family>: Maps<F> {
    /// The frontend that a socket believes to speak to when it speaks to this backend.
    fn frontend(&self, cookie: u64, protocol: u8, backend: &Choice<F>) -> Option<Choice<F>>;
    #[must_use]
    fn put_frontend(&self, cookie: u64, protocol: u8, backend: &Choice<F>, frontend: &Choice<F>) -> bool;
}

/// A socket that names a peer.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The socket's cookie.
    pub cookie: u64,
    /// Cookie of its network namespace.
    pub namespace: u64,
    pub protocol: u8,
}

/// What becomes of the peer's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<F: Family> {
    /// It is no Service.
    Unchanged,
    /// Speak to this backend instead.
    Backend(F::Address, u16),
    /// The Service has no backend.
    Refused,
}

/// A connect, or a send without connect. Sends of one socket to one frontend go to one backend as long as the
/// frontend's backends stay the same: the choice is a hash of the socket, not a die.
#[inline(always)]
pub fn connect<F: Family, E: Sockets<F>>(env: &E, caller: Caller, address: F::Address, port: u16) -> Outcome<F> {
    let key = F::service_key(address, port, caller.protocol);
    let Some(service) = env.service(&key) else { return Outcome::Unchanged };
    let random = if caller.protocol == TCP { env.random() } else { mix(caller.cookie) };
    let affinity = F::affinity_of_namespace(caller.namespace, key);
    let Some(backend) = choose_with_affinity::<F, E>(env, &affinity, &key, service, random) else {
        return Outcome::Refused;
    };
    let frontend = Choice { address, port, expires: 0 };
    // Without the way back a datagram socket would see answers from a stranger; a stream works either way.
    if !env.put_frontend(caller.cookie, caller.protocol, &backend, &frontend) && caller.protocol != TCP {
        return Outcome::Refused;
    }
    Outcome::Backend(backend.address, backend.port)
}

/// The frontend in a backend's place, for what a socket is told about its peer.
#[inline(always)]
pub fn reverse<F: Family, E: Sockets<F>>(
    env: &E,
    cookie: u64,
    protocol: u8,
    address: F::Address,
    port: u16,
) -> Option<(F::Address, u16)> {
    env.frontend(cookie, protocol, &Choice { address, port, expires: 0 }).map(|f| (f.address, f.port))
}

/// Spreads a counter's bits (the finalizer of SplitMix64).
#[inline(always)]
fn mix(cookie: u64) -> u32 {
    let x = (cookie ^ (cookie >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x >> 32) as u32
}
