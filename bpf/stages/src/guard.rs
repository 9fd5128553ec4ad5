//! The host firewall: the node's own traffic, on its devices.
//!
//! ```text
//!   packet ─▶ is an end this node? ─▶ connection known? ─▶ safe set ─▶ the node's table ─▶ record
//!                  │ no: passes           │ yes: passes, judged again where something changed
//! ```
//!
//! It stands beside the pods' pipeline, not in it: it has connections of its own, judges one end only (the node), and
//! drops or passes, never forwards or rewrites. Where it is not sure it passes, as a pod's stages would not: without a
//! guard, without a table, without a place for the connection.
//!
//! **Answers** pass by their connection. A TCP packet that opens nothing and belongs to no known connection (it is older
//! than the guard, or its entry was pushed out) passes where it could be either end's: as the first packet of a connection,
//! or as the answer of one. Nothing can be opened that way, and what is there is not cut by the guard's coming.
//!
//! **Fragments**: the first one is judged, later ones pass. The host's stack hands up nothing without the first, and
//! refuses what overlaps (Linux drops the whole datagram, RFC 5722), so they open nothing.
//!
//! **Passing on**: with masquerading, pods' packets leave under the node's address. They have no socket of the node's;
//! neither have answers of the kernel itself. Such packets are not judged, and their answers come in.
//!
//! The parts hand on to each other in a [`Work`], for the verifier's sake, as those of the pods' pipeline do. Of its
//! fields `source` is the node and `destination` the other end here, whichever way the packet goes.

use axoneme_abi::{
    Action, Conntrack, Direction, DropEvent, DropReason, FlowKind as EventKind,
    conntrack::{FLAG_AUDITED, FLAG_CLOSED, FLAG_ORIGIN_B, FLAG_REPLIED, NO_SLOT},
    constants::feature,
    guard::{Guard, SAFE_API_SERVER, SAFE_STREAMS, safe},
    tables::IDENTITY_HOST,
};

use crate::{
    Family, FlowKind, Maps, Packet, Verdict,
    conntrack::{self, track},
    family::{ACK, ETHERNET, SYN, TCP, UDP},
    hook,
    policy::{resolve, table},
    work::{Step, Work},
};

/// What the host firewall has of its own.
pub trait Guards<F: Family>: Maps<F> {
    fn guard(&self) -> Guard;
    /// Whether the address is one of the API server's.
    fn is_apiserver(&self, address: F::Address) -> bool;
    /// As [`Maps::with_conntrack`], of the node's own connections.
    fn with_guarded<R>(&self, key: &F::Key, then: impl FnOnce(&mut Conntrack) -> R) -> Option<R>;
    /// As [`Maps::put_conntrack`].
    #[must_use]
    fn put_guarded(&self, key: &F::Key, value: &Conntrack) -> bool;
}

/// What an entry says of a packet. One register wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Known {
    /// There is none that counts.
    No = 0,
    Holds = 1,
    /// The packet is of a connection that has to be judged again.
    Again = 2,
}

/// What the node says to a packet that comes in (`OUT` false) or goes out by one of its devices. `own`: of what goes out,
/// whether a socket of the node sent it.
#[inline(always)]
pub fn guard<F: Family, E: Guards<F>, P: Packet, const OUT: bool>(
    env: &E,
    packet: P,
    own: bool,
    w: &mut Work<F>,
) -> Verdict {
    if env.guard().slot == 0 || !env.feature(F::FEATURE) {
        return Verdict::PASS;
    }
    w.verdict = Verdict::PASS;
    if ours::<F, E, P, OUT>(env, packet, own, w) == Step::Next {
        decide::<F, E, P, OUT>(env, packet, own, w);
    }
    if !w.verdict.is_drop() {
        return Verdict::PASS;
    }
    report::<F, E, P, OUT>(env, packet, w);
    w.verdict
}

