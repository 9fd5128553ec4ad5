//! IPv4.

use axoneme_abi::{
    DropReason, Key4,
    constants::{LOOPBACK_V4, feature},
    service::{Affinity4Key, Backend4, Fragment4, Service4Key},
};

use crate::{
    Family, Flow, FlowKind, Packet,
    family::{Checksum, Choice, ETHERNET, Side, TCP, UDP, embedded_transport, transport},
};

/// IPv4. Addresses are the four bytes as a word in memory order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V4;

const TRANSPORT: usize = ETHERNET + 20;

#[inline(always)]
fn flow(source: u32, destination: u32, protocol: u8, transport: u16) -> Flow<V4> {
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

impl Family for V4 {
    type Address = u32;
    type Key = Key4;
    type ServiceKey = Service4Key;
    type AffinityKey = Affinity4Key;
    type Backend = Backend4;
    type FragmentKey = Fragment4;
    const NUMBER: u8 = 4;
    const FEATURE: u32 = feature::IPV4;
    const ICMP: u8 = 1;
    const ECHO: u8 = 8;
    const LOOPBACK: u32 = LOOPBACK_V4;

    #[inline(always)]
    fn simple<P: Packet>(packet: &P) -> Option<Flow<V4>> {
        let version: u8 = packet.get(ETHERNET)?;
        let fragment: u16 = packet.get(ETHERNET + 6)?;
        // More-fragments bit and offset must be zero; the other flag bits may be set.
        if version != 0x45 || fragment & 0x3fff_u16.to_be() != 0 {
            return None;
        }
        let protocol: u8 = packet.get(ETHERNET + 9)?;
        let [source, destination]: [u32; 2] = packet.get(ETHERNET + 12)?;
        let mut f = flow(source, destination, protocol, TRANSPORT as u16);
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
    fn parse<P: Packet>(packet: &P) -> Result<Flow<V4>, DropReason> {
        let [v0, v1, v2, source, destination]: [u32; 5] = packet.get(ETHERNET).ok_or(DropReason::InvalidPacket)?;
        let version = v0.to_le() as u8;
        let header = (version & 0xf) as u32 * 4;
        let total = u16::from_be((v0.to_le() >> 16) as u16) as u32;
        // A super-packet beyond 64 KiB has a total length of 0.
        if version >> 4 != 4 || header < 20 || (total != 0 && (total < header || total + 14 > packet.length())) {
            return Err(DropReason::InvalidPacket);
        }
        let fragment = u16::from_be((v1.to_le() >> 16) as u16);
        let protocol = (v2.to_le() >> 8) as u8;
        let mut f = flow(source, destination, protocol, ETHERNET as u16 + header as u16);
        f.id = v1.to_le() & 0xffff;
        if fragment & 0x1fff != 0 {
            // Eight bytes in, it would replace the flags of a header that was judged without them (RFC 3128).
            if fragment & 0x1fff == 1 && protocol == TCP {
                return Err(DropReason::InvalidPacket);
            }
            f.kind = FlowKind::LaterFragment;
            return Ok(f);
        }
        transport(packet, &mut f)?;
        if fragment & 0x2000 != 0 {
            f.kind = FlowKind::FirstFragment;
        }
        Ok(f)
    }

    #[inline(always)]
    fn end<P: Packet>(packet: &P) -> Option<u32> {
        packet.load::<u16>(ETHERNET + 2).map(|total| ETHERNET as u32 + u16::from_be(total) as u32)
    }
    #[inline(always)]
    fn embedded<P: Packet>(packet: &P, transport: usize) -> Option<Flow<V4>> {
        let at = Self::embedded_offset(transport);
        let [v0, v1, v2, source, destination]: [u32; 5] = packet.load(at)?;
        let version = v0.to_le() as u8;
        let header = (version & 0xf) as usize * 4;
        if version >> 4 != 4 || header < 20 || u16::from_be((v1.to_le() >> 16) as u16) & 0x1fff != 0 {
            return None;
        }
        let mut f = flow(source, destination, (v2.to_le() >> 8) as u8, (at + header) as u16);
        embedded_transport(packet, &mut f)?;
        Some(f)
    }

    #[inline(always)]
    fn key(source: u32, destination: u32, source_port: u16, destination_port: u16, protocol: u8) -> (Key4, bool) {
        let x = (source as u64) << 16 | source_port as u64;
        let y = (destination as u64) << 16 | destination_port as u64;
        let protocol = protocol as u32;
        if x <= y {
            (Key4 { a: source, b: destination, a_port: source_port, b_port: destination_port, protocol }, false)
        } else {
            (Key4 { a: destination, b: source, a_port: destination_port, b_port: source_port, protocol }, true)
        }
    }
    #[inline(always)]
    fn service_key(address: u32, port: u16, protocol: u8) -> Service4Key {
        Service4Key { address, port, protocol: protocol as u16 }
    }
    #[inline(always)]
    fn affinity_key(client: u32, service: Service4Key) -> Affinity4Key {
        Affinity4Key { client: client as u64, service }
    }
    #[inline(always)]
    fn affinity_of_namespace(cookie: u64, service: Service4Key) -> Affinity4Key {
        Affinity4Key { client: cookie, service }
    }
    #[inline(always)]
    fn backend(choice: Choice<V4>) -> Backend4 {
        Backend4 { address: choice.address, port: choice.port, reserved: 0, expires: choice.expires }
    }
    #[inline(always)]
    fn choice(backend: &Backend4) -> Choice<V4> {
        Choice { address: backend.address, port: backend.port, expires: backend.expires }
    }
    #[inline(always)]
    fn fragment_key(flow: &Flow<V4>) -> Fragment4 {
        Fragment4 { source: flow.source, destination: flow.destination, id: flow.id, protocol: flow.protocol as u32 }
    }
    #[inline(always)]
    fn words(address: u32) -> [u32; 4] {
        [address, 0, 0, 0]
    }
    #[inline(always)]
    fn from_words(words: [u32; 4]) -> u32 {
        words[0]
    }
    #[inline(always)]
    fn is_group(address: u32) -> bool {
        address.to_le() as u8 >= 224
    }
    #[inline(always)]
    fn is_single(address: u32) -> bool {
        !matches!(address.to_le() as u8, 0 | 127 | 224..)
    }
    #[inline(always)]
    fn is_link_local(address: u32) -> bool {
        address.to_le() & 0xffff == 0xfea9
    }
    #[inline(always)]
    fn rewrite<P: Packet>(p: &P, ip: usize, side: Side, from: u32, to: u32, checksum: Option<Checksum>) -> bool {
        let at = ip + if matches!(side, Side::Source) { 12 } else { 16 };
        if let Some(c) = checksum
            && !p.mend_checksum(c.offset, from, to, 4, c.pseudo, c.optional)
        {
            return false;
        }
        p.mend_header_checksum(ip + 10, from, to) && p.store(at, to)
    }
}
