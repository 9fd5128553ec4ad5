//! One run: load, all nodes at once, churn with changes of policies, figures.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use axoneme_wire::client::Replicas;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Options, PROBES,
    agents::Agents,
    api::Api,
    http,
    probe::{self, Seen},
    world::{self, Stage},
};

/// Ports of changed policies, so that each change is known by its own.
const FIRST_PORT: u32 = 10_000;
/// Nothing was written for so long: the cluster is at rest.
const REST: Duration = Duration::from_secs(3);
/// It is taken for that after this long all the same.
const LONGEST_REST: Duration = Duration::from_secs(150);
/// Changes of policies that have not come when the others end get so long.
const LATE: Duration = Duration::from_secs(30);
/// Clock ticks of `/proc/PID/stat` in a second (`USER_HZ` on every architecture that this runs on).
const TICKS: f64 = 100.0;

/// The operator's process.
struct Operator {
    child: Child,
    stdin: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
    pid: u32,
}

impl Operator {
    fn start(o: &Options, api: &str) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--operator", api, "--nodes", &o.nodes.to_string(), "--pods", &o.pods.to_string()]);
        command.args(o.without.iter().flat_map(|t| ["--without".to_owned(), t.name()]));
        command.args(o.agent.iter().map(|agent| format!("--agent={}", agent.display())));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("the operator's process")?;
        let stdin = child.stdin.take().context("its input")?;
        let said = BufReader::new(child.stdout.take().context("its output")?).lines();
        let pid = child.id().context("its number")?;
        Ok(Self { child, stdin, said, pid })
    }

    async fn tell(&mut self, word: &str) -> anyhow::Result<()> {
        self.stdin.write_all(format!("{word}\n").as_bytes()).await.context("telling the operator's process")
    }

    async fn hear(&mut self, what: &str) -> anyhow::Result<Value> {
        loop {
            let line = self.said.next_line().await?.with_context(|| format!("it ended before it said {what}"))?;
            let said: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
            if said["said"] == what {
                return Ok(said);
            }
        }
    }

    async fn counts(&mut self) -> anyhow::Result<[f64; 3]> {
        self.tell("counts").await?;
        let said = self.hear("counts").await?;
        Ok(["bytes", "commits", "lost"].map(|k| said[k].as_f64().unwrap_or(f64::NAN)))
    }

    fn memory_mib(&self, field: &str) -> anyhow::Result<f64> {
        memory_mib(self.pid, field)
    }

    fn processor_seconds(&self) -> anyhow::Result<f64> {
        processor_seconds(self.pid)
    }

    /// From now on `VmHWM` is the peak since now.
    fn forget_peak(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.pid), "5")?)
    }
}

/// A field of `/proc/PID/status`.
pub(crate) fn memory_mib(pid: u32, field: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix(field)).context("no such field")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// What the process has had of the processors.
pub(crate) fn processor_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("stat")?;
    let field = |i: usize| fields.split_whitespace().nth(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(f64::NAN);
    Ok((field(11) + field(12)) / TICKS)
}

/// One figure, as the bench of the workspace reads it.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: f64,
}

impl Figure {
    pub(crate) fn json(&self) -> Value {
        json!({"name": self.name, "unit": self.unit, "ours": self.ours})
    }
}

/// What was measured so far. Told at once on standard error: a run that is given up has said what it found.
struct Figures<'a> {
    suffix: &'a str,
    all: Vec<Figure>,
}

impl Figures<'_> {
    fn put(&mut self, name: &str, unit: &'static str, ours: f64) {
        let figure = Figure { name: format!("{name}{}", self.suffix), unit, ours: (ours * 1000.0).round() / 1000.0 };
        eprintln!("{} {} {unit}", figure.name, figure.ours);
        self.all.push(figure);
    }
}

