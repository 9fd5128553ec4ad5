//! What is in a bundle, and that its parts agree.

use std::collections::BTreeSet;
use std::io::Write as _;

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use super::{Bundle, Rule};
use crate::bundle::csv::owned_kinds;
use crate::bundle::{list, schema, text};

pub(super) const RULES: &[Rule] = &[
    ("one version", "operator-registry docs/design/operator-bundle.md", one_version),
    ("kinds that OLM takes", "operator-registry pkg/lib/bundle/supported_resources.go", kinds),
    ("annotations", "operator-registry pkg/lib/bundle/validate.go validateAnnotations", annotations),
    ("labels of the image", "operator-registry docs/design/operator-bundle.md", labels),
    ("channel names", "api good_practices.go validateHubChannels", channels),
    ("owned definitions", "api bundle.go validateOwnedCRDs", owned),
    ("service accounts", "api bundle.go validateServiceAccounts", accounts),
    ("size", "api bundle.go max_bundle_size: one ConfigMap holds it, packed", size),
    ("versions of APIs", "api removed_apis.go, kubernetes.io deprecation guide", removed),
    ("examples", "api csv.go validateExamplesAnnotations, matchGVKProvidedAPIs", examples),
    ("examples by their schemas", "operatorhub.io: examples are offered as forms to create", examples_are_valid),
    ("descriptors", "operator-sdk scorecard olm-spec-descriptors, olm-status-descriptors", descriptors),
    ("scorecard", "api pkg/apis/scorecard/v1alpha3 Configuration", scorecard),
];

/// `supportedResources`, without those of OpenShift's console and of monitoring, which nobody here makes.
const KINDS: &[&str] = &[
    "ClusterServiceVersion",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleBinding",
    "Service",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "Secret",
    "ConfigMap",
    "PodDisruptionBudget",
    "PriorityClass",
    "NetworkPolicy",
];

/// Bytes that one ConfigMap can have.
const LARGEST: usize = 1 << 20;

const BUNDLE: &str = "operators.operatorframework.io.bundle";

pub(super) fn packed(text: &str) -> Result<usize> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes())?;
    Ok(encoder.finish()?.len())
}

fn one_version(bundle: &Bundle) -> Vec<String> {
    let count = bundle.of_kind("ClusterServiceVersion").count();
    if count == 1 { Vec::new() } else { vec![format!("{count} ClusterServiceVersions, not one")] }
}

fn kinds(bundle: &Bundle) -> Vec<String> {
    let other = bundle.manifests.iter().filter(|(_, object)| !KINDS.contains(&text(object, "/kind")));
    other.map(|(file, object)| format!("{file}: {}", text(object, "/kind"))).collect()
}

fn annotation<'a>(bundle: &'a Bundle, name: &str) -> &'a str {
    bundle.annotations.get("annotations").and_then(|a| a.get(name)).and_then(Value::as_str).unwrap_or_default()
}

fn annotations(bundle: &Bundle) -> Vec<String> {
    let wanted = [("mediatype.v1", "registry+v1"), ("manifests.v1", "manifests/"), ("metadata.v1", "metadata/")];
    let mut wrong: Vec<String> = wanted
        .iter()
        .map(|(name, value)| (format!("{BUNDLE}.{name}"), value))
        .filter(|(name, value)| annotation(bundle, name) != **value)
        .map(|(name, value)| format!("{name} is not {value}"))
        .collect();
    let any = ["package.v1", "channels.v1", "channel.default.v1"].map(|name| format!("{BUNDLE}.{name}"));
    wrong.extend(any.iter().filter(|name| annotation(bundle, name).is_empty()).map(|name| format!("{name} is empty")));
    wrong
}

fn labels(bundle: &Bundle) -> Vec<String> {
    let all = bundle.annotations.get("annotations").and_then(Value::as_object);
    let lines: BTreeSet<&str> = bundle.dockerfile.lines().collect();
    let missing =
        all.into_iter().flatten().map(|(name, value)| format!("LABEL {name}={}", value.as_str().unwrap_or_default()));
    missing
        .filter(|line| !lines.contains(line.as_str()))
        .map(|line| format!("bundle.Dockerfile lacks {line}"))
        .collect()
}

