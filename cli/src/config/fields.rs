//! Settings by their paths: which there are, what they are in an object, and who has set them.

use std::collections::BTreeMap;

use axoneme_crds::{AxonemeConfigSpec, definition::schema_of};
use serde_json::{Map, Value, json};

use crate::cluster::MANAGER;

/// The schema of a setting, as far as texts are read by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Flag,
    Number,
    Text,
    /// Of texts.
    List,
    /// Lists and maps of anything else.
    Any,
}

/// All settings, by their paths below and with `spec`.
#[must_use]
pub fn settings() -> BTreeMap<String, Shape> {
    let schema = schema_of("axoneme.io/v1alpha1", "AxonemeConfig").and_then(|s| serde_json::to_value(s).ok());
    let mut all = BTreeMap::new();
    if let Some(spec) = schema.as_ref().and_then(|s| s.pointer("/properties/spec")) {
        collect("spec", spec, &mut all);
    }
    all
}

fn collect(path: &str, schema: &Value, out: &mut BTreeMap<String, Shape>) {
    let fields = schema.get("properties").and_then(Value::as_object).filter(|f| !f.is_empty());
    if let Some(fields) = fields {
        for (name, schema) in fields {
            collect(&format!("{path}.{name}"), schema, out);
        }
        return;
    }
    let kind = |schema: &Value| schema.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let shape = match kind(schema).as_str() {
        "boolean" => Shape::Flag,
        "integer" => Shape::Number,
        "string" => Shape::Text,
        "array" if schema.get("items").is_some_and(|items| kind(items) == "string") => Shape::List,
        _ => Shape::Any,
    };
    out.insert(path.to_owned(), shape);
}

/// What an object holds at a path; null where it holds nothing.
#[must_use]
pub fn at<'v>(object: &'v Value, path: &str) -> &'v Value {
    path.split('.').try_fold(object, |at, key| at.get(key)).unwrap_or(&Value::Null)
}

/// Lays a value at a path.
pub fn put(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    for key in path.split('.') {
        if !at.is_object() {
            *at = json!({});
        }
        let Value::Object(fields) = at else { return };
        at = fields.entry(key).or_insert(Value::Null);
    }
    *at = value;
}

/// Takes what is at a path out of an object, with the sections that are empty then.
pub fn take(object: &mut Value, path: &str) {
    let Some((first, rest)) = path.split_once('.') else {
        object.as_object_mut().map(|fields| fields.remove(path));
        return;
    };
    let Some(fields) = object.as_object_mut() else { return };
    let Some(section) = fields.get_mut(first) else { return };
    take(section, rest);
    if section.as_object().is_some_and(Map::is_empty) {
        fields.remove(first);
    }
}

/// All settings as an object means them: what it leaves out has its default. None: it cannot be read.
#[must_use]
pub fn in_force(object: &Value) -> Option<Value> {
    let spec = object.get("spec").cloned().unwrap_or_else(|| json!({}));
    let spec: AxonemeConfigSpec = serde_json::from_value(spec).ok()?;
    Some(json!({"spec": serde_json::to_value(spec).ok()?}))
}

/// Who has set what: each path that a manager's entry names, with the manager.
#[must_use]
pub fn owners(object: &Value) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for entry in entries(object) {
        let manager = entry.get("manager").and_then(Value::as_str).unwrap_or_default();
        for path in paths(entry) {
            let said: &mut String = all.entry(path).or_default();
            if !said.is_empty() {
                said.push_str(", ");
            }
            said.push_str(manager);
        }
    }
    all
}

/// The fields that this program has applied.
#[must_use]
pub fn own(object: &Value) -> Vec<String> {
    let ours = |entry: &&Value| {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        text("manager") == Some(MANAGER) && text("operation") == Some("Apply")
    };
    entries(object).iter().filter(ours).flat_map(paths).collect()
}

