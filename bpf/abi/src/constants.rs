//! Load-time constants (`.rodata` globals of the object) and numbers that both sides agree on.
//!
//! Time is counted in *ticks*: `jiffies >> TICK_SHIFT`. The loader finds the kernel's HZ and passes time-outs in ticks.

/// Jiffies per tick, as a shift. At 250 Hz a tick is 1.024 s.
pub const TICK_SHIFT: u32 = 8;

/// Mark on packets that carry their tunnel header already. Cleared before they leave.
pub const MARK_ENCAPSULATED: u32 = 0x0a0e_0001;

/// Mark on fragments that wait for their first one: these bits, then the number of the program that met it
/// ([`MARK_MET_SHIFT`], four bits), then how often it has waited.
pub const MARK_WAITING: u32 = 0x0a0f_0000;
pub const MARK_WAITING_MASK: u32 = 0xffff_0000;
pub const MARK_MET_SHIFT: u32 = 12;
pub const MARK_LAPS_MASK: u32 = 0xfff;
/// Times that a fragment waits before it is dropped. The waiting room lets one fragment out in half a millisecond, so
/// this is 150 ms for one that waits alone.
pub const LAPS: u32 = 300;

/// Mark on packets of a pod that have been through the queue of what it may send.
pub const MARK_QUEUED_OUT: u32 = 0x0a10_0001;
/// Mark on packets that may go to a pod, on their way through the queue of its link.
pub const MARK_QUEUED_IN: u32 = 0x0a10_0002;

/// Bytes that wait at most. The room's queue takes twice that: nothing is lost in it without a reason.
pub const ROOM_BYTES: u32 = 1 << 20;
/// Ticks without anyone leaving the room after which nobody is in it, whatever was counted: one packet leaves in half a
/// millisecond.
pub const ROOM_SILENT: u32 = 3;

/// Link-layer address of every link's host side and of the tunnel device: one for all, so that a packet needs no
/// rewriting between them (its receiver's check of "is this for me" passes everywhere). Locally administered, unicast.
pub const HOST_MAC: [u8; 6] = [0x0a, 0x58, 0xa9, 0xfe, 0x01, 0x01];
/// Source of packets that the host's stack sends into the tunnel: the receiver would take its own address for a loop.
pub const OVERLAY_SOURCE_MAC: [u8; 6] = [0x0a, 0x58, 0xa9, 0xfe, 0x01, 0x02];

/// Source that a pod sees when a Service sends it to itself: link-local, never routed. 169.254.42.1.
pub const LOOPBACK_V4: u32 = u32::from_ne_bytes([169, 254, 42, 1]);
/// The same for IPv6: fd61:786f:6e65:6d65::42 (unique local).
pub const LOOPBACK_V6: [u64; 2] = [
    u64::from_ne_bytes([0xfd, 0x61, 0x78, 0x6f, 0x6e, 0x65, 0x6d, 0x65]),
    u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 0x42]),
];

/// Names of the `.rodata` globals, all `u32`.
pub mod global {
    pub const UPLINK: &str = "UPLINK";
    pub const OVERLAY: &str = "OVERLAY";
    pub const FEATURES: &str = "FEATURES";
    pub const TIMEOUT_ESTABLISHED: &str = "TIMEOUT_ESTABLISHED";
    pub const TIMEOUT_OPENING: &str = "TIMEOUT_OPENING";
    pub const TIMEOUT_CLOSING: &str = "TIMEOUT_CLOSING";
    pub const TIMEOUT_HALF_CLOSED: &str = "TIMEOUT_HALF_CLOSED";
    pub const TIMEOUT_DATAGRAM: &str = "TIMEOUT_DATAGRAM";
    pub const TIMEOUT_DATAGRAM_REPLIED: &str = "TIMEOUT_DATAGRAM_REPLIED";
    pub const TIMEOUT_OTHER: &str = "TIMEOUT_OTHER";
    pub const TIMEOUT_FRAGMENT: &str = "TIMEOUT_FRAGMENT";
    /// Halves of the cookie of the one network namespace whose sockets choose backends; 0: all do.
    pub const CHOOSERS_LOW: &str = "CHOOSERS_LOW";
    pub const CHOOSERS_HIGH: &str = "CHOOSERS_HIGH";
    /// Tests only: time, random numbers and tunnel identities come from the control map, and the verdict goes there.
    pub const TESTING: &str = "TESTING";
}

/// Bits of the `FEATURES` global.
pub mod feature {
    pub const NATIVE: u32 = 1;
    pub const IPV4: u32 = 1 << 1;
    pub const IPV6: u32 = 1 << 2;
    pub const SERVICES: u32 = 1 << 3;
    pub const ALLOW_OWN_HOST: u32 = 1 << 4;
    /// Flow events are wanted.
    pub const FLOWS: u32 = 1 << 5;
    /// The kernel has `bpf_set_retval` (5.18).
    pub const SET_RETVAL: u32 = 1 << 6;
    /// What a pod's own egress policy denies is answered.
    pub const ANSWER_DENIED: u32 = 1 << 7;
    /// Packets of other nodes' pods may come by the underlay, beside the tunnel.
    pub const DIRECT: u32 = 1 << 8;
}

/// Places of the control array.
pub const CONTROL_EPOCH: u32 = 0;
/// Tests: the tick.
pub const CONTROL_NOW: u32 = 1;
/// Tests: the "random" number.
pub const CONTROL_RANDOM: u32 = 2;
/// Tests: the identity of the tunnel header.
pub const CONTROL_TUNNEL: u32 = 3;
/// Tests: first of the verdict's four words.
pub const CONTROL_VERDICT: u32 = 4;
/// Interface that leads into the waiting room of fragments; 0: there is none.
pub const CONTROL_ROOM: u32 = 8;
/// Tests: whether a socket of the node's sent the packet.
pub const CONTROL_OWN: u32 = 9;
/// Tests: cookie of the socket that sent the packet, and id of its cgroup.
pub const CONTROL_SOCKET: u32 = 10;
pub const CONTROL_CGROUP: u32 = 11;
pub const CONTROLS: u32 = 16;
