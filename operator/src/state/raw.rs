//! Objects as they were said.

use serde_json::Value;

/// An object as text: the trees of values of ten thousand objects would be ten times as large.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw(Box<str>);

impl Raw {
    /// The object; null where there is none.
    #[must_use]
    pub fn read(&self) -> Value {
        // the text is what a value has made of itself: it can be read, or there is none
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// A string in the object.
    #[must_use]
    pub fn text(&self, pointer: &str) -> Option<String> {
        self.read().pointer(pointer).and_then(Value::as_str).map(str::to_owned)
    }
}

impl From<&Value> for Raw {
    fn from(object: &Value) -> Self {
        if object.is_null() { Self::default() } else { Self(object.to_string().into()) }
    }
}