fn channels(bundle: &Bundle) -> Vec<String> {
    let all = annotation(bundle, &format!("{BUNDLE}.channels.v1"));
    let default = annotation(bundle, &format!("{BUNDLE}.channel.default.v1"));
    let known = |name: &str| ["candidate", "fast", "stable"].iter().any(|k| name.starts_with(k));
    let mut wrong: Vec<String> = all
        .split(',')
        .filter(|name| !known(name.trim()))
        .map(|name| format!("{name:?} is none of candidate, fast, stable"))
        .collect();
    if !all.split(',').any(|name| name.trim() == default) {
        wrong.push(format!("the default channel {default:?} is none of {all:?}"));
    }
    wrong
}

type Gvk = (String, String, String);

/// Group, version and kind of all versions of all definitions.
fn defined(bundle: &Bundle) -> Vec<Gvk> {
    let of = |object: &Value| {
        let (group, kind) = (text(object, "/spec/group").to_owned(), text(object, "/spec/names/kind").to_owned());
        let versions = list(object, "/spec/versions").iter().map(|v| text(v, "/name").to_owned());
        versions.map(|version| (group.clone(), version, kind.clone())).collect::<Vec<_>>()
    };
    bundle.of_kind("CustomResourceDefinition").flat_map(of).collect()
}

fn owned(bundle: &Bundle) -> Vec<String> {
    let (owned, defined) = (owned_kinds(&bundle.csv), defined(bundle));
    let mut wrong = Vec::new();
    for (i, gvk) in defined.iter().enumerate() {
        if defined.iter().take(i).any(|other| other == gvk) {
            wrong.push(format!("{gvk:?} is defined twice"));
        }
        // one version of a kind is enough
        if !owned.iter().any(|o| o.0 == gvk.0 && o.2 == gvk.2) {
            wrong.push(format!("{gvk:?} is in the bundle and not owned"));
        }
    }
    wrong.extend(
        owned.iter().filter(|gvk| !defined.contains(gvk)).map(|gvk| format!("{gvk:?} is owned and not in the bundle")),
    );
    wrong
}

fn accounts(bundle: &Bundle) -> Vec<String> {
    let used: BTreeSet<&str> = list(&bundle.csv, "/spec/install/spec/deployments")
        .iter()
        .map(|d| text(d, "/spec/template/spec/serviceAccountName"))
        .collect();
    let made = bundle.of_kind("ServiceAccount").map(|o| text(o, "/metadata/name"));
    let mut wrong: Vec<String> = made
        .filter(|name| used.contains(name))
        .map(|name| format!("{name} is OLM's to make, and in the bundle"))
        .collect();
    // OLM makes the accounts that permissions name, and no others
    let given: BTreeSet<&str> = ["permissions", "clusterPermissions"]
        .iter()
        .flat_map(|of| list(&bundle.csv, &format!("/spec/install/spec/{of}")))
        .map(|p| text(p, "/serviceAccountName"))
        .collect();
    wrong.extend(used.difference(&given).map(|name| format!("{name} is made by nobody")));
    wrong
}

fn size(bundle: &Bundle) -> Vec<String> {
    // upstream warns from 85 %
    let most = LARGEST * 85 / 100;
    if bundle.packed <= most { Vec::new() } else { vec![format!("{} bytes, more than {most}", bundle.packed)] }
}

fn removed(bundle: &Bundle) -> Vec<String> {
    let is_own = |version: &str| version.starts_with("operators.coreos.com/");
    let old = |version: &str| !is_own(version) && (version.contains("beta") || version.contains("alpha"));
    let of = bundle.manifests.iter().filter(|(_, object)| old(text(object, "/apiVersion")));
    of.map(|(file, object)| format!("{file}: {}", text(object, "/apiVersion"))).collect()
}

/// The examples, or why they cannot be read.
fn read_examples(bundle: &Bundle) -> Result<Vec<Value>, String> {
    let given = bundle.csv.pointer("/metadata/annotations/alm-examples").and_then(Value::as_str).unwrap_or_default();
    serde_json::from_str(given).map_err(|e| format!("alm-examples is no list in JSON: {e}"))
}

