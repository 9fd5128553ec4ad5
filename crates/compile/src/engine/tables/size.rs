//! How large tables are, and by whose rules they grew.

use std::collections::BTreeMap;

use axoneme_model::{
    ObjectRef,
    rows::{RuleId, TableId},
};

use super::{Before, List, TableState, Tables};

/// Entries by the rule that they name, where a table changed.
#[derive(Debug, Default)]
pub(in crate::engine) struct Growth {
    pub(in crate::engine) before: BTreeMap<RuleId, i64>,
    pub(in crate::engine) now: BTreeMap<RuleId, i64>,
}

impl Tables {
    /// Tables that have more than so many entries now and more than when the last change set was taken, with their number
    /// and the policies whose rules they hold.
    pub(in crate::engine) fn grown_beyond(
        &self,
        limit: usize,
    ) -> impl Iterator<Item = (TableId, usize, &BTreeMap<ObjectRef, i64>)> {
        let touched = self.before.iter().filter_map(|(id, before)| Some((*id, before, self.by_id.get(id)?)));
        touched.filter_map(move |(id, before, table)| {
            let entries = table.entries();
            (entries > limit && entries > before.entries(table)).then_some((id, entries, &table.policies))
        })
    }

    /// Whether a table held rules of the policy when the last change set was taken.
    pub(in crate::engine) fn had(&self, policy: &ObjectRef) -> bool {
        let told = |id: &TableId| self.before.get(id).is_none_or(|b| !b.absent);
        let held = |(id, table): (&TableId, &TableState)| {
            let before = self.before.get(id).and_then(|b| b.policies.as_ref()).unwrap_or(&table.policies);
            told(id) && before.contains_key(policy)
        };
        let gone = self.before.values().filter_map(|b| b.gone.as_deref());
        self.by_id.iter().any(held) || gone.into_iter().any(|t| t.policies.contains_key(policy))
    }

    /// Entries of a table by the rule that they name, as far as they changed since the last change set was taken.
    pub(in crate::engine) fn growth(&self, id: TableId) -> Growth {
        let mut growth = Growth::default();
        let (Some(before), Some(table)) = (self.before.get(&id), self.by_id.get(&id)) else { return growth };
        let count = |into: &mut BTreeMap<RuleId, i64>, list: &List| {
            for (.., entry) in &**list {
                *into.entry(entry.rule).or_default() += 1;
            }
        };
        for (before, now) in before.lists.iter().zip(&table.lists) {
            before.values().flatten().for_each(|l| count(&mut growth.before, l));
            before.keys().filter_map(|p| now.by_peer.get(p)).for_each(|l| count(&mut growth.now, l));
        }
        if before.absent {
            table.lists.iter().flat_map(|l| l.by_peer.values()).for_each(|l| count(&mut growth.now, l));
        }
        growth
    }
}

impl TableState {
    fn entries(&self) -> usize {
        self.lists.iter().map(|l| l.entries).sum()
    }
}

impl Before {
    /// How many entries the table had.
    fn entries(&self, table: &TableState) -> usize {
        if self.absent {
            return 0;
        }
        let changed = self.lists.iter().zip(&table.lists).map(|(before, now)| {
            let had: usize = before.values().flatten().map(|l| l.len()).sum();
            let have: usize = before.keys().filter_map(|p| now.by_peer.get(p)).map(|l| l.len()).sum();
            now.entries + had - have
        });
        changed.sum()
    }
}
