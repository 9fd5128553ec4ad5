//! The environment of the host build: maps and packets in memory.
//!
//! Same semantics as the kernel's maps as far as stages can see them; capacities are not modelled.

extern crate std;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    vec::Vec,
};

use axoneme_abi::{
    Conntrack, DropEvent, FlowEvent,
    guard::Guard,
    policy::{Judgement, PREFIX_FIXED, PolicyKey, PolicyValue, Slot},
    service::{BackendKey, Ports, Service},
    tables::{Answers, Endpoint, IpInfo, Waiting},
};

use crate::{
    Env, Family, Guards, Maps, Packet, Plain, Timeout, V4, V6,
    family::{Choice, Reverse},
    socket::Sockets,
};

/// Cookie, protocol, backend, frontend.
pub type Socket<F> = (u64, u8, Choice<F>, Choice<F>);

/// Maps of one family.
#[derive(Debug)]
pub struct Tables<F: Family> {
    pub conntrack: RefCell<HashMap<F::Key, Conntrack>>,
    /// (address, prefix bits) → value.
    pub ipcache: RefCell<Vec<(F::Address, u32, IpInfo)>>,
    pub endpoints: RefCell<Vec<(F::Address, Endpoint)>>,
    pub services: RefCell<HashMap<F::ServiceKey, Service>>,
    pub backends: RefCell<HashMap<BackendKey, F::Backend>>,
    pub affinity: RefCell<HashMap<F::AffinityKey, F::Backend>>,
    pub translations: RefCell<HashMap<F::Key, F::Backend>>,
    pub reverse: RefCell<HashMap<F::Key, Reverse<F>>>,
    pub fragments: RefCell<HashMap<F::FragmentKey, Ports>>,
    pub sockets: RefCell<Vec<Socket<F>>>,
    /// The node's own connections.
    pub guarded: RefCell<HashMap<F::Key, Conntrack>>,
    pub apiservers: RefCell<Vec<F::Address>>,
}

impl<F: Family> Default for Tables<F> {
    fn default() -> Self {
        Self {
            conntrack: RefCell::default(),
            ipcache: RefCell::default(),
            endpoints: RefCell::default(),
            services: RefCell::default(),
            backends: RefCell::default(),
            affinity: RefCell::default(),
            translations: RefCell::default(),
            reverse: RefCell::default(),
            fragments: RefCell::default(),
            sockets: RefCell::default(),
            guarded: RefCell::default(),
            apiservers: RefCell::default(),
        }
    }
}

/// All maps, constants, and what was reported.
#[derive(Debug, Default)]
pub struct Host {
    pub v4: Tables<V4>,
    pub v6: Tables<V6>,
    pub slots: RefCell<HashMap<u16, Slot>>,
    /// (slot, prefix bits, key) → value.
    pub policy: RefCell<HashMap<(u16, u32, PolicyKey), PolicyValue>>,
    pub judgements: RefCell<HashMap<u32, Judgement>>,
    pub answers: RefCell<HashMap<u32, Answers>>,
    pub now: Cell<u32>,
    pub random: Cell<u32>,
    pub epoch: Cell<u32>,
    pub features: Cell<u32>,
    pub uplink: Cell<u32>,
    pub overlay: Cell<u32>,
    pub room: Cell<u32>,
    pub waiting: Cell<Waiting>,
    pub guard: Cell<Guard>,
    pub drops: RefCell<Vec<DropEvent>>,
    pub flows: RefCell<Vec<FlowEvent>>,
    pub counts: RefCell<HashMap<(u8, u8), (u64, u64)>>,
}

/// Tables of a family inside [`Host`].
pub trait HasTables<F: Family> {
    fn tables(&self) -> &Tables<F>;
}
impl HasTables<V4> for Host {
    fn tables(&self) -> &Tables<V4> {
        &self.v4
    }
}
impl HasTables<V6> for Host {
    fn tables(&self) -> &Tables<V6> {
        &self.v6
    }
}

/// Time-outs of the host build, in ticks.
pub const fn timeout(which: Timeout) -> u32 {
    match which {
        Timeout::Established => 8000,
        Timeout::Opening => 60,
        Timeout::Closing => 10,
        Timeout::HalfClosed => 120,
        Timeout::Datagram => 61,
        Timeout::DatagramReplied => 180,
        Timeout::Other => 62,
        Timeout::Fragment => 7,
    }
}

