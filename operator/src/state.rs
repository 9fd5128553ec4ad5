//! What the API says, object by object, and what that means for the model.
//!
//! A broken object keeps its last-good version; a policy that never had one is in force as its fail-closed form. Nothing
//! here does IO or reads a clock.

mod apply;
pub mod crowded;
mod names;
mod node;
mod overrides;
mod policy;
mod raw;
pub mod said;
mod uses;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use axoneme_crds::axoneme_config::IpamMode;
use axoneme_intake::{EndpointSlice, ObjectErrors, Settings};
use axoneme_model::{
    Identity, Kind, Labels, ObjectRef, PackedSet,
    policy::Policy,
    world::{CidrGroup, ClusterConfig, Namespace, Node, Pod, Service},
};
use serde_json::Value;

pub use node::NodeEntry;
pub use overrides::{NodeConfigEntry, Overrides, Resolved};
pub use policy::{Loaded, PolicyEntry, TABLE_TOO_LARGE};
pub use raw::Raw;
pub use uses::NodeUse;

use crate::ipam::Pool;

/// Reports that are kept of pods which the watch has not said yet.
const EARLY_REPORTS: usize = 4096;

type Name = Arc<str>;
/// Namespace and name.
pub type Key = (Name, Name);

/// A change of the compiler's input.
#[derive(Clone, Debug, PartialEq)]
pub enum WorldChange {
    Config(ClusterConfig),
    Namespace(Name, Option<Namespace>),
    Pod(Key, Option<Arc<Pod>>),
    Node(Name, Option<Box<Node>>),
    Service(Key, Option<Box<Service>>),
    CidrGroup(Name, Option<CidrGroup>),
    Policy(ObjectRef, Option<Box<Policy>>),
    ApiServer(BTreeSet<IpAddr>),
}

/// The AxonemeConfig object, if there is one.
#[derive(Clone, Debug, Default)]
pub struct ConfigEntry {
    pub raw: Value,
    pub generation: i64,
    pub errors: Option<ObjectErrors>,
}

/// A CiliumPodIPPool object.
#[derive(Clone, Debug, Default)]
pub struct PoolEntry {
    pub raw: Value,
    pub generation: i64,
    pub errors: Option<ObjectErrors>,
}

/// All objects.
#[derive(Debug, Default)]
pub struct Cluster {
    pub settings: Settings,
    pub config: Option<ConfigEntry>,
    pub namespaces: BTreeMap<Name, Namespace>,
    /// Shared with the compiler, where nothing is known of a pod beside its object.
    pub pods: BTreeMap<Key, Arc<Pod>>,
    pub nodes: BTreeMap<Name, NodeEntry>,
    pub policies: BTreeMap<ObjectRef, PolicyEntry>,
    /// Of these, those that can't be in force as they are.
    faulty: usize,
    /// CiliumPodIPPools as they count: the last good version of each.
    pub pools: BTreeMap<Name, Pool>,
    /// CiliumPodIPPool objects as they are, with what is wrong with them.
    pub pool_objects: BTreeMap<Name, PoolEntry>,
    /// Settings of single nodes.
    pub overrides: Overrides,
    /// What no table holds though no policy changed.
    pub crowded: crowded::Crowded,
    uses: uses::Uses,
    names: names::Names,
    /// What is wrong with objects that are not policies.
    pub errors: BTreeMap<ObjectRef, ObjectErrors>,
    /// Uids of those.
    refused_uids: BTreeMap<ObjectRef, String>,
    /// Manifest files that can't be used.
    pub broken: BTreeMap<String, String>,
    services: BTreeMap<Key, Service>,
    slices: BTreeMap<Key, EndpointSlice>,
    /// Slices of each service.
    by_service: HashMap<Key, BTreeSet<Key>>,
    apiserver: BTreeSet<IpAddr>,
    /// Addresses of pods as their nodes report them, by uid.
    reported: HashMap<Name, PackedSet<IpAddr>>,
    /// Uids of pods whose endpoint is gone though the object is still there.
    gone: HashSet<Name>,
    synced: BTreeSet<Kind>,
    /// Newest resource version of objects that the operator writes itself.
    versions: HashMap<ObjectRef, u64>,
    /// The same of CiliumIdentities, of which there are more than of all others.
    identity_versions: BTreeMap<Identity, u64>,
    /// Newest version of what was deleted while a list is on its way, which may still have it.
    deleted: Option<HashMap<ObjectRef, u64>>,
    changes: Vec<WorldChange>,
    touched: Touched,
}

/// What has to be planned anew.
#[expect(clippy::struct_excessive_bools, reason = "each is a plan of its own")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Addresses: nodes, pools or settings changed.
    pub ipam: bool,
    /// Which pools pods take their addresses from.
    pub choices: bool,
    /// Conditions of pools.
    pub pools: bool,
    /// Settings of nodes.
    pub configs: bool,
    pub nodes: BTreeSet<Name>,
    pub policies: BTreeSet<ObjectRef>,
    pub config: bool,
    pub identities: Vec<(Identity, Option<Labels>)>,
    /// Objects that can't be used as they are.
    pub refused: BTreeSet<ObjectRef>,
}

