//! Figures that need a real cluster: pod start, time to enforcement, what an agent costs.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::api::Api;
use super::{Effort, Figure};
use crate::cluster::{Cluster, Cni, Family, Options};
use crate::lab::{Lab, Pod, Routing, SYSTEM, target};
use crate::progress::{say, step, wait};
use crate::setup::{self, Part};

/// Pods started one by one on either side.
const STARTS: usize = 20;
/// Batches of pods started at once on either side.
const BATCHES: usize = 5;
const BATCH: usize = 25;
/// Policies applied, for each way to apply one.
const POLICIES: usize = 50;
/// Image of the pods whose start is timed; both clusters have it.
const PAUSE: &str = "registry.k8s.io/pause:3.10.2";

/// The product's cluster and the reference plugins' cluster run side by side; rounds alternate between them.
pub(super) fn run(effort: Effort) -> Result<Vec<Figure>> {
    setup::run_quietly(Part::Cluster)?;
    let lab = Lab::up("bench", 2, Family::V4, Routing::Overlay)?;
    let figures = measure(&lab, effort);
    lab.down()?;
    figures
}

fn measure(lab: &Lab, effort: Effort) -> Result<Vec<Figure>> {
    let options = Options { name: "bench-ref".to_owned(), nodes: 2, cni: Cni::Ref, ..Options::default() };
    let reference = step("peer cluster: reference plugins", || Cluster::up(&options))?;
    let started = step("pod create to Ready, alternating with the peer", || starts(&lab.cluster, &reference, effort));
    reference.down()?;
    let mut figures = started?;
    figures.extend(step("a deny to the first dropped packet", || enforcement(lab, effort))?);
    figures.extend(step("what agents and operator hold", || memory(lab))?);
    Ok(figures)
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn quantile(values: &[f64], q: usize) -> f64 {
    // per mille, so that the index stays in whole numbers
    let last = values.len().saturating_sub(1);
    values.get((last * q + 500) / 1000).copied().unwrap_or(f64::NAN)
}

fn figure(name: &str, unit: &str, ours: &[f64], q: usize, peer: Option<(&[f64], &str)>) -> Figure {
    let mine = quantile(ours, q);
    let theirs = peer.map(|(v, _)| quantile(v, q));
    Figure {
        peer: theirs,
        peer_name: peer.map(|(_, n)| n.to_owned()),
        ratio_to_peer: theirs.map(|t| mine / t),
        spread: Some(json!([quantile(ours, 0), quantile(ours, 1000)])),
        ..Figure::bare(name, unit, mine)
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"bench": "start"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": PAUSE}]},
    })
}

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A watch of pods under way: it names each pod as it becomes Ready, when that is told and not when somebody asks.
struct Watch {
    kubectl: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Watch {
    fn start(cluster: &Cluster) -> Result<Self> {
        let line = r#"jsonpath={.metadata.name}{" "}{.status.conditions[?(@.type=="Ready")].status}{"\n"}"#;
        let mut command = cluster.kubectl_command();
        command.args(["get", "pods", "--selector=bench=start", "--watch", "--output", line]);
        let mut kubectl = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = BufReader::new(kubectl.stdout.take().context("a pipe")?).lines();
        Ok(Self { kubectl, lines })
    }

    /// Waits until so many pods have been Ready.
    fn ready(&mut self, count: usize) -> Result<Instant> {
        let mut ready = BTreeSet::new();
        for line in &mut self.lines {
            let line = line?;
            if let Some((name, "True")) = line.split_once(' ') {
                ready.insert(name.to_owned());
            }
            if ready.len() == count {
                return Ok(Instant::now());
            }
        }
        anyhow::bail!("the watch ended with {} of {count} pods Ready", ready.len())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.kubectl.kill());
        drop(self.kubectl.wait());
    }
}

/// One of the two clusters.
struct Side<'a> {
    cluster: &'a Cluster,
    api: Api,
}

impl Side<'_> {
    /// Milliseconds from the first request to the last pod's Ready condition as a watch tells it.
    fn start_pods(&self, count: usize) -> Result<f64> {
        let mut watch = Watch::start(self.cluster)?;
        let began = Instant::now();
        for n in 0..count {
            self.api.create(PODS, &pod(&format!("start-{n}")))?;
        }
        let took = milliseconds(watch.ready(count)?.duration_since(began));
        drop(watch);
        self.cluster.kubectl(&["delete", "pods", "-l", "bench=start", "--wait=true"])?;
        Ok(took)
    }
}

