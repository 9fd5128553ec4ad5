//! Policy tables: slots, their tries, their revisions.
//!
//! A table's defaults are entries of its trie (whoever, all protocols), so that one replacement swaps both.

use std::{collections::BTreeMap, io, os::fd::AsFd};

use axoneme_abi::policy::{
    ALLOW, AUDIT, DEFAULT_ALLOW, DEFAULT_AUDIT, DEFAULT_DENY, DENY, KIND_PODS_V4, KIND_WORLD_V6, PREFIX_FIXED,
    PREFIX_PROTOCOL, PolicyKey as RawKey, PolicyValue as RawValue, SLOT_ALLOW_EGRESS, SLOT_ALLOW_INGRESS,
    SLOT_AUDIT_EGRESS, SLOT_AUDIT_INGRESS, SLOT_KINDS, SLOT_VALID, SLOTS, Slot, TABLE_ENTRIES, slot_kind,
};

use super::{
    datapath::{BpfDatapath, Maps, lock},
    sys,
    system::io_error,
    table::{Lpm, Table},
};
use crate::datapath::{DatapathError, Direction, PolicyDefault, PolicyKey, PolicyTable, PolicyValue, Result};

/// An inner table.
type Trie = Table<Lpm<RawKey>, RawValue>;

/// Inner tables that this process made or met, and how many entries they hold at most.
#[derive(Debug, Default)]
pub(super) struct Tables {
    tries: BTreeMap<u32, (Trie, u32)>,
}

impl Tables {
    /// How many entries each table in use holds at most.
    pub(super) fn sizes(&self) -> Vec<u32> {
        self.tries.values().map(|(_, entries)| *entries).filter(|entries| *entries > 0).collect()
    }

    /// The tables that are pinned and in use. Spare ones are made anew. Kernels before 6.7 wait for an RCU grace period at
    /// each look into the outer map, so that is done where a slot says that there is a table.
    pub(super) fn read(maps: &Maps) -> Result<Self> {
        let mut tries = BTreeMap::new();
        for place in 1..SLOTS {
            if maps.slots.get(&place)?.is_none_or(|slot| slot.flags & SLOT_VALID == 0) {
                continue;
            }
            let Some(id) = maps.policy.get(&place)? else { continue };
            let found = sys::map_by_id(id).map_err(|e| io_error(format!("open policy table of slot {place}"), e))?;
            if let Some(fd) = found {
                let trie: Trie = Table::of("POLICY", fd, TABLE_ENTRIES);
                let entries = u32::try_from(trie.elements()?.len()).unwrap_or(u32::MAX);
                tries.insert(place, (trie, entries));
            }
        }
        Ok(Self { tries })
    }
}

/// The programs' number of a slot: theirs begin at 1.
pub(super) fn place(slot: u16) -> Result<u16> {
    match slot.checked_add(1) {
        Some(p) if u32::from(p) < SLOTS => Ok(p),
        _ => Err(DatapathError::Full { map: "SLOTS", capacity: SLOTS - 1 }),
    }
}

