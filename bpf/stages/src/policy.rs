//! Who speaks to whom, and whether they may.

use axoneme_abi::{
    Direction, DropReason,
    conntrack::NO_SLOT,
    constants::feature,
    event::audit_bit,
    policy::{
        AUDIT, DEFAULT_AUDIT, DEFAULT_DENY, DENY, JUDGED_DROP, JUDGEMENTS, Judgement, PolicyKey, kind, slot_kind,
    },
    tables::{Endpoint, IDENTITY_HOST, IDENTITY_WORLD, IP_DIRECT, IP_NODE, IpInfo, Side},
};

use crate::{Env, Family, Kind, Maps, Verdict};

/// Who is behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Host side of a local pod's link; 0: not local.
    pub ifindex: u32,
    pub identity: u32,
    pub peer: u32,
    /// Index of the node that holds it; 0: plain routing.
    pub node: u16,
    /// Bits of [`IpInfo::flags`] or [`Endpoint::flags`].
    pub flags: u16,
    pub slot: u16,
    /// Link-layer address of a local pod as one word ([`mac`]); zero: not checked.
    pub mac: u64,
}

impl End {
    #[inline(always)]
    pub(crate) const fn is_local(&self) -> bool {
        self.ifindex != 0
    }
    #[inline(always)]
    pub(crate) const fn is_node(&self) -> bool {
        self.flags & IP_NODE != 0
    }
    #[inline(always)]
    pub(crate) const fn is_direct(&self) -> bool {
        self.flags & IP_DIRECT != 0
    }
    #[inline(always)]
    pub(crate) const fn endpoint(e: Endpoint, epoch: u32) -> Self {
        let [even, odd] = e.slots;
        let Side { identity, peer } = side(e.sides, epoch);
        let slot = if epoch & 1 == 0 { even } else { odd };
        Self { ifindex: e.ifindex, identity, peer, node: 0, flags: e.flags, slot, mac: mac(e.mac) }
    }
    #[inline(always)]
    pub(crate) const fn remote(i: IpInfo, epoch: u32) -> Self {
        let Side { identity, peer } = side(i.sides, epoch);
        Self { ifindex: 0, identity, peer, node: i.node, flags: i.flags, slot: NO_SLOT, mac: 0 }
    }
}

/// Chosen by a condition, not by an index: old verifiers follow no variable place on the stack.
#[inline(always)]
const fn side([even, odd]: [Side; 2], epoch: u32) -> Side {
    if epoch & 1 == 0 { even } else { odd }
}

/// A link-layer address as one word.
#[inline(always)]
pub(crate) const fn mac([a, b, c]: [u16; 3]) -> u64 {
    a as u64 | (b as u64) << 16 | (c as u64) << 32
}

/// Who is behind the address: an endpoint of this node, else what the ipcache says, else the world. `epoch`: as it was
/// before this call; all ends of a packet by the same one.
#[inline(always)]
pub(crate) fn resolve<F: Family, E: Maps<F>>(env: &E, address: F::Address, epoch: u32) -> End {
    if let Some(e) = env.endpoint(address) {
        return End::endpoint(e, epoch);
    }
    let world = Side::new(IDENTITY_WORLD, IDENTITY_WORLD);
    End::remote(env.ipcache(address).unwrap_or(IpInfo::settled(world, 0, 0)), epoch)
}

/// Whom a judgement is of: what decides it besides the tables.
#[inline(always)]
fn case<F: Family>(source: &End, destination: &End, protocol: u8, port: u16, revision: u32) -> Judgement {
    let places = (source.is_local() as u32) | (destination.is_local() as u32) << 1;
    let family = if F::NUMBER == 4 { 1 } else { 2 };
    Judgement {
        peers: [source.peer, destination.peer],
        identities: [source.identity, destination.identity],
        slots: [source.slot, destination.slot],
        what: protocol as u32 | places << 8 | family << 10 | (port as u32) << 16,
        revision,
        outcome: 0,
        rule: 0,
        egress_rule: 0,
    }
}

/// Where the judgement of a case is kept. Odd factors spread all bits of a word into its upper half.
#[inline(always)]
fn place_of(of: &Judgement) -> u32 {
    let ([a, b], [s, d]) = (of.peers, of.slots);
    let mut h = a.wrapping_mul(0x9e37_79b1) ^ b.wrapping_mul(0x85eb_ca77) ^ of.what.wrapping_mul(0xc2b2_ae3d);
    h ^= (s as u32 | (d as u32) << 16).wrapping_mul(0x27d4_eb2f);
    (h >> 16 ^ h >> 24) & (JUDGEMENTS - 1)
}

