//! Who is behind an address.
//!
//! What policy knows of an address is there twice, as [`Side`]s: the programs read the side that the lowest bit of the
//! epoch names. Whoever changes several addresses at once writes the other side of each and then lets the epoch grow by
//! one: for every packet all of them change together. An epoch that grows by two changes no side.

use crate::assert_layout;

/// What policy knows of an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Side {
    pub identity: u32,
    /// Peer class: key of policy tables.
    pub peer: u32,
}
assert_layout!(Side, 8, identity = 0, peer = 4);

impl Side {
    #[must_use]
    pub const fn new(identity: u32, peer: u32) -> Self {
        Self { identity, peer }
    }
}

/// Value of an ipcache prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IpInfo {
    /// By the lowest bit of the epoch.
    pub sides: [Side; 2],
    /// Index in the node table of the node that holds the address; 0: plain routing.
    pub node: u16,
    /// Bits `IP_*`.
    pub flags: u16,
}
assert_layout!(IpInfo, 20, sides = 0, node = 16, flags = 18);

impl IpInfo {
    /// The same on both sides.
    #[must_use]
    pub const fn settled(side: Side, node: u16, flags: u16) -> Self {
        Self { sides: [side; 2], node, flags }
    }
}

/// The address is a node's own: packets to it are routed by the stack. Its `node` serves replies to what came by the
/// tunnel.
pub const IP_NODE: u16 = 1;
/// `node` was filled in from the address itself, not by the caller.
pub const IP_NODE_IMPLIED: u16 = 2;

/// Packets to the address are routed by the stack; `node` serves those that the stack still routes into the tunnel.
pub const IP_DIRECT: u16 = 4;

/// Of an endpoint: packets to it go through the queue of its link, which lets so many bytes a second pass.
pub const IP_QUEUED: u16 = 8;

/// A local endpoint's address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Host side of the pod's link.
    pub ifindex: u32,
    /// By the lowest bit of the epoch.
    pub sides: [Side; 2],
    /// Places of its policy table, as the sides.
    pub slots: [u16; 2],
    /// Link-layer address of the pod's side in memory order; zero: not checked. Half words, not bytes: zeroing six bytes
    /// is a loop in BPF.
    pub mac: [u16; 3],
    /// 0 or [`IP_QUEUED`]. Programs that know no limits read none, and need none to be right.
    pub flags: u16,
}
assert_layout!(Endpoint, 32, ifindex = 0, sides = 4, slots = 20, mac = 24, flags = 30);

impl Endpoint {
    /// The same on both sides.
    #[must_use]
    pub const fn settled(ifindex: u32, side: Side, slot: u16, mac: [u16; 3]) -> Self {
        Self { ifindex, sides: [side; 2], slots: [slot; 2], mac, flags: 0 }
    }

    /// The same with other flags.
    #[must_use]
    pub const fn with_flags(self, flags: u16) -> Self {
        Self { flags, ..self }
    }
}

/// What the queues of a pod's link are. Key: index of an interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Queue {
    /// Of a pod's link: the interface whose queue takes what the pod sends; 0: none does. Of the other end of that one: the
    /// pod's link.
    pub to: u32,
    /// Link-layer address of the pod's side.
    pub mac: [u16; 3],
    /// Of a pod's link: 0 or [`IP_QUEUED`].
    pub flags: u16,
}
assert_layout!(Queue, 12, to = 0, mac = 4, flags = 10);

/// Two a pod.
pub const QUEUES: u32 = 8192;

/// Nodes that packets are sent to. Entry 0 is never used.
pub const NODES: u32 = 8192;

/// Underlay address of a node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Node {
    /// IPv4 in the first four bytes.
    pub address: [u32; 4],
    /// 4 or 6; 0: free.
    pub family: u32,
}
assert_layout!(Node, 20, address = 0, family = 16);

/// Who is in the waiting room.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Waiting {
    /// Bytes that went in and did not come out.
    pub bytes: i64,
    /// Tick in which something came out last.
    pub left: u32,
    pub reserved: u32,
}
assert_layout!(Waiting, 16, bytes = 0, left = 8, reserved = 12);

/// Answers that one sender got from one CPU of late. A program's own, never shared with user space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Answers {
    /// Tick that `count` is of.
    pub tick: u32,
    pub count: u32,
}
assert_layout!(Answers, 8, tick = 0, count = 4);

/// Places for senders on each CPU, by the number of their interface: those that are so many apart share one. A power of
/// two.
pub const ANSWERED: u32 = 1024;
/// Answers that one sender gets from one CPU in a tick: a burst of connections is told at once, and a sender that asks for
/// nothing else takes less than a thousandth of the CPU (3 µs an answer, 256 ms the shortest tick).
pub const ANSWERS_PER_TICK: u32 = 64;

/// Reserved identities that the programs know (numbers of Cilium).
pub const IDENTITY_UNKNOWN: u32 = 0;
pub const IDENTITY_HOST: u32 = 1;
pub const IDENTITY_WORLD: u32 = 2;
pub const IDENTITY_REMOTE_NODE: u32 = 6;
pub const IDENTITY_WORLD_V4: u32 = 9;
pub const IDENTITY_WORLD_V6: u32 = 10;
/// This and larger ones are identities of pods.
pub const IDENTITY_FIRST_POD: u32 = 256;
