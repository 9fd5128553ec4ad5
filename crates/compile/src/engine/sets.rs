//! Distinct label sets and the selectors that match them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use axoneme_model::{Labels, Operator, Selector, labels::names};

use crate::{few::Few, identity::concerns_pods, rules::RuleKey};

/// A label set by number; numbers are used again.
pub(super) type SetId = u32;
type Posting = (Arc<str>, Arc<str>);
/// A selector by number; numbers are not used again.
type SelectorId = u64;

/// The identity labels that pods have, and every selector that a loaded rule uses on pods.
#[derive(Debug, Default)]
pub(super) struct Sets {
    by_id: HashMap<SetId, SetState>,
    by_labels: HashMap<Labels, SetId>,
    free: BTreeSet<SetId>,
    /// Sets that may be without pods.
    left: BTreeSet<SetId>,
    /// Sets by each of their labels.
    postings: HashMap<Posting, Few<SetId>>,
    by_selector: HashMap<Arc<Selector>, SelectorId>,
    selectors: HashMap<SelectorId, SelectorState>,
    /// Selectors by the labels one of which a set must have to match.
    wanting: HashMap<Posting, Few<SelectorId>>,
    /// Selectors that no label is needed for.
    undemanding: BTreeSet<SelectorId>,
    next_selector: SelectorId,
}

#[derive(Debug)]
pub(super) struct SetState {
    pub(super) labels: Labels,
    pods: usize,
    selectors: Few<SelectorId>,
}

#[derive(Debug)]
struct SelectorState {
    selector: Arc<Selector>,
    sets: Few<SetId>,
    /// Which rules use it, for what, and the how many'th time: a rule may name it in several of its entries.
    uses: Few<(RuleKey, Use, u32)>,
}

impl SelectorState {
    /// How often a rule uses it for this.
    fn times(&self, rule: &RuleKey, purpose: Use) -> u32 {
        let mut using = (rule.clone(), purpose, 0);
        while self.uses.contains(&using) {
            using.2 += 1;
        }
        using.2
    }
}

/// What a rule uses a selector for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    Subject,
    Peer,
}

impl Sets {
    pub(super) fn labels(&self, set: SetId) -> Option<&Labels> {
        self.by_id.get(&set).map(|s| &s.labels)
    }

    /// The same labels, sharing memory with those of the set if it is there.
    pub(super) fn known(&self, labels: Labels) -> Labels {
        self.by_labels.get_key_value(&labels).map_or(labels, |(known, _)| known.clone())
    }

    pub(super) fn find(&self, labels: &Labels) -> Option<SetId> {
        self.by_labels.get(labels).copied()
    }

    /// The set's number for one more pod, and whether the set is new.
    pub(super) fn enter(&mut self, labels: Labels) -> (SetId, bool) {
        if let Some(id) = self.by_labels.get(&labels).copied() {
            let Some(set) = self.by_id.get_mut(&id) else { return (id, false) };
            set.pods += 1;
            return (id, set.pods == 1);
        }
        let id = self.free.pop_first().unwrap_or(self.by_id.len() as SetId);
        let selectors = self.matching(&labels);
        for selector in &selectors {
            if let Some(s) = self.selectors.get_mut(selector) {
                s.sets.insert(id);
            }
        }
        for (key, value) in labels.shared() {
            self.postings.entry((key.name.clone(), value.clone())).or_default().insert(id);
        }
        self.by_labels.insert(labels.clone(), id);
        self.by_id.insert(id, SetState { labels, pods: 1, selectors });
        (id, true)
    }

    /// One pod less; the labels, if it was the last. The set stays until [`Sets::sweep`], so that what it matched can
    /// still be told and its number means one thing throughout a change.
    pub(super) fn leave(&mut self, id: SetId) -> Option<Labels> {
        let set = self.by_id.get_mut(&id)?;
        set.pods -= 1;
        if set.pods > 0 {
            return None;
        }
        self.left.insert(id);
        Some(set.labels.clone())
    }

    /// Forgets the sets that no pod has.
    pub(super) fn sweep(&mut self) {
        for id in std::mem::take(&mut self.left) {
            if self.by_id.get(&id).is_some_and(|s| s.pods == 0) {
                self.remove(id);
            }
        }
    }

    fn remove(&mut self, id: SetId) {
        let Some(set) = self.by_id.remove(&id) else { return };
        for selector in &set.selectors {
            if let Some(s) = self.selectors.get_mut(selector) {
                s.sets.remove(&id);
            }
        }
        for (key, value) in set.labels.shared() {
            remove_from(&mut self.postings, &(key.name.clone(), value.clone()), &id);
        }
        self.by_labels.remove(&set.labels);
        self.free.insert(id);
    }

    fn matching(&self, labels: &Labels) -> Few<SelectorId> {
        let wanting = labels.shared().filter_map(|(k, v)| self.wanting.get(&(k.name.clone(), v.clone()))).flatten();
        let matches = |id: &&SelectorId| self.selectors.get(id).is_some_and(|s| s.selector.matches(labels));
        wanting.chain(&self.undemanding).filter(matches).copied().collect()
    }

