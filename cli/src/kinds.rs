//! Kinds that commands ask the API server for, with the names of their resources.

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;

/// Version, kind, resource, whether it lives in namespaces.
const KINDS: &[(&str, &str, &str, bool)] = &[
    ("v1", "Namespace", "namespaces", false),
    ("v1", "Node", "nodes", false),
    ("v1", "Pod", "pods", true),
    ("v1", "Service", "services", true),
    ("v1", "ServiceAccount", "serviceaccounts", true),
    ("v1", "ConfigMap", "configmaps", true),
    ("v1", "Event", "events", true),
    ("apps/v1", "DaemonSet", "daemonsets", true),
    ("apps/v1", "Deployment", "deployments", true),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", true),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", false),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", false),
    ("rbac.authorization.k8s.io/v1", "Role", "roles", true),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", true),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", false),
    ("apiregistration.k8s.io/v1", "APIService", "apiservices", false),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", false),
    ("axoneme.io/v1alpha1", "AxonemeConfig", "axonemeconfigs", false),
    ("cilium.io/v2", "CiliumNode", "ciliumnodes", false),
];

/// A kind of the API.
#[derive(Clone, Debug)]
pub struct Resource {
    pub api: ApiResource,
    pub namespaced: bool,
}

impl Resource {
    /// The kind of a version; none if no command has to do with it.
    #[must_use]
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let (_, _, plural, namespaced) = KINDS.iter().find(|(v, k, ..)| (*v, *k) == (api_version, kind))?;
        Some(Self::named(api_version, kind, plural, *namespaced))
    }

    /// A kind by its names.
    #[must_use]
    pub fn named(api_version: &str, kind: &str, plural: &str, namespaced: bool) -> Self {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let api = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        Self { api, namespaced }
    }

    /// The kind of an object.
    #[must_use]
    pub fn of_object(object: &Value) -> Option<Self> {
        Self::of(object.get("apiVersion")?.as_str()?, object.get("kind")?.as_str()?)
    }
}

/// A text of an object's metadata; empty where there is none.
#[must_use]
pub fn metadata<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(key)).and_then(Value::as_str).unwrap_or_default()
}

/// `DaemonSet axoneme-system/axoneme-agent`.
#[must_use]
pub fn title(object: &Value) -> String {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    match (metadata(object, "namespace"), metadata(object, "name")) {
        ("", name) => format!("{kind} {name}"),
        (namespace, name) => format!("{kind} {namespace}/{name}"),
    }
}
