//! The cursor reads field names from text, so it has to be held against the schemas that the API server enforces.

use axoneme_intake::{ObjectErrors, parse};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, JSONSchemaPropsOrArray};
use serde_json::{Value, json};

/// A value with just one path in it, down to each leaf of the schema, and that path.
fn paths(schema: &JSONSchemaProps, leaf: &dyn Fn(&JSONSchemaProps) -> Value) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    for (name, field) in schema.properties.iter().flatten() {
        out.extend(paths(field, leaf).into_iter().map(|(path, value)| {
            let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
            (format!("{name}{dot}{path}"), json!({ name.as_str(): value }))
        }));
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        out.extend(paths(items, leaf).into_iter().map(|(path, value)| {
            let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
            (format!("[0]{dot}{path}"), json!([value]))
        }));
    }
    if out.is_empty() {
        out.push((String::new(), leaf(schema)));
    }
    out
}

/// Every kind's answer to an object that has just one leaf set.
fn answers(leaf: &dyn Fn(&JSONSchemaProps) -> Value) -> Vec<(String, String, Result<(), ObjectErrors>)> {
    let mut out = Vec::new();
    for crd in axoneme_crds::all_crds() {
        let version = crd.spec.versions.iter().find(|v| v.storage).expect("a storage version");
        let schema = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()).expect("a schema");
        for (path, mut object) in paths(schema, leaf) {
            let name = if crd.spec.names.kind == "AxonemeConfig" { "default" } else { "a" };
            object["apiVersion"] = json!(format!("{}/{}", crd.spec.group, version.name));
            object["kind"] = json!(crd.spec.names.kind);
            object["metadata"] = json!({ "name": name });
            out.push((crd.spec.names.kind.clone(), path, parse(&object).map(drop)));
        }
    }
    out
}

#[test]
fn every_field_of_every_schema_is_known() {
    let answers = answers(&|schema| match schema.type_.as_deref() {
        Some("object") => json!({}),
        Some("array") => json!([]),
        Some("integer") => json!(1),
        Some("boolean") => json!(true),
        _ => json!("x"),
    });
    assert!(answers.len() > 300, "only {} fields", answers.len());
    for (kind, path, answer) in answers {
        for error in answer.err().iter().flat_map(|e| &e.errors) {
            assert!(!error.message.contains("no such"), "{kind} {path}: {error}");
        }
    }
}

/// Paths that say nothing about the network to us: written by ourselves, or for a cloud.
fn is_not_read(kind: &str, path: &str) -> bool {
    let cloud = ["eni", "azure", "alibaba-cloud"].iter().any(|c| path.contains(&format!(".{c}")));
    let own = [
        "spec.instance-id",
        "spec.health",
        "spec.ingress",
        "spec.encryption",
        "spec.ipam.m",
        "spec.ipam.pre",
        "spec.ipam.static",
    ];
    path.starts_with("apiVersion")
        || path.starts_with("kind")
        || path.starts_with("metadata")
        || path.starts_with("status")
        || (kind == "CiliumNode" && (cloud || own.iter().any(|p| path.starts_with(p)) || path.contains(".allow")))
}

#[test]
fn no_field_of_a_schema_is_passed_over() {
    let mut checked = 0;
    // a list in a list is wrong wherever the schema has a leaf
    for (kind, path, answer) in answers(&|_| json!([[]])) {
        if is_not_read(&kind, &path) {
            continue;
        }
        checked += 1;
        let Err(errors) = answer else { panic!("{kind} {path}: nobody looked at it") };
        let at_it = |error: &str| {
            let above = path.starts_with(error) && error.contains(['[', '.']);
            above || error.starts_with(&path)
        };
        assert!(errors.errors.iter().any(|e| at_it(&e.path)), "{kind} {path}:\n{errors}");
    }
    assert!(checked > 250, "only {checked} fields");
}
