//! The classes of peers, base by base.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use axoneme_model::{Cidr, PeerClass};

use super::{PodRef, sets::SetId};
use crate::{
    feature::{Feature, Features, Property},
    few::Few,
    ids::Ids,
    number::ByClass,
    peer::{Base, ClassKey, Families, name},
};

/// A peer that tables can meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClassState {
    pub(super) base: Base,
    pub(super) families: Families,
    /// Label sets of its pods.
    pub(super) sets: Few<SetId>,
    pub(super) features: Arc<Features>,
}

/// All that has one base.
#[derive(Debug, Default)]
pub(super) struct BaseState {
    /// Addresses and prefixes that have the base.
    pub(super) prefixes: Few<Cidr>,
    /// The classes that they got when the base was last built, in order of prefixes.
    members: Box<[(Cidr, PeerClass)]>,
    /// Pods with the identity, whether they have addresses or not.
    pub(super) pods: Few<PodRef>,
    classes: Box<[PeerClass]>,
    keys: BTreeSet<ClassKey>,
}

impl BaseState {
    pub(super) fn class_of(&self, prefix: Cidr) -> Option<PeerClass> {
        let place = self.members.binary_search_by(|(p, _)| p.cmp(&prefix)).ok()?;
        self.members.get(place).map(|(_, class)| *class)
    }
}

#[derive(Debug)]
pub(super) struct Classes {
    pub(super) bases: HashMap<Base, BaseState>,
    pub(super) by_id: ByClass<ClassState>,
    ids: Ids<ClassKey>,
    /// Classes by what rules match them by.
    by_set: Vec<Few<PeerClass>>,
    by_feature: HashMap<Feature, Few<PeerClass>>,
    pub(super) pods: BTreeSet<PeerClass>,
    pub(super) reserved: BTreeMap<Base, BTreeSet<PeerClass>>,
    /// Classes with named ports that rules read.
    pub(super) with_ports: BTreeSet<PeerClass>,
    /// Classes of pods that have no address yet.
    pub(super) waiting: BTreeSet<PeerClass>,
}

/// What the classes of a base are made of.
pub(super) struct Material<'a> {
    pub(super) base: Base,
    /// Members with their features and, for pods, their label set.
    pub(super) members: Vec<(Cidr, Arc<Features>, Option<SetId>)>,
    /// Every pod of the identity: its label set and named-port features.
    pub(super) pods: Vec<(SetId, &'a Features)>,
}

/// Classes that changed: what each was and what it is.
pub(super) type ClassChanges = BTreeMap<PeerClass, (Option<ClassState>, Option<ClassState>)>;

impl Classes {
    pub(super) fn new() -> Self {
        Self {
            bases: HashMap::new(),
            by_id: ByClass::default(),
            ids: crate::class_ids(),
            by_set: Vec::new(),
            by_feature: HashMap::new(),
            pods: BTreeSet::new(),
            reserved: BTreeMap::new(),
            with_ports: BTreeSet::new(),
            waiting: BTreeSet::new(),
        }
    }

    /// Makes the classes of a base anew. Returns the members whose class changed, and the bases that have to be made
    /// again because a class number went to another.
    pub(super) fn rebuild(
        &mut self,
        material: &Material<'_>,
        changes: &mut ClassChanges,
    ) -> (Vec<Cidr>, BTreeSet<Base>) {
        let base = material.base;
        let members: Vec<(Cidr, &Features)> = material.members.iter().map(|(p, f, _)| (*p, &**f)).collect();
        let keys = name(base, &members);
        let again = self.renumber(base, &keys.iter().filter(|k| k.plain().is_none()).cloned().collect());
        let mut now: BTreeMap<PeerClass, ClassState> = BTreeMap::new();
        let mut placed = Vec::with_capacity(keys.len());
        for ((prefix, features, set), key) in material.members.iter().zip(&keys) {
            let id = crate::class_id(&self.ids, key);
            let families = Families::default();
            let new = || ClassState { base, families, sets: Few::None, features: features.clone() };
            let class = now.entry(id).or_insert_with(new);
            class.sets.extend(*set);
            class.families.add(prefix.is_ipv6());
            placed.push((*prefix, id));
        }
        if let Some((_, first)) = material.pods.first() {
            let mut common = (*first).clone();
            common.retain(|f| material.pods.iter().all(|(_, p)| p.contains(f)));
            let families = Families::default();
            let new = || ClassState { base, families, sets: Few::None, features: Arc::new(common) };
            now.entry(base.identity().into()).or_insert_with(new).sets.extend(material.pods.iter().map(|(s, _)| *s));
        }
        let state = self.bases.entry(base).or_default();
        let moved = placed.iter().filter(|(p, id)| state.class_of(*p) != Some(*id)).map(|(p, _)| *p).collect();
        state.members = placed.into();
        let before = std::mem::replace(&mut state.classes, now.keys().copied().collect());
        if state.prefixes.is_empty() && state.pods.is_empty() {
            self.bases.remove(&base);
        }
        for id in before {
            // the number may have gone to a class of another base
            let own = self.by_id.get(&id).is_some_and(|c| c.base == base);
            if own && !now.contains_key(&id) {
                self.put(id, None, changes);
            }
        }
        for (id, class) in now {
            self.put(id, Some(class), changes);
        }
        (moved, again)
    }

