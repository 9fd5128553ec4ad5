//! What an API server asks of a schema, and what upstream's clients ask of it.

#![expect(clippy::panic, reason = "helpers of tests fail the test")]

use std::collections::{BTreeMap, BTreeSet};

use axoneme_crds::{all_crds, generated};
use serde_json::{Map, Value};

/// The schema of the version that is stored, for each kind.
fn stored_schemas() -> BTreeMap<String, Value> {
    all_crds()
        .into_iter()
        .map(|crd| {
            let version = crd.spec.versions.iter().find(|version| version.storage).expect("one version is stored");
            let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.clone());
            (crd.spec.names.kind, serde_json::to_value(schema.expect("every version has a schema")).expect("JSON"))
        })
        .collect()
}

/// Calls `visit` for a schema and all below it, with the path of each: `[]` a list, `{}` a map.
fn each_schema(schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Map<String, Value>)) {
    let object = schema.as_object().unwrap_or_else(|| panic!("{path}: a schema is an object, not {schema}"));
    visit(path, object);
    for (name, schema) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        each_schema(schema, &path, visit);
    }
    if let Some(items) = object.get("items") {
        each_schema(items, &format!("{path}[]"), visit);
    }
    if let Some(values) = object.get("additionalProperties") {
        each_schema(values, &format!("{path}{{}}"), visit);
    }
}

/// The rules of "Specifying a structural schema" in the Kubernetes documentation.
fn structural_violations(path: &str, schema: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    let int_or_string = schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    if !int_or_string && !schema.get("type").is_some_and(Value::is_string) {
        found.push(format!("{path}: no type"));
    }
    for key in ["$ref", "definitions", "dependencies", "patternProperties", "deprecated", "id", "title", "nullable"] {
        if schema.contains_key(key) {
            found.push(format!("{path}: has {key}"));
        }
    }
    if schema.contains_key("properties") && schema.contains_key("additionalProperties") {
        found.push(format!("{path}: both properties and additionalProperties"));
    }
    for junctor in ["allOf", "anyOf", "oneOf"] {
        for branch in schema.get(junctor).and_then(Value::as_array).into_iter().flatten() {
            for key in ["type", "description", "default", "additionalProperties", "nullable", "properties", "enum"] {
                if branch.get(key).is_some() {
                    found.push(format!("{path}: {junctor} has a branch with {key}"));
                }
            }
        }
    }
    let is_array = schema.get("type").is_some_and(|kind| kind == "array");
    if is_array != schema.contains_key("items") {
        found.push(format!("{path}: type array and items go together"));
    }
    found
}

#[test]
fn schemas_are_structural() {
    let mut violations = Vec::new();
    for (kind, schema) in stored_schemas() {
        each_schema(&schema, "", &mut |path, schema| {
            violations.extend(structural_violations(&format!("{kind} {path}"), schema));
        });
    }
    assert_eq!(violations, [""; 0]);
}

#[test]
fn the_structural_check_sees_what_is_wrong() {
    let check = |schema: Value| structural_violations("x", schema.as_object().expect("an object"));
    assert_eq!(check(serde_json::json!({"type": "string"})), [""; 0]);
    assert_eq!(check(serde_json::json!({"x-kubernetes-int-or-string": true})), [""; 0]);
    assert_eq!(check(serde_json::json!({})), ["x: no type"]);
    assert_eq!(check(serde_json::json!({"type": "object", "$ref": "#/a"})), ["x: has $ref"]);
    assert_eq!(check(serde_json::json!({"type": "object", "nullable": true})), ["x: has nullable"]);
    assert_eq!(check(serde_json::json!({"type": "array"})), ["x: type array and items go together"]);
    assert_eq!(
        check(serde_json::json!({"type": "object", "oneOf": [{"type": "object", "required": ["a"]}]})),
        ["x: oneOf has a branch with type"]
    );
}

#[test]
fn an_api_server_knows_every_format() {
    let known = ["int32", "int64", "cidr", "date-time"];
    for (kind, schema) in stored_schemas() {
        each_schema(&schema, "", &mut |path, schema| {
            if let Some(format) = schema.get("format") {
                assert!(known.iter().any(|known| format == known), "{kind} {path}: format {format}");
            }
        });
    }
}

