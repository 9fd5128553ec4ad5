//! The one owner of the node's state.
//!
//! All methods are synchronous and run on one thread; kernel calls are short. What takes long (removal of a link waits
//! for RCU in the kernel, see [`crate::reaper`]) is handed out as [`Doomed`] work and comes back with [`Engine::link_removed`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use axoneme_cni::{Answer, Failure, Request, protocol::Attachment};
use axoneme_flow::Hub;
use axoneme_kernel::{
    datapath::{Datapath, DatapathConfig, DatapathError, EndpointEntry, Hook, IpEntry, Limit, ServiceEntry},
    grace::GracePeriods,
    net::{Masquerade, Network, Route},
};
use axoneme_model::rows::{AgentRow, NodeRow, PodDevice, TableId};
use axoneme_runtime::clock::Clock;
use axoneme_table::{Backoff, Reconciler};
use axoneme_wire::{
    EndpointReport, Nack, NodeEvent, NodeReport, Resume, RowType,
    client::{Desired, Event},
};
use ipnetwork::IpNetwork;
use tokio::sync::oneshot;

use crate::{
    Error,
    base::{Base, DatapathPaths, Tunnels},
    endpoint::Intent,
    inventory::Inventory,
    ipam::Ipam,
    plan::FrontendKey,
    store::Store,
    tables::Tables,
};

mod adopt;
mod attach;
mod drift;
mod former;
mod guard;
mod health;
mod lost;
mod mtu;
mod node;
mod room;
mod rows;
mod settle;
mod targets;
mod view;

pub use drift::Part;
pub use former::DOCUMENT as ROWS_DOCUMENT;

/// Opens the packet path with settings that are known only once the configuration is there, and anew when they change.
pub trait DatapathFactory: Send {
    fn open(&mut self, config: &DatapathConfig) -> Result<Arc<dyn Datapath>, DatapathError>;
    /// Programs of this version are on every device: what only former versions needed can go.
    fn attached(&mut self) -> Result<(), DatapathError> {
        Ok(())
    }
}

/// What the engine needs from outside.
#[derive(Debug)]
pub struct Parts {
    /// Name of the Node object.
    pub node: Arc<str>,
    pub network: Arc<dyn Network>,
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub paths: DatapathPaths,
    /// How long an ADD waits for its rows.
    pub add_deadline: Duration,
    /// What preflight found.
    pub warnings: Vec<String>,
    /// Told who is who, for flows.
    pub flows: Option<Arc<Hub>>,
    /// The kernel's waits while links change; none leaves them as they are.
    pub grace: Option<Arc<GracePeriods>>,
}

/// What the engine says to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    Ack(Resume),
    Nack(Nack),
    Endpoint(EndpointReport),
    Node(NodeReport),
    Event(NodeEvent),
    /// Rows at hand do not fit the changes that came.
    Resync,
}

/// What is left of an interface whose entries are gone, to be removed elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    pub attachment: Attachment,
    pub host_name: String,
    /// None: the link is gone already, or was never made.
    pub ifindex: Option<u32>,
    pub addresses: Vec<IpAddr>,
}

/// One interface of one pod.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) intent: Intent,
    /// Host side of the link; none: it is gone.
    pub(crate) ifindex: Option<u32>,
    pub(crate) reported: Option<EndpointReport>,
    /// Why it is not as it should be.
    pub(crate) fault: Option<String>,
    /// The link is being removed elsewhere.
    pub(crate) doomed: bool,
    /// Since when the link is missing.
    pub(crate) lost_since: Option<Instant>,
    /// Why it has not the MTU that it should have.
    pub(crate) unfit: Option<String>,
}

#[derive(Debug)]
struct Waiting {
    request: Request,
    netns: Option<OwnedFd>,
    since: Instant,
    reason: String,
    reply: oneshot::Sender<Answer>,
}

/// The stream to the operator as it stands.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Link {
    pub connected: bool,
    pub operator: String,
    pub address: String,
    /// Why it ended last.
    pub reason: String,
}

/// State of what a node has once.
#[derive(Debug, Default)]
struct BaseState {
    plan: Option<Base>,
    datapath: Option<DatapathConfig>,
    tunnels: Tunnels,
    /// Whether the kernel has netkit; none: nobody asked for it yet.
    netkit: Option<bool>,
    masquerade: Option<Masquerade>,
    /// Every device has the programs of this process.
    attached: bool,
    dirty: bool,
    error: Option<String>,
    attempts: u32,
    retry_at: Option<Instant>,
    /// When the underlay's devices are looked at next.
    underlay_at: Option<Instant>,
}

