//! What the runner asks of a Kubernetes API.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use serde_json::Value;

/// Group, version and kind of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gvk {
    /// `v1`, `cilium.io/v2`.
    pub api_version: String,
    /// `CiliumNetworkPolicy`.
    pub kind: String,
}

impl Gvk {
    /// Both parts.
    pub fn new(api_version: &str, kind: &str) -> Self {
        Self { api_version: api_version.to_owned(), kind: kind.to_owned() }
    }

    /// Those of an object; none where it lacks one.
    pub fn of(object: &Value) -> Option<Self> {
        let text = |key: &str| object.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        Some(Self::new(text("apiVersion")?, text("kind")?))
    }
}

impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.api_version, self.kind)
    }
}

/// Why the API did not do what it was asked to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The object is there already, or has changed meanwhile: who asks anew may have another answer.
    #[error("{0}")]
    Conflict(String),
    /// Anything else, refusals by schema and webhooks included.
    #[error("{0}")]
    Other(String),
}

/// A Kubernetes API as the runner uses it. Cluster-wide objects have the namespace `""`.
#[async_trait(?Send)]
pub trait Api {
    /// Whether objects of this kind live in namespaces.
    ///
    /// # Errors
    /// The API has no such kind, or does not answer.
    async fn namespaced(&self, kind: &Gvk) -> Result<bool, ApiError>;

    /// An object; none where there is none of that name.
    async fn get(&self, kind: &Gvk, namespace: &str, name: &str) -> Result<Option<Value>, ApiError>;

    /// The objects of a kind that have all of these labels; of all namespaces where `namespace` is empty.
    async fn list(
        &self,
        kind: &Gvk,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<Value>, ApiError>;

    /// Makes an object.
    async fn create(&self, object: &Value) -> Result<(), ApiError>;

    /// Changes an object by a JSON merge patch (RFC 7386), whose metadata names it.
    async fn merge_patch(&self, object: &Value) -> Result<(), ApiError>;

    /// Asks for an object's removal; false where there was none.
    async fn delete(&self, kind: &Gvk, namespace: &str, name: &str) -> Result<bool, ApiError>;
}

/// A text of an object's metadata; empty where there is none.
pub(super) fn metadata<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(key)).and_then(Value::as_str).unwrap_or_default()
}

/// `CiliumNetworkPolicy:lab/web`, as upstream's reports name objects.
pub(super) fn id(object: &Value) -> String {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    format!("{kind}:{}/{}", metadata(object, "namespace"), metadata(object, "name"))
}

/// The object with a namespace, if its kind has one and it names none itself (`Namespaced` in upstream's
/// internal/kubernetes/object.go).
pub(super) async fn in_namespace<A: Api>(api: &A, object: &Value, namespace: &str) -> Result<Value, ApiError> {
    let mut object = object.clone();
    let kind = Gvk::of(&object).ok_or_else(|| ApiError::Other(format!("{}: no apiVersion or kind", id(&object))))?;
    if !metadata(&object, "namespace").is_empty() || !api.namespaced(&kind).await? {
        return Ok(object);
    }
    if let Some(fields) = object.as_object_mut() {
        let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("namespace".to_owned(), namespace.into());
        }
    }
    Ok(object)
}