#[test]
fn every_field_is_documented_in_whole_lines() {
    for (kind, schema) in stored_schemas() {
        each_schema(&schema, "", &mut |path, schema| {
            let is_field = !path.ends_with("[]") && !path.ends_with("{}") && !path.is_empty();
            let description = schema.get("description").and_then(Value::as_str).unwrap_or_default();
            assert!(!is_field || description.len() > 2, "{kind} {path}: no description");
            let lines = description.split("\n\n").all(|paragraph| !paragraph.contains('\n'));
            assert!(lines, "{kind} {path}: the description has the source's line breaks");
        });
    }
}

#[test]
fn a_field_keeps_its_own_description() {
    let schemas = stored_schemas();
    let port = "/properties/spec/properties/ingress/items/properties/toPorts/items/properties/ports/items/properties";
    let protocol = schemas["CiliumNetworkPolicy"].pointer(&format!("{port}/protocol")).expect("the field is there");
    assert_eq!(protocol["description"], "The protocol. Without it, or with ANY: TCP, UDP and SCTP.");
    assert_eq!(protocol["enum"].as_array().map(Vec::len), Some(11));
}

/// What a schema is, in the words of `upstream_fields.txt`; `None` for the inside of a label selector, and for lists
/// and maps, which their elements stand for.
fn upstream_type(schema: &Map<String, Value>) -> Option<&str> {
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return Some("int-or-string");
    }
    let is_selector = schema
        .get("properties")
        .and_then(Value::as_object)
        .is_some_and(|fields| fields.keys().eq(["matchExpressions", "matchLabels"]));
    match schema.get("type").and_then(Value::as_str) {
        Some("object") if is_selector => Some("selector"),
        Some("array") => None,
        Some("object") if schema.contains_key("additionalProperties") => None,
        other => other,
    }
}

/// Fields that upstream does not have, by the end of their path, and why we do.
const OWN_FIELDS: [&str; 9] = [
    // In what a node differs from the cluster.
    "status.overrides[]",
    "status.overrides[].cluster",
    "status.overrides[].from",
    "status.overrides[].setting",
    "status.overrides[].value",
    // Every condition says which generation it is about.
    ".conditions[].observedGeneration",
    // Of Cilium before 1.20; known so that they can be refused by name.
    ".rules.kafka[]",
    ".rules.l7proto",
    ".rules.l7[]{}",
];

#[test]
fn fields_and_types_are_those_of_upstream() {
    let upstream: BTreeSet<String> =
        include_str!("upstream_fields.txt").lines().filter(|line| !line.starts_with('#')).map(Into::into).collect();
    assert!(upstream.len() > 1000, "the list of upstream's fields is whole");

    let mut ours = BTreeSet::new();
    for (kind, schema) in stored_schemas() {
        if kind == "AxonemeConfig" {
            continue;
        }
        each_schema(&schema, "", &mut |path, schema| {
            let inside_selector = path.contains(".matchExpressions") || path.contains(".matchLabels");
            let is_list_of_rules = path == "specs[]";
            if let (false, false, Some(kind_of)) =
                (inside_selector || path.is_empty(), is_list_of_rules, upstream_type(schema))
            {
                ours.insert(format!("{kind} {path} {kind_of}"));
            }
        });
    }
    let is_own = |line: &str| {
        let path = line.split(' ').nth(1).unwrap_or_default();
        // upstream says nothing of what became of these
        let own_status = ["CiliumPodIPPool status", "CiliumNodeConfig status"].iter().any(|o| line.starts_with(o));
        OWN_FIELDS.iter().any(|own| path.ends_with(own)) || path.contains(".rules.kafka[].") || own_status
    };
    let roots = [" spec object", " status object"];
    let missing: Vec<_> =
        upstream.difference(&ours).filter(|line| !roots.iter().any(|root| line.ends_with(root))).collect();
    let extra: Vec<_> = ours
        .difference(&upstream)
        .filter(|line| !is_own(line) && !roots.iter().any(|root| line.ends_with(root)))
        .collect();
    assert_eq!(
        (missing, extra),
        (Vec::new(), Vec::new()),
        "(upstream's fields that we lack, ours that upstream lacks)"
    );
}

