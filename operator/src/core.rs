//! The one owner of all state: inputs in, rows to the hub, writes out.
//!
//! Nothing here waits and nothing here does IO, so that every fault can be played in a test: a relist, a lost Lease, a
//! write that failed, a node that doesn't acknowledge.

mod deliver;
mod hold;
mod lead;
mod past;
mod shown;
mod tunnels;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use axoneme_model::{Kind, ObjectRef, rows::NodeConfigRow};
use axoneme_wire::{
    message::NodeMessage,
    server::{Hub, Inbound, Leadership},
};
use tracing::{debug, info, warn};

pub use self::{past::Past, shown::Shown, tunnels::Tunnels};
use crate::{
    compiler::Rows,
    identity::Identities,
    ipam,
    plan::nodes,
    source::SourceEvent,
    state::{Cluster, Touched},
    write::{Outcome, Part, Write, WriteKey},
};

/// When things happen, and how much fits.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a number is kept that no pod uses.
    pub identity_grace: Duration,
    /// How long nodes may take to learn an identity before pods move to it all the same.
    pub announce: Duration,
    /// How long nodes wait for numbers at start: a pod without one would lose its endpoint.
    pub numbers: Duration,
    /// How often unused numbers are looked for.
    pub collect: Duration,
    /// How often a status may be written while nodes acknowledge.
    pub status: Duration,
    /// How long a new leader lets nodes say what they have in force before it writes how far that is.
    pub hearing: Duration,
    /// How long after another change policies that were too large are tried again.
    pub room: Duration,
    /// Entries that a policy table may have.
    pub table_entries: usize,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            identity_grace: Duration::from_mins(15),
            announce: Duration::from_secs(3),
            numbers: Duration::from_secs(20),
            collect: Duration::from_secs(10),
            status: Duration::from_millis(500),
            hearing: Duration::from_secs(20),
            room: Duration::from_secs(10),
            // the defaults of both directions take a place each
            table_entries: axoneme_model::rows::TABLE_ENTRIES - 2,
        }
    }
}

/// What makes large clusters cheap. All of it is in use; a bench leaves some out, to say what each gains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Techniques {
    /// Changes are compiled, not the cluster with each of them.
    pub incremental: bool,
    /// How nodes are served.
    pub serving: axoneme_wire::server::Techniques,
}

impl Default for Techniques {
    fn default() -> Self {
        Self { incremental: true, serving: axoneme_wire::server::Techniques::default() }
    }
}

/// What the core wants of its surroundings after a [`Core::flush`].
#[derive(Debug, Default)]
pub struct Flushed {
    /// To be written, if this replica leads: none otherwise.
    pub writes: Vec<Write>,
    /// Whether nodes may be served: all inputs are there and so are the numbers of all pods.
    pub ready: bool,
}

/// See the module.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug)]
pub struct Core {
    pub(crate) cluster: Cluster,
    pub(crate) hub: Hub,
    rows: Rows,
    identities: Identities,
    holding: hold::Holding,
    /// Policies of which an earlier version is in force, or none, because no table holds them.
    oversized: BTreeSet<ObjectRef>,
    /// When those are tried again.
    room_due: Option<Instant>,
    timing: Timing,
    /// Rows of settings with the revision that brought them.
    configs: BTreeMap<Arc<str>, (Arc<NodeConfigRow>, u64)>,
    /// How far nodes are with sending past the tunnel.
    past: past::Handover,
    /// How far they are with another tunnel.
    tunnels: tunnels::Handover,
    /// Revisions that brought what nodes have of their own in these.
    overridden: BTreeMap<Arc<str>, u64>,
    addresses: ipam::Plan,
    /// Blocks of writes of CiliumNodes that are under way, or of which nothing was heard.
    promises: nodes::Promises,
    todo: Touched,
    /// Policies whose status is to be looked at.
    statuses: BTreeSet<ObjectRef>,
    status_due: Option<Instant>,
    pools_due: Option<Instant>,
    collected: Option<Instant>,
    leading: bool,
    /// Since when it leads, while it has not heard of all nodes yet what they have in force.
    hearing: Option<Instant>,
    /// It has, or they have had time to.
    heard: bool,
    ready: bool,
    synced_at: Option<Instant>,
    /// Numbers are given by this process itself: standalone.
    local: bool,
    /// Writes under way, and whether each creates its object.
    in_flight: HashMap<WriteKey, bool>,
    /// Of these, those whose object was deleted since: what they are answered is no news.
    overtaken: HashSet<WriteKey>,
    failed: HashMap<WriteKey, Failure>,
    /// Events already told, by what they are about.
    told: HashMap<WriteKey, String>,
    /// Events that nodes ask for, and those that are put aside.
    events: Vec<Write>,
    /// Events that may be written now, and when that number grew last.
    tellings: u32,
    told_at: Option<Instant>,
    /// What changed, for those who show it; none: nobody does.
    shown: Option<Shown>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    times: u32,
    again: Instant,
}

