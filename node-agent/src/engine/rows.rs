//! Changes of rows become wishes.

use axoneme_flow::Time;
use axoneme_model::rows::{IpRow, NodeConfigRow, ServiceRow};
use axoneme_wire::{Row, RowChange, RowKey, client::Batch};
use ipnetwork::IpNetwork;
use std::{collections::BTreeSet, sync::Arc};

use super::{Engine, Outgoing};
use crate::plan::{self, FrontendKey, RouteContext, Ways};

impl Engine {
    pub(super) fn fold(&mut self, batch: Batch) {
        self.complete.extend(batch.complete.iter().copied());
        let config = self.rows.rows().config.clone();
        let snapshot = !batch.complete.is_empty();
        if !snapshot {
            self.forget_names(&batch.changes);
        }
        let changes = match self.rows.fold(batch) {
            Ok(changes) => changes,
            Err(error) => {
                tracing::warn!(%error, "asking the operator for snapshots");
                self.outgoing.push(Outgoing::Resync);
                return;
            }
        };
        self.tell_names(&changes, snapshot);
        if snapshot || !changes.is_empty() {
            self.rows_changed();
        }
        let changes = if snapshot { self.replace_former(changes) } else { changes };
        let whole = self.rows.rows().config != config;
        for change in &changes {
            self.wish(change);
        }
        if snapshot {
            self.ips.compact();
        }
        if whole {
            self.replan(config.as_ref());
        }
    }

    /// Names of what is about to go, while its rows are still there.
    fn forget_names(&self, changes: &[RowChange]) {
        let (Some(flows), rows, now) = (&self.parts.flows, self.rows.rows(), self.wall()) else { return };
        let gone: Vec<&RowKey> =
            changes.iter().filter_map(|c| if let RowChange::Remove(key) = c { Some(key) } else { None }).collect();
        if gone.is_empty() {
            return;
        }
        flows.names(|names| {
            for key in gone {
                match key {
                    RowKey::Ip(prefix) => names.remove_ip(*prefix, now),
                    RowKey::Identity(id) => names.remove_identity(*id),
                    RowKey::Rule(id) => names.remove_rule(*id),
                    RowKey::Endpoint(uid) => {
                        if let Some(row) = rows.endpoints.get(uid) {
                            names.remove_endpoint(row);
                        }
                    }
                    RowKey::Service(ns, name) => {
                        if let Some(row) = rows.services.get(&(ns.clone(), name.clone())) {
                            names.remove_service(row);
                        }
                    }
                    RowKey::Node(name) => names.remove_node(name),
                    RowKey::Config(_) | RowKey::Table(_) => {}
                }
            }
        });
    }

    /// Names of what has come.
    pub(super) fn tell_names(&self, changes: &[RowChange], snapshot: bool) {
        let (Some(flows), rows, now) = (&self.parts.flows, self.rows.rows(), self.wall()) else { return };
        flows.names(|names| {
            if snapshot {
                // the first names hold for records from before they came, too
                names.sync(rows, if self.acked.is_none() { Time(0) } else { now });
                return;
            }
            for change in changes {
                let RowChange::Upsert(row) = change else { continue };
                match row {
                    Row::Ip(r) => names.upsert_ip(r, now),
                    Row::Identity(r) => names.upsert_identity(r),
                    Row::Rule(r) => names.upsert_rule(r),
                    Row::Endpoint(r) => names.upsert_endpoint(r),
                    Row::Service(r) => names.upsert_service(r),
                    Row::Node(r) => names.upsert_node(r),
                    Row::Config(r) => names.set_cluster(&r.cluster_name),
                    Row::Table(_) => {}
                }
            }
        });
    }

