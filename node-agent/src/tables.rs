//! Policy tables in numbered slots of the datapath.
//!
//! A table keeps its slot for as long as it is wanted or an endpoint uses it, so that a change of its content touches
//! only the entries that differ, and an endpoint moves to another table by one map write after that table is complete.
//! Where addresses change hands at the same time, see [`moves`].

mod moves;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

use axoneme_kernel::datapath::{Datapath, DatapathError, PolicyKey, PolicyTable, PolicyValue};
use axoneme_model::rows::{DirectionDefault, RuleId, TableId, TableRow};
use axoneme_table::Backoff;
use axoneme_wire::TablePatch;
use serde::{Deserialize, Serialize};

use crate::{
    plan,
    store::{self, Store, StoreError},
};

use moves::Entries;
pub use moves::Moves;

const DOCUMENT: &str = "slots";
const SCHEMA: u32 = 1;

/// The table of what is no subject of policy: everything passes. No row tells of it; no table of rules has this number
/// but by a chance of 2^-64.
pub const OPEN: TableId = TableId(u64::MAX);

const PASS: DirectionDefault = DirectionDefault { allow: true, audit: false, rule: RuleId(0) };
static OPEN_ROW: TableRow = TableRow {
    id: OPEN,
    ingress_default: PASS,
    egress_default: PASS,
    entries: BTreeMap::new(),
    policies: BTreeMap::new(),
};

fn row(rows: &BTreeMap<TableId, TableRow>, id: TableId) -> Option<&TableRow> {
    if id == OPEN { Some(&OPEN_ROW) } else { rows.get(&id) }
}

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    schema: u32,
    slots: BTreeMap<u64, u16>,
}

/// What is to be written for a table.
#[derive(Debug)]
enum Work {
    None,
    /// The slot holds what the rows held before these changes.
    Patch(TablePatch),
    /// The slot holds nothing, or nobody knows what.
    Whole,
}

#[derive(Debug)]
struct Table {
    slot: u16,
    /// The slot holds a complete content of this table: the newest, or the last good one.
    in_force: bool,
    wanted: bool,
    work: Work,
    /// Found in the slot at the start, until it has been compared.
    adopted: Option<PolicyTable>,
    /// What goes after the commit.
    late: Entries,
    failed: Option<Refusal>,
}

/// Why the newest content of a table is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub message: String,
    attempts: u32,
    retry_at: Option<Instant>,
}

impl Refusal {
    /// How often it was tried.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

/// A failure to tell the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub id: TableId,
    pub message: String,
}

#[derive(Debug, Default)]
pub struct Tables {
    known: BTreeMap<TableId, Table>,
    /// Slots with contents that no id is known for.
    orphans: BTreeSet<u16>,
    /// Slots that tables have left, which endpoints may still use.
    retired: BTreeSet<u16>,
    backoff: Backoff,
    /// Table that was looked at last.
    inspected: Option<TableId>,
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Run {
    pub writes: usize,
    pub refused: Vec<Refused>,
    /// Tables whose newest content came into force, as far as it goes before the commit.
    pub settled: Vec<TableId>,
    /// Tables that are in another slot now: their endpoints pass to it with the commit.
    pub rehoused: Vec<TableId>,
    pub retry_at: Option<Instant>,
}

impl Tables {
    /// Takes over what a former process left in the datapath. What was wanted before has to be wanted again: it was given
    /// slots in ignorance of those that are in use.
    pub fn adopt(&mut self, present: Vec<(u16, PolicyTable)>, saved: &dyn Store) -> Result<(), StoreError> {
        let known = match store::load::<Saved>(saved, DOCUMENT) {
            Ok(document) => document.map(|d| d.slots).unwrap_or_default(),
            // without it the contents are orphans: endpoints keep their slots until their tables are in place anew
            Err(error @ StoreError::Broken { .. }) => {
                tracing::warn!(%error, "slots of policy tables are not known; tables are made anew");
                BTreeMap::new()
            }
            Err(e) => return Err(e),
        };
        self.known.clear();
        self.orphans.clear();
        self.retired.clear();
        let ids: BTreeMap<u16, TableId> = known.into_iter().map(|(id, slot)| (slot, TableId(id))).collect();
        for (slot, content) in present {
            match ids.get(&slot) {
                Some(id) => {
                    let table = Table {
                        slot,
                        in_force: true,
                        wanted: false,
                        work: Work::None,
                        adopted: Some(content),
                        late: Entries::default(),
                        failed: None,
                    };
                    self.known.insert(*id, table);
                }
                None => drop(self.orphans.insert(slot)),
            }
        }
        Ok(())
    }

