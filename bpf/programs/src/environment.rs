//! The stages' environment: kernel maps.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use axoneme_abi::{
    Conntrack, DropEvent, FlowEvent, Key4, Key6,
    constants::{CONTROL_EPOCH, CONTROL_NOW, CONTROL_RANDOM, CONTROL_ROOM, TICK_SHIFT, feature},
    event::{LOST_DROPS, LOST_FLOWS},
    guard::Guard,
    policy::{Judgement, PREFIX_FULL, PolicyKey, PolicyValue},
    service::{
        Affinity4Key, Affinity6Key, Backend4, Backend6, BackendKey, Fragment4, Fragment6, Ports, Reverse4, Reverse6,
        Service, Service4Key, Service6Key, Socket4Key, Socket6Key,
    },
    tables::{Answers, Endpoint, IpInfo},
};
use axoneme_stages::{Choice, Env, Guards, Maps, Reverse, Timeout, V4, V6, fits, socket::Sockets};
use aya_ebpf::{
    bindings::BPF_ANY,
    btf_maps::lpm_trie::Key,
    helpers::{bpf_get_prandom_u32, bpf_jiffies64, bpf_ktime_get_ns},
};

use crate::maps::*;

/// Reserved records are handed over without waking the reader, which polls: a wake-up per record costs a third of the
/// connection rate (`BPF_RB_NO_WAKEUP`).
const NO_WAKEUP: u64 = 1;

#[derive(Clone, Copy)]
pub(crate) struct Kernel;

/// Adds to a word that other CPUs add to. The standard library has no such thing for targets without compare-and-swap.
///
/// # Safety
/// `word` is valid for reads and writes.
#[inline(always)]
unsafe fn add(word: *mut i64, by: i64) {
    // SAFETY: as the caller says. The sum from before is not asked for, which makes it the one instruction (`lock *word
    // += by`) that every kernel has.
    unsafe { atomic_xadd::<i64, i64, { AtomicOrdering::Relaxed }>(word, by) };
}

/// A word of the control array.
#[inline(always)]
pub(crate) fn control(place: u32) -> u32 {
    CONTROL.get(place).copied().unwrap_or(0)
}

#[inline(always)]
fn lost(which: u32) {
    if let Some(p) = LOST.get_ptr_mut(which) {
        // SAFETY: a per-CPU element; programs of one CPU do not preempt each other here.
        unsafe { *p += 1 }
    }
}

/// A function of its own, as the next: their stack frames are not part of what is deep already.
#[inline(never)]
fn enter(length: u32) -> bool {
    let Some(w) = WAITING.get_ptr_mut(0) else { return false };
    // SAFETY: an array element lives as long as the map. Single words are read and written; the sum is changed by
    // atomic additions, whose result nobody asks for: kernels before 5.12 have no others.
    unsafe {
        let now = Kernel.now();
        let seen = w.read_volatile();
        let (fits, stale) = fits(&seen, length, now);
        if stale {
            add(&raw mut (*w).bytes, -seen.bytes);
        }
        if fits {
            if stale || seen.bytes == 0 {
                (&raw mut (*w).left).write_volatile(now);
            }
            add(&raw mut (*w).bytes, length as i64);
        }
        fits
    }
}

#[inline(never)]
fn leave(length: u32) {
    let Some(w) = WAITING.get_ptr_mut(0) else { return };
    // SAFETY: as above.
    unsafe {
        add(&raw mut (*w).bytes, -(length as i64));
        (&raw mut (*w).left).write_volatile(Kernel.now());
    }
}