impl Cluster {
    #[must_use]
    pub fn new() -> Self {
        let mut c = Self::default();
        c.changes.push(WorldChange::Config(c.settings.cluster.clone()));
        c
    }

    /// Whether all objects of all kinds have been said.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        super::source::KINDS.iter().all(|k| self.synced.contains(k))
    }

    /// Kinds that are still awaited.
    pub fn awaited(&self) -> impl Iterator<Item = Kind> {
        super::source::KINDS.into_iter().filter(|k| !self.synced.contains(k))
    }

    /// Uid of an object that is known.
    #[must_use]
    pub fn uid(&self, object: &ObjectRef) -> Option<String> {
        let of = |raw: &Value| raw.pointer("/metadata/uid").and_then(Value::as_str).map(str::to_owned);
        match object.kind {
            Kind::Pod => {
                let pod = self.pods.get(&(object.namespace.clone(), object.name.clone()));
                pod.map(|p| p.uid.to_string()).filter(|u| !u.is_empty())
            }
            Kind::Node => self.nodes.get(&object.name)?.node_said.uid.as_deref().map(str::to_owned),
            Kind::CiliumNode => self.nodes.get(&object.name)?.cilium_said.uid.as_deref().map(str::to_owned),
            Kind::CiliumNodeConfig => of(&self.overrides.get(object)?.raw),
            Kind::CiliumPodIPPool => of(&self.pool_objects.get(&object.name)?.raw),
            Kind::AxonemeConfig => of(&self.config.as_ref()?.raw),
            _ => match self.policies.get(object) {
                Some(policy) => policy.uid(),
                None => self.refused_uids.get(object).cloned(),
            },
        }
    }

    /// A list of objects is about to be read beside the watches: until [`Cluster::has_read`] what they tell the end of
    /// does not come back by it.
    pub fn reads(&mut self) {
        self.deleted.get_or_insert_default();
    }

    /// The list, if any, has been applied.
    pub fn has_read(&mut self) {
        self.deleted = None;
    }

    /// Changes of the compiler's input since the last call.
    pub fn take_changes(&mut self) -> Vec<WorldChange> {
        std::mem::take(&mut self.changes)
    }

    /// Whether [`Cluster::take_changes`] would give any.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// What has to be planned anew since the last call.
    pub fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }

    /// The pod as the model sees it.
    fn seen(&self, key: &Key) -> Option<Arc<Pod>> {
        let mut pod = self.pods.get(key)?.clone();
        let none = PackedSet::new();
        let gone = self.gone.contains(&pod.uid).then_some(&none);
        let known = gone.or_else(|| self.reported.get(&pod.uid).filter(|a| !a.is_empty()));
        if let Some(addresses) = known.filter(|a| **a != pod.addresses) {
            Arc::make_mut(&mut pod).addresses.clone_from(addresses);
        }
        Some(pod)
    }

    fn emit_pod(&mut self, key: &Key) {
        let pod = self.seen(key);
        self.count_pod(key, pod.as_deref());
        // what a node's pods need of the pools, and what of them is used
        self.touched.ipam |= matches!(self.settings.ipam.mode, IpamMode::MultiPool | IpamMode::CRD);
        self.changes.push(WorldChange::Pod(key.clone(), pod));
    }

    /// Takes the addresses that a node reports for a pod; none with `removed`.
    pub fn report(&mut self, key: &Key, uid: &Name, addresses: &BTreeSet<IpAddr>, removed: bool) {
        let changed = if removed {
            self.reported.remove(uid);
            self.gone.insert(uid.clone())
        } else {
            let back = self.gone.remove(uid);
            let addresses: PackedSet<IpAddr> = addresses.iter().copied().collect();
            let before = self.reported.insert(uid.clone(), addresses.clone());
            before.as_ref() != Some(&addresses) || back
        };
        if changed && self.pods.get(key).is_some_and(|p| p.uid == *uid) {
            self.emit_pod(key);
        } else if removed {
            self.gone.retain(|u| u != uid || self.pods.get(key).is_some_and(|p| p.uid == *uid));
        }
    }

    /// Whether a report of a pod that is not known yet may be kept.
    pub(crate) fn has_room_for_reports(&self) -> bool {
        self.reported.len() < self.pods.len() + EARLY_REPORTS
    }

    fn emit_service(&mut self, key: &Key) {
        let service = self.services.get(key).map(|s| {
            let mut s = Box::new(s.clone());
            s.endpoints = axoneme_intake::merge(self.slices_of(key));
            s
        });
        self.changes.push(WorldChange::Service(key.clone(), service));
    }

    fn slices_of<'a>(&'a self, key: &Key) -> impl Iterator<Item = &'a EndpointSlice> {
        self.by_service.get(key).into_iter().flatten().filter_map(|s| self.slices.get(s))
    }

    fn emit_apiserver(&mut self) {
        let key = (Name::from("default"), Name::from("kubernetes"));
        let addresses = axoneme_intake::apiserver_addresses(self.slices_of(&key));
        if addresses != self.apiserver {
            self.apiserver.clone_from(&addresses);
            self.changes.push(WorldChange::ApiServer(addresses));
        }
    }
}

#[cfg(test)]
mod tests;
