//! Fragments: the first one tells the ports, the later ones are found by the datagram's id.
//!
//! A later fragment that comes before its first one cannot be judged yet, and a program cannot keep a packet. It goes
//! into a queue (see `wait` in the pipeline) and is looked at again when it comes out, until its first one was seen or
//! it has waited long enough ([`axoneme_abi::DropReason::FragmentNotFound`]). So every fragment that reaches a pod was
//! judged by the ports that its datagram has, in whatever order they came. Nothing is put together here: the packets
//! go on as they were sent, and what overlaps or is missing is the receiver's to refuse.

use axoneme_abi::{
    constants::{ROOM_BYTES, ROOM_SILENT},
    service::Ports,
    tables::Waiting,
};

use crate::{Family, Flow, FlowKind, Maps, Timeout};

/// Whether a packet still goes in where so much waits already; and whether what is counted as waiting cannot be there,
/// as nothing has come out for too long.
#[inline(always)]
pub const fn fits(waiting: &Waiting, length: u32, now: u32) -> (bool, bool) {
    let stale = waiting.bytes != 0 && now.wrapping_sub(waiting.left) >= ROOM_SILENT;
    (stale || waiting.bytes + length as i64 <= ROOM_BYTES as i64, stale)
}

/// Remembers a first fragment's ports, or fills in a later one's. False: its first one was not seen.
#[inline(always)]
pub(crate) fn follow<F: Family, E: Maps<F>>(env: &E, flow: &mut Flow<F>) -> bool {
    match flow.kind {
        FlowKind::FirstFragment => {
            let ports = Ports {
                source: flow.source_port,
                destination: flow.destination_port,
                policy: flow.policy_port,
                protocol: flow.protocol as u16,
                expires: env.now() + env.timeout(Timeout::Fragment),
            };
            env.put_fragment(&F::fragment_key(flow), &ports);
        }
        FlowKind::LaterFragment => {
            let Some(ports) = env.fragment(&F::fragment_key(flow)) else { return false };
            if ports.expires <= env.now() {
                return false;
            }
            flow.source_port = ports.source;
            flow.destination_port = ports.destination;
            flow.policy_port = ports.policy;
            flow.protocol = ports.protocol as u8;
        }
        _ => {}
    }
    true
}
