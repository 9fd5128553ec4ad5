//! Figures that need a real cluster: pod start, time to enforcement, what an agent costs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Figure;
use crate::cluster::{Cluster, Cni, Family, Options};
use crate::lab::{Lab, Pod, Routing, SYSTEM, target};
use crate::progress::{step, wait};

const ROUNDS: usize = 15;
const BATCH: usize = 25;
/// Image of the pods whose start is timed; both clusters have it.
const PAUSE: &str = "registry.k8s.io/pause:3.10.2";

/// The product's cluster and the reference plugins' cluster run side by side; rounds alternate between them.
pub(super) fn run() -> Result<Vec<Figure>> {
    let lab = Lab::up("bench", 2, Family::V4, Routing::Overlay)?;
    let figures = measure(&lab);
    lab.down()?;
    figures
}

fn measure(lab: &Lab) -> Result<Vec<Figure>> {
    let options = Options { name: "bench-ref".to_owned(), nodes: 2, cni: Cni::Ref, ..Options::default() };
    let reference = step("peer cluster: reference plugins", || Cluster::up(&options))?;
    let started = step("pod create to Ready, alternating with the peer", || starts(&lab.cluster, &reference));
    reference.down()?;
    let mut figures = started?;
    figures.extend(step("kubectl apply of a deny to the first dropped packet", || enforcement(lab))?);
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
        name: name.to_owned(),
        unit: unit.to_owned(),
        ours: mine,
        floor: None,
        floor_name: None,
        peer: theirs,
        peer_name: peer.map(|(_, n)| n.to_owned()),
        ratio_to_floor: None,
        ratio_to_peer: theirs.map(|t| mine / t),
        spread: Some(serde_json::json!([quantile(ours, 0), quantile(ours, 1000)])),
    }
}

fn pods_yaml(names: &[String]) -> String {
    let one = |n: &String| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {n}, labels: {{bench: start}}}}\nspec: {{terminationGracePeriodSeconds: 0, \
             containers: [{{name: c, image: {PAUSE}}}]}}\n"
        )
    };
    names.iter().map(one).collect::<Vec<_>>().join("---\n")
}

/// Milliseconds from the call of kubectl to the last pod's Ready condition as a watch tells it.
fn start_pods(cluster: &Cluster, count: usize) -> Result<f64> {
    let names: Vec<String> = (0..count).map(|n| format!("start-{n}")).collect();
    let began = Instant::now();
    cluster.kubectl_apply(&pods_yaml(&names))?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pods", "-l", "bench=start", "--timeout=120s"])?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    cluster.kubectl(&["delete", "pods", "-l", "bench=start", "--wait=true"])?;
    Ok(took)
}

fn starts(ours: &Cluster, peer: &Cluster) -> Result<Vec<Figure>> {
    let mut one = (Vec::new(), Vec::new());
    let mut many = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        one.0.push(start_pods(ours, 1)?);
        one.1.push(start_pods(peer, 1)?);
        if round % 5 == 0 {
            many.0.push(start_pods(ours, BATCH)?);
            many.1.push(start_pods(peer, BATCH)?);
        }
    }
    let (one, many) = ((sorted(one.0), sorted(one.1)), (sorted(many.0), sorted(many.1)));
    let name = "ptp, host-local, portmap";
    Ok(vec![
        figure("pod_ready_one_p50", "ms", &one.0, 500, Some((&one.1, name))),
        figure("pod_ready_25_p50", "ms", &many.0, 500, Some((&many.1, name))),
    ])
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

const DENY: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: bench-deny, namespace: default}\nspec:\n  \
    endpointSelector: {matchLabels: {bench: to}}\n  ingressDeny: [{fromEndpoints: [{matchLabels: {bench: from}}]}]\n";

/// From the start of kubectl to the begin of the first probe that is dropped: kubectl's own start and round trip are in it.
fn enforcement(lab: &Lab) -> Result<Vec<Figure>> {
    let from = workload(lab, "from", "node1")?;
    let to = workload(lab, "to", "node2")?;
    let at = target("tcp", to.addresses.first().context("an address")?, 8080);
    let mut whole = Vec::new();
    for _ in 0..ROUNDS {
        let watcher = lab.until(&from, &at, "timeout")?;
        let began = Instant::now();
        lab.apply(DENY)?;
        let dropped = watcher.finish()?;
        whole.push(dropped.saturating_duration_since(began).as_secs_f64() * 1000.0);
        lab.cluster.kubectl(&["delete", "cnp", "bench-deny"])?;
        let back = || Ok(lab.passes(&from, &at, Duration::from_millis(100))?.then_some(()));
        wait("open again", Duration::from_secs(10), Duration::from_millis(10), back)?;
    }
    let whole = sorted(whole);
    Ok(vec![
        figure("kubectl_apply_deny_to_first_drop_p50", "ms", &whole, 500, None),
        figure("kubectl_apply_deny_to_first_drop_max", "ms", &whole, 1000, None),
    ])
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