impl Core {
    /// `operator` is the replica's name.
    #[must_use]
    pub fn new(operator: &str, timing: Timing) -> Self {
        Self {
            cluster: Cluster::new(),
            hub: Hub::new(operator),
            rows: Rows::default(),
            identities: Identities::default(),
            holding: hold::Holding::default(),
            oversized: BTreeSet::new(),
            room_due: None,
            timing,
            configs: BTreeMap::new(),
            past: past::Handover::default(),
            tunnels: tunnels::Handover::default(),
            overridden: BTreeMap::new(),
            addresses: ipam::Plan::default(),
            promises: nodes::Promises::default(),
            todo: Touched::default(),
            statuses: BTreeSet::new(),
            status_due: None,
            pools_due: None,
            collected: None,
            leading: false,
            hearing: None,
            heard: false,
            ready: false,
            synced_at: None,
            local: false,
            in_flight: HashMap::new(),
            overtaken: HashSet::new(),
            failed: HashMap::new(),
            told: HashMap::new(),
            events: Vec::new(),
            tellings: lead::EVENTS_AT_ONCE,
            told_at: None,
            shown: None,
        }
    }

    /// Objects with settings of nodes count in this namespace, and where Cilium has them; in any, until this is called.
    pub fn settings_in(&mut self, namespace: &str) {
        self.cluster.overrides.count_in(namespace);
    }

    /// A core that gives numbers by itself and writes nothing: for one node without an API server.
    #[must_use]
    pub fn standalone(timing: Timing) -> Self {
        Self { local: true, ..Self::new("standalone", timing) }
    }

    /// Works in another way, for a bench. Before anything is said.
    pub fn work_by(&mut self, techniques: Techniques) {
        self.hub.serve_by(techniques.serving);
        if !techniques.incremental {
            self.rows.forget();
        }
    }

    /// Takes an event of a source in.
    pub fn source(&mut self, event: SourceEvent) {
        if let SourceEvent::Delete(object) = &event
            && object.kind == Kind::Node
        {
            self.hub.forget(&object.name);
        }
        if let SourceEvent::Delete(object) = &event {
            // another object of the name is told anew
            self.told.remove(&WriteKey { object: object.clone(), part: Part::Event });
            let writes = [Part::Object, Part::Status].map(|part| WriteKey { object: object.clone(), part });
            self.overtaken.extend(writes.into_iter().filter(|key| self.in_flight.contains_key(key)));
        }
        self.cluster.apply(event);
    }