    /// Gives numbers to composed classes of the base and takes them from those that are gone.
    fn renumber(&mut self, base: Base, now: &BTreeSet<ClassKey>) -> BTreeSet<Base> {
        let state = self.bases.entry(base).or_default();
        let before = std::mem::replace(&mut state.keys, now.clone());
        let mut moved: Vec<ClassKey> = vec![];
        now.difference(&before).for_each(|k| moved.extend(self.ids.insert(k)));
        before.difference(now).for_each(|k| moved.extend(self.ids.remove(k)));
        moved.into_iter().map(|k| k.base()).filter(|b| *b != base).collect()
    }

    fn put(&mut self, id: PeerClass, now: Option<ClassState>, changes: &mut ClassChanges) {
        if self.by_id.get(&id) == now.as_ref() {
            return;
        }
        let before = self.by_id.remove(&id);
        let kept = before.as_ref().zip(now.as_ref()).filter(|(b, n)| b.base == n.base && b.sets == n.sets);
        if let Some((before, now)) = kept {
            // most often only some of many features differ
            let (lost, won) = before.features.differences(&now.features);
            for (feature, present) in lost.into_iter().map(|f| (f, false)).chain(won.into_iter().map(|f| (f, true))) {
                toggle(&mut self.by_feature, feature, id, present);
            }
        } else {
            for (class, present) in before.iter().map(|c| (c, false)).chain(now.iter().map(|c| (c, true))) {
                self.index(id, class, present);
            }
        }
        let ports = now.as_ref().is_some_and(|c| c.features.iter().any(|f| matches!(**f, Property::Port { .. })));
        let waiting = now.as_ref().is_some_and(|c| c.families.none() && c.base.is_pod());
        for (place, belongs) in [(&mut self.with_ports, ports), (&mut self.waiting, waiting)] {
            if belongs {
                place.insert(id)
            } else {
                place.remove(&id)
            };
        }
        if let Some(class) = &now {
            self.by_id.insert(id, class.clone());
        }
        changes.entry(id).or_insert((before, None)).1 = now;
    }

    fn index(&mut self, id: PeerClass, class: &ClassState, present: bool) {
        for set in &class.sets {
            let place = *set as usize;
            if place >= self.by_set.len() {
                // numbers of sets are used again: there are no large gaps
                self.by_set.resize_with(place + 1, Few::default);
            }
            let Some(ids) = self.by_set.get_mut(place) else { continue };
            if present { ids.insert(id) } else { ids.remove(&id) }
        }
        for feature in &*class.features {
            toggle(&mut self.by_feature, feature, id, present);
        }
        let place = if class.base.is_pod() { &mut self.pods } else { self.reserved.entry(class.base).or_default() };
        if present {
            place.insert(id)
        } else {
            place.remove(&id)
        };
    }

    pub(super) fn of_set(&self, set: SetId) -> impl Iterator<Item = PeerClass> {
        self.by_set.get(set as usize).into_iter().flatten().copied()
    }

    pub(super) fn of_feature(&self, feature: &Feature) -> impl Iterator<Item = PeerClass> {
        self.by_feature.get(feature).into_iter().flatten().copied()
    }
}

fn toggle<K: std::hash::Hash + Eq + Clone>(
    map: &mut HashMap<K, Few<PeerClass>>,
    key: &K,
    id: PeerClass,
    present: bool,
) {
    if present {
        map.entry(key.clone()).or_default().insert(id);
    } else if let Some(ids) = map.get_mut(key) {
        ids.remove(&id);
        if ids.is_empty() {
            map.remove(key);
        }
    }
}
