//! CiliumIdentity (`cilium.io/v2`).

use axoneme_model::{Identity, Kind, LabelKey, Labels, Source};
use serde_json::Value;

use crate::{error::ObjectErrors, read};

/// Reads a CiliumIdentity: the number that is its name, and the labels that it stands for.
pub fn cilium_identity(object: &Value) -> Result<(Identity, Labels), ObjectErrors> {
    read(object, Kind::CiliumIdentity, |root, meta| {
        root.only(&["apiVersion", "kind", "metadata", "security-labels", "status"]);
        let number = meta.object.name.parse::<u32>().ok().map(Identity);
        let identity = number.filter(|i| (Identity::FIRST..=Identity::LAST).contains(i));
        if identity.is_none()
            && !meta.object.name.is_empty()
            && let Some(metadata) = root.get("metadata")
            && let Some(name) = metadata.get("name")
        {
            name.invalid(format!("must be a number from {} to {}", Identity::FIRST.0, Identity::LAST.0));
        }
        let mut labels = Labels::new();
        if let Some(list) = root.require("security-labels") {
            for (key, value) in list.entries() {
                if let Some(text) = value.str() {
                    labels.insert(label_key(key), text);
                }
            }
        }
        ((identity.unwrap_or(Identity::UNKNOWN), labels), None)
    })
}

/// `source:name`. Without a source it is Kubernetes', the only one that pods have labels of.
fn label_key(text: &str) -> LabelKey {
    match text.split_once(':') {
        Some(("k8s", name)) => LabelKey::k8s(name),
        Some(("reserved", name)) => LabelKey::reserved(name),
        Some((source, name)) => LabelKey { source: Source::Other(source.into()), name: name.into() },
        None => LabelKey::k8s(text),
    }
}
