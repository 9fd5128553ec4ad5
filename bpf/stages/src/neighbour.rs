//! ARP, neighbour discovery, and everything that is not IP.
//!
//! A pod's gateway is a permanent neighbour entry, so pods need neither ARP nor discovery to work. Both are let through
//! to the host where the sender speaks for its own addresses only: a pod must not poison anyone's table.

use axoneme_abi::{Direction, DropReason};

use crate::{Family, Flow, Maps, Packet, V4, Verdict, family::ETHERNET};

const ARP: u16 = 0x0806;

/// A frame from a pod that is neither IPv4 nor IPv6. `ether_type` in host order.
#[inline(always)]
pub fn other_protocol<E: Maps<V4>, P: Packet>(env: &E, packet: &P, ether_type: u16) -> Verdict {
    let reason = match ether_type {
        ARP => {
            let sender: Option<u32> = packet.get::<[u16; 2]>(ETHERNET + 14).map(|[a, b]| {
                if cfg!(target_endian = "little") { a as u32 | (b as u32) << 16 } else { (a as u32) << 16 | b as u32 }
            });
            match sender.and_then(|s| env.endpoint(s)) {
                Some(e) if e.ifindex == packet.ifindex() => return Verdict::PASS,
                _ => DropReason::InvalidSourceIp,
            }
        }
        0x8100 | 0x88a8 => DropReason::UnsupportedL2,
        _ => DropReason::UnsupportedL3,
    };
    Verdict::drop(reason, Direction::Egress)
}

/// Neighbour discovery from a pod: solicitations and advertisements about its own addresses pass to the host; router
/// messages and redirects never do.
#[inline(always)]
pub(crate) fn discovery<F: Family, E: Maps<F>, P: Packet>(env: &E, packet: &P, flow: &Flow<F>) -> Verdict {
    let own = |a: F::Address| F::is_link_local(a) || env.endpoint(a).is_some_and(|e| e.ifindex == packet.ifindex());
    let kind = flow.policy_port;
    if !matches!(kind, 135 | 136) || F::NUMBER == V4::NUMBER {
        return Verdict::drop(DropReason::ForbiddenIcmp6, Direction::Egress);
    }
    if !own(flow.source) {
        return Verdict::drop(DropReason::InvalidSourceIp, Direction::Egress);
    }
    // Target of an advertisement: the address that the sender claims.
    if kind == 136 {
        let target: Option<[u32; 4]> = packet.load(flow.transport as usize + 8);
        if !target.is_some_and(|t| own(F::from_words(t))) {
            return Verdict::drop(DropReason::InvalidSourceIp, Direction::Egress);
        }
    }
    Verdict::PASS
}
