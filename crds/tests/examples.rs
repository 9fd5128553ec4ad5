//! Manifests as users write them: read, written back and compared.

#![expect(clippy::panic, clippy::indexing_slicing, reason = "helpers of tests fail the test")]

use std::{collections::BTreeSet, fs, path::PathBuf};

use axoneme_crds::{
    AxonemeConfig, CiliumCIDRGroup, CiliumClusterwideNetworkPolicy, CiliumIdentity, CiliumNetworkPolicy, CiliumNode,
    CiliumNodeConfig, CiliumPodIPPool, ClusterNetworkPolicy, FieldError, axoneme_config::validate_unknown,
    definition::schema_of, parse, unknown_fields,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

fn examples() -> Vec<(String, Value)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/examples");
    let mut objects = Vec::new();
    let entries = fs::read_dir(&folder).expect("the examples are there");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("the folder is readable").path()).collect();
    // those that catalogs show
    paths.push(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/olm/examples.yaml"));
    for path in paths {
        let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("an example is text");
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{name} is not YAML: {error}"));
        objects.extend(documents.into_iter().enumerate().map(|(index, object)| (format!("{name}#{index}"), object)));
    }
    assert!(objects.len() >= 38, "only {} examples were found", objects.len());
    objects
}

fn round_trip<T: DeserializeOwned + Serialize>(object: Value) -> Result<Value, FieldError> {
    parse::<T>(object).map(|object| serde_json::to_value(object).expect("every object is JSON"))
}

fn round_trip_by_kind(object: &Value) -> Result<Value, FieldError> {
    let object = object.clone();
    match object["kind"].as_str().expect("an object has a kind") {
        "AxonemeConfig" => round_trip::<AxonemeConfig>(object),
        "CiliumCIDRGroup" => round_trip::<CiliumCIDRGroup>(object),
        "CiliumClusterwideNetworkPolicy" => round_trip::<CiliumClusterwideNetworkPolicy>(object),
        "CiliumIdentity" => round_trip::<CiliumIdentity>(object),
        "CiliumNetworkPolicy" => round_trip::<CiliumNetworkPolicy>(object),
        "CiliumNode" => round_trip::<CiliumNode>(object),
        "CiliumNodeConfig" => round_trip::<CiliumNodeConfig>(object),
        "CiliumPodIPPool" => round_trip::<CiliumPodIPPool>(object),
        "ClusterNetworkPolicy" => round_trip::<ClusterNetworkPolicy>(object),
        other => panic!("no type for kind {other}"),
    }
}

/// The paths of `written` that `read` lacks or has otherwise. `read` may have more: defaults.
fn lost(written: &Value, read: &Value, path: &str) -> Vec<String> {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => written
            .iter()
            .flat_map(|(name, value)| {
                let path = format!("{path}.{name}");
                read.get(name).map_or_else(|| vec![path.clone()], |read| lost(value, read, &path))
            })
            .collect(),
        (Value::Array(written), Value::Array(read)) if written.len() == read.len() => written
            .iter()
            .zip(read)
            .enumerate()
            .flat_map(|(index, (written, read))| lost(written, read, &format!("{path}[{index}]")))
            .collect(),
        _ if written == read => Vec::new(),
        _ => vec![format!("{path}: {written} became {read}")],
    }
}

#[test]
fn examples_lose_nothing() {
    for (name, mut object) in examples() {
        let read = round_trip_by_kind(&object).unwrap_or_else(|error| panic!("{name}: {error}"));
        if object["apiVersion"] == "cilium.io/v2alpha1" && object["kind"] == "CiliumCIDRGroup" {
            object["apiVersion"] = json!("cilium.io/v2"); // one type reads both versions and writes the stored one
        }
        assert_eq!(lost(&object, &read, ""), [""; 0], "{name}");
        let again = round_trip_by_kind(&read).unwrap_or_else(|error| panic!("{name}, written back: {error}"));
        assert_eq!(again, read, "{name}: reading what was written gives another object");
    }
}

