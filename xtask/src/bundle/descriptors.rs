//! What forms show of the kinds: descriptors from the schemas, so that they cannot say something else.
//!
//! Paths and `x-descriptors` are those of
//! <https://github.com/openshift/console/blob/main/frontend/packages/operator-lifecycle-manager/src/components/descriptors/reference/reference.md>.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::source::Source;
use super::{list, text};

const UI: &str = "urn:alm:descriptor:com.tectonic.ui";
const CONDITIONS: &str = "urn:alm:descriptor:io.kubernetes.conditions";
/// Fields of fields of fields: what is deeper is edited as text.
const DEEPEST: usize = 3;

/// The definitions that a version owns, each by the version that is stored.
pub(super) fn owned(source: &Source) -> Result<Vec<Value>> {
    source.definitions()?.iter().map(one).collect()
}

fn one(definition: &Value) -> Result<Value> {
    let (name, kind) = (text(definition, "/metadata/name"), text(definition, "/spec/names/kind"));
    let stored = list(definition, "/spec/versions").iter().find(|v| v.get("storage") == Some(&Value::Bool(true)));
    let stored = stored.with_context(|| format!("{name}: no version is stored"))?;
    let schema = stored.pointer("/schema/openAPIV3Schema").with_context(|| format!("{name}: no schema"))?;
    let description = sentence(schema);
    ensure!(!description.is_empty(), "{name}: no description");
    let mut spec = Vec::new();
    // a kind whose fields are not below `spec` has nothing that forms could show
    if let Some(fields) = schema.pointer("/properties/spec") {
        walk(fields, "", 1, &mut spec);
    }
    let mut status = Vec::new();
    if schema.pointer("/properties/status/properties/conditions").is_some() {
        let conditions = schema.pointer("/properties/status/properties/conditions").map(sentence).unwrap_or_default();
        status.push(described("conditions", "Conditions", &conditions, &[CONDITIONS.to_owned()]));
    }
    Ok(json!({
        "name": name,
        "kind": kind,
        "version": text(stored, "/name"),
        "displayName": title(kind),
        "description": description,
        "specDescriptors": spec,
        "statusDescriptors": status,
    }))
}

fn described(path: &str, name: &str, description: &str, hints: &[String]) -> Value {
    json!({"path": path, "displayName": name, "description": description, "x-descriptors": hints})
}

/// Fields that a form can have: single values where they are, lists and maps only at the top.
fn walk(schema: &Value, path: &str, depth: usize, found: &mut Vec<Value>) {
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match hints(field) {
            Some(hints) => found.push(described(&path, &title(name), &sentence(field), &hints)),
            None if field.get("properties").is_some() && depth < DEEPEST && !is_selector(field) => {
                walk(field, &path, depth + 1, found);
            }
            None if depth == 1 => found.push(described(&path, &title(name), &sentence(field), &[])),
            None => {}
        }
    }
}

/// How a single value is shown; none for others.
fn hints(field: &Value) -> Option<Vec<String>> {
    let choices: Vec<&str> = list(field, "/enum").iter().filter_map(Value::as_str).collect();
    match text(field, "/type") {
        "boolean" => Some(vec![format!("{UI}:booleanSwitch")]),
        "integer" => Some(vec![format!("{UI}:number")]),
        "string" if !choices.is_empty() => Some(choices.iter().map(|c| format!("{UI}:select:{c}")).collect()),
        "string" => Some(vec![format!("{UI}:text")]),
        _ => None,
    }
}

fn is_selector(field: &Value) -> bool {
    field.pointer("/properties/matchLabels").is_some()
}

/// The first sentence of a description.
fn sentence(schema: &Value) -> String {
    let whole = text(schema, "/description").split("\n\n").next().unwrap_or_default().trim();
    whole.split_once(". ").map_or_else(|| whole.to_owned(), |(first, _)| format!("{first}."))
}

/// `CiliumPodIPPool` becomes `Cilium Pod IP Pool`, `allowFirstIP` `Allow First IP`.
fn title(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (i, letter) in letters.iter().enumerate() {
        let before = i.checked_sub(1).and_then(|i| letters.get(i));
        let behind = letters.get(i + 1);
        let begins = letter.is_uppercase()
            && before
                .is_some_and(|b| b.is_lowercase() || (b.is_uppercase() && behind.is_some_and(|b| b.is_lowercase())));
        if begins {
            out.push(' ');
        }
        if i == 0 {
            out.extend(letter.to_uppercase());
        } else {
            out.push(*letter);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_titles() {
        for (name, wanted) in [
            ("CiliumPodIPPool", "Cilium Pod IP Pool"),
            ("CiliumCIDRGroup", "Cilium CIDR Group"),
            ("allowFirstIP", "Allow First IP"),
            ("socketLB", "Socket LB"),
            ("mtu", "Mtu"),
        ] {
            assert_eq!(title(name), wanted);
        }
    }

    #[test]
    fn forms_have_single_values_at_any_depth_and_lists_at_the_top() {
        let schema = json!({"properties": {
            "on": {"type": "boolean", "description": "Whether. More."},
            "mode": {"type": "string", "enum": ["A", "B"]},
            "list": {"type": "array", "items": {"type": "string"}},
            "selector": {"type": "object", "properties": {"matchLabels": {"type": "object"}}},
            "deep": {"type": "object", "properties": {
                "count": {"type": "integer"},
                "list": {"type": "array"},
                "deeper": {"type": "object", "properties": {"text": {"type": "string"}, "deepest": {"type": "object", "properties": {"far": {"type": "string"}}}}},
            }},
        }});
        let mut found = Vec::new();
        walk(&schema, "", 1, &mut found);
        let paths: Vec<&str> = found.iter().map(|d| text(d, "/path")).collect();
        assert_eq!(paths, ["deep.count", "deep.deeper.text", "list", "mode", "on", "selector"]);
        let of = |path: &str| found.iter().find(|d| text(d, "/path") == path).unwrap().clone();
        assert_eq!(of("mode")["x-descriptors"], json!([format!("{UI}:select:A"), format!("{UI}:select:B")]));
        assert_eq!(of("on")["description"], "Whether.");
    }
}
