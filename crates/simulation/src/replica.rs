//! A replica of the operator: its core, hub and sessions are the real ones; watches, writes and the Lease's requests go to
//! the simulated API server.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use axoneme_model::{Kind, ObjectRef};
use axoneme_operator::{
    core::{Core, Timing},
    lease::{
        Renewed,
        election::{self, Hold, Move, Seen, Term},
    },
    metrics::Metrics,
    source::{KINDS, SourceEvent, slim},
    time::rfc3339,
    write::{Outcome, Write, WriteKey},
};
use axoneme_wire::server::{Authenticator, Denied, Inbound, Leadership, Service};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{dice::Dice, net::API, sabotage::Sabotage, sim::Sim};

/// As the operator's own loop has it.
const TICK: Duration = Duration::from_millis(250);
const BATCH: usize = 2048;
const QUEUE: usize = 4096;
/// As the elector and the writer have it.
const RETRY: Duration = Duration::from_secs(1);
const REQUEST: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(3);
/// Rules may wait so long for the identities that they tell apart, and the next turn puts them in force.
const HOLD: Duration = Duration::from_millis(3_600);
/// Kinds that verdicts depend on.
pub const POLICY_KINDS: [Kind; 4] =
    [Kind::NetworkPolicy, Kind::CiliumNetworkPolicy, Kind::CiliumClusterwideNetworkPolicy, Kind::ClusterNetworkPolicy];

/// What the core is told.
#[derive(Debug)]
enum Input {
    Source(SourceEvent),
    /// All changes of the kind before this place of the log were told.
    Upto(Kind, usize),
    Wrote(WriteKey, Outcome),
    Reads(oneshot::Sender<()>),
    Turn(Leadership, Vec<SourceEvent>, Term),
}

/// A process of a replica.
#[derive(Debug)]
pub struct Process {
    alive: CancellationToken,
    tasks: JoinSet<()>,
}

impl Process {
    /// Ends as a killed process does.
    pub fn kill(mut self) {
        self.alive.cancel();
        self.tasks.abort_all();
    }
}

/// Everybody is who they say.
struct Trusting;

#[async_trait::async_trait]
impl Authenticator for Trusting {
    async fn node(&self, token: &str) -> Result<Arc<str>, Denied> {
        Ok(token.into())
    }
}

/// What the tasks of a process share.
struct Shared {
    sim: Arc<Sim>,
    host: Arc<str>,
    /// Name of the process: the host's with the number of its life.
    name: Arc<str>,
    hold: Mutex<Hold>,
    inputs: mpsc::Sender<Input>,
}

impl Shared {
    fn now(&self) -> Renewed {
        Renewed { steady: Instant::now().into_std(), wall: self.sim.wall(&self.host) }
    }

    fn dice(&self, part: &str) -> Dice {
        Dice::new(self.sim.seed, &format!("{} {part}", self.name))
    }

    fn reaches_api(&self) -> bool {
        self.sim.net.talk(&self.host, API)
    }

    /// A request's way to the API server; never, where it does not come through.
    async fn send(&self, dice: &mut Dice) {
        sleep(latency(dice)).await;
        if self.sim.net.is_cut(&self.host, API) {
            std::future::pending::<()>().await;
        }
    }

    /// The answer's way back.
    async fn answer(&self, dice: &mut Dice) {
        sleep(latency(dice)).await;
        if self.sim.net.is_cut(API, &self.host) {
            std::future::pending::<()>().await;
        }
    }
}

fn latency(dice: &mut Dice) -> Duration {
    match dice.below(100) {
        0 => dice.millis(500..4000),
        1..10 => dice.millis(20..200),
        _ => dice.millis(1..8),
    }
}

/// Timings of the run: numbers come free sooner than in life.
#[must_use]
pub fn timing() -> Timing {
    Timing { identity_grace: Duration::from_mins(1), ..Timing::default() }
}