#[test]
fn the_comparison_sees_a_lost_field() {
    let written = json!({"a": {"b": [1, {"c": 2}]}, "d": null});
    assert_eq!(lost(&written, &written, ""), [""; 0]);
    assert_eq!(lost(&written, &json!({"a": {"b": [1, {}]}, "d": null}), ""), [".a.b[1].c"]);
    assert_eq!(lost(&written, &json!({"a": {"b": [1]}, "d": null}), ""), [".a.b: [1,{\"c\":2}] became [1]"]);
}

#[test]
fn examples_have_no_unknown_fields() {
    for (name, object) in examples() {
        let kind = object["kind"].as_str().expect("an object has a kind");
        let schema = schema_of(object["apiVersion"].as_str().expect("it has a version"), kind)
            .unwrap_or_else(|| panic!("{name}: no schema for {kind}"));
        let unknown: Vec<String> = unknown_fields(schema, &object).iter().map(ToString::to_string).collect();
        assert_eq!(unknown, [""; 0], "{name}");
    }
}

/// What a field's fields are counted under: `specs` is a list of `spec`, and all selectors are one.
fn place<'a>(name: &'a str, schema: &Value) -> &'a str {
    let is_selector =
        schema["properties"].get("matchLabels").or(schema["items"]["properties"].get("matchLabels")).is_some();
    match name {
        _ if is_selector => "selector",
        "specs" => "spec",
        other => other,
    }
}

/// `parent.field` of every field of a schema, indices and map keys left out.
fn schema_fields(schema: &Value, parent: &str, fields: &mut BTreeSet<String>) {
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        fields.insert(format!("{parent}.{name}"));
        schema_fields(schema, place(name, schema), fields);
    }
    for below in ["items", "additionalProperties"] {
        if schema.get(below).is_some() {
            schema_fields(&schema[below], parent, fields);
        }
    }
}

fn object_fields(schema: &Value, value: &Value, parent: &str, fields: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                if let Some(schema) = schema["properties"].get(name) {
                    fields.insert(format!("{parent}.{name}"));
                    object_fields(schema, value, place(name, schema), fields);
                } else if schema["additionalProperties"].is_object() {
                    object_fields(&schema["additionalProperties"], value, parent, fields);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| object_fields(&schema["items"], item, parent, fields)),
        _ => {}
    }
}

#[test]
fn examples_use_every_field() {
    let (mut known, mut used) = (BTreeSet::new(), BTreeSet::new());
    for (_, object) in examples() {
        let kind = object["kind"].as_str().expect("an object has a kind");
        let schema = schema_of(object["apiVersion"].as_str().expect("it has a version"), kind).expect("known");
        let schema = serde_json::to_value(schema).expect("a schema is JSON");
        schema_fields(&schema, kind, &mut known);
        object_fields(&schema, &object, kind, &mut used);
    }
    let unused: Vec<_> = known.difference(&used).filter(|field| !field.ends_with(".status")).collect();
    assert_eq!(unused, [""; 0], "fields that no example has");
}

#[test]
fn absent_and_empty_lists_stay_apart() {
    let policy = |entry: Value| {
        let object = json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "a"},
            "spec": {"endpointSelector": {}, "ingress": [entry]}
        });
        parse::<CiliumNetworkPolicy>(object).expect("it is a policy")
    };
    let peers = |policy: &CiliumNetworkPolicy| {
        policy.rules().next().and_then(|rule| rule.ingress.as_ref()).map(|entries| entries[0].from_endpoints.clone())
    };
    assert_eq!(peers(&policy(json!({}))), Some(None));
    assert_eq!(peers(&policy(json!({"fromEndpoints": []}))), Some(Some(Vec::new())));
}

#[test]
fn all_rules_of_a_policy_are_met() {
    let rule = json!({"endpointSelector": {}, "ingress": []});
    let object = json!({"metadata": {"name": "a"}, "spec": rule, "specs": [rule, rule]});
    assert_eq!(parse::<CiliumNetworkPolicy>(object.clone()).expect("a policy").rules().count(), 3);
    assert_eq!(parse::<CiliumClusterwideNetworkPolicy>(object).expect("a policy").rules().count(), 3);
}