impl Env for Host {
    fn now(&self) -> u32 {
        self.now.get()
    }
    fn random(&self) -> u32 {
        self.random.get()
    }
    fn epoch(&self) -> u32 {
        self.epoch.get()
    }
    fn revision(&self, slot: u16) -> u32 {
        self.slots.borrow().get(&slot).map_or(0, |s| s.revision)
    }
    fn kinds(&self, slot: u16) -> u32 {
        self.slots.borrow().get(&slot).map_or(0, |s| s.flags)
    }
    fn policy(&self, slot: u16, key: &PolicyKey) -> Option<PolicyValue> {
        let policy = self.policy.borrow();
        let port = u16::from_be(key.port);
        for bits in (0..=16u32).rev() {
            let mask = if bits == 0 { 0 } else { u16::MAX << (16 - bits) };
            let k = PolicyKey { port: (port & mask).to_be(), ..*key };
            if let Some(v) = policy.get(&(slot, PREFIX_FIXED + 8 + bits, k)) {
                return Some(*v);
            }
        }
        policy.get(&(slot, PREFIX_FIXED, PolicyKey { port: 0, protocol: 0, ..*key })).copied()
    }
    fn with_judgement<R>(&self, place: u32, then: impl FnOnce(&mut Judgement) -> R) -> Option<R> {
        Some(then(self.judgements.borrow_mut().entry(place).or_default()))
    }
    fn with_answers<R>(&self, place: u32, then: impl FnOnce(&mut Answers) -> R) -> Option<R> {
        Some(then(self.answers.borrow_mut().entry(place).or_default()))
    }
    fn uplink(&self) -> u32 {
        self.uplink.get()
    }
    fn overlay(&self) -> u32 {
        self.overlay.get()
    }
    fn room(&self) -> u32 {
        self.room.get()
    }
    fn enter_room(&self, length: u32) -> bool {
        let mut w = self.waiting.get();
        let (fits, stale) = crate::fits(&w, length, self.now.get());
        if stale {
            w.bytes = 0;
        }
        if fits {
            if w.bytes == 0 {
                w.left = self.now.get();
            }
            w.bytes += i64::from(length);
            self.waiting.set(w);
        }
        fits
    }
    fn leave_room(&self, length: u32) {
        let w = self.waiting.get();
        self.waiting.set(Waiting { bytes: w.bytes - i64::from(length), left: self.now.get(), ..w });
    }
    fn feature(&self, bit: u32) -> bool {
        self.features.get() & bit != 0
    }
    fn timeout(&self, which: Timeout) -> u32 {
        timeout(which)
    }
    fn drop_event(&self, event: &DropEvent) {
        self.drops.borrow_mut().push(*event);
    }
    fn flow_event(&self, event: &FlowEvent) {
        self.flows.borrow_mut().push(*event);
    }
    fn count(&self, reason: u8, direction: u8, bytes: u32) {
        let mut counts = self.counts.borrow_mut();
        let c = counts.entry((reason, direction)).or_default();
        c.0 += 1;
        c.1 += u64::from(bytes);
    }
}

fn matches_prefix<F: Family>(a: F::Address, b: F::Address, bits: u32) -> bool {
    let bytes = |x| F::words(x).into_iter().flat_map(u32::to_ne_bytes);
    bytes(a).zip(bytes(b)).enumerate().all(|(i, (x, y))| {
        let left = bits.saturating_sub(u32::try_from(i).unwrap_or(u32::MAX) * 8).min(8);
        let mask = if left == 0 { 0 } else { 0xffu8 << (8 - left) };
        x & mask == y & mask
    })
}

impl<F: Family> Maps<F> for Host
where
    Host: HasTables<F>,
{
    fn with_conntrack<R>(&self, key: &F::Key, then: impl FnOnce(&mut Conntrack) -> R) -> Option<R> {
        self.tables().conntrack.borrow_mut().get_mut(key).map(then)
    }
    fn put_conntrack(&self, key: &F::Key, value: &Conntrack) -> bool {
        self.tables().conntrack.borrow_mut().insert(*key, *value);
        true
    }
    fn ipcache(&self, address: F::Address) -> Option<IpInfo> {
        let ipcache = self.tables().ipcache.borrow();
        let hit = ipcache.iter().filter(|(a, bits, _)| matches_prefix::<F>(*a, address, *bits)).max_by_key(|e| e.1);
        hit.map(|e| e.2)
    }
    fn endpoint(&self, address: F::Address) -> Option<Endpoint> {
        self.tables().endpoints.borrow().iter().find(|e| e.0 == address).map(|e| e.1)
    }
    fn service(&self, key: &F::ServiceKey) -> Option<Service> {
        self.tables().services.borrow().get(key).copied()
    }
    fn backend(&self, key: &BackendKey) -> Option<F::Backend> {
        self.tables().backends.borrow().get(key).copied()
    }
    fn affinity(&self, key: &F::AffinityKey) -> Option<F::Backend> {
        self.tables().affinity.borrow().get(key).copied()
    }
    fn put_affinity(&self, key: &F::AffinityKey, value: &F::Backend) {
        self.tables().affinity.borrow_mut().insert(*key, *value);
    }
    fn translation(&self, key: &F::Key) -> Option<F::Backend> {
        self.tables().translations.borrow().get(key).copied()
    }
    fn put_translation(&self, key: &F::Key, value: &F::Backend) -> bool {
        self.tables().translations.borrow_mut().insert(*key, *value);
        true
    }
    fn reverse(&self, key: &F::Key) -> Option<Reverse<F>> {
        self.tables().reverse.borrow().get(key).copied()
    }
    fn put_reverse(&self, key: &F::Key, value: Reverse<F>) -> bool {
        self.tables().reverse.borrow_mut().insert(*key, value);
        true
    }
    fn fragment(&self, key: &F::FragmentKey) -> Option<Ports> {
        self.tables().fragments.borrow().get(key).copied()
    }
    fn put_fragment(&self, key: &F::FragmentKey, value: &Ports) {
        self.tables().fragments.borrow_mut().insert(*key, *value);
    }
}

