//! The API server is stopped for minutes while pods come and go on the nodes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Scenario;
use super::fixture::{ANSWER, Fixture, PATIENCE};
use super::runtime::{self, Container};
use super::traffic::RATE;
use crate::lab::{Lab, Pod, Stream};

/// How long there is no API server.
const AWAY: Duration = Duration::from_mins(2);
/// kubelet and agent without an API server: kubelet backs off when it can't tell anybody.
const LOCALLY: Duration = Duration::from_mins(2);
/// Until nodes, endpoints and watches are what they were.
const BACK: Duration = Duration::from_mins(3);

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[("pods_come_and_go_while_the_api_server_is_stopped_for_minutes", away)];
    super::boxed(named)
}

const BEFORE: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: away, namespace: lab}
spec: {podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: away, namespace: other}
spec: {podSelector: {matchLabels: {app: worker}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: lab}}}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: worker, namespace: other, labels: {app: worker}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  containers: [{name: c, image: \"ghcr.io/axoneme/workload:dev\", args: [serve, --name, worker, --tcp, \"8080\"]}]
";

fn away(lab: &Lab, f: &Fixture) -> Result<()> {
    let used = runtime::used(lab, "node1")?;
    runtime::start_static_pod(lab, "node1", "goes")?;
    let told = prepare(lab, f).and_then(|scene| {
        lab.cluster.stop_component("apiserver")?;
        let began = Instant::now();
        let during = scene.play(lab, f);
        std::thread::sleep(if during.is_ok() { AWAY.saturating_sub(began.elapsed()) } else { Duration::ZERO });
        let still = if during.is_ok() { scene.verdicts(lab, f) } else { Ok(()) };
        lab.cluster.start_component("apiserver")?;
        scene.converges(lab, f, during.and(still))
    });
    for name in ["goes", "comes"] {
        // either may be gone, or never have come
        drop(runtime::end_static_pod(lab, "node1", name));
    }
    lab.ready()?;
    lab.cluster.kubectl(&["-n", "lab", "delete", "networkpolicy", "away"])?;
    lab.cluster.kubectl(&["-n", "other", "delete", "networkpolicy/away", "pod/worker"])?;
    told?;
    // fewer where pods of an earlier scenario were still ending
    Lab::eventually("all addresses are back", BACK, || runtime::used(lab, "node1"), |now| *now <= used).map(drop)
}

/// What was found while there was still somebody to ask.
struct Scene {
    client: Container,
    stranger: Container,
    worker: Pod,
    process: Container,
    sandbox: Container,
    agent: Container,
    streams: Vec<Stream>,
}

fn prepare(lab: &Lab, f: &Fixture) -> Result<Scene> {
    lab.apply(BEFORE)?;
    lab.cluster.kubectl(&["-n", "other", "wait", "--for=condition=Ready", "pod", "worker", "--timeout=180s"])?;
    let known = || Ok(lab.cluster.kubectl(&["-n", "other", "get", "pod", "goes-node1"]).is_ok());
    Lab::eventually("the static pod", LOCALLY, known, |ok| *ok)?;
    lab.cluster.kubectl(&["-n", "other", "wait", "--for=condition=Ready", "pod", "goes-node1", "--timeout=180s"])?;
    let worker = lab.pod("other", "app=worker")?;
    let client = Container::of(lab, &f.client[0])?;
    let agents = runtime::product(lab, "axoneme-agent")?;
    let agent = agents.iter().find(|a| a.node == "node2").context("an agent on node2")?;
    let mut streams = Vec::new();
    for server in &f.server {
        for target in [server.target("udp", 0, 8081)?, server.target("tcp", 0, 8080)?] {
            let words = ["stream", &target, "--packets=1000000", "--until-closed", "--rate", &RATE.to_string()];
            streams.push(Stream::endless(client.workload(lab, &words)?, format!("client-1 to {target}"))?);
        }
    }
    let scene = Scene {
        stranger: Container::of(lab, &f.stranger)?,
        process: Container::of(lab, &worker)?,
        sandbox: Container::sandbox(lab, &worker)?,
        agent: Container::of(lab, agent)?,
        worker,
        client,
        streams,
    };
    let good = || Ok(scene.verdicts(lab, f).is_ok());
    Lab::eventually("the policies are in force", LOCALLY, good, |ok| *ok)?;
    Ok(scene)
}

fn asks(lab: &Lab, who: &Container, target: &str, wanted: bool) -> Result<()> {
    let outcome = who.probe(lab, &[target.to_owned()], if wanted { ANSWER } else { PATIENCE })?;
    ensure!(outcome.iter().all(crate::lab::Outcome::passed) == wanted, "{target}: {outcome:?}, wanted {wanted}");
    Ok(())
}

impl Scene {
    fn verdicts(&self, lab: &Lab, f: &Fixture) -> Result<()> {
        for server in &f.server {
            let target = server.target("tcp", 0, 8080)?;
            asks(lab, &self.client, &target, true)?;
            asks(lab, &self.stranger, &target, false)?;
        }
        Ok(())
    }

    fn worker_serves(&self, lab: &Lab, address: &str) -> Result<()> {
        let target = crate::lab::target("tcp", address, 8080);
        let ask = || {
            let good = asks(lab, &self.client, &target, true);
            Ok(good.map_err(|e| format!("{e:#}")))
        };
        Lab::eventually(&format!("the worker serves at {address}"), LOCALLY, ask, Result::is_ok)?;
        // pods of its own namespace are not let in: its policy came with its new sandbox
        asks(lab, &self.stranger, &target, false)
    }

    /// What happens on the nodes while nobody can be asked.
    fn play(&self, lab: &Lab, f: &Fixture) -> Result<()> {
        let before = self.worker.addresses.first().context("the worker has an address")?.clone();
        // a container that dies comes back in the same network namespace
        self.process.signal(lab, "SIGKILL")?;
        std::thread::sleep(Duration::from_secs(1));
        self.worker_serves(lab, &before).context("after its process was killed")?;
        // a pod goes
        let used = runtime::used(lab, "node1")?;
        runtime::end_static_pod(lab, "node1", "goes")?;
        let freed = || runtime::used(lab, "node1");
        Lab::eventually("the static pod's address is free", LOCALLY, freed, |now| *now < used)?;
        // a pod comes of which nobody knows yet
        runtime::start_static_pod(lab, "node1", "comes")?;
        // the same pod again in a new network namespace: DEL and ADD
        self.sandbox.signal(lab, "SIGKILL")?;
        let again = || {
            // neither may be there for a moment
            let other = Container::sandbox(lab, &self.worker).is_ok_and(|s| s != self.sandbox);
            let addresses = runtime::endpoint(lab, "node2", "other", "worker").unwrap_or_default();
            Ok(addresses.into_iter().next().filter(|_| other))
        };
        Lab::eventually("the worker's new sandbox", LOCALLY, again, Option::is_some)?;
        let address = again()?.context("the worker has gone again")?;
        self.worker_serves(lab, &address).context("after its sandbox was killed")?;
        // and an agent that starts anew finds the kernel as it was
        self.agent.signal(lab, "SIGKILL")?;
        self.verdicts(lab, f).context("right after the agent was killed")?;
        let up = || Ok(runtime::status(lab, "node2").is_ok());
        Lab::eventually("the agent answers again", LOCALLY, up, |ok| *ok)?;
        self.worker_serves(lab, &address).context("behind an agent that has started anew")?;
        self.verdicts(lab, f)
    }

    /// The API server is back: all that happened is known, and nothing was lost meanwhile.
    fn converges(self, lab: &Lab, f: &Fixture, during: Result<()>) -> Result<()> {
        let answers = || Ok(lab.cluster.kubectl(&["get", "--raw", "/readyz", "--request-timeout=2s"]).is_ok());
        Lab::eventually("the API server answers", BACK, answers, |ok| *ok)?;
        let mut streams = self.streams;
        let running = streams.iter_mut().map(Stream::running).collect::<Result<Vec<bool>>>()?;
        streams.iter_mut().for_each(Stream::stop);
        let reports = streams.into_iter().map(Stream::finish).collect::<Result<Vec<_>>>()?;
        during?;
        ensure!(running.iter().all(|r| *r), "a stream ended early: {reports:?}");
        ensure!(reports.iter().all(|r| r.lost == 0 && r.cut == 0), "lost packets: {reports:?}");
        let sent: u64 = reports.iter().map(|r| r.sent).sum();
        let gap = reports.iter().map(|r| r.longest_gap_ms).max().unwrap_or_default();
        println!(
            "    {sent} packets, 0 lost, 0 cut over {} s without an API server, longest gap {gap} ms",
            AWAY.as_secs()
        );
        for what in ["pod/worker", "pod/comes-node1"] {
            let there = || Ok(lab.cluster.kubectl(&["-n", "other", "get", what]).is_ok());
            Lab::eventually(what, BACK, there, |ok| *ok)?;
            lab.cluster.kubectl(&["-n", "other", "wait", "--for=condition=Ready", what, "--timeout=180s"])?;
        }
        let same = || {
            let told = lab.pod("other", "app=worker")?.addresses;
            Ok((told, runtime::endpoint(lab, "node2", "other", "worker")?))
        };
        Lab::eventually("pod and endpoint say the same address", BACK, same, |(a, b)| a == b && !a.is_empty())?;
        let comes = lab.pod("other", "app=static")?;
        let open = || lab.passes(&f.client[0], &comes.target("tcp", 0, 8080)?, PATIENCE);
        Lab::eventually("the pod that came is reached", BACK, open, |ok| *ok)?;
        let gone = || Ok(lab.cluster.kubectl(&["-n", "other", "get", "pod", "goes-node1"]).is_err());
        Lab::eventually("the pod that went is forgotten", BACK, gone, |ok| *ok)?;
        let denied = || lab.passes(&f.stranger, &f.server[1].target("tcp", 0, 8080)?, PATIENCE);
        ensure!(!denied()?, "a stranger is let in after the API server came back");
        Ok(())
    }
}
