//! What is around the manifests: annotations, scorecard, image recipes, and the file-based catalog.

use anyhow::Result;
use serde_json::{Value, json};

use super::source::Source;
use super::{Files, HEADER, csv, yaml};

/// Registry path of the bundle's own image.
const BUNDLE_IMAGE: &str = "ghcr.io/axoneme/operator-bundle";
/// What runs the standard tests of `operator-sdk scorecard`.
const SCORECARD: &str = "quay.io/operator-framework/scorecard-test:v1.42.0";

/// Adds all of them.
pub(super) fn files(source: &Source, csv: &Value, files: &mut Files) -> Result<()> {
    let labels = labels(source);
    files.insert("metadata/annotations.yaml".to_owned(), yaml(&json!({"annotations": of_labels(&labels)}))?);
    files.insert("tests/scorecard/config.yaml".to_owned(), yaml(&scorecard())?);
    files.insert("bundle.Dockerfile".to_owned(), dockerfile(&labels));
    files.insert("catalog.Dockerfile".to_owned(), catalog_dockerfile(source));
    files.insert(format!("catalog/{}.yaml", source.words.package), catalog(source, csv)?);
    Ok(())
}

/// The names are constants of operator-registry's pkg/lib/bundle/generate.go and of operator-sdk's scorecard; the same in
/// annotations.yaml and on the image.
fn labels(source: &Source) -> Vec<(&'static str, String)> {
    let (package, channel) = (source.words.package.clone(), source.words.channel.clone());
    vec![
        ("operators.operatorframework.io.bundle.mediatype.v1", "registry+v1".to_owned()),
        ("operators.operatorframework.io.bundle.manifests.v1", "manifests/".to_owned()),
        ("operators.operatorframework.io.bundle.metadata.v1", "metadata/".to_owned()),
        ("operators.operatorframework.io.bundle.package.v1", package),
        ("operators.operatorframework.io.bundle.channels.v1", channel.clone()),
        ("operators.operatorframework.io.bundle.channel.default.v1", channel),
        ("operators.operatorframework.io.test.mediatype.v1", "scorecard+v1".to_owned()),
        ("operators.operatorframework.io.test.config.v1", "tests/scorecard/".to_owned()),
    ]
}

fn of_labels(labels: &[(&str, String)]) -> Value {
    Value::Object(labels.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect())
}

/// Built in `olm-bundle/`.
fn dockerfile(labels: &[(&str, String)]) -> String {
    let mut text = format!("{HEADER}# podman build -f bundle.Dockerfile .\nFROM scratch\n\n");
    for (name, value) in labels {
        text.extend(["LABEL ", name, "=", value, "\n"]);
    }
    text + "\nCOPY manifests /manifests/\nCOPY metadata /metadata/\nCOPY tests/scorecard /tests/scorecard/\n"
}

/// As `opm generate dockerfile` writes it.
fn catalog_dockerfile(source: &Source) -> String {
    let package = &source.words.package;
    format!(
        "{HEADER}# podman build -f catalog.Dockerfile .\nFROM quay.io/operator-framework/opm:latest\n\n\
         ENTRYPOINT [\"/bin/opm\"]\nCMD [\"serve\", \"/configs\", \"--cache-dir=/tmp/cache\"]\n\n\
         COPY catalog /configs/{package}\nRUN [\"/bin/opm\", \"serve\", \"/configs\", \"--cache-dir=/tmp/cache\", \
         \"--cache-only\"]\n\nLABEL operators.operatorframework.io.index.configs.v1=/configs\n"
    )
}

/// The standard tests (`Configuration` of operator-framework/api pkg/apis/scorecard/v1alpha3).
fn scorecard() -> Value {
    let test = |suite: &str, name: &str| {
        json!({
            "image": SCORECARD,
            "entrypoint": ["scorecard-test", name],
            "labels": {"suite": suite, "test": format!("{name}-test")},
            "storage": {"spec": {"mountPath": {}}},
        })
    };
    let olm = [
        "olm-bundle-validation",
        "olm-crds-have-validation",
        "olm-crds-have-resources",
        "olm-spec-descriptors",
        "olm-status-descriptors",
    ];
    let mut tests = vec![test("basic", "basic-check-spec")];
    tests.extend(olm.map(|name| test("olm", name)));
    json!({
        "apiVersion": "scorecard.operatorframework.io/v1alpha3",
        "kind": "Configuration",
        "metadata": {"name": "config"},
        "stages": [{"parallel": true, "tests": tests}],
    })
}

/// `olm.package`, `olm.channel`, `olm.bundle` of operator-registry's alpha/declcfg.
fn catalog(source: &Source, csv: &Value) -> Result<String> {
    let words = &source.words;
    let name = source.name(&source.version);
    let package = json!({
        "schema": "olm.package",
        "name": words.package,
        "defaultChannel": words.channel,
        "description": words.summary,
        "icon": csv::icon(source),
    });
    let channel =
        json!({"schema": "olm.channel", "package": words.package, "name": words.channel, "entries": entries(source)});
    let bundle = json!({
        "schema": "olm.bundle",
        "name": name,
        "package": words.package,
        "image": format!("{BUNDLE_IMAGE}:v{}", source.version),
        "properties": properties(source, csv),
        "relatedImages": csv::related_images(source),
    });
    let mut text = HEADER.to_owned();
    for blob in [package, channel, bundle] {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&blob)?);
    }
    Ok(text)
}

/// The chain of versions. Earlier ones are bundles of their own, in the catalogs that they were released with.
fn entries(source: &Source) -> Vec<Value> {
    let mut entry = json!({"name": source.name(&source.version), "skipRange": csv::skip_range(source)});
    if let (Some(last), Some(fields)) = (source.words.released.last(), entry.as_object_mut()) {
        fields.insert("replaces".to_owned(), source.name(last).into());
    }
    vec![entry]
}

fn properties(source: &Source, csv: &Value) -> Vec<Value> {
    let property = |kind: &str, value: Value| json!({"type": kind, "value": value});
    let mut all =
        vec![property("olm.package", json!({"packageName": source.words.package, "version": source.version}))];
    for (group, version, kind) in csv::owned_kinds(csv) {
        all.push(property("olm.gvk", json!({"group": group, "version": version, "kind": kind})));
    }
    let of = |path: &str| csv.pointer(path).cloned().unwrap_or_default();
    // what consoles show without pulling the bundle
    all.push(property(
        "olm.csv.metadata",
        json!({
            "annotations": of("/metadata/annotations"),
            "labels": of("/metadata/labels"),
            "crdDescriptions": of("/spec/customresourcedefinitions"),
            "description": of("/spec/description"),
            "displayName": of("/spec/displayName"),
            "installModes": of("/spec/installModes"),
            "keywords": of("/spec/keywords"),
            "links": of("/spec/links"),
            "maintainers": of("/spec/maintainers"),
            "maturity": of("/spec/maturity"),
            "minKubeVersion": of("/spec/minKubeVersion"),
            "provider": of("/spec/provider"),
        }),
    ));
    all
}
