//! OpenAPI v2 and v3: what `kubectl explain` reads.

use schemars::Schema;
use serde_json::{Map, Value, json};

use crate::{
    kinds::{Endpoint, Identity, Node, PolicyTable, View},
    resource::{API_VERSION, GROUP, Resource, VERSION},
};

/// Where the only document of v3 is, as the index names it.
const KEY: &str = "apis/views.axoneme.io/v1alpha1";
const PREFIX: &str = "io.axoneme.views.v1alpha1";

/// `/openapi/v3`. `hash`: of the document, so that a copy of it can be kept for long.
#[must_use]
pub fn index(hash: &str) -> Value {
    json!({"paths": {KEY: {"serverRelativeURL": format!("/openapi/v3/{KEY}?hash={hash}")}}})
}

/// `/openapi/v3/apis/views.axoneme.io/v1alpha1`.
#[must_use]
pub fn v3() -> Value {
    let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{PREFIX}.{name}")});
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Axoneme views", "version": VERSION},
        "paths": paths(&|name| json!({"description": "OK", "content": {"application/json": {"schema": reference(name)}}}),
            &|name, place, about| json!({"name": name, "in": place, "required": place == "path", "description": about,
                "schema": {"type": "string"}})),
        "components": {"schemas": schemas(&reference)},
    })
}

/// `/openapi/v2`.
#[must_use]
pub fn v2() -> Value {
    let reference = |name: &str| json!({"$ref": format!("#/definitions/{PREFIX}.{name}")});
    json!({
        "swagger": "2.0",
        "info": {"title": "Axoneme views", "version": VERSION},
        "paths": paths(&|name| json!({"description": "OK", "schema": reference(name)}),
            &|name, place, about| json!({"name": name, "in": place, "required": place == "path", "description": about,
                "type": "string"})),
        "definitions": schemas(&reference),
    })
}

type Response<'a> = &'a dyn Fn(&str) -> Value;
type Parameter<'a> = &'a dyn Fn(&str, &str, &str) -> Value;

/// Parameters of lists and watches.
const PARAMETERS: [(&str, &str); 7] = [
    ("labelSelector", "Labels of the objects to be returned."),
    ("fieldSelector", "Fields of the objects to be returned."),
    ("limit", "Most objects of a page."),
    ("continue", "Token of the page before."),
    ("watch", "Tell changes as they happen."),
    ("resourceVersion", "Version to watch from."),
    ("allowWatchBookmarks", "Tell from time to time how far the watch is."),
];

