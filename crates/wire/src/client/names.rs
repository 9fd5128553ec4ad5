//! Words that many rows have, once in memory: the name of a node is in the rows of all of its pods, a label's key in all
//! identities. Decoded one by one each row would have its own copy.

use std::{collections::HashSet, sync::Arc};

use axoneme_model::Labels;

use crate::change::{Row, RowChange};

/// Words beyond those that rows hold which may be kept before they are looked for.
const LOOSE: usize = 4096;

/// The words of a stream's rows. Those that no row has any more go, when there are many.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: HashSet<Arc<str>>,
    /// Words that rows held when they were looked through last.
    held: usize,
}

impl Names {
    /// The word as other rows have it.
    fn one(&mut self, word: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.known.get(word) {
            return known.clone();
        }
        if self.known.len() >= self.held * 2 + LOOSE {
            self.known.retain(|w| Arc::strong_count(w) > 1);
            self.held = self.known.len();
        }
        self.known.insert(word.clone());
        word.clone()
    }

    fn labels(&mut self, labels: &Labels) -> Labels {
        let shared = labels.shared().map(|(key, value)| {
            let mut key = key.clone();
            key.name = self.one(&key.name);
            (key, self.one(value))
        });
        shared.collect()
    }

    /// Makes the change share its words with the rows that came before.
    pub(super) fn share(&mut self, change: &mut RowChange) {
        match change {
            RowChange::Upsert(Row::Identity(r)) => r.labels = self.labels(&r.labels),
            // nobody else has a row that has just been decoded
            RowChange::Upsert(Row::Ip(r)) => {
                if let Some(r) = Arc::get_mut(r) {
                    r.node = self.one(&r.node);
                }
            }
            RowChange::Upsert(Row::Endpoint(r)) => {
                if let Some(r) = Arc::get_mut(r) {
                    r.node = self.one(&r.node);
                    r.namespace = self.one(&r.namespace);
                    r.labels = self.labels(&r.labels);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use axoneme_model::{
        Cidr, Identity, PeerClass,
        labels::LabelKey,
        rows::{IdentityRow, IpRow},
    };

    use super::*;

    fn identity(id: u32, app: &str) -> RowChange {
        let labels = Labels::new().with(LabelKey::k8s("app"), app).with(LabelKey::k8s("tier"), "web");
        RowChange::Upsert(Row::Identity(IdentityRow { id: Identity(id), labels }))
    }

    fn ip(node: &str, pod: &str) -> RowChange {
        let (identity, peer) = (Identity(300), PeerClass(300));
        let prefix: Cidr = "10.0.0.1/32".parse().unwrap();
        let row = IpRow {
            prefix,
            identity,
            peer,
            local_identity: identity,
            local_peer: peer,
            tunnel: None,
            node: node.into(),
            pod: pod.into(),
        };
        RowChange::Upsert(Row::Ip(row.into()))
    }

    #[test]
    fn rows_are_as_they_were_and_share_their_words() {
        let mut names = Names::default();
        let plain = [identity(1, "a"), identity(2, "b"), ip("n1", "ns/a"), ip("n1", "ns/b")];
        let mut shared = plain.clone().map(|c| match c {
            // as decoded: nobody else has it
            RowChange::Upsert(Row::Ip(r)) => RowChange::Upsert(Row::Ip(Arc::new((*r).clone()))),
            other => other,
        });
        for c in &mut shared {
            names.share(c);
        }
        assert_eq!(shared, plain);
        let (RowChange::Upsert(Row::Identity(a)), RowChange::Upsert(Row::Identity(b))) = (&shared[0], &shared[1])
        else {
            panic!("identities")
        };
        let words = |l: &Labels| l.shared().map(|(k, v)| (k.name.clone(), v.clone())).collect::<Vec<_>>();
        let (a, b) = (words(&a.labels), words(&b.labels));
        assert!(Arc::ptr_eq(&a[0].0, &b[0].0) && Arc::ptr_eq(&a[1].1, &b[1].1), "keys and equal values are one");
        let (RowChange::Upsert(Row::Ip(a)), RowChange::Upsert(Row::Ip(b))) = (&shared[2], &shared[3]) else {
            panic!("addresses")
        };
        assert!(Arc::ptr_eq(&a.node, &b.node));
    }

    #[test]
    fn words_of_rows_that_are_gone_are_not_kept_for_ever() {
        let mut names = Names::default();
        let mut kept = identity(1, "kept");
        names.share(&mut kept);
        for i in 0..u32::try_from(LOOSE).unwrap() * 4 {
            names.share(&mut identity(2, &format!("gone-{i}")));
        }
        assert!(names.known.len() <= LOOSE + 16, "{} words are kept", names.known.len());
        let mut again = identity(3, "kept");
        names.share(&mut again);
        let word = |c: &RowChange| match c {
            RowChange::Upsert(Row::Identity(r)) => r.labels.shared().map(|(_, v)| v.clone()).next(),
            _ => None,
        };
        assert!(Arc::ptr_eq(&word(&kept).unwrap(), &word(&again).unwrap()), "a word that a row has stays");
    }
}
