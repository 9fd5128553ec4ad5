//! Label selectors with all operators of Kubernetes (`metav1.LabelSelector`), on labels with a source.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    labels::{LabelKey, Labels},
    packed::PackedSet,
};

/// Semantics of upstream `labels.Requirement`: `NotIn` and `DoesNotExist` also match where the key is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// One condition on one key. `matchLabels` entries are `In` with one value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Requirement {
    pub key: LabelKey,
    pub operator: Operator,
    pub values: PackedSet<Arc<str>>,
}

impl Requirement {
    #[must_use]
    pub fn equals(key: LabelKey, value: &str) -> Self {
        Self { key, operator: Operator::In, values: PackedSet::from([value.into()]) }
    }

    #[must_use]
    pub fn exists(key: LabelKey) -> Self {
        Self { key, operator: Operator::Exists, values: PackedSet::new() }
    }

    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|v| self.values.contains(v)),
            Operator::NotIn => value.is_none_or(|v| !self.values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// All requirements must hold; none at all matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Selector {
    /// Sorted and without duplicates, so that equal selectors compare equal. Clones share them: a selector is in the policy,
    /// in its rule, and in the index of those that ask.
    requirements: Arc<[Requirement]>,
}

impl Selector {
    #[must_use]
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort();
        requirements.dedup();
        Self { requirements: requirements.into() }
    }

    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// This selector with one more condition.
    #[must_use]
    pub fn and(self, requirement: Requirement) -> Self {
        Self::new(self.requirements.iter().cloned().chain([requirement]).collect())
    }

    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| r.matches(labels))
    }

    /// The keys that this selector reads.
    pub fn keys(&self) -> impl Iterator<Item = &LabelKey> {
        self.requirements.iter().map(|r| &r.key)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.requirements.is_empty() {
            return f.write_str("{}");
        }
        for (i, r) in self.requirements.iter().enumerate() {
            let values: Vec<&str> = r.values.iter().map(|v| &**v).collect();
            let sep = if i == 0 { "" } else { "," };
            match r.operator {
                Operator::In if values.len() == 1 => write!(f, "{sep}{}={}", r.key, values.concat())?,
                Operator::In => write!(f, "{sep}{} in ({})", r.key, values.join(","))?,
                Operator::NotIn => write!(f, "{sep}{} notin ({})", r.key, values.join(","))?,
                Operator::Exists => write!(f, "{sep}{}", r.key)?,
                Operator::DoesNotExist => write!(f, "{sep}!{}", r.key)?,
            }
        }
        Ok(())
    }
}
