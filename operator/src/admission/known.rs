//! What the webhooks see of the cluster.
//!
//! A copy of references beside the one state: reviews are answered while the state's task compiles, which can take longer
//! than the API server waits. One writer, the task that owns the state; readers hold the lock for a bounded look.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use axoneme_intake::{Options, PodIpPool, object_ref};
use axoneme_model::{
    Cidr, Kind, ObjectRef, Policy, Selector,
    world::{Namespace, PlainLabels, Pod, matches_plain},
};
use axoneme_webhooks::View;
use serde_json::Value;

use crate::{source::SourceEvent, state::Cluster};

type Name = Arc<str>;

/// See the module.
#[derive(Debug, Default)]
pub struct Known(RwLock<Seen>);

#[derive(Debug, Default)]
struct Seen {
    options: Options,
    complete: bool,
    cluster: Name,
    namespaces: BTreeMap<Name, Namespace>,
    /// By namespace and name; shared with the state.
    pods: BTreeMap<Name, BTreeMap<Name, Arc<Pod>>>,
    /// Labels of each group, whether or not it can be used.
    groups: BTreeMap<Name, PlainLabels>,
    /// Services by namespace and name, whether or not they can be used.
    services: BTreeSet<(Name, Name)>,
    /// Policies as they were read last, by namespace.
    policies: BTreeMap<Name, BTreeMap<ObjectRef, Arc<Policy>>>,
    pools: BTreeMap<Name, Arc<PodIpPool>>,
    /// Blocks of pools, by node and pool.
    blocks: BTreeMap<Name, BTreeMap<Name, Vec<Cidr>>>,
}

/// What an event is about, as far as reviews can tell the difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    Pod(Name, Name),
    Namespace(Name),
    Pool(Name),
    /// What a node holds.
    Node(Name),
    /// None: it is gone.
    Group(Name, Option<PlainLabels>),
    /// Whether it is there.
    Service(Name, Name, bool),
    Policy(ObjectRef),
    Settings,
    Synced,
}

impl About {
    /// Taken before the state takes the event.
    #[must_use]
    pub fn of(event: &SourceEvent) -> Option<Self> {
        match event {
            SourceEvent::Apply { kind, object } => {
                let text = |path| object.pointer(path).and_then(Value::as_str).map(Name::from);
                let name = || text("/metadata/name");
                Some(match kind {
                    Kind::Pod => Self::Pod(text("/metadata/namespace").unwrap_or_else(|| "default".into()), name()?),
                    Kind::Namespace => Self::Namespace(name()?),
                    Kind::CiliumPodIPPool => Self::Pool(name()?),
                    Kind::CiliumNode => Self::Node(name()?),
                    Kind::CiliumCIDRGroup => Self::Group(name()?, Some(labels(object))),
                    Kind::AxonemeConfig => Self::Settings,
                    Kind::Service => {
                        Self::Service(text("/metadata/namespace").unwrap_or_else(|| "default".into()), name()?, true)
                    }
                    kind if is_policy(*kind) => Self::Policy(object_ref(*kind, object).ok()?),
                    _ => return None,
                })
            }
            SourceEvent::Delete(object) => Some(match object.kind {
                Kind::Pod => Self::Pod(object.namespace.clone(), object.name.clone()),
                Kind::Namespace => Self::Namespace(object.name.clone()),
                Kind::CiliumPodIPPool => Self::Pool(object.name.clone()),
                Kind::CiliumNode => Self::Node(object.name.clone()),
                Kind::CiliumCIDRGroup => Self::Group(object.name.clone(), None),
                Kind::AxonemeConfig => Self::Settings,
                Kind::Service => Self::Service(object.namespace.clone(), object.name.clone(), false),
                kind if is_policy(kind) => Self::Policy(object.clone()),
                _ => return None,
            }),
            SourceEvent::Synced(_) => Some(Self::Synced),
            SourceEvent::Broken { .. } => None,
        }
    }
}

const fn is_policy(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NetworkPolicy
            | Kind::ClusterNetworkPolicy
            | Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy
    )
}

fn labels(object: &Value) -> PlainLabels {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    labels.into_iter().flatten().filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into()))).collect()
}

