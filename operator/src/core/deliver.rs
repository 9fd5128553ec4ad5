//! From changes to rows at the hub.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use axoneme_compile::{Excess, Fit};
use axoneme_crds::axoneme_config::IpamMode;
use axoneme_intake::Routing;
use axoneme_model::{
    Identity, Labels, ObjectRef,
    rows::{EndpointRow, IdentityRow},
};
use axoneme_wire::{Row, RowChange, RowKey};
use tracing::warn;

use super::Core;
use crate::{
    compiler::Applied,
    configs,
    state::{WorldChange, crowded},
};

/// Whether one of these announcements is about the row.
fn rows_name(announce: &[(Identity, Labels)], row: &RowChange) -> bool {
    announce.iter().any(|(id, _)| row.key() == RowKey::Identity(*id))
}

/// Rounds of compiling in one flush: numbers that became usable change rows, which changes nothing further.
const ROUNDS: usize = 4;

impl Core {
    pub(super) fn deliver(&mut self, now: Instant) {
        self.try_again(now);
        let mut rows = Vec::new();
        let mut announce = Vec::new();
        for _ in 0..ROUNDS {
            let numbers = self.identities.take_changes();
            let mut changes = self.holding.release(self.hub.acked_by_all(), now);
            self.statuses.extend(changes.iter().filter_map(|c| match c {
                WorldChange::Policy(object, Some(_)) => Some(object.clone()),
                _ => None,
            }));
            let until = now + self.timing.announce;
            let (fresh, wait) = self.holding.hold(self.cluster.take_changes(), |p| self.rows.reads_new(p), until);
            changes.extend(fresh);
            if changes.is_empty() && numbers.is_empty() && announce.is_empty() && !rows.is_empty() {
                break;
            }
            if !changes.is_empty() || !numbers.is_empty() {
                let applied = self.compile(changes, numbers);
                rows.extend(applied.rows);
                self.todo.configs |= applied.guards;
                let asked = applied.wanted.iter().filter(|(_, wanted)| **wanted).map(|(l, _)| l.clone()).collect();
                self.holding.wait_for(&wait, &asked);
                applied.wanted.into_iter().for_each(|(labels, wanted)| self.identities.want(labels, wanted));
            }
            if self.local {
                for (id, labels) in self.identities.create() {
                    self.identities.observed(id, labels);
                }
            }
            let pending = self.identities.pending();
            if pending.is_empty() && wait.is_empty() {
                break;
            }
            let moves = self.rows.moves_to(&pending);
            let fresh = self.identities.advance(&moves, self.hub.acked_by_all(), now);
            announce.extend(fresh.into_iter().filter(|a| !announce.contains(a)).collect::<Vec<_>>());
        }
        rows.extend(
            announce
                .iter()
                .map(|(id, labels)| RowChange::Upsert(Row::Identity(IdentityRow { id: *id, labels: labels.clone() }))),
        );
        // an announcement is no row of the compiler's, so nobody else takes it back
        let withdrawn = self.identities.take_withdrawn().into_iter().map(|id| RowChange::Remove(RowKey::Identity(id)));
        rows.extend(withdrawn.filter(|r| !rows_name(&announce, r)).collect::<Vec<_>>());
        let configs = self.config_rows();
        rows.extend(configs.iter().cloned());
        self.choose_pools(&mut rows);
        let revision = self.publish(rows, !(announce.is_empty() && configs.is_empty()));
        for (id, labels) in announce {
            self.identities.announced(id, labels, revision, now + self.timing.announce);
        }
        self.told_configs(configs, revision);
    }

    /// The revision that has the rows. `awaited`: somebody waits until all nodes have it, also where there are none.
    fn publish(&mut self, rows: Vec<RowChange>, awaited: bool) -> u64 {
        if let Some(shown) = &mut self.shown {
            shown.rows(&rows);
        }
        let before = self.hub.revision();
        let revision = if rows.is_empty() { before } else { self.hub.publish(rows) };
        let mut asks = self.past.published(revision);
        asks |= self.tunnels.published(revision);
        asks |= self.holding.published(revision, |set| self.identities.is_usable(set));
        // a revision with nothing of these, of which nodes would not say that they have it
        asks |= revision == before && awaited;
        if asks {
            self.hub.await_all();
        }
        revision
    }

    /// Rows of settings were published with this revision.
    fn told_configs(&mut self, configs: Vec<RowChange>, revision: u64) {
        for c in configs {
            if let RowChange::Upsert(Row::Config(r)) = c {
                if self.configs.get(&r.node).is_none_or(|(old, _)| old.overrides != r.overrides) {
                    self.overridden.insert(r.node.clone(), revision);
                }
                self.configs.insert(r.node.clone(), (r, revision));
                self.todo.config = true;
            }
        }
    }