/// Where its events say that a packet was met.
#[inline(always)]
const fn met<const OUT: bool>() -> u8 {
    if OUT { hook::FROM_HOST } else { hook::FROM_NETDEV }
}

#[inline(always)]
const fn side<const OUT: bool>() -> Direction {
    if OUT { Direction::Egress } else { Direction::Ingress }
}

/// Source and destination, whatever is behind them.
#[inline(always)]
fn addresses<F: Family, P: Packet>(packet: &P) -> Option<(F::Address, F::Address)> {
    if F::NUMBER == 4 {
        let [s, d]: [u32; 2] = packet.get(ETHERNET + 12)?;
        Some((F::from_words([s, 0, 0, 0]), F::from_words([d, 0, 0, 0])))
    } else {
        let s: [u32; 4] = packet.get(ETHERNET + 8)?;
        let d: [u32; 4] = packet.get(ETHERNET + 24)?;
        Some((F::from_words(s), F::from_words(d)))
    }
}

/// Whether the packet is the node's own, and what its headers say. End: it passes without a judgement, or nobody can read
/// it.
#[inline(never)]
fn ours<F: Family, E: Guards<F>, P: Packet, const OUT: bool>(env: &E, packet: P, own: bool, w: &mut Work<F>) -> Step {
    let guard = env.guard();
    // Before anything is looked up: who changes it lets these grow afterwards.
    w.epoch = env.epoch();
    w.revision = w.epoch.wrapping_add(env.revision(guard.slot as u16));
    let Some((source, destination)) = addresses::<F, P>(&packet) else { return Step::End };
    let (near, far) = if OUT { (source, destination) } else { (destination, source) };
    w.source = resolve::<F, E>(env, near, w.epoch);
    if !w.source.is_node() || w.source.identity != IDENTITY_HOST {
        return Step::End;
    }
    w.source.slot = guard.slot as u16;
    w.destination = resolve::<F, E>(env, far, w.epoch);
    let flow = match F::parse(&packet) {
        Ok(flow) => flow,
        Err(_) if OUT && !own => return Step::End,
        Err(reason) => {
            w.flow.source = source;
            w.flow.destination = destination;
            w.flow.source_port = 0;
            w.flow.destination_port = 0;
            w.flow.protocol = 0;
            w.flow.tcp_flags = 0;
            return w.end(Verdict::drop(reason, side::<OUT>()));
        }
    };
    let (key, from_b) = F::key(source, destination, flow.source_port, flow.destination_port, flow.protocol);
    w.flow = flow;
    w.key = key;
    w.from_b = from_b;
    // The overlay's packets have a source port for each flow inside: they would push everything else out of the map.
    let streams = guard.unprotected & SAFE_STREAMS == 0
        && flow.protocol == UDP
        && flow.policy_port as u32 == guard.overlay_port
        && flow.kind == FlowKind::Plain;
    if streams || flow.kind == FlowKind::LaterFragment { Step::End } else { Step::Next }
}

#[inline(always)]
fn opens<F: Family>(w: &Work<F>) -> bool {
    w.flow.protocol == TCP && w.flow.tcp_flags & (SYN | ACK) == SYN
}

#[inline(always)]
fn decide<F: Family, E: Guards<F>, P: Packet, const OUT: bool>(env: &E, packet: P, own: bool, w: &mut Work<F>) {
    let passed_on = OUT && !own;
    match known::<F, E, P, OUT>(env, packet, passed_on, w) {
        Known::Holds => {}
        Known::Again => {
            let direction = if w.forward == OUT { Direction::Egress } else { Direction::Ingress };
            judge::<F, E, OUT>(env, direction as u8, w);
            if !w.verdict.is_drop() {
                renew(env, packet, w);
            }
        }
        Known::No if passed_on => {
            w.forward = true;
            w.source.slot = NO_SLOT;
            record::<F, E, P, OUT>(env, packet, w);
        }
        Known::No => fresh::<F, E, P, OUT>(env, packet, w),
    }
}

