//! Packets of the host's stack into the tunnel device.

use axoneme_abi::{
    Direction, DropReason,
    constants::{HOST_MAC, MARK_ENCAPSULATED, OVERLAY_SOURCE_MAC},
    tables::{IDENTITY_HOST, IDENTITY_REMOTE_NODE},
};

use crate::{Family, Maps, Packet, Verdict, policy::resolve};

/// A packet that is about to enter the tunnel device. One that a pod's program sent there carries its tunnel header
/// already; one of the host's stack gets it here, with the identity of its source as other nodes see it.
#[inline(always)]
pub fn to_overlay<F: Family, E: Maps<F>, P: Packet>(env: &E, packet: &P) -> Verdict {
    if packet.mark() == MARK_ENCAPSULATED {
        packet.set_mark(0);
        return Verdict::PASS;
    }
    if !env.feature(F::FEATURE) {
        return Verdict::drop(DropReason::UnsupportedL3, Direction::Egress);
    }
    let flow = match F::parse(packet) {
        Ok(f) => f,
        Err(reason) => return Verdict::drop(reason, Direction::Egress),
    };
    let epoch = env.epoch();
    let destination = resolve::<F, E>(env, flow.destination, epoch);
    if destination.node == 0 {
        return Verdict::drop(DropReason::NoTunnelEndpoint, Direction::Egress);
    }
    let source = resolve::<F, E>(env, flow.source, epoch);
    let identity = if source.identity == IDENTITY_HOST { IDENTITY_REMOTE_NODE } else { source.identity };
    let [d0, d1, d2, d3, d4, d5] = HOST_MAC;
    let [s0, s1, s2, s3, s4, s5] = OVERLAY_SOURCE_MAC;
    if !packet.store(0, [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5]) {
        return Verdict::drop(DropReason::WriteFailed, Direction::Egress);
    }
    Verdict::tunnel(env.overlay(), destination.node as u32, identity)
}
