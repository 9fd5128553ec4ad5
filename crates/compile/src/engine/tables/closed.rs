//! Tables of pods that no map holds, though no policy can be held back for it: nothing is told of the direction that makes them too
//! large but that nothing passes; or, where nothing was denied because all of it is audited, that anything would be.
//!
//! The whole table stays here, so that it is known when it fits again. Which directions are closed is a function of its
//! content and of the limit alone.

use std::collections::{BTreeMap, BTreeSet};

use axoneme_model::{
    ObjectRef,
    rows::{DirectionDefault, RuleId, TableId},
    verdict::{own_host_rule, too_large_rule},
};

use super::{Item, TableState, Tables};
use crate::rules::RuleIds;

/// What a closed direction is told to be: entries of this rule only (a pod's own node reaches it all the same, or its
/// probes would fail), and nothing else passes by this rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Shutter {
    own_host: RuleId,
    reason: RuleId,
    /// Nothing is denied in the direction, since it is audited: the shutter denies nothing either.
    audit: bool,
}

/// Ingress, egress: none where the direction is told as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::engine) struct Closed(pub(super) [Option<Shutter>; 2]);

impl Closed {
    pub(super) fn defaults(self, of: [DirectionDefault; 2]) -> [DirectionDefault; 2] {
        let [ingress, egress] = of;
        let [i, e] = self.0;
        [shut(ingress, i), shut(egress, e)]
    }

    fn is_open(self) -> bool {
        self == Self::default()
    }
}

fn shut(mut default: DirectionDefault, shutter: Option<Shutter>) -> DirectionDefault {
    if let Some(shutter) = shutter {
        (default.allow, default.audit, default.rule) = (shutter.audit, shutter.audit, shutter.reason);
    }
    default
}

/// Whether nodes are told of an entry.
pub(super) fn told(shutter: Option<Shutter>, entry: &Item) -> bool {
    shutter.is_none_or(|s| entry.3.rule == s.own_host)
}

impl TableState {
    /// The larger direction is closed if that is enough, else both.
    fn closed_within(&self, limit: usize, shutter: Shutter) -> Closed {
        let [ingress, egress] = &self.lists;
        if ingress.entries + egress.entries <= limit {
            return Closed::default();
        }
        let stays = ingress.by_peer.values().flat_map(|l| l.iter()).filter(|e| told(Some(shutter), e)).count();
        let [for_ingress, for_egress] = [(0, ingress), (1, egress)].map(|(direction, lists)| {
            let open = self.defaults.get(direction).is_some_and(|d| d.allow);
            let audit = open && lists.by_peer.values().flat_map(|l| l.iter()).all(|e| e.3.allow);
            Some(Shutter { audit, ..shutter })
        });
        let (alone, enough) = if ingress.entries > egress.entries {
            ([for_ingress, None], stays + egress.entries <= limit)
        } else {
            ([None, for_egress], ingress.entries <= limit)
        };
        Closed(if enough { alone } else { [for_ingress, for_egress] })
    }
}

impl Tables {
    /// Closes what changed and is too large, and opens what fits again. Runs before changes are taken.
    pub(in crate::engine) fn close_beyond(&mut self, limit: usize, ids: &RuleIds) {
        let (own_host, reason) = (ids.get(&own_host_rule()), ids.get(&too_large_rule()));
        let shutter = Shutter { own_host, reason, audit: false };
        for (id, before) in &mut self.before {
            let Some(table) = self.by_id.get_mut(id) else {
                self.closed.remove(id);
                continue;
            };
            // a node whose table does not fit is left alone
            let now = if table.key.nodes { Closed::default() } else { table.closed_within(limit, shutter) };
            if now != table.closed {
                before.closed.get_or_insert(table.closed);
                table.closed = now;
            }
            if now.is_open() {
                self.closed.remove(id);
            } else {
                self.closed.insert(*id);
            }
        }
    }

    /// Marks all tables to be looked at: another limit.
    pub(in crate::engine) fn touch(&mut self) {
        for id in self.by_id.keys() {
            self.before.entry(*id).or_default();
        }
    }

    /// The tables of which a direction is closed.
    pub(in crate::engine) fn closed(&self) -> &BTreeSet<TableId> {
        &self.closed
    }

    /// Of a table: its policies, the directions that are closed, and the entries that it would have.
    pub(in crate::engine) fn closure(&self, id: TableId) -> Option<(&BTreeMap<ObjectRef, i64>, [bool; 2], usize)> {
        let table = self.by_id.get(&id)?;
        let entries = table.lists.iter().map(|l| l.entries).sum();
        Some((&table.policies, table.closed.0.map(|s| s.is_some()), entries))
    }
}
