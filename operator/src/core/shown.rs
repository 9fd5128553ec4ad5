//! What changed of the things that are shown to people: what of them is looked at again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axoneme_model::{Identity, Labels, rows::TableId, world::Pod};
use axoneme_wire::{Row, RowChange, RowKey};

use super::Core;
use crate::state::Key;

/// Changes since they were taken.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Pods as the compiler has them; none: gone.
    pub pods: BTreeMap<Key, Option<Arc<Pod>>>,
    /// Pods whose row changed.
    pub endpoints: BTreeSet<Key>,
    pub tables: BTreeSet<TableId>,
    pub identities: BTreeMap<Identity, Option<Labels>>,
}

impl Shown {
    pub(super) fn pod(&mut self, key: &Key, pod: Option<&Arc<Pod>>) {
        self.pods.insert(key.clone(), pod.cloned());
    }

    pub(super) fn rows(&mut self, rows: &[RowChange]) {
        for row in rows {
            match row {
                // a row that goes goes with its pod
                RowChange::Upsert(Row::Endpoint(e)) => {
                    self.endpoints.insert((e.namespace.clone(), e.name.clone()));
                }
                RowChange::Upsert(Row::Identity(i)) => drop(self.identities.insert(i.id, Some(i.labels.clone()))),
                RowChange::Remove(RowKey::Identity(id)) => drop(self.identities.insert(*id, None)),
                RowChange::Upsert(Row::Table(t)) => drop(self.tables.insert(t.id)),
                RowChange::Patch(p) => drop(self.tables.insert(p.id)),
                RowChange::Remove(RowKey::Table(id)) => drop(self.tables.insert(*id)),
                RowChange::Upsert(_) | RowChange::Remove(_) => {}
            }
        }
    }
}

impl Core {
    /// From now on what changed is noted, for [`Self::take_shown`].
    pub fn show(&mut self) {
        self.shown = Some(Shown::default());
    }

    /// What changed since the last call.
    pub fn take_shown(&mut self) -> Shown {
        self.shown.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether this replica leads: nodes tell it what they have in force.
    #[must_use]
    pub const fn is_leading(&self) -> bool {
        self.leading
    }
}
