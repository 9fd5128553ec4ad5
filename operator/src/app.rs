//! Puts the parts together. Returns what it bound, so that tests run the real thing on port 0.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axoneme_model::Kind;
use axoneme_runtime::{
    clock,
    readiness::{Guard, Readiness},
};
use axoneme_wire::server::{self, Inbound, Leadership, Service};
use kube::{Api, Client, api::ListParams, core::DynamicObject};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    auth::TokenReviews,
    connect,
    core::{Core, Timing},
    discovery,
    lease::{self, Candidate, LeaseHold},
    metrics::Metrics,
    options::Options,
    pki,
    source::{KINDS, SourceEvent, kube::resource},
    write::{Outcome, Write, WriteKey},
    writer,
};

/// Events that wait for the core; sources are held back behind them.
const EVENTS: usize = 4096;
const INBOUND: usize = 1024;
const WRITES: usize = 4096;
/// Inputs that are taken in before rows are made of them.
const BATCH: usize = 2048;
/// Longest time between two looks at what is due.
const TICK: Duration = Duration::from_millis(250);
/// Between two tries to prepare the API server.
const PAUSE: Duration = Duration::from_secs(1);

/// A running replica.
#[derive(Debug)]
pub struct Running {
    pub stream_address: SocketAddr,
    pub health_address: SocketAddr,
    pub readiness: Readiness,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Running {
    /// Ends all tasks and waits for them: the Lease is given back, the list of replicas corrected.
    pub async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        if tokio::time::timeout(Duration::from_secs(5), self.tasks.wait()).await.is_err() {
            warn!("some tasks did not end in time");
        }
    }

    /// Ends as a killed process does: nothing is given back.
    pub fn kill(self) -> CancellationToken {
        self.cancel
    }
}

/// Starts a replica. Health is served at once; nodes are served when everything is loaded.
pub async fn start(client: Client, options: &Options) -> anyhow::Result<Running> {
    let (cancel, tasks, readiness) = (CancellationToken::new(), TaskTracker::new(), Readiness::default());
    let metrics = Arc::new(Metrics::default());
    let guard = readiness.guard("cluster", "the API server has not answered yet");
    let health = bind(options.health_port).await?;
    let health_address = health.local_addr()?;
    tasks.spawn(crate::http::serve(health, readiness.clone(), metrics.clone(), cancel.clone()));

    prepare(&client, options).await;
    let authorities = authorities(&client, &options.namespace).await;
    let listener = bind(options.stream_port).await?;
    let stream_address = listener.local_addr()?;
    let address = SocketAddr::new(options.address, stream_address.port()).to_string();

    let (inbound_tx, inbound) = mpsc::channel(INBOUND);
    let (events_tx, events) = mpsc::channel(EVENTS);
    let (writes, writes_rx) = mpsc::channel(WRITES);
    let (outcomes_tx, outcomes) = mpsc::channel(WRITES);
    let (leadership, leads) = watch::channel(Leadership::Unknown);
    let (ready, is_ready) = watch::channel(false);
    let hold = LeaseHold::default();

    let auth = Arc::new(TokenReviews::new(client.clone(), &options.namespace, &options.agent_account));
    tasks.spawn(auth.clone().keep(cancel.clone()));
    let service = Service::new(auth, inbound_tx, is_ready, cancel.clone());
    let (keeper, tls) = pki::Keeper::new(client.clone(), &options.namespace, hold.clone(), authorities)
        .context("certificate of this replica")?;
    tasks.spawn(keeper.run(cancel.clone()));
    tasks.spawn(async move {
        if let Err(e) = server::serve(listener, Some(tls), service).await {
            warn!(error = %e, "stream server ended");
        }
    });
    for kind in KINDS {
        tasks.spawn(crate::source::kube::watch(client.clone(), kind, events_tx.clone(), cancel.clone()));
    }
    let (name, namespace) = (options.name.clone(), options.namespace.clone());
    let candidate = Candidate {
        client: client.clone(),
        namespace: namespace.clone(),
        name: name.clone(),
        address: address.clone(),
    };
    tasks.spawn(lease::run(candidate, hold.clone(), leadership, cancel.clone()));
    let entry = discovery::Entry { client: client.clone(), namespace, name: name.clone(), address, hold: hold.clone() };
    tasks.spawn(discovery::run(entry, leads.clone(), cancel.clone()));
    tasks.spawn(writer::run(client.clone(), hold, name.clone(), writes_rx, outcomes_tx, metrics.clone()));
    let (turns_tx, turns_rx) = mpsc::channel(1);
    tasks.spawn(turns(client, leads, turns_tx));
    let timing = Timing { identity_grace: Duration::from_secs(options.identity_grace_seconds), ..Timing::default() };
    let core = Loop { core: Core::new(&name, timing), writes, ready, guard, metrics };
    tasks.spawn(core.run(Inputs { events, inbound, outcomes, turns: turns_rx }, cancel.clone()));
    info!(%stream_address, %health_address, "operator started");
    Ok(Running { stream_address, health_address, readiness, tasks, cancel })
}

