//! Whether an object keeps to a structural schema (`openAPIV3Schema` of a definition), fields that it does not have
//! included. Rules in CEL are the API server's to judge: crds/tests/api_server.rs gives it the same examples.

use regex::Regex;
use serde_json::{Map, Value};

use super::{list, text};

/// Everything that is wrong, with its path.
pub(super) fn problems(schema: &Value, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    // what every object has
    let mut fields = object.as_object().cloned().unwrap_or_default();
    for own in ["apiVersion", "kind", "metadata"] {
        fields.remove(own);
    }
    let required: Vec<&Value> = list(schema, "/required").iter().filter(|r| *r != "metadata").collect();
    for name in required.iter().filter_map(|r| r.as_str()).filter(|name| !fields.contains_key(*name)) {
        found.push(format!(".{name}: is required"));
    }
    properties(schema, &fields, "", &mut found);
    found
}

fn check(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    if !of_type(schema, value) {
        found.push(format!("{path}: {value} is no {}", text(schema, "/type")));
        return;
    }
    let choices = list(schema, "/enum");
    if !choices.is_empty() && !choices.contains(value) {
        found.push(format!("{path}: {value} is none of {choices:?}"));
    }
    match value {
        Value::Object(fields) => {
            let missing =
                list(schema, "/required").iter().filter_map(Value::as_str).filter(|n| !fields.contains_key(*n));
            found.extend(missing.map(|name| format!("{path}.{name}: is required")));
            properties(schema, fields, path, found);
        }
        Value::Array(items) => {
            sized(schema, "Items", items.len(), path, found);
            let of = schema.get("items").unwrap_or(&Value::Null);
            for (i, item) in items.iter().enumerate() {
                check(of, item, &format!("{path}[{i}]"), found);
            }
        }
        Value::String(word) => {
            sized(schema, "Length", word.chars().count(), path, found);
            let pattern = text(schema, "/pattern");
            if !pattern.is_empty() && !Regex::new(pattern).is_ok_and(|p| p.is_match(word)) {
                found.push(format!("{path}: {word:?} does not match {pattern}"));
            }
        }
        Value::Number(number) => {
            let (number, of) = (number.as_f64(), |key: &str| schema.get(key).and_then(Value::as_f64));
            if number < of("minimum") || of("maximum").is_some_and(|most| number > Some(most)) {
                found.push(format!("{path}: {value} is out of range"));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
    junctors(schema, value, path, found);
}

fn properties(schema: &Value, fields: &Map<String, Value>, path: &str, found: &mut Vec<String>) {
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        let known = schema.get("properties").and_then(|p| p.get(name)).or_else(|| schema.get("additionalProperties"));
        match known {
            Some(of) if of.is_object() => check(of, value, &path, found),
            Some(_) => {}
            None if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) => {}
            None => found.push(format!("{path}: no such field")),
        }
    }
}

fn of_type(schema: &Value, value: &Value) -> bool {
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return value.is_string() || value.is_i64() || value.is_u64();
    }
    match text(schema, "/type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        // branches of a junctor have none
        _ => true,
    }
}

/// `minItems`, `maxLength` and their kin.
fn sized(schema: &Value, of: &str, size: usize, path: &str, found: &mut Vec<String>) {
    let limit = |which: &str| schema.get(format!("{which}{of}")).and_then(Value::as_u64);
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    if limit("min").is_some_and(|least| size < least) || limit("max").is_some_and(|most| size > most) {
        found.push(format!("{path}: {size} is no size for it"));
    }
}

fn junctors(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let holds = |branch: &Value| {
        let mut wrong = Vec::new();
        branched(branch, value, &mut wrong);
        wrong.is_empty()
    };
    let count = |junctor: &str| {
        let branches = list(schema, &format!("/{junctor}"));
        (branches.len(), branches.iter().filter(|b| holds(b)).count())
    };
    let (all, any, one) = (count("allOf"), count("anyOf"), count("oneOf"));
    let wrong = all.0 != all.1 || (any.0 > 0 && any.1 == 0) || (one.0 > 0 && one.1 != 1);
    if wrong || schema.get("not").is_some_and(holds) {
        found.push(format!("{path}: is of none or of too many of its forms"));
    }
}