impl Known {
    fn seen(&self) -> RwLockReadGuard<'_, Seen> {
        // whoever panicked left every map whole
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the state holds now of what an event was about.
    pub fn follow(&self, about: About, cluster: &Cluster) {
        let mut seen = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match about {
            About::Pod(namespace, name) => match cluster.pods.get(&(namespace.clone(), name.clone())) {
                Some(pod) => {
                    let of = seen.pods.entry(pod.namespace.clone()).or_default();
                    of.insert(pod.name.clone(), pod.clone());
                }
                None => seen.forget(&namespace, &name),
            },
            About::Namespace(name) => set(&mut seen.namespaces, &name, cluster.namespaces.get(&name).cloned()),
            About::Pool(name) => {
                let pool = cluster.pools.get(&name).map(|p| Arc::new(p.spec.clone()));
                set(&mut seen.pools, &name, pool);
            }
            About::Node(name) => set(&mut seen.blocks, &name, held(cluster, &name)),
            About::Group(name, labels) => set(&mut seen.groups, &name, labels),
            About::Service(namespace, name, true) => drop(seen.services.insert((namespace, name))),
            About::Service(namespace, name, false) => drop(seen.services.remove(&(namespace, name))),
            About::Policy(object) => seen.take_policy(&object, cluster),
            About::Settings => {
                if seen.options != cluster.settings.options() {
                    // what all of them mean has changed
                    cluster.policies.keys().for_each(|object| seen.take_policy(object, cluster));
                }
                seen.options = cluster.settings.options();
                seen.cluster = cluster.settings.cluster.cluster_name.clone();
            }
            About::Synced => {
                seen.complete = cluster.is_synced();
                seen.cluster = cluster.settings.cluster.cluster_name.clone();
            }
        }
    }
}

impl Seen {
    /// That a version is too large for a table is not followed: it was told so when it came.
    fn take_policy(&mut self, object: &ObjectRef, cluster: &Cluster) {
        let policy = cluster.policies.get(object).and_then(|entry| entry.loaded.policy());
        let of = self.policies.entry(object.namespace.clone()).or_default();
        match policy {
            Some(policy) => drop(of.insert(object.clone(), Arc::new(policy.clone()))),
            None => drop(of.remove(object)),
        }
        if of.is_empty() {
            self.policies.remove(&object.namespace);
        }
    }

    fn forget(&mut self, namespace: &str, name: &str) {
        let Some(of) = self.pods.get_mut(namespace) else { return };
        of.remove(name);
        if of.is_empty() {
            self.pods.remove(namespace);
        }
    }
}

/// Blocks of pools that a node holds; none if it holds none.
fn held(cluster: &Cluster, node: &str) -> Option<BTreeMap<Name, Vec<Cidr>>> {
    let pools = &cluster.nodes.get(node)?.cilium.as_ref()?.pools;
    let held = pools.iter().filter(|(_, share)| !share.blocks.is_empty());
    let held: BTreeMap<_, _> = held.map(|(pool, share)| (pool.clone(), share.blocks.clone())).collect();
    (!held.is_empty()).then_some(held)
}

fn set<T>(map: &mut BTreeMap<Name, T>, name: &Name, value: Option<T>) {
    match value {
        Some(value) => drop(map.insert(name.clone(), value)),
        None => drop(map.remove(name)),
    }
}

impl View for Known {
    fn options(&self) -> Options {
        self.seen().options
    }

    fn is_complete(&self) -> bool {
        self.seen().complete
    }

    fn cluster_name(&self) -> Arc<str> {
        self.seen().cluster.clone()
    }

    fn pods(&self, namespace: Option<&str>, look: &mut dyn FnMut(&Pod, Option<&Namespace>) -> ControlFlow<()>) {
        let seen = self.seen();
        let mut through = |name: &str, pods: &BTreeMap<Name, Arc<Pod>>| {
            let of = seen.namespaces.get(name);
            pods.values().try_for_each(|pod| look(pod, of))
        };
        // that it was told to stop is no news to who told it
        let _ = match namespace {
            Some(name) => seen.pods.get(name).map_or(ControlFlow::Continue(()), |pods| through(name, pods)),
            None => seen.pods.iter().try_for_each(|(name, pods)| through(name, pods)),
        };
    }

    fn has_cidr_group(&self, name: &str) -> bool {
        self.seen().groups.contains_key(name)
    }

    fn has_cidr_group_like(&self, selector: &Selector) -> bool {
        self.seen().groups.values().any(|labels| matches_plain(selector, labels))
    }

    fn has_service(&self, namespace: &str, name: &str) -> bool {
        self.seen().services.contains(&(namespace.into(), name.into()))
    }

    fn policies(&self, namespace: Option<&str>, look: &mut dyn FnMut(&Policy) -> ControlFlow<()>) {
        let seen = self.seen();
        let is_meant = |of: &str| of.is_empty() || namespace.is_none_or(|n| n == of);
        let of = seen.policies.iter().filter(|(name, _)| is_meant(name));
        // that it was told to stop is no news to who told it
        let _ = of.flat_map(|(_, policies)| policies.values()).try_for_each(|p| look(p));
    }

    fn pools(&self) -> Vec<Arc<PodIpPool>> {
        self.seen().pools.values().cloned().collect()
    }

    fn blocks(&self, pool: &str) -> Vec<(Arc<str>, Cidr)> {
        let seen = self.seen();
        let of =
            seen.blocks.iter().flat_map(|(node, pools)| pools.get(pool).into_iter().flatten().map(move |b| (node, b)));
        of.map(|(node, block)| (node.clone(), *block)).collect()
    }
}
