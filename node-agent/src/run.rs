//! The engine on its thread, and what feeds it.

use std::{os::fd::OwnedFd, sync::Arc, time::Instant};

use axoneme_cni::{Answer, Request};
use axoneme_flow::admin::{IdentityView, TableView};
use axoneme_kernel::{grace::GracePeriods, net::Network};
use axoneme_model::rows::{AgentRow, RowSet};
use axoneme_wire::{NodeEvent, Proof, client::Event};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::{
    Error,
    engine::{Doomed, Engine, Outgoing},
    health::Plan,
    reaper::{self, Removal},
    settings::Settings,
    source::RowSource,
    status::NodeStatus,
};

/// What may wait for the engine.
const MAIL: usize = 1024;
/// Reports that may wait for the operator's side.
const REPORTS: usize = 4096;

/// What the engine is asked or told.
#[derive(Debug)]
pub enum Mail {
    Stream(Event),
    Cni {
        request: Request,
        netns: Option<OwnedFd>,
        reply: oneshot::Sender<Answer>,
    },
    LinkRemoved(Doomed, Result<(), String>),
    Status(oneshot::Sender<NodeStatus>),
    Tables(oneshot::Sender<Vec<TableView>>),
    Identities(oneshot::Sender<Vec<IdentityView>>),
    Rows(Look),
    Drift(oneshot::Sender<Result<Vec<String>, Error>>),
    Repair(oneshot::Sender<Result<usize, Error>>),
    /// What probes say of the datapath.
    Health(Proof),
    /// Something for a person to know of an object.
    Tell(NodeEvent),
    /// The engine ends, whoever still holds a sender.
    Stop,
}

/// A look at the rows that the node runs by, on the engine's thread: a copy of them all would cost more than an answer.
pub struct Look(pub Box<dyn FnOnce(&RowSet) + Send>);

impl std::fmt::Debug for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Look")
    }
}

/// A running engine.
#[derive(Debug)]
pub struct Running {
    pub mail: mpsc::Sender<Mail>,
    /// Whether ADD can be served.
    pub ready: watch::Receiver<bool>,
    /// What concerns the process itself.
    pub settings: Settings,
    /// Whom to probe, and where to answer.
    pub health: watch::Receiver<Arc<Plan>>,
    tasks: Vec<JoinHandle<()>>,
    thread: std::thread::JoinHandle<()>,
}

/// Starts the engine on a thread of its own, with the tasks that feed it from the source and tell its operator.
pub fn start(
    engine: Engine,
    network: Arc<dyn Network>,
    grace: Option<Arc<GracePeriods>>,
    source: RowSource,
) -> std::io::Result<Running> {
    let (mail, inbox) = mpsc::channel(MAIL);
    let (reports, outgoing) = mpsc::channel(REPORTS);
    let (doomed_tx, doomed) = mpsc::channel(reaper::QUEUE);
    let (ready_tx, ready) = watch::channel(false);
    let (settings_tx, settings) = watch::channel(AgentRow::default());
    let (health_tx, health) = watch::channel(Arc::default());
    let told = Told { reports, doomed: doomed_tx, ready: ready_tx, settings: settings_tx, health: health_tx };
    let handle = Handle::current();
    let RowSource { mut events, operator } = source;
    let feed = mail.clone();
    let tasks = vec![
        tokio::task::spawn(async move {
            while let Some(event) = events.recv().await {
                if feed.send(Mail::Stream(event)).await.is_err() {
                    break;
                }
            }
        }),
        tokio::task::spawn(tell(outgoing, operator)),
        tokio::task::spawn_blocking({
            let mail = mail.downgrade();
            move || reaper::reap(doomed, &mail, &*network, grace.as_deref())
        }),
    ];
    let thread = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || handle.block_on(turn(engine, inbox, told)))?;
    Ok(Running { mail, ready, settings, health, tasks, thread })
}

impl Running {
    /// Ends the engine after the mail in hand. The kernel keeps what it has.
    pub async fn stop(self) {
        let Self { mail, tasks, thread, .. } = self;
        if let Some(feed) = tasks.first() {
            feed.abort();
        }
        let _ = mail.send(Mail::Stop).await;
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        for task in tasks {
            let _ = task.await;
        }
    }
}

/// Where the engine's word goes.
struct Told {
    reports: mpsc::Sender<Outgoing>,
    doomed: mpsc::Sender<Removal>,
    ready: watch::Sender<bool>,
    settings: watch::Sender<AgentRow>,
    health: watch::Sender<Arc<Plan>>,
}

async fn turn(mut engine: Engine, mut inbox: mpsc::Receiver<Mail>, told: Told) {
    // what a former process left may be enough to begin with
    engine.tick();
    publish(&mut engine, &told).await;
    loop {
        let mail = match engine.wake_at() {
            None => inbox.recv().await,
            Some(at) => {
                if let Ok(mail) = tokio::time::timeout_at(at.into(), inbox.recv()).await {
                    mail
                } else {
                    engine.tick();
                    publish(&mut engine, &told).await;
                    continue;
                }
            }
        };
        let mail = match mail {
            None | Some(Mail::Stop) => return engine.finish(),
            Some(mail) => mail,
        };
        handle(&mut engine, mail);
        publish(&mut engine, &told).await;
    }
}

fn handle(engine: &mut Engine, mail: Mail) {
    match mail {
        Mail::Stream(event) => engine.stream(event),
        Mail::Cni { request, netns, reply } => {
            let (command, begun) = (request.command, Instant::now());
            engine.cni(request, netns, reply);
            tracing::debug!(?command, micros = begun.elapsed().as_micros(), "served");
        }
        Mail::LinkRemoved(doomed, result) => {
            engine.link_removed(&doomed, result);
            // an ADD of the same name may have waited for it
            engine.tick();
        }
        // those who asked may have gone away
        Mail::Status(reply) => drop(reply.send(engine.view())),
        Mail::Tables(reply) => drop(reply.send(engine.view_tables())),
        Mail::Identities(reply) => drop(reply.send(engine.view_identities())),
        Mail::Rows(look) => look.0(engine.row_set()),
        Mail::Drift(reply) => drop(reply.send(engine.drift())),
        Mail::Repair(reply) => drop(reply.send(engine.repair())),
        Mail::Health(proof) => engine.proven(proof),
        Mail::Tell(event) => engine.tell(event),
        // the caller has ended the loop
        Mail::Stop => {}
    }
}

async fn publish(engine: &mut Engine, told: &Told) {
    for report in engine.take_outgoing() {
        // the receiver lives as long as this thread
        let _ = told.reports.send(report).await;
    }
    for link in engine.take_doomed() {
        let _ = told.doomed.send(Removal { doomed: link, datapath: engine.datapath() }).await;
    }
    let is_ready = engine.is_ready();
    told.ready.send_if_modified(|r| std::mem::replace(r, is_ready) != is_ready);
    if let Some(plan) = engine.take_health_plan() {
        told.health.send_replace(plan);
    }
    if let Some(new) = engine.agent_settings() {
        told.settings.send_if_modified(|s| {
            let changed = s != new;
            if changed {
                s.clone_from(new);
            }
            changed
        });
    }
}

async fn tell(mut outgoing: mpsc::Receiver<Outgoing>, operator: Box<dyn crate::source::Operator>) {
    while let Some(message) = outgoing.recv().await {
        if operator.tell(message).await.is_err() {
            return;
        }
    }
}