/// A branch speaks of some fields, and says nothing of others.
fn branched(branch: &Value, value: &Value, found: &mut Vec<String>) {
    if let Some(fields) = value.as_object() {
        found.extend(
            list(branch, "/required")
                .iter()
                .filter_map(Value::as_str)
                .filter(|n| !fields.contains_key(*n))
                .map(str::to_owned),
        );
        for (name, schema) in branch.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if let Some(value) = fields.get(name) {
                branched(schema, value, found);
            }
        }
    }
    let choices = list(branch, "/enum");
    if !choices.is_empty() && !choices.contains(value) {
        found.push(format!("{value}"));
    }
    let (pattern, word) = (text(branch, "/pattern"), value.as_str().unwrap_or_default());
    if !pattern.is_empty() && !Regex::new(pattern).is_ok_and(|p| p.is_match(word)) {
        found.push(word.to_owned());
    }
    if value
        .as_array()
        .is_some_and(|items| branch.get("minItems").and_then(Value::as_u64).is_some_and(|n| (items.len() as u64) < n))
    {
        found.push("items".to_owned());
    }
    junctors(branch, value, "", found);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "required": ["spec"], "properties": {"spec": {
            "type": "object",
            "required": ["mode"],
            "properties": {
                "mode": {"type": "string", "enum": ["A", "B"]},
                "count": {"type": "integer", "minimum": 1, "maximum": 9},
                "names": {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3}},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "either": {"x-kubernetes-int-or-string": true},
                "one": {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "boolean"}},
                    "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
                "any": {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "boolean"}},
                    "anyOf": [{"required": ["a"]}, {"required": ["b"]}], "not": {"required": ["a", "b"]}},
            },
        }}})
    }

    fn told(spec: &Value) -> String {
        problems(&schema(), &json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"}, "spec": spec}))
            .join("; ")
    }

    #[test]
    fn what_keeps_to_it_has_no_problems() {
        for spec in [
            json!({"mode": "A"}),
            json!({"mode": "B", "count": 9, "names": ["a", "abc"], "labels": {"x": "y"}, "either": 1}),
            json!({"mode": "B", "either": "x", "one": {"a": true}, "any": {"b": true}}),
        ] {
            assert_eq!(told(&spec), "", "{spec}");
        }
    }

    #[test]
    fn each_thing_that_can_be_wrong_is_told_with_its_path() {
        for (spec, wanted) in [
            (json!({}), ".spec.mode: is required"),
            (json!({"mode": "C"}), ".spec.mode: \"C\" is none of"),
            (json!({"mode": 1}), ".spec.mode: 1 is no string"),
            (json!({"mode": "A", "cuont": 1}), ".spec.cuont: no such field"),
            (json!({"mode": "A", "count": 10}), ".spec.count: 10 is out of range"),
            (json!({"mode": "A", "count": 0}), ".spec.count: 0 is out of range"),
            (json!({"mode": "A", "names": []}), ".spec.names: 0 is no size"),
            (json!({"mode": "A", "names": ["a", "abcd"]}), ".spec.names[1]: 4 is no size"),
            (json!({"mode": "A", "names": ["A"]}), ".spec.names[0]: \"A\" does not match"),
            (json!({"mode": "A", "labels": {"x": 1}}), ".spec.labels.x: 1 is no string"),
            (json!({"mode": "A", "either": true}), ".spec.either: true is no"),
            (json!({"mode": "A", "one": {"a": true, "b": true}}), ".spec.one: is of none or of too many"),
            (json!({"mode": "A", "one": {}}), ".spec.one: is of none or of too many"),
            (json!({"mode": "A", "any": {}}), ".spec.any: is of none or of too many"),
            (json!({"mode": "A", "any": {"a": true, "b": true}}), ".spec.any: is of none or of too many"),
        ] {
            let told = told(&spec);
            assert!(told.contains(wanted), "{spec}: no {wanted:?} in {told:?}");
        }
        assert_eq!(problems(&schema(), &json!({"kind": "K"})), [".spec: is required"]);
    }
}