    fn wall(&self) -> Time {
        let since = self.parts.clock.wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
        Time(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    fn wish(&mut self, change: &RowChange) {
        match change {
            RowChange::Upsert(Row::Table(row)) => self.tables.want(row.id),
            RowChange::Patch(patch) => self.tables.patch(patch.clone()),
            RowChange::Remove(RowKey::Table(id)) => self.tables.unwant(*id),
            RowChange::Upsert(Row::Ip(row)) => self.wish_ip(row.prefix),
            RowChange::Remove(RowKey::Ip(prefix)) => self.wish_ip(*prefix),
            RowChange::Upsert(Row::Service(row)) => self.wish_service(&(row.namespace.clone(), row.name.clone())),
            RowChange::Remove(RowKey::Service(ns, name)) => self.wish_service(&(ns.clone(), name.clone())),
            RowChange::Upsert(Row::Endpoint(row)) => self.touch(&row.uid),
            RowChange::Remove(RowKey::Endpoint(uid)) => self.touch(uid),
            RowChange::Upsert(Row::Node(row)) => self.node_changed(&row.name),
            RowChange::Remove(RowKey::Node(name)) => self.node_changed(name),
            // names for flows, and the configuration, which is compared as a whole
            RowChange::Upsert(Row::Identity(_) | Row::Rule(_) | Row::Config(_))
            | RowChange::Remove(RowKey::Identity(_) | RowKey::Rule(_) | RowKey::Config(_)) => {}
        }
    }

    /// The configuration changed: everything that depends on it.
    fn replan(&mut self, old: Option<&NodeConfigRow>) {
        self.base.dirty = true;
        let Some(config) = self.rows.rows().config.clone() else { return };
        if old.is_none_or(|o| o.pools != config.pools || o.blocks != config.blocks) {
            self.use_blocks(&config);
        }
        let routing = old.is_none_or(|o| o.routing != config.routing || o.direct != config.direct);
        if routing {
            for prefix in self.rows.rows().ips.keys().copied().collect::<Vec<_>>() {
                self.wish_ip(prefix);
            }
        }
        if routing || old.is_none_or(|o| o.health != config.health) {
            for name in self.rows.rows().nodes.keys().cloned().collect::<Vec<_>>() {
                self.wish_health(&name);
            }
        }
        if old.is_none_or(|o| o.services != config.services) {
            for key in self.rows.rows().services.keys().cloned().collect::<Vec<_>>() {
                self.wish_service(&key);
            }
        }
    }

    /// What the ipcache should say of a prefix: a local endpoint speaks for itself, else the row.
    pub(super) fn wish_ip(&mut self, prefix: IpNetwork) {
        if self.local.contains_key(&prefix.ip()) && prefix == IpNetwork::from(prefix.ip()) {
            return;
        }
        let (rows, node) = (self.rows.rows(), &self.parts.node);
        let entry = rows
            .ips
            .get(&prefix)
            .and_then(|row: &IpRow| plan::ip_entry(row, node, &rows.config.as_ref()?.routing, &Ways::of(rows, node)));
        let entry = entry.or_else(|| self.guard.address(prefix)).or_else(|| self.health.address(prefix));
        match entry {
            Some(entry) => self.ips.set(prefix, entry),
            None => self.ips.unset(&prefix),
        };
    }

    pub(super) fn wish_service(&mut self, key: &(Arc<str>, Arc<str>)) {
        let rows = self.rows.rows();
        let enabled = rows.config.as_ref().is_some_and(|c| c.services);
        let wanted: Vec<_> = rows
            .services
            .get(key)
            .filter(|_| enabled)
            .map(|row: &ServiceRow| plan::services(row, &self.parts.node).collect())
            .unwrap_or_default();
        let keys: BTreeSet<FrontendKey> = wanted.iter().map(|(k, _)| *k).collect();
        for old in self.frontends.remove(key).unwrap_or_default() {
            // a frontend may have passed to another service in the same batch
            if !keys.contains(&old) && !self.frontends.values().flatten().any(|k| *k == old) {
                self.services.unset(&old);
            }
        }
        for (k, entry) in wanted {
            self.services.set(k, entry);
        }
        if !keys.is_empty() {
            self.frontends.insert(key.clone(), keys.into_iter().collect());
        }
    }

    /// The endpoints of a pod.
    fn touch(&mut self, uid: &str) {
        let of_pod = self.endpoints.iter().filter(|(_, e)| *e.intent.uid == *uid).map(|(a, _)| a.clone());
        self.dirty.extend(of_pod);
    }

    fn node_changed(&mut self, name: &Arc<str>) {
        self.base.dirty = true;
        self.wish_routes(name);
        self.wish_health(name);
        self.wish_ways(name);
    }

    /// What the addresses of a node say decides whether its pods are reached past the tunnel; those of this node, whether
    /// anybody's are.
    fn wish_ways(&mut self, name: &Arc<str>) {
        let rows = self.rows.rows();
        if rows.config.as_ref().is_none_or(|c| c.direct.is_none()) {
            return;
        }
        let own = **name == *self.parts.node;
        let concerned: Vec<_> = rows.ips.values().filter(|r| own || r.node == *name).map(|r| r.prefix).collect();
        for prefix in concerned {
            self.wish_ip(prefix);
        }
        let others: Vec<_> = self.rows.rows().nodes.keys().filter(|n| own && *n != name).cloned().collect();
        for other in others {
            self.wish_health(&other);
        }
    }

    /// Routes to a node's pods; all nodes' when the base changes.
    pub(super) fn wish_routes(&mut self, name: &Arc<str>) {
        let (Some(config), Some(base)) = (self.rows.rows().config.as_ref(), self.base.plan.as_ref()) else { return };
        let context = RouteContext {
            node: &self.parts.node,
            routing: &config.routing,
            overlay_ifindex: self.base.tunnels.overlay,
            underlay: &base.underlay,
            sources: &base.addresses,
            ipv4: config.ipv4,
            ipv6: config.ipv6,
            ways: Ways::of(self.rows.rows(), &self.parts.node),
        };
        let wanted = self.rows.rows().nodes.get(name).map(|n| plan::node_routes(n, &context)).unwrap_or_default();
        let keys: Vec<IpNetwork> = wanted.iter().map(|r| r.destination).collect();
        for old in self.node_routes.remove(name).unwrap_or_default() {
            // a CIDR may have passed to another node in the same batch
            if !keys.contains(&old) && !self.node_routes.values().flatten().any(|k| *k == old) {
                self.routes.unset(&old);
            }
        }
        for route in wanted {
            self.routes.set(route.destination, route);
        }
        if !keys.is_empty() {
            self.node_routes.insert(name.clone(), keys);
        }
    }
}
