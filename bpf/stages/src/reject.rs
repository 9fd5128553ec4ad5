//! Refusals: a dropped packet is turned into the answer to itself, and goes back to the pod that sent it. A Service
//! without backends answers TCP with a reset and everything else with "port unreachable". What a pod's own egress policy
//! denies is answered with "administratively prohibited", where that is asked for ([`feature::ANSWER_DENIED`]).
//!
//! What denies a pod's *incoming* connection is never answered: the answer would tell whoever asks which addresses have
//! pods and which of their ports somebody cares about, would go to sources that may be forged, and would depend on whether
//! both pods happen to be on one node.
//!
//! Never answered either (RFC 1122 §3.2.2, RFC 4443 §2.4): ICMP but echo requests, resets, fragments but the first, what
//! goes to groups, and what does not come from, or go to, one host. Headers with options stay without an answer: it is a
//! courtesy.

use axoneme_abi::{
    Direction, DropReason,
    constants::feature,
    tables::{ANSWERED, ANSWERS_PER_TICK, Answers},
};

use crate::{
    Env, Family, Flow, FlowKind, Packet,
    family::{ACK, ETHERNET, RST, SYN, TCP},
    work::Work,
};

/// What a sender is told. One register wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Word {
    /// Nobody is there.
    Nobody = 0,
    /// Policy denies it.
    Prohibited = 1,
}

/// What the sender of a dropped packet is to be told, if anything: of a Service without backends, and of what its own policy
/// denies of what it sends. Not of its answers to others' connections.
#[inline(always)]
pub(crate) fn word<F: Family, E: Env>(env: &E, w: &Work<F>) -> Option<Word> {
    const NO_BACKEND: u8 = DropReason::NoBackend as u8;
    const DENIED: u8 = DropReason::PolicyDenied as u8;
    const DENY: u8 = DropReason::PolicyDeny as u8;
    match w.verdict.drop_numbers() {
        (NO_BACKEND, _) => Some(Word::Nobody),
        (DENIED | DENY, d) if d == Direction::Egress as u8 && w.forward && env.feature(feature::ANSWER_DENIED) => {
            Some(Word::Prohibited)
        }
        _ => None,
    }
}

/// Whether a packet is of those that may be answered at all.
#[inline(always)]
pub(crate) fn may_be_answered<F: Family, P: Packet>(packet: &P, flow: &Flow<F>) -> bool {
    let asks = (flow.protocol != F::ICMP || flow.policy_port == F::ECHO as u16) && flow.tcp_flags & RST == 0;
    // The lowest bit of the first byte tells groups of the link layer.
    let to_one = packet.load::<u8>(0).is_some_and(|first| first & 1 == 0);
    let header = if F::NUMBER == 4 { 20 } else { 40 };
    asks && to_one
        && flow.transport as usize == ETHERNET + header
        && matches!(flow.kind, FlowKind::Plain | FlowKind::FirstFragment)
        && F::is_single(flow.source)
        && F::is_single(flow.destination)
}

/// Counts an answer to who sends by an interface. False: it got all that it gets from this CPU in this tick, so that nobody
/// can keep a node busy with answers (RFC 4443 §2.4(f), RFC 1812 §4.3.2.8).
#[inline(always)]
pub(crate) fn has_answers_left<E: Env>(env: &E, ifindex: u32) -> bool {
    let now = env.now();
    let left = env.with_answers(ifindex & (ANSWERED - 1), |a| {
        if a.tick != now {
            *a = Answers { tick: now, count: 0 };
        }
        if a.count >= ANSWERS_PER_TICK {
            return false;
        }
        a.count += 1;
        true
    });
    left == Some(true)
}

/// Turns a packet that may be answered into its refusal. False: it stays what it is, and is dropped silently.
#[inline(always)]
pub(crate) fn answer<F: Family, P: Packet>(packet: &P, flow: &Flow<F>, word: Word) -> bool {
    let written = match word {
        Word::Nobody if flow.protocol == TCP => flow.kind == FlowKind::Plain && reset(packet, flow),
        _ => unreachable(packet, flow, word),
    };
    written && swap_macs(packet)
}

#[inline(always)]
fn swap_macs<P: Packet>(packet: &P) -> bool {
    let Some([d0, d1, d2, s0, s1, s2]) = packet.load::<[u16; 6]>(0) else { return false };
    packet.store(0, [s0, s1, s2, d0, d1, d2])
}

