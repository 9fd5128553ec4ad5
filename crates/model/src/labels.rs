//! Labels with a source, as the `cilium.io` resources spell them (`k8s:app=web`, `reserved:host`).

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// Where a label comes from. In a selector `Any` matches every source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Source {
    /// Only in selectors: whatever the source.
    Any,
    /// From Kubernetes: pod labels and the `io.kubernetes.pod.*`, `io.cilium.k8s.*` keys derived from the pod.
    K8s,
    /// `reserved:*`: host, world, …
    Reserved,
    /// Another source by name (`cni`, `container`, …): kept, matched literally.
    Other(Arc<str>),
}

impl Source {
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Any => "any",
            Self::K8s => "k8s",
            Self::Reserved => "reserved",
            Self::Other(s) => s,
        }
    }
}

/// A label's key: source and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LabelKey {
    pub source: Source,
    pub name: Arc<str>,
}

/// Names of the derived labels (upstream: Cilium's `pkg/k8s/apis/cilium.io/const.go`).
pub mod names {
    /// Namespace of the pod.
    pub const NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// Prefix of the labels of the pod's namespace.
    pub const NAMESPACE_LABEL_PREFIX: &str = "io.cilium.k8s.namespace.labels.";
    /// Service account of the pod.
    pub const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
    /// Cluster of the pod.
    pub const CLUSTER: &str = "io.cilium.k8s.policy.cluster";
}

impl LabelKey {
    /// A Kubernetes label's key that shares its name.
    #[must_use]
    pub fn k8s_shared(name: Arc<str>) -> Self {
        Self { source: Source::K8s, name }
    }

    #[must_use]
    pub fn k8s(name: &str) -> Self {
        Self { source: Source::K8s, name: name.into() }
    }

    #[must_use]
    pub fn reserved(name: &str) -> Self {
        Self { source: Source::Reserved, name: name.into() }
    }

    /// From `source:name` or `name` (then `any`, as in Cilium's endpoint selectors). A name may itself hold a colon
    /// only behind a source. A dot separates nothing, but in the short form `reserved.host`: keys of Kubernetes begin with
    /// `k8s.` and `any.` too (`k8s.v1.cni.cncf.io/network-status`).
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (source, name) = match text.split_once(':') {
            Some((s, n)) => (s, n),
            None => match text.split_once('.') {
                Some((s @ "reserved", n)) if !n.contains(['.', '/']) => (s, n),
                _ => ("any", text),
            },
        };
        let source = match source {
            "any" | "" => Source::Any,
            "k8s" => Source::K8s,
            "reserved" => Source::Reserved,
            other => Source::Other(other.into()),
        };
        Self { source, name: name.into() }
    }
}

impl fmt::Display for LabelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source.as_str(), self.name)
    }
}

/// A set of labels; at most one value a key. Ordered, so equal sets print and hash the same. Clones share their memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Labels(Arc<BTreeMap<LabelKey, Arc<str>>>);

impl Labels {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub fn insert(&mut self, key: LabelKey, value: &str) {
        self.set(key, value.into());
    }

    /// Like [`Labels::insert`], sharing the value.
    pub fn set(&mut self, key: LabelKey, value: Arc<str>) {
        Arc::make_mut(&mut self.0).insert(key, value);
    }

    #[must_use]
    pub fn with(mut self, key: LabelKey, value: &str) -> Self {
        self.insert(key, value);
        self
    }

    /// The value under the key; `Source::Any` finds the first source that has the name.
    #[must_use]
    pub fn get(&self, key: &LabelKey) -> Option<&str> {
        if key.source == Source::Any {
            self.0.iter().find(|(k, _)| k.name == key.name).map(|(_, v)| &**v)
        } else {
            self.0.get(key).map(|v| &**v)
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&LabelKey, &str)> {
        self.0.iter().map(|(k, v)| (k, &**v))
    }

    /// Like [`Labels::iter`], with values that can be shared.
    pub fn shared(&self) -> impl Iterator<Item = (&LabelKey, &Arc<str>)> {
        self.0.iter()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Only the labels whose key the predicate keeps.
    #[must_use]
    pub fn retain(&self, mut keep: impl FnMut(&LabelKey) -> bool) -> Self {
        Self(Arc::new(self.0.iter().filter(|(k, _)| keep(k)).map(|(k, v)| (k.clone(), v.clone())).collect()))
    }

    /// The namespace of the pod that carries these labels.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.get(&LabelKey::k8s(names::NAMESPACE))
    }

    /// `k8s:app=web` and so on, sorted: the form of CiliumIdentity and of Hubble flows.
    #[must_use]
    pub fn to_strings(&self) -> Vec<String> {
        self.0.iter().map(|(k, v)| if v.is_empty() { k.to_string() } else { format!("{k}={v}") }).collect()
    }
}

impl FromIterator<(LabelKey, Arc<str>)> for Labels {
    fn from_iter<T: IntoIterator<Item = (LabelKey, Arc<str>)>>(iter: T) -> Self {
        Self(Arc::new(iter.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_kubernetes_keep_their_dots() {
        let parsed = |text: &str| LabelKey::parse(text).to_string();
        assert_eq!(parsed("k8s.v1.cni.cncf.io/x"), "any:k8s.v1.cni.cncf.io/x");
        assert_eq!(parsed("any.example/x"), "any:any.example/x");
        assert_eq!(parsed("reserved.example.com/x"), "any:reserved.example.com/x");
        assert_eq!(parsed("reserved.host"), "reserved:host");
        assert_eq!(parsed("k8s:app"), "k8s:app");
        assert_eq!(parsed("cni:a:b"), "cni:a:b");
    }
}