fn gvk_of(object: &Value) -> Gvk {
    let (group, version) = text(object, "/apiVersion").rsplit_once('/').unwrap_or(("", text(object, "/apiVersion")));
    (group.to_owned(), version.to_owned(), text(object, "/kind").to_owned())
}

fn examples(bundle: &Bundle) -> Vec<String> {
    let examples = match read_examples(bundle) {
        Ok(examples) => examples,
        Err(error) => return vec![error],
    };
    let (given, owned) = (examples.iter().map(gvk_of).collect::<Vec<_>>(), owned_kinds(&bundle.csv));
    let mut wrong: Vec<String> = given
        .iter()
        .filter(|gvk| !owned.contains(gvk))
        .map(|gvk| format!("an example of {gvk:?}, which is not owned"))
        .collect();
    wrong.extend(owned.iter().filter(|gvk| !given.contains(gvk)).map(|gvk| format!("no example of {gvk:?}")));
    wrong
}

/// The schema of one version.
fn schema_of<'a>(bundle: &'a Bundle, gvk: &Gvk) -> Option<&'a Value> {
    let (group, version, kind) = gvk;
    let mut of_kind = bundle.of_kind("CustomResourceDefinition");
    let definition = of_kind.find(|o| text(o, "/spec/group") == group && text(o, "/spec/names/kind") == kind)?;
    let versions = list(definition, "/spec/versions");
    versions.iter().find(|v| text(v, "/name") == version)?.pointer("/schema/openAPIV3Schema")
}

fn examples_are_valid(bundle: &Bundle) -> Vec<String> {
    let mut wrong = Vec::new();
    for example in read_examples(bundle).unwrap_or_default() {
        let gvk = gvk_of(&example);
        let name = format!("{} {}", gvk.2, text(&example, "/metadata/name"));
        match schema_of(bundle, &gvk) {
            Some(schema) => {
                wrong.extend(schema::problems(schema, &example).into_iter().map(|p| format!("{name}: {p}")));
            }
            None => wrong.push(format!("{name}: no schema")),
        }
        if text(&example, "/metadata/name").is_empty() {
            wrong.push(format!("{name}: no name"));
        }
    }
    wrong
}

fn descriptors(bundle: &Bundle) -> Vec<String> {
    let mut wrong = Vec::new();
    for owned in list(&bundle.csv, "/spec/customresourcedefinitions/owned") {
        let kind = text(owned, "/kind");
        let group = text(owned, "/name").split_once('.').map_or("", |(_, group)| group);
        let gvk = (group.to_owned(), text(owned, "/version").to_owned(), kind.to_owned());
        let schema = schema_of(bundle, &gvk);
        for (part, field) in [("specDescriptors", "spec"), ("statusDescriptors", "status")] {
            for descriptor in list(owned, &format!("/{part}")) {
                let path = text(descriptor, "/path");
                let pointer = format!("/properties/{field}/properties/{}", path.replace('.', "/properties/"));
                if schema.is_none_or(|s| s.pointer(&pointer).is_none()) {
                    wrong.push(format!("{kind}: {part} {path:?} is no field"));
                }
            }
        }
        if text(owned, "/description").is_empty() || text(owned, "/displayName").is_empty() {
            wrong.push(format!("{kind}: no description or display name"));
        }
    }
    wrong
}

fn scorecard(bundle: &Bundle) -> Vec<String> {
    let config = &bundle.scorecard;
    let mut wrong = Vec::new();
    if text(config, "/apiVersion") != "scorecard.operatorframework.io/v1alpha3"
        || text(config, "/kind") != "Configuration"
    {
        wrong.push("no Configuration".to_owned());
    }
    let tests: Vec<&Value> = list(config, "/stages").iter().flat_map(|stage| list(stage, "/tests")).collect();
    if tests.is_empty() {
        wrong.push("no tests".to_owned());
    }
    let incomplete =
        tests.iter().filter(|test| text(test, "/image").is_empty() || list(test, "/entrypoint").is_empty());
    wrong.extend(incomplete.map(|test| format!("a test without image or entry point: {test}")));
    wrong
}
