//! What the holder of the Lease writes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axoneme_model::{Kind, ObjectRef, bandwidth};
use axoneme_wire::NodeEvent;
use tracing::{error, warn};

use super::Core;
use crate::{
    ipam,
    plan::{identities, lent, nodes, overrides, pools, status},
    source::SourceEvent,
    state::TABLE_TOO_LARGE,
    write::{Operation, Part, Write, WriteKey},
};

/// Writes that are under way or waited for, beyond which no more conditions are written: the rest when there are fewer.
/// Of ten thousand policies that are loaded at once the bodies would be most of what the process has ever held.
const WRITES: usize = 1024;
/// What nodes call a packet that policy denied: there may be many, and others go first.
const DENIAL: &str = "PacketDrop";
/// Events that wait; more are dropped: they are best effort.
const EVENTS: usize = 256;
/// Events written at once, and how often one more: a broken rollout must not fill the API server with them.
pub(super) const EVENTS_AT_ONCE: u32 = 64;
const EVERY: Duration = Duration::from_millis(200);

impl Core {
    /// All writes that are due and not under way.
    pub(super) fn plan(&mut self, now: Instant, wall: &str) -> Vec<Write> {
        let mut writes = std::mem::take(&mut self.events);
        self.tell_refused(&mut writes);
        self.cluster.crowded.tell(&mut writes);
        self.plan_identities(now, &mut writes);
        self.plan_addresses(&mut writes);
        for name in std::mem::take(&mut self.todo.nodes) {
            if let Some(n) = self.cluster.nodes.get(&name) {
                writes.extend(nodes::ready(&name, n, wall));
            }
        }
        self.plan_status(now, wall, &mut writes);
        self.plan_pools(now, wall, &mut writes);
        self.limit_events(now, &mut writes);
        writes.retain(|w| self.is_due(w, now));
        for w in writes.iter().filter(|w| !matches!(w.operation, Operation::Event { .. })) {
            self.in_flight.insert(w.key.clone(), matches!(w.operation, Operation::Create(_)));
            if w.key.object.kind == Kind::CiliumNode {
                let name = &w.key.object.name;
                nodes::promise(&mut self.promises, &self.cluster, name, self.addresses.nodes.get(name));
            }
        }
        writes
    }

    /// Objects that can't be used as they are, where `kubectl describe` shows it.
    fn tell_refused(&mut self, writes: &mut Vec<Write>) {
        for object in std::mem::take(&mut self.todo.refused) {
            let errors = self.cluster.errors.get(&object);
            let errors = errors.or_else(|| self.cluster.policies.get(&object).and_then(|p| p.errors.as_ref()));
            writes.extend(errors.map(|e| status::event(&object, e)));
            writes.extend(self.limits_refused(&object));
        }
    }

    /// A pod whose annotations about bandwidth are not what is enforced: it has no conditions that could say so.
    fn limits_refused(&self, object: &ObjectRef) -> Option<Write> {
        let key = (object.namespace.clone(), object.name.clone());
        let pod = self.cluster.pods.get(&key).filter(|_| object.kind == Kind::Pod)?;
        let problems = bandwidth::problems(&pod.annotations);
        let told = || Write::event(object.clone(), true, "BandwidthRefused", status::cut(problems.join("; ")));
        (!problems.is_empty()).then(told)
    }