const fn number(direction: Direction) -> u8 {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

fn key(k: &PolicyKey) -> Lpm<RawKey> {
    let bits = if k.protocol == 0 { PREFIX_FIXED } else { PREFIX_PROTOCOL + u32::from(k.port_bits.min(16)) };
    Lpm {
        bits,
        data: RawKey { peer: k.peer, direction: number(k.direction), protocol: k.protocol, port: k.port.to_be() },
    }
}

fn value(v: PolicyValue) -> RawValue {
    let verdict = match (v.allow, v.audit) {
        (false, _) => DENY,
        (true, false) => ALLOW,
        (true, true) => AUDIT,
    };
    RawValue { rule: v.rule, proxy_port: v.proxy_port, auth: v.auth, verdict }
}

fn default_key(direction: Direction) -> Lpm<RawKey> {
    Lpm { bits: PREFIX_FIXED, data: RawKey { peer: 0, direction: number(direction), protocol: 0, port: 0 } }
}

fn default_value(d: PolicyDefault) -> RawValue {
    let verdict = match (d.allow, d.audit) {
        (false, _) => DEFAULT_DENY,
        (true, false) => DEFAULT_ALLOW,
        (true, true) => DEFAULT_AUDIT,
    };
    RawValue { rule: d.rule, proxy_port: 0, auth: 0, verdict }
}

fn is_default(v: RawValue) -> bool {
    matches!(v.verdict, DEFAULT_DENY | DEFAULT_ALLOW | DEFAULT_AUDIT)
}

fn entry(k: &Lpm<RawKey>, v: RawValue) -> Option<(PolicyKey, PolicyValue)> {
    if is_default(v) {
        return None;
    }
    let direction = if k.data.direction == 0 { Direction::Ingress } else { Direction::Egress };
    let port_bits = k.bits.saturating_sub(PREFIX_PROTOCOL) as u8;
    let key = PolicyKey {
        direction,
        peer: k.data.peer,
        protocol: k.data.protocol,
        port: u16::from_be(k.data.port),
        port_bits,
    };
    let (allow, audit) = (v.verdict != DENY, v.verdict == AUDIT);
    Some((key, PolicyValue { allow, audit, rule: v.rule, proxy_port: v.proxy_port, auth: v.auth }))
}

/// Flags of the kinds that the keys speak of.
fn kinds<'a>(keys: impl Iterator<Item = &'a PolicyKey>) -> u32 {
    let of_kind = keys.filter(|k| (KIND_PODS_V4..=KIND_WORLD_V6).contains(&k.peer));
    of_kind.fold(0, |flags, k| flags | slot_kind(k.peer, number(k.direction)))
}

fn slot_flags(ingress: PolicyDefault, egress: PolicyDefault) -> u32 {
    let flags = [
        (true, SLOT_VALID),
        (ingress.allow, SLOT_ALLOW_INGRESS),
        (egress.allow, SLOT_ALLOW_EGRESS),
        (ingress.allow && ingress.audit, SLOT_AUDIT_INGRESS),
        (egress.allow && egress.audit, SLOT_AUDIT_EGRESS),
    ];
    flags.into_iter().filter(|(set, _)| *set).fold(0, |flags, (_, flag)| flags | flag)
}

fn defaults(s: &Slot) -> (PolicyDefault, PolicyDefault) {
    let [ingress, egress] = s.rules;
    let of = |allow, audit, rule| PolicyDefault { allow: s.flags & allow != 0, audit: s.flags & audit != 0, rule };
    (of(SLOT_ALLOW_INGRESS, SLOT_AUDIT_INGRESS, ingress), of(SLOT_ALLOW_EGRESS, SLOT_AUDIT_EGRESS, egress))
}

impl BpfDatapath {
    /// Writes the slot with the next revision: cached verdicts of its connections no longer count.
    fn write_slot(&self, place: u32, flags: u32, rules: [u32; 2]) -> Result<()> {
        let revision = self.maps.slots.get(&place)?.unwrap_or_default().revision.wrapping_add(1);
        self.maps.slots.put(&place, &Slot { revision, flags, rules })
    }

    /// Lets what was judged by the slot be judged anew.
    pub(super) fn renew_slot(&self, place: u32) -> Result<()> {
        let slot = self.maps.slots.get(&place)?.unwrap_or_default();
        self.write_slot(place, slot.flags, slot.rules)
    }

    /// Makes programs look for entries of kinds before there are any.
    fn announce_kinds(&self, place: u32, kinds: u32) -> Result<()> {
        let slot = self.maps.slots.get(&place)?.unwrap_or_default();
        if slot.flags & kinds == kinds {
            return Ok(());
        }
        self.maps.slots.put(&place, &Slot { flags: slot.flags | kinds, ..slot })
    }

    /// Puts empty tables into the lowest free places. A table for such a place is then filled where it stands, before
    /// anyone looks at it; putting a map into the outer map costs an RCU grace period (some milliseconds) in the caller.
    pub(super) fn stock_tables(&self) -> Result<()> {
        let mut tables = lock(&self.tables);
        let free: Vec<u32> = (1..SLOTS).filter(|p| !tables.tries.contains_key(p)).take(SPARE).collect();
        let mut tries = Vec::with_capacity(free.len());
        for _ in &free {
            tries.push(new_trie()?);
        }
        let descriptors: Vec<u32> = tries.iter().map(|t| sys::number(t.as_fd())).collect();
        // One call, one grace period. Kernels that cannot do it have no stock.
        if self.maps.policy.put_all(&free, &descriptors).is_ok() {
            tables.tries.extend(free.into_iter().zip(tries.into_iter().map(|t| (t, 0))));
        }
        Ok(())
    }

