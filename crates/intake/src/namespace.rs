//! Namespace (`v1`).

use std::sync::Arc;

use axoneme_model::{Kind, world::Namespace};
use serde_json::Value;

use crate::{
    error::ObjectErrors,
    meta::{annotations, labels},
    read,
};

/// Reads a Namespace: its name and itself. The label `kubernetes.io/metadata.name` is there even if the source leaves it
/// out, as the API server guarantees.
pub fn namespace(object: &Value) -> Result<(Arc<str>, Namespace), ObjectErrors> {
    read(object, Kind::Namespace, |root, meta| {
        let name = meta.object.name.clone();
        let mut labels = labels(root);
        labels.insert("kubernetes.io/metadata.name".into(), name.clone());
        ((name, Namespace { labels, annotations: annotations(root) }), None)
    })
}
