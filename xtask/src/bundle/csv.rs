//! The ClusterServiceVersion: fields of operator-framework/api pkg/operators/v1alpha1, annotations of
//! <https://operator-framework.github.io/community-operators/packaging-required-fields/>.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::source::Source;
use super::{descriptors, list, text};

/// The version that is made.
pub(super) fn of(source: &Source) -> Result<Value> {
    let words = &source.words;
    let owned = descriptors::owned(source)?;
    let mut csv = json!({
        "apiVersion": "operators.coreos.com/v1alpha1",
        "kind": "ClusterServiceVersion",
        "metadata": {
            "name": source.name(&source.version),
            "namespace": "placeholder",
            "annotations": annotations(source)?,
            // what the images are built for
            "labels": {"operatorframework.io/arch.amd64": "supported", "operatorframework.io/os.linux": "supported"},
        },
        "spec": {
            "displayName": words.display_name,
            "description": words.description,
            "version": source.version,
            "maturity": words.maturity,
            "minKubeVersion": words.min_kube_version,
            "keywords": words.keywords,
            "maintainers": words.maintainers,
            "provider": words.provider,
            "links": words.links,
            "icon": [icon(source)],
            "customresourcedefinitions": {"owned": owned},
            "install": install(source),
            "installModes": install_modes(),
            "relatedImages": related_images(source),
        },
    });
    if let (Some(last), Some(spec)) = (words.released.last(), csv.get_mut("spec").and_then(Value::as_object_mut)) {
        spec.insert("replaces".to_owned(), source.name(last).into());
    }
    Ok(csv)
}

/// Versions before the one that is made need not be passed through one by one: an operator reads what any earlier one of
/// the same major version has stored.
pub(super) fn skip_range(source: &Source) -> String {
    format!("<{}", source.version)
}

fn annotations(source: &Source) -> Result<Value> {
    let words = &source.words;
    let mut namespace = source.namespace.clone();
    let name = text(&namespace, "/metadata/name").to_owned();
    namespace.sort_all_objects();
    let operator = source.images.get("operator").context("deploy/base has no image of the operator")?;
    Ok(json!({
        "alm-examples": serde_json::to_string_pretty(&source.examples)?,
        "capabilities": words.capabilities,
        "categories": words.categories.join(","),
        "containerImage": operator,
        "createdAt": words.created_at,
        "description": words.summary,
        "repository": words.repository,
        "support": text(&words.provider, "/name"),
        "olm.skipRange": skip_range(source),
        "operatorframework.io/suggested-namespace": name,
        // with the labels of deploy/: the agent programs the kernel
        "operatorframework.io/suggested-namespace-template": serde_json::to_string(&namespace)?,
        "operators.operatorframework.io/internal-objects": serde_json::to_string(&words.internal)?,
    }))
}

/// The icon, as both the version and the catalog have it.
pub(super) fn icon(source: &Source) -> Value {
    json!({"base64data": STANDARD.encode(&source.icon), "mediatype": "image/svg+xml"})
}

fn install(source: &Source) -> Value {
    let deployment = |object: &Value| {
        let mut one = Map::new();
        one.insert("name".to_owned(), text(object, "/metadata/name").into());
        one.insert("label".to_owned(), object.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({})));
        one.insert("spec".to_owned(), object.get("spec").cloned().unwrap_or_default());
        Value::Object(one)
    };
    let rights = |of: &std::collections::BTreeMap<String, Vec<Value>>| -> Vec<Value> {
        of.iter().map(|(account, rules)| json!({"serviceAccountName": account, "rules": rules})).collect()
    };
    json!({"strategy": "deployment", "spec": {
        "deployments": source.deployments.iter().map(deployment).collect::<Vec<_>>(),
        "clusterPermissions": rights(&source.cluster_rights),
        "permissions": rights(&source.rights),
    }})
}

/// It watches the whole cluster, and there is one of it.
fn install_modes() -> Value {
    let mode = |kind: &str| json!({"type": kind, "supported": kind == "AllNamespaces"});
    Value::Array(["OwnNamespace", "SingleNamespace", "MultiNamespace", "AllNamespaces"].map(mode).to_vec())
}

/// All images, for clusters that mirror them.
pub(super) fn related_images(source: &Source) -> Vec<Value> {
    source.images.iter().map(|(name, image)| json!({"name": name, "image": image})).collect()
}

/// Group, version and kind of each owned definition, from the version's own list.
pub(super) fn owned_kinds(csv: &Value) -> Vec<(String, String, String)> {
    let of = |owned: &Value| {
        let group = text(owned, "/name").split_once('.').map_or("", |(_, group)| group);
        (group.to_owned(), text(owned, "/version").to_owned(), text(owned, "/kind").to_owned())
    };
    list(csv, "/spec/customresourcedefinitions/owned").iter().map(of).collect()
}
