//! How nodes come from one tunnel to another (`spec.routing.overlay`).
//!
//! ```text
//!   old ──new wanted──▶ new is taken, too ──acknowledged by all──▶ new is sent, old is taken ──acknowledged──▶ new
//! ```
//!
//! A node takes packets from the tunnels that it was told of. So none is told to send by another before all have
//! acknowledged that they take it, and all take the former until none sends by it any more. One that cannot make the new
//! device never acknowledges the first step: the change waits, and nobody is cut off. Two tunnels of one protocol, or at
//! one port, are one device: between these nodes change at once. So they do after a start of this process, which knows of
//! no node what it was told by another.

use axoneme_model::rows::Tunnel;

/// What nodes are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// That packets are sent by, and taken from. None: there is no tunnel.
    pub sent: Option<Tunnel>,
    /// Another that they are taken from.
    pub taken: Option<Tunnel>,
}

impl Tunnels {
    /// UDP port that a node's guard has to let pass, beside the usual ones: one that is not among these, if there is any.
    #[must_use]
    pub fn guarded_port(self) -> Option<u16> {
        let usual = |t: &Tunnel| [8472, 6081].contains(&t.port);
        let mut both = self.sent.into_iter().chain(self.taken);
        let unusual = both.clone().find(|t| !usual(t));
        unusual.or_else(|| both.next()).map(|t| t.port)
    }
}

/// Whether a node can have both.
fn fit(a: Tunnel, b: Tunnel) -> bool {
    a.protocol != b.protocol && a.port != b.port
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Handover {
    told: Option<Tunnels>,
    /// Nodes that lag may still send by the one that is only taken.
    lagging: bool,
    /// Revision that told it.
    since: u64,
}

impl Handover {
    /// What to tell next, and whether nodes may then still send by what is only taken.
    fn next(&self, wanted: Option<Tunnel>, acknowledged: u64) -> (Tunnels, bool) {
        let alone = (Tunnels { sent: wanted, taken: None }, false);
        let Some(told) = self.told else { return alone };
        let (Some(sent), Some(new)) = (told.sent, wanted) else { return alone };
        let heard = acknowledged >= self.since;
        let stay = (told, self.lagging);
        match told.taken {
            // all have both
            Some(taken) if taken == new && (heard || self.lagging) => {
                (Tunnels { sent: wanted, taken: told.sent }, true)
            }
            Some(taken) if taken == new => stay,
            // somebody may send by what would no longer be taken
            Some(_) if self.lagging && !heard => stay,
            _ if sent == new => alone,
            _ if fit(sent, new) => (Tunnels { sent: told.sent, taken: wanted }, false),
            _ => alone,
        }
    }

    /// Whether nodes are to be told something else. `acknowledged`: by all of them.
    pub(super) fn is_due(&self, wanted: Option<Tunnel>, acknowledged: u64) -> bool {
        self.told.is_some_and(|told| told != self.next(wanted, acknowledged).0)
    }

    /// What nodes are told from now on.
    pub(super) fn step(&mut self, wanted: Option<Tunnel>, acknowledged: u64) -> Tunnels {
        let (next, lagging) = self.next(wanted, acknowledged);
        if self.told != Some(next) {
            // until it is known
            (self.told, self.lagging, self.since) = (Some(next), lagging, u64::MAX);
        }
        next
    }

    /// The rows of the last step have this revision. Whether all nodes are to say that they have it.
    pub(super) fn published(&mut self, revision: u64) -> bool {
        let step = self.since == u64::MAX;
        if step {
            self.since = revision;
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use axoneme_model::rows::TunnelProtocol::{Geneve, Vxlan};
    use proptest::{collection as many, prelude::*};

    use super::*;

    const OLD: Tunnel = Tunnel { protocol: Vxlan, port: 8472 };
    const NEW: Tunnel = Tunnel { protocol: Geneve, port: 6081 };

    fn tunnels(sent: Tunnel, taken: Option<Tunnel>) -> Tunnels {
        Tunnels { sent: Some(sent), taken }
    }

    /// Told `OLD` as revision 1, which all have.
    fn settled() -> Handover {
        let mut h = Handover::default();
        assert_eq!(h.step(Some(OLD), 0), tunnels(OLD, None));
        h.published(1);
        h
    }

    #[test]
    fn nobody_sends_by_the_new_one_before_all_take_it_and_all_take_the_old_one_until_nobody_does() {
        let mut h = settled();
        assert!(h.is_due(Some(NEW), 1) && !h.is_due(Some(OLD), 1));
        assert_eq!(h.step(Some(NEW), 1), tunnels(OLD, Some(NEW)));
        h.published(2);
        assert!(!h.is_due(Some(NEW), 1), "one has not acknowledged it");
        assert_eq!(h.step(Some(NEW), 2), tunnels(NEW, Some(OLD)));
        h.published(3);
        assert!(!h.is_due(Some(NEW), 2), "one may still send by the old one");
        assert_eq!(h.step(Some(NEW), 3), tunnels(NEW, None));
        h.published(4);
        assert!(!h.is_due(Some(NEW), 4));
    }

    #[test]
    fn a_change_that_one_node_cannot_follow_can_be_taken_back() {
        let mut h = settled();
        assert_eq!(h.step(Some(NEW), 1), tunnels(OLD, Some(NEW)));
        h.published(2);
        // it never acknowledges, and nobody sends by it
        assert_eq!(h.step(Some(OLD), 1), tunnels(OLD, None));
    }

    #[test]
    fn tunnels_that_are_one_device_and_the_end_of_all_tunnels_come_at_once() {
        for other in [Tunnel { port: 4789, ..OLD }, Tunnel { port: OLD.port, ..NEW }] {
            assert_eq!(settled().step(Some(other), 0), tunnels(other, None));
        }
        assert_eq!(settled().step(None, 0), Tunnels::default());
        assert_eq!(Handover::default().step(Some(NEW), 0), tunnels(NEW, None), "a new process goes by the settings");
    }

    #[test]
    fn a_guard_lets_the_tunnel_pass_that_the_programs_do_not_know() {
        assert_eq!(tunnels(OLD, Some(NEW)).guarded_port(), Some(8472));
        assert_eq!(tunnels(OLD, Some(Tunnel { port: 7, ..NEW })).guarded_port(), Some(7));
        assert_eq!(tunnels(Tunnel { port: 7, ..OLD }, Some(NEW)).guarded_port(), Some(7));
        assert_eq!(Tunnels::default().guarded_port(), None);
    }

    proptest! {
        /// Nodes acknowledge in any order and as late as they like: what one has of a node's acknowledged rows always takes
        /// what another may send by its own.
        #[test]
        fn whatever_is_sent_is_taken(events in many::vec((any::<bool>(), 0usize..3, any::<bool>()), 1..80)) {
            let mut h = settled();
            let mut told = vec![tunnels(OLD, None)];
            // what each node has in force: index into `told`, which is the revision less one
            let mut nodes = [0usize; 3];
            for (change, node, hears) in events {
                let wanted = Some(if change { NEW } else { OLD });
                if hears && nodes[node] + 1 < told.len() {
                    nodes[node] += 1;
                }
                let acknowledged = *nodes.iter().min().unwrap() as u64 + 1;
                if h.is_due(wanted, acknowledged) {
                    told.push(h.step(wanted, acknowledged));
                    h.published(told.len() as u64);
                }
                let have = nodes.map(|n| told[n]);
                for (a, b) in have.iter().flat_map(|a| have.iter().map(move |b| (a, b))) {
                    prop_assert!(a.sent == b.sent || a.sent == b.taken, "{have:?}");
                }
            }
        }
    }
}