    pub(super) fn replace_table(&self, slot: u16, table: &PolicyTable) -> Result<()> {
        let place = u32::from(place(slot)?);
        // The defaults take two places.
        let needed = u32::try_from(table.entries.len()).unwrap_or(u32::MAX).saturating_add(2);
        if needed > TABLE_ENTRIES {
            return Err(DatapathError::TableTooLarge { needed, capacity: TABLE_ENTRIES });
        }
        let mut tables = lock(&self.tables);
        let kinds = kinds(table.entries.iter().map(|(k, _)| k));
        self.announce_kinds(place, kinds)?;
        let mut keys = vec![default_key(Direction::Ingress), default_key(Direction::Egress)];
        let mut values = vec![default_value(table.ingress_default), default_value(table.egress_default)];
        keys.extend(table.entries.iter().map(|(k, _)| key(k)));
        values.extend(table.entries.iter().map(|(_, v)| value(*v)));
        match tables.tries.get_mut(&place) {
            // Empty, and not looked at yet.
            Some((trie, entries)) if *entries == 0 => {
                if let Err(e) = fill(trie, &keys, &values) {
                    clear(trie)?;
                    return Err(e);
                }
                *entries = needed;
            }
            _ => {
                let trie = new_trie()?;
                fill(&trie, &keys, &values)?;
                sys::update_inner(self.maps.policy.as_fd(), place, trie.as_fd())
                    .map_err(|e| io_error(format!("replace the policy table of slot {slot}"), e))?;
                tables.tries.insert(place, (trie, needed));
            }
        }
        let rules = [table.ingress_default.rule, table.egress_default.rule];
        self.write_slot(place, slot_flags(table.ingress_default, table.egress_default) | kinds, rules)
    }

    pub(super) fn change_table(
        &self,
        slot: u16,
        upserts: &[(PolicyKey, PolicyValue)],
        removals: &[PolicyKey],
    ) -> Result<()> {
        let place = u32::from(place(slot)?);
        let mut tables = lock(&self.tables);
        let (trie, entries) = tables.tries.get_mut(&place).ok_or_else(|| no_table(slot))?;
        reserve(trie, entries, upserts)?;
        self.announce_kinds(place, kinds(upserts.iter().map(|(k, _)| k)))?;
        let (keys, values): (Vec<_>, Vec<_>) = upserts.iter().map(|(k, v)| (key(k), value(*v))).unzip();
        fill(trie, &keys, &values)?;
        let old = self.maps.slots.get(&place)?.unwrap_or_default();
        let (ingress, egress) = defaults(&old);
        for k in removals {
            let raw = key(k);
            // In the place of an entry for whoever and everything stands the default.
            if raw == default_key(Direction::Ingress) {
                trie.put(&raw, &default_value(ingress))?;
            } else if raw == default_key(Direction::Egress) {
                trie.put(&raw, &default_value(egress))?;
            } else if trie.remove(&raw)? {
                *entries = entries.saturating_sub(1);
            }
        }
        self.write_slot(place, old.flags, old.rules)
    }

    pub(super) fn change_defaults(&self, slot: u16, ingress: PolicyDefault, egress: PolicyDefault) -> Result<()> {
        let place = u32::from(place(slot)?);
        let tables = lock(&self.tables);
        let (trie, _) = tables.tries.get(&place).ok_or_else(|| no_table(slot))?;
        for (direction, default) in [(Direction::Ingress, ingress), (Direction::Egress, egress)] {
            let key = default_key(direction);
            // The shortest prefix there is: what a lookup of it finds is the entry itself.
            if trie.get(&key)?.is_none_or(is_default) {
                trie.put(&key, &default_value(default))?;
            }
        }
        let kinds = self.maps.slots.get(&place)?.unwrap_or_default().flags & SLOT_KINDS;
        self.write_slot(place, slot_flags(ingress, egress) | kinds, [ingress.rule, egress.rule])
    }

