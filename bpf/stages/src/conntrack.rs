//! Connections: the cached verdict, its validity, TCP's states.

use core::sync::atomic::{Ordering, compiler_fence};

use axoneme_abi::{
    Conntrack, FlowEvent, FlowKind as EventKind,
    conntrack::{
        FLAG_CLOSED, FLAG_FIN_A, FLAG_FIN_B, FLAG_LOOPBACK, FLAG_ORIGIN_B, FLAG_REPLIED, FLAG_SERVICE, FLAGS_SLOW,
    },
};

use crate::{
    End, Env, Family, Flow, FlowKind, Timeout, Verdict,
    family::{ACK, FIN, RST, SYN, TCP, UDP},
    forward::{belongs, route, verdict},
};

/// Sum of what a cached verdict depends on.
#[inline(always)]
pub(crate) fn revision<E: Env>(env: &E, slots: [u16; 2]) -> u32 {
    let [a, b] = slots;
    env.epoch().wrapping_add(env.revision(a)).wrapping_add(env.revision(b))
}

#[inline(always)]
fn account(ct: &mut Conntrack, from_b: bool, length: u32) {
    let [packets_a, packets_b] = &mut ct.packets;
    let [bytes_a, bytes_b] = &mut ct.bytes;
    if from_b {
        *packets_b = packets_b.wrapping_add(1);
        *bytes_b = bytes_b.wrapping_add(length as u64);
    } else {
        *packets_a = packets_a.wrapping_add(1);
        *bytes_a = bytes_a.wrapping_add(length as u64);
    }
}

/// The short way: a connection whose verdict holds, nothing to translate. None: take the long way.
#[inline(always)]
pub(crate) fn established<F: Family, E: Env, const HOOK: u8>(
    env: &E,
    ct: &mut Conntrack,
    flow: &Flow<F>,
    from_b: bool,
    (ifindex, length): (u32, u32),
) -> Option<Verdict> {
    let now = env.now();
    let mut flags = ct.flags;
    if ct.revision != revision(env, ct.slots)
        || flags & FLAGS_SLOW != 0
        || ct.expires <= now
        || !belongs::<HOOK>(ct, from_b, ifindex)
    {
        return None;
    }
    if flow.tcp_flags & (FIN | RST) != 0 || flags & (FLAG_FIN_A | FLAG_FIN_B) != 0 {
        // A copy of its own: what is handed over by reference lives in memory, which the others need not.
        let copy = *flow;
        ending::<F, E, HOOK>(env, ct, &copy, from_b, (ifindex as u64) << 32 | length as u64);
        return Some(verdict::<E, HOOK>(env, ct, from_b));
    }
    account(ct, from_b, length);
    if flags & FLAG_REPLIED == 0 && (flags & FLAG_ORIGIN_B != 0) != from_b {
        flags |= FLAG_REPLIED;
        ct.flags = flags;
    }
    ct.expires = now + env.timeout(lifetime(flow.protocol, flags));
    Some(verdict::<E, HOOK>(env, ct, from_b))
}

/// A packet of a connection that ends with it or is about to. `seen`: interface and length.
#[inline(never)]
fn ending<F: Family, E: Env, const HOOK: u8>(env: &E, ct: &mut Conntrack, flow: &Flow<F>, from_b: bool, seen: u64) {
    if track(env, ct, flow, from_b, seen as u32) {
        env.flow_event(&event(ct, flow, from_b, EventKind::Closed, 0, ((seen >> 32) as u32, HOOK)));
    }
}

/// Whether the short way may look the packet up at all: not where it opens a connection, or contradicts itself.
#[inline(always)]
pub(crate) const fn goes_on(tcp_flags: u8) -> bool {
    tcp_flags & SYN == 0 || tcp_flags & (ACK | FIN | RST) == ACK
}

#[inline(always)]
pub(crate) fn lifetime(protocol: u8, flags: u32) -> Timeout {
    match (protocol, flags & FLAG_REPLIED != 0) {
        (TCP, true) => Timeout::Established,
        (TCP, false) => Timeout::Opening,
        (UDP, true) => Timeout::DatagramReplied,
        (UDP, false) => Timeout::Datagram,
        _ => Timeout::Other,
    }
}

/// What the entry means for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Belongs to the connection.
    Known,
    /// The entry is no longer (expired) or not for it (a SYN that opens anew).
    New,
    /// It is not met where its source or destination is.
    Elsewhere,
}

/// Whether the packet belongs to the entry.
#[inline(always)]
pub(crate) fn standing<F: Family, E: Env, const HOOK: u8>(
    env: &E,
    ct: &Conntrack,
    flow: &Flow<F>,
    from_b: bool,
    ifindex: u32,
) -> Standing {
    if ct.expires <= env.now() {
        return Standing::New;
    }
    let opens = flow.protocol == TCP && flow.kind != FlowKind::LaterFragment && flow.tcp_flags & (SYN | ACK) == SYN;
    // A SYN opens a new connection where the old one is over; from the answering end it is never an answer.
    if opens && (ct.flags & FLAG_CLOSED != 0 || ct.origin_is_b() != from_b) {
        return Standing::New;
    }
    if belongs::<HOOK>(ct, from_b, ifindex) { Standing::Known } else { Standing::Elsewhere }
}

