//! Discovery: which resources there are, aggregated (KEP-3352) and as lists for who does not know that.

use serde_json::{Value, json};

use crate::{
    accept::ranges,
    resource::{API_VERSION, GROUP, Resource, VERBS, VERSION, all},
};

/// The form of `/apis`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// `APIGroupList`.
    List,
    /// `APIGroupDiscoveryList` of `apidiscovery.k8s.io`, in this version.
    Aggregated(&'static str),
}

impl Groups {
    /// The form that is wanted most of those there are.
    #[must_use]
    pub fn wanted(accept: Option<&str>) -> Self {
        let wanted = ranges(accept.unwrap_or_default()).into_iter().find_map(|r| {
            let aggregated = r.is_json()
                && r.parameter("as") == Some("APIGroupDiscoveryList")
                && r.parameter("g") == Some("apidiscovery.k8s.io");
            match (aggregated, r.parameter("v"), r.parameter("as")) {
                (true, Some("v2"), _) => Some(Self::Aggregated("v2")),
                (true, Some("v2beta1"), _) => Some(Self::Aggregated("v2beta1")),
                (false, _, None) if r.is_json() => Some(Self::List),
                _ => None,
            }
        });
        wanted.unwrap_or(Self::List)
    }

    #[must_use]
    pub fn content_type(self) -> String {
        match self {
            Self::List => "application/json".to_owned(),
            Self::Aggregated(v) => format!("application/json;g=apidiscovery.k8s.io;v={v};as=APIGroupDiscoveryList"),
        }
    }

    #[must_use]
    pub fn document(self) -> Value {
        match self {
            Self::List => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group_content()]}),
            Self::Aggregated(v) => aggregated(v),
        }
    }
}

fn group_content() -> Value {
    let version = json!({"groupVersion": API_VERSION, "version": VERSION});
    json!({"name": GROUP, "versions": [version], "preferredVersion": version})
}

/// `/apis/views.axoneme.io`.
#[must_use]
pub fn group() -> Value {
    let mut group = group_content();
    if let Some(fields) = group.as_object_mut() {
        fields.extend([("kind".to_owned(), json!("APIGroup")), ("apiVersion".to_owned(), json!("v1"))]);
    }
    group
}

/// `/apis/views.axoneme.io/v1alpha1`.
#[must_use]
pub fn resources() -> Value {
    let resources: Vec<Value> = all().into_iter().map(listed).collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": API_VERSION, "resources": resources})
}

fn listed(r: &Resource) -> Value {
    json!({"name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind, "verbs": VERBS,
        "shortNames": r.short, "categories": ["axoneme"]})
}

fn aggregated(version: &str) -> Value {
    let resource = |r: &'static Resource| {
        let scope = if r.namespaced { "Namespaced" } else { "Cluster" };
        json!({"resource": r.plural, "responseKind": {"group": GROUP, "version": VERSION, "kind": r.kind},
            "scope": scope, "singularResource": r.singular, "verbs": VERBS, "shortNames": r.short,
            "categories": ["axoneme"]})
    };
    let resources: Vec<Value> = all().into_iter().map(resource).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {},
        "items": [{"metadata": {"name": GROUP, "creationTimestamp": null},
            "versions": [{"version": VERSION, "resources": resources, "freshness": "Current"}]}]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_aggregator_is_told_in_the_newest_form_it_knows() {
        // as kube-aggregator 0.36 asks
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        assert_eq!(Groups::wanted(Some(&format!("{v2},{beta}"))), Groups::Aggregated("v2"));
        assert_eq!(Groups::wanted(Some(beta)), Groups::Aggregated("v2beta1"));
        assert_eq!(Groups::wanted(Some(&format!("application/json,{v2}"))), Groups::List);
        assert_eq!(Groups::wanted(None), Groups::List);
        assert_eq!(
            Groups::wanted(Some("application/json;as=APIGroupDiscoveryList;v=v9;g=apidiscovery.k8s.io")),
            Groups::List
        );
    }

    #[test]
    fn nothing_can_be_deleted() {
        for document in [resources(), Groups::Aggregated("v2").document()] {
            let text = document.to_string();
            // a namespace that is deleted is emptied of what supports delete: not of views
            assert!(!text.contains("delete") && text.contains("policytables"), "{text}");
        }
    }
}
