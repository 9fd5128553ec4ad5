//! Whether an object is as a test wants it: `IsSubset` in upstream's internal/utils/subset.go.

use serde_json::{Map, Value};

/// Where two values part, and how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", if path.is_empty() { "." } else { path })]
pub(super) struct Mismatch {
    /// `.status.conditions[0].status`.
    path: String,
    message: String,
}

impl Mismatch {
    fn new(message: String) -> Self {
        Self { path: String::new(), message }
    }

    fn below(mut self, step: &str) -> Self {
        self.path.insert_str(0, step);
        self
    }
}

/// Holds `actual` to `expected`. Keys that only `actual` has do not count, at any depth; lists have the same length and
/// match element by element in their order; everything else is equal, and of the same type: `1` is not `"1"`, nor `1.0`.
/// A key whose expected value is `null` is there, with that value.
pub(super) fn subset(expected: &Value, actual: &Value) -> Result<(), Mismatch> {
    let (wanted, found) = (type_of(expected), type_of(actual));
    if wanted != found {
        return Err(Mismatch::new(format!("type mismatch: {wanted} != {found}")));
    }
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => fields(expected, actual),
        (Value::Array(expected), Value::Array(actual)) => items(expected, actual),
        _ if expected == actual => Ok(()),
        _ => Err(Mismatch::new(format!("value mismatch, expected: {expected} != actual: {actual}"))),
    }
}

fn fields(expected: &Map<String, Value>, actual: &Map<String, Value>) -> Result<(), Mismatch> {
    for (key, wanted) in expected {
        let step = format!(".{key}");
        let found = actual.get(key).ok_or_else(|| Mismatch::new("key is missing from map".to_owned()).below(&step))?;
        subset(wanted, found).map_err(|e| e.below(&step))?;
    }
    Ok(())
}

fn items(expected: &[Value], actual: &[Value]) -> Result<(), Mismatch> {
    if expected.len() != actual.len() {
        return Err(Mismatch::new(format!("slice length mismatch: {} != {}", expected.len(), actual.len())));
    }
    for (i, (wanted, found)) in expected.iter().zip(actual).enumerate() {
        subset(wanted, found).map_err(|e| e.below(&format!("[{i}]")))?;
    }
    Ok(())
}

/// The type that an unstructured object of Go has there: whole numbers are `int64`, others `float64`.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// The part of `actual` that `expected` speaks of: what a person wants to see when the two differ.
pub(super) fn seen(expected: &Value, actual: &Value) -> Value {
    let (Value::Object(expected), Value::Object(actual)) = (expected, actual) else { return actual.clone() };
    let of = |(key, wanted): (&String, &Value)| Some((key.clone(), seen(wanted, actual.get(key)?)));
    Value::Object(expected.iter().filter_map(of).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(expected: &Value, actual: &Value) -> String {
        subset(expected, actual).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn keys_that_only_the_object_has_do_not_count() {
        let actual = json!({"a": {"b": 1, "more": 2}, "more": []});
        assert_eq!(told(&json!({"a": {"b": 1}}), &actual), "");
        assert_eq!(told(&json!({"a": {}}), &actual), "");
        assert_eq!(told(&json!({"a": {"c": 1}}), &actual), ".a.c: key is missing from map");
        assert_eq!(told(&json!({"a": {"b": 2}}), &actual), ".a.b: value mismatch, expected: 2 != actual: 1");
    }

    #[test]
    fn lists_match_in_length_and_order_and_their_elements_as_subsets() {
        let actual = json!({"l": [{"a": 1, "more": 1}, {"a": 2}]});
        assert_eq!(told(&json!({"l": [{"a": 1}, {"a": 2}]}), &actual), "");
        assert_eq!(told(&json!({"l": [{"a": 1}]}), &actual), ".l: slice length mismatch: 1 != 2");
        assert_eq!(told(&json!({"l": [{"a": 1}, {"a": 2}, {}]}), &actual), ".l: slice length mismatch: 3 != 2");
        assert_eq!(
            told(&json!({"l": [{"a": 2}, {"a": 1}]}), &actual),
            ".l[0].a: value mismatch, expected: 2 != actual: 1"
        );
        assert_eq!(told(&json!({"l": []}), &json!({"l": []})), "");
    }

    #[test]
    fn types_are_those_of_the_api() {
        assert_eq!(told(&json!({"a": "1"}), &json!({"a": 1})), ".a: type mismatch: string != int64");
        assert_eq!(told(&json!({"a": 1.0}), &json!({"a": 1})), ".a: type mismatch: float64 != int64");
        assert_eq!(told(&json!({"a": 1.5}), &json!({"a": 1.5})), "");
        assert_eq!(told(&json!({"a": "True"}), &json!({"a": true})), ".a: type mismatch: string != bool");
        assert_eq!(
            told(&json!({"a": {}}), &json!({"a": []})),
            ".a: type mismatch: map[string]interface {} != []interface {}"
        );
    }

    #[test]
    fn null_is_a_value() {
        assert_eq!(told(&json!({"a": null}), &json!({"a": null})), "");
        assert_eq!(told(&json!({"a": null}), &json!({})), ".a: key is missing from map");
        assert_eq!(told(&json!({"a": null}), &json!({"a": 1})), ".a: type mismatch: <nil> != int64");
    }

    #[test]
    fn what_is_shown_is_what_was_asked_about() {
        let actual = json!({"metadata": {"name": "a", "uid": "x"}, "spec": {"b": [1, 2], "c": 3}, "status": {}});
        let shown = seen(&json!({"metadata": {"name": "a"}, "spec": {"b": [1], "z": 0}}), &actual);
        assert_eq!(shown, json!({"metadata": {"name": "a"}, "spec": {"b": [1, 2]}}));
    }
}
