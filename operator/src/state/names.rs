//! Strings that many objects have in common.

use std::{collections::HashSet, hash::Hash, sync::Arc};

use axoneme_model::{
    PackedMap,
    world::{NamedPorts, PlainLabels, Pod},
};

use super::Name;

/// Strings before those that nobody has any more are first looked for.
const FEW: usize = 4096;

/// Each string and each set of labels or ports once: most of what a pod says (its labels, its namespace, node, account and
/// ports) is what others say too, and a string of its own takes 32 bytes and more of the allocator however short it is.
#[derive(Debug, Default)]
pub(super) struct Names {
    strings: Once<Name>,
    labels: Once<PlainLabels>,
    ports: Once<NamedPorts>,
}

/// Equal values in one piece of memory.
#[derive(Debug)]
struct Once<T> {
    all: HashSet<T>,
    /// How many there may be until those that nobody has any more are let go.
    limit: usize,
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self { all: HashSet::new(), limit: FEW }
    }
}

/// What knows how many share its memory.
trait Counted {
    fn owners(&self) -> usize;
}

impl Counted for Name {
    fn owners(&self) -> usize {
        Arc::strong_count(self)
    }
}

impl<K, V> Counted for PackedMap<K, V> {
    fn owners(&self) -> usize {
        Self::owners(self)
    }
}

impl<T: Counted + Clone + Eq + Hash> Once<T> {
    /// The known value that is equal; none: there is none yet.
    fn known(&self, value: &T) -> Option<T> {
        self.all.get(value).cloned()
    }

    /// Makes the value known.
    fn keep(&mut self, value: T) -> T {
        if self.all.len() >= self.limit {
            self.all.retain(|v| v.owners() > 1);
            self.limit = (self.all.len() * 2).max(FEW);
        }
        self.all.insert(value.clone());
        value
    }
}

impl Names {
    /// The string as all others have it.
    pub(super) fn share(&mut self, name: Name) -> Name {
        self.strings.known(&name).unwrap_or_else(|| self.strings.keep(name))
    }

    fn labels(&mut self, labels: &PlainLabels) -> PlainLabels {
        if labels.is_empty() {
            return PlainLabels::new();
        }
        if let Some(known) = self.labels.known(labels) {
            return known;
        }
        let own = labels.iter().map(|(k, v)| (self.share(k.clone()), self.share(v.clone()))).collect();
        self.labels.keep(own)
    }

    fn ports(&mut self, ports: &NamedPorts) -> NamedPorts {
        if ports.is_empty() {
            return NamedPorts::new();
        }
        if let Some(known) = self.ports.known(ports) {
            return known;
        }
        let own = ports.iter().map(|(name, ports)| (self.share(name.clone()), ports.clone())).collect();
        self.ports.keep(own)
    }

    /// A pod with all strings shared that are not its own.
    pub(super) fn pod(&mut self, mut pod: Pod) -> Pod {
        for name in [&mut pod.namespace, &mut pod.node, &mut pod.service_account] {
            *name = self.share(std::mem::take(name));
        }
        for map in [&mut pod.labels, &mut pod.annotations] {
            *map = self.labels(&*map);
        }
        pod.named_ports = self.ports(&pod.named_ports);
        pod
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_labels_and_ports_are_one() {
        let mut names = Names::default();
        let pod = || Pod {
            namespace: "ns".into(),
            name: "a".into(),
            uid: "u".into(),
            labels: [("app".into(), "web".into())].into(),
            annotations: PlainLabels::new(),
            service_account: "default".into(),
            node: "n".into(),
            addresses: axoneme_model::PackedSet::new(),
            named_ports: [("http".into(), [(axoneme_model::Protocol::TCP, 80)].into())].into(),
        };
        let (a, b) = (names.pod(pod()), names.pod(pod()));
        assert_eq!(a, pod());
        assert!(a.labels.is_shared_with(&b.labels) && a.named_ports.is_shared_with(&b.named_ports));
        drop((a, b));
        for i in 0..10 * FEW {
            let labels = [("app".into(), i.to_string().into())].into();
            names.pod(Pod { labels, ..pod() });
        }
        assert!(names.labels.all.len() <= FEW + 1, "{}", names.labels.all.len());
    }

    #[test]
    fn equal_strings_are_one_and_those_of_nobody_are_let_go() {
        let mut names = Names::default();
        let (a, b) = (names.share("web".into()), names.share("web".into()));
        assert!(Arc::ptr_eq(&a, &b));
        for i in 0..10 * FEW {
            names.share(i.to_string().into());
        }
        assert!(names.strings.all.len() <= FEW + 1, "{}", names.strings.all.len());
        assert!(Arc::ptr_eq(&a, &names.share("web".into())), "what somebody has stays");
    }
}