fn starts(ours: &Cluster, peer: &Cluster, effort: Effort) -> Result<Vec<Figure>> {
    let sides = [Side { cluster: ours, api: Api::of(ours)? }, Side { cluster: peer, api: Api::of(peer)? }];
    let mut figures = Vec::new();
    for (name, rounds, count) in [("pod_ready_one_p50", STARTS, 1), ("pod_ready_25_p50", BATCHES, BATCH)] {
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..effort.rounds(rounds) {
            // who is first turns, so that a drift of the machine's speed hits both alike
            for which in [round % 2, (round + 1) % 2] {
                if let (Some(side), Some(times)) = (sides.get(which), times.get_mut(which)) {
                    times.push(side.start_pods(count)?);
                }
            }
        }
        let [ours, peer] = times.map(sorted);
        figures.push(figure(name, "ms", &ours, 500, Some((&peer, "ptp, host-local, portmap"))));
    }
    Ok(figures)
}

fn workload(lab: &Lab, name: &str, node: &str) -> Result<Pod> {
    lab.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{bench: {name}}}}}\nspec: {{nodeName: {node}, \
         terminationGracePeriodSeconds: 0, containers: [{{name: c, image: \"{}\", imagePullPolicy: IfNotPresent, args: [serve, --tcp, \
         \"8080\"]}}]}}\n",
        crate::image::reference("workload")
    ))?;
    lab.cluster.kubectl(&["wait", "--for=condition=Ready", "pod", name, "--timeout=60s"])?;
    lab.pod("default", &format!("bench={name}"))
}

const POLICY_PATH: &str = "/apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies";

fn deny() -> Value {
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "bench-deny", "namespace": "default"},
        "spec": {
            "endpointSelector": {"matchLabels": {"bench": "to"}},
            "ingressDeny": [{"fromEndpoints": [{"matchLabels": {"bench": "from"}}]}],
        },
    })
}

/// From the start of kubectl, and from a request on a connection that is open, to the begin of the first probe that is
/// dropped.
fn enforcement(lab: &Lab, effort: Effort) -> Result<Vec<Figure>> {
    let api = Api::of(&lab.cluster)?;
    let from = workload(lab, "from", "node1")?;
    let to = workload(lab, "to", "node2")?;
    let at = target("tcp", to.addresses.first().context("an address")?, 8080);
    let deny = deny();
    let count = effort.rounds(POLICIES);
    let text = deny.to_string();
    let by_kubectl = rounds(lab, &api, count, (&from, &at), &|| lab.apply(&text))?;
    let by_request = rounds(lab, &api, count, (&from, &at), &|| api.create(POLICY_PATH, &deny))?;
    let mut figures = Vec::new();
    for (name, times) in [("kubectl_apply_deny", by_kubectl), ("api_request_deny", by_request)] {
        for (quantile, q) in [("p50", 500), ("p99", 990)] {
            figures.push(figure(&format!("{name}_to_first_drop_{quantile}"), "ms", &times, q, None));
        }
    }
    Ok(figures)
}

fn rounds(
    lab: &Lab,
    api: &Api,
    count: usize,
    (from, at): (&Pod, &str),
    apply: &dyn Fn() -> Result<()>,
) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    let mut spoilt = 0;
    while times.len() < count {
        let watcher = lab.until(from, at, "timeout")?;
        let began = Instant::now();
        apply()?;
        let dropped = watcher.finish()?;
        // a busy machine can be late with an answer: a timeout from before the request was no drop
        match dropped.checked_duration_since(began) {
            Some(time) => times.push(milliseconds(time)),
            None => spoilt += 1,
        }
        ensure!(spoilt <= count.max(5) / 5, "{spoilt} probes timed out before anything was denied: too busy a machine");
        api.delete(&format!("{POLICY_PATH}/bench-deny"))?;
        let back = || Ok(lab.passes(from, at, Duration::from_millis(100))?.then_some(()));
        wait("open again", Duration::from_secs(10), Duration::from_millis(10), back)?;
    }
    if spoilt > 0 {
        say(format_args!("     {spoilt} rounds left out: a probe timed out before the request"));
    }
    Ok(sorted(times))
}

fn memory(lab: &Lab) -> Result<Vec<Figure>> {
    let mut agents = Vec::new();
    for agent in lab.pods(SYSTEM, "app.kubernetes.io/name=axoneme-agent")? {
        let text = lab.cluster.node_exec(&agent.node, &["sh", "-c", "for p in /proc/[0-9]*; do grep -qs '^Name:.axoneme-agent' $p/status && grep VmRSS $p/status; done; true"])?;
        let kib: f64 = text
            .split_whitespace()
            .nth(1)
            .and_then(|v| v.parse().ok())
            .with_context(|| format!("no process axoneme-agent on {}: {text:?}", agent.node))?;
        agents.push(kib / 1024.0);
    }
    Ok(vec![figure("agent_rss", "MiB", &sorted(agents), 1000, None)])
}
