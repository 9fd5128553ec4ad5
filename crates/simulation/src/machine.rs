//! A node: what outlives its agent (kernel, network, disk), and the agent, whose engine and stream are the real ones.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant as Steady, SystemTime},
};

use axoneme_cni::{Answer, Request};
use axoneme_kernel::{
    datapath::{Datapath, DatapathConfig, Result as DatapathResult},
    net::fake::FakeNetwork,
};
use axoneme_node_agent::{
    base::DatapathPaths,
    engine::{DatapathFactory, Engine, Outgoing, Parts},
    reaper,
    source::Operator as _,
};
use axoneme_runtime::clock::Clock;
use axoneme_wire::{
    RowChange,
    client::{Credentials, Driver, Event, Settings, StreamClient},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{dice::Dice, kernel::Kernel, net::Link, sabotage::Sabotage, sim::Sim, store::Disk};

/// Rows that an agent begins with when nobody serves it may be so old: they are written once in a while.
const COPY_AGE: Duration = Duration::from_secs(8);

/// What the kubelet asks.
#[derive(Debug)]
struct Ask {
    request: Request,
    netns: OwnedFd,
    reply: oneshot::Sender<Answer>,
}

/// The node.
#[expect(missing_debug_implementations, reason = "holds the engine")]
pub struct Machine {
    pub sim: Arc<Sim>,
    pub name: Arc<str>,
    pub address: IpAddr,
    pub network: Arc<FakeNetwork>,
    pub kernel: Arc<Kernel>,
    pub disk: Arc<Disk>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    engine: Option<Engine>,
    process: Option<Process>,
    life: u32,
    /// Processes of operators by the epoch of their revisions.
    epochs: BTreeMap<u64, Arc<str>>,
    /// What was in force at which time, by the place of the API's log.
    in_force: VecDeque<(Instant, usize)>,
    /// The kernel holds nothing older than what this place says.
    acked: Option<(Arc<str>, u64)>,
    floor: usize,
}

struct Process {
    alive: CancellationToken,
    tasks: JoinSet<()>,
    cni: mpsc::Sender<Ask>,
}

#[derive(Debug)]
struct SimClock(Arc<str>, std::sync::Weak<Sim>);

impl Clock for SimClock {
    fn now(&self) -> Steady {
        Instant::now().into_std()
    }

    fn wall(&self) -> SystemTime {
        self.1.upgrade().map_or(SystemTime::UNIX_EPOCH, |s| s.wall(&self.0))
    }
}

struct Opens(Arc<Kernel>);

impl DatapathFactory for Opens {
    fn open(&mut self, _: &DatapathConfig) -> DatapathResult<Arc<dyn Datapath>> {
        // what an earlier process has not committed
        let mut state = self.0.fake.state();
        state.staged_ips.clear();
        state.staged_endpoints.clear();
        drop(state);
        Ok(self.0.clone())
    }
}

/// The node's name is its token here.
struct Named(Arc<str>);

#[async_trait::async_trait]
impl Credentials for Named {
    async fn token(&self) -> std::io::Result<String> {
        Ok(self.0.to_string())
    }
}

impl Machine {
    #[must_use]
    pub fn new(sim: &Arc<Sim>, name: &str, address: IpAddr) -> Self {
        let network = FakeNetwork::node(&[address]);
        for key in ["net/ipv4/conf/all/rp_filter", "net/ipv4/conf/axn_vxlan/rp_filter", "net/ipv6/conf/eth0/accept_ra"]
        {
            network.state().sysctls.insert(key.to_owned(), "0".to_owned());
        }
        Self {
            sim: sim.clone(),
            name: name.into(),
            address,
            network: Arc::new(network),
            kernel: Arc::new(Kernel::new(sim.sabotage)),
            disk: Arc::default(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state().process.is_some()
    }

    /// A look at the engine; none while no agent runs.
    pub fn look<T>(&self, at: impl FnOnce(&Engine) -> T) -> Option<T> {
        self.state().engine.as_ref().map(at)
    }

    /// An agent starts, with what the machine holds.
    pub fn start(self: &Arc<Self>, replicas: &[String]) {
        let (alive, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let mut state = self.state();
        state.life += 1;
        let life = state.life;
        // behind an operator's back it may put rows of its copy in force
        let old = Instant::now().checked_sub(COPY_AGE);
        let of_copy = state.in_force.iter().rev().find(|(at, _)| old.is_some_and(|o| *at <= o)).map_or(0, |(_, p)| *p);
        (state.acked, state.floor) = (None, of_copy);
        let parts = Parts {
            node: self.name.clone(),
            network: self.network.clone(),
            store: self.disk.clone(),
            clock: Arc::new(SimClock(self.name.clone(), Arc::downgrade(&self.sim))),
            paths: DatapathPaths { pin_dir: "/sys/fs/bpf/axoneme".into(), cgroup: None },
            add_deadline: Duration::from_secs(15),
            warnings: vec![],
            flows: None,
            grace: None,
        };
        state.engine = Some(Engine::new(parts, Box::new(Opens(self.kernel.clone()))).unwrap());
        let link = Arc::new(Link {
            net: self.sim.net.clone(),
            api: self.sim.api.clone(),
            node: self.name.clone(),
            seed: self.sim.seed ^ u64::from(life),
            alive: alive.clone(),
            known: Mutex::new(replicas.to_vec()),
            dice: Mutex::new(Dice::new(self.sim.seed, &format!("jitter {} {life}", self.name))),
            count: Mutex::default(),
        });
        let settings = Settings { node: self.name.clone(), agent_version: "simulated".into(), resume: None };
        let (driver, client, events) = Driver::new(settings, link.clone(), Arc::new(Named(self.name.clone())));
        tasks.spawn(driver.over(link).run(alive.clone()));
        let (cni, asks) = mpsc::channel(64);
        let dice = Dice::new(self.sim.seed, &format!("agent {} {life}", self.name));
        tasks.spawn(turn(self.clone(), client, events, asks, dice));
        state.process = Some(Process { alive, tasks, cni });
        self.sim.say(&self.name, format_args!("agent {life} starts"));
    }

    /// The agent dies; what it made stays.
    pub fn kill(&self) {
        let mut state = self.state();
        let Some(mut process) = state.process.take() else { return };
        process.alive.cancel();
        process.tasks.abort_all();
        state.engine = None;
        self.sim.say(&self.name, "agent killed");
        if self.sim.sabotage == Sabotage::AgentForgetsIntents {
            use axoneme_node_agent::store::Store as _;
            for name in self.disk.names("endpoint-").unwrap() {
                self.disk.remove(&name).unwrap();
            }
        }
    }

    /// Asks as the CNI plugin does. None: no agent answered.
    pub async fn cni(&self, request: Request) -> Option<Answer> {
        let cni = self.state().process.as_ref()?.cni.clone();
        let (reply, answer) = oneshot::channel();
        let netns: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        cni.send(Ask { request, netns, reply }).await.ok()?;
        answer.await.ok()
    }

    /// The place of the API's log before which all is in force here.
    #[must_use]
    pub fn in_force(&self) -> usize {
        let state = self.state();
        let acked =
            state.acked.as_ref().map(|(process, revision)| self.sim.known.lock().unwrap().of(process, *revision));
        acked.unwrap_or(state.floor)
    }

    fn stream(&self, event: Event, dice: &mut Dice, loses: &mut Loses) {
        let mut state = self.state();
        let event = match event {
            Event::Connected { operator, address, resumed, leader } => {
                self.sim.say(&self.name, format_args!("connected to {operator}, resumed: {resumed}"));
                loses.missed = resumed && self.sim.sabotage == Sabotage::OperatorIgnoresResume;
                loses.operator = operator.as_str().into();
                Event::Connected { operator, address, resumed, leader }
            }
            Event::Batch(mut batch) => {
                state.epochs.insert(batch.at.epoch, loses.operator.clone());
                self.sim.say(
                    &self.name,
                    format_args!(
                        "revision {} of {}, {} changes, complete {}",
                        batch.at.revision,
                        loses.operator,
                        batch.changes.len(),
                        batch.complete.len()
                    ),
                );
                let delta = batch.complete.is_empty() && batch.changes.iter().any(|c| matches!(c, RowChange::Patch(_)));
                let lost = delta && self.sim.sabotage == Sabotage::AgentLosesDelta && dice.chance(300);
                if std::mem::take(&mut loses.missed) || lost {
                    batch.changes.clear();
                }
                Event::Batch(batch)
            }
            Event::Disconnected { reason } => {
                self.sim.say(&self.name, format_args!("disconnected: {reason}"));
                Event::Disconnected { reason }
            }
        };
        if let Some(engine) = &mut state.engine {
            engine.stream(event);
        }
    }

    /// What the engine has to say, and the links that it left to be removed.
    fn publish(&self) -> Vec<Outgoing> {
        let mut state = self.state();
        let State { engine: Some(engine), acked, epochs, .. } = &mut *state else { return Vec::new() };
        let doomed = engine.take_doomed();
        if !doomed.is_empty() {
            let datapath = engine.datapath();
            let result = reaper::remove(&doomed, &*self.network, datapath.as_deref(), None);
            for d in doomed {
                engine.link_removed(&d, result.clone());
            }
            engine.tick();
        }
        let out = engine.take_outgoing();
        for o in &out {
            if let Outgoing::Ack(at) = o
                && let Some(process) = epochs.get(&at.epoch)
            {
                *acked = Some((process.clone(), at.revision));
            }
        }
        drop(state);
        let place = self.in_force();
        let mut state = self.state();
        if state.in_force.back().is_none_or(|(_, p)| *p != place) {
            state.in_force.push_back((Instant::now(), place));
        }
        out
    }

    fn wake_at(&self) -> Option<Instant> {
        self.state().engine.as_ref().and_then(Engine::wake_at).map(Instant::from_std)
    }
}

/// What sabotage has planned.
#[derive(Debug)]
struct Loses {
    missed: bool,
    operator: Arc<str>,
}

/// The engine's loop: `run::turn` without its thread.
async fn turn(
    machine: Arc<Machine>,
    client: StreamClient,
    mut events: mpsc::Receiver<Event>,
    mut asks: mpsc::Receiver<Ask>,
    mut dice: Dice,
) {
    let mut loses = Loses { missed: false, operator: "".into() };
    if let Some(engine) = &mut machine.state().engine {
        engine.tick();
    }
    loop {
        for message in machine.publish() {
            if client.tell(message).await.is_err() {
                return;
            }
        }
        let wake = machine.wake_at();
        let due = async {
            match wake {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(event) = events.recv() => machine.stream(event, &mut dice, &mut loses),
            Some(ask) = asks.recv() => {
                if let Some(engine) = &mut machine.state().engine {
                    engine.cni(ask.request, Some(ask.netns), ask.reply);
                }
            }
            () = due => {
                if let Some(engine) = &mut machine.state().engine {
                    engine.tick();
                }
            }
        }
    }
}
