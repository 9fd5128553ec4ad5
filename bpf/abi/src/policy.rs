//! Policy tables: an outer array of slots, each an LPM trie.

use crate::{
    assert_layout,
    event::{Direction, audit_bit},
    tables::{IDENTITY_FIRST_POD, IDENTITY_WORLD, IDENTITY_WORLD_V4, IDENTITY_WORLD_V6},
};

/// Entries that one table may hold.
pub const TABLE_ENTRIES: u32 = 16384;
/// Slots of a node. Slot 0 is never used: it stands for "no local endpoint".
pub const SLOTS: u32 = 4096;

/// Data of a table's LPM key, longest match first. The fixed part (peer, direction) always counts; protocol and leading
/// port bits count as the prefix length says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// Peer class; `KIND_*`: everyone of a kind; 0: whoever. Looked up in this order.
    pub peer: u32,
    /// See [`crate::Direction`].
    pub direction: u8,
    pub protocol: u8,
    /// Network order, so that its leading bits come first.
    pub port: u16,
}
assert_layout!(PolicyKey, 8, peer = 0, direction = 4, protocol = 5, port = 6);

/// In a key's `peer`: every pod of the cluster at its IPv4 address. Numbers that no identity and no class has.
pub const KIND_PODS_V4: u32 = 252;
pub const KIND_PODS_V6: u32 = 253;
/// In a key's `peer`: every IPv4 address outside of the cluster.
pub const KIND_WORLD_V4: u32 = 254;
pub const KIND_WORLD_V6: u32 = 255;

/// The kind of whoever has the identity; 0: none. What [`PolicyKey::peer`] can say of many at once between class and
/// whoever.
#[inline(always)]
pub const fn kind(identity: u32, v6: bool) -> u32 {
    if identity >= IDENTITY_FIRST_POD {
        KIND_PODS_V4 | v6 as u32
    } else if identity == IDENTITY_WORLD || identity == IDENTITY_WORLD_V4 || identity == IDENTITY_WORLD_V6 {
        KIND_WORLD_V4 | v6 as u32
    } else {
        0
    }
}

/// Prefix bits of peer and direction.
pub const PREFIX_FIXED: u32 = 40;
/// Prefix bits of a key that names the protocol.
pub const PREFIX_PROTOCOL: u32 = 48;
/// Prefix bits of a key that names one port: what lookups use.
pub const PREFIX_FULL: u32 = 64;

/// What an entry says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PolicyValue {
    pub rule: u32,
    pub proxy_port: u16,
    pub auth: u8,
    /// One of `DENY`, `ALLOW`, `AUDIT`, `DEFAULT_DENY`, `DEFAULT_ALLOW`, `DEFAULT_AUDIT`.
    pub verdict: u8,
}
assert_layout!(PolicyValue, 8, rule = 0, proxy_port = 4, auth = 6, verdict = 7);

/// A rule denies it.
pub const DENY: u8 = 0;
/// A rule allows it.
pub const ALLOW: u8 = 1;
/// The table's default for the direction: the entry of whoever, all protocols ([`PREFIX_FIXED`] bits, peer 0). It lives
/// in the table, so that replacing the table replaces its defaults at the same instant.
pub const DEFAULT_DENY: u8 = 2;
pub const DEFAULT_ALLOW: u8 = 3;
/// It passes, and that a rule would deny it is told.
pub const AUDIT: u8 = 4;
pub const DEFAULT_AUDIT: u8 = 5;

/// A slot's revision and, for user space, its defaults.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Grows with each change of the slot.
    pub revision: u32,
    /// Bits `SLOT_*`.
    pub flags: u32,
    /// Rule behind the default of each direction, by [`crate::Direction`].
    pub rules: [u32; 2],
}
assert_layout!(Slot, 16, revision = 0, flags = 4, rules = 8);

/// A judgement that was made, and on what: connections of the same kind follow each other, and need not ask the tables
/// each time. A program's own, never shared with user space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Judgement {
    /// Peer classes of originator and destination.
    pub peers: [u32; 2],
    pub identities: [u32; 2],
    /// Their policy slots.
    pub slots: [u16; 2],
    /// Protocol, port or ICMP type, family, which ends are local; 0: nothing is kept here.
    pub what: u32,
    /// Sum of the revisions of both slots, read before their tables were.
    pub revision: u32,
    /// 0: allowed. Below [`JUDGED_DROP`]: allowed, with the bits of the sides that would deny it
    /// ([`crate::event::audit_bit`]). Else reason and direction of the drop.
    pub outcome: u32,
    pub rule: u32,
    /// Where a side would deny it: the rule of the source's side, `rule` being of the destination's.
    pub egress_rule: u32,
}
assert_layout!(
    Judgement,
    40,
    peers = 0,
    identities = 8,
    slots = 16,
    what = 20,
    revision = 24,
    outcome = 28,
    rule = 32,
    egress_rule = 36,
);

/// Reasons are above.
pub const JUDGED_DROP: u32 = 4;
const _: () = assert!(JUDGED_DROP == (audit_bit(Direction::Egress) << 1) as u32);

/// Places for judgements on each CPU. A power of two.
pub const JUDGEMENTS: u32 = 256;

/// The slot has a table.
pub const SLOT_VALID: u32 = 1;
/// Default of ingress is allow; shifted by the direction's number for egress.
pub const SLOT_ALLOW_INGRESS: u32 = 2;
pub const SLOT_ALLOW_EGRESS: u32 = 4;
/// What the default lets pass is told.
pub const SLOT_AUDIT_INGRESS: u32 = 8;
pub const SLOT_AUDIT_EGRESS: u32 = 16;

const SLOT_KIND_SHIFT: u32 = 8;
/// All flags of [`slot_kind`].
pub const SLOT_KINDS: u32 = 0xff << SLOT_KIND_SHIFT;

/// Flag of a slot whose table may have entries for a kind in a direction (its number): it is set before the first such
/// entry is put, so that nobody looks for what is not there, and everybody for what is.
#[inline(always)]
pub const fn slot_kind(kind: u32, direction: u8) -> u32 {
    1 << (SLOT_KIND_SHIFT + ((kind & 3) | (direction as u32 & 1) << 2))
}
