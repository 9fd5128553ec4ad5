//! Entry points of the kernel: glue between contexts and `axoneme-stages`. No decision is made here.
#![no_std]
#![no_main]
// The only way to an atomic addition on this target. The object is built by one pinned compiler.
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "see above")]

mod environment;
mod guard;
mod maps;
mod queue;
mod skb;
mod sock_addr;
mod tc;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Kernel helpers of the GPL are used, as `bpf/LICENSE-GPL-2.0` allows.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
