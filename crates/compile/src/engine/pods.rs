//! Pods: their label sets, identities, ports and addresses.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use axoneme_model::{Cidr, Identity, Labels, cidr, rows::TableId};

use super::{
    PodRef,
    sets::{SetId, Sets},
};
use crate::{Held, PodKey, feature::Features, few::Few};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodState {
    pub(super) uid: Arc<str>,
    /// Empty: not bound.
    pub(super) node: Arc<str>,
    pub(super) security: Labels,
    /// What its labels ask for.
    pub(super) set: SetId,
    /// What it has: none while it is not bound or there was never a number for it.
    pub(super) identity: Option<(Identity, Labels)>,
    /// That is not what its labels ask for.
    pub(super) moves: bool,
    /// Named ports that rules of others read.
    pub(super) ports: Features,
    /// Addresses that it claims: none while it is not bound.
    pub(super) addresses: Box<[IpAddr]>,
    pub(super) port_names: Box<[Arc<str>]>,
}

/// Uid and identity with its labels.
type Had = (Arc<str>, Identity, Labels);

#[derive(Debug, Default)]
pub(super) struct Pods {
    states: HashMap<PodRef, PodState>,
    by_set: HashMap<SetId, Few<PodRef>>,
    by_node: HashMap<Arc<str>, Few<PodRef>>,
    by_port: HashMap<Arc<str>, Few<PodRef>>,
    /// How many pods of a set have the identity of another.
    movers: HashMap<SetId, usize>,
    /// How many pods have an identity.
    identities: HashMap<Identity, usize>,
    /// The table of each endpoint and the node that needs it.
    pub(super) tables: HashMap<PodRef, (TableId, Arc<str>)>,
    /// What pods had before this compiler saw them.
    known: HashMap<PodRef, Had>,
    /// What pods had when the last change set was taken, where that is another identity: what they got in between and
    /// nobody was told of does not count.
    told: HashMap<PodRef, Option<Had>>,
}

impl Pods {
    pub(super) fn get(&self, key: &PodRef) -> Option<&PodState> {
        self.states.get(key)
    }

    /// The identity that the pod keeps for want of a better one. A new pod of the same name keeps nothing.
    pub(super) fn previous(&self, key: &PodRef, uid: &Arc<str>) -> Option<(Identity, Labels)> {
        let had = self.told.get(key).cloned().unwrap_or_else(|| self.had(key));
        had.filter(|h| h.0 == *uid).map(|(_, identity, labels)| (identity, labels))
    }

    fn had(&self, key: &PodRef) -> Option<Had> {
        let Some(state) = self.states.get(key) else { return self.known.get(key).cloned() };
        state.identity.as_ref().map(|(identity, labels)| (state.uid.clone(), *identity, labels.clone()))
    }

    /// A change set was taken.
    pub(super) fn told(&mut self) {
        self.told = HashMap::new();
    }

    /// Identities of pods, for a compiler that takes over.
    pub(super) fn identities(&self) -> HashMap<PodRef, Had> {
        let mut known = self.known.clone();
        known.extend(self.states.keys().filter_map(|key| Some((key.clone(), self.had(key)?))));
        for (key, had) in &self.told {
            match had {
                Some(had) => drop(known.insert(key.clone(), had.clone())),
                None => drop(known.remove(key)),
            }
        }
        known
    }

    pub(super) fn remember(&mut self, known: HashMap<PodRef, Had>) {
        self.known = known;
    }

    /// Puts a pod's new state in place and returns the old one.
    pub(super) fn put(&mut self, key: &PodRef, state: Option<&PodState>) -> Option<PodState> {
        let had = self.had(key);
        let has = state.and_then(|s| s.identity.as_ref().map(|(identity, _)| (&s.uid, *identity)));
        if had.as_ref().map(|h| (&h.0, h.1)) != has {
            self.told.entry(key.clone()).or_insert(had);
        }
        self.known.remove(key);
        let old = match state {
            Some(new) => self.states.insert(key.clone(), new.clone()),
            None => self.states.remove(key),
        };
        for (state, present) in old.iter().map(|s| (s, false)).chain(state.map(|s| (s, true))) {
            toggle(&mut self.by_set, &state.set, key, present);
            state.port_names.iter().for_each(|n| toggle(&mut self.by_port, n, key, present));
            if !state.node.is_empty() {
                toggle(&mut self.by_node, &state.node, key, present);
            }
            if let Some((identity, _)) = &state.identity {
                count(&mut self.identities, *identity, present);
            }
            if state.moves {
                count(&mut self.movers, state.set, present);
            }
        }
        old
    }

    pub(super) fn has_identity(&self, identity: Identity) -> bool {
        self.identities.contains_key(&identity)
    }

    /// Whether a pod of the set has the identity of another.
    pub(super) fn moves_to(&self, set: SetId) -> bool {
        self.movers.contains_key(&set)
    }

    pub(super) fn of_set(&self, set: SetId) -> impl Iterator<Item = &PodRef> {
        self.by_set.get(&set).into_iter().flatten()
    }

    pub(super) fn of_labels(&self, sets: &Sets, labels: &Labels) -> BTreeSet<PodRef> {
        sets.find(labels).into_iter().flat_map(|s| self.of_set(s)).cloned().collect()
    }

    pub(super) fn with_port(&self, name: &Arc<str>) -> impl Iterator<Item = &PodRef> {
        self.by_port.get(name).into_iter().flatten()
    }

    /// The pods that have a label of one of these names, or would have it if rules read it.
    pub(super) fn with_labels<'a>(&'a self, names: &'a BTreeSet<Arc<str>>) -> impl Iterator<Item = &'a PodRef> {
        let has = |s: &PodState| s.security.iter().any(|(k, _)| names.contains(&k.name));
        self.states.iter().filter(move |(_, s)| has(s)).map(|(k, _)| k)
    }

    /// The first pod that uses the table.
    pub(super) fn with_table(&self, table: TableId) -> Option<&PodRef> {
        self.tables.iter().filter(|(_, (id, _))| *id == table).map(|(key, _)| key).min()
    }

    pub(super) fn prefixes_on(&self, node: &Arc<str>) -> impl Iterator<Item = Cidr> {
        let pods = self.by_node.get(node).into_iter().flatten();
        pods.filter_map(|k| self.states.get(k)).flat_map(|s| s.addresses.iter().copied().map(cidr::host))
    }

    /// Pods whose identity is not the one that their labels ask for.
    pub(super) fn held(&self) -> Held {
        let moving = self.states.iter().filter(|(_, s)| s.moves);
        moving.filter_map(|(key, s)| Some((PodKey::clone(key), s.identity.clone()?))).collect()
    }
}

fn count<K: std::hash::Hash + Eq + Copy>(counts: &mut HashMap<K, usize>, key: K, more: bool) {
    let count = counts.entry(key).or_default();
    *count = if more { *count + 1 } else { count.saturating_sub(1) };
    if *count == 0 {
        counts.remove(&key);
    }
}

fn toggle<K: std::hash::Hash + Eq + Clone>(map: &mut HashMap<K, Few<PodRef>>, key: &K, pod: &PodRef, present: bool) {
    if present {
        map.entry(key.clone()).or_default().insert(pod.clone());
    } else if let Some(pods) = map.get_mut(key) {
        pods.remove(pod);
        if pods.is_empty() {
            map.remove(key);
        }
    }
}
