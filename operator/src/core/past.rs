//! How nodes come to send past the tunnel (routing mode Hybrid), and how they stop.
//!
//! ```text
//!   off ──wanted──▶ taken by all ──acknowledged by all──▶ sent ──no longer wanted──▶ taken by all ──acknowledged──▶ off
//! ```
//!
//! A node drops what comes past the tunnel unless it was told to take it. So none is told to send so before all have
//! acknowledged that they take it, and all take it until none sends so any more. A process that has just started knows of
//! no node what it was told by another: it goes by the settings, as if they had never been others.

/// What nodes are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    Off,
    /// They take packets past the tunnel and send none.
    Taken,
    /// And those that share a subnet send them.
    Sent,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Handover {
    told: Option<Past>,
    /// Revision that told it.
    since: u64,
}

impl Handover {
    fn next(&self, wanted: bool, acknowledged: u64) -> Past {
        let to = if wanted { Past::Sent } else { Past::Off };
        match self.told {
            None => to,
            Some(Past::Taken) if acknowledged >= self.since => to,
            Some(Past::Taken) => Past::Taken,
            Some(told) if told == to => to,
            Some(_) => Past::Taken,
        }
    }

    /// Whether nodes are to be told something else. `acknowledged`: by all of them.
    pub(super) fn is_due(&self, wanted: bool, acknowledged: u64) -> bool {
        self.told.is_some_and(|told| told != self.next(wanted, acknowledged))
    }

    /// What nodes are told from now on.
    pub(super) fn step(&mut self, wanted: bool, acknowledged: u64) -> Past {
        let next = self.next(wanted, acknowledged);
        if self.told != Some(next) {
            // until it is known
            (self.told, self.since) = (Some(next), u64::MAX);
        }
        next
    }

    /// The rows of the last step have this revision. Whether it is waited for that all nodes have it.
    pub(super) fn published(&mut self, revision: u64) -> bool {
        let fresh = self.since == u64::MAX;
        if fresh {
            self.since = revision;
        }
        fresh
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection as many, prelude::*};

    use super::*;

    #[test]
    fn nobody_sends_before_all_take_and_all_take_until_nobody_sends() {
        let mut h = Handover::default();
        assert_eq!(h.step(false, 0), Past::Off);
        h.published(1);
        assert!(h.is_due(true, 1) && !h.is_due(false, 1));
        assert_eq!(h.step(true, 1), Past::Taken);
        h.published(2);
        assert!(!h.is_due(true, 1), "one has not acknowledged it");
        assert!(h.is_due(true, 2));
        assert_eq!(h.step(true, 2), Past::Sent);
        h.published(3);
        assert_eq!(h.step(false, 3), Past::Taken);
        h.published(4);
        // and wanted again meanwhile: nothing stands against it
        assert_eq!((h.next(true, 3), h.next(true, 4), h.next(false, 4)), (Past::Taken, Past::Sent, Past::Off));
    }

    #[test]
    fn a_new_process_goes_by_the_settings() {
        assert_eq!(Handover::default().step(true, 0), Past::Sent);
        assert_eq!(Handover::default().step(false, 0), Past::Off);
    }

    proptest! {
        /// Nodes acknowledge in any order and as late as they like: what one has of a node's acknowledged rows always takes
        /// what another may send by its own.
        #[test]
        fn whatever_is_sent_is_taken(events in many::vec((any::<bool>(), 0usize..3, any::<bool>()), 1..60)) {
            let mut h = Handover::default();
            let mut told = vec![h.step(false, 0)];
            h.published(1);
            // what each node has in force: index into `told`, which is the revision less one
            let mut nodes = [0usize; 3];
            for (wanted, node, hears) in events {
                if hears && nodes[node] + 1 < told.len() {
                    nodes[node] += 1;
                }
                let acknowledged = *nodes.iter().min().unwrap() as u64 + 1;
                if h.is_due(wanted, acknowledged) {
                    told.push(h.step(wanted, acknowledged));
                    h.published(told.len() as u64);
                }
                let have = nodes.map(|n| told[n]);
                prop_assert!(!(have.contains(&Past::Sent) && have.contains(&Past::Off)), "{have:?}");
            }
        }
    }
}
