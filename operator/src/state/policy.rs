//! Policies with their last-good version.

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
    /// It came, or changed, while this process looked on: what becomes of it is news.
    pub fresh: bool,
}

impl Cluster {
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
        let before = old.as_ref().and_then(|o| o.loaded.policy());
        if before != entry.loaded.policy() {
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
        Ok(Parsed::Policy(p)) => {
            PolicyEntry { raw, generation, loaded: Loaded::Current(p), errors: None, fresh: false }
        }
        // not a policy kind: never called for one
        Ok(_) => PolicyEntry { raw, generation, loaded: Loaded::Nothing, errors: None, fresh: false },
        Err(errors) => {
            let last = old.and_then(|o| match &o.loaded {
                Loaded::Current(p) | Loaded::LastGood(p) => Some(p.clone()),
                _ => None,
            });
            let closed = || errors.fail_closed.as_deref().cloned().map_or(Loaded::Nothing, Loaded::FailClosed);
            let loaded = last.map_or_else(closed, Loaded::LastGood);
            PolicyEntry { raw, generation, loaded, errors: Some(errors), fresh: false }
        }
    }
}
