//! Services met packet by packet: what the socket hooks did not translate (packets of raw sockets, of programs that
//! bound before the hooks were there, SCTP).
//!
//! The client's side translates both ways: the frontend becomes a backend in its packets, the backend becomes the
//! frontend in the replies. Backend nodes see plain connections.

use axoneme_abi::{
    Direction, DropReason,
    conntrack::{FLAG_LOOPBACK, FLAG_SERVICE},
    service::{BackendKey, Service},
};

use crate::{
    Family, Flow, FlowKind, Maps, Packet, Timeout, Verdict, crc,
    family::{ACK, Choice, ETHERNET, Reverse, SCTP, SYN, Side, TCP, UDP, checksum},
    work::Work,
};

/// A packet to a frontend, sent on to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation<F: Family> {
    /// The frontend that the packet named.
    pub(crate) frontend: F::Address,
    pub(crate) frontend_port: u16,
    pub(crate) client: F::Address,
    /// Flags that its connection has: 0 if nothing was translated.
    pub(crate) flags: u32,
}

/// A backend of the set, chosen by `random`. Looks again once: the set may have been replaced in between.
#[inline(always)]
pub(crate) fn choose<F: Family, E: Maps<F>>(
    env: &E,
    key: &F::ServiceKey,
    service: Service,
    random: u32,
) -> Option<Choice<F>> {
    if service.count == 0 {
        return None;
    }
    let place = |s: Service| BackendKey { set: s.set, index: random % s.count };
    if let Some(b) = env.backend(&place(service)) {
        return Some(F::choice(&b));
    }
    let again = env.service(key)?;
    if again.count == 0 {
        return None;
    }
    env.backend(&place(again)).map(|b| F::choice(&b))
}

/// The client's backend of a Service with affinity, else a new choice, which is then kept.
#[inline(always)]
pub(crate) fn choose_with_affinity<F: Family, E: Maps<F>>(
    env: &E,
    affinity: &F::AffinityKey,
    key: &F::ServiceKey,
    service: Service,
    random: u32,
) -> Option<Choice<F>> {
    if service.affinity == 0 {
        return choose(env, key, service, random);
    }
    let now = env.now();
    let kept = env.affinity(affinity).map(|b| F::choice(&b)).filter(|c| c.expires > now);
    let mut choice = match kept {
        Some(c) => c,
        None => choose(env, key, service, random)?,
    };
    choice.expires = now + service.affinity;
    env.put_affinity(affinity, &F::backend(choice));
    Some(choice)
}

/// Turns a flow to a frontend into one to a backend. The packet itself is not touched yet.
///
/// Errors: the Service has no backend.
#[inline(always)]
pub(crate) fn translate<F: Family, E: Maps<F>>(env: &E, flow: &mut Flow<F>) -> Result<Translation<F>, Verdict> {
    let mut done =
        Translation { frontend: flow.destination, frontend_port: flow.destination_port, client: flow.source, flags: 0 };
    if !matches!(flow.protocol, TCP | UDP | SCTP) {
        return Ok(done);
    }
    let service_key = F::service_key(flow.destination, flow.destination_port, flow.protocol);
    let Some(service) = env.service(&service_key) else { return Ok(done) };
    let (key, _) = F::key(flow.source, flow.destination, flow.source_port, flow.destination_port, flow.protocol);
    let now = env.now();
    let known = env.translation(&key).map(|b| F::choice(&b)).filter(|c| c.expires > now);
    // A SYN opens a new connection: a port that is used again gets a new choice, unless the old one is fresh (a SYN that
    // is sent again).
    let opens = flow.protocol == TCP && flow.kind != FlowKind::LaterFragment && flow.tcp_flags & (SYN | ACK) == SYN;
    let opening = env.timeout(Timeout::Opening);
    let mut choice = match known {
        Some(c) if !opens || c.expires <= now + opening => c,
        _ => {
            let affinity = F::affinity_key(flow.source, service_key);
            let Some(c) = choose_with_affinity::<F, E>(env, &affinity, &service_key, service, env.random()) else {
                return Err(Verdict::drop(DropReason::NoBackend, Direction::Egress));
            };
            c
        }
    };
    // How far SCTP's checksum reaches behind the ports no fragment tells, and the ports are what it covers.
    if flow.protocol == SCTP && choice.port != flow.destination_port && flow.kind != FlowKind::Plain {
        return Err(Verdict::drop(DropReason::NatUnsupported, Direction::Egress));
    }
    let which = match flow.protocol {
        TCP if opens => Timeout::Opening,
        TCP => Timeout::Established,
        _ => Timeout::DatagramReplied,
    };
    choice.expires = now + env.timeout(which);
    if !env.put_translation(&key, &F::backend(choice)) {
        return Err(Verdict::drop(DropReason::ConntrackInsert, Direction::Egress));
    }
    done.flags = FLAG_SERVICE;
    flow.destination = choice.address;
    flow.destination_port = choice.port;
    flow.policy_port = u16::from_be(choice.port);
    if flow.source == choice.address {
        // To itself: a packet from its own address would not be taken by the pod.
        flow.source = F::LOOPBACK;
        done.flags = FLAG_SERVICE | FLAG_LOOPBACK;
    }
    Ok(done)
}

