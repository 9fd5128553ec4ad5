//! What differs between IPv4 and IPv6.

use axoneme_abi::DropReason;

use crate::Packet;

/// What kind of packet a flow's packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowKind {
    Plain = 0,
    /// First of several fragments: has the transport header.
    FirstFragment = 1,
    /// Has none; its ports are those of the first.
    LaterFragment = 2,
    /// Speaks of another packet, whose headers it carries.
    IcmpError = 3,
    /// Router and neighbour discovery of IPv6.
    Neighbour = 4,
}

/// A packet's headers. Ports are in network order.
///
/// ICMP echo has "ports" too: the identifier on the asking side and the request's type on the other, so that request and
/// reply are one connection. Other ICMP has its type as destination port and 0 as source port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<F: Family> {
    pub source: F::Address,
    pub destination: F::Address,
    pub source_port: u16,
    pub destination_port: u16,
    /// What policy judges: destination port or ICMP type, host order; 0 for protocols without.
    pub policy_port: u16,
    pub protocol: u8,
    pub tcp_flags: u8,
    pub kind: FlowKind,
    /// Offset of the transport header.
    pub transport: u16,
    /// Fragment id.
    pub id: u32,
}

/// A backend choice: address, port, tick until which it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<F: Family> {
    pub address: F::Address,
    pub port: u16,
    pub expires: u32,
}

/// What replies are turned back into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reverse<F: Family> {
    /// Frontend of the Service.
    pub address: F::Address,
    pub port: u16,
    /// The client, where it was sent back to itself.
    pub client: F::Address,
}

/// Which address of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

/// IPv4 or IPv6.
pub trait Family: Copy + Sized + core::fmt::Debug + PartialEq + 'static {
    type Address: Copy + PartialEq + core::fmt::Debug;
    type Key: Copy + Eq + core::hash::Hash;
    type ServiceKey: Copy + Eq + core::hash::Hash;
    type AffinityKey: Copy + Eq + core::hash::Hash;
    type Backend: Copy;
    type FragmentKey: Copy + Eq + core::hash::Hash;

    /// 4 or 6.
    const NUMBER: u8;
    /// Bit of [`axoneme_abi::constants::feature`] that switches the family on.
    const FEATURE: u32;
    /// Protocol number of the family's ICMP.
    const ICMP: u8;
    /// Type of an echo request.
    const ECHO: u8;
    const LOOPBACK: Self::Address;

    /// TCP or UDP without options, extension headers or fragments: reads only at constant offsets.
    fn simple<P: Packet>(packet: &P) -> Option<Flow<Self>>;
    /// Any packet.
    fn parse<P: Packet>(packet: &P) -> Result<Flow<Self>, DropReason>;
    /// Flow of the packet that an ICMP error at `transport` carries. `transport` of the result points at the inner
    /// transport header.
    fn embedded<P: Packet>(packet: &P, transport: usize) -> Option<Flow<Self>>;
    /// Offset behind the IP packet's last byte, as its header says: what follows in the frame is padding.
    fn end<P: Packet>(packet: &P) -> Option<u32>;
    /// Offset of the inner IP header of an ICMP error at `transport`.
    fn embedded_offset(transport: usize) -> usize {
        transport + 8
    }

    /// The connection's key, and whether the flow's source is its `b` end.
    fn key(
        source: Self::Address,
        destination: Self::Address,
        source_port: u16,
        destination_port: u16,
        protocol: u8,
    ) -> (Self::Key, bool);
    fn service_key(address: Self::Address, port: u16, protocol: u8) -> Self::ServiceKey;
    fn affinity_key(client: Self::Address, service: Self::ServiceKey) -> Self::AffinityKey;
    /// Affinity of a socket: its client is the network namespace.
    fn affinity_of_namespace(cookie: u64, service: Self::ServiceKey) -> Self::AffinityKey;
    fn backend(choice: Choice<Self>) -> Self::Backend;
    fn choice(backend: &Self::Backend) -> Choice<Self>;
    fn fragment_key(flow: &Flow<Self>) -> Self::FragmentKey;
    /// For events.
    fn words(address: Self::Address) -> [u32; 4];
    fn from_words(words: [u32; 4]) -> Self::Address;
    /// Multicast or broadcast.
    fn is_group(address: Self::Address) -> bool;
    /// One host's address on a network: not a group's, "unspecified", or of the loopback.
    fn is_single(address: Self::Address) -> bool;
    fn is_link_local(address: Self::Address) -> bool;

    /// Replaces an address in the IP header at `ip`. `checksum`: the transport checksum that covers it.
    #[must_use]
    fn rewrite<P: Packet>(
        packet: &P,
        ip: usize,
        side: Side,
        from: Self::Address,
        to: Self::Address,
        checksum: Option<Checksum>,
    ) -> bool;
}

