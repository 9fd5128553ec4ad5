//! Labels with a source, as the `cilium.io` resources spell them (`k8s:app=web`, `reserved:host`).

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::packed::PackedMap;

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
///
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(PackedMap<LabelKey, Arc<str>>);

/// A key with its value.
type Label = (LabelKey, Arc<str>);

impl Labels {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub fn insert(&mut self, key: LabelKey, value: &str) {
        self.set(key, value.into());
    }

    /// Like [`Labels::insert`], sharing the value. Copies the set: many labels are better collected.
    pub fn set(&mut self, key: LabelKey, value: Arc<str>) {
        self.0.insert(key, value);
    }

    #[must_use]
    pub fn with(mut self, key: LabelKey, value: &str) -> Self {
        self.insert(key, value);
        self
    }

    /// The value under the key; `Source::Any` finds the first source that has the name.
    #[must_use]
    pub fn get(&self, key: &LabelKey) -> Option<&str> {
        let found = if key.source == Source::Any {
            self.0.iter().find(|(k, _)| k.name == key.name).map(|(_, v)| v)
        } else {
            self.0.get(key)
        };
        found.map(|v| &**v)
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
        Self(self.0.filtered(|k, _| keep(k)))
    }

    /// The namespace of the pod that carries these labels.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.get(&LabelKey::k8s(names::NAMESPACE))
    }

    /// `k8s:app=web` and so on, sorted: the form of CiliumIdentity and of Hubble flows.
    #[must_use]
    pub fn to_strings(&self) -> Vec<String> {
        self.iter().map(|(k, v)| if v.is_empty() { k.to_string() } else { format!("{k}={v}") }).collect()
    }
}

impl FromIterator<Label> for Labels {
    /// Of labels with one key the last counts.
    fn from_iter<T: IntoIterator<Item = Label>>(iter: T) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Labels(")?;
        f.debug_map().entries(self.iter()).finish()?;
        f.write_str(")")
    }
}

impl Serialize for Labels {
    /// As a map.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::<LabelKey, Arc<str>>::deserialize(deserializer).map(|map| map.into_iter().collect())
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

    #[test]
    fn a_set_is_ordered_and_of_one_key_the_last_value_counts() {
        let label = |key: &str, value: &str| (LabelKey::parse(key), Arc::<str>::from(value));
        let forth: Labels =
            [label("k8s:b", "1"), label("k8s:a", "x"), label("k8s:b", "2"), label("k8s:b", "3")].into_iter().collect();
        let mut one_by_one = Labels::new();
        for (key, value) in [("k8s:b", "1"), ("k8s:b", "3"), ("k8s:a", "x")] {
            one_by_one.insert(LabelKey::parse(key), value);
        }
        assert_eq!(forth, one_by_one);
        assert_eq!(forth.to_strings(), ["k8s:a=x", "k8s:b=3"]);
        assert_eq!((forth.get(&LabelKey::k8s("b")), forth.get(&LabelKey::parse("a"))), (Some("3"), Some("x")));
        assert_eq!((forth.get(&LabelKey::k8s("c")), forth.len()), (None, 2));
    }

    /// Ids of identities, tables and classes are digests of what these hash to: they must not change with the form.
    #[test]
    fn a_set_hashes_as_the_map_of_its_labels() {
        use std::hash::{DefaultHasher, Hash, Hasher};
        fn of(value: &impl Hash) -> u64 {
            let mut hasher = DefaultHasher::new();
            value.hash(&mut hasher);
            hasher.finish()
        }
        let map: BTreeMap<LabelKey, Arc<str>> =
            [("k8s:b", "1"), ("reserved:host", ""), ("k8s:a", "x")].map(|(k, v)| (LabelKey::parse(k), v.into())).into();
        let labels: Labels = map.clone().into_iter().collect();
        assert_eq!(of(&labels), of(&map));
        let larger: BTreeMap<LabelKey, Arc<str>> = [(LabelKey::k8s("c"), "".into())].into();
        let order = labels.cmp(&larger.clone().into_iter().collect());
        assert_eq!(order, map.cmp(&larger));
    }
}