    /// The row is there, or is another one as a whole.
    pub fn want(&mut self, id: TableId) {
        let slot = self.free_slot();
        let table = self.known.entry(id).or_insert_with(|| Table {
            slot,
            in_force: false,
            wanted: true,
            work: Work::Whole,
            adopted: None,
            late: Entries::default(),
            failed: None,
        });
        table.wanted = true;
        table.work = Work::Whole;
        table.failed = None;
    }

    /// The table that needs no row is there, or not.
    pub fn want_open(&mut self, wanted: bool) {
        let is = self.known.get(&OPEN).is_some_and(|t| t.wanted);
        if wanted && !is {
            self.want(OPEN);
        } else if is && !wanted {
            self.unwant(OPEN);
        }
    }

    /// The row changed by this.
    pub fn patch(&mut self, patch: TablePatch) {
        let Some(table) = self.known.get_mut(&patch.id) else { return };
        table.failed = None;
        table.work = match std::mem::replace(&mut table.work, Work::None) {
            Work::None => Work::Patch(patch),
            Work::Patch(earlier) => Work::Patch(earlier.then(&patch)),
            Work::Whole => Work::Whole,
        };
    }

    /// The row is gone. The slot stays until no endpoint uses it.
    pub fn unwant(&mut self, id: TableId) {
        if let Some(table) = self.known.get_mut(&id) {
            table.wanted = false;
            table.work = Work::None;
            table.failed = None;
        }
    }

    /// The slot, if a complete content of the table is in it.
    pub fn slot_in_force(&self, id: TableId) -> Option<u16> {
        self.known.get(&id).filter(|t| t.in_force).map(|t| t.slot)
    }

    /// Why the newest content is not in force.
    pub fn refusal(&self, id: TableId) -> Option<&Refusal> {
        self.known.get(&id)?.failed.as_ref()
    }

    /// Tables and their slots, in force or not.
    pub fn iter(&self) -> impl Iterator<Item = (TableId, u16, bool)> {
        self.known.iter().map(|(id, t)| (*id, t.slot, t.in_force))
    }

    /// Tables whose newest content is not in force, and contents that belong to none.
    pub fn differing(&self) -> usize {
        let waits = |t: &&Table| t.wanted && (!t.in_force || !matches!(t.work, Work::None) || t.failed.is_some());
        self.known.values().filter(waits).count() + self.orphans.len()
    }

    /// Slots whose contents must be those of the rows, with the row: all but those that are being changed or refused.
    fn settled<'a>(
        &'a self,
        rows: &'a BTreeMap<TableId, TableRow>,
    ) -> impl Iterator<Item = (TableId, u16, &'a TableRow)> {
        let known = self.known.iter().filter(|(_, t)| t.wanted && t.in_force && matches!(t.work, Work::None));
        known.filter_map(|(id, t)| Some((*id, t.slot, row(rows, *id)?)))
    }

    /// How the contents of slots differ from the rows, in words.
    pub fn drift(&self, rows: &BTreeMap<TableId, TableRow>, present: &[(u16, PolicyTable)]) -> Vec<String> {
        let of = |slot| present.iter().find(|(s, _)| *s == slot).map(|(_, t)| t);
        self.settled(rows).filter_map(|(id, slot, row)| difference(id, row, of(slot))).collect()
    }

    /// Looks at one table, the next with each call, so that a look costs the same however many there are. One that
    /// differs is mended by the next run; how it differs is returned.
    pub fn inspect(
        &mut self,
        rows: &BTreeMap<TableId, TableRow>,
        datapath: &dyn Datapath,
    ) -> Result<Option<String>, DatapathError> {
        let behind = self.inspected.and_then(|last| self.settled(rows).find(|(id, ..)| *id > last));
        let Some((id, slot, row)) = behind.or_else(|| self.settled(rows).next()) else { return Ok(None) };
        let present = datapath.table(slot)?;
        let difference = difference(id, row, present.as_ref());
        self.inspected = Some(id);
        if difference.is_some() {
            self.found(id, present);
        }
        Ok(difference)
    }

