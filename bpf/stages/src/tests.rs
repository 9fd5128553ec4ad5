//! The stages on the host: one small world, packets by hand.

use std::{vec, vec::Vec};

use axoneme_abi::{
    Action, Conntrack, Direction, DropReason, FlowKind as EventKind,
    conntrack::{FLAG_CLOSED, FLAG_REPLIED, FLAG_SERVICE},
    constants::feature,
    policy::{
        ALLOW, DEFAULT_ALLOW, DEFAULT_AUDIT, DEFAULT_DENY, DENY, PREFIX_FIXED, PREFIX_FULL, PolicyKey, PolicyValue,
        Slot,
    },
    service::{BackendKey, Service},
    tables::{Endpoint, IDENTITY_HOST, IP_DIRECT, IP_NODE, IP_QUEUED, IpInfo, Side},
};

use crate::{
    Choice, Family, Kind, Maps, Timeout, V4, V6, Verdict, Work, fast, hook,
    host::{Buffer, HasTables, Host, timeout},
    slow,
    socket::{Caller, Outcome, connect, reverse},
};

mod answers;
mod connections;
mod guard;
mod headers;
mod places;
mod policy;
mod services;

const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;
const RST: u8 = 4;

/// Interfaces: two local pods, uplink, tunnel.
const LINK_A: u32 = 11;
const LINK_B: u32 = 12;
const UPLINK: u32 = 2;
const OVERLAY: u32 = 3;
/// Addresses by their last byte.
const A: u8 = 1;
const B: u8 = 2;
const REMOTE: u8 = 3;
const NODE: u8 = 9;
const OTHER_NODE: u8 = 8;
const WORLD: u8 = 200;
const VIP: u8 = 100;

/// What tests need of a family besides the pipeline.
trait Testable: Family + Sized
where
    Host: HasTables<Self> + Maps<Self>,
{
    fn address(last: u8) -> Self::Address;
    /// An IP packet with an Ethernet header.
    fn packet(source: u8, destination: u8, protocol: u8, payload: &[u8]) -> Vec<u8>;
    const HEADER: usize;
}

fn ethernet(kind: u16) -> Vec<u8> {
    let mut p = vec![0xee; 6];
    p.extend([0x0a, 0, 0, 0, 0, 1]);
    p.extend(kind.to_be_bytes());
    p
}

impl Testable for V4 {
    const HEADER: usize = 34;
    fn address(last: u8) -> u32 {
        u32::from_ne_bytes([10, 0, 0, last])
    }
    fn packet(source: u8, destination: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut p = ethernet(0x0800);
        p.extend([0x45, 0]);
        p.extend(u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
        p.extend([0, 1, 0, 0, 64, protocol, 0, 0, 10, 0, 0, source, 10, 0, 0, destination]);
        let c = checksum(&p[14..34]);
        p[24..26].copy_from_slice(&c);
        p.extend(payload);
        p
    }
}

impl Testable for V6 {
    const HEADER: usize = 54;
    fn address(last: u8) -> [u64; 2] {
        [u64::from_ne_bytes([0xfd, 0, 0, 0, 0, 0, 0, 0]), u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, last])]
    }
    fn packet(source: u8, destination: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut p = ethernet(0x86dd);
        p.extend([0x60, 0, 0, 0]);
        p.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        p.extend([protocol, 64]);
        for last in [source, destination] {
            p.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        p.extend(payload);
        p
    }
}

