//! What is killed, stopped or restarted costs no packet and no verdict.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Scenario;
use super::fixture::{Fixture, PATIENCE, SOON};
use crate::lab::{Lab, SYSTEM, Stream};

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[
        ("agent_restart_loses_no_packet_and_cuts_no_connection", agent_restart),
        ("operator_restart_loses_no_packet", operator_restart),
        ("probes_pass_under_default_deny", probes),
        ("verdicts_stay_while_the_api_server_is_away", api_away),
        ("pods_come_and_go_without_leaving_addresses_behind", churn),
    ];
    super::boxed(named)
}

/// Streams to both servers, UDP and TCP, while `during` runs; all of them must see no loss and outlive it.
fn under_traffic(lab: &Lab, f: &Fixture, seconds: u64, during: impl FnOnce() -> Result<()>) -> Result<()> {
    let rate = 500;
    let mut streams: Vec<Stream> = Vec::new();
    for server in &f.server {
        streams.push(lab.stream(&f.client[0], &server.target("udp", 0, 8081)?, seconds * u64::from(rate), rate)?);
        streams.push(lab.stream(&f.client[0], &server.target("tcp", 0, 8080)?, seconds * u64::from(rate), rate)?);
    }
    let done = during();
    let running = streams.iter_mut().map(Stream::running).collect::<Result<Vec<bool>>>()?;
    let reports = streams.into_iter().map(Stream::finish).collect::<Result<Vec<_>>>()?;
    done?;
    ensure!(running.iter().all(|r| *r), "the streams ended first: measured nothing ({reports:?})");
    for r in &reports {
        ensure!(r.lost == 0 && r.cut == 0, "lost packets: {reports:?}");
    }
    let sent: u64 = reports.iter().map(|r| r.sent).sum();
    let gap = reports.iter().map(|r| r.longest_gap_ms).max().unwrap_or_default();
    println!("    {sent} packets, 0 lost, 0 connections cut, longest gap {gap} ms");
    Ok(())
}

fn delete_pods(lab: &Lab, app: &str, owner: &str) -> Result<()> {
    let label = format!("app.kubernetes.io/name={app}");
    lab.cluster.kubectl(&[
        "-n",
        SYSTEM,
        "delete",
        "pod",
        "-l",
        &label,
        "--grace-period=0",
        "--force",
        "--wait=true",
    ])?;
    lab.rollout(SYSTEM, &format!("{owner}/{app}"))
}

fn agent_restart(lab: &Lab, f: &Fixture) -> Result<()> {
    under_traffic(lab, f, 20, || delete_pods(lab, "axoneme-agent", "daemonset"))
}

fn operator_restart(lab: &Lab, f: &Fixture) -> Result<()> {
    under_traffic(lab, f, 20, || delete_pods(lab, "axoneme-operator", "deployment"))
}

fn restarts(lab: &Lab, pod: &str) -> Result<(String, String)> {
    let path = "jsonpath={.status.containerStatuses[0].ready}";
    let ready = lab.cluster.kubectl(&["-n", "lab", "get", "pod", pod, "-o", path])?;
    let path = "jsonpath={.status.containerStatuses[0].restartCount}";
    Ok((ready, lab.cluster.kubectl(&["-n", "lab", "get", "pod", pod, "-o", path])?))
}

/// The servers' readiness probes (every second, two failures) go on under a policy that lets nobody in.
fn probes(lab: &Lab, f: &Fixture) -> Result<()> {
    let yaml = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: shut, namespace: lab}\nspec: {podSelector: {}, \
                policyTypes: [Ingress, Egress]}\n";
    lab.apply(yaml)?;
    let shut = || lab.passes(&f.client[0], &f.server[0].target("tcp", 0, 8080)?, PATIENCE);
    let told = Lab::eventually("shut", SOON, shut, |ok| !*ok).and_then(|_| {
        std::thread::sleep(Duration::from_secs(6));
        ["server-1", "server-2"].iter().map(|p| restarts(lab, p)).collect::<Result<Vec<_>>>()
    });
    lab.cluster.kubectl(&["-n", "lab", "delete", "networkpolicy", "shut"])?;
    for (ready, restarted) in told? {
        ensure!(ready == "true" && restarted == "0", "ready {ready}, restarts {restarted}");
    }
    Ok(())
}

fn api_away(lab: &Lab, f: &Fixture) -> Result<()> {
    let yaml = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: some, namespace: lab}\nspec: {podSelector: \
                {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}\n";
    lab.apply(yaml)?;
    let denied = || lab.passes(&f.stranger, &f.server[1].target("tcp", 0, 8080)?, PATIENCE);
    Lab::eventually("in force", SOON, denied, |ok| !*ok)?;
    let udp = f.server[1].target("udp", 0, 8081)?;
    // 30 s of traffic; the API server stands still for 20 of them
    let mut stream = lab.stream(&f.client[0], &udp, 15_000, 500)?;
    std::thread::sleep(Duration::from_secs(2));
    lab.cluster.pause_api()?;
    let away = Instant::now();
    let node_still = lab.probe_from("node2", &[f.server[0].target("tcp", 0, 8080)?], PATIENCE);
    std::thread::sleep(Duration::from_secs(20).saturating_sub(away.elapsed()));
    let alive = stream.running();
    lab.cluster.resume_api()?;
    ensure!(alive?, "the stream ended while the API server was away");
    node_still.context("node to pod while the API server was away")?;
    let report = stream.finish()?;
    let denied = Lab::eventually("API back", Duration::from_secs(30), denied, |ok| !*ok);
    lab.cluster.kubectl(&["-n", "lab", "delete", "networkpolicy", "some"])?;
    denied?;
    ensure!(report.lost == 0, "lost packets: {report:?}");
    println!("    {} packets, 0 lost over 20 s without the API server", report.sent);
    Ok(())
}

fn churn(lab: &Lab, _: &Fixture) -> Result<()> {
    let used = |lab: &Lab| -> Result<Vec<String>> {
        lab.pods(SYSTEM, "app.kubernetes.io/name=axoneme-agent")?
            .iter()
            .map(|a| {
                let status: serde_json::Value =
                    serde_json::from_str(&lab.exec(a, &["axoneme", "status", "-o", "json"])?)?;
                let n = status.pointer("/pools/0/used").with_context(|| format!("no pools in {status}"))?;
                Ok(format!("{}={n}", a.node))
            })
            .collect()
    };
    let before = used(lab)?;
    lab.cluster.kubectl(&[
        "-n",
        "other",
        "create",
        "deployment",
        "churn",
        "--image=registry.k8s.io/pause:3.10.2",
        "--replicas=12",
    ])?;
    let up = lab.rollout("other", "deployment/churn");
    lab.cluster.kubectl(&["-n", "other", "delete", "deployment", "churn", "--cascade=foreground", "--timeout=60s"])?;
    up?;
    Lab::eventually("addresses are back", Duration::from_secs(45), || used(lab), |now| *now == before).map(drop)
}