fn entries(object: &Value) -> &[Value] {
    object.pointer("/metadata/managedFields").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The paths below `spec` that an entry names (`FieldsV1`: `f:` a field; `k:`, `v:` and `i:` an item, which stands for
/// its list).
fn paths(entry: &Value) -> Vec<String> {
    fn walk(path: &str, fields: &Map<String, Value>, out: &mut Vec<String>) {
        let inner: Vec<_> = fields.iter().filter_map(|(key, below)| Some((key.strip_prefix("f:")?, below))).collect();
        if inner.is_empty() {
            out.push(path.to_owned());
        }
        for (name, below) in inner {
            if let Some(below) = below.as_object() {
                walk(&format!("{path}.{name}"), below, out);
            }
        }
    }
    let mut out = Vec::new();
    if let Some(spec) = entry.get("fieldsV1").and_then(|f| f.get("f:spec")).and_then(Value::as_object) {
        walk("spec", spec, &mut out);
    }
    out
}

/// Who has set the setting of a path: by itself, by the whole section, or by a part of it.
#[must_use]
pub fn owner<'o>(owners: &'o BTreeMap<String, String>, path: &str) -> Option<&'o str> {
    let related = |said: &str| below(path, said) || below(said, path);
    // the root stands for an entry that names no field below `spec`
    owners.iter().find(|(said, _)| *said != "spec" && related(said)).map(|(_, manager)| manager.as_str())
}

/// Whether a path is another one or in it.
#[must_use]
pub fn below(path: &str, section: &str) -> bool {
    path.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The value that a text stands for. What it cannot be is told by who admits the object.
pub fn value(shape: Shape, text: &str) -> Result<Value, String> {
    let yaml = || serde_saphyr::from_str::<Value>(text).map_err(|e| format!("not YAML: {}", e.to_string().trim_end()));
    match shape {
        Shape::Text => Ok(json!(text)),
        Shape::List if !text.trim_start().starts_with('[') => {
            Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect())
        }
        Shape::Flag | Shape::Number | Shape::List | Shape::Any => yaml(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_default_or_is_not_set() {
        let all = settings();
        assert!(all.len() > 40, "{}", all.len());
        let defaults = in_force(&json!({})).unwrap();
        for (path, shape) in &all {
            let value = at(&defaults, path);
            let fits = match shape {
                Shape::Flag => value.is_boolean(),
                Shape::Number => value.is_number() || value.is_null(),
                Shape::Text => value.is_string() || value.is_null(),
                Shape::List => value.is_array(),
                Shape::Any => value.is_array() || value.is_object(),
            };
            assert!(fits, "{path}: {shape:?}: {value}");
        }
    }

    #[test]
    fn fields_have_their_managers() {
        let object = json!({"metadata": {"managedFields": [
            {"manager": "flux", "operation": "Apply", "fieldsV1": {"f:metadata": {}, "f:spec": {
                "f:mtu": {}, "f:ipFamilies": {".": {}, "v:\"IPv4\"": {}}, "f:routing": {"f:mode": {}}}}},
            {"manager": "axoneme-cli", "operation": "Apply", "fieldsV1": {"f:spec": {"f:mtu": {}}}},
            {"manager": "axoneme-operator", "operation": "Apply", "fieldsV1": {"f:status": {"f:nodes": {}}}},
        ]}});
        let owners = owners(&object);
        assert_eq!(owner(&owners, "spec.mtu"), Some("flux, axoneme-cli"));
        assert_eq!(owner(&owners, "spec.ipFamilies"), Some("flux"));
        assert_eq!(owner(&owners, "spec.routing.mode"), Some("flux"));
        assert_eq!(owner(&owners, "spec.routing.overlay.port"), None);
        assert_eq!(own(&object), ["spec.mtu"]);
    }

    #[test]
    fn what_is_taken_leaves_no_empty_section() {
        let mut object = json!({"spec": {"routing": {"overlay": {"port": 1}}, "mtu": 2}});
        take(&mut object, "spec.routing.overlay.port");
        take(&mut object, "spec.nothing.there");
        assert_eq!(object, json!({"spec": {"mtu": 2}}));
        put(&mut object, "spec.routing.mode", json!("Native"));
        assert_eq!(at(&object, "spec.routing.mode"), "Native");
    }

    #[test]
    fn texts_are_read_by_their_settings() {
        assert_eq!(value(Shape::Number, "1400"), Ok(json!(1400)));
        assert_eq!(value(Shape::Text, "1400"), Ok(json!("1400")));
        assert_eq!(value(Shape::List, "eth0, eth1"), Ok(json!(["eth0", "eth1"])));
        assert_eq!(value(Shape::List, "[a]"), Ok(json!(["a"])));
        assert_eq!(value(Shape::Any, "{blue: 3}"), Ok(json!({"blue": 3})));
        assert!(value(Shape::Any, "{blue").is_err());
    }
}
