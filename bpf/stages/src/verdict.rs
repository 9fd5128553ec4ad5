//! What happens to a packet.

use axoneme_abi::{Direction, DropReason};

/// Kind of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// None yet: fresh scratch memory. Carried out as a drop. (Not being zero keeps [`Verdict::PASS`] from being
    /// written by a byte-wise memset.)
    Undecided = 0,
    /// On to the host's stack, or to the device that it is about to enter.
    Pass = 6,
    /// Dropped: see [`Verdict::reason`].
    Drop = 1,
    /// Into the pod behind a link.
    Local = 2,
    /// Out of a device to the node's address as next hop.
    NextHop = 3,
    /// Into the tunnel to a node, with an identity.
    Tunnel = 4,
    /// The packet was turned into its refusal: back to the pod that sent it. The drop is counted and reported.
    Reject = 5,
    /// Into the waiting room: a fragment that came before its first one.
    Wait = 7,
    /// Into the pod behind a link, through the link's queue.
    Queue = 8,
}

/// Verdict of a packet. Plain words instead of an enum with payload: the compiler keeps them in registers, where an enum
/// becomes memory that verifiers before 6.3 refuse to see partly written.
#[must_use = "a packet needs a verdict that is carried out"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub kind: Kind,
    /// Interface index, or reason and direction of a drop.
    pub argument: u32,
    /// Index of the node, or rule of a drop.
    pub node: u32,
    /// Identity that the tunnel carries.
    pub identity: u32,
}

impl Verdict {
    pub const PASS: Self = Self { kind: Kind::Pass, argument: 0, node: 0, identity: 0 };

    #[inline(always)]
    pub const fn local(ifindex: u32) -> Self {
        Self { kind: Kind::Local, argument: ifindex, node: 0, identity: 0 }
    }
    #[inline(always)]
    pub const fn queue(ifindex: u32) -> Self {
        Self { kind: Kind::Queue, argument: ifindex, node: 0, identity: 0 }
    }
    #[inline(always)]
    pub const fn next_hop(ifindex: u32, node: u32) -> Self {
        Self { kind: Kind::NextHop, argument: ifindex, node, identity: 0 }
    }
    #[inline(always)]
    pub const fn tunnel(ifindex: u32, node: u32, identity: u32) -> Self {
        Self { kind: Kind::Tunnel, argument: ifindex, node, identity }
    }
    #[inline(always)]
    pub const fn wait(room: u32) -> Self {
        Self { kind: Kind::Wait, argument: room, node: 0, identity: 0 }
    }
    /// Drop without a rule.
    #[inline(always)]
    pub const fn drop(reason: DropReason, direction: Direction) -> Self {
        Self::denied(reason, direction, 0)
    }
    /// Drop by a rule.
    #[inline(always)]
    pub const fn denied(reason: DropReason, direction: Direction, rule: u32) -> Self {
        Self { kind: Kind::Drop, argument: reason as u32 | (direction as u32) << 8, node: rule, identity: 0 }
    }
    /// The drop's reason and direction numbers; of another kind: zeros.
    #[inline(always)]
    pub const fn drop_numbers(self) -> (u8, u8) {
        match self.kind {
            Kind::Drop | Kind::Reject => (self.argument as u8, (self.argument >> 8) as u8),
            _ => (0, 0),
        }
    }
    /// The drop's reason.
    pub const fn reason(self) -> Option<DropReason> {
        DropReason::from_number(self.drop_numbers().0)
    }
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        matches!(self.kind, Kind::Drop)
    }
}