    /// Takes the contents of slots anew: the next run mends what differs.
    pub fn readopt(&mut self, rows: &BTreeMap<TableId, TableRow>, present: Vec<(u16, PolicyTable)>) {
        let mut present: BTreeMap<u16, PolicyTable> = present.into_iter().collect();
        let settled: Vec<(TableId, u16)> = self.settled(rows).map(|(id, slot, _)| (id, slot)).collect();
        for (id, slot) in settled {
            self.found(id, present.remove(&slot));
        }
    }

    fn found(&mut self, id: TableId, present: Option<PolicyTable>) {
        if let Some(table) = self.known.get_mut(&id) {
            table.adopted = present;
            table.work = Work::Whole;
        }
    }

    /// The lowest slot that nobody has. Slot 0 is never used: it is what an empty map entry says.
    fn free_slot(&self) -> u16 {
        let left = self.orphans.iter().chain(&self.retired).copied();
        let used: BTreeSet<u16> = self.known.values().map(|t| t.slot).chain(left).collect();
        (1..u16::MAX).find(|s| !used.contains(s)).unwrap_or(u16::MAX)
    }

    /// Writes the tables that are in no slot yet: no endpoint uses them before.
    pub fn put_new(
        &mut self,
        now: Instant,
        rows: &BTreeMap<TableId, TableRow>,
        datapath: &dyn Datapath,
        saved: &dyn Store,
    ) -> Run {
        let mut run = Run::default();
        let due = self.due(now, false);
        if due.is_empty() {
            return run;
        }
        if let Err(e) = self.save(saved) {
            // nothing is put into a slot that a later process could not name
            run.refused = due.iter().map(|id| Refused { id: *id, message: e.to_string() }).collect();
            run.retry_at = Some(now + self.backoff.limit);
            return run;
        }
        for id in due {
            let (Some(table), Some(row)) = (self.known.get_mut(&id), row(rows, id)) else { continue };
            match datapath.put_table(table.slot, &plan::policy_table(row)) {
                Ok(()) => {
                    table.settled();
                    run.writes += 1;
                    run.settled.push(id);
                }
                Err(e) => run.refused.push(Refused { id, message: table.refuse(&e, now, self.backoff) }),
            }
        }
        run
    }

    /// Writes what is due of the tables in slots, as far as it goes before addresses change hands as `moves` says.
    pub fn run(
        &mut self,
        now: Instant,
        rows: &BTreeMap<TableId, TableRow>,
        moves: &Moves,
        datapath: &dyn Datapath,
        saved: &dyn Store,
    ) -> Run {
        let mut run = Run::default();
        for id in self.due(now, true) {
            let Some(row) = row(rows, id) else { continue };
            let Some(change) = self.known.get_mut(&id).map(|t| t.change(row)) else { continue };
            let slot = self.slot(id);
            let split = match change {
                Change::Entries(entries) => moves.split(slot, entries),
                Change::Whole => None,
            };
            let done = match split {
                Some((early, late)) => self.patch_early(id, early, late, datapath),
                None if moves.leave_alone(slot) => datapath.put_table(slot, &plan::policy_table(row)).map(|()| 1),
                None => self.rehouse(id, row, datapath, saved).map(|()| {
                    run.rehoused.push(id);
                    1
                }),
            };
            let Some(table) = self.known.get_mut(&id) else { continue };
            match done {
                Ok(writes) => {
                    table.settled();
                    run.writes += writes;
                    run.settled.push(id);
                }
                Err(e) => run.refused.push(Refused { id, message: table.refuse(&e, now, self.backoff) }),
            }
        }
        run
    }

    /// Writes the rest, after addresses have changed hands.
    pub fn finish(&mut self, now: Instant, datapath: &dyn Datapath) -> Run {
        let mut run = Run::default();
        for (id, table) in self.known.iter_mut().filter(|(_, t)| !t.late.is_empty()) {
            let late = std::mem::take(&mut table.late);
            match patch(table.slot, late, datapath) {
                Ok(writes) => run.writes += writes,
                Err(e) => run.refused.push(Refused { id: *id, message: table.refuse(&e, now, self.backoff) }),
            }
        }
        run.retry_at = self.known.values().filter_map(|t| t.failed.as_ref()?.retry_at).min();
        run
    }

    fn due(&self, now: Instant, in_force: bool) -> Vec<TableId> {
        let due = self.known.iter().filter(|(_, t)| t.in_force == in_force && t.is_due(now));
        due.map(|(id, _)| *id).collect()
    }

