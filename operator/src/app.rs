//! Puts the parts together. Returns what it bound, so that tests run the real thing on port 0.

use std::{
    collections::VecDeque,
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
use kube::Client;
use tokio::{
    net::TcpListener,
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    admission::{self, About, Known, Registration},
    auth::TokenReviews,
    connect,
    core::{Core, Techniques, Timing},
    discovery,
    lease::{self, Candidate, LeaseHold, election::Term},
    metrics::Metrics,
    options::Options,
    pki,
    source::{KINDS, SourceEvent},
    turns::{self, Turn},
    views,
    write::{Outcome, Write, WriteKey},
    writer,
};

/// Events that wait for the core; sources are held back behind them.
const EVENTS: usize = 4096;
const INBOUND: usize = 1024;
const WRITES: usize = 4096;
/// Inputs that are taken in before rows are made of them.
const BATCH: usize = 2048;
/// Those of nodes and of the writer among them, where the cluster has changed too: rows don't wait until thousands of
/// nodes have been heard.
const BESIDE: usize = 64;
/// Longest time between two looks at what is due.
const TICK: Duration = Duration::from_millis(250);
/// Between two tries to prepare the API server.
const PAUSE: Duration = Duration::from_secs(1);

/// A running replica.
#[expect(missing_debug_implementations, reason = "the service holds a trait object")]
pub struct Running {
    pub stream_address: SocketAddr,
    /// Serves nodes at `stream_address`; streams that come otherwise may be handed to it.
    pub service: Service,
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
    start_by(client, options, Techniques::default()).await
}

/// Starts a replica that works in another way, for a bench.
pub async fn start_by(client: Client, options: &Options, techniques: Techniques) -> anyhow::Result<Running> {
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
    let service = Service::new(auth, inbound_tx, is_ready.clone(), cancel.clone());
    let (keeper, tls) = pki::Keeper::new(client.clone(), &options.namespace, hold.clone(), authorities)
        .context("certificate of this replica")?;
    let registration = Registration::new(&client, &options.namespace, &hold, keeper.bundle(), is_ready.clone());
    let shown = Shown { client: &client, options, hold: &hold, ready: is_ready, tls: &tls, metrics: &metrics };
    let follow = shown.serve(keeper.bundle(), (&tasks, &cancel)).await;
    tasks.spawn(keeper.run(cancel.clone()));
    let known = webhooks(options.webhook_port, registration, &tls, &metrics, (&tasks, &cancel)).await;
    let served = service.clone();
    tasks.spawn(async move {
        if let Err(e) = server::serve(listener, Some(tls), served).await {
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
    tasks.spawn(writer::run(client.clone(), hold.clone(), name.clone(), writes_rx, outcomes_tx, metrics.clone()));
    let (turns_tx, turns_rx) = mpsc::channel(1);
    tasks.spawn(turns::run(client, leads, hold, turns_tx));
    let core = core(options, techniques);
    let term = Term::default();
    let core = Loop { core, term, writes: Outbox::new(writes), ready, guard, metrics, known, follow };
    tasks.spawn(core.run(Inputs { events, inbound, outcomes, turns: turns_rx }, cancel.clone()));
    info!(%stream_address, %health_address, "operator started");
    Ok(Running { stream_address, service, health_address, readiness, tasks, cancel })
}

fn core(options: &Options, techniques: Techniques) -> Core {
    let timing = Timing { identity_grace: Duration::from_secs(options.identity_grace_seconds), ..Timing::default() };
    let mut core = Core::new(&options.name, timing);
    core.settings_in(&options.namespace);
    core.work_by(techniques);
    core
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

/// Serves the webhooks, where their port is free: nothing else waits for them. What they are to know.
async fn webhooks(
    port: u16,
    registration: Registration,
    tls: &watch::Receiver<server::Tls>,
    metrics: &Arc<Metrics>,
    (tasks, cancel): (&TaskTracker, &CancellationToken),
) -> Arc<Known> {
    let known = Arc::new(Known::default());
    // whoever leads registers for all: others may serve where this one can't
    tasks.spawn(registration.run(cancel.clone()));
    match bind(port).await {
        Ok(listener) => {
            let served = admission::serve(listener, tls.clone(), known.clone(), metrics.clone(), cancel.clone());
            tasks.spawn(served);
        }
        Err(e) => warn!(error = format!("{e:#}"), "no webhooks are served here"),
    }
    known
}

/// The views' port and what they show of themselves.
async fn begin(
    port: u16,
    tls: &watch::Receiver<server::Tls>,
) -> anyhow::Result<(TcpListener, u16, axoneme_views::server::Certificates)> {
    let certificates = views::certificates(tls)?;
    let listener = bind(port).await?;
    let port = listener.local_addr()?.port();
    Ok((listener, port, certificates))
}

/// What the views are served with.
struct Shown<'a> {
    client: &'a Client,
    options: &'a Options,
    hold: &'a LeaseHold,
    ready: watch::Receiver<bool>,
    tls: &'a watch::Receiver<server::Tls>,
    metrics: &'a Arc<Metrics>,
}

impl Shown<'_> {
    /// Serves the views, where their port is free: nothing else waits for them. What keeps them up to date.
    async fn serve(
        self,
        bundle: watch::Receiver<String>,
        (tasks, cancel): (&TaskTracker, &CancellationToken),
    ) -> Option<views::Follow> {
        let Self { client, options, hold, ready, tls, metrics } = self;
        let begun = begin(options.views_port, tls).await;
        let begun = begun.map_err(|e| warn!(error = format!("{e:#}"), "no views are served here")).ok();
        let place = begun.as_ref().map(|(_, port, certificates)| {
            (views::Place { address: options.address, port: *port }, certificates.clone())
        });
        let registration = views::Registration {
            client: client.clone(),
            namespace: options.namespace.clone(),
            place,
            hold: hold.clone(),
            bundle,
            ready,
        };
        tasks.spawn(registration.run(cancel.clone()));
        let (listener, _, certificates) = begun?;
        let shelf = Arc::<axoneme_views::Shelf>::default();
        let serving = views::Serving {
            client: client.clone(),
            shelf: shelf.clone(),
            certificates,
            tls: tls.clone(),
            metrics: metrics.clone(),
        };
        tasks.spawn(views::serve(listener, serving, cancel.clone()));
        Some(views::Follow::new(shelf))
    }
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

/// Writes on their way to the writer. Those that it has no room for wait here: the core must not wait for the writer, which
/// itself waits for the core to take outcomes in. No more than one a part of an object.
struct Outbox {
    writer: mpsc::Sender<(Term, Write)>,
    waiting: VecDeque<(Term, Write)>,
}

impl Outbox {
    fn new(writer: mpsc::Sender<(Term, Write)>) -> Self {
        Self { writer, waiting: VecDeque::new() }
    }

    /// Hands on what there is room for, as planned in this term.
    fn put(&mut self, term: Term, writes: Vec<Write>) {
        self.waiting.extend(writes.into_iter().map(|w| (term, w)));
        while let Some(write) = self.waiting.pop_front() {
            match self.writer.try_send(write) {
                Ok(()) => {}
                Err(TrySendError::Full(write)) => return self.waiting.push_front(write),
                Err(TrySendError::Closed(_)) => return self.waiting.clear(),
            }
        }
    }
}

/// The task that owns the core.
struct Loop {
    core: Core,
    /// In which the core leads, if it does.
    term: Term,
    writes: Outbox,
    ready: watch::Sender<bool>,
    guard: Guard,
    metrics: Arc<Metrics>,
    known: Arc<Known>,
    follow: Option<views::Follow>,
}

impl Loop {
    /// Hands an event to the core, and shows those who review objects what became of it.
    fn source(&mut self, event: SourceEvent) {
        let about = About::of(&event);
        self.core.source(event);
        if let Some(about) = about {
            self.known.follow(about, &self.core.cluster);
        }
    }

    async fn run(mut self, mut inputs: Inputs, cancel: CancellationToken) {
        if self.follow.is_some() {
            self.core.show();
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut room = BATCH;
            tokio::select! {
                Some(e) = inputs.events.recv() => {
                    room = BESIDE;
                    self.source(e);
                }
                Some(i) = inputs.inbound.recv() => self.core.inbound(i),
                Some((key, o)) = inputs.outcomes.recv() => self.core.wrote(&key, o, Instant::now()),
                Some(turn) = inputs.turns.recv() => self.turn(turn),
                _ = tick.tick() => {}
                () = cancel.cancelled() => return,
            }
            for _ in 0..BATCH {
                if let Ok(e) = inputs.events.try_recv() {
                    room = room.min(BESIDE);
                    self.source(e);
                    continue;
                }
                let Some(less) = room.checked_sub(1) else { break };
                room = less;
                if let Ok(i) = inputs.inbound.try_recv() {
                    self.core.inbound(i);
                } else if let Ok((key, o)) = inputs.outcomes.try_recv() {
                    self.core.wrote(&key, o, Instant::now());
                } else {
                    break;
                }
            }
            self.flush();
        }
    }

    fn turn(&mut self, turn: Turn) {
        match turn {
            Turn::Reads(begin) => {
                self.core.reads();
                // whoever asked may have gone
                let _ = begin.send(());
            }
            Turn::Is { leadership, read, term } => {
                for e in read {
                    self.source(e);
                }
                self.term = term;
                self.core.lead(leadership);
            }
        }
    }

    fn flush(&mut self) {
        let (started, before) = (Instant::now(), self.core.hub.revision());
        let flushed = self.core.flush(started, &crate::time::rfc3339(clock::wall()));
        if self.core.hub.revision() != before {
            let took = i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX);
            self.metrics.flush_microseconds.set(took);
        }
        self.core.measure(&self.metrics);
        if let Some(follow) = &mut self.follow {
            follow.follow(&mut self.core, flushed.ready, started);
        }
        if flushed.ready && !*self.ready.borrow() {
            info!("loaded: serving nodes");
            self.ready.send_replace(true);
            self.guard.ready();
        } else if !flushed.ready {
            let awaited: Vec<_> = self.core.awaited().map(Kind::as_str).collect();
            let why = if awaited.is_empty() { "numbers for identities".to_owned() } else { awaited.join(", ") };
            self.guard.not_ready(&format!("waiting for {why}"));
        }
        self.writes.put(self.term, flushed.writes);
    }
}

#[cfg(test)]
mod tests {
    use axoneme_model::ObjectRef;

    use super::*;

    #[test]
    fn more_writes_than_fit_wait_in_order_and_hold_up_nobody() {
        let (writer, mut queue) = mpsc::channel(2);
        let mut outbox = Outbox::new(writer);
        let name = |i: usize| ObjectRef::new(Kind::CiliumIdentity, "", &i.to_string());
        let write = |i: usize| Write::event(name(i), false, "Test", String::new());
        // as much as this was the end: the writer waited for the core, and the core for the writer
        let term = Term::default();
        outbox.put(term, (0..20_000).map(write).collect());
        for i in 0..20_000 {
            assert_eq!(queue.try_recv().unwrap().1.key.object, name(i));
            outbox.put(term, Vec::new());
        }
        assert!(queue.try_recv().is_err() && outbox.waiting.is_empty());
        drop(queue);
        outbox.put(term, vec![write(0)]);
        assert!(outbox.waiting.is_empty(), "kept though nobody writes any more");
    }
}
