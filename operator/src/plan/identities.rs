//! CiliumIdentity objects.

use axoneme_model::{Identity, Kind, Labels, ObjectRef, labels::names};
use serde_json::{Map, Value, json};

use crate::write::{Operation, Part, Write};

/// Creates an identity. The name is the number: the API server refuses a second meaning.
#[must_use]
pub fn create(id: Identity, labels: &Labels) -> Write {
    Write::new(object(id), Part::Object, Operation::Create(body(id, labels)))
}

/// Deletes an identity.
#[must_use]
pub fn delete(id: Identity) -> Write {
    Write::new(object(id), Part::Object, Operation::Delete { uid: None, resource_version: None })
}

fn object(id: Identity) -> ObjectRef {
    ObjectRef::new(Kind::CiliumIdentity, "", &id.0.to_string())
}

/// As upstream writes it: labels under `security-labels` with their source, and those that fit as labels of the object.
fn body(id: Identity, labels: &Labels) -> Value {
    let security: Map<String, Value> = labels.iter().map(|(k, v)| (k.to_string(), v.into())).collect();
    let namespace = labels.namespace().map(|n| (names::NAMESPACE.to_owned(), Value::from(n)));
    let plain: Map<String, Value> = namespace.into_iter().collect();
    json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumIdentity",
        "metadata": {"name": id.0.to_string(), "labels": plain},
        "security-labels": security,
    })
}