impl BaseState {
    fn wants_netkit(&self) -> bool {
        self.plan.as_ref().is_some_and(|b| b.pod_device == PodDevice::Netkit)
    }

    /// New pods get netkit devices.
    fn makes_netkit(&self) -> bool {
        self.wants_netkit() && self.netkit == Some(true)
    }
}

/// Counters for status.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Counters {
    pub kernel_writes: u64,
    pub reconciles: u64,
    pub adds: u64,
    pub adds_failed: u64,
    pub dels: u64,
    pub rows_refused: u64,
}

/// The node's state and how it changes.
#[expect(missing_debug_implementations, reason = "holds a factory and reply channels")]
pub struct Engine {
    parts: Parts,
    factory: Box<dyn DatapathFactory>,
    datapath: Option<Arc<dyn Datapath>>,
    rows: Desired,
    former: former::Former,
    complete: BTreeSet<RowType>,
    link: Link,
    acked: Option<Resume>,
    /// Tables whose newest content is not in force.
    refused: BTreeSet<TableId>,
    base: BaseState,
    inventory: Inventory,
    ipam: Ipam,
    endpoints: BTreeMap<Attachment, Endpoint>,
    /// Addresses of pods of this node.
    local: BTreeMap<IpAddr, Attachment>,
    dirty: BTreeSet<Attachment>,
    tables: Tables,
    guard: guard::Guarding,
    health: health::Health,
    ips: Reconciler<IpNetwork, IpEntry>,
    entries: Reconciler<IpAddr, EndpointEntry>,
    /// Limits of pods' traffic, by the host sides of their links.
    limits: Reconciler<u32, Limit>,
    /// Addresses and endpoints are staged that are not in force.
    uncommitted: bool,
    services: Reconciler<FrontendKey, ServiceEntry>,
    frontends: BTreeMap<(Arc<str>, Arc<str>), Vec<FrontendKey>>,
    routes: Reconciler<IpNetwork, Route>,
    node_routes: BTreeMap<Arc<str>, Vec<IpNetwork>>,
    waiting: Vec<Waiting>,
    doomed: Vec<Doomed>,
    outgoing: Vec<Outgoing>,
    reported: Option<NodeReport>,
    retry_at: Option<Instant>,
    removal_retry_at: Option<Instant>,
    /// When links of pods are looked for next.
    look_at: Option<Instant>,
    room: room::Room,
    looks: drift::Looks,
    counters: Counters,
}

impl Engine {
    /// Takes over the intents that a former process left. Nothing is changed in the kernel before configuration comes.
    pub fn new(parts: Parts, factory: Box<dyn DatapathFactory>) -> Result<Self, Error> {
        let inventory = Inventory::load(&*parts.store)?;
        let mut engine = Self {
            parts,
            factory,
            datapath: None,
            rows: Desired::default(),
            former: former::Former::default(),
            complete: BTreeSet::new(),
            link: Link::default(),
            acked: None,
            refused: BTreeSet::new(),
            base: BaseState::default(),
            inventory,
            ipam: Ipam::default(),
            endpoints: BTreeMap::new(),
            local: BTreeMap::new(),
            dirty: BTreeSet::new(),
            tables: Tables::default(),
            guard: guard::Guarding::default(),
            health: health::Health::default(),
            ips: Reconciler::new(Backoff::default()),
            entries: Reconciler::new(Backoff::default()),
            limits: Reconciler::new(Backoff::default()),
            uncommitted: false,
            services: Reconciler::new(Backoff::default()),
            frontends: BTreeMap::new(),
            routes: Reconciler::new(Backoff::default()),
            node_routes: BTreeMap::new(),
            waiting: Vec::new(),
            doomed: Vec::new(),
            outgoing: Vec::new(),
            reported: None,
            retry_at: None,
            removal_retry_at: None,
            look_at: None,
            room: room::Room::default(),
            looks: drift::Looks::default(),
            counters: Counters::default(),
        };
        engine.load_intents()?;
        engine.load_blocks()?;
        engine.load_rows()?;
        Ok(engine)
    }