#[test]
fn names_columns_and_versions_are_those_of_upstream() {
    let summary: Vec<String> = all_crds()
        .iter()
        .map(|crd| {
            let names = &crd.spec.names;
            let list = |names: &Option<Vec<String>>| names.iter().flatten().cloned().collect::<Vec<_>>().join(",");
            let versions: Vec<String> = crd
                .spec
                .versions
                .iter()
                .map(|version| {
                    let columns: Vec<_> =
                        version.additional_printer_columns.iter().flatten().map(|column| &*column.name).collect();
                    let status = version.subresources.as_ref().is_some_and(|resources| resources.status.is_some());
                    format!(
                        "{}{}{}({})",
                        version.name,
                        if version.storage { "*" } else { "" },
                        if status { "+status" } else { "" },
                        columns.join(",")
                    )
                })
                .collect();
            format!(
                "{} {} {} short={} categories={} {}",
                crd.metadata.name.as_deref().unwrap_or_default(),
                names.kind,
                crd.spec.scope,
                list(&names.short_names),
                list(&names.categories),
                versions.join(" ")
            )
        })
        .collect();
    assert_eq!(
        summary,
        [
            "axonemeconfigs.axoneme.io AxonemeConfig Cluster short=axc categories=axoneme \
         v1alpha1*+status(Routing,IPAM,Valid,Applied,Nodes,Age)",
            "ciliumcidrgroups.cilium.io CiliumCIDRGroup Cluster short=ccg categories=cilium v2*() v2alpha1()",
            "ciliumclusterwidenetworkpolicies.cilium.io CiliumClusterwideNetworkPolicy Cluster short=ccnp \
         categories=cilium,ciliumpolicy v2*+status(Valid,Enforced,Age)",
            "ciliumidentities.cilium.io CiliumIdentity Cluster short=ciliumid categories=cilium v2*+status(Namespace,Age)",
            "ciliumnetworkpolicies.cilium.io CiliumNetworkPolicy Namespaced short=cnp,ciliumnp \
         categories=cilium,ciliumpolicy v2*+status(Age,Valid,Enforced)",
            "ciliumnodes.cilium.io CiliumNode Cluster short=cn,ciliumn categories=cilium \
         v2*+status(CiliumInternalIP,InternalIP,Age)",
            "ciliumnodeconfigs.cilium.io CiliumNodeConfig Namespaced short= categories=cilium \
         v2*+status(Valid,Applied,Nodes,Settings,Age)",
            "ciliumpodippools.cilium.io CiliumPodIPPool Cluster short=cpip categories=cilium \
         v2alpha1*+status(IPv4,IPv6,Valid,Available,Age)",
            "clusternetworkpolicies.policy.networking.k8s.io ClusterNetworkPolicy Cluster short=clusternp categories= \
         v1alpha2*+status(Tier,Priority,Age)",
        ]
    );
}

#[test]
fn generated_files_are_those_of_the_types() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
    let drifts: Vec<String> =
        generated::check(&folder).expect("the folder is readable").iter().map(ToString::to_string).collect();
    assert_eq!(drifts, [""; 0], "run: cargo run -p axoneme-crds --bin crdgen");
}

#[test]
fn the_kustomization_names_every_generated_file() {
    let kustomization: Value = serde_saphyr::from_str(include_str!("../kustomization.yaml")).expect("it is YAML");
    let files: Vec<String> =
        generated::files().expect("every definition is YAML").keys().map(|file| format!("generated/{file}")).collect();
    assert_eq!(kustomization["resources"], Value::from(files));
}

#[test]
fn generated_yaml_reads_back_as_the_definition() {
    for crd in all_crds() {
        let yaml = generated::render(&crd).expect("every definition is YAML");
        let read: Value = serde_saphyr::from_str(&yaml).expect("what was written can be read");
        let back: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition =
            serde_json::from_value(read).expect("it is a definition");
        assert_eq!(back, crd);
    }
}

#[test]
fn drift_is_found_and_mended() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = all_crds().len();
    assert_eq!(generated::check(folder.path()).expect("readable").len(), files, "an empty folder lacks all files");
    assert_eq!(generated::write(folder.path()).expect("writable").len(), files);
    assert_eq!(generated::check(folder.path()).expect("readable"), []);
    assert_eq!(generated::write(folder.path()).expect("writable"), [""; 0].map(std::path::PathBuf::from));

    let stale = folder.path().join("cilium.io_gone.yaml");
    let edited = folder.path().join("cilium.io_ciliumnodes.yaml");
    std::fs::write(&stale, "").expect("writable");
    let text = std::fs::read_to_string(&edited).expect("readable");
    std::fs::write(&edited, text.replacen("kind: CustomResourceDefinition", "kind: Other", 1)).expect("writable");
    let drifts = generated::check(folder.path()).expect("readable");
    assert_eq!(drifts, [generated::Drift::Differs(edited, 3), generated::Drift::Stale(stale.clone())]);
    assert_eq!(generated::write(folder.path()).expect("writable").len(), 2);
    assert!(!stale.exists());
    assert_eq!(generated::check(folder.path()).expect("readable"), []);
}