    /// Starts a rule's use of a selector and returns the sets that match.
    pub(super) fn start(&mut self, selector: &Selector, rule: &RuleKey, purpose: Use) -> Few<SetId> {
        let id = match self.by_selector.get(selector) {
            Some(id) => *id,
            None => self.add(Arc::new(selector.clone())),
        };
        let Some(state) = self.selectors.get_mut(&id) else { return Few::None };
        state.uses.insert((rule.clone(), purpose, state.times(rule, purpose)));
        state.sets.clone()
    }

    fn add(&mut self, selector: Arc<Selector>) -> SelectorId {
        let id = self.next_selector;
        self.next_selector += 1;
        let sets: Few<SetId> = self.satisfying(&selector).collect();
        let demanded = self.demand(&selector);
        if demanded.is_none() {
            self.undemanding.insert(id);
        }
        for posting in demanded.into_iter().flatten() {
            self.wanting.entry(posting).or_default().insert(id);
        }
        for set in &sets {
            if let Some(set) = self.by_id.get_mut(set) {
                set.selectors.insert(id);
            }
        }
        self.by_selector.insert(selector.clone(), id);
        self.selectors.insert(id, SelectorState { selector, sets, uses: Few::None });
        id
    }

    /// The sets that match: of those with the rarest label that the selector demands, those that have the others too.
    fn satisfying(&self, selector: &Selector) -> impl Iterator<Item = SetId> {
        let rarest = self.demand(selector);
        let all = rarest.is_none().then(|| self.by_id.keys());
        let some = rarest.into_iter().flatten().filter_map(|p| self.postings.get(&p)).flatten();
        let demands: Vec<Vec<&Few<SetId>>> = Self::postings_of(selector)
            .iter()
            .map(|alternatives| alternatives.iter().filter_map(|p| self.postings.get(p)).collect())
            .collect();
        let has_all = move |id: &SetId| demands.iter().all(|sets| sets.iter().any(|s| s.contains(id)));
        let candidates = some.chain(all.into_iter().flatten()).copied().filter(has_all);
        candidates.filter(|id| self.by_id.get(id).is_some_and(|s| selector.matches(&s.labels)))
    }

    /// Ends a rule's use of a selector and returns the sets that matched.
    pub(super) fn stop(&mut self, selector: &Selector, rule: &RuleKey, purpose: Use) -> Few<SetId> {
        let Some(id) = self.by_selector.get(selector).copied() else { return Few::None };
        let Some(state) = self.selectors.get_mut(&id) else { return Few::None };
        if let Some(last) = state.times(rule, purpose).checked_sub(1) {
            state.uses.remove(&(rule.clone(), purpose, last));
        }
        let sets = state.sets.clone();
        if state.uses.is_empty() {
            self.selectors.remove(&id);
            self.by_selector.remove(selector);
            for set in &sets {
                if let Some(set) = self.by_id.get_mut(set) {
                    set.selectors.remove(&id);
                }
            }
            self.undemanding.remove(&id);
            for posting in Self::postings_of(selector).into_iter().flatten() {
                remove_from(&mut self.wanting, &posting, &id);
            }
        }
        sets
    }

    /// Labels one of which a set needs to match, chosen to have few sets; none where no label is needed.
    fn demand(&self, selector: &Selector) -> Option<Vec<Posting>> {
        let count = |p: &Posting| self.postings.get(p).map_or(0, Few::len);
        // where nothing is known yet, namespaces are a good guess
        let guess = |ps: &[Posting]| ps.iter().any(|(name, _)| **name != *names::NAMESPACE);
        Self::postings_of(selector).into_iter().min_by_key(|ps| (ps.iter().map(count).sum::<usize>(), guess(ps)))
    }

    /// Per requirement that demands a label: the labels of which it takes one.
    fn postings_of(selector: &Selector) -> Vec<Vec<Posting>> {
        let demanding = selector.requirements().iter().filter(|r| r.operator == Operator::In);
        demanding
            .map(|r| {
                let possible = r.values.iter().filter(|_| concerns_pods(&r.key));
                possible.map(|v| (r.key.name.clone(), v.clone())).collect()
            })
            .collect()
    }

    pub(super) fn matched(&self, selector: &Selector) -> impl Iterator<Item = SetId> {
        let id = self.by_selector.get(selector);
        id.and_then(|id| self.selectors.get(id)).into_iter().flat_map(|s| s.sets.iter().copied())
    }

    /// The rules that use a selector which matches the set, for this purpose.
    pub(super) fn rules(&self, set: SetId, purpose: Use) -> BTreeSet<&RuleKey> {
        let selectors = self.by_id.get(&set).into_iter().flat_map(|s| &s.selectors);
        let uses = selectors.filter_map(|s| self.selectors.get(s)).flat_map(|s| &s.uses);
        uses.filter(|(_, u, _)| *u == purpose).map(|(rule, ..)| rule).collect()
    }
}

fn remove_from<K: std::hash::Hash + Eq, V: Ord>(map: &mut HashMap<K, Few<V>>, key: &K, value: &V) {
    if let Some(values) = map.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            map.remove(key);
        }
    }
}