    /// Something came from the operator.
    pub fn stream(&mut self, event: Event) {
        match event {
            Event::Connected { operator, address, .. } => {
                self.link = Link { connected: true, operator, address, reason: String::new() };
            }
            Event::Disconnected { reason } => {
                self.link.connected = false;
                self.link.reason = reason;
            }
            Event::Batch(batch) => self.fold(batch),
        }
        self.settle();
    }

    /// The plugin asks. ADD may be answered later, everything else is answered at once.
    pub fn cni(&mut self, request: Request, netns: Option<OwnedFd>, reply: oneshot::Sender<Answer>) {
        let answer = match self.serve(&request, netns.as_ref()) {
            Ok(value) => Answer::Done(value),
            Err(attach::Refusal::Failed(failure)) => Answer::Failed(failure),
            Err(attach::Refusal::Wait(reason)) => {
                let since = self.parts.clock.now();
                self.waiting.push(Waiting { request, netns, since, reason, reply });
                return;
            }
        };
        // a runtime that has gone away asks again, and ADD is repeatable
        let _ = reply.send(answer);
        self.settle();
    }

    /// A retry or a deadline is due.
    pub fn tick(&mut self) {
        self.settle();
    }

    /// When [`Engine::tick`] is to be called if nothing else happens.
    pub fn wake_at(&self) -> Option<Instant> {
        let deadlines = self.waiting.iter().map(|w| w.since + self.parts.add_deadline);
        let retries = [
            self.retry_at,
            self.base.retry_at,
            self.removal_retry_at,
            self.look_at,
            self.room.wake_at(),
            self.looks.wake_at(),
            self.ipam.wake_at(),
            self.former.due(),
            self.base.underlay_at,
            self.guard.retry_at(),
            self.health.retry_at(),
        ];
        deadlines.chain(retries.into_iter().flatten()).min()
    }

    /// Puts programs on an interface without the kernel's usual wait.
    fn attach_programs(&self, datapath: &dyn Datapath, hook: Hook, ifindex: u32) -> Result<(), Error> {
        let _short = self.parts.grace.as_deref().map(GracePeriods::shorten);
        Ok(datapath.attach(hook, ifindex)?)
    }

    /// Links to remove elsewhere; the outcome comes back by [`Engine::link_removed`].
    pub fn take_doomed(&mut self) -> Vec<Doomed> {
        std::mem::take(&mut self.doomed)
    }

    /// Messages for the operator, in order.
    pub fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    /// What the newest configuration says of the process itself; none before there is one.
    pub fn agent_settings(&self) -> Option<&AgentRow> {
        self.rows.rows().config.as_ref().map(|c| &c.agent)
    }

    /// Whether ADD can be served.
    pub fn is_ready(&self) -> bool {
        self.unready().is_empty()
    }

    /// Whether every input was complete once: only then is anything pruned.
    fn initialized(&self) -> bool {
        RowType::ALL.iter().all(|t| self.complete.contains(t))
    }

    fn own_node(&self) -> Option<&NodeRow> {
        self.rows.rows().nodes.get(&self.parts.node)
    }

    /// What stands between this node and service, one sentence each.
    fn unready(&self) -> Vec<String> {
        let mut out = Vec::new();
        if !self.initialized() && !self.former.in_use() {
            let missing: Vec<String> =
                RowType::ALL.iter().filter(|t| !self.complete.contains(t)).map(|t| format!("{t:?}")).collect();
            let stream = if self.link.connected { "connected" } else { "no operator is connected" };
            let reason = if self.link.reason.is_empty() { String::new() } else { format!(": {}", self.link.reason) };
            out.push(format!("rows are not complete yet ({}; {stream}{reason})", missing.join(", ")));
        } else if self.rows.rows().config.is_none() {
            out.push("the operator has no configuration for this node".to_owned());
        }
        if let Some(error) = &self.base.error {
            out.push(error.clone());
        } else if self.datapath.is_none() && out.is_empty() {
            out.push("the datapath is not loaded yet".to_owned());
        } else if !self.base.attached && out.is_empty() {
            out.push("programs are not on every device yet".to_owned());
        }
        out
    }
}

/// A failure that the runtime should take as "later".
fn later(message: String) -> Failure {
    Failure::new(axoneme_cni::code::TRY_AGAIN, message)
}
