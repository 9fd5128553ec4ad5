//! A node loses its power and boots anew, while others send to whatever address its pods will have.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Scenario;
use super::fixture::{ANSWER, Fixture, PATIENCE, SOON};
use super::runtime;
use super::traffic::{GUARD, RATE};
use crate::lab::{Lab, Pod, Stream};

pub(super) fn scenarios() -> Vec<Scenario> {
    let named: &[super::Named] = &[("node_that_boots_anew_passes_nothing_that_policy_denies", boots)];
    super::boxed(named)
}

const NODE: &str = "node2";
/// Until kubelet has started everything again.
const BOOT: Duration = Duration::from_mins(4);
/// Addresses that are sent to, from the first of the node's on: an agent without a past gives out the lowest.
const SWEPT: u32 = 64;
/// Datagrams a second of one sender: each address gets fifty.
const SWEEP: u32 = 50 * SWEPT;

/// Afterwards the node's pods have other addresses than the fixture knows: no scenario may follow.
fn boots(lab: &Lab, f: &Fixture) -> Result<()> {
    lab.apply(GUARD)?;
    let denied = || lab.passes(&f.stranger, &f.server[1].target("tcp", 0, 8080)?, PATIENCE);
    Lab::eventually("the stranger is denied", SOON, denied, |passes| !passes)?;
    let told = booted(lab, f);
    lab.cluster.kubectl(&["-n", "lab", "delete", "networkpolicy", "guard"])?;
    told
}

fn booted(lab: &Lab, f: &Fixture) -> Result<()> {
    let (starts, used) = (restarts(lab)?, runtime::used(lab, NODE)?);
    let first = first_of(&f.server[1])?;
    let elsewhere = ["udp", "tcp"].map(|p| {
        lab.stream_until_finished(&f.client[0], &f.server[0].target(p, 0, if p == "udp" { 8081 } else { 8080 })?, RATE)
    });
    let mut elsewhere = elsewhere.into_iter().collect::<Result<Vec<Stream>>>()?;
    let target = format!("udp:{first}:8081");
    let mut denied = lab.sweep(&f.stranger, &target, SWEPT, SWEEP)?;
    let began = Instant::now();
    let done = lab.cluster.reboot(NODE).and_then(|()| {
        let mut allowed = lab.sweep(&f.client[0], &target, SWEPT, SWEEP)?;
        let again = || Ok(restarts(lab).unwrap_or_default());
        let done = Lab::eventually("the server has started again", BOOT, again, |now| *now > starts);
        let done = done.and_then(|_| Ok((judged_as_before(lab, f, first)?, began.elapsed())));
        allowed.stop();
        let report = allowed.finish()?;
        Ok((done?, report))
    });
    let running = denied.running()? && elsewhere.iter_mut().all(|s| s.running().unwrap_or_default());
    denied.stop();
    elsewhere.iter_mut().for_each(Stream::stop);
    let denied = denied.finish()?;
    let elsewhere = elsewhere.into_iter().map(Stream::finish).collect::<Result<Vec<_>>>()?;
    let ((address, took), allowed) = done?;
    ensure!(running, "a stream ended early: {denied:?}, {elsewhere:?}");
    ensure!(denied.sent > 0 && denied.received == 0, "packets that policy denies: {denied:?}");
    ensure!(allowed.received > 0, "the senders do not send to where the server is ({address}): {allowed:?}");
    ensure!(elsewhere.iter().all(|r| r.lost == 0 && r.cut == 0), "lost between pods of the other node: {elsewhere:?}");
    println!(
        "    {}: {} datagrams that policy denies, 0 passed; the server back at {address}, judged and answering {:.1} s after \
         the power went; 0 of {} packets lost on the other node",
        lab.cluster.name(),
        denied.sent,
        took.as_secs_f64(),
        elsewhere.iter().map(|r| r.sent).sum::<u64>()
    );
    let now = || runtime::used(lab, NODE);
    // fewer where pods of an earlier scenario were still ending
    Lab::eventually("no more addresses are in use than before", BOOT, now, |now| *now <= used).map(drop)
}

/// How often kubelet has started the server, where it says that it runs.
fn restarts(lab: &Lab) -> Result<u64> {
    let pod = lab.get(&["-n", "lab", "pod", "server-2"])?;
    let status = pod.pointer("/status/containerStatuses/0").context("a container status")?;
    ensure!(status.get("ready").and_then(Value::as_bool) == Some(true), "not ready");
    status.get("restartCount").and_then(Value::as_u64).context("a restart count")
}

fn first_of(pod: &Pod) -> Result<Ipv4Addr> {
    let address: Ipv4Addr = pod.addresses.first().context("an address")?.parse().context("an IPv4 address")?;
    let [a, b, c, _] = address.octets();
    Ok(Ipv4Addr::new(a, b, c, 0))
}

/// The server's new address, once its node judges as before.
fn judged_as_before(lab: &Lab, f: &Fixture, first: Ipv4Addr) -> Result<Ipv4Addr> {
    lab.ready()?;
    let server = lab.pod("lab", "app=server,at=node2")?;
    let address: Ipv4Addr = server.addresses.first().context("an address")?.parse()?;
    ensure!(u32::from(address) - u32::from(first) < SWEPT, "{address} is not among the {SWEPT} from {first} on");
    let told = || runtime::endpoint(lab, NODE, "lab", "server-2");
    Lab::eventually("pod and endpoint say the same address", SOON, told, |told| *told == server.addresses)?;
    let target = server.target("tcp", 0, 8080)?;
    let passes = || lab.passes(&f.client[0], &target, ANSWER);
    Lab::eventually("the client is let in", SOON, passes, |passes| *passes)?;
    ensure!(!lab.passes(&f.stranger, &target, PATIENCE)?, "the stranger is let in");
    Ok(address)
}
