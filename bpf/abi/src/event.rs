//! What the programs tell user space.

use crate::assert_layout;

/// As the pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Direction {
    Ingress = 0,
    Egress = 1,
}

/// Program that saw the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum HookPoint {
    /// From a pod.
    FromContainer = 0,
    /// From the host's stack to a pod.
    ToContainer = 1,
    /// From the underlay.
    FromNetdev = 2,
    /// From the tunnel.
    FromOverlay = 3,
    /// From the host's stack into the tunnel.
    ToOverlay = 4,
    /// From the host's stack out of one of the node's devices: the host firewall's way out. (5 is taken by the waiting room,
    /// whose packets are told where they were met first.)
    FromHost = 6,
}

impl HookPoint {
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::FromContainer,
            1 => Self::ToContainer,
            2 => Self::FromNetdev,
            3 => Self::FromOverlay,
            4 => Self::ToOverlay,
            6 => Self::FromHost,
            _ => return None,
        })
    }
}

/// A packet that was dropped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropEvent {
    /// Nanoseconds since boot (`CLOCK_MONOTONIC`).
    pub time: u64,
    /// IPv4 in the first four bytes.
    pub source: [u32; 4],
    pub destination: [u32; 4],
    pub source_identity: u32,
    pub destination_identity: u32,
    /// Rule that decided; 0: none.
    pub rule: u32,
    pub ifindex: u32,
    /// Length of the packet with its link-layer header.
    pub length: u32,
    pub source_port: u16,
    pub destination_port: u16,
    /// [`crate::DropReason`].
    pub reason: u8,
    /// [`Direction`]: whose policy, or which way the packet went.
    pub direction: u8,
    /// 4 or 6; 0: neither.
    pub family: u8,
    pub protocol: u8,
    pub tcp_flags: u8,
    /// [`HookPoint`].
    pub hook: u8,
    /// Words, not an array of bytes: zeroing one is a loop in BPF.
    pub reserved: u16,
    /// Where the packet comes from. [`HookPoint::FromOverlay`]: the id in its tunnel header (0: none), and 0. Elsewhere:
    /// the cookie of the socket that sent it, and the id of that socket's cgroup (v2); 0 of a packet without a socket,
    /// which came by a wire or is passed on.
    pub sender: [u64; 2],
}
assert_layout!(
    DropEvent,
    88,
    time = 0,
    source = 8,
    destination = 24,
    source_identity = 40,
    rule = 48,
    ifindex = 52,
    length = 56,
    source_port = 60,
    reason = 64,
    reserved = 70,
    sender = 72
);

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FlowKind {
    /// Allowed and recorded.
    New = 1,
    /// RST, or FIN from both ends.
    Closed = 2,
    /// It went on when it was judged anew, but a rule would deny it that did not before.
    Audited = 3,
}

/// In [`FlowEvent::audit`]: this side's policy would deny it, if it were enforced.
#[inline(always)]
pub const fn audit_bit(side: Direction) -> u8 {
    1 << side as u8
}

/// A change of a connection's state. Source is the originator.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEvent {
    pub time: u64,
    /// [`FlowKind::Closed`]: bytes sent by the originator, and by the other. [`FlowKind::New`]: where its first packet comes
    /// from, as [`DropEvent::sender`]. A connection that begins has no counters, and the packet that ends one tells of no
    /// one end's socket: so both have the same place, and a record stays as small as it was. Else: zeros.
    pub detail: [u64; 2],
    pub source: [u32; 4],
    pub destination: [u32; 4],
    /// Sent by the originator, sent by the other.
    pub packets: [u32; 2],
    pub source_identity: u32,
    pub destination_identity: u32,
    /// Rule that allowed it on the last of the judging ends; 0: none. If `audit` is not 0: that of the destination's side,
    /// which allows it or would deny it.
    pub rule: u32,
    /// Where the event was seen.
    pub ifindex: u32,
    pub source_port: u16,
    pub destination_port: u16,
    /// [`FlowKind`].
    pub kind: u8,
    /// 4 or 6.
    pub family: u8,
    pub protocol: u8,
    pub tcp_flags: u8,
    /// [`HookPoint`].
    pub hook: u8,
    /// Bits of [`audit_bit`].
    pub audit: u8,
    /// [`FlowKind::New`]: the [`crate::Action`] that took the first packet on; 0: not told. It was zero before it meant
    /// something, so that records of older programs read as what they are.
    pub towards: u16,
    /// If `audit` is not 0: the rule of the source's side.
    pub egress_rule: u32,
}
assert_layout!(
    FlowEvent,
    96,
    time = 0,
    detail = 8,
    source = 24,
    destination = 40,
    packets = 56,
    source_identity = 64,
    rule = 72,
    ifindex = 76,
    source_port = 80,
    kind = 84,
    hook = 88,
    audit = 89,
    towards = 90,
    egress_rule = 92
);

/// Per-CPU counter of one (reason, direction).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metric {
    pub packets: u64,
    pub bytes: u64,
}
assert_layout!(Metric, 16, packets = 0, bytes = 8);

/// Places of the metrics array: reason × 2 + direction.
pub const METRICS: u32 = 512;
/// Index of the counter of connections that were allowed (in place of a reason).
pub const METRIC_ALLOWED: u32 = 0;

/// Records that found their ring full: place in the lost array.
pub const LOST_DROPS: u32 = 0;
pub const LOST_FLOWS: u32 = 1;
