//! Who uses and who waits for addresses, kept up with every change of a pod.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use axoneme_crds::axoneme_config::IpFamily;
use axoneme_model::{PackedSet, world::Pod};

use super::{Cluster, Key, Name};
use crate::ipam::{Choice, choose};

/// The addresses of a node's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeUse {
    /// Addresses that pods have.
    pub in_use: Arc<BTreeSet<IpAddr>>,
    /// Who has them.
    pub owners: BTreeMap<IpAddr, Key>,
    /// Pods that lack an address of a family: IPv4, IPv6.
    pub waiting: BTreeMap<Key, [bool; 2]>,
}

/// All nodes' uses.
#[derive(Debug, Default)]
pub(super) struct Uses {
    nodes: BTreeMap<Name, NodeUse>,
    /// Node and addresses that were counted for a pod.
    pods: HashMap<Key, (Name, PackedSet<IpAddr>)>,
}

impl Uses {
    /// Counts the pod as it is now; none: it is gone. `lacks`: families of which it waits for an address.
    pub(super) fn count(&mut self, key: &Key, pod: Option<&Pod>, lacks: [bool; 2]) {
        self.forget(key);
        let Some(pod) = pod.filter(|p| !p.node.is_empty()) else { return };
        let node = self.nodes.entry(pod.node.clone()).or_default();
        for address in &pod.addresses {
            Arc::make_mut(&mut node.in_use).insert(*address);
            node.owners.insert(*address, key.clone());
        }
        if lacks != [false; 2] {
            node.waiting.insert(key.clone(), lacks);
        }
        self.pods.insert(key.clone(), (pod.node.clone(), pod.addresses.clone()));
    }

    fn forget(&mut self, key: &Key) {
        let Some((name, addresses)) = self.pods.remove(key) else { return };
        let Some(node) = self.nodes.get_mut(&name) else { return };
        for address in addresses {
            // two pods may say the same address for a moment: the one that is deleted, and its successor
            if node.owners.get(&address) == Some(key) {
                node.owners.remove(&address);
                Arc::make_mut(&mut node.in_use).remove(&address);
            }
        }
        node.waiting.remove(key);
        if node.owners.is_empty() && node.waiting.is_empty() {
            self.nodes.remove(&name);
        }
    }
}

impl Cluster {
    /// What the pods of a node use and wait for.
    #[must_use]
    pub fn uses(&self, node: &str) -> NodeUse {
        self.uses.nodes.get(node).cloned().unwrap_or_default()
    }

    /// Pods that wait for an address, of all nodes.
    pub fn waiting(&self) -> impl Iterator<Item = (&Key, [bool; 2])> {
        self.uses.nodes.values().flat_map(|n| &n.waiting).map(|(k, l)| (k, *l))
    }

    /// Whether a pod of the node waits for an address.
    #[must_use]
    pub fn is_waiting(&self, node: &str, pod: &Key) -> bool {
        self.uses.nodes.get(node).is_some_and(|n| n.waiting.contains_key(pod))
    }

    /// The pools of a pod, for each family.
    #[must_use]
    pub fn choice(&self, pod: &Pod) -> [Choice; 2] {
        choose(pod, self.namespaces.get(&pod.namespace), &self.pools, &self.settings.ipam.default_pool)
    }

    /// Families that the cluster has.
    #[must_use]
    pub fn families(&self) -> [bool; 2] {
        [IpFamily::IPv4, IpFamily::IPv6].map(|f| self.settings.has(f))
    }

    /// Counts all pods anew: what they wait for depends on the settings.
    pub(super) fn recount(&mut self) {
        let keys: Vec<Key> = self.pods.keys().cloned().collect();
        for key in keys {
            let pod = self.seen(&key);
            self.count_pod(&key, pod.as_deref());
        }
    }

    /// Counts a pod as the model sees it.
    pub(super) fn count_pod(&mut self, key: &Key, pod: Option<&Pod>) {
        let lacks = pod.map_or([false; 2], |p| {
            let has = [true, false].map(|v4| p.addresses.iter().any(|a| a.is_ipv4() == v4));
            let gone = self.gone.contains(&p.uid);
            let [v4, v6] = self.families();
            [v4 && !has[0] && !gone, v6 && !has[1] && !gone]
        });
        self.uses.count(key, pod, lacks);
    }
}
