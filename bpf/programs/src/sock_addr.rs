//! Programs of the cgroup's socket-address hooks: Services at connect and send, the way back at receive and
//! `getpeername`.

use axoneme_abi::constants::feature;
use axoneme_stages::{
    Env, V4, V6,
    socket::{Caller, Outcome, connect, reverse},
};
use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};

use crate::{
    environment::Kernel,
    maps::{CHOOSERS_HIGH, CHOOSERS_LOW},
};

const ALLOW: i32 = 1;
const DENY: i32 = 0;
const ECONNREFUSED: i32 = 111;
/// Third word of `::ffff:0:0/96`.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

type Address = *mut bpf_sock_addr;

#[inline(always)]
fn caller(ctx: Address) -> Caller {
    // SAFETY: plain reads of context fields, plain helper calls.
    unsafe {
        Caller {
            cookie: bpf_get_socket_cookie(ctx.cast()),
            namespace: bpf_get_netns_cookie(ctx.cast()),
            protocol: (*ctx).protocol as u8,
        }
    }
}

#[inline(always)]
fn port(ctx: Address) -> u16 {
    // SAFETY: plain read of a context field.
    unsafe { (*ctx).user_port as u16 }
}

#[inline(always)]
fn set_port(ctx: Address, port: u16) {
    // SAFETY: `user_port` is writable as a whole word.
    unsafe { (&raw mut (*ctx).user_port).write_volatile(port as u32) }
}

#[inline(always)]
fn words(ctx: Address) -> [u32; 4] {
    // SAFETY: plain reads of context fields; one word at a time, as the verifier wants them.
    unsafe {
        let p = (&raw const (*ctx).user_ip6).cast::<u32>();
        [p.read_volatile(), p.add(1).read_volatile(), p.add(2).read_volatile(), p.add(3).read_volatile()]
    }
}

#[inline(always)]
fn set_word(ctx: Address, place: usize, word: u32) {
    // SAFETY: `user_ip6` is writable word by word; `place` is a constant below 4.
    unsafe { (&raw mut (*ctx).user_ip6).cast::<u32>().add(place).write_volatile(word) }
}

#[inline(always)]
fn refuse() -> i32 {
    if Kernel.feature(feature::SET_RETVAL) {
        // SAFETY: plain helper call.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    DENY
}

#[inline(always)]
fn address6([a, b, c, d]: [u32; 4]) -> [u64; 2] {
    [a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32]
}

#[inline(always)]
fn set_address6(ctx: Address, [x, y]: [u64; 2]) {
    set_word(ctx, 0, x as u32);
    set_word(ctx, 1, (x >> 32) as u32);
    set_word(ctx, 2, y as u32);
    set_word(ctx, 3, (y >> 32) as u32);
}

/// Whether the socket's Services are left to the packet path.
#[inline(always)]
fn left_to_packets(who: &Caller) -> bool {
    let choosers = (CHOOSERS_HIGH.load() as u64) << 32 | CHOOSERS_LOW.load() as u64;
    choosers != 0 && choosers != who.namespace
}

#[inline(always)]
fn forward4(ctx: Address) -> i32 {
    let who = caller(ctx);
    if left_to_packets(&who) {
        return ALLOW;
    }
    // SAFETY: plain access to context fields.
    let address = unsafe { (*ctx).user_ip4 };
    match connect::<V4, Kernel>(&Kernel, who, address, port(ctx)) {
        Outcome::Unchanged => ALLOW,
        Outcome::Refused => refuse(),
        Outcome::Backend(address, port) => {
            // SAFETY: `user_ip4` is writable.
            unsafe { (&raw mut (*ctx).user_ip4).write_volatile(address) };
            set_port(ctx, port);
            ALLOW
        }
    }
}

/// A socket of IPv6 may speak IPv4 by mapped addresses.
#[inline(always)]
fn forward6(ctx: Address) -> i32 {
    let (who, w) = (caller(ctx), words(ctx));
    if left_to_packets(&who) {
        return ALLOW;
    }
    if let [0, 0, MAPPED, v4] = w {
        return match connect::<V4, Kernel>(&Kernel, who, v4, port(ctx)) {
            Outcome::Unchanged => ALLOW,
            Outcome::Refused => refuse(),
            Outcome::Backend(address, port) => {
                set_word(ctx, 3, address);
                set_port(ctx, port);
                ALLOW
            }
        };
    }
    match connect::<V6, Kernel>(&Kernel, who, address6(w), port(ctx)) {
        Outcome::Unchanged => ALLOW,
        Outcome::Refused => refuse(),
        Outcome::Backend(address, port) => {
            set_address6(ctx, address);
            set_port(ctx, port);
            ALLOW
        }
    }
}

#[inline(always)]
fn back4(ctx: Address) -> i32 {
    // SAFETY: plain access to context fields.
    let (address, who) = unsafe { ((*ctx).user_ip4, caller(ctx)) };
    if let Some((address, port)) = reverse::<V4, Kernel>(&Kernel, who.cookie, who.protocol, address, port(ctx)) {
        // SAFETY: `user_ip4` is writable.
        unsafe { (&raw mut (*ctx).user_ip4).write_volatile(address) };
        set_port(ctx, port);
    }
    ALLOW
}

#[inline(always)]
fn back6(ctx: Address) -> i32 {
    let who = caller(ctx);
    let w = words(ctx);
    if let [0, 0, MAPPED, v4] = w {
        if let Some((address, port)) = reverse::<V4, Kernel>(&Kernel, who.cookie, who.protocol, v4, port(ctx)) {
            set_word(ctx, 3, address);
            set_port(ctx, port);
        }
    } else if let Some((address, port)) =
        reverse::<V6, Kernel>(&Kernel, who.cookie, who.protocol, address6(w), port(ctx))
    {
        set_address6(ctx, address);
        set_port(ctx, port);
    }
    ALLOW
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    forward4(ctx.sock_addr)
}
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    forward6(ctx.sock_addr)
}
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    forward4(ctx.sock_addr)
}
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    forward6(ctx.sock_addr)
}
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    back4(ctx.sock_addr)
}
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    back6(ctx.sock_addr)
}
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    back4(ctx.sock_addr)
}
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    back6(ctx.sock_addr)
}