impl<F: Family> Sockets<F> for Host
where
    Host: HasTables<F> + Maps<F>,
{
    fn frontend(&self, cookie: u64, protocol: u8, backend: &Choice<F>) -> Option<Choice<F>> {
        let sockets = self.tables().sockets.borrow();
        let hit = sockets.iter().rev().find(|(c, p, b, _)| {
            *c == cookie && *p == protocol && b.address == backend.address && b.port == backend.port
        });
        hit.map(|e| e.3)
    }
    fn put_frontend(&self, cookie: u64, protocol: u8, backend: &Choice<F>, frontend: &Choice<F>) -> bool {
        self.tables().sockets.borrow_mut().push((cookie, protocol, *backend, *frontend));
        true
    }
}

impl<F: Family> Guards<F> for Host
where
    Host: HasTables<F> + Maps<F>,
{
    fn guard(&self) -> Guard {
        self.guard.get()
    }
    fn is_apiserver(&self, address: F::Address) -> bool {
        self.tables().apiservers.borrow().contains(&address)
    }
    fn with_guarded<R>(&self, key: &F::Key, then: impl FnOnce(&mut Conntrack) -> R) -> Option<R> {
        self.tables().guarded.borrow_mut().get_mut(key).map(then)
    }
    fn put_guarded(&self, key: &F::Key, value: &Conntrack) -> bool {
        self.tables().guarded.borrow_mut().insert(*key, *value);
        true
    }
}

/// A packet in memory.
#[derive(Debug, Default)]
pub struct Buffer {
    pub bytes: RefCell<Vec<u8>>,
    pub ifindex: u32,
    pub mark: Cell<u32>,
    pub note: Cell<u32>,
    /// Identity in the tunnel header.
    pub tunnel: Option<u32>,
    /// Cookie and cgroup of the socket that sent it.
    pub socket: [u64; 2],
}

impl Buffer {
    pub fn new(bytes: &[u8], ifindex: u32) -> Self {
        Self { bytes: RefCell::new(bytes.into()), ifindex, ..Self::default() }
    }
}

/// One's complement arithmetic on a checksum field: `sum' = ~(~sum + ~from + to)` (RFC 1624, equation 3).
fn mend(field: u16, from: &[u8], to: &[u8]) -> u16 {
    let words = |b: &[u8]| b.chunks(2).map(u16::from_bytes).fold(0u64, |s, w| s + u64::from(w));
    let inverted = from.chunks(2).map(|c| !u16::from_bytes(c)).fold(0u64, |s, w| s + u64::from(w));
    let mut sum = u64::from(!field) + inverted + words(to);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

impl Packet for &Buffer {
    fn get<T: Plain>(&self, offset: usize) -> Option<T> {
        self.load(offset)
    }
    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        self.bytes.borrow().get(offset..offset + T::SIZE).map(T::from_bytes)
    }
    fn length(&self) -> u32 {
        u32::try_from(self.bytes.borrow().len()).unwrap_or(u32::MAX)
    }
    fn ifindex(&self) -> u32 {
        self.ifindex
    }
    fn mark(&self) -> u32 {
        self.mark.get()
    }
    fn set_mark(&self, mark: u32) {
        self.mark.set(mark);
    }
    fn note(&self) -> u32 {
        self.note.get()
    }
    fn set_note(&self, note: u32) {
        self.note.set(note);
    }
    fn store<T: Plain>(&self, offset: usize, value: T) -> bool {
        let mut bytes = self.bytes.borrow_mut();
        let Some(place) = bytes.get_mut(offset..offset + T::SIZE) else { return false };
        value.to_bytes(place);
        true
    }
    fn mend_header_checksum(&self, offset: usize, from: u32, to: u32) -> bool {
        let Some(field) = self.load::<u16>(offset) else { return false };
        self.store(offset, mend(field, &from.to_ne_bytes(), &to.to_ne_bytes()))
    }
    fn mend_checksum(&self, offset: usize, from: u32, to: u32, size: u32, _pseudo: bool, optional: bool) -> bool {
        let Some(field) = self.load::<u16>(offset) else { return false };
        if optional && field == 0 {
            return true;
        }
        let new = if size == 2 {
            mend(field, &(from as u16).to_ne_bytes(), &(to as u16).to_ne_bytes())
        } else {
            mend(field, &from.to_ne_bytes(), &to.to_ne_bytes())
        };
        self.store(offset, if optional && new == 0 { 0xffff } else { new })
    }
    fn resize(&self, length: u32) -> bool {
        self.bytes.borrow_mut().resize(length as usize, 0);
        true
    }
    fn tunnel(&self) -> Option<u32> {
        self.tunnel
    }
    fn socket(&self) -> [u64; 2] {
        self.socket
    }
}
