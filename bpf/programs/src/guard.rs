//! Programs of the host firewall: behind the pods' programs, on the same hooks, where a node is guarded.

use axoneme_abi::constants::{CONTROL_OWN, CONTROL_VERDICT};
use axoneme_stages::{Guards, Packet, V4, V6, guard};
use aya_ebpf::{EbpfContext, bindings::__sk_buff, macros::classifier, programs::TcContext};

use crate::{
    environment::{Kernel, control},
    maps::{CONTROL, TESTING},
    skb::Skb,
    tc::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, NEXT, SHOT, Scratch},
};

/// Whether a socket of this node sent the packet. A pod's packet keeps its socket on the way out of the pod and loses it
/// where the node's IP stack receives it (`ip_rcv`), so what the node passes on, and only that, has none here.
#[inline(always)]
fn is_own(skb: Skb) -> bool {
    if TESTING.load() != 0 {
        return control(CONTROL_OWN) != 0;
    }
    // SAFETY: the context's field is readable; what it points to is not read.
    unsafe { !(*skb.0).__bindgen_anon_2.sk.is_null() }
}

/// One family: a function of its own, as in the pods' programs.
#[inline(never)]
fn family<F: Scratch, const OUT: bool>(skb: *mut __sk_buff) -> i32
where
    Kernel: Guards<F>,
{
    let skb = Skb(skb);
    skb.pull(if F::NUMBER == 4 { 34 } else { 54 });
    // Without scratch space nobody can judge: the node is left alone.
    // SAFETY: one program at a time runs on a CPU in this context; no reference outlives the call.
    let Some(work) = F::work().map(|w| unsafe { &mut *w }) else { return NEXT };
    let own = OUT && is_own(skb);
    let v = guard::<F, Kernel, Skb, OUT>(&Kernel, skb, own, work);
    if TESTING.load() != 0 {
        for (place, word) in [v.kind as u32, v.argument, v.node, v.identity].into_iter().enumerate() {
            let _ = CONTROL.set(CONTROL_VERDICT + place as u32, word, 0);
        }
    }
    if v.is_drop() { SHOT } else { NEXT }
}

#[inline(always)]
fn run<const OUT: bool>(ctx: TcContext) -> i32 {
    let skb: *mut __sk_buff = ctx.as_ptr().cast();
    // SAFETY: the context's protocol field is readable.
    match u16::from_be(unsafe { (*skb).protocol } as u16) {
        ETHERTYPE_IPV4 => family::<V4, OUT>(skb),
        ETHERTYPE_IPV6 => family::<V6, OUT>(skb),
        _ => NEXT,
    }
}

/// What comes to the node.
#[classifier]
pub fn guard_in(ctx: TcContext) -> i32 {
    run::<false>(ctx)
}

/// What the node sends.
#[classifier]
pub fn guard_out(ctx: TcContext) -> i32 {
    run::<true>(ctx)
}
