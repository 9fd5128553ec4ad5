//! What a value is, as far as that is known without a flow.

use std::fmt;

use prost_reflect::{FieldDescriptor, Kind as Of, MessageDescriptor};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// Known when there is a flow.
    Dyn,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Time,
    Duration,
    Null,
    Map,
    List(Box<Kind>),
    Message(MessageDescriptor),
}

impl Kind {
    /// Of a field; none where it cannot be read.
    pub(super) fn of(field: &FieldDescriptor) -> Option<Self> {
        let one = match field.kind() {
            Of::Bool => Self::Bool,
            Of::String => Self::Text,
            Of::Bytes => Self::Bytes,
            Of::Float | Of::Double => Self::Double,
            Of::Uint32 | Of::Uint64 | Of::Fixed32 | Of::Fixed64 => Self::Uint,
            Of::Message(kind) => match kind.full_name() {
                "google.protobuf.Timestamp" => Self::Time,
                // true, false, null
                "google.protobuf.BoolValue" | "google.protobuf.Int32Value" => Self::Dyn,
                // what it holds is made for clients that ask for it
                "google.protobuf.Any" => return None,
                _ => Self::Message(kind),
            },
            _ => Self::Int,
        };
        Some(if field.is_list() { Self::List(Box::new(one)) } else { one })
    }

    pub(super) const fn number(&self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }

    /// Whether values of both can be equal or in order.
    pub(super) fn like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            (Self::List(a), Self::List(b)) => a.like(b),
            (a, b) => a == b || a.number() && b.number(),
        }
    }

    /// What a value of either is.
    pub(super) fn or(self, other: &Self) -> Self {
        if self == *other { self } else { Self::Dyn }
    }

    pub(super) fn is(&self, one_of: &[Self]) -> bool {
        *self == Self::Dyn || one_of.contains(self)
    }

    /// Whether it is, or holds, a message: those are not compared.
    pub(super) fn messages(&self) -> bool {
        match self {
            Self::Message(_) => true,
            Self::List(of) => of.messages(),
            _ => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::Text => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Time => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::Null => f.write_str("null"),
            Self::Map => f.write_str("map"),
            Self::List(of) => write!(f, "list({of})"),
            Self::Message(kind) => f.write_str(kind.full_name()),
        }
    }
}
