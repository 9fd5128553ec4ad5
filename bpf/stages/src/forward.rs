//! Where packets of a connection go.

use axoneme_abi::{Action, Conntrack, Direction, DropReason, constants::feature};

use crate::{End, Env, Verdict, hook};

/// How packets reach an end, and over which link.
#[inline(always)]
pub(crate) fn route<E: Env, const HOOK: u8>(env: &E, end: &End, is_source: bool) -> (Action, u32) {
    if end.is_local() {
        return (Action::Local, end.ifindex);
    }
    // What came by the tunnel goes back by it, even to a node's own address: the other node expects it there
    // (reverse-path filters).
    let by_tunnel = is_source && HOOK == hook::FROM_OVERLAY;
    if end.node == 0 || end.is_direct() || (end.is_node() && !by_tunnel) {
        return (Action::Stack, 0);
    }
    if env.feature(feature::NATIVE) { (Action::NextHop, env.uplink()) } else { (Action::Tunnel, env.overlay()) }
}

/// Verdict of a packet from one end of a connection to the other. `from_b`: it comes from the `b` end. The node's own links
/// are those of now: a connection may be older than the tunnel device.
#[inline(always)]
pub(crate) fn verdict<E: Env, const HOOK: u8>(env: &E, ct: &Conntrack, from_b: bool) -> Verdict {
    let [a, b] = ct.ifindex;
    let [identity_a, identity_b] = ct.identity;
    let (ifindex, identity) = if from_b { (a, identity_b) } else { (b, identity_a) };
    let node = ct.node as u32;
    match Action::from_bits(Conntrack::action_bits(ct.flags, !from_b)) {
        Action::Local if HOOK == hook::TO_CONTAINER => Verdict::PASS,
        Action::Local if Conntrack::is_queued(ct.flags, !from_b) => Verdict::queue(ifindex),
        Action::Local => Verdict::local(ifindex),
        Action::Stack => Verdict::PASS,
        // A packet on its way to a pod that is known to be elsewhere: the entry is stale and was judged anew already.
        _ if HOOK == hook::TO_CONTAINER => Verdict::drop(DropReason::NoLocalEndpoint, Direction::Ingress),
        Action::NextHop => Verdict::next_hop(env.uplink(), node),
        Action::Tunnel => Verdict::tunnel(env.overlay(), node, identity),
        Action::None => Verdict::drop(DropReason::InvalidPacket, Direction::Egress),
    }
}

/// Whether the packet may come from where it is met, as the entry knows its ends.
///
/// From a pod: only by the pod's own link. From outside: never in a local pod's name. To a pod: only the pod whose link
/// it is.
#[inline(always)]
pub(crate) fn belongs<const HOOK: u8>(ct: &Conntrack, from_b: bool, ifindex: u32) -> bool {
    let [a, b] = ct.ifindex;
    let (source, destination) = if from_b { (b, a) } else { (a, b) };
    let source_action = Conntrack::action_bits(ct.flags, from_b);
    match HOOK {
        // Checked when it went into the waiting room.
        hook::FROM_WAITING => true,
        hook::FROM_CONTAINER => source_action == Action::Local as u32 && source == ifindex,
        hook::TO_CONTAINER => {
            Conntrack::action_bits(ct.flags, !from_b) == Action::Local as u32 && destination == ifindex
        }
        _ => source_action != Action::Local as u32,
    }
}
