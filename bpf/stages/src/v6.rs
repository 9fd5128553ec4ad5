//! IPv6.

use axoneme_abi::{
    Address6, DropReason, Key6,
    constants::{LOOPBACK_V6, feature},
    service::{Affinity6Key, Backend6, Fragment6, Service6Key},
};

use crate::{
    Family, Flow, FlowKind, Packet,
    family::{Checksum, Choice, ETHERNET, Side, TCP, UDP, embedded_transport, transport},
};

/// IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6;

const TRANSPORT: usize = ETHERNET + 40;
/// Extension headers that are followed.
const EXTENSIONS: usize = 6;
/// Furthest offset of a transport header.
const FURTHEST: usize = 512;

#[inline(always)]
fn flow(source: Address6, destination: Address6, protocol: u8, transport: u16) -> Flow<V6> {
    Flow {
        source,
        destination,
        source_port: 0,
        destination_port: 0,
        policy_port: 0,
        protocol,
        tcp_flags: 0,
        kind: FlowKind::Plain,
        transport,
        id: 0,
    }
}

#[inline(always)]
fn address(words: [u32; 4]) -> Address6 {
    let [a, b, c, d] = words;
    if cfg!(target_endian = "little") {
        [a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32]
    } else {
        [(a as u64) << 32 | b as u64, (c as u64) << 32 | d as u64]
    }
}

#[inline(always)]
fn words(address: Address6) -> [u32; 4] {
    let [x, y] = address;
    if cfg!(target_endian = "little") {
        [x as u32, (x >> 32) as u32, y as u32, (y >> 32) as u32]
    } else {
        [(x >> 32) as u32, x as u32, (y >> 32) as u32, y as u32]
    }
}

/// Follows extension headers from `next` at `offset`; fills protocol, transport offset and fragment fields.
#[inline(always)]
fn extensions<P: Packet>(packet: &P, f: &mut Flow<V6>, next: u8, offset: usize) -> Result<(), DropReason> {
    let (mut next, mut offset) = (next, offset);
    let mut first = false;
    for _ in 0..EXTENSIONS {
        match next {
            // Hop-by-hop, routing, destination options, mobility, HIP, shim6.
            0 | 43 | 60 | 135 | 139 | 140 => {
                let [n, length]: [u8; 2] = packet.load(offset).ok_or(DropReason::InvalidExtension)?;
                next = n;
                offset += 8 + length as usize * 8;
            }
            44 => {
                let [head, place, id0, id1]: [u16; 4] = packet.load(offset).ok_or(DropReason::InvalidExtension)?;
                next = head.to_le() as u8;
                offset += 8;
                f.id = (id0 as u32) | (id1 as u32) << 16;
                let place = u16::from_be(place);
                if place & 0xfff8 != 0 {
                    // As in IPv4: it would replace a judged header's flags.
                    if place & 0xfff8 == 8 && next == TCP {
                        return Err(DropReason::InvalidPacket);
                    }
                    f.protocol = next;
                    f.transport = offset as u16;
                    f.kind = FlowKind::LaterFragment;
                    return Ok(());
                }
                first = place & 1 != 0;
            }
            // Authentication header: its length counts words of four bytes.
            51 => {
                let [n, length]: [u8; 2] = packet.load(offset).ok_or(DropReason::InvalidExtension)?;
                next = n;
                offset += 8 + length as usize * 4;
            }
            _ => break,
        }
        if offset > FURTHEST {
            return Err(DropReason::InvalidExtension);
        }
    }
    if matches!(next, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140) {
        return Err(DropReason::InvalidExtension);
    }
    f.protocol = next;
    f.transport = offset as u16;
    transport(packet, f)?;
    if first {
        f.kind = FlowKind::FirstFragment;
    }
    Ok(())
}

impl Family for V6 {
    type Address = Address6;
    type Key = Key6;
    type ServiceKey = Service6Key;
    type AffinityKey = Affinity6Key;
    type Backend = Backend6;
    type FragmentKey = Fragment6;
    const NUMBER: u8 = 6;
    const FEATURE: u32 = feature::IPV6;
    const ICMP: u8 = 58;
    const ECHO: u8 = 128;
    const LOOPBACK: Address6 = LOOPBACK_V6;

    #[inline(always)]
    fn simple<P: Packet>(packet: &P) -> Option<Flow<V6>> {
        let protocol: u8 = packet.get(ETHERNET + 6)?;
        let version: u8 = packet.get(ETHERNET)?;
        if version >> 4 != 6 {
            return None;
        }
        let s: [u32; 4] = packet.get(ETHERNET + 8)?;
        let d: [u32; 4] = packet.get(ETHERNET + 24)?;
        let mut f = flow(address(s), address(d), protocol, TRANSPORT as u16);
        if protocol == TCP {
            let [s, d, _, _, _, _, flags]: [u16; 7] = packet.get(TRANSPORT)?;
            f.source_port = s;
            f.destination_port = d;
            let flags = u16::from_be(flags);
            if flags >> 12 < 5 {
                return None;
            }
            f.tcp_flags = (flags & 0x3f) as u8;
        } else if protocol == UDP {
            let [s, d]: [u16; 2] = packet.get(TRANSPORT)?;
            f.source_port = s;
            f.destination_port = d;
        } else {
            return None;
        }
        Some(f)
    }

