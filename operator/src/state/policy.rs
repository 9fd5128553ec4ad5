//! Policies with their last-good version.

use axoneme_compile::Excess;
use axoneme_intake::{ObjectErrors, Options, Parsed, parse_as};
use axoneme_model::{ObjectRef, Policy, Subject};
use serde_json::{Value, json};

use super::{Cluster, Raw, WorldChange, crowded::Crowd};

/// What is in force of a policy object.
#[derive(Clone, Debug, PartialEq)]
pub enum Loaded {
    /// The object as it is.
    Current(Policy),
    /// An earlier version: the object as it is can't be enforced.
    LastGood(Policy),
    /// Default-deny for its subjects: there was no good version.
    FailClosed(Policy),
    /// Nothing: not even its subjects can be read.
    Nothing,
}

impl Loaded {
    #[must_use]
    pub const fn policy(&self) -> Option<&Policy> {
        match self {
            Self::Current(p) | Self::LastGood(p) | Self::FailClosed(p) => Some(p),
            Self::Nothing => None,
        }
    }
}

/// An object as it was said.
#[derive(Clone, Debug, Default)]
struct Kept {
    /// All but the status.
    object: Raw,
    /// `{"status": …}`; null where there is none.
    status: Raw,
}

impl Kept {
    fn of(mut raw: Value) -> Self {
        let status = raw.as_object_mut().and_then(|o| o.remove("status")).map(|s| json!({"status": s}));
        Self { object: (&raw).into(), status: (&status.unwrap_or_default()).into() }
    }

    fn whole(&self) -> Value {
        let (mut whole, status) = (self.object.read(), self.status.read());
        if let (Value::Object(whole), Value::Object(status)) = (&mut whole, status) {
            whole.extend(status);
        }
        whole
    }
}

/// One policy object.
#[derive(Clone, Debug)]
pub struct PolicyEntry {
    kept: Kept,
    pub generation: i64,
    pub loaded: Loaded,
    pub errors: Option<ObjectErrors>,
    /// The version that would have made a table too large, if `loaded` is in its place for that.
    pub too_large: Option<Box<TooLarge>>,
    /// What was in force before `loaded`, until it is known that tables can hold `loaded`.
    before: Option<Box<Loaded>>,
    /// It came, or changed, while this process looked on: what becomes of it is news.
    pub fresh: bool,
}

/// A version of a policy that no table can hold.
#[derive(Clone, Debug, PartialEq)]
pub struct TooLarge {
    policy: Policy,
    pub excess: Excess,
}

impl PolicyEntry {
    fn new(raw: Value, generation: i64, loaded: Loaded) -> Self {
        Self { kept: Kept::of(raw), generation, loaded, errors: None, too_large: None, before: None, fresh: false }
    }

    /// The object's `status`, and nothing else of it.
    #[must_use]
    pub fn said(&self) -> Value {
        self.kept.status.read()
    }

    #[must_use]
    pub fn uid(&self) -> Option<String> {
        self.kept.object.text("/metadata/uid")
    }

    /// Remembers what was in force before. A version that is known not to fit is not tried again just because the object
    /// was written.
    fn follow(&mut self, old: &Self) {
        match &old.too_large {
            Some(t) if matches!(&self.loaded, Loaded::Current(p) if *p == t.policy) => {
                self.loaded = old.loaded.clone();
                self.too_large = Some(t.clone());
            }
            // nobody knows yet whether what came last fits
            _ => self.before = Some(old.before.clone().unwrap_or_else(|| Box::new(old.loaded.clone()))),
        }
    }

    /// Whether it can't be in force as it is.
    const fn is_faulty(&self) -> bool {
        self.errors.is_some() || self.too_large.is_some()
    }

    /// What takes the place of a version that does not fit: the last one that did, or its subjects in default-deny.
    fn instead(&self) -> Loaded {
        match (self.before.as_deref(), &self.loaded) {
            (Some(Loaded::Current(p) | Loaded::LastGood(p)), _) => Loaded::LastGood(p.clone()),
            (_, Loaded::Current(p)) => match p.fail_closed() {
                // nodes are never closed
                closed if closed.rules.is_empty() => Loaded::Nothing,
                closed => Loaded::FailClosed(closed),
            },
            (_, other) => other.clone(),
        }
    }

    /// Whether the condition that was written has this reason for the object as it is. It outlives this process: what is held
    /// back must not change with a restart.
    pub(crate) fn is_told(&self, reason: &str) -> bool {
        let said = self.said();
        let conditions = said.pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|c| {
            let of_this = c.get("observedGeneration").and_then(Value::as_i64) == Some(self.generation);
            of_this && c.get("reason").is_some_and(|r| r == reason)
        })
    }
}

/// Reason of the condition of a policy that makes a table too large.
pub const TABLE_TOO_LARGE: &str = "TableTooLarge";

/// Reason of the condition of policies that meet in a table that is too large.
pub(super) const COMBINATION_TOO_LARGE: &str = "CombinationTooLarge";

impl Cluster {
    /// How many policies can't be in force as they are.
    #[must_use]
    pub const fn faulty_policies(&self) -> usize {
        self.faulty
    }

    /// What is in force instead of a policy that does not fit.
    #[must_use]
    pub fn instead(&self, object: &ObjectRef) -> Option<Policy> {
        self.policies.get(object)?.instead().policy().cloned()
    }

    /// Whether the policy was told to be too large as it is.
    #[must_use]
    pub fn is_told_too_large(&self, object: &ObjectRef) -> bool {
        self.policies.get(object).is_some_and(|p| p.is_told(TABLE_TOO_LARGE))
    }

