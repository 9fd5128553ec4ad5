//! Takes objects in.

use axoneme_crds::axoneme_config::IpamMode;
use axoneme_intake::{ObjectErrors, Parsed, Settings, object_ref, parse_as};
use axoneme_model::{Identity, Kind, ObjectRef, bandwidth, world::Node};
use serde_json::Value;
use tracing::warn;

use super::{Cluster, ConfigEntry, Key, PoolEntry, WorldChange, said::SaidNode};
use crate::{ipam::Pool, source::SourceEvent};

impl Cluster {
    /// Takes one event in.
    pub fn apply(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Apply { kind, object } => self.object(kind, object),
            SourceEvent::Delete(object) => self.delete(object),
            SourceEvent::Synced(kind) => drop(self.synced.insert(kind)),
            SourceEvent::Broken { what, problem: Some(p) } => drop(self.broken.insert(what, p)),
            SourceEvent::Broken { what, problem: None } => drop(self.broken.remove(&what)),
        }
    }

    fn object(&mut self, kind: Kind, raw: Value) {
        let object = match object_ref(kind, &raw) {
            Ok(o) => o,
            Err(e) => return warn!(error = %e, "object without a usable name left out"),
        };
        if self.is_older(&object, &raw) {
            return;
        }
        if is_policy(kind) {
            return self.apply_policy(object, raw);
        }
        let parsed = parse_as(kind, &raw, &self.settings.options());
        let parsed = parsed.and_then(|p| match self.misplaced(&object, &raw) {
            Some(errors) => Err(errors),
            None => Ok(p),
        });
        match parsed {
            Ok(parsed) => {
                self.errors.remove(&object);
                self.refused_uids.remove(&object);
                self.parsed(&object, parsed, raw);
            }
            Err(errors) => self.rejected(object, errors, raw),
        }
    }

    fn misplaced(&self, object: &ObjectRef, raw: &Value) -> Option<ObjectErrors> {
        let is = object.kind == Kind::CiliumNodeConfig;
        is.then(|| self.overrides.misplaced(object, generation(raw))).flatten()
    }

    /// Whether a newer version is known: what was just written may come back later than what it says.
    fn is_older(&mut self, object: &ObjectRef, raw: &Value) -> bool {
        // a version for each pod would be as large as what is known of the pod
        if !is_written(object.kind) {
            return false;
        }
        let version = raw.pointer("/metadata/resourceVersion").and_then(Value::as_str).and_then(|v| v.parse().ok());
        let Some(version) = version else { return false };
        if self.deleted.as_ref().and_then(|d| d.get(object)).is_some_and(|last| version <= *last) {
            return true;
        }
        let known = match identity_of(object) {
            Some(id) => self.identity_versions.entry(id).or_insert(version),
            None => self.versions.entry(object.clone()).or_insert(version),
        };
        let older = *known > version;
        *known = version.max(*known);
        older
    }

    fn rejected(&mut self, object: ObjectRef, errors: ObjectErrors, raw: Value) {
        warn!(error = %errors, "object can't be used; its last good version stays");
        self.touched.refused.insert(object.clone());
        if let Some(uid) = raw.pointer("/metadata/uid").and_then(Value::as_str) {
            self.refused_uids.insert(object.clone(), uid.to_owned());
        }
        if object.kind == Kind::CiliumPodIPPool {
            let entry = PoolEntry { generation: errors.generation, errors: Some(errors.clone()), raw };
            self.pool_objects.insert(object.name.clone(), entry);
            self.touched.ipam = true;
        } else if object.kind == Kind::CiliumNodeConfig {
            self.overrides.refuse(&object, raw, errors.clone());
            self.touched.config = true;
        } else if object.kind == Kind::AxonemeConfig {
            self.config = Some(ConfigEntry { generation: errors.generation, errors: Some(errors.clone()), raw });
            self.touched.config = true;
        }
        self.errors.insert(object, errors);
    }

    fn parsed(&mut self, object: &ObjectRef, parsed: Parsed, raw: Value) {
        match parsed {
            Parsed::Namespace(name, ns) => {
                let old = self.namespaces.insert(name.clone(), ns.clone());
                let changed = old.is_some_and(|o| o != ns);
                self.touched.choices |= changed;
                self.touched.ipam |= changed && self.settings.ipam.mode == IpamMode::MultiPool;
                self.changes.push(WorldChange::Namespace(name, Some(ns)));
            }
            Parsed::Pod(key, pod) => self.pod(&key, pod.map(|p| *p)),
            Parsed::Node(node) => self.node(*node, &raw),
            Parsed::CiliumNode(node) => {
                let name = node.name.clone();
                let entry = self.nodes.entry(name.clone()).or_default();
                (entry.cilium, entry.lost) = (Some(*node), None);
                entry.set_cilium(&raw);
                self.touched.ipam = true;
                self.touched.configs = true;
                self.emit_node(&name);
            }
            Parsed::Service(service) => {
                let key = (service.namespace.clone(), service.name.clone());
                self.services.insert(key.clone(), *service);
                self.emit_service(&key);
            }
            Parsed::EndpointSlice(slice) => self.slice((slice.namespace.clone(), slice.name.clone()), Some(slice)),
            Parsed::CidrGroup(name, group) => {
                if !self.crowded.holds(&name, &group) {
                    self.changes.push(WorldChange::CidrGroup(name, Some(group)));
                }
            }
            Parsed::Identity(id, labels) => self.touched.identities.push((id, Some(labels))),
            Parsed::PodIpPool(pool) => {
                let text = |p: &str| raw.pointer(p).and_then(Value::as_str).unwrap_or_default();
                let created = text("/metadata/creationTimestamp").into();
                let generation = generation(&raw);
                let name = pool.name.clone();
                self.pool_objects.insert(name.clone(), PoolEntry { raw, generation, errors: None });
                let pool = Pool { spec: *pool, created };
                let changed = self.pools.get(&name) != Some(&pool);
                self.pools.insert(name, pool);
                (self.touched.ipam, self.touched.pools) = (true, true);
                self.touched.configs |= changed;
                self.touched.choices |= changed;
            }
            Parsed::NodeConfig(config) => {
                let generation = generation(&raw);
                self.touched.configs |= self.overrides.set(*config, raw, generation);
                self.touched.config = true;
            }
            Parsed::Config(settings) => {
                let generation = generation(&raw);
                self.config = Some(ConfigEntry { raw, generation, errors: None });
                self.settings(*settings);
            }
            Parsed::Policy(_) | Parsed::Ignored => warn!(%object, "object of an unexpected kind left out"),
        }
    }

    fn node(&mut self, node: Node, raw: &Value) {
        let name = node.name.clone();
        let entry = self.nodes.entry(name.clone()).or_default();
        (entry.node, entry.node_said) = (Some(node), SaidNode::of(raw));
        self.emit_node(&name);
    }

    fn settings(&mut self, settings: Settings) {
        let old = std::mem::replace(&mut self.settings, settings);
        self.touched.config = true;
        if old == self.settings {
            return;
        }
        (self.touched.ipam, self.touched.configs, self.touched.choices) = (true, true, true);
        if old.cluster != self.settings.cluster {
            self.changes.push(WorldChange::Config(self.settings.cluster.clone()));
        }
        if old.cluster.host.enabled != self.settings.cluster.host.enabled {
            self.touched.policies.extend(self.policies.keys().cloned());
        }
        if old.options() != self.settings.options() {
            self.reload_policies();
        }
        if old.ip_families != self.settings.ip_families || old.ipam != self.settings.ipam {
            self.recount();
        }
        self.emit_nodes();
    }

    fn pod(&mut self, key: &Key, pod: Option<axoneme_model::world::Pod>) {
        let pod = pod.map(|p| self.names.pod(p));
        let key = &pod.as_ref().map_or_else(|| key.clone(), |p| (p.namespace.clone(), p.name.clone()));
        let old = match pod {
            Some(p) => self.pods.insert(key.clone(), p.into()),
            None => self.pods.remove(key),
        };
        let new = self.pods.get(key);
        if let Some(old) = &old
            && new.is_none_or(|n| n.uid != old.uid)
        {
            self.reported.remove(&old.uid);
            self.gone.remove(&old.uid);
        }
        if old.as_ref() == new {
            return;
        }
        if let Some(new) = new.filter(|n| old.as_ref().is_none_or(|o| o.annotations != n.annotations)) {
            let problems = bandwidth::problems(&new.annotations);
            if !problems.is_empty() {
                let object = ObjectRef::new(Kind::Pod, &key.0, &key.1);
                warn!(%object, problems = problems.join("; "), "limits of a pod that are none");
                self.touched.refused.insert(object);
            }
        }
        self.emit_pod(key);
    }

    fn slice(&mut self, key: Key, slice: Option<axoneme_intake::EndpointSlice>) {
        let new = slice.as_ref().and_then(service_of);
        let old = self.slices.get(&key).and_then(service_of);
        if let Some(service) = &old
            && let Some(slices) = self.by_service.get_mut(service)
        {
            slices.remove(&key);
            if slices.is_empty() {
                self.by_service.remove(service);
            }
        }
        if let Some(service) = &new {
            self.by_service.entry(service.clone()).or_default().insert(key.clone());
        }
        match slice {
            Some(s) => drop(self.slices.insert(key, s)),
            None => drop(self.slices.remove(&key)),
        }
        let services = old.iter().chain(new.iter().filter(|n| old.as_ref() != Some(*n)));
        for service in services {
            if &*service.0 == "default" && &*service.1 == "kubernetes" {
                self.emit_apiserver();
            }
            if self.services.contains_key(service) {
                self.emit_service(service);
            }
        }
    }

    fn delete(&mut self, object: ObjectRef) {
        self.errors.remove(&object);
        self.refused_uids.remove(&object);
        let last = match identity_of(&object) {
            Some(id) => self.identity_versions.remove(&id),
            None => self.versions.remove(&object),
        };
        if let (Some(deleted), Some(last)) = (&mut self.deleted, last) {
            deleted.insert(object.clone(), last);
        }
        let key = (object.namespace.clone(), object.name.clone());
        match object.kind {
            Kind::Namespace => {
                self.namespaces.remove(&object.name);
                self.changes.push(WorldChange::Namespace(object.name, None));
            }
            Kind::Pod => self.pod(&key, None),
            Kind::Node => {
                if let Some(e) = self.nodes.get_mut(&object.name) {
                    (e.node, e.node_said, e.report, e.lost) = (None, SaidNode::default(), None, None);
                    self.emit_node(&object.name);
                }
            }
            Kind::CiliumNode => {
                if let Some(e) = self.nodes.get_mut(&object.name) {
                    // what the node holds stays with it until it is written down again: its pods use it
                    e.lost = e.cilium.take().or_else(|| e.lost.take());
                    e.set_cilium(&Value::Null);
                    (self.touched.ipam, self.touched.configs) = (true, true);
                    self.emit_node(&object.name);
                }
            }
            Kind::Service => {
                self.services.remove(&key);
                self.emit_service(&key);
            }
            Kind::EndpointSlice => self.slice(key, None),
            Kind::CiliumCIDRGroup => self.changes.push(WorldChange::CidrGroup(object.name, None)),
            Kind::CiliumIdentity => {
                self.touched.identities.extend(identity_of(&object).map(|id| (id, None)));
            }
            Kind::CiliumNodeConfig => {
                self.overrides.remove(&object);
                (self.touched.configs, self.touched.config) = (true, true);
            }
            Kind::CiliumPodIPPool => {
                self.pools.remove(&object.name);
                self.pool_objects.remove(&object.name);
                (self.touched.ipam, self.touched.configs, self.touched.choices) = (true, true, true);
            }
            Kind::AxonemeConfig => {
                self.config = None;
                self.settings(Settings::default());
            }
            kind if is_policy(kind) => self.delete_policy(object),
            _ => {}
        }
    }
}

fn generation(raw: &Value) -> i64 {
    raw.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0)
}

fn service_of(slice: &axoneme_intake::EndpointSlice) -> Option<Key> {
    slice.service.as_ref().map(|s| (slice.namespace.clone(), s.clone()))
}

/// The number that a CiliumIdentity is named by.
fn identity_of(object: &ObjectRef) -> Option<Identity> {
    let of_kind = object.kind == Kind::CiliumIdentity;
    object.name.parse().ok().filter(|_| of_kind).map(Identity)
}

/// Whether the operator writes objects of the kind itself.
const fn is_written(kind: Kind) -> bool {
    !matches!(kind, Kind::Pod | Kind::Namespace | Kind::Service | Kind::EndpointSlice | Kind::CiliumCIDRGroup)
}

pub(super) const fn is_policy(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NetworkPolicy
            | Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy
            | Kind::ClusterNetworkPolicy
    )
}