pub(crate) async fn run(o: &Options) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Figures { suffix: &o.name, all: Vec::new() };
    let (tasks, cancel, api) = (TaskTracker::new(), CancellationToken::new(), Api::new(o));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tasks.spawn(http::serve(listener, api.clone(), tasks.clone()));

    let began = Instant::now();
    let mut operator = Operator::start(o, &url)?;
    let ready = operator.hear("ready").await?;
    figures.put("operator_load_s", "s", began.elapsed().as_secs_f64());
    figures.put("operator_load_cpu_s", "s", operator.processor_seconds()?);
    figures.put("operator_rss_loaded_mib", "MiB", operator.memory_mib("VmRSS:")?);

    // of a cluster without a history all identities are yet to be created
    rest(&api).await;
    figures.put("operator_rss_numbered_mib", "MiB", operator.memory_mib("VmRSS:")?);
    let peak = operator.memory_mib("VmHWM:")?;
    operator.forget_peak()?;
    operator.tell("subscribe").await?;
    let subscribed = operator.hear("subscribed").await?;
    let [bytes, ..] = operator.counts().await?;
    figures.put("cold_start_s", "s", subscribed["seconds"].as_f64().unwrap_or(f64::NAN));
    figures.put("snapshot_bytes_per_node", "B", bytes / f64::from(o.nodes - o.reserved()));
    let cold = operator.memory_mib("VmHWM:")?;
    figures.put("operator_rss_cold_start_peak_mib", "MiB", cold);
    let stream = ready["stream"].as_u64().context("its port")?;
    let replicas = replicas(&api, stream)?;
    let seen = probes(&replicas, &tasks, &cancel).await?;
    let agents = match &o.agent {
        Some(binary) => Some(Agents::start(binary, &replicas, o).await?),
        None => None,
    };
    rest(&api).await;
    let rested = operator.memory_mib("VmRSS:")?;
    figures.put("operator_rss_at_rest_mib", "MiB", rested);
    figures.put("operator_rss_cold_start_to_rest", "ratio", cold / rested);
    let (before, began) = (agents.as_ref().map(Agents::processor_seconds).transpose()?, Instant::now());
    churn(o, &mut figures, &api, &mut operator, seen).await?;
    if let Some(agents) = &agents {
        figures.put("agent_rss_mib", "MiB", agents.memory_mib("VmRSS:")?);
        figures.put("agent_rss_peak_mib", "MiB", agents.memory_mib("VmHWM:")?);
        let processor = agents.processor_seconds()? - before.unwrap_or_default();
        figures.put("agent_cpu_cores", "cores", processor / began.elapsed().as_secs_f64());
    }
    let resident = operator.memory_mib("VmRSS:")?;
    figures.put("operator_rss_mib", "MiB", resident);
    figures.put("operator_rss_per_pod_kib", "KiB", resident * 1024.0 / f64::from(o.pods));
    figures.put("operator_rss_peak_mib", "MiB", operator.memory_mib("VmHWM:")?.max(peak));
    drop(agents);
    cancel.cancel();
    operator.child.kill().await.context("ending the operator's process")?;
    Ok(figures.all)
}

/// Where nodes find the operator, and whom they trust.
fn replicas(api: &Api, port: u64) -> anyhow::Result<Replicas> {
    let path = ("configmaps".to_owned(), "axoneme-system".to_owned(), "axoneme-ca".to_owned());
    let ca = api.get(&path).map_err(|(code, _)| anyhow::anyhow!("no authority: {code}"))?;
    let ca_pem = ca.pointer("/data/ca.crt").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Replicas { addresses: vec![format!("127.0.0.1:{port}")], ca_pem })
}