#[test]
fn a_value_that_does_not_fit_is_named_with_its_path_and_the_choices() {
    let policy = |entry: Value| {
        let object = json!({"metadata": {"name": "a"}, "spec": {"endpointSelector": {}, "ingress": [{}, entry]}});
        parse::<CiliumNetworkPolicy>(object).expect_err("it is no policy").to_string()
    };
    assert_eq!(
        policy(json!({"toPorts": [{"ports": [{"port": "80", "protocol": "tcp"}]}]})),
        "spec.ingress[1].toPorts[0].ports[0].protocol: unknown variant `tcp`, expected one of `TCP`, `UDP`, `SCTP`, \
         `VRRP`, `IGMP`, `GRE`, `IPIP`, `IPV6`, `ESP`, `AH`, `ANY`"
    );
    assert_eq!(
        policy(json!({"toPorts": [{"ports": [{"port": 80}]}]})),
        "spec.ingress[1].toPorts[0].ports[0].port: invalid type: integer `80`, expected a string"
    );
}

#[test]
fn an_unknown_field_is_named_with_its_neighbour() {
    let object = json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "a", "anything": 1},
        "spec": {
            "endpointSelector": {"matchLabel": {"app": "a"}},
            "egress": [{"toFQDN": [{"matchName": "a.example"}]}, {"zzz": 1}],
        },
        "status": {"conditions": [{"type": "Valid", "status": "True", "colour": "green"}]}
    });
    let schema = schema_of("cilium.io/v2", "CiliumNetworkPolicy").expect("known");
    let unknown: Vec<String> = unknown_fields(schema, &object).iter().map(ToString::to_string).collect();
    assert_eq!(
        unknown,
        [
            "spec.egress[0].toFQDN: no such field; did you mean toFQDNs?",
            "spec.egress[1].zzz: no such field; fields here: authentication, icmps, toCIDR, toCIDRSet, toEndpoints, \
         toEntities, toFQDNs, toGroups, toNodes, toPorts, toRequires, toServices",
            "spec.endpointSelector.matchLabel: no such field; did you mean matchLabels?",
            "status.conditions[0].colour: no such field; fields here: lastTransitionTime, message, observedGeneration, \
         reason, status, type",
        ]
    );
    // Pruning, not refusal: the type reads what it knows.
    let read = parse::<CiliumNetworkPolicy>(object).expect("unknown fields are dropped");
    assert_eq!(read.rules().count(), 1);
}

#[test]
fn settings_have_the_same_defaults_in_the_type_and_in_the_schema() {
    let schema = schema_of("axoneme.io/v1alpha1", "AxonemeConfig").expect("known");
    let schema = serde_json::to_value(schema).expect("a schema is JSON");
    let mut filled = json!({});
    fill_defaults(&schema["properties"]["spec"], &mut filled);
    let default = parse::<AxonemeConfig>(json!({"metadata": {"name": "default"}, "spec": {}})).expect("all defaults");
    assert_eq!(filled, serde_json::to_value(&default.spec).expect("settings are JSON"));

    let mut partial = json!({"routing": {"mode": "Native"}, "ipam": {"clusterPool": {"ipv4": {"maskSize": 26}}}});
    let written = json!({"metadata": {"name": "default"}, "spec": partial.clone()});
    fill_defaults(&schema["properties"]["spec"], &mut partial);
    let read = parse::<AxonemeConfig>(written).expect("the rest is default");
    assert_eq!(partial, serde_json::to_value(&read.spec).expect("settings are JSON"));
    assert_eq!(read.spec.ipam.cluster_pool.ipv4.cidrs, ["10.244.0.0/16"]);
}

/// What an API server does: a missing field gets its default, and a present object is filled inside.
fn fill_defaults(schema: &Value, value: &mut Value) {
    let Value::Object(object) = value else { return };
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        if let (None, Some(default)) = (object.get(name), schema.get("default")) {
            object.insert(name.clone(), default.clone());
        }
        if let Some(value) = object.get_mut(name) {
            fill_defaults(schema, value);
        }
    }
}

#[test]
fn settings_of_the_examples_are_all_known() {
    for (name, object) in examples() {
        if object["kind"] == "AxonemeConfig" {
            assert_eq!(validate_unknown(&object), [], "{name}");
        }
    }
}