    /// Whether the policy was told to meet others at a pod, in a table that was closed for it.
    #[must_use]
    pub fn is_told_crowded(&self, object: &ObjectRef) -> bool {
        self.policies.get(object).is_some_and(|p| p.is_told(COMBINATION_TOO_LARGE))
    }

    /// Why a policy that is about nodes alone is not in force, though it could be.
    #[must_use]
    pub fn unguarded(&self, entry: &PolicyEntry) -> Option<Crowd> {
        let of_nodes = |p: &Policy| p.rules.iter().all(|r| matches!(r.subject, Subject::Nodes(_)));
        let off = !self.settings.cluster.host.enabled && entry.loaded.policy().is_some_and(of_nodes);
        off.then(|| Crowd {
            reason: "HostFirewallDisabled",
            message: "nodes are not guarded while spec.hostFirewall.enabled of AxonemeConfig is false".to_owned(),
        })
    }

    /// Tables hold the policy as it is loaded, or would not hold it: then what [`Cluster::instead`] says is in force.
    pub fn compiled(&mut self, object: &ObjectRef, excess: Option<Excess>) {
        let Some(entry) = self.policies.get_mut(object) else { return };
        self.faulty -= usize::from(entry.is_faulty());
        if let Some(excess) = excess {
            let instead = entry.instead();
            if let Loaded::Current(policy) | Loaded::LastGood(policy) | Loaded::FailClosed(policy) =
                std::mem::replace(&mut entry.loaded, instead)
            {
                entry.too_large = Some(Box::new(TooLarge { policy, excess }));
            }
        }
        entry.before = None;
        self.faulty += usize::from(entry.is_faulty());
    }

    /// Policies and CIDR groups that were too large, as they should be: others that made room may be gone.
    pub fn try_again(&mut self, mut of: impl FnMut(&Policy) -> bool) {
        self.changes.extend(self.crowded.again());
        for (object, entry) in &mut self.policies {
            let Some(too_large) = entry.too_large.take_if(|t| of(&t.policy)) else { continue };
            self.faulty -= usize::from(!entry.is_faulty());
            let policy = too_large.policy;
            self.changes.push(WorldChange::Policy(object.clone(), Some(Box::new(policy.clone()))));
            entry.before = Some(Box::new(std::mem::replace(&mut entry.loaded, Loaded::Current(policy))));
        }
    }

    pub(super) fn apply_policy(&mut self, object: ObjectRef, raw: Value) {
        let old = self.policies.remove(&object);
        self.faulty -= old.iter().filter(|p| p.is_faulty()).count();
        let generation = raw.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        let mut entry = load(&object, raw, generation, old.as_ref(), self.settings.options());
        entry.fresh = match &old {
            Some(o) => o.fresh || o.generation != generation,
            None => self.is_synced(),
        };
        if entry.errors.is_some() {
            self.touched.refused.insert(object.clone());
        }
        if let Some(old) = &old {
            entry.follow(old);
        }
        let before = old.as_ref().and_then(|o| o.loaded.policy());
        if before == entry.loaded.policy() {
            entry.before = old.as_ref().and_then(|o| o.before.clone());
        } else {
            let policy = entry.loaded.policy().cloned().map(Box::new);
            self.changes.push(WorldChange::Policy(object.clone(), policy));
        }
        self.touched.policies.insert(object.clone());
        self.faulty += usize::from(entry.is_faulty());
        self.policies.insert(object, entry);
    }

    pub(super) fn delete_policy(&mut self, object: ObjectRef) {
        let Some(old) = self.policies.remove(&object) else { return };
        self.faulty -= usize::from(old.is_faulty());
        if old.loaded.policy().is_some() {
            self.changes.push(WorldChange::Policy(object, None));
        }
    }

    /// Reads all policies again, after a setting changed what they mean.
    pub(super) fn reload_policies(&mut self) {
        let all: Vec<_> = self.policies.iter().map(|(o, e)| (o.clone(), e.kept.clone())).collect();
        for (object, kept) in all {
            self.apply_policy(object, kept.whole());
        }
    }
}

fn load(object: &ObjectRef, raw: Value, generation: i64, old: Option<&PolicyEntry>, options: Options) -> PolicyEntry {
    match parse_as(object.kind, &raw, &options) {
        Ok(Parsed::Policy(p)) => PolicyEntry::new(raw, generation, Loaded::Current(p)),
        // not a policy kind: never called for one
        Ok(_) => PolicyEntry::new(raw, generation, Loaded::Nothing),
        Err(errors) => {
            let last = old.and_then(|o| match &o.loaded {
                Loaded::Current(p) | Loaded::LastGood(p) => Some(p.clone()),
                _ => None,
            });
            let closed = || errors.fail_closed.as_deref().cloned().map_or(Loaded::Nothing, Loaded::FailClosed);
            let loaded = last.map_or_else(closed, Loaded::LastGood);
            PolicyEntry { errors: Some(errors), ..PolicyEntry::new(raw, generation, loaded) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_an_object_is_all_of_it() {
        let object = json!({"kind": "NetworkPolicy", "metadata": {"name": "a", "uid": "u"}, "spec": {"podSelector": {"ä": [1, null]}}});
        let mut with_status = object.clone();
        with_status["status"] = json!({"conditions": [{"type": "Valid"}], "other": 1});
        for raw in [object, with_status, json!({"status": null}), json!({})] {
            let entry = PolicyEntry::new(raw.clone(), 1, Loaded::Nothing);
            assert_eq!(entry.kept.whole(), raw);
            assert_eq!(entry.said().get("status"), raw.get("status"));
            assert_eq!(entry.uid().as_deref(), raw.pointer("/metadata/uid").and_then(Value::as_str));
        }
    }
}