/// Keeps what replies are turned back into.
#[inline(always)]
pub(crate) fn remember<F: Family, E: Maps<F>>(env: &E, w: &Work<F>) -> bool {
    env.put_reverse(&w.key, Reverse { address: w.done.frontend, port: w.done.frontend_port, client: w.done.client })
}

/// Writes a translated flow into the packet.
#[inline(never)]
pub(crate) fn apply<F: Family, P: Packet>(packet: P, w: &Work<F>) -> bool {
    let (flow, done) = (w.flow, w.done);
    if !port(&packet, &flow, Side::Destination, done.frontend_port, flow.destination_port) {
        return false;
    }
    if !address(&packet, &flow, Side::Destination, done.frontend, flow.destination) {
        return false;
    }
    done.flags & FLAG_LOOPBACK == 0 || address(&packet, &flow, Side::Source, done.client, flow.source)
}

/// Turns the backend in a reply back into the frontend.
#[inline(never)]
pub(crate) fn turn_back<F: Family, E: Maps<F>, P: Packet>(env: &E, packet: P, w: &mut Work<F>) {
    let Some(reverse) = env.reverse(&w.key) else {
        w.verdict = Verdict::drop(DropReason::NoNatMapping, Direction::Ingress);
        return;
    };
    let flow = w.flow;
    w.done.frontend_port = reverse.port;
    if !revert(&packet, &flow, &reverse, w.flags) {
        w.verdict = Verdict::drop(DropReason::WriteFailed, Direction::Ingress);
    }
}

#[inline(always)]
fn revert<F: Family, P: Packet>(packet: &P, flow: &Flow<F>, reverse: &Reverse<F>, flags: u32) -> bool {
    if !port(packet, flow, Side::Source, flow.source_port, reverse.port) {
        return false;
    }
    if !address(packet, flow, Side::Source, flow.source, reverse.address) {
        return false;
    }
    flags & FLAG_LOOPBACK == 0 || address(packet, flow, Side::Destination, flow.destination, reverse.client)
}

#[inline(always)]
fn address<F: Family, P: Packet>(p: &P, flow: &Flow<F>, side: Side, from: F::Address, to: F::Address) -> bool {
    // Later fragments have no transport header: the checksum is in the first one.
    let sum =
        if flow.kind == FlowKind::LaterFragment { None } else { checksum::<F>(flow.protocol, flow.transport as usize) };
    F::rewrite(p, ETHERNET, side, from, to, sum)
}

#[inline(always)]
fn port<F: Family, P: Packet>(p: &P, flow: &Flow<F>, side: Side, from: u16, to: u16) -> bool {
    // SCTP's port is another stage's: see `associate`.
    if from == to || flow.kind == FlowKind::LaterFragment || flow.protocol == SCTP {
        return true;
    }
    let at = flow.transport as usize + if matches!(side, Side::Source) { 0 } else { 2 };
    let Some(c) = checksum::<F>(flow.protocol, flow.transport as usize) else { return false };
    p.mend_checksum(c.offset, from as u32, to as u32, 2, false, c.optional) && p.store(at, to)
}

/// Writes the other port of an association's packet, and mends the checksum, which covers it. A stage of its own, after
/// the addresses: what it calls would not fit below theirs into the 512 bytes of a program's stack.
///
/// A checksum of zero is left: the sender's kernel fills it in where the packet leaves for real (`CHECKSUM_PARTIAL`), from
/// the bytes as they are then. That one packet in 2³² has this as its real checksum is the price; it is sent again.
#[inline(never)]
pub(crate) fn associate<F: Family, P: Packet>(packet: P, w: &Work<F>, side: Side, to: u16) -> bool {
    let transport = w.flow.transport as usize;
    let at = transport + if matches!(side, Side::Source) { 0 } else { 2 };
    let Some([from, _, _, _, low, high]) = packet.load::<[u16; 6]>(transport).map(|mut h| {
        if matches!(side, Side::Destination) {
            h.swap(0, 1);
        }
        h
    }) else {
        return false;
    };
    if from == to {
        return true;
    }
    let old = u16::from_le(low) as u32 | (u16::from_le(high) as u32) << 16;
    if old != 0 {
        let Some(rest) = F::end(&packet).and_then(|end| end.checked_sub(at as u32)) else { return false };
        let new = old ^ crc::difference(u16::from_le(from ^ to) as u32, rest);
        if !packet.store(transport + 8, new.to_le()) {
            return false;
        }
    }
    packet.store(at, to)
}