/// Sum of 16-bit words, not folded.
#[inline(always)]
fn sum<const N: usize>(words: [u32; N]) -> u32 {
    let mut total = 0u64;
    for w in words {
        total += (w & 0xffff) as u64 + (w >> 16) as u64;
    }
    (total & 0xffff) as u32 + (total >> 16) as u32
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// Writes the IP header of an answer with `payload` bytes after it.
#[inline(always)]
fn header<F: Family, P: Packet>(packet: &P, flow: &Flow<F>, protocol: u8, payload: u16) -> bool {
    let ([s, s1, s2, s3], [d, d1, d2, d3]) = (F::words(flow.destination), F::words(flow.source));
    if F::NUMBER == 4 {
        let v0 = (0x4500_0000u32 | (payload as u32 + 20)).to_be();
        let v2 = (0x4000_0000u32 | (protocol as u32) << 16).to_be();
        let check = fold(sum([v0, v2, s, d]));
        let v2 = u32::from_be(v2) | u16::from_be(check) as u32;
        packet.store(ETHERNET, [v0, 0, v2.to_be(), s, d])
    } else {
        let v0 = 0x6000_0000u32.to_be();
        let v1 = ((payload as u32) << 16 | (protocol as u32) << 8 | 64).to_be();
        packet.store(ETHERNET, [v0, v1]) && packet.store(ETHERNET + 8, [s, s1, s2, s3, d, d1, d2, d3])
    }
}

#[inline(always)]
fn pseudo<F: Family>(flow: &Flow<F>, protocol: u8, length: u16) -> u32 {
    let ([s, s1, s2, s3], [d, d1, d2, d3]) = (F::words(flow.source), F::words(flow.destination));
    sum([s, s1, s2, s3, d, d1, d2, d3, (protocol as u32).to_be(), (length as u32).to_be()])
}

#[inline(always)]
fn reset<F: Family, P: Packet>(packet: &P, flow: &Flow<F>) -> bool {
    let at = flow.transport as usize;
    let Some([_, seq, ack, offset]) = packet.load::<[u32; 4]>(at) else { return false };
    let sent = packet.length().wrapping_sub(at as u32).wrapping_sub((u32::from_be(offset) >> 28) * 4);
    let opened = u32::from(flow.tcp_flags & SYN != 0);
    let (seq, ack, flags) = if flow.tcp_flags & ACK != 0 {
        (ack, 0, RST)
    } else {
        (0, u32::from_be(seq).wrapping_add(sent).wrapping_add(opened).to_be(), RST | ACK)
    };
    let ports = ((u16::from_be(flow.destination_port) as u32) << 16 | u16::from_be(flow.source_port) as u32).to_be();
    let flags = (0x5000_0000u32 | (flags as u32) << 16).to_be();
    let check = fold(pseudo(flow, TCP, 20) + sum([ports, seq, ack, flags]));
    let urgent = ((u16::from_be(check) as u32) << 16).to_be();
    packet.resize(at as u32 + 20) && header(packet, flow, TCP, 20) && packet.store(at, [ports, seq, ack, flags, urgent])
}

#[inline(always)]
fn unreachable<F: Family, P: Packet>(packet: &P, flow: &Flow<F>, word: Word) -> bool {
    let at = flow.transport as usize;
    let Some([t0, t1]) = packet.load::<[u32; 2]>(at) else { return false };
    // Type and code: RFC 792 with RFC 1812 §5.2.7.1, RFC 4443 §3.1.
    let (head, carried) = match (F::NUMBER, word) {
        (4, Word::Nobody) => (0x0303_0000u32.to_be(), 28u16),
        (4, Word::Prohibited) => (0x030d_0000u32.to_be(), 28),
        (_, Word::Nobody) => (0x0104_0000u32.to_be(), 48),
        (_, Word::Prohibited) => (0x0101_0000u32.to_be(), 48),
    };
    let Some([h0, h1, h2, h3, h4]) = packet.load::<[u32; 5]>(ETHERNET) else { return false };
    let mut total = sum([head, h0, h1, h2, h3, h4, t0, t1]);
    let mut rest = [0u32; 5];
    if F::NUMBER == 6 {
        let Some(r) = packet.load::<[u32; 5]>(ETHERNET + 20) else { return false };
        rest = r;
        total += sum(rest) + pseudo(flow, F::ICMP, carried + 8);
    }
    let check = u16::from_be(fold(total)) as u32;
    let head = (u32::from_be(head) | check).to_be();
    let inner = at + 8;
    let after = inner + if F::NUMBER == 4 { 20 } else { 40 };
    packet.resize((at + 8) as u32 + carried as u32)
        && header(packet, flow, F::ICMP, carried + 8)
        && packet.store(at, [head, 0])
        && packet.store(inner, [h0, h1, h2, h3, h4])
        && (F::NUMBER == 4 || packet.store(inner + 20, rest))
        && packet.store(after, [t0, t1])
}