/// Takes the packet into the entry's state. True: the connection closed with this packet.
#[inline(always)]
pub(crate) fn track<F: Family, E: Env>(env: &E, ct: &mut Conntrack, flow: &Flow<F>, from_b: bool, length: u32) -> bool {
    account(ct, from_b, length);
    let before = ct.flags;
    if ct.origin_is_b() != from_b {
        ct.flags |= FLAG_REPLIED;
    }
    let tcp_flags = if flow.kind == FlowKind::LaterFragment { 0 } else { flow.tcp_flags };
    if flow.protocol == TCP {
        if tcp_flags & FIN != 0 {
            ct.flags |= if from_b { FLAG_FIN_B } else { FLAG_FIN_A };
        }
        let both = FLAG_FIN_A | FLAG_FIN_B;
        if tcp_flags & RST != 0 || ct.flags & both == both {
            ct.flags |= FLAG_CLOSED;
        }
    }
    let which = if ct.flags & FLAG_CLOSED != 0 {
        Timeout::Closing
    } else if ct.flags & (FLAG_FIN_A | FLAG_FIN_B) != 0 {
        Timeout::HalfClosed
    } else {
        lifetime(flow.protocol, ct.flags)
    };
    ct.expires = env.now() + env.timeout(which);
    before & FLAG_CLOSED == 0 && ct.flags & FLAG_CLOSED != 0
}

/// The entry of a new connection from `source` to `destination`, its first packet accounted. `extra`: flags that it has
/// besides. `revision`: what the verdict was made of.
#[inline(always)]
pub(crate) fn create<F: Family, E: Env, const HOOK: u8>(
    env: &E,
    flow: &Flow<F>,
    source: &End,
    destination: &End,
    from_b: bool,
    (length, extra): (u32, u32),
    revision: u32,
) -> Conntrack {
    let (to_source, source_link) = route::<E, HOOK>(env, source, true);
    let (to_destination, destination_link) = route::<E, HOOK>(env, destination, false);
    let mut flags = extra | Conntrack::with_action(to_source, from_b) | Conntrack::with_action(to_destination, !from_b);
    flags |= Conntrack::with_queue(source.flags, from_b) | Conntrack::with_queue(destination.flags, !from_b);
    if from_b {
        flags |= FLAG_ORIGIN_B;
    }
    let node = if destination.is_local() { source.node } else { destination.node };
    let now = env.now();
    let slots = if from_b { [destination.slot, source.slot] } else { [source.slot, destination.slot] };
    let length = length as u64;
    Conntrack {
        bytes: if from_b { [0, length] } else { [length, 0] },
        packets: if from_b { [0, 1] } else { [1, 0] },
        ifindex: if from_b { [destination_link, source_link] } else { [source_link, destination_link] },
        expires: now + env.timeout(lifetime(flow.protocol, 0)),
        created: now,
        revision,
        slots,
        identity: if from_b {
            [destination.identity, source.identity]
        } else {
            [source.identity, destination.identity]
        },
        flags,
        node,
        reserved: 0,
    }
}

/// Renews a judged-anew entry: ends, actions and revision as of now; counters and state as they were.
#[inline(always)]
pub(crate) fn renew(old: &mut Conntrack, new: &Conntrack) {
    const KEPT: u32 =
        FLAG_ORIGIN_B | FLAG_REPLIED | FLAG_FIN_A | FLAG_FIN_B | FLAG_CLOSED | FLAG_SERVICE | FLAG_LOOPBACK;
    old.flags = (old.flags & KEPT) | (new.flags & !KEPT);
    old.ifindex = new.ifindex;
    old.slots = new.slots;
    old.identity = new.identity;
    old.node = new.node;
    // Last: who sees the new revision sees what it is of.
    compiler_fence(Ordering::Release);
    old.revision = new.revision;
}

/// Makes an entry of a connection that is over into that of a new one.
#[inline(always)]
pub(crate) fn begin(old: &mut Conntrack, new: &Conntrack) {
    *old = Conntrack { revision: old.revision, ..*new };
    compiler_fence(Ordering::Release);
    old.revision = new.revision;
}

/// Event of a change of state. `flow` is the packet that brought it. Its detail are counters: the caller puts something
/// else there where the connection is not over (a choice made here costs the short way 16 bytes of stack too many).
#[inline(always)]
pub(crate) fn event<F: Family>(
    ct: &Conntrack,
    flow: &Flow<F>,
    from_b: bool,
    kind: EventKind,
    rule: u32,
    (ifindex, hook): (u32, u8),
) -> FlowEvent {
    let forward = ct.origin_is_b() == from_b;
    let ([bytes_a, bytes_b], [packets_a, packets_b]) = (ct.bytes, ct.packets);
    let [a, b] = ct.identity;
    let swap = ct.origin_is_b();
    let (source, destination, source_port, destination_port) = if forward {
        (flow.source, flow.destination, flow.source_port, flow.destination_port)
    } else {
        (flow.destination, flow.source, flow.destination_port, flow.source_port)
    };
    FlowEvent {
        time: 0,
        detail: if swap { [bytes_b, bytes_a] } else { [bytes_a, bytes_b] },
        source: F::words(source),
        destination: F::words(destination),
        packets: if swap { [packets_b, packets_a] } else { [packets_a, packets_b] },
        source_identity: if swap { b } else { a },
        destination_identity: if swap { a } else { b },
        rule,
        ifindex,
        source_port,
        destination_port,
        kind: kind as u8,
        family: F::NUMBER,
        protocol: flow.protocol,
        tcp_flags: flow.tcp_flags,
        hook,
        audit: 0,
        towards: 0,
        egress_rule: 0,
    }
}

/// The event with what its judgement said would be denied.
#[inline(always)]
pub(crate) const fn audited(event: FlowEvent, judged: Verdict) -> FlowEvent {
    FlowEvent { rule: judged.node, audit: judged.argument as u8, egress_rule: judged.identity, ..event }
}
