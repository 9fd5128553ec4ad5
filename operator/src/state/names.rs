//! Strings that many objects have in common.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use axoneme_model::world::Pod;

use super::Name;

/// Strings before those that nobody has any more are first looked for.
const FEW: usize = 4096;

/// Each string once: most of what a pod says (the keys and values of its labels, its namespace, node, account and ports)
/// is what others say too, and a string of its own takes 32 bytes and more of the allocator however short it is.
#[derive(Debug)]
pub(super) struct Names {
    all: HashSet<Name>,
    /// How many there may be until those that nobody has any more are let go.
    limit: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self { all: HashSet::new(), limit: FEW }
    }
}

impl Names {
    /// The string as all others have it.
    pub(super) fn share(&mut self, name: Name) -> Name {
        if let Some(known) = self.all.get(&name) {
            return known.clone();
        }
        if self.all.len() >= self.limit {
            self.all.retain(|n| Arc::strong_count(n) > 1);
            self.limit = (self.all.len() * 2).max(FEW);
        }
        self.all.insert(name.clone());
        name
    }

    /// A pod with all strings shared that are not its own.
    pub(super) fn pod(&mut self, mut pod: Pod) -> Pod {
        for name in [&mut pod.namespace, &mut pod.node, &mut pod.service_account] {
            *name = self.share(std::mem::take(name));
        }
        for map in [&mut pod.labels, &mut pod.annotations] {
            *map = std::mem::take(map).into_iter().map(|(k, v)| (self.share(k), self.share(v))).collect();
        }
        let ports: BTreeMap<_, _> = std::mem::take(&mut pod.named_ports);
        pod.named_ports = ports.into_iter().map(|(name, ports)| (self.share(name), ports)).collect();
        pod
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_are_one_and_those_of_nobody_are_let_go() {
        let mut names = Names::default();
        let (a, b) = (names.share("web".into()), names.share("web".into()));
        assert!(Arc::ptr_eq(&a, &b));
        for i in 0..10 * FEW {
            names.share(i.to_string().into());
        }
        assert!(names.all.len() <= FEW + 1, "{}", names.all.len());
        assert!(Arc::ptr_eq(&a, &names.share("web".into())), "what somebody has stays");
    }
}
