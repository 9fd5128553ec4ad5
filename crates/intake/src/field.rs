//! A cursor over an object that knows its own path and gathers every error, instead of stopping at the first.
//!
//! Reading never fails: a wrong value records an error and reads as absent. Whoever started the reading throws the
//! result away if any error was recorded, so a default in place of a wrong value is never enforced.

use std::{cell::RefCell, fmt, ops::RangeInclusive};

use serde_json::Value;

use crate::error::{FieldError, Reason};

/// Longest rendering of a value in a message, in characters.
const SHOWN: usize = 80;

/// Where errors of one object are gathered.
#[derive(Debug, Default)]
pub(crate) struct Errors(RefCell<Vec<FieldError>>);

impl Errors {
    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    pub(crate) fn into_vec(self) -> Vec<FieldError> {
        self.0.into_inner()
    }
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    /// A key that the user chose, as in `matchLabels`.
    Key(&'a str),
}

/// One value inside an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    value: &'a Value,
    segment: Segment<'a>,
    parent: Option<&'a Field<'a>>,
    errors: &'a Errors,
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
        }
        let first = self.parent.is_none_or(|p| matches!(p.segment, Segment::Root));
        match self.segment {
            Segment::Root => Ok(()),
            Segment::Field(name) if first => f.write_str(name),
            Segment::Field(name) => write!(f, ".{name}"),
            Segment::Index(i) => write!(f, "[{i}]"),
            Segment::Key(key) => write!(f, "[{key}]"),
        }
    }
}

impl<'a> Field<'a> {
    pub(crate) fn root(value: &'a Value, errors: &'a Errors) -> Self {
        Self { value, segment: Segment::Root, parent: None, errors }
    }

    pub(crate) fn error_count(&self) -> usize {
        self.errors.len()
    }

    /// Records an error that somebody else found.
    pub(crate) fn report(&self, path: String, message: String) {
        self.push(path, None, message, Reason::Invalid);
    }

    fn push(&self, path: String, value: Option<String>, message: String, reason: Reason) {
        self.errors.0.borrow_mut().push(FieldError { path, value, message, reason });
    }

    pub(crate) fn invalid(&self, message: impl Into<String>) {
        self.push(self.to_string(), Some(shown(self.value)), message.into(), Reason::Invalid);
    }

    pub(crate) fn unsupported(&self, message: impl Into<String>) {
        self.push(self.to_string(), Some(shown(self.value)), message.into(), Reason::Unsupported);
    }

    /// Records that a field of this object is absent.
    pub(crate) fn missing(&self, key: &str, message: String) {
        let path = Field { value: &Value::Null, segment: Segment::Field(key), parent: Some(self), errors: self.errors };
        self.push(path.to_string(), None, message, Reason::Invalid);
    }

    /// The field under the key; none if absent or null, or if this is no object (which is an error).
    pub(crate) fn get<'s>(&'s self, key: &'s str) -> Option<Field<'s>> {
        match self.value {
            Value::Object(map) => match map.get(key) {
                None | Some(Value::Null) => None,
                Some(value) => {
                    Some(Field { value, segment: Segment::Field(key), parent: Some(self), errors: self.errors })
                }
            },
            _ => None,
        }
    }

    /// Like [`Field::get`]; that it is absent is an error.
    pub(crate) fn require<'s>(&'s self, key: &'s str) -> Option<Field<'s>> {
        let field = self.get(key);
        if field.is_none() && self.value.is_object() {
            self.missing(key, "is required".to_owned());
        }
        field
    }

    /// The field's own name, empty for an item of a list.
    pub(crate) fn name(&self) -> &'a str {
        match self.segment {
            Segment::Field(name) | Segment::Key(name) => name,
            Segment::Root | Segment::Index(_) => "",
        }
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Checks that this is an object with no other fields than these; an unknown one is named with its nearest neighbour.
    ///
    /// An unknown field is an error because ignoring it can turn a rule into a wider one (`fromEndpoint` for
    /// `fromEndpoints` would allow every peer).
    pub(crate) fn only(&self, known: &[&str]) {
        let Value::Object(map) = self.value else {
            self.invalid("must be an object");
            return;
        };
        for (key, value) in map {
            if known.contains(&key.as_str()) {
                continue;
            }
            let field = Field { value, segment: Segment::Field(key), parent: Some(self), errors: self.errors };
            field.invalid(match nearest(key, known.iter().copied()) {
                Some(near) => format!("no such field; did you mean {near}?"),
                None => format!("no such field; known are {}", known.join(", ")),
            });
        }
    }

    /// Checks that this is an object.
    pub(crate) fn object(&self) -> bool {
        let is = self.value.is_object();
        if !is {
            self.invalid("must be an object");
        }
        is
    }

    /// The items of a list, empty (with an error) if this is none.
    pub(crate) fn items(&self) -> impl Iterator<Item = Field<'_>> {
        let items: &[Value] = if let Value::Array(items) = self.value {
            items
        } else {
            self.invalid("must be a list");
            &[]
        };
        items.iter().enumerate().map(|(i, value)| Field {
            value,
            segment: Segment::Index(i),
            parent: Some(self),
            errors: self.errors,
        })
    }

    /// The entries of a map whose keys the user chose, empty (with an error) if this is none.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, Field<'_>)> {
        let map = if let Value::Object(map) = self.value {
            Some(map)
        } else {
            self.invalid("must be a map");
            None
        };
        map.into_iter().flatten().map(|(key, value)| {
            (key.as_str(), Field { value, segment: Segment::Key(key), parent: Some(self), errors: self.errors })
        })
    }

    /// How many items or fields there are; 0 for anything else.
    pub(crate) fn len(&self) -> usize {
        match self.value {
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        }
    }

    pub(crate) fn raw(&self) -> &'a Value {
        self.value
    }

    pub(crate) fn str(&self) -> Option<&'a str> {
        if let Value::String(text) = self.value {
            return Some(text);
        }
        self.invalid(match self.value {
            Value::Number(_) | Value::Bool(_) => "must be a string: put it in quotes",
            _ => "must be a string",
        });
        None
    }

    pub(crate) fn bool(&self) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            self.invalid("must be true or false");
        }
        value
    }

    pub(crate) fn int<T>(&self, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + fmt::Display,
    {
        let value = self.value.as_i64().and_then(|n| T::try_from(n).ok()).filter(|n| range.contains(n));
        if value.is_none() {
            self.invalid(format!("must be a whole number from {} to {}", range.start(), range.end()));
        }
        value
    }

    /// The meaning of a word, or an error that lists the choices.
    pub(crate) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.str()?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let hint = nearest(text, names.iter().copied()).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
            self.invalid(format!("must be one of {}{hint}", names.join(", ")));
        }
        found
    }
}

/// The choice that a slip of the pen made of the text, if one is near.
pub(crate) fn nearest<'c>(text: &str, choices: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    choices
        .map(|c| (strsim::damerau_levenshtein(&text.to_lowercase(), &c.to_lowercase()), c))
        .filter(|(distance, c)| *distance <= 2.min(c.len() / 3))
        .min()
        .map(|(_, c)| c)
}

/// The value as compact JSON, cut at [`SHOWN`] characters.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN {
        return text;
    }
    text.chars().take(SHOWN).chain(['…']).collect()
}