/// Starts the `life`th process of a replica.
#[must_use]
pub fn start(sim: &Arc<Sim>, host: &str, life: u32) -> Process {
    let (alive, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let (inputs_tx, inputs) = mpsc::channel(QUEUE);
    let (inbound_tx, inbound) = mpsc::channel(1024);
    let (leadership, leads) = watch::channel(Leadership::Unknown);
    let (ready, is_ready) = watch::channel(false);
    let shared = Arc::new(Shared {
        sim: sim.clone(),
        host: host.into(),
        name: format!("{host}#{life}").into(),
        hold: Mutex::default(),
        inputs: inputs_tx,
    });
    let service = Service::new(Arc::new(Trusting), inbound_tx, is_ready, alive.clone());
    sim.net.listen(&address(host), host, service, alive.clone());
    for kind in KINDS {
        tasks.spawn(follow(shared.clone(), kind));
    }
    tasks.spawn(elect(shared.clone(), leadership));
    tasks.spawn(turns(shared.clone(), leads));
    tasks.spawn(Mind::new(shared, ready).run(inputs, inbound));
    Process { alive, tasks }
}

/// Where a replica's stream is.
#[must_use]
pub fn address(host: &str) -> String {
    format!("{host}:4250")
}

/// A watch of one kind: lists, follows, and lists anew when its history is gone.
async fn follow(s: Arc<Shared>, kind: Kind) {
    let mut dice = s.dice(kind.as_str());
    let mut known: BTreeSet<ObjectRef> = BTreeSet::new();
    let mut synced = false;
    loop {
        while !s.reaches_api() {
            sleep(RETRY).await;
        }
        sleep(dice.millis(1..40)).await;
        let (list, mut place) = {
            let state = s.sim.api.state();
            (state.of(kind).map(|(o, v)| (o.clone(), v.clone())).collect::<Vec<_>>(), state.log.len())
        };
        let seen: BTreeSet<ObjectRef> = list.iter().map(|(o, _)| o.clone()).collect();
        for (_, object) in list {
            tell(&s, kind, SourceEvent::Apply { kind, object }).await;
        }
        for gone in known.difference(&seen).cloned().collect::<Vec<_>>() {
            tell(&s, kind, SourceEvent::Delete(gone)).await;
        }
        known = seen;
        if !std::mem::replace(&mut synced, true) {
            let _ = s.inputs.send(Input::Source(SourceEvent::Synced(kind))).await;
        }
        let _ = s.inputs.send(Input::Upto(kind, place)).await;
        loop {
            s.sim.api.news(kind, place).await;
            // a watch may lag; others go on meanwhile
            sleep(if dice.chance(20) { dice.millis(500..6000) } else { dice.millis(0..30) }).await;
            if kind == Kind::CiliumNode && s.sim.sabotage == Sabotage::LeaderDoesNotRead {
                sleep(Duration::from_secs(20)).await;
            }
            let mut broken = *s.sim.storm.lock().unwrap() && dice.chance(400);
            while !s.reaches_api() {
                sleep(RETRY).await;
                broken |= dice.chance(100);
            }
            if broken || dice.chance(10) {
                s.sim.say(&s.name, format_args!("{} is listed anew", kind.as_str()));
                break;
            }
            let (news, end) = {
                let state = s.sim.api.state();
                (state.since(kind, place).cloned().collect::<Vec<_>>(), state.log.len())
            };
            place = end;
            for event in news {
                hand_on(&s, kind, event, &mut known, &mut dice).await;
            }
            let _ = s.inputs.send(Input::Upto(kind, place)).await;
        }
    }
}

/// One event of a watch, which notes what it has said.
async fn hand_on(s: &Shared, kind: Kind, event: SourceEvent, known: &mut BTreeSet<ObjectRef>, dice: &mut Dice) {
    match &event {
        SourceEvent::Delete(o) => {
            known.remove(o);
            if s.sim.sabotage == Sabotage::WatchLosesDelete && POLICY_KINDS.contains(&kind) {
                return;
            }
        }
        SourceEvent::Apply { object, .. } => known.extend(axoneme_intake::object_ref(kind, object)),
        _ => {}
    }
    // a watch that is taken up again may say twice what it has said
    if dice.chance(30) {
        tell(s, kind, event.clone()).await;
    }
    tell(s, kind, event).await;
}

async fn tell(s: &Shared, kind: Kind, event: SourceEvent) {
    let event = match event {
        SourceEvent::Apply { mut object, .. } => {
            slim(kind, &mut object);
            SourceEvent::Apply { kind, object }
        }
        e => e,
    };
    let _ = s.inputs.send(Input::Source(event)).await;
}

/// Takes the Lease and keeps it: `lease::run` with another client.
async fn elect(s: Arc<Shared>, leadership: watch::Sender<Leadership>) {
    let (mut seen, mut dice) = (Seen::default(), s.dice("lease"));
    loop {
        let started = s.now();
        let learnt = timeout(REQUEST, attempt(&s, &mut seen, &mut dice, started)).await.ok();
        let held = s.hold.lock().unwrap().renewed();
        let (renewed, now) = election::after(held, learnt, started, s.now());
        let new_term = s.hold.lock().unwrap().set(renewed);
        if leadership.send_if_modified(|l| std::mem::replace(l, now.clone()) != now || new_term) {
            s.sim.say(&s.name, format_args!("leader: {now:?}"));
        }
        sleep(RETRY).await;
    }
}

async fn attempt(s: &Shared, seen: &mut Seen, dice: &mut Dice, started: Renewed) -> Leadership {
    s.send(dice).await;
    let lease = s.sim.api.state().lease.clone();
    s.answer(dice).await;
    let (onto, transitions) = match seen.judge(lease.as_ref(), &s.name, started.steady) {
        Move::Leave(leadership) => return leadership,
        Move::Create => (None, 0),
        Move::Write { version, transitions } => (Some(version), transitions),
    };
    s.send(dice).await;
    let done = s.sim.api.write_lease(onto.as_deref(), &s.name, &address(&s.host), transitions);
    s.answer(dice).await;
    if done { Leadership::Me } else { Leadership::Unknown }
}

/// Hands leadership on; a new leader first reads what may have been handed out: `turns::run` with another client.
async fn turns(s: Arc<Shared>, mut leads: watch::Receiver<Leadership>) {
    let mut dice = s.dice("turns");
    loop {
        let leadership = leads.borrow_and_update().clone();
        let term = s.hold.lock().unwrap().term();
        let mut read = Vec::new();
        if leadership == Leadership::Me && s.sim.sabotage != Sabotage::LeaderDoesNotRead {
            let (begin, begun) = oneshot::channel();
            if s.inputs.send(Input::Reads(begin)).await.is_err() || begun.await.is_err() {
                return;
            }
            let list = async {
                s.send(&mut dice).await;
                let list = fresh(&s);
                s.answer(&mut dice).await;
                list
            };
            if let Ok(list) = timeout(DEADLINE, list).await {
                read = list;
            } else {
                sleep(RETRY).await;
                continue;
            }
        }
        if s.inputs.send(Input::Turn(leadership, read, term)).await.is_err() || leads.changed().await.is_err() {
            return;
        }
    }
}

fn fresh(s: &Shared) -> Vec<SourceEvent> {
    let state = s.sim.api.state();
    let of = |kind| state.of(kind).map(move |(_, v)| (kind, v.clone())).collect::<Vec<_>>();
    let all = [Kind::CiliumNode, Kind::CiliumIdentity].into_iter().flat_map(of);
    all.map(|(kind, mut object)| {
        slim(kind, &mut object);
        SourceEvent::Apply { kind, object }
    })
    .collect()
}

/// One write: `writer::carry_out` with another client.
async fn carry_out(s: Arc<Shared>, term: Term, write: Write, mut dice: Dice) {
    let outcome = if s.hold.lock().unwrap().lets(term, s.now()) {
        let request = async {
            s.send(&mut dice).await;
            let outcome = s.sim.api.write(&write);
            s.answer(&mut dice).await;
            outcome
        };
        timeout(DEADLINE, request).await.unwrap_or_else(|_| Outcome::Failed("no answer in time".into()))
    } else {
        Outcome::Failed("the Lease is not sure".into())
    };
    let short = match &outcome {
        Outcome::Done(_) => "done",
        Outcome::Conflict => "conflict",
        Outcome::Failed(why) => why,
    };
    s.sim.say(&s.name, format_args!("write {} {:?}: {short}", write.key.object, write.key.part));
    let _ = s.inputs.send(Input::Wrote(write.key, outcome)).await;
}

/// The task that owns the core.
struct Mind {
    s: Arc<Shared>,
    core: Core,
    term: Term,
    metrics: Metrics,
    ready: watch::Sender<bool>,
    /// Changes of each kind before this place of the log have been told.
    upto: BTreeMap<Kind, usize>,
    /// When a turn began with all pods numbered, and what was known then.
    settled: VecDeque<(Instant, usize)>,
    /// As of [`HOLD`] ago.
    place: usize,
    writes: JoinSet<()>,
    written: u64,
}

impl Mind {
    fn new(s: Arc<Shared>, ready: watch::Sender<bool>) -> Self {
        let core = Core::new(&s.name, timing());
        Self {
            s,
            core,
            term: Term::default(),
            metrics: Metrics::default(),
            ready,
            upto: BTreeMap::new(),
            settled: VecDeque::new(),
            place: 0,
            writes: JoinSet::new(),
            written: 0,
        }
    }

    async fn run(mut self, mut inputs: mpsc::Receiver<Input>, mut inbound: mpsc::Receiver<Inbound>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(i) = inputs.recv() => self.input(i),
                Some(i) = inbound.recv() => self.core.inbound(i),
                _ = tick.tick() => {}
            }
            for _ in 0..BATCH {
                if let Ok(i) = inputs.try_recv() {
                    self.input(i);
                } else if let Ok(i) = inbound.try_recv() {
                    self.core.inbound(i);
                } else {
                    break;
                }
            }
            self.flush();
        }
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Source(e) => self.core.source(e),
            Input::Upto(kind, place) => drop(self.upto.insert(kind, place)),
            Input::Wrote(key, outcome) => self.core.wrote(&key, outcome, Instant::now().into_std()),
            Input::Reads(begin) => {
                self.core.reads();
                let _ = begin.send(());
            }
            Input::Turn(leadership, read, term) => {
                self.term = term;
                for e in read {
                    self.core.source(e);
                }
                self.core.lead(leadership);
            }
        }
    }

    fn flush(&mut self) {
        while self.writes.try_join_next().is_some() {}
        let now = Instant::now();
        let flushed = self.core.flush(now.into_std(), &rfc3339(self.s.sim.wall(&self.s.host)));
        self.core.measure(&self.metrics);
        self.learn(now);
        if flushed.ready && !*self.ready.borrow() {
            self.s.sim.say(&self.s.name, "serves nodes");
            self.ready.send_replace(true);
        }
        for w in flushed.writes {
            self.written += 1;
            let dice = self.s.dice(&format!("write {}", self.written));
            self.writes.spawn(carry_out(self.s.clone(), self.term, w, dice));
        }
    }

    /// Notes how much of the log is in force by the newest revision.
    fn learn(&mut self, now: Instant) {
        let revision = u64::try_from(self.metrics.revision.get()).unwrap_or(0);
        if self.metrics.identities_missing.get() == 0 && self.upto.len() == KINDS.len() {
            let state = self.s.sim.api.state();
            let relevant = POLICY_KINDS.iter().chain(&[Kind::Pod, Kind::Namespace]);
            let place = relevant.map(|k| state.next_of(*k, self.upto[k])).min().unwrap_or(0);
            drop(state);
            if self.settled.back().is_none_or(|(_, p)| *p != place) {
                self.settled.push_back((now, place));
            }
        }
        while self.settled.front().is_some_and(|(at, _)| *at + HOLD <= now) {
            self.place = self.settled.pop_front().map_or(self.place, |(_, p)| p);
        }
        self.s.sim.known.lock().unwrap().learn(&self.s.name, revision, self.place);
    }
}
