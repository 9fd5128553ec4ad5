//! Programs of the traffic-control hooks.
//!
//! Each has a short part that reads the headers at constant offsets and handles established connections, and a long
//! part per family in a function of its own: its stack frame and its verification do not weigh on the short part.

use axoneme_abi::constants::{CONTROL_VERDICT, MARK_ENCAPSULATED, MARK_QUEUED_IN, MARK_WAITING, MARK_WAITING_MASK};
use axoneme_stages::{Family, Kind, Maps, Packet, V4, V6, Verdict, Work, fast, hook, other_protocol, slow};
use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1, bpf_tunnel_key},
    helpers::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_type, bpf_skb_set_tunnel_key},
    macros::classifier,
    programs::TcContext,
};

use crate::{
    environment::Kernel,
    maps::{CONTROL, NODES, TESTING, WORK4, WORK6},
    skb::Skb,
};

/// On to the next program, and if there is none into the stack.
pub(crate) const NEXT: i32 = -1;
pub(crate) const SHOT: i32 = 2;
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
/// `PACKET_HOST` of include/uapi/linux/if_packet.h.
pub(crate) const PACKET_HOST: u32 = 0;
const ZERO_CHECKSUM: u64 = 2;
const TUNNEL_IPV6: u64 = 1;
/// Bytes of `struct bpf_tunnel_key` that all kernels know: without the local address, which came with 6.0. Others than the
/// sizes that it had are refused (`bpf_skb_set_tunnel_key`, net/core/filter.c).
pub(crate) const TUNNEL_KEY: u32 = core::mem::offset_of!(bpf_tunnel_key, __bindgen_anon_3) as u32;
const _: () = assert!(TUNNEL_KEY == 28);
const TTL: u32 = 64;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Carries a verdict out. `ENTERING`: the packet is about to enter the tunnel device already.
#[inline(always)]
fn act<const ENTERING: bool>(skb: Skb, v: Verdict) -> i32 {
    if TESTING.load() != 0 {
        for (place, word) in [v.kind as u32, v.argument, v.node, v.identity].into_iter().enumerate() {
            let _ = CONTROL.set(CONTROL_VERDICT + place as u32, word, 0);
        }
        return if v.is_drop() { SHOT } else { NEXT };
    }
    match v.kind {
        Kind::Pass => NEXT,
        Kind::Drop | Kind::Undecided => SHOT,
        // SAFETY: plain helper calls.
        Kind::Local => unsafe { bpf_redirect_peer(v.argument, 0) as i32 },
        Kind::Reject => unsafe { bpf_redirect_peer(skb.ifindex(), 0) as i32 },
        Kind::Queue => {
            skb.set_mark(MARK_QUEUED_IN);
            // SAFETY: plain helper call.
            unsafe { bpf_redirect(v.argument, 0) as i32 }
        }
        // SAFETY: plain helper call.
        Kind::Wait => unsafe { bpf_redirect(v.argument, 0) as i32 },
        Kind::NextHop => next_hop(v.argument, v.node),
        Kind::Tunnel => {
            if !encapsulate(skb.0, v.node, v.identity) {
                return SHOT;
            }
            if ENTERING {
                return NEXT;
            }
            skb.set_mark(MARK_ENCAPSULATED);
            // SAFETY: plain helper call.
            unsafe { bpf_redirect(v.argument, 0) as i32 }
        }
    }
}