    fn slot(&self, id: TableId) -> u16 {
        self.known.get(&id).map_or(0, |t| t.slot)
    }

    fn patch_early(
        &mut self,
        id: TableId,
        early: Entries,
        late: Entries,
        datapath: &dyn Datapath,
    ) -> Result<usize, DatapathError> {
        let writes = patch(self.slot(id), early, datapath)?;
        if let Some(table) = self.known.get_mut(&id) {
            table.late = late;
        }
        Ok(writes)
    }

    /// Puts the table into another slot, beside the one that endpoints use until the commit.
    fn rehouse(
        &mut self,
        id: TableId,
        row: &TableRow,
        datapath: &dyn Datapath,
        saved: &dyn Store,
    ) -> Result<(), DatapathError> {
        let free = self.free_slot();
        let Some(table) = self.known.get_mut(&id) else { return Ok(()) };
        let left = std::mem::replace(&mut table.slot, free);
        let content = plan::policy_table(row);
        let put = match self.save(saved) {
            Ok(()) => datapath.put_table(free, &content),
            Err(e) => Err(DatapathError::Io { operation: e.to_string(), source: std::io::Error::other("not saved") }),
        };
        let Err(error) = put else {
            self.retired.insert(left);
            return Ok(());
        };
        if let Some(table) = self.known.get_mut(&id) {
            table.slot = left;
        }
        tracing::warn!(%error, table = id.0, "changed in place, while addresses change hands");
        datapath.put_table(left, &content)
    }

    /// Removes contents that are not wanted and that no endpoint uses. `prune` allows it for contents that were found
    /// at the start.
    pub fn sweep(
        &mut self,
        in_use: &BTreeSet<u16>,
        prune: bool,
        datapath: &dyn Datapath,
        saved: &dyn Store,
    ) -> Result<usize, crate::Error> {
        let gone: Vec<TableId> = self
            .known
            .iter()
            .filter(|(_, t)| !t.wanted && !in_use.contains(&t.slot) && (prune || t.adopted.is_none()))
            .map(|(id, _)| *id)
            .collect();
        let mut writes = 0;
        for id in &gone {
            if let Some(t) = self.known.get(id) {
                if t.in_force {
                    datapath.remove_table(t.slot)?;
                    writes += 1;
                }
                self.known.remove(id);
            }
        }
        for slot in self.retired.clone().difference(in_use) {
            datapath.remove_table(*slot)?;
            self.retired.remove(slot);
            writes += 1;
        }
        if prune {
            for slot in self.orphans.clone().difference(in_use) {
                datapath.remove_table(*slot)?;
                self.orphans.remove(slot);
                writes += 1;
            }
        }
        if !gone.is_empty() {
            self.save(saved)?;
        }
        Ok(writes)
    }

    fn save(&self, saved: &dyn Store) -> Result<(), StoreError> {
        let slots = self.known.iter().map(|(id, t)| (id.0, t.slot)).collect();
        store::save(saved, DOCUMENT, &Saved { schema: SCHEMA, slots })
    }
}

impl Table {
    fn is_due(&self, now: Instant) -> bool {
        let waits = self.failed.as_ref().is_some_and(|f| f.retry_at.is_none_or(|at| at > now));
        self.wanted && !matches!(self.work, Work::None) && !waits
    }

    /// What has to be done to the slot, which holds a complete content.
    fn change(&self, row: &TableRow) -> Change {
        match (&self.work, &self.adopted) {
            (Work::None, _) => Change::Entries(Entries::default()),
            (Work::Patch(p), _) if p.ingress_default.is_none() && p.egress_default.is_none() => {
                let upserts = p.upserts.iter().map(|(k, v)| (plan::policy_key(k), plan::policy_value(v)));
                let removals = p.removals.iter().map(plan::policy_key);
                Change::Entries(Entries { upserts: upserts.collect(), removals: removals.collect() })
            }
            (Work::Whole, Some(present)) => mend(present, row),
            // a change of defaults and entries at once: packets see the old or the new table
            (Work::Patch(_) | Work::Whole, _) => Change::Whole,
        }
    }

    fn settled(&mut self) {
        self.in_force = true;
        self.work = Work::None;
        self.adopted = None;
        self.failed = None;
    }