    /// Compiles changes. Policies that no table can hold are in force as they were, or fail closed.
    fn compile(&mut self, changes: Vec<WorldChange>, numbers: Vec<(Labels, Option<Identity>)>) -> Applied {
        let mut policies = Vec::new();
        for change in &changes {
            match change {
                WorldChange::Pod(key, pod) => {
                    if let Some(shown) = &mut self.shown {
                        shown.pod(key, pod.as_ref());
                    }
                }
                WorldChange::Policy(object, Some(_)) => policies.push(object.clone()),
                WorldChange::Policy(object, None) => drop(self.oversized.remove(object)),
                _ => {}
            }
        }
        let instead = |object: &ObjectRef| self.cluster.instead(object);
        let suspect = |object: &ObjectRef| self.cluster.is_told_too_large(object);
        let innocent = |object: &ObjectRef| self.cluster.is_told_crowded(object);
        let limit = self.timing.table_entries;
        let fit = Fit { limit, suspect: &suspect, innocent: &innocent, instead: &instead };
        let brought = crowded::groups(&changes);
        let applied = self.rows.apply(changes, numbers, &fit);
        let concerned = self.cluster.crowded.update(brought, &applied.misfits);
        self.statuses.extend(concerned);
        // one that no pod needed so far may turn out not to fit, too
        let others = applied.misfits.policies.keys().filter(|o| !policies.contains(o)).cloned();
        let policies: Vec<ObjectRef> = policies.iter().cloned().chain(others).collect();
        for object in policies {
            let excess = applied.misfits.policies.get(&object).cloned();
            if let Some(Excess { entries, limit, .. }) = &excess {
                if self.oversized.insert(object.clone()) {
                    warn!(policy = %object, entries, limit, "a policy table would be too large; held back");
                }
                self.statuses.insert(object.clone());
            } else {
                self.oversized.remove(&object);
            }
            self.cluster.compiled(&object, excess);
        }
        applied
    }

    /// Policies that were too large come in again, a while after something else changed: there may be room for them.
    fn try_again(&mut self, now: Instant) {
        if self.room_due.is_some_and(|due| due <= now) {
            self.room_due = None;
            // one that reads new labels would split identities only to have them merged again
            let rows = &self.rows;
            self.cluster.try_again(|policy| !rows.reads_new(policy));
        } else if self.cluster.has_changes() && (!self.oversized.is_empty() || self.cluster.crowded.groups() > 0) {
            self.room_due.get_or_insert(now + self.timing.room);
        }
    }

    /// Changes of the nodes' settings.
    fn config_rows(&mut self) -> Vec<RowChange> {
        let hybrid = matches!(self.cluster.settings.routing, Routing::Hybrid { .. });
        let acknowledged = self.hub.acked_by_all();
        let tunnel = configs::tunnel(&self.cluster.settings.routing);
        self.todo.configs |= self.past.is_due(hybrid, acknowledged);
        self.todo.configs |= self.tunnels.is_due(tunnel, acknowledged);
        if !std::mem::take(&mut self.todo.configs) {
            return Vec::new();
        }
        // a node whose labels changed may be one that more or fewer objects select
        self.todo.config |= !self.cluster.overrides.is_empty();
        let told = configs::Told {
            past: self.past.step(hybrid, acknowledged),
            tunnels: self.tunnels.step(tunnel, acknowledged),
        };
        let wanted = configs::rows(&self.cluster, told, |node| self.rows.guard(node).cloned());
        let gone: Vec<_> = self.configs.keys().filter(|n| !wanted.contains_key(*n)).cloned().collect();
        for node in &gone {
            self.configs.remove(node);
            self.overridden.remove(node);
        }
        let changed = wanted.into_iter().filter(|(n, r)| self.configs.get(n).is_none_or(|(old, _)| **old != *r));
        let changed = changed.map(|(_, r)| RowChange::Upsert(Row::Config(Arc::new(r))));
        gone.into_iter().map(|n| RowChange::Remove(RowKey::Config(n))).chain(changed).collect()
    }

    /// The pools that rows name: the compiler knows annotations only. Where pools or namespaces changed, pods that still
    /// wait for an address are told anew; one that has its address keeps it.
    fn choose_pools(&mut self, rows: &mut Vec<RowChange>) {
        let multi = self.cluster.settings.ipam.mode == IpamMode::MultiPool;
        for row in rows.iter_mut() {
            let RowChange::Upsert(Row::Endpoint(e)) = row else { continue };
            let key = (e.namespace.clone(), e.name.clone());
            if let Some(pod) = self.cluster.pods.get(&key) {
                let told = self.hub.endpoint(&pod.uid).filter(|_| !self.cluster.is_waiting(&pod.node, &key));
                let [pool_v4, pool_v6] = match (multi, told) {
                    // in the other modes there is one pool, whatever pods are annotated with
                    (false, _) => Default::default(),
                    (true, Some(told)) => [told.pool_v4.clone(), told.pool_v6.clone()],
                    (true, None) => self.cluster.choice(pod).map(|c| c.row()),
                };
                if (&e.pool_v4, &e.pool_v6) != (&pool_v4, &pool_v6) {
                    let e = Arc::make_mut(e);
                    (e.pool_v4, e.pool_v6) = (pool_v4, pool_v6);
                }
            }
        }
        if !std::mem::take(&mut self.todo.choices) || !multi {
            return;
        }
        let named: BTreeSet<RowKey> = rows.iter().map(RowChange::key).collect();
        for (key, _) in self.cluster.waiting() {
            let Some(pod) = self.cluster.pods.get(key) else { continue };
            let Some(row) = self.hub.endpoint(&pod.uid) else { continue };
            let [pool_v4, pool_v6] = self.cluster.choice(pod).map(|c| c.row());
            let new = EndpointRow { pool_v4, pool_v6, ..row.clone() };
            if new != *row && !named.contains(&RowKey::Endpoint(pod.uid.clone())) {
                rows.push(RowChange::Upsert(Row::Endpoint(new.into())));
            }
        }
    }
}
