//! Errors that name a field: values that do not fit, and fields that a kind does not have.
//!
//! An API server drops unknown fields of custom resources without a word (pruning), and serde ignores them. A file that
//! is read from a directory, and settings that were renamed, deserve better.

use std::fmt;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What is wrong with one field of an object. Shows as `path: message`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FieldError {
    /// The field, such as `spec.ingress[0].toPorts[1].ports[0].port`.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// A field that the schema does not have.
#[derive(Clone, Debug, PartialEq)]
pub struct UnknownField<'a> {
    /// Where it stands.
    pub path: String,
    /// What it holds.
    pub value: &'a Value,
    /// The fields that the schema has in this place.
    pub known: Vec<&'a str>,
}

impl fmt::Display for UnknownField<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: no such field", self.path)?;
        let name = self.path.rsplit('.').next().unwrap_or_default();
        match nearest(name, self.known.iter().copied()) {
            Some(near) => write!(f, "; did you mean {near}?"),
            None if self.known.is_empty() => Ok(()),
            None => write!(f, "; fields here: {}", self.known.join(", ")),
        }
    }
}

/// Reads an object into its type.
///
/// # Errors
/// The first value that does not fit, with its path. Fields that the type does not have are no error; see
/// [`unknown_fields`].
pub fn parse<T: DeserializeOwned>(object: Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(object).map_err(|error| {
        let path = error.path().to_string();
        FieldError { path, message: error.into_inner().to_string() }
    })
}

/// The fields of an object that its kind does not have, in the order of the object. Below an unknown field nothing is
/// looked at, and values of a wrong type are left to [`parse`].
pub fn unknown_fields<'a>(schema: &'a JSONSchemaProps, object: &'a Value) -> Vec<UnknownField<'a>> {
    let mut found = Vec::new();
    let Value::Object(root) = object else { return found };
    for (name, value) in root.iter().filter(|(name, _)| !is_root_field(name)) {
        walk_field(schema, name, value, "", &mut found);
    }
    found
}

/// Every object has these; a schema need not name them.
fn is_root_field(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

fn walk<'a>(schema: &'a JSONSchemaProps, value: &'a Value, path: &str, found: &mut Vec<UnknownField<'a>>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                walk_field(schema, name, value, path, found);
            }
        }
        Value::Array(items) => {
            if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    walk(schema, item, &format!("{path}[{index}]"), found);
                }
            }
        }
        _ => {}
    }
}

fn walk_field<'a>(
    schema: &'a JSONSchemaProps,
    name: &str,
    value: &'a Value,
    parent_path: &str,
    found: &mut Vec<UnknownField<'a>>,
) {
    let path = if parent_path.is_empty() { name.to_owned() } else { format!("{parent_path}.{name}") };
    if let Some(schema) = schema.properties.as_ref().and_then(|known| known.get(name)) {
        return walk(schema, value, &path, found);
    }
    match &schema.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(schema)) => return walk(schema, value, &path, found),
        Some(JSONSchemaPropsOrBool::Bool(true)) => return,
        _ => {}
    }
    let is_object = schema.properties.is_some();
    if is_object && schema.x_kubernetes_preserve_unknown_fields != Some(true) {
        let known = schema.properties.iter().flat_map(|known| known.keys()).map(String::as_str).collect();
        found.push(UnknownField { path, value, known });
    }
}

/// The candidate that a mistyped name most likely meant: case, dashes and underscores aside, one third of its letters
/// may differ.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = normalize(name);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &normalize(candidate)), candidate))
        .filter(|(distance, _)| *distance * 3 <= wanted.chars().count())
        .min()
        .map(|(_, candidate)| candidate)
}

/// A name without case, dashes and underscores, so that `enable-ipv4`, `enable_ipv4` and `enableIPv4` are one.
pub(crate) fn normalize(name: &str) -> String {
    name.chars().filter(|letter| !matches!(letter, '-' | '_')).flat_map(char::to_lowercase).collect()
}
