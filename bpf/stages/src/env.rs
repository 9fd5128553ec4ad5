//! Maps and constants.

use axoneme_abi::{
    Conntrack, DropEvent, FlowEvent,
    policy::{Judgement, PolicyKey, PolicyValue},
    service::{BackendKey, Ports, Service},
    tables::{Answers, Endpoint, IpInfo},
};

use crate::{Family, family::Reverse};

/// Time-outs of connections, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// TCP with packets in both directions.
    Established,
    /// TCP before an answer.
    Opening,
    /// TCP after RST or both FINs.
    Closing,
    /// TCP after one FIN.
    HalfClosed,
    /// UDP before an answer.
    Datagram,
    DatagramReplied,
    /// Everything else.
    Other,
    /// A fragmented datagram.
    Fragment,
}

/// What does not depend on the address family.
pub trait Env {
    /// The tick.
    fn now(&self) -> u32;
    fn random(&self) -> u32;
    /// Grows whenever addresses change hands.
    fn epoch(&self) -> u32;
    /// Revision of a slot; 0 for slot 0.
    fn revision(&self, slot: u16) -> u32;
    /// Bits of [`axoneme_abi::policy::slot_kind`] of a slot.
    fn kinds(&self, slot: u16) -> u32;
    /// Longest match of a full key in the slot's table.
    fn policy(&self, slot: u16, key: &PolicyKey) -> Option<PolicyValue>;
    /// Calls `then` with what is kept at a place below [`axoneme_abi::policy::JUDGEMENTS`], this CPU's own. `then` must
    /// not touch another.
    fn with_judgement<R>(&self, place: u32, then: impl FnOnce(&mut Judgement) -> R) -> Option<R>;
    /// Calls `then` with what was answered of late at a place below [`axoneme_abi::tables::ANSWERED`], by this CPU.
    fn with_answers<R>(&self, place: u32, then: impl FnOnce(&mut Answers) -> R) -> Option<R>;
    fn uplink(&self) -> u32;
    fn overlay(&self) -> u32;
    /// Interface of the waiting room; 0: none.
    fn room(&self) -> u32;
    /// Counts a packet into the waiting room. False: it is full.
    #[must_use]
    fn enter_room(&self, length: u32) -> bool;
    /// Counts a packet out of it.
    fn leave_room(&self, length: u32);
    /// Whether a bit of [`axoneme_abi::constants::feature`] is set.
    fn feature(&self, bit: u32) -> bool;
    fn timeout(&self, which: Timeout) -> u32;
    fn drop_event(&self, event: &DropEvent);
    fn flow_event(&self, event: &FlowEvent);
    /// Counts a packet under a reason (or [`axoneme_abi::event::METRIC_ALLOWED`]).
    fn count(&self, reason: u8, direction: u8, bytes: u32);
}

/// Maps of one family.
pub trait Maps<F: Family>: Env {
    /// Calls `then` with the entry. `then` must not touch the conntrack map.
    fn with_conntrack<R>(&self, key: &F::Key, then: impl FnOnce(&mut Conntrack) -> R) -> Option<R>;
    #[must_use]
    fn put_conntrack(&self, key: &F::Key, value: &Conntrack) -> bool;
    fn ipcache(&self, address: F::Address) -> Option<IpInfo>;
    fn endpoint(&self, address: F::Address) -> Option<Endpoint>;

    fn service(&self, key: &F::ServiceKey) -> Option<Service>;
    fn backend(&self, key: &BackendKey) -> Option<F::Backend>;
    fn affinity(&self, key: &F::AffinityKey) -> Option<F::Backend>;
    fn put_affinity(&self, key: &F::AffinityKey, value: &F::Backend);
    /// Backend that a client's connection to a frontend was given.
    fn translation(&self, key: &F::Key) -> Option<F::Backend>;
    #[must_use]
    fn put_translation(&self, key: &F::Key, value: &F::Backend) -> bool;
    fn reverse(&self, key: &F::Key) -> Option<Reverse<F>>;
    #[must_use]
    fn put_reverse(&self, key: &F::Key, value: Reverse<F>) -> bool;

    fn fragment(&self, key: &F::FragmentKey) -> Option<Ports>;
    fn put_fragment(&self, key: &F::FragmentKey, value: &Ports);
}