/// A judgement: [`Verdict::PASS`] with the rule in `node`, or a drop. Where a side would deny it if it were enforced:
/// the sides' bits in `argument`, the destination's rule in `node`, the source's in `identity`. `revision`: sum of both ends' slots as it was before
/// this call. The tables are asked only where nobody of the same kind was judged since.
#[inline(always)]
pub(crate) fn judge<F: Family, E: Env>(
    env: &E,
    source: &End,
    destination: &End,
    (protocol, port): (u8, u16),
    revision: u32,
) -> Verdict {
    let of = case::<F>(source, destination, protocol, port, revision);
    let place = place_of(&of);
    let kept = env.with_judgement(place, |j| {
        let same = j.what == of.what
            && j.peers == of.peers
            && j.identities == of.identities
            && j.slots == of.slots
            && j.revision == of.revision;
        let kind = if j.outcome < JUDGED_DROP { Kind::Pass } else { Kind::Drop };
        same.then_some(Verdict { kind, argument: j.outcome, node: j.rule, identity: j.egress_rule })
    });
    if let Some(Some(v)) = kept {
        return v;
    }
    let v = ask::<F, E>(env, source, destination, protocol, port);
    env.with_judgement(place, |j| *j = Judgement { outcome: v.argument, rule: v.node, egress_rule: v.identity, ..of });
    v
}

/// Asks the tables.
#[inline(always)]
fn ask<F: Family, E: Env>(env: &E, source: &End, destination: &End, protocol: u8, port: u16) -> Verdict {
    let mut egress = Verdict::PASS;
    if source.is_local() {
        let v = table::<F, E>(env, source.slot, destination, Direction::Egress, protocol, port);
        if v.is_drop() {
            return v;
        }
        egress = v;
    }
    if destination.is_local() {
        let v = table::<F, E>(env, destination.slot, source, Direction::Ingress, protocol, port);
        // The node may always reach its own pods (probes), where the configuration says so: by the table's rule for it, and
        // without one where the table has none yet.
        if !source.is_local() && source.identity == IDENTITY_HOST && env.feature(feature::ALLOW_OWN_HOST) {
            let rule = if v.is_drop() || v.argument != 0 { 0 } else { v.node };
            return Verdict { node: rule, ..Verdict::PASS };
        }
        if v.is_drop() {
            return v;
        }
        let audit = egress.argument | v.argument;
        if audit != 0 {
            return Verdict { argument: audit, node: v.node, identity: egress.node, ..Verdict::PASS };
        }
        if v.node != 0 {
            return v;
        }
    } else if egress.argument != 0 {
        return Verdict { node: 0, identity: egress.node, ..egress };
    }
    egress
}

/// One table: the peer's entries, then those of its kind, then those of whoever, the last of which is the default. A slot
/// without a table, and a table without a default, let nothing pass.
#[inline(always)]
pub(crate) fn table<F: Family, E: Env>(
    env: &E,
    slot: u16,
    peer: &End,
    direction: Direction,
    protocol: u8,
    port: u16,
) -> Verdict {
    let key = PolicyKey { peer: peer.peer, direction: direction as u8, protocol, port: port.to_be() };
    let mut entry = env.policy(slot, &key);
    if entry.is_none() {
        let kind = kind(peer.identity, F::NUMBER == 6);
        // most tables say nothing about kinds: a word of the slot is cheaper to read than a trie
        if kind != 0 && env.kinds(slot) & slot_kind(kind, direction as u8) != 0 {
            entry = env.policy(slot, &PolicyKey { peer: kind, ..key });
        }
        if entry.is_none() {
            entry = env.policy(slot, &PolicyKey { peer: 0, ..key });
        }
    }
    let Some(v) = entry else { return Verdict::drop(DropReason::NoPolicy, direction) };
    match v.verdict {
        DENY => Verdict::denied(DropReason::PolicyDeny, direction, v.rule),
        DEFAULT_DENY => Verdict::denied(DropReason::PolicyDenied, direction, v.rule),
        AUDIT | DEFAULT_AUDIT => Verdict { argument: audit_bit(direction) as u32, node: v.rule, ..Verdict::PASS },
        _ if v.auth != 0 => Verdict::denied(DropReason::AuthRequired, direction, v.rule),
        _ => Verdict { node: v.rule, ..Verdict::PASS },
    }
}