#[inline(never)]
fn next_hop(ifindex: u32, node: u32) -> i32 {
    let Some(node) = NODES.get(node) else { return SHOT };
    let nh_family = if node.family == 4 { AF_INET } else { AF_INET6 };
    let mut hop =
        bpf_redir_neigh { nh_family, __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: node.address } };
    // SAFETY: `hop` lives for the call.
    unsafe { bpf_redirect_neigh(ifindex, &mut hop, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}

#[inline(never)]
fn encapsulate(skb: *mut __sk_buff, node: u32, identity: u32) -> bool {
    let Some(node) = NODES.get(node) else { return false };
    let mut key = MaybeUninit::<bpf_tunnel_key>::uninit();
    let [a, b, c, d] = node.address;
    let v4 = node.family == 4;
    let first = if v4 { u32::from_be(a) } else { a };
    // Identity, remote address, tos, ttl and flags, label. Written word by word: zeroing the struct is a byte-wise loop on
    // each packet.
    let to = key.as_mut_ptr().cast::<u32>();
    // SAFETY: seven words make the part of the struct that is handed over.
    let put = |place: usize, word: u32| unsafe { to.add(place).write_volatile(word) };
    put(0, identity);
    put(1, first);
    put(2, b);
    put(3, c);
    put(4, d);
    put(5, (TTL << 8).to_le());
    put(6, 0);
    let flags = if v4 { ZERO_CHECKSUM } else { ZERO_CHECKSUM | TUNNEL_IPV6 };
    // SAFETY: `key` is written as far as is told, and lives for the call.
    unsafe { bpf_skb_set_tunnel_key(skb, key.as_mut_ptr(), TUNNEL_KEY, flags) == 0 }
}

/// No return value of a program.
const UNDECIDED: i32 = i32::MIN;

/// The short way of IPv6 is a function of its own for the sake of its 40-byte key: the stack of the caller is part of
/// every deeper call's 512 bytes.
#[inline(never)]
fn short6<const HOOK: u8>(skb: *mut __sk_buff) -> i32 {
    let skb = Skb(skb);
    if skb.pull(74)
        && let Some(v) = fast::<V6, Kernel, Skb, HOOK>(&Kernel, skb)
    {
        return act::<false>(skb, v);
    }
    UNDECIDED
}

/// The long way of one family: a function of its own.
#[inline(never)]
fn long<F: Scratch, const HOOK: u8>(skb: *mut __sk_buff) -> i32
where
    Kernel: Maps<F>,
{
    let skb = Skb(skb);
    skb.pull(if F::NUMBER == 4 { 34 } else { 54 });
    // SAFETY: one program at a time runs on a CPU in this context; no reference outlives the call.
    let Some(work) = F::work().map(|w| unsafe { &mut *w }) else { return SHOT };
    let v = slow::<F, Kernel, Skb, HOOK>(&Kernel, skb, work);
    if HOOK == hook::FROM_WAITING && v.kind != Kind::Wait {
        skb.set_mark(0);
        skb.set_note(0);
    }
    act::<false>(skb, v)
}

/// The family's scratch space.
pub(crate) trait Scratch: Family {
    fn work() -> Option<*mut Work<Self>>;
}
impl Scratch for V4 {
    #[inline(always)]
    fn work() -> Option<*mut Work<V4>> {
        WORK4.get_ptr_mut(0)
    }
}
impl Scratch for V6 {
    #[inline(always)]
    fn work() -> Option<*mut Work<V6>> {
        WORK6.get_ptr_mut(0)
    }
}

#[inline(never)]
fn neither(skb: *mut __sk_buff, ether_type: u32) -> i32 {
    let skb = Skb(skb);
    skb.pull(42);
    let v = other_protocol::<Kernel, Skb>(&Kernel, &skb, ether_type as u16);
    let (reason, direction) = v.drop_numbers();
    if v.is_drop() {
        axoneme_stages::Env::count(&Kernel, reason, direction, skb.length());
    }
    act::<false>(skb, v)
}

#[inline(always)]
fn run<const HOOK: u8>(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.as_ptr().cast());
    // SAFETY: the context's protocol field is readable.
    let ether_type = u16::from_be(unsafe { (*skb.0).protocol } as u16);
    match ether_type {
        ETHERTYPE_IPV4 => {
            if skb.pull(54)
                && let Some(v) = fast::<V4, Kernel, Skb, HOOK>(&Kernel, skb)
            {
                return act::<false>(skb, v);
            }
            long::<V4, HOOK>(skb.0)
        }
        ETHERTYPE_IPV6 => {
            let done = short6::<HOOK>(skb.0);
            if done == UNDECIDED { long::<V6, HOOK>(skb.0) } else { done }
        }
        // What the host and the underlay speak besides IP is their own affair.
        other if HOOK == hook::FROM_CONTAINER => neither(skb.0, other as u32),
        _ if HOOK == hook::FROM_OVERLAY => SHOT,
        _ => NEXT,
    }
}

#[classifier]
pub fn from_container(ctx: TcContext) -> i32 {
    run::<{ hook::FROM_CONTAINER }>(ctx)
}
#[classifier]
pub fn to_container(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.as_ptr().cast());
    if skb.mark() == MARK_QUEUED_IN {
        return crate::queue::enter(skb);
    }
    run::<{ hook::TO_CONTAINER }>(ctx)
}
#[classifier]
pub fn from_netdev(ctx: TcContext) -> i32 {
    run::<{ hook::FROM_NETDEV }>(ctx)
}
#[classifier]
pub fn from_overlay(ctx: TcContext) -> i32 {
    run::<{ hook::FROM_OVERLAY }>(ctx)
}

/// Fragments that have waited for their first one. Only our programs send into the room; what else comes out of it
/// (the host's own multicast) ends here.
#[classifier]
pub fn from_waiting(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.as_ptr().cast());
    if skb.mark() & MARK_WAITING_MASK != MARK_WAITING {
        return SHOT;
    }
    // The room's far end takes packets to other link-layer addresses for somebody else's.
    // SAFETY: plain helper call.
    unsafe { bpf_skb_change_type(skb.0, PACKET_HOST) };
    // SAFETY: the context's protocol field is readable.
    match u16::from_be(unsafe { (*skb.0).protocol } as u16) {
        ETHERTYPE_IPV4 => long::<V4, { hook::FROM_WAITING }>(skb.0),
        ETHERTYPE_IPV6 => long::<V6, { hook::FROM_WAITING }>(skb.0),
        _ => SHOT,
    }
}

#[inline(always)]
fn entering<F: Family>(skb: Skb) -> i32
where
    Kernel: Maps<F>,
{
    skb.pull(if F::NUMBER == 4 { 34 } else { 54 });
    let v = axoneme_stages::to_overlay::<F, Kernel, Skb>(&Kernel, &skb);
    if v.is_drop() {
        let (reason, direction) = v.drop_numbers();
        axoneme_stages::Env::count(&Kernel, reason, direction, skb.length());
    }
    act::<true>(skb, v)
}

#[classifier]
pub fn to_overlay(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.as_ptr().cast());
    // SAFETY: the context's protocol field is readable.
    match u16::from_be(unsafe { (*skb.0).protocol } as u16) {
        ETHERTYPE_IPV4 => entering::<V4>(skb),
        ETHERTYPE_IPV6 => entering::<V6>(skb),
        // The tunnel carries nothing else; neighbours on it are never asked for.
        _ => SHOT,
    }
}