async fn bind(port: u16) -> anyhow::Result<TcpListener> {
    // both families where there are two
    let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
    let listener = match TcpListener::bind(any).await {
        Ok(l) => Ok(l),
        Err(_) => TcpListener::bind(SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, port))).await,
    };
    listener.with_context(|| format!("port {port}: choose another by flag"))
}

async fn kinds(client: &Client, options: &Options) -> anyhow::Result<()> {
    if options.skip_crds {
        return Ok(());
    }
    connect::install_kinds(client).await?;
    connect::kinds_served(client).await
}

/// Kinds and settings; tried until it works, since without kinds there is nothing to watch.
async fn prepare(client: &Client, options: &Options) {
    loop {
        match kinds(client, options).await {
            Ok(()) => break,
            Err(e) => warn!(error = format!("{e:#}"), "kinds can't be installed yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    // the API server needs a moment to serve a new kind; a broken file must not keep the cluster down
    for _ in 0..10 {
        match connect::install_config(client, &options.config_dir).await {
            Ok(()) => return,
            Err(e) => warn!(error = format!("{e:#}"), "AxonemeConfig can't be created yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn authorities(client: &Client, namespace: &str) -> pki::Authorities {
    loop {
        match pki::authorities(client, namespace).await {
            Ok(a) => return a,
            Err(e) => warn!(error = format!("{e:#}"), "no authority for certificates yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

struct Inputs {
    events: mpsc::Receiver<SourceEvent>,
    inbound: mpsc::Receiver<Inbound>,
    outcomes: mpsc::Receiver<(WriteKey, Outcome)>,
    turns: mpsc::Receiver<Turn>,
}

/// The task that owns the core.
struct Loop {
    core: Core,
    writes: mpsc::Sender<Write>,
    ready: watch::Sender<bool>,
    guard: Guard,
    metrics: Arc<Metrics>,
}

impl Loop {
    async fn run(mut self, mut inputs: Inputs, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(e) = inputs.events.recv() => self.core.source(e),
                Some(i) = inputs.inbound.recv() => self.core.inbound(i),
                Some((key, o)) = inputs.outcomes.recv() => self.core.wrote(&key, o, Instant::now()),
                Some((leadership, read)) = inputs.turns.recv() => {
                    for e in read {
                        self.core.source(e);
                    }
                    self.core.lead(leadership);
                }
                _ = tick.tick() => {}
                () = cancel.cancelled() => return,
            }
            for _ in 0..BATCH {
                if let Ok(e) = inputs.events.try_recv() {
                    self.core.source(e);
                } else if let Ok(i) = inputs.inbound.try_recv() {
                    self.core.inbound(i);
                } else if let Ok((key, o)) = inputs.outcomes.try_recv() {
                    self.core.wrote(&key, o, Instant::now());
                } else {
                    break;
                }
            }
            self.flush().await;
        }
    }

    async fn flush(&mut self) {
        let (started, before) = (Instant::now(), self.core.hub.revision());
        let flushed = self.core.flush(started, &crate::time::rfc3339(clock::wall()));
        if self.core.hub.revision() != before {
            let took = i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX);
            self.metrics.flush_microseconds.set(took);
        }
        self.core.measure(&self.metrics);
        if flushed.ready && !*self.ready.borrow() {
            info!("loaded: serving nodes");
            self.ready.send_replace(true);
            self.guard.ready();
        } else if !flushed.ready {
            let awaited: Vec<_> = self.core.awaited().map(Kind::as_str).collect();
            let why = if awaited.is_empty() { "numbers for identities".to_owned() } else { awaited.join(", ") };
            self.guard.not_ready(&format!("waiting for {why}"));
        }
        for w in flushed.writes {
            // the writer answers each within its deadline, so room comes
            if self.writes.send(w).await.is_err() {
                return;
            }
        }
    }
}

/// A turn of leadership with what a new leader has read.
type Turn = (Leadership, Vec<SourceEvent>);

/// Hands leadership on. A new leader first reads what may have been handed out since its watches last heard: the Lease
/// keeps others from writing, and this brings in what they wrote before.
async fn turns(client: Client, mut leads: watch::Receiver<Leadership>, turns: mpsc::Sender<Turn>) {
    loop {
        let leadership = leads.borrow_and_update().clone();
        let mut read = Vec::new();
        if leadership == Leadership::Me {
            match tokio::time::timeout(Duration::from_secs(3), fresh(&client)).await {
                Ok(Ok(events)) => read = events,
                failed => {
                    warn!(reason = ?failed.map(|r| r.map(|_| ())), "no fresh list: not leading yet");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            }
        }
        if turns.send((leadership, read)).await.is_err() || leads.changed().await.is_err() {
            return;
        }
    }
}

/// All objects that hand something out, as they are now: without a resource version the list is no cache's.
async fn fresh(client: &Client) -> Result<Vec<SourceEvent>, kube::Error> {
    let mut events = Vec::new();
    for kind in [Kind::CiliumNode, Kind::CiliumIdentity] {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind));
        let list = api.list(&ListParams::default()).await?;
        let objects = list.items.into_iter().filter_map(|o| serde_json::to_value(o).ok());
        events.extend(objects.map(|mut object| {
            crate::source::slim(kind, &mut object);
            SourceEvent::Apply { kind, object }
        }));
    }
    Ok(events)
}