    /// Takes what a node's session says in.
    pub fn inbound(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Subscribe(s) => self.hub.subscribe(s),
            Inbound::Closed { node, session } => {
                // another session may have taken its place already
                if self.hub.closed(&node, session) {
                    self.cluster.node_silent(&node);
                }
            }
            Inbound::Message { node, session, message } => self.message(&node, session, message),
        }
    }

    fn message(&mut self, node: &Arc<str>, session: u64, message: NodeMessage) {
        match message {
            NodeMessage::Ack(revision) => {
                if let Some(from) = self.hub.acknowledged(node, session, revision) {
                    // how many nodes have their settings is counted anew when one more has, not with whatever comes after
                    self.todo.config |= self.configs.get(node).is_some_and(|(_, r)| (from + 1..=revision).contains(r));
                }
            }
            NodeMessage::Nack(n) => {
                warn!(%node, row = n.key.as_ref().map(ToString::to_string), reason = %n.reason, "node refused a row");
                self.hub.refused(node, session, n);
            }
            NodeMessage::Endpoint(e) => {
                let key = (e.namespace.clone(), e.name.clone());
                // a node speaks for its own pods only; one that reconnects may know a pod before this replica does
                let pod = self.cluster.pods.get(&key);
                let own =
                    pod.map_or_else(|| self.cluster.has_room_for_reports(), |p| p.uid == e.uid && p.node == *node);
                if own {
                    self.cluster.report(&key, &e.uid, &e.addresses, e.removed);
                } else if !e.removed {
                    debug!(%node, uid = %e.uid, "report of an endpoint that is not the node's left out");
                }
            }
            NodeMessage::Node(report) => self.cluster.node_report(node, report),
            NodeMessage::Event(e) => self.tell(node, e),
            NodeMessage::Hello(_) => {}
        }
    }

    /// This replica took or lost the Lease, or learnt who has it.
    pub fn lead(&mut self, leadership: Leadership) {
        let leading = leadership == Leadership::Me;
        if leading != self.leading {
            info!(leading, "leadership changed");
            self.leading = leading;
            (self.hearing, self.heard) = (None, false);
            self.todo_all();
            if !leading {
                self.failed.clear();
            }
        }
        self.cluster.has_read();
        self.hub.set_leadership(leadership);
    }

    /// What is handed out is about to be read beside the watches, for a leader that begins: [`Core::lead`] comes after it.
    pub fn reads(&mut self) {
        self.cluster.reads();
    }

    fn todo_all(&mut self) {
        self.todo.ipam = true;
        (self.todo.config, self.todo.pools) = (true, true);
        self.todo.nodes.extend(self.cluster.nodes.keys().cloned());
        self.statuses.extend(self.cluster.policies.keys().cloned());
        self.told.clear();
    }

    /// What became of a write.
    pub fn wrote(&mut self, key: &WriteKey, outcome: Outcome, now: Instant) {
        let (created, overtaken) = (self.in_flight.remove(key), self.overtaken.remove(key));
        let number = key.object.name.parse().ok().map(axoneme_model::Identity);
        match outcome {
            Outcome::Done(object) => {
                self.failed.remove(key);
                // the watch told the end of what was written before the answer came: the object must not come back by it
                if let Some(mut object) = object.filter(|_| !overtaken) {
                    crate::source::slim(key.object.kind, &mut object);
                    self.cluster.apply(SourceEvent::Apply { kind: key.object.kind, object });
                }
            }
            Outcome::Conflict => {
                debug!(object = %key.object, "object changed meanwhile, planned anew");
                self.back_off(key, now);
            }
            Outcome::Failed(reason) => {
                warn!(object = %key.object, part = ?key.part, %reason, "write failed, trying again");
                self.back_off(key, now);
            }
        }
        if key.object.kind == Kind::CiliumIdentity
            && created == Some(true)
            && let Some(id) = number
        {
            // if it was created the object said so above
            self.identities.not_created(id);
        }
        self.again(key);
    }

    /// What the write was for is looked at again.
    fn again(&mut self, key: &WriteKey) {
        match key.object.kind {
            Kind::CiliumNode if key.part == Part::Status => (self.todo.ipam, self.todo.config) = (true, true),
            Kind::CiliumNode => self.todo.ipam = true,
            Kind::Node => drop(self.todo.nodes.insert(key.object.name.clone())),
            Kind::AxonemeConfig | Kind::CiliumNodeConfig => self.todo.config = true,
            Kind::CiliumPodIPPool => self.todo.pools = true,
            _ if self.cluster.policies.contains_key(&key.object) => drop(self.statuses.insert(key.object.clone())),
            _ => {}
        }
    }

    fn back_off(&mut self, key: &WriteKey, now: Instant) {
        let f = self.failed.entry(key.clone()).or_insert(Failure { times: 0, again: now });
        f.times = (f.times + 1).min(8);
        f.again = now + Duration::from_millis(100) * 2u32.pow(f.times);
    }

    /// Brings everything up to date: compiles, publishes, plans. `wall` is the time for what people read. Call it after
    /// each batch of inputs, and when nothing comes at least every second.
    pub fn flush(&mut self, now: Instant, wall: &str) -> Flushed {
        if !self.cluster.is_synced() {
            return Flushed::default();
        }
        let since = *self.synced_at.get_or_insert(now);
        self.collect_todo();
        if self.local {
            self.allocate_locally();
        }
        self.deliver(now);
        self.ready |= self.identities.missing() == 0 || now.duration_since(since) >= self.timing.numbers;
        let writes = if self.leading { self.plan(now, wall) } else { Vec::new() };
        Flushed { writes, ready: self.ready }
    }

    fn collect_todo(&mut self) {
        let Touched { ipam, choices, pools, configs, nodes, policies, config, identities, refused } =
            self.cluster.take_touched();
        self.todo.choices |= choices;
        self.todo.pools |= pools;
        self.todo.refused.extend(refused);
        self.todo.ipam |= ipam;
        self.todo.configs |= configs;
        self.todo.config |= config;
        self.todo.nodes.extend(nodes);
        self.statuses.extend(policies);
        for (id, labels) in identities {
            match labels {
                Some(labels) => self.identities.observed(id, labels),
                None => self.identities.removed(id),
            }
        }
    }

    /// Sets the figures that the core knows: none is counted for it, as it is called with every flush.
    pub fn measure(&self, m: &crate::metrics::Metrics) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        m.revision.set(i64::try_from(self.hub.revision()).unwrap_or(i64::MAX));
        m.nodes_connected.set(number(self.hub.connections()));
        m.identities_missing.set(number(self.identities.missing()));
        m.leading.set(i64::from(self.leading));
        let policies = self.cluster.faulty_policies() + self.cluster.crowded.groups();
        m.objects_broken.set(number(policies + self.cluster.errors.len() + self.cluster.broken.len()));
    }

    /// Kinds that are still awaited, for the readiness report.
    pub fn awaited(&self) -> impl Iterator<Item = Kind> {
        self.cluster.awaited()
    }
}

#[cfg(test)]
mod tests;