    pub(super) fn delete_table(&self, slot: u16) -> Result<()> {
        let place = u32::from(place(slot)?);
        let mut tables = lock(&self.tables);
        // First the revision: connections of the slot are judged anew, and find nothing that allows them. The emptied
        // table stays in its place, ready for the next.
        self.write_slot(place, 0, [0; 2])?;
        if let Some((trie, entries)) = tables.tries.get_mut(&place) {
            clear(trie)?;
            *entries = 0;
        }
        Ok(())
    }

    pub(super) fn list_tables(&self) -> Result<Vec<(u16, PolicyTable)>> {
        let tables = lock(&self.tables);
        let mut found = Vec::new();
        for (place, (trie, _)) in &tables.tries {
            let number = u16::try_from(place.saturating_sub(1)).unwrap_or(u16::MAX);
            found.extend(self.contents(*place, trie)?.map(|t| (number, t)));
        }
        Ok(found)
    }

    pub(super) fn read_table(&self, slot: u16) -> Result<Option<PolicyTable>> {
        let place = u32::from(place(slot)?);
        let tables = lock(&self.tables);
        let Some((trie, _)) = tables.tries.get(&place) else { return Ok(None) };
        self.contents(place, trie)
    }

    fn contents(&self, place: u32, trie: &Trie) -> Result<Option<PolicyTable>> {
        let slot = self.maps.slots.get(&place)?.unwrap_or_default();
        if slot.flags & SLOT_VALID == 0 {
            return Ok(None);
        }
        let (ingress_default, egress_default) = defaults(&slot);
        let mut entries: Vec<_> = trie.elements()?.iter().filter_map(|(k, v)| entry(k, *v)).collect();
        entries.sort();
        Ok(Some(PolicyTable { ingress_default, egress_default, entries }))
    }
}

fn no_table(slot: u16) -> DatapathError {
    io_error(format!("slot {slot} has no policy table"), io::Error::from(io::ErrorKind::NotFound))
}

/// Empty tables that are kept ready.
const SPARE: usize = 64;

fn new_trie() -> Result<Trie> {
    let fd = sys::create_trie(size_of::<Lpm<RawKey>>(), size_of::<RawValue>(), TABLE_ENTRIES)
        .map_err(|e| io_error("make a policy table", e))?;
    Ok(Table::of("POLICY", fd, TABLE_ENTRIES))
}

/// Empties a table, its defaults first: what is looked up meanwhile is denied rather than allowed by default.
fn clear(trie: &Trie) -> Result<()> {
    for direction in [Direction::Ingress, Direction::Egress] {
        trie.remove(&default_key(direction))?;
    }
    for (key, _) in trie.elements()? {
        trie.remove(&key)?;
    }
    Ok(())
}

/// Writes entries: in one call where the kernel can, else one by one.
fn fill(trie: &Trie, keys: &[Lpm<RawKey>], values: &[RawValue]) -> Result<()> {
    match trie.put_all(keys, values) {
        Err(DatapathError::Io { source, .. })
            if matches!(source.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | 524)) =>
        {
            keys.iter().zip(values).try_for_each(|(k, v)| trie.put(k, v))
        }
        other => other,
    }
}

/// Makes sure that the upserts fit before the first is written: a table is never half changed.
fn reserve(trie: &Trie, entries: &mut u32, upserts: &[(PolicyKey, PolicyValue)]) -> Result<()> {
    let more = u32::try_from(upserts.len()).unwrap_or(u32::MAX);
    if entries.saturating_add(more) > TABLE_ENTRIES {
        // The count is an upper bound (an upsert may replace): now it matters.
        let known: std::collections::HashSet<_> = trie.elements()?.into_iter().map(|(k, _)| k).collect();
        let new = upserts.iter().map(|(k, _)| key(k)).filter(|k| !known.contains(k)).count();
        let needed = u32::try_from(known.len() + new).unwrap_or(u32::MAX);
        if needed > TABLE_ENTRIES {
            return Err(DatapathError::TableTooLarge { needed, capacity: TABLE_ENTRIES });
        }
        *entries = needed;
    } else {
        *entries += more;
    }
    Ok(())
}
