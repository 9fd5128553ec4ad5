//! From an ordered list of rules to the fewest longest-match entries.
//!
//! ```text
//!  rules in order of evaluation ─▶ winner of every port ─▶ a tree of port prefixes ─▶ the fewest prefixes
//! ```
//!
//! The tree step is optimal routing table construction (Draves et al., "Constructing Optimal IP Routing Tables",
//! INFOCOM 1999) with two additions: several rules may be acceptable for a port (all matching allows of the normal tier
//! are equally right), and a port may be left to what the lookup falls back to.

use std::collections::BTreeSet;

use axoneme_model::{Action, Protocol, Tier};

/// Ports of a rule after names are resolved. Sorted and disjoint within a protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PortSet {
    Any,
    OneOf(Vec<(Protocol, u16, u16)>),
}

impl PortSet {
    /// Merges overlapping and adjacent ranges.
    pub(crate) fn of(mut ranges: Vec<(Protocol, u16, u16)>) -> Self {
        ranges.retain(|(_, first, last)| first <= last);
        ranges.sort_unstable();
        let mut merged: Vec<(Protocol, u16, u16)> = Vec::with_capacity(ranges.len());
        for (protocol, first, last) in ranges {
            match merged.last_mut() {
                Some((p, _, end)) if *p == protocol && u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
                _ => merged.push((protocol, first, last)),
            }
        }
        Self::OneOf(merged)
    }

    fn covers(&self, protocol: Option<Protocol>, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(ranges) => protocol
                .is_some_and(|p| ranges.iter().any(|(q, first, last)| *q == p && (*first..=*last).contains(&port))),
        }
    }
}

/// Which rule of the list decided, by its position; [`DEFAULT`]: none.
pub(crate) type Colour = u32;
/// The default of the table: last of all colours.
pub(crate) const DEFAULT: Colour = u32::MAX;

/// The default-deny that would be, where an enforced rule allows: all rules together would come to it.
pub(crate) const WOULD_ISOLATE: Colour = u32::MAX - 2;
/// With the position of a rule: it would deny if it were enforced.
pub(crate) const WOULD_DENY: Colour = 1 << 31;

/// What the table's default is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Isolation {
    /// Default-deny.
    pub(crate) enforced: bool,
    /// Default-deny, if audited rules were enforced. Where the former is, this is.
    pub(crate) whole: bool,
}

/// A rule as far as ports are concerned.
#[derive(Clone, Debug)]
pub(crate) struct Item<'a> {
    pub(crate) colour: Colour,
    pub(crate) tier: Tier,
    pub(crate) action: Action,
    /// Not enforced: only what it would deny is told.
    pub(crate) audit: bool,
    pub(crate) ports: &'a PortSet,
}

/// An entry without its direction and peer: protocol, port, leading bits, who decided.
pub(crate) type Slot = (Option<Protocol>, u16, u8, Colour);

/// Longest match in a list of slots.
pub(crate) fn look_up(slots: &[Slot], protocol: Option<Protocol>, port: u16) -> Option<Colour> {
    let hit = |s: &&Slot| match (s.0, protocol) {
        (None, _) => true,
        (Some(p), Some(q)) => p == q && port & axoneme_model::lookup::mask(s.2) == s.1,
        (Some(_), None) => false,
    };
    slots.iter().filter(hit).max_by_key(|s| (s.0.is_some(), s.2)).map(|s| s.3)
}

/// What a port gets that no slot covers: lists of slots that are looked into one after the other, then the default.
pub(crate) type Below<'a> = [&'a [Slot]];

/// The fewest slots that give every port its winner. `items` are in order of evaluation; `isolated` says whether the
/// default is default-deny, which keeps the baseline tier out. `below`: what ports get that no slot covers; where there
/// is more than one possibility, a port is left out only if it is right in all of them.
pub(crate) fn solve(items: &[Item<'_>], isolated: Isolation, below: &[&Below<'_>]) -> Vec<Slot> {
    let mut protocols: BTreeSet<Protocol> = slots(below).filter_map(|s| s.0).collect();
    for item in items {
        if let PortSet::OneOf(ranges) = item.ports {
            protocols.extend(ranges.iter().map(|r| r.0));
        }
    }
    let builder = Builder { items, isolated, below };
    let trees: Vec<(Protocol, Tree)> = protocols.into_iter().map(|p| (p, builder.tree(p))).collect();
    let rest = winners(items, isolated, None, 0);
    let rest_may_miss = may_miss(below, &rest, None, 0);
    let miss_cost = trees.iter().map(|(_, t)| t.miss_cost).sum::<u32>();
    let colour_cost = |c: &Colour| 1 + trees.iter().map(|(_, t)| t.cost + u32::from(!t.best.contains(c))).sum::<u32>();
    let chosen = rest.iter().map(|c| (colour_cost(c), *c)).min();
    let mut out = vec![];
    let chosen = chosen.filter(|(cost, _)| !rest_may_miss || *cost < miss_cost).map(|(_, colour)| colour);
    out.extend(chosen.map(|colour| (None, 0, 0, colour)));
    for (protocol, tree) in &trees {
        tree.emit(*protocol, 0, 0, chosen, &mut out);
    }
    out
}