impl Env for Kernel {
    #[inline(always)]
    fn now(&self) -> u32 {
        if TESTING.load() != 0 {
            return control(CONTROL_NOW);
        }
        // SAFETY: plain helper call.
        (unsafe { bpf_jiffies64() } >> TICK_SHIFT) as u32
    }
    #[inline(always)]
    fn random(&self) -> u32 {
        if TESTING.load() != 0 {
            return control(CONTROL_RANDOM);
        }
        // SAFETY: plain helper call.
        unsafe { bpf_get_prandom_u32() }
    }
    #[inline(always)]
    fn epoch(&self) -> u32 {
        control(CONTROL_EPOCH)
    }
    #[inline(always)]
    fn revision(&self, slot: u16) -> u32 {
        match SLOTS.get_ptr(slot as u32) {
            // SAFETY: an array element lives as long as the map.
            Some(s) => unsafe { (*s).revision },
            None => 0,
        }
    }
    #[inline(always)]
    fn kinds(&self, slot: u16) -> u32 {
        match SLOTS.get_ptr(slot as u32) {
            // SAFETY: an array element lives as long as the map.
            Some(s) => unsafe { (*s).flags },
            None => 0,
        }
    }
    #[inline(always)]
    fn policy(&self, slot: u16, key: &PolicyKey) -> Option<PolicyValue> {
        let found = POLICY.get_value_ptr_mut(slot as u32, &Key::new(PREFIX_FULL, *key))?;
        // SAFETY: an entry of a trie is never written in place; the kernel frees it after the program has run.
        Some(unsafe { *found })
    }
    #[inline(always)]
    fn with_judgement<R>(&self, place: u32, then: impl FnOnce(&mut Judgement) -> R) -> Option<R> {
        // SAFETY: a per-CPU element; programs of one CPU do not preempt each other here.
        JUDGED.get_ptr_mut(place).map(|p| then(unsafe { &mut *p }))
    }
    #[inline(always)]
    fn with_answers<R>(&self, place: u32, then: impl FnOnce(&mut Answers) -> R) -> Option<R> {
        // SAFETY: as above.
        ANSWERS.get_ptr_mut(place).map(|p| then(unsafe { &mut *p }))
    }
    #[inline(always)]
    fn uplink(&self) -> u32 {
        UPLINK.load()
    }
    #[inline(always)]
    fn overlay(&self) -> u32 {
        OVERLAY.load()
    }
    #[inline(always)]
    fn room(&self) -> u32 {
        control(CONTROL_ROOM)
    }
    #[inline(always)]
    fn enter_room(&self, length: u32) -> bool {
        enter(length)
    }
    #[inline(always)]
    fn leave_room(&self, length: u32) {
        leave(length);
    }
    #[inline(always)]
    fn feature(&self, bit: u32) -> bool {
        FEATURES.load() & bit != 0
    }
    #[inline(always)]
    fn timeout(&self, which: Timeout) -> u32 {
        match which {
            Timeout::Established => TIMEOUT_ESTABLISHED.load(),
            Timeout::Opening => TIMEOUT_OPENING.load(),
            Timeout::Closing => TIMEOUT_CLOSING.load(),
            Timeout::HalfClosed => TIMEOUT_HALF_CLOSED.load(),
            Timeout::Datagram => TIMEOUT_DATAGRAM.load(),
            Timeout::DatagramReplied => TIMEOUT_DATAGRAM_REPLIED.load(),
            Timeout::Other => TIMEOUT_OTHER.load(),
            Timeout::Fragment => TIMEOUT_FRAGMENT.load(),
        }
    }
    #[inline(always)]
    fn drop_event(&self, event: &DropEvent) {
        match DROPS.reserve(0) {
            Some(mut r) => {
                // SAFETY: plain helper call.
                let time = unsafe { bpf_ktime_get_ns() };
                r.write(DropEvent { time, ..*event });
                r.submit(NO_WAKEUP);
            }
            None => lost(LOST_DROPS),
        }
    }
    #[inline(always)]
    fn flow_event(&self, event: &FlowEvent) {
        if FEATURES.load() & feature::FLOWS == 0 {
            return;
        }
        match FLOWS.reserve(0) {
            Some(mut r) => {
                // SAFETY: plain helper call.
                let time = unsafe { bpf_ktime_get_ns() };
                r.write(FlowEvent { time, ..*event });
                r.submit(NO_WAKEUP);
            }
            None => lost(LOST_FLOWS),
        }
    }
    #[inline(always)]
    fn count(&self, reason: u8, direction: u8, bytes: u32) {
        if let Some(m) = METRIC.get_ptr_mut(reason as u32 * 2 + direction as u32) {
            // SAFETY: a per-CPU element.
            unsafe {
                (*m).packets += 1;
                (*m).bytes += bytes as u64;
            }
        }
    }
}