    /// Names the objects of events, and puts those aside that are more than people read: they follow.
    fn limit_events(&mut self, now: Instant, writes: &mut Vec<Write>) {
        let rested = self.told_at.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        if rested >= EVERY {
            let earned = rested.as_millis() / EVERY.as_millis();
            self.tellings = EVENTS_AT_ONCE.min(self.tellings.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)));
            self.told_at = Some(now);
        }
        let mut aside = Vec::new();
        let mut go = Vec::new();
        for mut w in std::mem::take(writes) {
            if let Operation::Event { message, uid, reason, .. } = &mut w.operation {
                if self.told.get(&w.key) == Some(message) {
                    continue;
                }
                let kept_free = if reason == DENIAL { EVENTS_AT_ONCE / 2 } else { 0 };
                if self.tellings <= kept_free {
                    aside.push(w);
                    continue;
                }
                self.tellings -= 1;
                *uid = self.cluster.uid(&w.key.object);
            }
            go.push(w);
        }
        *writes = go;
        aside.truncate(EVENTS);
        self.events = aside;
    }

    /// Whether the write may go now. What may not is looked at again when its predecessor is through, or its pause over.
    fn is_due(&mut self, write: &Write, now: Instant) -> bool {
        if let Operation::Event { message, .. } = &write.operation {
            return self.told.insert(write.key.clone(), message.clone()).as_ref() != Some(message);
        }
        let resting = self.failed.get(&write.key).is_some_and(|f| f.again > now);
        if resting {
            self.again(&write.key);
        }
        if resting
            && write.key.object.kind == Kind::CiliumIdentity
            && let Ok(id) = write.key.object.name.parse()
        {
            self.identities.not_created(axoneme_model::Identity(id));
        }
        !resting && !self.in_flight.contains_key(&write.key)
    }

    fn plan_identities(&mut self, now: Instant, writes: &mut Vec<Write>) {
        if self.identities.missing() > 0 {
            let room = self.identities.room();
            let create = self.identities.create();
            if self.identities.missing() > create.len() && room == 0 {
                error!("no identity number is left of 65280: fewer distinct label sets must be read by policies");
            }
            writes.extend(create.iter().map(|(id, labels)| identities::create(*id, labels)));
        }
        if self.collected.is_none_or(|at| now.duration_since(at) >= self.timing.collect) {
            self.collected = Some(now);
            let rows = &self.rows;
            let old = self.identities.collect(|labels, id| rows.uses(labels, id), self.timing.identity_grace, now);
            writes.extend(old.into_iter().map(identities::delete));
        }
    }

    fn plan_addresses(&mut self, writes: &mut Vec<Write>) {
        if !std::mem::take(&mut self.todo.ipam) {
            return;
        }
        nodes::settle(&mut self.promises, &self.cluster);
        let states = nodes::states(&self.cluster, &self.promises);
        let plan = ipam::plan(&self.cluster.settings.ipam, &self.cluster.pools, &states);
        writes.extend(nodes::cilium_nodes(&self.cluster, &plan));
        writes.extend(lent::statuses(&self.cluster));
        for p in plan.problems.difference(&self.addresses.problems) {
            let pool = p.pool.as_ref().filter(|name| self.cluster.pool_objects.contains_key(*name));
            let about = match pool {
                Some(pool) => ObjectRef::new(Kind::CiliumPodIPPool, "", pool),
                None => ObjectRef::new(Kind::AxonemeConfig, "", axoneme_intake::CONFIG_NAME),
            };
            writes.push(Write::event(about, true, p.trouble.reason(), p.to_string()));
        }
        let told = |o: &ObjectRef, text: &str| {
            self.told.get(&WriteKey { object: o.clone(), part: Part::Event }).is_some_and(|t| t == text)
        };
        let waiting = pools::waiting(&self.cluster, &plan, told);
        // those beyond what is told at once follow
        self.todo.ipam |= !waiting.is_empty();
        writes.extend(waiting);
        self.todo.config |= plan.problems != self.addresses.problems;
        self.todo.pools = true;
        self.addresses = plan;
    }

    /// Gives addresses without an API server to write them to: what would be created is taken as if it were there.
    pub(super) fn allocate_locally(&mut self) {
        if !std::mem::take(&mut self.todo.ipam) {
            return;
        }
        let plan =
            ipam::plan(&self.cluster.settings.ipam, &self.cluster.pools, &nodes::states(&self.cluster, &self.promises));
        for p in plan.problems.difference(&self.addresses.problems) {
            warn!(problem = %p, "addresses");
        }
        for w in nodes::cilium_nodes(&self.cluster, &plan) {
            if let Operation::Create(object) = w.operation {
                self.cluster.apply(SourceEvent::Apply { kind: Kind::CiliumNode, object });
            }
        }
        self.addresses = plan;
        self.collect_todo();
        self.todo.ipam = false;
    }

    /// Conditions of pools, no more often than the status of policies.
    fn plan_pools(&mut self, now: Instant, wall: &str, writes: &mut Vec<Write>) {
        if !self.todo.pools || self.pools_due.is_some_and(|due| due > now) {
            return;
        }
        self.todo.pools = false;
        let due = pools::statuses(&self.cluster, &self.addresses, wall);
        if !due.is_empty() {
            self.pools_due = Some(now + self.timing.status);
            writes.extend(due);
        }
    }

    /// Whether it is known what nodes have in force. A process that has just started knows of none: what it would write
    /// would be taken back as soon as they are connected.
    fn has_heard(&mut self, now: Instant) -> bool {
        let since = *self.hearing.get_or_insert(now);
        let spoke =
            |(node, (_, revision)): (&Arc<str>, &(_, u64))| self.hub.acked(node).is_some_and(|a| a >= *revision);
        self.heard = self.heard || now.duration_since(since) >= self.timing.hearing || self.configs.iter().all(spoke);
        self.heard
    }

    fn plan_status(&mut self, now: Instant, wall: &str, writes: &mut Vec<Write>) {
        self.statuses.extend(self.hub.take_touched());
        if !self.has_heard(now) {
            return;
        }
        if self.status_due.is_some_and(|due| due > now) || (self.statuses.is_empty() && !self.todo.config) {
            return;
        }
        self.status_due = Some(now + self.timing.status);
        while writes.len() + self.in_flight.len() < WRITES
            && let Some(object) = self.statuses.pop_first()
        {
            let Some(entry) = self.cluster.policies.get(&object) else { continue };
            // told when its rules are compiled: what nodes have until then is not this generation
            if self.holding.holds(&object) {
                continue;
            }
            let generation = entry.loaded.policy().map_or(entry.generation, |p| p.generation);
            let e = self.hub.enforcement(&object, generation);
            let crowded = self.cluster.crowded.about(&object).or_else(|| self.cluster.unguarded(entry));
            let condition = status::enforced(entry, crowded.as_ref(), &e);
            writes.extend(status::policy(&object, entry, condition.clone(), wall));
            if object.kind == Kind::NetworkPolicy && entry.fresh && e.nodes > 0 && condition.status {
                // the kind has no status: this is where people look
                let text = format!("in force on {}/{} nodes, generation {generation}", e.enforced, e.nodes);
                writes.push(Write::event(object.clone(), false, "Enforced", text));
            }
            if entry.too_large.is_some() && (entry.fresh || object.kind == Kind::NetworkPolicy) {
                writes.push(Write::event(object.clone(), true, TABLE_TOO_LARGE, status::too_large(entry)));
            }
            if let Some(crowded) = crowded.filter(|c| !entry.is_told(c.reason)) {
                writes.push(Write::event(object.clone(), true, crowded.reason, status::cut(crowded.message)));
            }
            for r in e.refusals {
                let text = format!("node {} can't enforce it: {}", r.node, r.reason);
                writes.push(Write::event(object.clone(), true, "Refused", text));
            }
        }
        if std::mem::take(&mut self.todo.config) {
            self.plan_settings(wall, writes);
        }
    }

    /// How far settings are applied: those of the cluster, and those of single nodes.
    fn plan_settings(&mut self, wall: &str, writes: &mut Vec<Write>) {
        let has = |node: &str, revision: u64| self.hub.acked(node).is_some_and(|a| a >= revision);
        if let Some(config) = &self.cluster.config {
            let applied = self.configs.iter().filter(|(node, (_, revision))| has(node, *revision)).count();
            writes.extend(status::config(config, &self.addresses.problems, applied, self.configs.len(), wall));
        }
        let runs = |node: &str| self.overridden.get(node).is_some_and(|revision| has(node, *revision));
        writes.extend(overrides::statuses(&self.cluster, runs, wall));
        for write in overrides::of_nodes(&self.cluster) {
            // who uses which address is in the same part of the object, and goes first
            if writes.iter().any(|w| w.key == write.key) {
                self.todo.config = true;
            } else {
                writes.push(write);
            }
        }
    }

    /// An event that a node asks for: the leader writes it.
    pub(super) fn tell(&mut self, node: &Arc<str>, e: NodeEvent) {
        let object = e.object.unwrap_or_else(|| ObjectRef::new(Kind::Node, "", node));
        let room = if e.reason == DENIAL { EVENTS / 2 } else { EVENTS };
        if self.events.len() >= room {
            return;
        }
        self.events.push(Write::event(object, e.warning, &e.reason, format!("{node}: {}", e.message)));
    }
}
