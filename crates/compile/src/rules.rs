//! Loaded rules and the ids that entries name them by.

use std::collections::BTreeMap;

use axoneme_model::{
    Action, ObjectRef, RuleRef, Safe, Tier, World,
    rows::{RuleId, RuleRow},
    verdict::{always_rule, own_host_rule, too_large_rule},
};

use crate::{ids::Ids, spec::RuleSpec};

/// A rule's place in the order of evaluation: tier and priority, object, position in it.
pub(crate) type RuleKey = (Tier, ObjectRef, u32);

pub(crate) type Rules = BTreeMap<RuleKey, RuleSpec>;

pub(crate) fn rule_specs(world: &World) -> Rules {
    let mut specs = Rules::new();
    for policy in world.policies.values() {
        for (index, rule) in policy.rules.iter().enumerate() {
            let spec = RuleSpec::of(policy, index, rule, &world.cidr_groups);
            specs.insert((policy.tier, policy.object.clone(), index as u32), spec);
        }
    }
    specs
}

/// Ids of everything that an entry can name as its reason.
#[derive(Debug)]
pub(crate) struct RuleIds(Ids<RuleRef>);

impl RuleIds {
    /// With the verdicts that no object makes.
    pub(crate) fn new() -> Self {
        let mut ids = Ids::new("rule", 1..=u64::from(u32::MAX));
        ids.insert(&own_host_rule());
        ids.insert(&always_rule());
        ids.insert(&too_large_rule());
        for member in Safe::ALL {
            ids.insert(&member.rule());
        }
        Self(ids)
    }

    pub(crate) fn of<'a>(rules: impl Iterator<Item = &'a RuleSpec>) -> Self {
        let mut ids = Self::new();
        for (rule, _) in rules.flat_map(references) {
            ids.0.insert(rule);
        }
        ids
    }

    /// Zero for a rule that is not loaded.
    pub(crate) fn get(&self, rule: &RuleRef) -> RuleId {
        RuleId(self.0.get(rule).unwrap_or(0) as u32)
    }

    pub(crate) fn rows<'a>(&self, rules: impl Iterator<Item = &'a RuleSpec>) -> BTreeMap<RuleId, RuleRow> {
        let row = |rule: &RuleRef, allow| {
            let id = self.get(rule);
            (id, RuleRow { id, rule: rule.clone(), allow, log: None })
        };
        let builtin = [row(&own_host_rule(), true), row(&always_rule(), false), row(&too_large_rule(), false)];
        let safe = Safe::ALL.into_iter().map(|member| row(&member.rule(), true));
        let mut rows: BTreeMap<RuleId, RuleRow> = builtin.into_iter().chain(safe).collect();
        for spec in rules {
            for (rule, allow) in references(spec) {
                let (id, row) = row(rule, allow);
                let row = rows.entry(id).or_insert(row);
                row.allow |= allow;
                // the first of two rules that share a name, as `RuleBook` has it
                row.log = row.log.take().or_else(|| spec.log.clone());
            }
        }
        rows
    }

    /// Gives a rule its id; returns the other rules whose id changed by that.
    pub(crate) fn insert(&mut self, rule: &RuleRef) -> Vec<RuleRef> {
        self.0.insert(rule)
    }

    /// Takes a rule's id away; returns the other rules whose id changed by that.
    pub(crate) fn remove(&mut self, rule: &RuleRef) -> Vec<RuleRef> {
        self.0.remove(rule)
    }
}

/// What a rule can be named for: its list entries, and that it isolates. With the verdict that it stands for.
pub(crate) fn references(rule: &RuleSpec) -> impl Iterator<Item = (&RuleRef, bool)> {
    let entries = rule.ingress.iter().chain(&rule.egress).map(|e| (&e.rule, e.action == Action::Allow));
    let isolates = rule.isolates_ingress || rule.isolates_egress;
    entries.chain(isolates.then_some((&rule.isolation, false)))
}