fn paths(response: Response<'_>, parameter: Parameter<'_>) -> Value {
    let mut paths = Map::new();
    for r in crate::resource::all() {
        let kind = json!({"group": GROUP, "version": VERSION, "kind": r.kind});
        let operation = |action: &str, answer: &str, about: String, parameters: Vec<Value>| {
            json!({"get": {"description": about, "operationId": format!("{action}{}", r.kind), "tags": ["views"],
                "parameters": parameters, "responses": {"200": response(answer)},
                "x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind}})
        };
        let asked = || PARAMETERS.iter().map(|(name, about)| parameter(name, "query", about));
        let namespace = || parameter("namespace", "path", "Namespace of the objects.");
        let list = r.list_kind();
        let base = format!("/{KEY}");
        let about = format!("Lists {}.", r.plural);
        let one = parameter("name", "path", "Name of the object.");
        let about_one = format!("Reads one of {}.", r.plural);
        if r.namespaced {
            let within = format!("{base}/namespaces/{{namespace}}/{}", r.plural);
            let all = operation("listAll", &list, about.clone(), asked().collect());
            paths.insert(format!("{base}/{}", r.plural), all);
            let some = operation("list", &list, about, asked().chain([namespace()]).collect());
            paths.insert(within.clone(), some);
            paths.insert(format!("{within}/{{name}}"), operation("get", r.kind, about_one, vec![namespace(), one]));
        } else {
            paths.insert(format!("{base}/{}", r.plural), operation("list", &list, about, asked().collect()));
            paths.insert(format!("{base}/{}/{{name}}", r.plural), operation("get", r.kind, about_one, vec![one]));
        }
    }
    Value::Object(paths)
}

fn schemas(reference: &dyn Fn(&str) -> Value) -> Value {
    let mut schemas = Map::new();
    let mut add = |resource: &'static Resource, status: Schema| {
        schemas.insert(format!("{PREFIX}.{}", resource.kind), kind(resource, status, reference));
        schemas.insert(format!("{PREFIX}.{}", resource.list_kind()), list_kind(resource, reference));
    };
    add(Endpoint::resource(), Endpoint::schema());
    add(Identity::resource(), Identity::schema());
    add(Node::resource(), Node::schema());
    add(PolicyTable::resource(), PolicyTable::schema());
    schemas.insert(format!("{PREFIX}.ObjectMeta"), object_meta());
    schemas.insert(format!("{PREFIX}.ListMeta"), list_meta());
    Value::Object(schemas)
}

fn kind(resource: &Resource, status: Schema, reference: &dyn Fn(&str) -> Value) -> Value {
    let mut properties = type_properties();
    properties.insert("metadata".into(), described(&reference("ObjectMeta"), "Name, namespace and labels."));
    properties.insert("status".into(), status.to_value());
    json!({"type": "object", "description": resource.about, "properties": properties,
        "x-kubernetes-group-version-kind": [{"group": GROUP, "version": VERSION, "kind": resource.kind}]})
}

fn list_kind(resource: &Resource, reference: &dyn Fn(&str) -> Value) -> Value {
    let mut properties = type_properties();
    properties.insert("metadata".into(), described(&reference("ListMeta"), "Version of the list, and its next page."));
    properties.insert("items".into(), json!({"type": "array", "items": reference(resource.kind)}));
    json!({"type": "object", "description": format!("A list of {}.", resource.plural), "required": ["items"],
        "properties": properties,
        "x-kubernetes-group-version-kind": [{"group": GROUP, "version": VERSION, "kind": resource.list_kind()}]})
}

/// Beside a reference nothing else counts.
fn described(reference: &Value, about: &str) -> Value {
    json!({"allOf": [reference], "description": about})
}

fn type_properties() -> Map<String, Value> {
    let text = |about: &str| json!({"type": "string", "description": about});
    [
        ("apiVersion".to_owned(), text(&format!("Always {API_VERSION}."))),
        ("kind".to_owned(), text("Kind of the object.")),
    ]
    .into_iter()
    .collect()
}

fn object_meta() -> Value {
    let text = |about: &str| json!({"type": "string", "description": about});
    json!({"type": "object", "description": "Metadata of a view.", "properties": {
        "name": text("Name of the object."),
        "namespace": text("Namespace of the object."),
        "uid": text("Uid of what is shown, where it has one: of the pod for an endpoint."),
        "resourceVersion": text("Version of the view: good for a watch at the operator that gave it."),
        "creationTimestamp": {"type": "string", "format": "date-time", "nullable": true, "description": "Not set."},
        "labels": {"type": "object", "additionalProperties": {"type": "string"},
            "description": "Labels of what is shown: of the pod for an endpoint, of the node for a node."},
    }})
}

fn list_meta() -> Value {
    let text = |about: &str| json!({"type": "string", "description": about});
    json!({"type": "object", "description": "Metadata of a list.", "properties": {
        "resourceVersion": text("Version of the list's first page: a watch from it is told what changed since."),
        "continue": text("Token of the next page; none: there is none."),
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_explained() {
        fn walk(path: &str, schema: &Value) {
            for (name, of) in schema["properties"].as_object().into_iter().flatten() {
                let path = format!("{path}.{name}");
                let told = of["description"].as_str().is_some_and(|d| !d.is_empty());
                let plain =
                    ["addresses", "serviceAccount", "kind", "namespace", "name", "items"].contains(&name.as_str());
                assert!(told || plain, "{path} has no description");
                walk(&path, of);
                walk(&path, &of["items"]);
            }
        }
        let document = v3();
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            walk(name, schema);
        }
    }

    /// What `kubectl explain` looks for (kubectl's plaintext template): the kind by the path, the schema by the kind.
    #[test]
    fn kubectl_finds_the_schema_of_each_resource() {
        for (document, schemas) in [(v3(), "/components/schemas"), (v2(), "/definitions")] {
            for r in crate::resource::all() {
                let path = &document["paths"][format!("/{KEY}/{}", r.plural)]["get"];
                assert_eq!(path["x-kubernetes-group-version-kind"]["kind"], r.kind);
                let schemas = document.pointer(schemas).unwrap().as_object().unwrap();
                let of_kind = |s: &&Value| s["x-kubernetes-group-version-kind"][0]["kind"] == r.kind;
                let schema = schemas.values().find(of_kind).unwrap();
                assert!(schema["properties"]["status"]["properties"].is_object(), "{schema}");
            }
        }
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    map.values().for_each(|v| references(v, found));
                }
                Value::Array(items) => items.iter().for_each(|v| references(v, found)),
                _ => {}
            }
        }
        for document in [v2(), v3()] {
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(!found.is_empty());
            for reference in found {
                assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
            }
        }
    }
}