/// Connects the probe nodes and waits until all have their rows.
async fn probes(
    replicas: &Replicas,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> anyhow::Result<mpsc::Receiver<Seen>> {
    let (seen_tx, seen) = mpsc::channel(4096);
    for i in 0..PROBES {
        let (first_tx, mut first) = mpsc::channel(1);
        probe::start(&world::node_name(i), replicas, seen_tx.clone(), first_tx, tasks, cancel);
        let came = tokio::time::timeout(Duration::from_mins(1), first.recv()).await;
        came.with_context(|| format!("probe {i} got no rows"))?;
    }
    Ok(seen)
}

/// Waits until the operator has nothing more to write.
async fn rest(api: &Api) {
    let began = Instant::now();
    let (mut before, mut since) = (api.writes(), Instant::now());
    while since.elapsed() < REST && began.elapsed() < LONGEST_REST {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = api.writes();
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
}

/// Policies with a subject on a probe node.
fn probed(o: &Options) -> Vec<u32> {
    let on_probe = |set: u32| {
        let pods = (0..).map(move |n| set + n * o.identities).take_while(|p| *p < o.pods);
        pods.into_iter().any(|p| p % o.nodes < PROBES)
    };
    (0..o.policies).filter(|p| on_probe(world::subject(o, *p))).collect()
}

async fn churn(
    o: &Options,
    figures: &mut Figures<'_>,
    api: &Arc<Api>,
    operator: &mut Operator,
    mut seen: mpsc::Receiver<Seen>,
) -> anyhow::Result<()> {
    let policies = probed(o);
    ensure!(!policies.is_empty(), "no policy selects a pod of a probe node");
    let (writes, processor, began) = (api.writes(), operator.processor_seconds()?, Instant::now());
    let before = operator.counts().await?;
    let mut sent: BTreeMap<u16, Instant> = BTreeMap::new();
    let mut took = Vec::new();
    let (mut pods, mut edits) = (0u32, 0u32);
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    let (mut generations, mut bound) = (BTreeMap::<u32, u32>::new(), Vec::new());
    let end = Duration::from_secs(o.seconds);
    while began.elapsed() < end + Duration::from_secs(1) {
        tokio::select! {
            Some((port, at)) = seen.recv() => {
                took.extend(sent.remove(&port).map(|from| at.duration_since(from).as_secs_f64() * 1000.0));
                continue;
            }
            _ = tick.tick() => {}
        }
        let due = |rate: u32| (began.elapsed().min(end).as_secs_f64() * f64::from(rate)) as u32;
        for pod in std::mem::take(&mut bound) {
            run_pod(o, api, pod, &generations);
        }
        while pods < due(o.churn) {
            bound.push(replace(o, api, pods, &mut generations));
            pods += 1;
        }
        if edits < due(o.edits) && (edits as usize) < usize::from(u16::MAX) - FIRST_PORT as usize {
            let port = FIRST_PORT + edits;
            sent.insert(port as u16, Instant::now());
            api.edit(policies[edits as usize % policies.len()], 2 + edits, port);
            edits += 1;
        }
    }
    let wall = began.elapsed().as_secs_f64();
    let processor = operator.processor_seconds()? - processor;
    let [bytes, commits, lost] = operator.counts().await?;
    late(&mut sent, &mut seen, &mut took).await;
    ensure!(took.len() * 100 >= edits as usize * 99, "only {} of {edits} changes of policies came", took.len());
    let at = |share: f64| took.get(((took.len() as f64 - 1.0) * share).round() as usize).copied().unwrap_or(f64::NAN);
    let written = written(&writes, &api.writes());
    eprintln!(
        "{pods} pods and {edits} policies in {wall:.1} s; writes: {written:?}; watches: {}; streams lost: {lost}",
        api.watches.load(std::sync::atomic::Ordering::Relaxed)
    );
    // of a policy that changes the status does, once: that is no part of a pod's life
    let of_pods: u64 = written.iter().filter(|(what, _)| !what.contains("policies/status")).map(|(_, n)| n).sum();
    let of_policies: u64 = written.values().sum::<u64>() - of_pods;
    figures.put("operator_cpu_cores", "cores", processor / wall);
    figures.put("policy_p50_ms", "ms", at(0.5));
    figures.put("policy_p99_ms", "ms", at(0.99));
    figures.put("api_writes_per_pod", "writes", of_pods as f64 / f64::from(pods));
    figures.put("status_writes_per_policy_change", "writes", of_policies as f64 / f64::from(edits));
    let watches = api.watches.load(std::sync::atomic::Ordering::Relaxed) as f64;
    figures.put("watches_per_node", "watches", watches / f64::from(o.nodes));
    let nodes = f64::from(o.nodes - o.reserved());
    figures.put("bytes_per_node", "B/s", (bytes - before[0]) / nodes / wall);
    figures.put("commits_per_node", "1/s", (commits - before[1]) / nodes / wall);
    Ok(())
}

/// An operator that does not keep up is late, and its lateness is the figure. All that came, in their order.
async fn late(sent: &mut BTreeMap<u16, Instant>, seen: &mut mpsc::Receiver<Seen>, took: &mut Vec<f64>) {
    let end = Instant::now() + LATE;
    while !sent.is_empty()
        && let Ok(Some((port, at))) = tokio::time::timeout_at(end.into(), seen.recv()).await
    {
        took.extend(sent.remove(&port).map(|from| at.duration_since(from).as_secs_f64() * 1000.0));
    }
    took.sort_by(f64::total_cmp);
}

fn written(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let new = |(what, n): (&String, &u64)| (what.clone(), n - before.get(what).copied().unwrap_or(0));
    now.iter().map(new).filter(|(_, n)| *n > 0).collect()
}

/// One pod in twenty has a label value that no pod had before.
const fn is_other(generation: u32, pod: u32) -> bool {
    generation > 0 && (pod / 7).is_multiple_of(20)
}

/// The old pod goes, the new one comes and is bound. Its place.
fn replace(o: &Options, api: &Api, n: u32, generations: &mut BTreeMap<u32, u32>) -> u32 {
    let mut pod = n.wrapping_mul(7) % o.pods;
    // those of the probes stay: they are what policies are changed for; and those of the agents, which make no links for them
    while pod % o.nodes < o.reserved() {
        pod = (pod + 1) % o.pods;
    }
    let generation = generations.entry(pod).or_default();
    let old = world::pod(o, pod, *generation, Stage::Running, is_other(*generation, pod));
    *generation += 1;
    let new = |stage| world::pod(o, pod, *generation, stage, is_other(*generation, pod));
    api.happen("pods", "ADDED", new(Stage::Pending));
    api.happen("pods", "MODIFIED", new(Stage::Bound));
    api.happen("pods", "DELETED", old);
    pod
}

fn run_pod(o: &Options, api: &Api, pod: u32, generations: &BTreeMap<u32, u32>) {
    let generation = generations.get(&pod).copied().unwrap_or(0);
    api.happen("pods", "MODIFIED", world::pod(o, pod, generation, Stage::Running, is_other(generation, pod)));
}
