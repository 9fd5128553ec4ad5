//! Follows the engine's plan: probes others, answers them, and says what was found.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::Arc,
    time::{Duration, Instant},
};

use axoneme_flow::admin::{HealthSummary, NodeHealth};
use axoneme_kernel::net::listen_in;
use axoneme_wire::Proof;
use futures::future::join_all;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
};

use super::{
    PORT, Plan, answer,
    mesh::{Effect, Input, Mesh},
    metrics::{self, Metrics},
    probe::probe,
    view,
};
use crate::run::Mail;

/// Questions that may wait.
const QUESTIONS: usize = 16;
/// Nodes are counted for Prometheus so late at most: that takes longer the more there are, and visits are many.
const COUNT: Duration = Duration::from_secs(1);

/// What people and Prometheus ask.
#[derive(Debug)]
pub enum Question {
    /// None: nobody is probed.
    Summary(oneshot::Sender<Option<HealthSummary>>),
    Matrix(oneshot::Sender<Vec<NodeHealth>>),
}

/// Asks the task.
#[derive(Clone, Debug)]
pub struct Asker(mpsc::Sender<Question>);

impl Asker {
    pub async fn summary(&self) -> Option<HealthSummary> {
        self.ask(Question::Summary).await.flatten()
    }

    pub async fn matrix(&self) -> Vec<NodeHealth> {
        self.ask(Question::Matrix).await.unwrap_or_default()
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(question(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// The mesh and what it needs of the world.
#[derive(Debug)]
pub struct Task {
    mesh: Mesh,
    plan: Arc<Plan>,
    plans: watch::Receiver<Arc<Plan>>,
    questions: mpsc::Receiver<Question>,
    engine: mpsc::Sender<Mail>,
    metrics: Arc<Metrics>,
    /// By what is listened at: an address, or the descriptor of a namespace.
    answers: HashMap<Listening, AbortHandle>,
    servers: JoinSet<()>,
    visits: JoinSet<Input>,
    proof: Proof,
    /// When nodes are counted next; none: nothing has changed.
    count_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Listening {
    Address(IpAddr),
    Namespace(RawFd),
}

impl Task {
    /// `engine`: told of changes of the proof. `metrics_at`: where Prometheus reads, and what it reads beside the probes.
    #[must_use]
    pub fn new(
        node: &str,
        plans: watch::Receiver<Arc<Plan>>,
        engine: mpsc::Sender<Mail>,
        metrics_at: Option<(SocketAddr, crate::metrics::Agent)>,
    ) -> (Self, Asker) {
        let (ask, questions) = mpsc::channel(QUESTIONS);
        let mut metrics = Metrics::new(node);
        let at = metrics_at.map(|(at, agent)| {
            metrics.add(agent);
            at
        });
        let metrics = Arc::new(metrics);
        let mut servers = JoinSet::new();
        if let Some(at) = at {
            let figures = metrics.clone();
            let respond = metrics::respond(move || figures.text());
            let bind = move || std::net::TcpListener::bind(at);
            servers.spawn(answer::serve(format!("{at} (metrics)"), bind, respond));
        }
        let task = Self {
            mesh: Mesh::default(),
            plan: Arc::default(),
            plans,
            questions,
            engine,
            metrics,
            answers: HashMap::new(),
            servers,
            visits: JoinSet::new(),
            proof: Proof::Unasked,
            count_at: None,
        };
        (task, Asker(ask))
    }

    /// Until the engine is gone.
    pub async fn run(mut self) {
        self.follow().await;
        loop {
            let wake = [self.mesh.wake_at(), self.count_at].into_iter().flatten().min();
            let due = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.plans.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow().await;
                }
                Some(visited) = self.visits.join_next(), if !self.visits.is_empty() => match visited {
                    Ok(input) => self.step(input).await,
                    Err(error) => tracing::error!(%error, "a probe ended without an outcome"),
                },
                Some(question) = self.questions.recv() => self.answer(question),
                () = due => {
                    self.step(Input::Tick).await;
                    self.count();
                }
            }
        }
    }

    async fn follow(&mut self) {
        self.plan = self.plans.borrow_and_update().clone();
        self.listen();
        self.step(Input::Peers(self.plan.peers.clone().unwrap_or_default())).await;
    }

    /// Answers where the plan says, and nowhere else.
    fn listen(&mut self) {
        let plan = self.plan.clone();
        let on = plan.peers.is_some();
        let addresses = plan.addresses.iter().map(|a| Listening::Address(*a));
        let endpoint = plan.endpoint.iter().map(|e| Listening::Namespace(e.as_raw_fd()));
        let wanted: Vec<Listening> = addresses.chain(endpoint).filter(|_| on).collect();
        self.answers.retain(|at, server| {
            let stays = wanted.contains(at);
            if !stays {
                server.abort();
            }
            stays
        });
        for at in wanted {
            if self.answers.contains_key(&at) {
                continue;
            }
            let server = match (at, &plan.endpoint) {
                (Listening::Address(address), _) => {
                    let at = SocketAddr::new(address, PORT);
                    let bind = move || std::net::TcpListener::bind(at);
                    self.servers.spawn(answer::serve(format!("{at} (probes)"), bind, answer::hello()))
                }
                (Listening::Namespace(_), Some(netns)) => {
                    let netns = netns.clone();
                    let bind = move || listen_in(netns.as_fd(), PORT).map_err(io::Error::other);
                    self.servers.spawn(answer::serve("health endpoint".to_owned(), bind, answer::hello()))
                }
                (Listening::Namespace(_), None) => continue,
            };
            self.answers.insert(at, server);
        }
        // those that were ended
        while self.servers.try_join_next().is_some() {}
    }

    async fn step(&mut self, input: Input) {
        let cluster = self.plan.cluster.clone();
        if !matches!(input, Input::Tick) {
            self.count_at.get_or_insert_with(|| Instant::now() + COUNT);
        }
        if let Input::Visited { outcomes, .. } = &input {
            let answered = outcomes.iter().filter_map(|(lane, o)| Some((*lane, *o.as_ref().ok()?)));
            answered.for_each(|(lane, took)| self.metrics.answered(&cluster, lane, took));
        }
        for effect in self.mesh.step(Instant::now(), input) {
            match effect {
                Effect::Visit { node, ticket, lanes } => drop(self.visits.spawn(async move {
                    let outcomes = join_all(lanes.into_iter().map(|lane| async move { (lane, probe(lane).await) }));
                    Input::Visited { node, ticket, outcomes: outcomes.await }
                })),
                Effect::Changed { node, lane, up: true, .. } => tracing::info!(%node, %lane, "reached again"),
                Effect::Changed { node, lane, up: false, error } => {
                    tracing::warn!(%node, %lane, error, "not reached");
                }
            }
        }
        let on = self.plan.peers.is_some();
        let proof = if on { self.mesh.proof() } else { Proof::Unasked };
        // the words may change with every probe, and nobody is to be told anew
        if std::mem::discriminant(&proof) != std::mem::discriminant(&self.proof) {
            self.proof = proof.clone();
            // the engine lives as long as its plans
            let _ = self.engine.send(Mail::Health(proof)).await;
        }
    }

    fn count(&mut self) {
        if self.count_at.is_some_and(|at| at <= Instant::now()) {
            self.count_at = None;
            self.metrics.count(&self.plan.cluster, &self.mesh);
        }
    }

    fn answer(&mut self, question: Question) {
        // those who asked may have gone away
        match question {
            Question::Summary(reply) => {
                let summary = self.plan.peers.is_some().then(|| view::summary(&self.mesh));
                drop(reply.send(summary));
            }
            Question::Matrix(reply) => drop(reply.send(view::matrix(&self.mesh, Instant::now()))),
        }
    }
}
