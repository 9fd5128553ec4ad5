//! Who is behind an address.

use crate::assert_layout;

/// Value of an ipcache prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IpInfo {
    pub identity: u32,
    /// Peer class: key of policy tables.
    pub peer: u32,
    /// Index in the node table of the node that holds the address; 0: plain routing.
    pub node: u16,
    /// Bits `IP_*`.
    pub flags: u16,
}
assert_layout!(IpInfo, 12, identity = 0, peer = 4, node = 8, flags = 10);

/// The address is a node's own: packets to it are routed by the stack. Its `node` serves replies to what came by the
/// tunnel.
pub const IP_NODE: u16 = 1;
/// `node` was filled in from the address itself, not by the caller.
pub const IP_NODE_IMPLIED: u16 = 2;

/// A local endpoint's address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Host side of the pod's link.
    pub ifindex: u32,
    pub identity: u32,
    pub peer: u32,
    pub slot: u16,
    /// Link-layer address of the pod's side in memory order; zero: not checked. Half words, not bytes: zeroing six bytes
    /// is a loop in BPF.
    pub mac: [u16; 3],
}
assert_layout!(Endpoint, 20, ifindex = 0, identity = 4, peer = 8, slot = 12, mac = 14);

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

/// Reserved identities that the programs know (numbers of Cilium).
pub const IDENTITY_UNKNOWN: u32 = 0;
pub const IDENTITY_HOST: u32 = 1;
pub const IDENTITY_WORLD: u32 = 2;
pub const IDENTITY_REMOTE_NODE: u32 = 6;
pub const IDENTITY_WORLD_V4: u32 = 9;
pub const IDENTITY_WORLD_V6: u32 = 10;
/// This and larger ones are identities of pods.
pub const IDENTITY_FIRST_POD: u32 = 256;