macro_rules! maps {
    ($family:ty, $key:ty, $address:ty, $ipcache_key:expr, $service_key:ty, $affinity_key:ty, $backend:ty,
     $reverse:ident, $fragment_key:ty, $socket_key:expr,
     $ct:ident $ipcache:ident $endpoints:ident $services:ident $backends:ident $affinity:ident $translations:ident
     $reverses:ident $fragments:ident $sockets:ident $guarded:ident $apiservers:ident) => {
        impl Maps<$family> for Kernel {
            #[inline(always)]
            fn with_conntrack<R>(&self, key: &$key, then: impl FnOnce(&mut Conntrack) -> R) -> Option<R> {
                // SAFETY: the kernel keeps a looked-up element for as long as the program runs. Other CPUs may write it
                // at the same time: counters may then miss a packet, all other fields are single words.
                $ct.get_ptr_mut(key).map(|p| then(unsafe { &mut *p }))
            }
            #[inline(always)]
            fn put_conntrack(&self, key: &$key, value: &Conntrack) -> bool {
                $ct.insert(key, value, BPF_ANY as u64).is_ok()
            }
            #[inline(always)]
            fn ipcache(&self, address: $address) -> Option<IpInfo> {
                $ipcache.get(&$ipcache_key(address)).copied()
            }
            #[inline(always)]
            fn endpoint(&self, address: $address) -> Option<Endpoint> {
                // SAFETY: copied at once; a torn read of a replaced element ends with the epoch's growth.
                unsafe { $endpoints.get(&address) }.copied()
            }
            #[inline(always)]
            fn service(&self, key: &$service_key) -> Option<Service> {
                // SAFETY: as above.
                unsafe { $services.get(key) }.copied()
            }
            #[inline(always)]
            fn backend(&self, key: &BackendKey) -> Option<$backend> {
                // SAFETY: as above.
                unsafe { $backends.get(key) }.copied()
            }
            #[inline(always)]
            fn affinity(&self, key: &$affinity_key) -> Option<$backend> {
                // SAFETY: as above.
                unsafe { $affinity.get(key) }.copied()
            }
            #[inline(always)]
            fn put_affinity(&self, key: &$affinity_key, value: &$backend) {
                let _ = $affinity.insert(key, value, BPF_ANY as u64);
            }
            #[inline(always)]
            fn translation(&self, key: &$key) -> Option<$backend> {
                // SAFETY: as above.
                unsafe { $translations.get(key) }.copied()
            }
            #[inline(always)]
            fn put_translation(&self, key: &$key, value: &$backend) -> bool {
                $translations.insert(key, value, BPF_ANY as u64).is_ok()
            }
            #[inline(always)]
            fn reverse(&self, key: &$key) -> Option<Reverse<$family>> {
                // SAFETY: as above.
                let r = unsafe { $reverses.get(key) }?;
                Some(Reverse { address: r.address, port: r.port, client: r.client })
            }
            #[inline(always)]
            fn put_reverse(&self, key: &$key, value: Reverse<$family>) -> bool {
                let v = $reverse {
                    address: value.address,
                    client: value.client,
                    port: value.port,
                    reserved: 0,
                    reserved2: 0,
                };
                $reverses.insert(key, &v, BPF_ANY as u64).is_ok()
            }
            #[inline(always)]
            fn fragment(&self, key: &$fragment_key) -> Option<Ports> {
                // SAFETY: as above.
                unsafe { $fragments.get(key) }.copied()
            }
            #[inline(always)]
            fn put_fragment(&self, key: &$fragment_key, value: &Ports) {
                let _ = $fragments.insert(key, value, BPF_ANY as u64);
            }
        }
        impl Guards<$family> for Kernel {
            #[inline(always)]
            fn guard(&self) -> Guard {
                GUARD.get(0).copied().unwrap_or_default()
            }
            #[inline(always)]
            fn is_apiserver(&self, address: $address) -> bool {
                // SAFETY: only whether it is there is asked.
                unsafe { $apiservers.get(&address) }.is_some()
            }
            #[inline(always)]
            fn with_guarded<R>(&self, key: &$key, then: impl FnOnce(&mut Conntrack) -> R) -> Option<R> {
                // SAFETY: as `with_conntrack`.
                $guarded.get_ptr_mut(key).map(|p| then(unsafe { &mut *p }))
            }
            #[inline(always)]
            fn put_guarded(&self, key: &$key, value: &Conntrack) -> bool {
                $guarded.insert(key, value, BPF_ANY as u64).is_ok()
            }
        }
        impl Sockets<$family> for Kernel {
            #[inline(always)]
            fn frontend(&self, cookie: u64, protocol: u8, backend: &Choice<$family>) -> Option<Choice<$family>> {
                // SAFETY: as above.
                let b = unsafe { $sockets.get(&$socket_key(cookie, protocol, backend)) }?;
                Some(Choice { address: b.address, port: b.port, expires: 0 })
            }
            #[inline(always)]
            fn put_frontend(
                &self,
                cookie: u64,
                protocol: u8,
                backend: &Choice<$family>,
                frontend: &Choice<$family>,
            ) -> bool {
                let value = <$backend>::from_parts(frontend.address, frontend.port);
                $sockets.insert(&$socket_key(cookie, protocol, backend), &value, BPF_ANY as u64).is_ok()
            }
        }
    };
}