    fn refuse(&mut self, error: &DatapathError, now: Instant, backoff: Backoff) -> String {
        let attempts = self.failed.as_ref().map_or(1, |f| f.attempts + 1);
        let hopeless = matches!(error, DatapathError::TableTooLarge { .. });
        let retry_at = (!hopeless).then(|| now + backoff.after(attempts));
        let message = error.to_string();
        // a patch may have been applied in part: only the whole table is sure to be right
        self.work = Work::Whole;
        self.adopted = None;
        self.late = Entries::default();
        self.failed = Some(Refusal { message: message.clone(), attempts, retry_at });
        message
    }
}

/// How a slot becomes what its row says.
enum Change {
    Entries(Entries),
    Whole,
}

/// Changes entries of a table that packets are judged by. Put from narrow to wide and then removed from wide to narrow,
/// every lookup in between gives the verdict of the table before or after: see `rows::PolicyKey::narrowness`,
/// of which `datapath::PolicyKey::narrowness` is the kernel's form.
fn patch(slot: u16, mut changes: Entries, datapath: &dyn Datapath) -> Result<usize, DatapathError> {
    if changes.is_empty() {
        return Ok(0);
    }
    changes.upserts.sort_by_key(|(key, _)| (Reverse(key.narrowness()), *key));
    changes.removals.sort_by_key(|key| (key.narrowness(), *key));
    datapath.patch_table(slot, &changes.upserts, &changes.removals)?;
    Ok(1)
}

/// How a slot's contents differ from what its row says.
fn difference(id: TableId, row: &TableRow, present: Option<&PolicyTable>) -> Option<String> {
    let Some(present) = present else { return Some(format!("policy table {:016x} is missing", id.0)) };
    let wanted = plan::policy_table(row);
    let mut found: HashMap<PolicyKey, PolicyValue> = present.entries.iter().copied().collect();
    let (mut count, mut first) = (0usize, String::new());
    let mut differs = |what: String| {
        count += 1;
        if first.is_empty() {
            first = what;
        }
    };
    if (wanted.ingress_default, wanted.egress_default) != (present.ingress_default, present.egress_default) {
        differs("the defaults are others".to_owned());
    }
    for (key, value) in &wanted.entries {
        match found.remove(key) {
            Some(v) if v == *value => {}
            Some(v) => differs(format!("{key:?} is {v:?}, should be {value:?}")),
            None => differs(format!("{key:?} is missing")),
        }
    }
    if let Some(key) = found.keys().min() {
        differs(format!("{key:?} is there and nobody wants it"));
    }
    (count > 0).then(|| {
        format!("policy table {:016x} differs in {} places: {first}", id.0, count + found.len().saturating_sub(1))
    })
}

/// What makes the row of what was found in the slot.
fn mend(present: &PolicyTable, row: &TableRow) -> Change {
    let wanted = plan::policy_table(row);
    if wanted.ingress_default != present.ingress_default || wanted.egress_default != present.egress_default {
        return Change::Whole;
    }
    let mut old: HashMap<PolicyKey, PolicyValue> = present.entries.iter().copied().collect();
    let upserts: Vec<_> = wanted.entries.into_iter().filter(|(k, v)| old.remove(k).as_ref() != Some(v)).collect();
    Change::Entries(Entries { upserts, removals: old.into_keys().collect() })
}

#[cfg(test)]
mod tests {
    use axoneme_kernel::datapath::peer_kind;
    use axoneme_model::{Identity, PeerClass, Protocol, policy::Direction, rows};

    use crate::plan;

    #[test]
    fn kernel_keys_are_ordered_as_the_rows_keys_are() {
        let protocols = [None, Some(Protocol::TCP), Some(Protocol::ICMP)];
        for peer in (0..=260).chain([1 << 24, u32::MAX]) {
            for protocol in protocols {
                for port_bits in if protocol.is_some() { 0..=16 } else { 0..=0 } {
                    let peer = PeerClass(peer);
                    let key = rows::PolicyKey { direction: Direction::Ingress, peer, protocol, port: 0, port_bits };
                    assert_eq!(plan::policy_key(&key).narrowness(), key.narrowness(), "{key:?}");
                }
            }
        }
    }

    #[test]
    fn rows_and_programs_agree_on_the_kinds_of_peers() {
        for identity in (0..300).chain([65535, 1 << 20]) {
            for v6 in [false, true] {
                let row = PeerClass::kind_of(Identity(identity), v6);
                assert_eq!(row.map_or(0, |k| k.0), peer_kind(identity, v6), "identity {identity}");
            }
        }
    }
}
