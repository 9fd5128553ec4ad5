//! Fragments: the first one tells the ports, the later ones are found by the datagram's id.
//!
//! A later fragment that comes before its first one is dropped ([`DropReason::FragmentNotFound`]): it cannot be judged.
//! Senders emit fragments in order, and links that reorder are rare; the datagram is then lost as a whole.

use axoneme_abi::{DropReason, service::Ports};

use crate::{Family, Flow, FlowKind, Maps};

/// Remembers a first fragment's ports, or fills in a later one's.
#[inline(always)]
pub(crate) fn follow<F: Family, E: Maps<F>>(env: &E, flow: &mut Flow<F>) -> Result<(), DropReason> {
    match flow.kind {
        FlowKind::FirstFragment => {
            let ports = Ports {
                source: flow.source_port,
                destination: flow.destination_port,
                policy: flow.policy_port,
                protocol: flow.protocol as u16,
            };
            env.put_fragment(&F::fragment_key(flow), &ports);
        }
        FlowKind::LaterFragment => {
            let Some(ports) = env.fragment(&F::fragment_key(flow)) else {
                return Err(DropReason::FragmentNotFound);
            };
            flow.source_port = ports.source;
            flow.destination_port = ports.destination;
            flow.policy_port = ports.policy;
            flow.protocol = ports.protocol as u8;
        }
        _ => {}
    }
    Ok(())
}