/// All rules that may stand for the verdict of a port. Never empty; sorted.
///
/// The enforced rules decide. Where they let the port pass, all rules are asked: what those deny is passed and told.
fn winners(items: &[Item<'_>], isolated: Isolation, protocol: Option<Protocol>, port: u16) -> Vec<Colour> {
    let matching = items.iter().filter(|i| i.ports.covers(protocol, port));
    let (allow, enforced) = decide(matching.clone().filter(|i| !i.audit), isolated.enforced);
    if !allow || (isolated.enforced == isolated.whole && items.iter().all(|i| !i.audit)) {
        return enforced;
    }
    let (allow, whole) = decide(matching, isolated.whole);
    match (allow, &*whole) {
        // where no enforced rule had a say, what would allow is told
        (true, _) if *enforced == [DEFAULT] => whole,
        (true, _) => enforced,
        (false, [DEFAULT]) if isolated.enforced => vec![WOULD_ISOLATE],
        (false, [DEFAULT]) => whole,
        (false, _) => whole.into_iter().map(|c| WOULD_DENY | c).collect(),
    }
}

/// What rules that match say, and all of those that may stand for it.
fn decide<'a>(matching: impl Iterator<Item = &'a Item<'a>>, isolated: bool) -> (bool, Vec<Colour>) {
    let mut denies = vec![];
    let mut allows = vec![];
    let mut left_admin = false;
    for item in matching {
        match (item.tier, item.action) {
            (Tier::Admin { .. }, _) if left_admin => {}
            (Tier::Admin { .. }, Action::Pass) => left_admin = true,
            (Tier::Admin { .. }, action) => return (action == Action::Allow, vec![item.colour]),
            (Tier::Normal, Action::Deny) => denies.push(item.colour),
            (Tier::Normal, Action::Allow) => allows.push(item.colour),
            (Tier::Normal, Action::Pass) => {}
            (Tier::Baseline { .. }, action) => {
                if isolated || !denies.is_empty() || !allows.is_empty() || action == Action::Pass {
                    break;
                }
                return (action == Action::Allow, vec![item.colour]);
            }
        }
    }
    match (denies.is_empty(), allows.is_empty()) {
        (false, _) => (false, denies),
        (true, false) => (true, allows),
        (true, true) => (!isolated, vec![DEFAULT]),
    }
}

struct Builder<'a> {
    items: &'a [Item<'a>],
    isolated: Isolation,
    below: &'a [&'a Below<'a>],
}

fn slots<'a>(below: &'a [&'a Below<'a>]) -> impl Iterator<Item = &'a Slot> {
    below.iter().flat_map(|b| b.iter()).flat_map(|s| s.iter())
}

/// Whether a port that no slot covers gets one of these.
fn may_miss(below: &[&Below<'_>], winners: &[Colour], protocol: Option<Protocol>, port: u16) -> bool {
    below.iter().all(|lists| {
        let found = lists.iter().find_map(|slots| look_up(slots, protocol, port));
        winners.contains(&found.unwrap_or(DEFAULT))
    })
}

/// A port prefix. All ports of a leaf have the same winners.
struct Tree {
    /// Fewest entries below, if this node's own colour may be chosen freely among `best`.
    cost: u32,
    best: Vec<Colour>,
    /// Fewest entries below and here, if no wider entry is above.
    miss_cost: u32,
    halves: Option<Box<(Tree, Tree)>>,
}

impl Builder<'_> {
    fn tree(&self, protocol: Protocol) -> Tree {
        let mut cuts = BTreeSet::new();
        for item in self.items {
            if let PortSet::OneOf(ranges) = item.ports {
                for (_, first, last) in ranges.iter().filter(|r| r.0 == protocol) {
                    cuts.extend([u32::from(*first), u32::from(*last) + 1]);
                }
            }
        }
        for slot in slots(self.below).filter(|s| s.0 == Some(protocol)) {
            let first = u32::from(slot.1);
            cuts.extend([first, first + (1 << (16 - slot.2))]);
        }
        self.node(protocol, 0, 0, &cuts)
    }

    fn node(&self, protocol: Protocol, port: u16, bits: u8, cuts: &BTreeSet<u32>) -> Tree {
        let start = u32::from(port);
        let size = 1u32 << (16 - bits);
        if bits == 16 || cuts.range(start + 1..start + size).next().is_none() {
            let best = winners(self.items, self.isolated, Some(protocol), port);
            let may_miss = may_miss(self.below, &best, Some(protocol), port);
            return Tree { cost: 0, miss_cost: u32::from(!may_miss), best, halves: None };
        }
        let low = self.node(protocol, port, bits + 1, cuts);
        let high = self.node(protocol, port | 1 << (15 - bits), bits + 1, cuts);
        let both: Vec<Colour> = low.best.iter().filter(|c| high.best.contains(c)).copied().collect();
        let clash = both.is_empty();
        let cost = low.cost + high.cost + u32::from(clash);
        let best = if clash {
            low.best.iter().chain(&high.best).copied().collect::<BTreeSet<_>>().into_iter().collect()
        } else {
            both
        };
        let miss_cost = (low.miss_cost + high.miss_cost).min(1 + cost);
        Tree { cost, best, miss_cost, halves: Some(Box::new((low, high))) }
    }
}

impl Tree {
    /// `above`: the colour that a wider entry gives; none where nothing wider was emitted.
    fn emit(&self, protocol: Protocol, port: u16, bits: u8, above: Option<Colour>, out: &mut Vec<Slot>) {
        let stay = match (above, &self.halves) {
            (Some(colour), _) => self.best.contains(&colour),
            (None, None) => self.miss_cost == 0,
            (None, Some(h)) => h.0.miss_cost + h.1.miss_cost <= 1 + self.cost,
        };
        let colour = if stay { above } else { self.best.first().copied() };
        if let (false, Some(colour)) = (stay, colour) {
            out.push((Some(protocol), port, bits, colour));
        }
        if let Some(halves) = &self.halves {
            halves.0.emit(protocol, port, bits + 1, colour, out);
            halves.1.emit(protocol, port | 1 << (15 - bits), bits + 1, colour, out);
        }
    }
}