    #[inline(always)]
    fn parse<P: Packet>(packet: &P) -> Result<Flow<V6>, DropReason> {
        let [v0, v1]: [u32; 2] = packet.get(ETHERNET).ok_or(DropReason::InvalidPacket)?;
        let payload = u16::from_be((v1.to_le() & 0xffff) as u16) as u32;
        if (v0.to_le() as u8) >> 4 != 6 || payload + 54 > packet.length() {
            return Err(DropReason::InvalidPacket);
        }
        let s: [u32; 4] = packet.get(ETHERNET + 8).ok_or(DropReason::InvalidPacket)?;
        let d: [u32; 4] = packet.get(ETHERNET + 24).ok_or(DropReason::InvalidPacket)?;
        let mut f = flow(address(s), address(d), 0, 0);
        extensions(packet, &mut f, (v1.to_le() >> 16) as u8, TRANSPORT)?;
        Ok(f)
    }

    #[inline(always)]
    fn end<P: Packet>(packet: &P) -> Option<u32> {
        packet.load::<u16>(ETHERNET + 4).map(|payload| TRANSPORT as u32 + u16::from_be(payload) as u32)
    }
    #[inline(always)]
    fn embedded<P: Packet>(packet: &P, transport: usize) -> Option<Flow<V6>> {
        let at = Self::embedded_offset(transport);
        let [v0, v1]: [u32; 2] = packet.load(at)?;
        let s: [u32; 4] = packet.load(at + 8)?;
        let d: [u32; 4] = packet.load(at + 24)?;
        let mut f = flow(address(s), address(d), (v1.to_le() >> 16) as u8, (at + 40) as u16);
        if (v0.to_le() as u8) >> 4 != 6 {
            return None;
        }
        // A fragment header is the one extension that errors about pods' packets carry in practice.
        if f.protocol == 44 {
            let [next, place]: [u16; 2] = packet.load(at + 40)?;
            if u16::from_be(place) & 0xfff8 != 0 {
                return None;
            }
            f.protocol = next.to_le() as u8;
            f.transport += 8;
        }
        embedded_transport(packet, &mut f)?;
        Some(f)
    }

    #[inline(always)]
    fn key(
        source: Address6,
        destination: Address6,
        source_port: u16,
        destination_port: u16,
        protocol: u8,
    ) -> (Key6, bool) {
        let ([s0, s1], [d0, d1]) = (source, destination);
        let swap = if s1 != d1 {
            s1 > d1
        } else if s0 != d0 {
            s0 > d0
        } else {
            source_port > destination_port
        };
        let protocol = protocol as u32;
        if swap {
            (Key6 { a: destination, b: source, a_port: destination_port, b_port: source_port, protocol }, true)
        } else {
            (Key6 { a: source, b: destination, a_port: source_port, b_port: destination_port, protocol }, false)
        }
    }
    #[inline(always)]
    fn service_key(address: Address6, port: u16, protocol: u8) -> Service6Key {
        Service6Key { address, port, protocol: protocol as u16, reserved: 0 }
    }
    #[inline(always)]
    fn affinity_key(client: Address6, service: Service6Key) -> Affinity6Key {
        Affinity6Key { client, service }
    }
    #[inline(always)]
    fn affinity_of_namespace(cookie: u64, service: Service6Key) -> Affinity6Key {
        Affinity6Key { client: [cookie, 0], service }
    }
    #[inline(always)]
    fn backend(choice: Choice<V6>) -> Backend6 {
        Backend6 { address: choice.address, port: choice.port, reserved: 0, expires: choice.expires }
    }
    #[inline(always)]
    fn choice(backend: &Backend6) -> Choice<V6> {
        Choice { address: backend.address, port: backend.port, expires: backend.expires }
    }
    #[inline(always)]
    fn fragment_key(flow: &Flow<V6>) -> Fragment6 {
        Fragment6 { source: flow.source, destination: flow.destination, id: flow.id, reserved: 0 }
    }
    #[inline(always)]
    fn words(address: Address6) -> [u32; 4] {
        words(address)
    }
    #[inline(always)]
    fn from_words(words: [u32; 4]) -> Address6 {
        address(words)
    }
    #[inline(always)]
    fn is_group(address: Address6) -> bool {
        address[0].to_le() as u8 == 0xff
    }
    #[inline(always)]
    fn is_single(address: Address6) -> bool {
        // `::`, `::1`, and what once carried IPv4 addresses.
        !Self::is_group(address) && address[0] != 0
    }
    #[inline(always)]
    fn is_link_local(address: Address6) -> bool {
        address[0].to_le() & 0xc0ff == 0x80fe
    }
    #[inline(always)]
    fn rewrite<P: Packet>(
        p: &P,
        ip: usize,
        side: Side,
        from: Address6,
        to: Address6,
        checksum: Option<Checksum>,
    ) -> bool {
        let at = ip + if matches!(side, Side::Source) { 8 } else { 24 };
        if let Some(c) = checksum {
            for (f, t) in words(from).into_iter().zip(words(to)) {
                if !p.mend_checksum(c.offset, f, t, 4, c.pseudo, c.optional) {
                    return false;
                }
            }
        }
        p.store(at, words(to))
    }
}