/// Internet checksum (RFC 1071).
fn checksum(data: &[u8]) -> [u8; 2] {
    let mut sum: u32 = data.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

/// Whether a packet's transport checksum is right: computed anew from its bytes.
fn sums_are_right<F: Testable>(packet: &[u8], protocol: u8) -> bool
where
    Host: HasTables<F> + Maps<F>,
{
    let payload = &packet[F::HEADER..];
    let mut all: Vec<u8> = if F::NUMBER == 4 { packet[26..34].into() } else { packet[22..54].into() };
    if protocol == 1 {
        all.clear();
    } else {
        all.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        all.extend([0, 0, 0, protocol]);
    }
    all.extend(payload);
    let header = F::NUMBER == 6 || checksum(&packet[14..34]) == [0, 0];
    header && checksum(&all) == [0, 0]
}

/// Fills in a transport checksum.
fn seal<F: Testable>(packet: &mut [u8], protocol: u8, at: usize)
where
    Host: HasTables<F> + Maps<F>,
{
    let place = F::HEADER + at;
    packet[place..place + 2].copy_from_slice(&[0, 0]);
    let payload = &packet[F::HEADER..];
    let mut all: Vec<u8> = if F::NUMBER == 4 { packet[26..34].into() } else { packet[22..54].into() };
    all.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    all.extend([0, 0, 0, protocol]);
    all.extend(payload);
    let c = checksum(&all);
    packet[place..place + 2].copy_from_slice(&c);
}

fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut t = Vec::new();
    t.extend(source.to_be_bytes());
    t.extend(destination.to_be_bytes());
    t.extend([0, 0, 0, 1, 0, 0, 0, 9, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    t
}

fn udp(source: u16, destination: u16) -> Vec<u8> {
    let mut t = Vec::new();
    t.extend(source.to_be_bytes());
    t.extend(destination.to_be_bytes());
    t.extend([0, 12, 0, 0, b'd', b'a', b't', b'a']);
    t
}

/// An echo of the family's ICMP: request, or reply.
fn echo<F: Family>(request: bool, id: u16) -> Vec<u8> {
    let kind = match (F::NUMBER, request) {
        (4, true) => 8,
        (4, false) => 0,
        (_, true) => 128,
        (_, false) => 129,
    };
    let mut t = vec![kind, 0, 0, 0];
    t.extend(id.to_be_bytes());
    t.extend([0, 1]);
    t
}

/// The small world: two pods here, one elsewhere, two nodes, the rest is the world.
fn world(native: bool) -> Host {
    let h = Host::default();
    let all = feature::IPV4 | feature::IPV6 | feature::SERVICES | feature::FLOWS | feature::ALLOW_OWN_HOST;
    h.features.set(if native { all | feature::NATIVE } else { all });
    h.uplink.set(UPLINK);
    h.overlay.set(OVERLAY);
    h.now.set(1000);
    people::<V4>(&h);
    people::<V6>(&h);
    for slot in [1, 2] {
        h.slots.borrow_mut().insert(slot, Slot { revision: 1, ..Slot::default() });
        default(&h, slot, Direction::Ingress, true);
        default(&h, slot, Direction::Egress, true);
    }
    h
}

fn people<F: Testable>(h: &Host)
where
    Host: HasTables<F> + Maps<F>,
{
    let t: &crate::host::Tables<F> = h.tables();
    for (last, link, slot) in [(A, LINK_A, 1), (B, LINK_B, 2)] {
        let own = 100 + u32::from(last);
        let e = Endpoint::settled(link, Side::new(own, own), slot, [0; 3]);
        t.endpoints.borrow_mut().push((F::address(last), e));
    }
    let bits = if F::NUMBER == 4 { 32 } else { 128 };
    for (last, identity, node, flags) in [(REMOTE, 103, 7, 0), (NODE, 1, 0, IP_NODE), (OTHER_NODE, 6, 7, IP_NODE)] {
        t.ipcache.borrow_mut().push((
            F::address(last),
            bits,
            IpInfo::settled(Side::new(identity, identity), node, flags),
        ));
    }
}

/// Sets a table's default, and bumps its revision as user space does.
fn default(h: &Host, slot: u16, direction: Direction, allow: bool) {
    let key = PolicyKey { peer: 0, direction: direction as u8, protocol: 0, port: 0 };
    let verdict = if allow { DEFAULT_ALLOW } else { DEFAULT_DENY };
    h.policy.borrow_mut().insert((slot, PREFIX_FIXED, key), PolicyValue { rule: 7, verdict, ..PolicyValue::default() });
    h.slots.borrow_mut().get_mut(&slot).unwrap().revision += 1;
}

fn rule(h: &Host, slot: u16, direction: Direction, peer: u32, protocol: u8, port: u16, allow: bool) {
    let key = PolicyKey { peer, direction: direction as u8, protocol, port: port.to_be() };
    let verdict = if allow { ALLOW } else { DENY };
    h.policy.borrow_mut().insert((slot, PREFIX_FULL, key), PolicyValue { rule: 42, verdict, ..PolicyValue::default() });
    h.slots.borrow_mut().get_mut(&slot).unwrap().revision += 1;
}

/// Cookie and cgroup of whatever socket sends.
const SOCKET: [u64; 2] = [7, 9];

/// A packet through a hook: the verdict, and the packet afterwards.
fn meet<F: Testable, const HOOK: u8>(h: &Host, ifindex: u32, bytes: &[u8]) -> (Verdict, Vec<u8>)
where
    Host: HasTables<F> + Maps<F>,
{
    let mut buffer = Buffer::new(bytes, ifindex);
    buffer.tunnel = Some(103);
    buffer.socket = SOCKET;
    let v = match fast::<F, _, _, HOOK>(h, &buffer) {
        Some(v) => v,
        None => slow::<F, _, _, HOOK>(h, &buffer, &mut Work::new()),
    };
    (v, buffer.bytes.into_inner())
}

fn from_pod<F: Testable>(h: &Host, ifindex: u32, bytes: &[u8]) -> Verdict
where
    Host: HasTables<F> + Maps<F>,
{
    meet::<F, { hook::FROM_CONTAINER }>(h, ifindex, bytes).0
}

/// The only entry of the family.
fn entry<F: Testable>(h: &Host) -> Conntrack
where
    Host: HasTables<F> + Maps<F>,
{
    let t: &crate::host::Tables<F> = h.tables();
    let ct = t.conntrack.borrow();
    assert_eq!(ct.len(), 1);
    *ct.values().next().unwrap()
}

/// Runs a test for both families.
macro_rules! both_families {
    ($($name:ident),* $(,)?) => { $(
        mod $name {
            #[test]
            fn v4() {
                super::inner::$name::<crate::V4>();
            }
            #[test]
            fn v6() {
                super::inner::$name::<crate::V6>();
            }
        }
    )* };
}
use both_families;
