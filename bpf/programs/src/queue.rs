//! Limits: programs around the queues that let so many bytes a second pass.
//!
//! ```text
//!   to a pod:    judged ─▶ mark ─▶ the pod's link ─▶ to_container ─▶ its queue ─▶ pod
//!   from a pod:  its link ─▶ to_queue ─▶ near end ─▶ queue ─▶ far end ─▶ from_queue ─▶ its link ─▶ from_container
//! ```
//!
//! What a pod sends is held back before anything looks at it, and comes in by the pod's link again: all that follows is as
//! if the pod had sent it later. Links of pods without a limit have neither program nor mark.

use axoneme_abi::{
    Direction, DropReason,
    constants::{MARK_QUEUED_IN, MARK_QUEUED_OUT},
    tables::Queue,
};
use axoneme_stages::{Env, Packet};
use aya_ebpf::{
    EbpfContext,
    bindings::BPF_F_INGRESS,
    helpers::{bpf_redirect, bpf_skb_change_type},
    macros::classifier,
    programs::TcContext,
};

use crate::{
    environment::Kernel,
    maps::QUEUES,
    skb::Skb,
    tc::{NEXT, PACKET_HOST, SHOT},
};

/// On its way, past the programs that are left: `TCX_PASS`, `TC_ACT_OK`.
const PASS: i32 = 0;

#[inline(always)]
fn queue(skb: Skb) -> Option<Queue> {
    // SAFETY: copied at once.
    unsafe { QUEUES.get(&skb.ifindex()) }.copied()
}

/// A packet without a queue: its pod is just going.
#[inline(always)]
fn lost(skb: Skb, direction: Direction) -> i32 {
    Kernel.count(DropReason::NoLocalEndpoint as u8, direction as u8, skb.length());
    SHOT
}

/// What may go to a pod is about to enter the queue of its link. The pod's side would take a packet to another link-layer
/// address for somebody else's.
#[inline(never)]
pub(crate) fn enter(skb: Skb) -> i32 {
    let Some(queue) = queue(skb) else { return lost(skb, Direction::Ingress) };
    if !skb.store(0, queue.mac) {
        return lost(skb, Direction::Ingress);
    }
    skb.set_mark(0);
    PASS
}

/// What a pod sends: into its queue, or on its way if it comes from there. A pod cannot bring the mark along: the kernel
/// takes marks off what comes from another network namespace.
#[classifier]
pub fn to_queue(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.as_ptr().cast());
    if skb.mark() == MARK_QUEUED_OUT {
        skb.set_mark(0);
        return NEXT;
    }
    match queue(skb) {
        Some(queue) if queue.to != 0 => {
            skb.set_mark(MARK_QUEUED_OUT);
            // SAFETY: plain helper call.
            unsafe { bpf_redirect(queue.to, 0) as i32 }
        }
        // The limit has just been lifted.
        _ => NEXT,
    }
}

/// What comes out of the queue. Only pods' packets may: what else does (the host's own multicast) ends here.
#[classifier]
pub fn from_queue(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.as_ptr().cast());
    if skb.mark() != MARK_QUEUED_OUT {
        return SHOT;
    }
    let Some(queue) = queue(skb) else { return lost(skb, Direction::Egress) };
    // SAFETY: plain helper calls.
    unsafe {
        bpf_skb_change_type(skb.0, PACKET_HOST);
        bpf_redirect(queue.to, u64::from(BPF_F_INGRESS)) as i32
    }
}

const _: () = assert!(MARK_QUEUED_IN != MARK_QUEUED_OUT);
