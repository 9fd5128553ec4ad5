//! ICMP errors: they belong to the connection of the packet that they carry.

use axoneme_abi::{Action, Conntrack, Direction, DropReason, conntrack::FLAG_SERVICE};

use crate::{
    Family, Flow, Maps, Packet, Verdict,
    family::{Checksum, ETHERNET, Reverse, Side},
    forward::verdict,
    hook,
    work::{Step, Work},
};

/// Verdict of an ICMP error, if the connection that it is about is known. The error goes to the sender of the packet
/// that it carries; its own source may be anyone on the way.
#[inline(never)]
pub(crate) fn related<F: Family, E: Maps<F>, P: Packet, const HOOK: u8>(env: &E, packet: P, w: &mut Work<F>) -> Step {
    let flow = w.flow;
    match find::<F, E, P, HOOK>(env, &packet, &flow) {
        Some(v) => w.end(v),
        None => Step::Next,
    }
}

#[inline(always)]
fn find<F: Family, E: Maps<F>, P: Packet, const HOOK: u8>(env: &E, packet: &P, flow: &Flow<F>) -> Option<Verdict> {
    let inner = F::embedded(packet, flow.transport as usize)?;
    if inner.source != flow.destination {
        return None;
    }
    let (key, inner_from_b) =
        F::key(inner.source, inner.destination, inner.source_port, inner.destination_port, inner.protocol);
    let now = env.now();
    let (v, flags, to_origin, deliverable) = env.with_conntrack(&key, |ct| {
        let to_origin = ct.origin_is_b() == inner_from_b;
        let [a, b] = ct.ifindex;
        let link = if inner_from_b { b } else { a };
        let local = Conntrack::action_bits(ct.flags, inner_from_b) == Action::Local as u32;
        let here = ct.expires > now && (HOOK != hook::TO_CONTAINER || (local && link == packet.ifindex()));
        (verdict::<E, HOOK>(env, ct, !inner_from_b), ct.flags, to_origin, here)
    })?;
    if !deliverable {
        return None;
    }
    let own = env.endpoint(flow.source);
    let genuine = match HOOK {
        hook::FROM_CONTAINER => own.is_some_and(|e| e.ifindex == packet.ifindex()),
        hook::TO_CONTAINER => true,
        _ => own.is_none(),
    };
    if !genuine {
        let direction = if HOOK == hook::FROM_CONTAINER { Direction::Egress } else { Direction::Ingress };
        return Some(Verdict::drop(DropReason::InvalidSourceIp, direction));
    }
    if flags & FLAG_SERVICE != 0 && to_origin {
        let Some(reverse) = env.reverse(&key) else {
            return Some(Verdict::drop(DropReason::NoNatMapping, Direction::Ingress));
        };
        if !revert(packet, flow, &inner, &reverse, flags) {
            return Some(Verdict::drop(DropReason::WriteFailed, Direction::Ingress));
        }
    }
    Some(v)
}

/// Turns the backend back into the frontend, in the packet carried and in the error's own source.
#[inline(always)]
fn revert<F: Family, P: Packet>(packet: &P, flow: &Flow<F>, inner: &Flow<F>, reverse: &Reverse<F>, flags: u32) -> bool {
    let offset = flow.transport as usize + 2;
    let loopback = flags & axoneme_abi::conntrack::FLAG_LOOPBACK != 0;
    let outer = (F::NUMBER == 6).then_some(Checksum { offset, optional: false, pseudo: true });
    // In IPv4 the inner header's own checksum balances the address, so that the error's checksum stays right.
    let carried = (F::NUMBER == 6).then_some(Checksum { offset, optional: false, pseudo: false });
    let at = F::embedded_offset(flow.transport as usize);
    if inner.destination_port != reverse.port {
        let place = inner.transport as usize + 2;
        if !packet.mend_checksum(offset, inner.destination_port as u32, reverse.port as u32, 2, false, false)
            || !packet.store(place, reverse.port)
        {
            return false;
        }
    }
    if !F::rewrite(packet, at, Side::Destination, inner.destination, reverse.address, carried) {
        return false;
    }
    if flow.source == inner.destination
        && !F::rewrite(packet, ETHERNET, Side::Source, flow.source, reverse.address, outer)
    {
        return false;
    }
    !loopback
        || (F::rewrite(packet, at, Side::Source, inner.source, reverse.client, carried)
            && F::rewrite(packet, ETHERNET, Side::Destination, flow.destination, reverse.client, outer))
}