/// What the connection's entry says; `forward` of the work: whether the packet goes the way that the first one went.
#[inline(never)]
fn known<F: Family, E: Guards<F>, P: Packet, const OUT: bool>(
    env: &E,
    packet: P,
    passed_on: bool,
    w: &mut Work<F>,
) -> Known {
    let (ifindex, length) = (packet.ifindex(), packet.length());
    let key = w.key;
    let known = env.with_guarded(&key, |ct| {
        let forward = ct.origin_is_b() == w.from_b;
        w.forward = forward;
        let anew = opens(w) && (ct.flags & FLAG_CLOSED != 0 || !forward);
        if ct.expires <= env.now() || anew {
            return Known::No;
        }
        let [slot, _] = ct.slots;
        let judged = slot != NO_SLOT;
        if judged && !passed_on && (ct.revision != w.revision || slot != w.source.slot) {
            return Known::Again;
        }
        let closed = track(env, ct, &w.flow, w.from_b, length);
        if closed && judged {
            let met = (ifindex, met::<OUT>());
            env.flow_event(&conntrack::event(ct, &w.flow, w.from_b, EventKind::Closed, 0, met));
        }
        Known::Holds
    });
    known.unwrap_or(Known::No)
}

/// A connection that was judged by what was otherwise, and is allowed again. Of one that is denied the entry stays as it
/// is, and all of its packets come here: without it they would be looked at as if nothing was known of them.
#[inline(never)]
fn renew<F: Family, E: Guards<F>, P: Packet>(env: &E, packet: P, w: &mut Work<F>) {
    let length = packet.length();
    let key = w.key;
    env.with_guarded(&key, |ct| {
        track(env, ct, &w.flow, w.from_b, length);
        ct.revision = w.revision;
        ct.slots = [w.source.slot, NO_SLOT];
    });
}

/// What nothing is known of.
#[inline(always)]
fn fresh<F: Family, E: Guards<F>, P: Packet, const OUT: bool>(env: &E, packet: P, w: &mut Work<F>) {
    if w.flow.kind == FlowKind::IcmpError && is_related(env, packet, w) == Step::End {
        return;
    }
    w.forward = true;
    judge::<F, E, OUT>(env, side::<OUT>() as u8, w);
    if matches!(w.flow.kind, FlowKind::IcmpError | FlowKind::Neighbour) {
        return;
    }
    if w.verdict.is_drop() && w.flow.protocol == TCP && !opens(w) {
        let denied = w.verdict;
        let back = if OUT { Direction::Ingress } else { Direction::Egress };
        w.forward = false;
        judge::<F, E, OUT>(env, back as u8, w);
        if w.verdict.is_drop() {
            w.verdict = denied;
        }
    }
    if !w.verdict.is_drop() {
        record::<F, E, P, OUT>(env, packet, w);
    }
}

/// End: an ICMP error is about a connection that the node has. Its source may be anyone on the way.
#[inline(never)]
fn is_related<F: Family, E: Guards<F>, P: Packet>(env: &E, packet: P, w: &Work<F>) -> Step {
    let Some(inner) = F::embedded(&packet, w.flow.transport as usize) else { return Step::Next };
    if inner.source != w.flow.destination {
        return Step::Next;
    }
    let (key, _) = F::key(inner.source, inner.destination, inner.source_port, inner.destination_port, inner.protocol);
    let now = env.now();
    let alive = env.with_guarded(&key, |ct| ct.expires > now).unwrap_or(false);
    if alive { Step::End } else { Step::Next }
}

