//! The kinds: what is kept of each, compactly and shared with its owner, and what is shown of it.

mod endpoint;
mod identity;
mod node;
mod policy_table;

use std::{fmt, sync::Arc};

use axoneme_model::rows::DirectionDefault;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::{Map, Value, json};

pub use self::{
    endpoint::{Endpoint, EndpointPolicy, EndpointStatus},
    identity::{Identity, IdentityStatus},
    node::{Node, NodeStatus},
    policy_table::{Content, PolicyTable, PolicyTableStatus},
};
use crate::resource::{API_VERSION, Resource};

/// Namespace (empty for what has none) and name.
pub type Key = (Arc<str>, Arc<str>);

/// Something that is shown.
pub trait View: Clone + fmt::Debug + Send + Sync + 'static {
    /// Its names and columns.
    fn resource() -> &'static Resource;

    /// Schema of `status`.
    fn schema() -> Schema;

    fn key(&self) -> Key;

    /// Of what is shown; none: it has none of its own.
    fn uid(&self) -> Option<&str> {
        None
    }

    /// Whether there is no difference that a watch is told of.
    fn is_same(&self, other: &Self) -> bool;

    fn label(&self, key: &str) -> Option<&str>;

    fn labels(&self) -> Map<String, Value>;

    /// Value of a field of [`Resource::fields`].
    fn field(&self, field: &str) -> Option<String>;

    fn status(&self) -> Value;

    /// One for each column.
    fn cells(&self) -> Vec<Value>;
}

/// The object's metadata.
pub fn metadata<T: View>(view: &T, version: &str) -> Value {
    let (namespace, name) = view.key();
    let mut metadata = Map::new();
    metadata.insert("name".into(), json!(&*name));
    if !namespace.is_empty() {
        metadata.insert("namespace".into(), json!(&*namespace));
    }
    if let Some(uid) = view.uid() {
        metadata.insert("uid".into(), json!(uid));
    }
    metadata.insert("resourceVersion".into(), json!(version));
    // Go's clients expect the field, and know null
    metadata.insert("creationTimestamp".into(), Value::Null);
    let labels = view.labels();
    if !labels.is_empty() {
        metadata.insert("labels".into(), Value::Object(labels));
    }
    Value::Object(metadata)
}

/// The whole object.
pub fn object<T: View>(view: &T, version: &str) -> Value {
    json!({"kind": T::resource().kind, "apiVersion": API_VERSION, "metadata": metadata(view, version),
        "status": view.status()})
}

/// The object's metadata as an object.
pub fn partial<T: View>(view: &T, version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata(view, version)})
}

/// What becomes of traffic that no rule of a table is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Stance {
    /// Not known yet.
    #[default]
    Unknown,
    /// It passes: no policy isolates the direction.
    Open,
    /// It is denied, unless a rule allows it.
    Isolated,
    /// It would be denied, but is only told: audit.
    Audit,
}

/// One schema with all values: what derives from the variants' own words is none that `kubectl explain` reads.
impl JsonSchema for Stance {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Stance".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> Schema {
        let all = [Self::Unknown, Self::Open, Self::Isolated, Self::Audit].map(Self::text);
        schemars::json_schema!({"type": "string", "enum": all})
    }
}

impl From<DirectionDefault> for Stance {
    fn from(default: DirectionDefault) -> Self {
        match (default.allow, default.audit) {
            (false, _) => Self::Isolated,
            (true, true) => Self::Audit,
            (true, false) => Self::Open,
        }
    }
}

impl Stance {
    const fn text(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Open => "Open",
            Self::Isolated => "Isolated",
            Self::Audit => "Audit",
        }
    }
}

/// Plain labels as a map of JSON.
fn label_map<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> Map<String, Value> {
    labels.map(|(k, v)| (k.to_owned(), json!(v))).collect()
}

/// What to show of a list in one cell.
fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|i| i.to_string()).collect::<Vec<_>>().join(",")
}

/// Schema of a type, without references: OpenAPI documents hold it as it is.
fn schema_of<T: JsonSchema>() -> Schema {
    let settings = schemars::generate::SchemaSettings::openapi3().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.remove("title");
    // nobody writes these
    schema.remove("required");
    schema
}
