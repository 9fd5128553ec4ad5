//! Connections: one entry for both directions.

use crate::{Address6, assert_layout};

/// Connection of IPv4: the two ends in ascending order of (address, port), so that both directions find one entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key4 {
    pub a: u32,
    pub b: u32,
    pub a_port: u16,
    pub b_port: u16,
    /// IP protocol. Wide, so that the key has no padding (three padding bytes cost a byte-wise memset per packet).
    pub protocol: u32,
}
assert_layout!(Key4, 16, a = 0, b = 4, a_port = 8, b_port = 10, protocol = 12);

/// Connection of IPv6; see [`Key4`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key6 {
    pub a: Address6,
    pub b: Address6,
    pub a_port: u16,
    pub b_port: u16,
    pub protocol: u32,
}
assert_layout!(Key6, 40, a = 0, b = 16, a_port = 32, b_port = 34, protocol = 36);

/// State of a connection: one cache line. Index 0 of each pair is the `a` end of the key, index 1 the `b` end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conntrack {
    /// Bytes sent *by* the end, layer 2 included.
    pub bytes: [u64; 2],
    /// Packets sent by the end.
    pub packets: [u32; 2],
    /// Link of the end: the host side of a local pod's link, the device towards a remote one, 0 for the host's stack.
    pub ifindex: [u32; 2],
    /// Tick ([`crate::constants`]) from which the entry counts as absent.
    pub expires: u32,
    /// Tick of creation.
    pub created: u32,
    /// Sum of epoch and of the revisions of both slots when the verdict was made. Each only ever grows, so an equal
    /// sum means that nothing changed.
    pub revision: u32,
    /// Policy slot of the end, [`NO_SLOT`] if it is not a local endpoint.
    pub slots: [u16; 2],
    /// Identity of the end.
    pub identity: [u32; 2],
    /// Bits `FLAG_*` and the two [`Action`]s.
    pub flags: u32,
    /// Index of the remote end's node in the node table; 0: none.
    pub node: u16,
    pub reserved: u16,
}
assert_layout!(
    Conntrack,
    64,
    bytes = 0,
    packets = 16,
    ifindex = 24,
    expires = 32,
    created = 36,
    revision = 40,
    slots = 44,
    identity = 48,
    flags = 56,
    node = 60,
    reserved = 62,
);

/// Slot of an end that is no local endpoint: its revision never changes.
pub const NO_SLOT: u16 = 0;

/// The originator is the `b` end.
pub const FLAG_ORIGIN_B: u32 = 1;
/// A packet against the originator's direction was seen.
pub const FLAG_REPLIED: u32 = 1 << 1;
/// `a` sent a FIN; shifted by one for `b`.
pub const FLAG_FIN_A: u32 = 1 << 2;
pub const FLAG_FIN_B: u32 = 1 << 3;
/// RST seen, or FIN from both ends.
pub const FLAG_CLOSED: u32 = 1 << 4;
/// The originator spoke to a Service: replies are translated back.
pub const FLAG_SERVICE: u32 = 1 << 5;
/// The originator was sent back to itself by a Service.
pub const FLAG_LOOPBACK: u32 = 1 << 6;
/// That a rule would deny it was told: it is not told again with each change of a table or an address.
pub const FLAG_AUDITED: u32 = 1 << 7;
/// Any of the bits that keep a packet off the shortest path.
pub const FLAGS_SLOW: u32 = FLAG_CLOSED | FLAG_SERVICE | FLAG_LOOPBACK;
const ACTION_SHIFT: u32 = 8;
/// Packets to the `a` end go through the queue of its link ([`crate::tables::IP_QUEUED`]); shifted by one for `b`. Programs
/// that know no limits leave it out and deliver past the queue.
const FLAG_QUEUED_A: u32 = 1 << 16;

/// How packets reach an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    None = 0,
    /// Into the pod behind the link (`bpf_redirect_peer`).
    Local = 1,
    /// The host's stack routes it.
    Stack = 2,
    /// Out of the uplink to a known next hop (`bpf_redirect_neigh`).
    NextHop = 3,
    /// Into the tunnel.
    Tunnel = 4,
}

impl Action {
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 0xf {
            1 => Self::Local,
            2 => Self::Stack,
            3 => Self::NextHop,
            4 => Self::Tunnel,
            _ => Self::None,
        }
    }
}

impl Conntrack {
    /// Action of packets *towards* the end (false: `a`, true: `b`), as bits.
    #[inline(always)]
    pub const fn action_bits(flags: u32, b: bool) -> u32 {
        (flags >> (if b { ACTION_SHIFT + 4 } else { ACTION_SHIFT })) & 0xf
    }
    /// Bits that say "packets towards this end take this action".
    #[inline(always)]
    pub const fn with_action(action: Action, b: bool) -> u32 {
        (action as u32) << (if b { ACTION_SHIFT + 4 } else { ACTION_SHIFT })
    }
    /// Bits that say "packets towards this end go through a queue", by the end's flags (`IP_*`). Without a branch: the
    /// verifier follows both ways of each.
    #[inline(always)]
    pub const fn with_queue(ip_flags: u16, b: bool) -> u32 {
        ((ip_flags & crate::tables::IP_QUEUED) as u32) << (13 + b as u32)
    }
    /// Whether packets towards the end (false: `a`, true: `b`) go through a queue.
    #[inline(always)]
    pub const fn is_queued(flags: u32, b: bool) -> bool {
        flags & (FLAG_QUEUED_A << b as u32) != 0
    }
    /// Whether the originator is the `b` end.
    #[inline(always)]
    pub const fn origin_is_b(&self) -> bool {
        self.flags & FLAG_ORIGIN_B != 0
    }
}

const _: () = assert!(Conntrack::with_queue(crate::tables::IP_QUEUED, false) == FLAG_QUEUED_A);
const _: () = assert!(Conntrack::is_queued(Conntrack::with_queue(crate::tables::IP_QUEUED, true), true));
