//! What there is: names, scope, columns and fields of each resource.

/// Group of the API.
pub const GROUP: &str = "views.axoneme.io";
/// Its only version.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of its objects.
pub const API_VERSION: &str = "views.axoneme.io/v1alpha1";

/// What can be done. There is no `delete` and no `deletecollection`: who empties a namespace passes these by.
pub const VERBS: [&str; 3] = ["get", "list", "watch"];

/// A resource.
#[derive(Clone, Copy, Debug)]
pub struct Resource {
    pub plural: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub short: &'static [&'static str],
    pub namespaced: bool,
    pub columns: &'static [Column],
    /// Fields that a field selector may name, beside name and namespace.
    pub fields: &'static [&'static str],
    /// For `kubectl explain`.
    pub about: &'static str,
}

/// A column of its table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer` or `boolean`.
    pub kind: &'static str,
    /// 0: always shown; 1: with `-o wide`.
    pub priority: u8,
    pub about: &'static str,
}

impl Column {
    pub(crate) const fn new(name: &'static str, kind: &'static str, priority: u8, about: &'static str) -> Self {
        Self { name, kind, priority, about }
    }
}

impl Resource {
    /// `EndpointList`.
    #[must_use]
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// Whether a field selector may name the field.
    #[must_use]
    pub fn has_field(&self, field: &str) -> bool {
        field == "metadata.name" || (self.namespaced && field == "metadata.namespace") || self.fields.contains(&field)
    }

    /// The fields that a field selector may name, for messages.
    #[must_use]
    pub fn field_names(&self) -> String {
        let of_all = if self.namespaced { "metadata.name, metadata.namespace" } else { "metadata.name" };
        self.fields.iter().fold(of_all.to_owned(), |all, f| format!("{all}, {f}"))
    }
}

/// All of them, in the order of discovery.
#[must_use]
pub fn all() -> [&'static Resource; 4] {
    use crate::kinds::{Endpoint, Identity, Node, PolicyTable, View as _};
    [Endpoint::resource(), Identity::resource(), Node::resource(), PolicyTable::resource()]
}

/// The resource of that plural name.
#[must_use]
pub fn find(plural: &str) -> Option<&'static Resource> {
    all().into_iter().find(|r| r.plural == plural)
}
