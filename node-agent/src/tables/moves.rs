//! Addresses that pass from one peer class to another, and what that asks of tables.
//!
//! Addresses change hands for all packets in one moment, the commit of the datapath. A table is changed entry by entry,
//! before it and after it. So that no packet of a moving address meets a verdict of neither state:
//!
//! ```text
//!   before: entries of classes that nobody leaves ─▶ commit ─▶ after: entries of classes that nobody enters
//! ```
//!
//! A change that is neither (a rule about everybody, a default, a class that some leave and others enter), and one of a
//! table that an endpoint leaves for another, goes with the whole table to a slot of its own, to which the endpoints pass
//! with the same commit.

use std::collections::BTreeSet;

use axoneme_kernel::datapath::{PolicyKey, PolicyValue};

/// Classes and slots that addresses pass from and to with the next commit. An address that had no holder, or will have
/// none, does not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    left: BTreeSet<u32>,
    entered: BTreeSet<u32>,
    slots_left: BTreeSet<u16>,
    slots_entered: BTreeSet<u16>,
}

/// Changes of a table's entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entries {
    pub(super) upserts: Vec<(PolicyKey, PolicyValue)>,
    pub(super) removals: Vec<PolicyKey>,
}

impl Entries {
    pub(super) fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removals.is_empty()
    }
}

impl Moves {
    /// An address passes from one class to another.
    pub fn add(&mut self, from: u32, to: u32) {
        self.left.insert(from);
        self.entered.insert(to);
    }

    /// An endpoint passes from one slot to another.
    pub fn add_slot(&mut self, from: u16, to: u16) {
        self.slots_left.insert(from);
        self.slots_entered.insert(to);
    }

    /// Whether a table may become another one in its slot before the commit.
    pub(super) fn leave_alone(&self, slot: u16) -> bool {
        self.left.is_empty() && !self.slots_left.contains(&slot)
    }

    /// The changes of a slot that go before the commit, and those that go after it. None: they cannot be told apart.
    pub(super) fn split(&self, slot: u16, changes: Entries) -> Option<(Entries, Entries)> {
        if changes.is_empty() || self.leave_alone(slot) {
            return Some((changes, Entries::default()));
        }
        let (before, after): (Vec<_>, Vec<_>) =
            changes.upserts.into_iter().partition(|(k, _)| k.is_of_class() && !self.left.contains(&k.peer));
        let late = after.iter().map(|(k, _)| k).chain(&changes.removals);
        let apart = late.clone().all(|k| k.is_of_class() && !self.entered.contains(&k.peer));
        let after = Entries { upserts: after, removals: changes.removals };
        let whole = after.is_empty() || !self.slots_entered.contains(&slot);
        let apart = apart && whole && !self.slots_left.contains(&slot);
        apart.then_some((Entries { upserts: before, removals: Vec::new() }, after))
    }
}

#[cfg(test)]
mod tests {
    use axoneme_kernel::datapath::Direction;

    use super::*;

    fn key(peer: u32) -> PolicyKey {
        PolicyKey { direction: Direction::Ingress, peer, protocol: 0, port: 0, port_bits: 0 }
    }

    fn changes(upserts: &[u32], removals: &[u32]) -> Entries {
        let value = PolicyValue { allow: true, audit: false, rule: 1, proxy_port: 0, auth: 0 };
        Entries {
            upserts: upserts.iter().map(|p| (key(*p), value)).collect(),
            removals: removals.iter().map(|p| key(*p)).collect(),
        }
    }

    #[test]
    fn nothing_moves_and_everything_goes_at_once() {
        let all = changes(&[300, 0], &[301]);
        assert_eq!(Moves::default().split(1, all.clone()), Some((all, Entries::default())));
    }

    #[test]
    fn a_class_is_there_before_it_is_entered_and_goes_after_it_was_left() {
        let mut moves = Moves::default();
        moves.add(300, 400);
        let split = moves.split(1, changes(&[400, 500], &[300, 600]));
        assert_eq!(split, Some((changes(&[400, 500], &[]), changes(&[], &[300, 600]))));
    }

    #[test]
    fn what_is_about_both_sides_of_a_move_is_not_split() {
        let mut moves = Moves::default();
        moves.add(300, 400);
        for both in [changes(&[0], &[]), changes(&[], &[0]), changes(&[], &[400])] {
            assert_eq!(moves.split(1, both), None);
        }
        // an entry of a class that is left goes after the commit, if nobody enters it
        assert_eq!(moves.split(1, changes(&[300], &[])), Some((Entries::default(), changes(&[300], &[]))));
        moves.add(200, 300);
        assert_eq!(moves.split(1, changes(&[300], &[])), None);
    }

    #[test]
    fn a_table_that_an_endpoint_leaves_is_not_changed_under_it() {
        let mut moves = Moves::default();
        moves.add_slot(1, 2);
        assert_eq!(moves.split(1, changes(&[400], &[])), None);
        assert!(moves.split(1, changes(&[], &[])).is_some() && !moves.leave_alone(1));
        // one that it enters is changed before
        let all = changes(&[400, 0], &[300]);
        assert_eq!(moves.split(2, all.clone()), Some((all, Entries::default())));
        // unless part of it has to wait for other addresses
        moves.add(300, 400);
        assert_eq!(moves.split(2, changes(&[400], &[300])), None);
        assert!(moves.split(2, changes(&[400], &[])).is_some());
        assert!(moves.split(3, changes(&[400], &[300])).is_some());
    }
}
