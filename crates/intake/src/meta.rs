//! `metadata`: what all kinds share.

use std::{collections::BTreeMap, sync::Arc};

use axoneme_model::{Kind, ObjectRef, bandwidth, world::PlainLabels};

use crate::field::Field;

/// The parts of `metadata` that matter here.
#[derive(Debug)]
pub(crate) struct Meta {
    pub(crate) object: ObjectRef,
    pub(crate) generation: i64,
}

/// Whether the kind's objects live in a namespace.
const fn namespaced(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Pod
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::NetworkPolicy
            | Kind::CiliumNetworkPolicy
            | Kind::CiliumNodeConfig
    )
}

impl Meta {
    /// Name, namespace and generation. A namespaced object without a namespace is in `default`, as for kubectl.
    pub(crate) fn read(root: &Field<'_>, kind: Kind) -> Self {
        let mut meta = Self { object: ObjectRef::new(kind, "", ""), generation: 0 };
        if !root.object() {
            return meta;
        }
        if namespaced(kind) {
            meta.object.namespace = "default".into();
        }
        let Some(metadata) = root.require("metadata") else { return meta };
        if !metadata.object() {
            return meta;
        }
        if let Some(name) = metadata.require("name").and_then(|n| n.str().filter(|s| name_is_good(&n, s))) {
            meta.object.name = name.into();
        }
        if let Some(namespace) = metadata.get("namespace")
            && namespaced(kind)
            && let Some(text) = namespace.str()
            && !text.is_empty()
            && name_is_good(&namespace, text)
        {
            meta.object.namespace = text.into();
        }
        meta.generation = metadata.get("generation").and_then(|g| g.int(0..=i64::MAX)).unwrap_or(0);
        meta
    }
}

/// Names of objects are DNS subdomains (RFC 1123), or at least path segments; either way they are not empty and have no
/// slash.
fn name_is_good(field: &Field<'_>, name: &str) -> bool {
    let good = !name.is_empty() && name.len() <= 253 && !name.contains(['/', '%']) && name != "." && name != "..";
    if !good {
        field.invalid("must be a name of 1 to 253 characters without a slash");
    }
    good
}

/// `metadata.labels`.
pub(crate) fn labels(root: &Field<'_>) -> PlainLabels {
    let mut out = BTreeMap::new();
    if let Some(metadata) = root.get("metadata")
        && let Some(labels) = metadata.get("labels")
    {
        for (key, value) in labels.entries() {
            if let Some(text) = value.str() {
                out.insert(key.into(), text.into());
            }
        }
    }
    out.into()
}

/// The annotations that the product reads. Others are not kept: `last-applied-configuration` alone can outweigh the rest
/// of the object.
pub(crate) fn annotations(root: &Field<'_>) -> PlainLabels {
    let mut out = BTreeMap::new();
    if let Some(metadata) = root.get("metadata")
        && let Some(annotations) = metadata.get("annotations")
    {
        for (key, value) in annotations.entries().filter(|(key, _)| is_read(key)) {
            if let Some(text) = value.str() {
                out.insert(key.into(), text.into());
            }
        }
    }
    out.into()
}

fn is_read(annotation: &str) -> bool {
    if bandwidth::is_read(annotation) {
        return true;
    }
    let domain = annotation.split('/').next().unwrap_or_default();
    ["cilium.io", "axoneme.io"].iter().any(|d| domain == *d || domain.ends_with(&format!(".{d}")))
        || annotation.starts_with("io.cilium")
}

/// `metadata.uid`, empty where there is none.
pub(crate) fn uid(root: &Field<'_>) -> Arc<str> {
    root.get("metadata").and_then(|m| m.get("uid").and_then(|u| u.str().map(Arc::from))).unwrap_or_default()
}
