//! Writes to the API server, as values.

use axoneme_model::{Kind, ObjectRef};
use serde_json::Value;

/// What is written where. Two writes of the same key are never under way at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteKey {
    pub object: ObjectRef,
    pub part: Part,
}

/// Which part of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    Object,
    Status,
    /// An Event about the object.
    Event,
}

/// How it is written.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Refused by the API server if the object exists.
    Create(Value),
    /// JSON merge patch (RFC 7386). With `metadata.resourceVersion` in it the API server refuses it if the object changed.
    Merge(Value),
    /// Strategic merge patch: lists of built-in kinds are merged by their keys.
    Strategic(Value),
    /// Only this very version of this very object.
    Delete { uid: Option<String>, resource_version: Option<String> },
    Event {
        warning: bool,
        reason: String,
        message: String,
        /// Of the object that it is about: `kubectl describe` looks events up by it.
        uid: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    pub key: WriteKey,
    pub operation: Operation,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Done; the object as it is now, if the API server said.
    Done(Option<Value>),
    /// The object is not as it was thought to be: the watch will say how it is.
    Conflict,
    /// Not done.
    Failed(String),
}

impl Write {
    #[must_use]
    pub fn new(object: ObjectRef, part: Part, operation: Operation) -> Self {
        Self { key: WriteKey { object, part }, operation }
    }

    /// An Event for people.
    #[must_use]
    pub fn event(object: ObjectRef, warning: bool, reason: &str, message: String) -> Self {
        Self::new(object, Part::Event, Operation::Event { warning, reason: reason.to_owned(), message, uid: None })
    }

    /// Whether it hands out something that must not be handed out twice: such writes need a Lease that is sure.
    #[must_use]
    pub fn allocates(&self) -> bool {
        matches!(self.key.object.kind, Kind::CiliumNode | Kind::CiliumIdentity)
    }
}
