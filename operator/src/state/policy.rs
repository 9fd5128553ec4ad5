//! Policies with their last-good version.

use axoneme_compile::Excess;
use axoneme_intake::{ObjectErrors, Options, Parsed, parse_as};
use axoneme_model::{ObjectRef, Policy};
use serde_json::Value;

use super::{Cluster, WorldChange};

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

/// One policy object.
#[derive(Clone, Debug)]
pub struct PolicyEntry {
    pub raw: Value,
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
        Self { raw, generation, loaded, errors: None, too_large: None, before: None, fresh: false }
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

    /// What takes the place of a version that does not fit: the last one that did, or its subjects in default-deny.
    fn instead(&self) -> Loaded {
        match (self.before.as_deref(), &self.loaded) {
            (Some(Loaded::Current(p) | Loaded::LastGood(p)), _) => Loaded::LastGood(p.clone()),
            (_, Loaded::Current(p)) => Loaded::FailClosed(p.fail_closed()),
            (_, other) => other.clone(),
        }
    }

    /// Whether the condition that was written says that the object as it is makes a table too large. It outlives this
    /// process: which policy is held back must not change with a restart.
    fn is_told_too_large(&self) -> bool {
        let conditions = self.raw.pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|c| {
            let of_this = c.get("observedGeneration").and_then(Value::as_i64) == Some(self.generation);
            of_this && c.get("reason").is_some_and(|r| r == TABLE_TOO_LARGE)
        })
    }
}

/// Reason of the condition of a policy that makes a table too large.
pub const TABLE_TOO_LARGE: &str = "TableTooLarge";

impl Cluster {
    /// What is in force instead of a policy that does not fit.
    #[must_use]
    pub fn instead(&self, object: &ObjectRef) -> Option<Policy> {
        self.policies.get(object)?.instead().policy().cloned()
    }

    /// Whether the policy was told to be too large as it is.
    #[must_use]
    pub fn is_told_too_large(&self, object: &ObjectRef) -> bool {
        self.policies.get(object).is_some_and(PolicyEntry::is_told_too_large)
    }

    /// Tables hold the policy as it is loaded, or would not hold it: then what [`Cluster::instead`] says is in force.
    pub fn compiled(&mut self, object: &ObjectRef, excess: Option<Excess>) {
        let Some(entry) = self.policies.get_mut(object) else { return };
        if let Some(excess) = excess {
            let instead = entry.instead();
            if let Loaded::Current(policy) | Loaded::LastGood(policy) | Loaded::FailClosed(policy) =
                std::mem::replace(&mut entry.loaded, instead)
            {
                entry.too_large = Some(Box::new(TooLarge { policy, excess }));
            }
        }
        entry.before = None;
    }

    /// Policies that were too large, as they should be: others that made room may be gone.
    pub fn try_again(&mut self, mut of: impl FnMut(&Policy) -> bool) {
        for (object, entry) in &mut self.policies {
            let Some(too_large) = entry.too_large.take_if(|t| of(&t.policy)) else { continue };
            let policy = too_large.policy;
            self.changes.push(WorldChange::Policy(object.clone(), Some(Box::new(policy.clone()))));
            entry.before = Some(Box::new(std::mem::replace(&mut entry.loaded, Loaded::Current(policy))));
        }
    }

    pub(super) fn apply_policy(&mut self, object: ObjectRef, raw: Value) {
        let old = self.policies.remove(&object);
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
        self.policies.insert(object, entry);
    }

    pub(super) fn delete_policy(&mut self, object: ObjectRef) {
        if self.policies.remove(&object).is_some_and(|p| p.loaded.policy().is_some()) {
            self.changes.push(WorldChange::Policy(object, None));
        }
    }

    /// Reads all policies again, after a setting changed what they mean.
    pub(super) fn reload_policies(&mut self) {
        let all: Vec<_> = self.policies.iter().map(|(o, e)| (o.clone(), e.raw.clone())).collect();
        for (object, raw) in all {
            self.apply_policy(object, raw);
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