trait FromParts {
    type Address;
    fn from_parts(address: Self::Address, port: u16) -> Self;
}
impl FromParts for Backend4 {
    type Address = u32;
    #[inline(always)]
    fn from_parts(address: u32, port: u16) -> Self {
        Self { address, port, reserved: 0, expires: 0 }
    }
}
impl FromParts for Backend6 {
    type Address = [u64; 2];
    #[inline(always)]
    fn from_parts(address: [u64; 2], port: u16) -> Self {
        Self { address, port, reserved: 0, expires: 0 }
    }
}

#[inline(always)]
fn bytes6(address: [u64; 2]) -> [u8; 16] {
    // SAFETY: same size, any bytes.
    unsafe { core::mem::transmute(address) }
}
#[inline(always)]
fn socket4(cookie: u64, protocol: u8, b: &Choice<V4>) -> Socket4Key {
    Socket4Key { cookie, address: b.address, port: b.port, protocol: protocol as u16 }
}
#[inline(always)]
fn socket6(cookie: u64, protocol: u8, b: &Choice<V6>) -> Socket6Key {
    Socket6Key { cookie, address: b.address, port: b.port, protocol: protocol as u16, reserved: 0 }
}

maps!(V4, Key4, u32, |a: u32| Key::new(32, a.to_ne_bytes()), Service4Key, Affinity4Key, Backend4, Reverse4,
    Fragment4, socket4,
    CT4 IPCACHE4 ENDPOINTS4 SERVICES4 BACKENDS4 AFFINITY4 TRANSLATIONS4 REVERSE4 FRAGMENTS4 SOCKETS4 GUARDED4
    APISERVERS4);
maps!(V6, Key6, [u64; 2], |a: [u64; 2]| Key::new(128, bytes6(a)), Service6Key, Affinity6Key, Backend6, Reverse6,
    Fragment6, socket6,
    CT6 IPCACHE6 ENDPOINTS6 SERVICES6 BACKENDS6 AFFINITY6 TRANSLATIONS6 REVERSE6 FRAGMENTS6 SOCKETS6 GUARDED6
    APISERVERS6);
