//! Layouts that kernel programs and user space share: map keys, map values, events, reasons, load-time constants.
//!
//! ```text
//!   bpf/stages ──┐                         ┌── crates/kernel (feature `user`)
//!                ├──▶ axoneme-abi (bytes) ◀┤
//!   bpf/programs ┘                         └── flow reader (decoded events)
//! ```
//!
//! Every type is `repr(C)`, has no implicit padding, and its size and offsets are asserted at compile time. A change of
//! any layout bumps [`VERSION`]: pins live below a directory of that number, so that two versions never share a map.
//!
//! Byte order: addresses and ports are kept as they are on the wire (a `u16` port of 80 reads `80u16.to_be()`), unless
//! a field says otherwise. IPv6 addresses are two `u64` words holding the 16 bytes in memory order.
#![no_std]

pub mod conntrack;
pub mod constants;
pub mod event;
pub mod guard;
pub mod policy;
pub mod reason;
pub mod service;
pub mod tables;

pub use conntrack::{Action, Conntrack, Key4, Key6};
pub use event::{Direction, DropEvent, FlowEvent, FlowKind};
pub use reason::DropReason;

/// Version of all layouts together. Bumped by any change of a map's key, value or meaning.
///
/// 2: fragments expire; the control map has room for the waiting room. Policy tables are looked into in three levels: the
/// peer's class, its kind where a bit of the slot announces entries for it, whoever. Connections are as in 1.
///
/// 3: entries and defaults that pass what a rule would deny, and records of connections that say so. Connections are as
/// before.
///
/// 4: the host firewall's maps. 5: events tell the socket that sent a packet, or the id of its tunnel header. Connections are
/// as before in both.
pub const VERSION: u32 = 5;

/// IPv6 address as two words in memory order.
pub type Address6 = [u64; 2];

/// Asserts size, alignment-free of padding, and field offsets of a layout.
#[macro_export]
macro_rules! assert_layout {
    ($t:ty, $size:expr $(, $field:ident = $offset:expr)* $(,)?) => {
        const _: () = assert!(core::mem::size_of::<$t>() == $size);
        $( const _: () = assert!(core::mem::offset_of!($t, $field) == $offset); )*
    };
}

#[cfg(feature = "user")]
mod pod {
    //! What aya demands of a map's types.
    macro_rules! pod {
        ($($t:ty),* $(,)?) => { $(
            // SAFETY: `repr(C)`, `Copy`, no padding (sizes and offsets are asserted), every bit pattern is a value.
            #[allow(unsafe_code, reason = "aya's marker trait is unsafe to implement")]
            unsafe impl aya::Pod for $t {}
        )* };
    }
    pod!(
        crate::conntrack::Key4,
        crate::conntrack::Key6,
        crate::conntrack::Conntrack,
        crate::event::Metric,
        crate::guard::Guard,
        crate::policy::PolicyKey,
        crate::policy::PolicyValue,
        crate::policy::Slot,
        crate::service::Affinity4Key,
        crate::service::Affinity6Key,
        crate::service::Backend4,
        crate::service::Backend6,
        crate::service::BackendKey,
        crate::service::Fragment4,
        crate::service::Fragment6,
        crate::service::Ports,
        crate::service::Reverse4,
        crate::service::Reverse6,
        crate::service::Service,
        crate::service::Service4Key,
        crate::service::Service6Key,
        crate::service::Socket4Key,
        crate::service::Socket6Key,
        crate::tables::Endpoint,
        crate::tables::IpInfo,
        crate::tables::Node,
        crate::tables::Queue,
    );
}
