//! What the holder of the Lease writes.

use std::{sync::Arc, time::Instant};

use axoneme_model::{Kind, ObjectRef};
use axoneme_wire::NodeEvent;
use tracing::{error, warn};

use super::Core;
use crate::{
    ipam,
    plan::{identities, nodes, status},
    source::SourceEvent,
    write::{Operation, Part, Write},
};

/// Events of nodes that wait; more are dropped: they are best effort.
const EVENTS: usize = 256;

impl Core {
    /// All writes that are due and not under way.
    pub(super) fn plan(&mut self, now: Instant, wall: &str) -> Vec<Write> {
        let mut writes = std::mem::take(&mut self.events);
        self.plan_identities(now, &mut writes);
        self.plan_addresses(&mut writes);
        for name in std::mem::take(&mut self.todo.nodes) {
            if let Some(n) = self.cluster.nodes.get(&name) {
                writes.extend(nodes::ready(&name, n, wall));
            }
        }
        self.plan_status(now, wall, &mut writes);
        writes.retain(|w| self.is_due(w, now));
        for w in writes.iter().filter(|w| !matches!(w.operation, Operation::Event { .. })) {
            self.in_flight.insert(w.key.clone(), w.clone());
        }
        writes
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
            let unused = self.rows.unused();
            let active: std::collections::BTreeSet<_> = self.identities.active().values().copied().collect();
            let in_use = |id| active.contains(&id) && !unused.contains(&id);
            writes.extend(
                self.identities.collect(in_use, self.timing.identity_grace, now).into_iter().map(identities::delete),
            );
        }
    }

    fn plan_addresses(&mut self, writes: &mut Vec<Write>) {
        if !std::mem::take(&mut self.todo.ipam) {
            return;
        }
        let states = nodes::states(&self.cluster);
        let plan = ipam::plan(&self.cluster.settings.ipam, &self.cluster.pools, &states);
        writes.extend(nodes::cilium_nodes(&self.cluster, &plan));
        for p in plan.problems.difference(&self.addresses.problems) {
            let about = match &p.pool {
                Some(pool) => ObjectRef::new(Kind::CiliumPodIPPool, "", pool),
                None => ObjectRef::new(Kind::AxonemeConfig, "", axoneme_intake::CONFIG_NAME),
            };
            writes.push(Write::event(about, true, "PoolProblem", p.to_string()));
        }
        self.todo.config |= plan.problems != self.addresses.problems;
        self.addresses = plan;
    }

    /// Gives addresses without an API server to write them to: what would be created is taken as if it were there.
    pub(super) fn allocate_locally(&mut self) {
        if !std::mem::take(&mut self.todo.ipam) {
            return;
        }
        let plan = ipam::plan(&self.cluster.settings.ipam, &self.cluster.pools, &nodes::states(&self.cluster));
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

    fn plan_status(&mut self, now: Instant, wall: &str, writes: &mut Vec<Write>) {
        self.statuses.extend(self.hub.take_touched());
        if self.status_due.is_some_and(|due| due > now) || (self.statuses.is_empty() && !self.todo.config) {
            return;
        }
        self.status_due = Some(now + self.timing.status);
        for object in std::mem::take(&mut self.statuses) {
            let Some(entry) = self.cluster.policies.get(&object) else { continue };
            let generation = entry.loaded.policy().map_or(entry.generation, |p| p.generation);
            let e = self.hub.enforcement(&object, generation);
            writes.extend(status::policy(&object, entry, &e, wall));
            if let (Kind::NetworkPolicy, Some(errors)) = (object.kind, &entry.errors) {
                writes.push(status::event(&object, errors));
            }
            for r in e.refusals {
                let text = format!("node {} can't enforce it: {}", r.node, r.reason);
                writes.push(Write::event(object.clone(), true, "Refused", text));
            }
        }
        if std::mem::take(&mut self.todo.config)
            && let Some(config) = &self.cluster.config
        {
            let done =
                |(node, (_, revision)): &(&Arc<str>, &(_, u64))| self.hub.acked(node).is_some_and(|a| a >= *revision);
            let applied = self.configs.iter().filter(done).count();
            writes.extend(status::config(config, &self.addresses.problems, applied, self.configs.len(), wall));
        }
    }

    /// An event that a node asks for: the leader writes it.
    pub(super) fn tell(&mut self, node: &Arc<str>, e: NodeEvent) {
        let object = e.object.unwrap_or_else(|| ObjectRef::new(Kind::Node, "", node));
        if self.events.len() >= EVENTS {
            return;
        }
        let operation =
            Operation::Event { warning: e.warning, reason: e.reason, message: format!("{node}: {}", e.message) };
        self.events.push(Write::new(object, Part::Event, operation));
    }
}