/// The node's policy about a connection that began in this direction (its number). The verdict is in the work.
#[inline(never)]
fn judge<F: Family, E: Guards<F>, const OUT: bool>(env: &E, direction: u8, w: &mut Work<F>) {
    let guard = env.guard();
    let outwards = direction == Direction::Egress as u8;
    let protocol = w.flow.protocol;
    let port = if w.forward { w.flow.policy_port } else { u16::from_be(w.flow.source_port) };
    let mut member = safe(direction, protocol, port);
    if protocol == UDP && port as u32 == guard.overlay_port {
        member |= SAFE_STREAMS;
    }
    let other = if OUT { w.flow.destination } else { w.flow.source };
    if protocol == TCP && outwards && env.is_apiserver(other) {
        member |= SAFE_API_SERVER;
    }
    if member & !guard.unprotected != 0 {
        w.verdict = Verdict::PASS;
        return;
    }
    let direction = if outwards { Direction::Egress } else { Direction::Ingress };
    let v = table::<F, E>(env, w.source.slot, &w.destination, direction, protocol, port);
    // A table that is not there, or not whole, must not close the node.
    w.verdict = if v.drop_numbers().0 == DropReason::NoPolicy as u8 { Verdict::PASS } else { v };
}

/// The entry of a connection; where there is no place for it, its packets are judged one by one.
#[inline(never)]
fn record<F: Family, E: Guards<F>, P: Packet, const OUT: bool>(env: &E, packet: P, w: &mut Work<F>) {
    let (ifindex, length) = (packet.ifindex(), packet.length() as u64);
    let (judged, from_b, slot) = (w.verdict, w.from_b, w.source.slot);
    let origin_b = from_b == w.forward;
    let answers = !w.forward;
    let mut flags = if origin_b { FLAG_ORIGIN_B } else { 0 };
    flags |= if answers { FLAG_REPLIED } else { 0 };
    flags |= if judged.argument != 0 { FLAG_AUDITED } else { 0 };
    let (here, there) = (w.source.identity, w.destination.identity);
    // The packet's sender is the b end where `from_b` says so.
    let identity = if OUT == from_b { [there, here] } else { [here, there] };
    let now = env.now();
    w.fresh = Conntrack {
        bytes: if from_b { [0, length] } else { [length, 0] },
        packets: if from_b { [0, 1] } else { [1, 0] },
        ifindex: [0, 0],
        expires: now + env.timeout(conntrack::lifetime(w.flow.protocol, flags)),
        created: now,
        revision: w.revision,
        slots: [slot, NO_SLOT],
        identity,
        flags,
        node: 0,
        reserved: 0,
    };
    if !env.put_guarded(&w.key, &w.fresh) || slot == NO_SLOT {
        return;
    }
    let met = (ifindex, met::<OUT>());
    let event = conntrack::event(&w.fresh, &w.flow, from_b, EventKind::New, judged.node, met);
    let began_here = OUT == w.forward;
    let told = if began_here { Verdict { node: 0, identity: judged.node, ..judged } } else { judged };
    let mut event = if judged.argument != 0 { conntrack::audited(event, told) } else { event };
    event.detail = if OUT && env.feature(feature::FLOWS) { packet.socket() } else { [0; 2] };
    event.towards = if OUT { Action::NextHop } else { Action::Stack } as u16;
    env.flow_event(&event);
}

/// Counts and tells a drop.
#[inline(never)]
fn report<F: Family, E: Guards<F>, P: Packet, const OUT: bool>(env: &E, packet: P, w: &Work<F>) {
    let (reason, direction) = w.verdict.drop_numbers();
    let length = packet.length();
    env.count(reason, direction, length);
    let (here, there) = (w.source.identity, w.destination.identity);
    let (source_identity, destination_identity) = if OUT { (here, there) } else { (there, here) };
    env.drop_event(&DropEvent {
        time: 0,
        source: F::words(w.flow.source),
        destination: F::words(w.flow.destination),
        source_identity,
        destination_identity,
        rule: w.verdict.node,
        ifindex: packet.ifindex(),
        length,
        source_port: w.flow.source_port,
        destination_port: w.flow.destination_port,
        reason,
        direction,
        family: F::NUMBER,
        protocol: w.flow.protocol,
        tcp_flags: w.flow.tcp_flags,
        hook: met::<OUT>(),
        reserved: 0,
        sender: if OUT { packet.socket() } else { [0; 2] },
    });
}