/// A transport checksum's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    pub offset: usize,
    /// Zero means none (UDP over IPv4).
    pub optional: bool,
    /// The pseudo header is part of it.
    pub pseudo: bool,
}

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Length of the Ethernet header.
pub const ETHERNET: usize = 14;

/// Reads at the place of a transport header: directly, where there is nothing between it and the IP header.
#[inline(always)]
fn read<F: Family, P: Packet, T: crate::Plain>(packet: &P, offset: usize) -> Option<T> {
    let plain = ETHERNET + if F::NUMBER == 4 { 20 } else { 40 };
    if offset == plain
        && let Some(value) = packet.get(plain)
    {
        return Some(value);
    }
    packet.load(offset)
}

/// Transport header read at `offset`: fills ports and flags.
#[inline(always)]
pub(crate) fn transport<F: Family, P: Packet>(packet: &P, flow: &mut Flow<F>) -> Result<(), DropReason> {
    let offset = flow.transport as usize;
    match flow.protocol {
        TCP => {
            let h: [u16; 7] = read::<F, P, _>(packet, offset).ok_or(DropReason::TruncatedHeader)?;
            let [s, d, _, _, _, _, f] = h;
            let f = u16::from_be(f);
            let flags = (f & 0x3f) as u8;
            if f >> 12 < 5 || (flags & SYN != 0 && flags & (FIN | RST) != 0) {
                return Err(DropReason::InvalidPacket);
            }
            flow.tcp_flags = flags;
            set_ports(flow, s, d);
        }
        UDP | SCTP => {
            let [s, d]: [u16; 2] = read::<F, P, _>(packet, offset).ok_or(DropReason::TruncatedHeader)?;
            set_ports(flow, s, d);
        }
        p if p == F::ICMP => {
            let [head, _, id, _]: [u16; 4] = packet.load(offset).ok_or(DropReason::TruncatedHeader)?;
            icmp(flow, head.to_le() as u8, id);
        }
        _ => {}
    }
    Ok(())
}

#[inline(always)]
fn set_ports<F: Family>(flow: &mut Flow<F>, source: u16, destination: u16) {
    flow.source_port = source;
    flow.destination_port = destination;
    flow.policy_port = u16::from_be(destination);
}

#[inline(always)]
pub(crate) fn icmp<F: Family>(flow: &mut Flow<F>, kind: u8, id: u16) {
    let request = (F::ECHO as u16).to_be();
    let reply_type = if F::NUMBER == 4 { 0 } else { F::ECHO + 1 };
    flow.policy_port = kind as u16;
    if kind == F::ECHO {
        flow.source_port = id;
        flow.destination_port = request;
    } else if kind == reply_type {
        flow.source_port = request;
        flow.destination_port = id;
    } else {
        flow.source_port = 0;
        flow.destination_port = (kind as u16).to_be();
        if F::NUMBER == 4 {
            if matches!(kind, 3 | 11 | 12) {
                flow.kind = FlowKind::IcmpError;
            }
        } else if kind < 128 {
            flow.kind = FlowKind::IcmpError;
        } else if matches!(kind, 133..=137) {
            flow.kind = FlowKind::Neighbour;
        }
    }
}

/// Ports inside an ICMP error: only the first eight bytes are sure to be there.
#[inline(always)]
pub(crate) fn embedded_transport<F: Family, P: Packet>(packet: &P, flow: &mut Flow<F>) -> Option<()> {
    let offset = flow.transport as usize;
    match flow.protocol {
        TCP | UDP | SCTP => {
            let [s, d]: [u16; 2] = packet.load(offset)?;
            set_ports(flow, s, d);
        }
        p if p == F::ICMP => {
            let [head, _, id]: [u16; 3] = packet.load(offset)?;
            icmp(flow, head.to_le() as u8, id);
        }
        _ => {}
    }
    Some(())
}

/// Where the transport checksum of a protocol is.
#[inline(always)]
pub(crate) fn checksum<F: Family>(protocol: u8, transport: usize) -> Option<Checksum> {
    match protocol {
        TCP => Some(Checksum { offset: transport + 16, optional: false, pseudo: true }),
        UDP => Some(Checksum { offset: transport + 6, optional: F::NUMBER == 4, pseudo: true }),
        58 if F::NUMBER == 6 => Some(Checksum { offset: transport + 2, optional: false, pseudo: true }),
        _ => None,
    }
}
