//! Loaded rules and what they read.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use axoneme_model::{
    ObjectRef, Peer, Peers, Policy, RuleRef,
    rows::{RuleId, RuleRow},
};

use crate::{
    changes::{Counter, Tracked},
    feature::Feature,
    identity::names_read,
    rules::{RuleIds, RuleKey, references},
    spec::{Groups, RuleSpec},
};

#[derive(Debug)]
pub(super) struct RuleBook {
    pub(super) rules: HashMap<RuleKey, Arc<RuleSpec>>,
    by_object: BTreeMap<ObjectRef, Vec<RuleKey>>,
    /// Policies that read CIDR groups.
    grouped: BTreeSet<ObjectRef>,
    /// Label names of pods that rules read.
    pub(super) names: Counter<Arc<str>>,
    pub(super) features: Counter<Feature>,
    /// Named ports of peers that rules read.
    pub(super) ports: Counter<Arc<str>>,
    references: Counter<RuleRef>,
    pub(super) ids: RuleIds,
    pub(super) rows: Tracked<RuleId, RuleRow>,
}

/// Rules with what they were and what they are.
type Rewritten = BTreeMap<RuleKey, (Option<Arc<RuleSpec>>, Option<Arc<RuleSpec>>)>;

/// What a new version of a policy means to everything else. Names, features and ports are those that may have become
/// read or unread.
#[derive(Debug, Default)]
pub(super) struct Turnover {
    pub(super) rules: Rewritten,
    pub(super) names: BTreeSet<Arc<str>>,
    pub(super) features: BTreeSet<Feature>,
    pub(super) ports: BTreeSet<Arc<str>>,
    /// An id went from one rule to another.
    pub(super) renumbered: bool,
}

impl RuleBook {
    pub(super) fn new() -> Self {
        let ids = RuleIds::new();
        let mut rows = Tracked::default();
        for (id, row) in ids.rows(std::iter::empty()) {
            rows.set(id, Some(row));
        }
        Self {
            rules: HashMap::new(),
            by_object: BTreeMap::new(),
            grouped: BTreeSet::new(),
            names: Counter::default(),
            features: Counter::default(),
            ports: Counter::default(),
            references: Counter::default(),
            ids,
            rows,
        }
    }

    /// The policies that have to be read anew when CIDR groups change.
    pub(super) fn grouped(&self) -> impl Iterator<Item = &ObjectRef> {
        self.grouped.iter()
    }

    /// Puts the new version of a policy in place of the old one.
    pub(super) fn replace(&mut self, object: &ObjectRef, policy: Option<&Policy>, groups: &Groups, out: &mut Turnover) {
        let old = self.by_object.remove(object).unwrap_or_default();
        let mut turnover = Rewritten::new();
        for key in old {
            let spec = self.rules.remove(&key);
            turnover.insert(key, (spec, None));
        }
        let fresh = policy.into_iter().flat_map(|p| (0u32..).zip(&p.rules).map(move |(i, r)| (p, i, r)));
        for (policy, index, rule) in fresh {
            let key = (policy.tier, object.clone(), index);
            let spec = Arc::new(RuleSpec::of(policy, index as usize, rule, groups));
            self.rules.insert(key.clone(), spec.clone());
            turnover.entry(key).or_default().1 = Some(spec);
        }
        let reads_groups = policy.is_some_and(reads_groups);
        if reads_groups {
            self.grouped.insert(object.clone())
        } else {
            self.grouped.remove(object)
        };
        turnover.retain(|_, (old, new)| old != new);
        // the new one's claims first: what both use stays in use
        for rule in turnover.values().filter_map(|(_, new)| new.as_deref()) {
            self.count(rule, out);
        }
        for rule in turnover.values().filter_map(|(old, _)| old.as_deref()) {
            self.discount(rule, out);
        }
        let keys: Vec<RuleKey> = self.keys_of(object, policy);
        if !turnover.is_empty() {
            self.row_references(&keys);
        }
        if !keys.is_empty() {
            self.by_object.insert(object.clone(), keys);
        }
        out.rules.extend(turnover);
    }

    fn keys_of(&self, object: &ObjectRef, policy: Option<&Policy>) -> Vec<RuleKey> {
        let keys = policy.into_iter().flat_map(|p| (0..p.rules.len() as u32).map(|i| (p.tier, object.clone(), i)));
        keys.filter(|k| self.rules.contains_key(k)).collect()
    }

    fn count(&mut self, rule: &RuleSpec, out: &mut Turnover) {
        for name in rule.selectors().flat_map(names_read) {
            if self.names.add(name) {
                out.names.insert(name.clone());
            }
        }
        for feature in rule.reads() {
            if self.features.add(&feature) {
                out.features.insert(feature);
            }
        }
        for name in rule.peer_ports() {
            if self.ports.add(name) {
                out.ports.insert(name.clone());
            }
        }
        for (reference, _) in references(rule) {
            if self.references.add(reference) {
                out.renumbered |= !self.ids.insert(reference).is_empty();
            }
        }
    }

    fn discount(&mut self, rule: &RuleSpec, out: &mut Turnover) {
        for name in rule.selectors().flat_map(names_read) {
            if self.names.sub(name) {
                out.names.insert(name.clone());
            }
        }
        for feature in rule.reads() {
            if self.features.sub(&feature) {
                out.features.insert(feature);
            }
        }
        for name in rule.peer_ports() {
            if self.ports.sub(name) {
                out.ports.insert(name.clone());
            }
        }
        for (reference, _) in references(rule) {
            if self.references.sub(reference) {
                let id = self.ids.get(reference);
                out.renumbered |= !self.ids.remove(reference).is_empty();
                self.rows.set(id, None);
            }
        }
    }

    /// Rows of everything that the rules of an object can be named for.
    fn row_references(&mut self, keys: &[RuleKey]) {
        let specs: Vec<Arc<RuleSpec>> = keys.iter().filter_map(|k| self.rules.get(k).cloned()).collect();
        let mut rows: BTreeMap<&RuleRef, RuleRow> = BTreeMap::new();
        for spec in &specs {
            for (reference, allow) in references(spec) {
                let id = self.ids.get(reference);
                let new = || RuleRow { id, rule: reference.clone(), allow: false, log: None };
                let row = rows.entry(reference).or_insert_with(new);
                row.allow |= allow;
                row.log = row.log.take().or_else(|| spec.log.clone());
            }
        }
        for row in rows.into_values() {
            self.rows.set(row.id, Some(row));
        }
    }

    /// All rows anew, after an id went from one rule to another.
    pub(super) fn row_anew(&mut self) {
        let rows: Vec<RuleId> = self.rows.rows().keys().copied().collect();
        for id in rows {
            self.rows.set(id, None);
        }
        for (id, row) in self.ids.rows(std::iter::empty()) {
            self.rows.set(id, Some(row));
        }
        let objects: Vec<Vec<RuleKey>> = self.by_object.values().cloned().collect();
        for keys in &objects {
            self.row_references(keys);
        }
    }
}

fn reads_groups(policy: &Policy) -> bool {
    let entries = policy.rules.iter().flat_map(|r| r.ingress.iter().chain(&r.egress));
    entries
        .filter_map(|d| match &d.peers {
            Peers::Any => None,
            Peers::OneOf(peers) => Some(peers),
        })
        .flatten()
        .any(|p| matches!(p, Peer::CidrGroup { .. } | Peer::CidrGroups { .. }))
}
