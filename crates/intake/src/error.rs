//! What is wrong with an object, field by field.

use std::fmt;

use axoneme_model::{Kind, ObjectRef, Policy};

/// Why a field is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The value is wrong: the object can never be enforced as it is written.
    Invalid,
    /// The value is right, but this version does not enforce the field. Applying the rest would be a different policy.
    Unsupported,
}

impl Reason {
    /// The word of the condition `Valid=False, reason=…`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid",
            Self::Unsupported => "Unsupported",
        }
    }
}

/// One refused field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Where: `spec.ingress[0].toPorts[1].ports[0].port`. Empty for the object itself.
    pub path: String,
    /// The value found there as compact JSON, shortened; none where a field is missing.
    pub value: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
    pub reason: Reason,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        if let Some(value) = &self.value {
            write!(f, "{value}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// All that is wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectErrors {
    /// None if not even that could be read.
    pub kind: Option<Kind>,
    /// None if the object has no name.
    pub object: Option<ObjectRef>,
    /// `metadata.generation`, 0 where there is none.
    pub generation: i64,
    /// In the order of the fields as they were read; never empty.
    pub errors: Vec<FieldError>,
    /// For policies: what holds where no earlier version of the object was good. The subjects that could be read are in
    /// default-deny for the directions that the object speaks of, with no rule to let anything pass.
    pub fail_closed: Option<Box<Policy>>,
}

impl ObjectErrors {
    /// `Invalid` if any field is, else `Unsupported`.
    #[must_use]
    pub fn reason(&self) -> Reason {
        if self.errors.iter().all(|e| e.reason == Reason::Unsupported) { Reason::Unsupported } else { Reason::Invalid }
    }
}

impl fmt::Display for ObjectErrors {
    /// One line a field: `CiliumNetworkPolicy default/web: spec.ingress[0].fromCIDR[0]: "10.0.0.0/40": …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            match (&self.object, self.kind) {
                (Some(object), _) => write!(f, "{object}: {error}")?,
                (None, Some(kind)) => write!(f, "{} without a name: {error}", kind.as_str())?,
                (None, None) => write!(f, "object of no known kind: {error}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for ObjectErrors {}
