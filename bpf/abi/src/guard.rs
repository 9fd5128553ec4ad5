//! What guards the node itself: the host firewall.

use crate::{assert_layout, event::Direction};

/// What guards the node's own traffic. All zeros: nothing does, and everything passes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Guard {
    /// Slot of the node's table; 0: none.
    pub slot: u32,
    /// Members of the safe set (`SAFE_*`) that are left to policy.
    pub unprotected: u32,
    /// UDP port of the overlay, host order.
    pub overlay_port: u32,
    pub reserved: u32,
}
assert_layout!(Guard, 16, slot = 0, unprotected = 4, overlay_port = 8, reserved = 12);

/// Addresses of the API server that a node knows of, of each family.
pub const API_SERVERS: u32 = 256;

/// Members of the safe set, as bits: traffic of the node that no policy cuts.
pub const SAFE_NEIGHBORS: u32 = 1;
pub const SAFE_PATH_ERRORS: u32 = 1 << 1;
pub const SAFE_DHCP: u32 = 1 << 2;
pub const SAFE_DNS: u32 = 1 << 3;
pub const SAFE_NTP: u32 = 1 << 4;
pub const SAFE_SSH: u32 = 1 << 5;
pub const SAFE_KUBELET: u32 = 1 << 6;
pub const SAFE_API_SERVER: u32 = 1 << 7;
pub const SAFE_ETCD: u32 = 1 << 8;
pub const SAFE_STREAMS: u32 = 1 << 9;

const IN: u8 = Direction::Ingress as u8;
const OUT: u8 = Direction::Egress as u8;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// The member of the safe set that a first packet belongs to, as a bit; 0: none. `port`: destination port or ICMP type,
/// host order. In the program, not in a map: what user space writes, or fails to write, cannot cut it.
#[inline(always)]
#[must_use]
pub const fn safe(direction: u8, protocol: u8, port: u16) -> u32 {
    match (protocol, port, direction) {
        (ICMPV6, 130..=137 | 143, _) => SAFE_NEIGHBORS,
        (ICMP, 3 | 11 | 12, _) | (ICMPV6, 1..=4, _) => SAFE_PATH_ERRORS,
        (UDP, 68 | 546, IN) | (UDP, 67 | 547, OUT) => SAFE_DHCP,
        (UDP | TCP, 53, OUT) => SAFE_DNS,
        (UDP, 123, OUT) => SAFE_NTP,
        (TCP, 22, IN) => SAFE_SSH,
        (TCP, 10250, _) => SAFE_KUBELET,
        (TCP, 6443, _) => SAFE_API_SERVER,
        (TCP, 2379 | 2380, _) => SAFE_ETCD,
        // probes of nodes, flows, operator, webhooks, views; the usual overlays, beside the one that is set
        (TCP, 4240 | 4244 | 4250..=4252, _) | (UDP, 8472 | 6081, _) => SAFE_STREAMS,
        _ => 0,
    }
}
