//! Numbered streams between pods for as long as something is done to the cluster: what is lost is counted.

use anyhow::{Result, ensure};

use super::fixture::{Fixture, PATIENCE, SOON};
use crate::command::output;
use crate::image;
use crate::lab::{Lab, Stream};

/// Clients may, others may not.
pub(super) const GUARD: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: guard, namespace: lab}\nspec:\n  \
                     podSelector: {matchLabels: {app: server}}\n  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]\n";

/// Packets a second of one stream. Three clusters that start containers at once on two processors may keep a receiver
/// from running for seconds: its socket has room for a hundred.
pub(super) const RATE: u32 = 100;

/// Streams from a client to both servers, UDP and TCP, in all families, while `during` runs; all of them must see no
/// loss and outlive it. A policy allows the client. Beside it a pod that this policy denies sends as much, and nothing of
/// it may arrive.
pub(super) fn under_traffic<T>(lab: &Lab, f: &Fixture, during: impl FnOnce() -> Result<T>) -> Result<T> {
    lab.apply(GUARD)?;
    let denied = || {
        let target = |server: &crate::lab::Pod| server.target("tcp", 0, 8080);
        f.server.iter().map(|s| lab.passes(&f.stranger, &target(s)?, PATIENCE)).collect::<Result<Vec<bool>>>()
    };
    Lab::eventually("the stranger is denied", SOON, denied, |passes| !passes.contains(&true))?;
    let done = guarded(lab, f, during);
    lab.cluster.kubectl(&["-n", "lab", "delete", "--ignore-not-found", "networkpolicy", "guard"])?;
    done
}

fn guarded<T>(lab: &Lab, f: &Fixture, during: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut refused: Vec<Stream> = Vec::new();
    for server in &f.server {
        for family in 0..f.families {
            refused.push(lab.stream_until_finished(&f.stranger, &server.target("udp", family, 8081)?, RATE)?);
        }
    }
    let done = allowed(lab, f, during);
    refused.iter_mut().for_each(Stream::stop);
    let reports = refused.into_iter().map(Stream::finish).collect::<Result<Vec<_>>>()?;
    let done = done?;
    ensure!(reports.iter().all(|r| r.sent > 0 && r.received == 0), "packets that policy denies: {reports:?}");
    let sent: u64 = reports.iter().map(|r| r.sent).sum();
    println!("    {}: {sent} packets that policy denies, 0 passed", lab.cluster.name());
    Ok(done)
}

fn allowed<T>(lab: &Lab, f: &Fixture, during: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut streams: Vec<Stream> = Vec::new();
    for server in &f.server {
        for family in 0..f.families {
            for target in [server.target("udp", family, 8081)?, server.target("tcp", family, 8080)?] {
                streams.push(lab.stream_until_finished(&f.client[0], &target, RATE)?);
            }
        }
    }
    let done = during();
    let running = streams.iter_mut().map(Stream::running).collect::<Result<Vec<bool>>>()?;
    streams.iter_mut().for_each(Stream::stop);
    let reports = streams.into_iter().map(Stream::finish).collect::<Result<Vec<_>>>()?;
    let done = done?;
    ensure!(running.iter().all(|r| *r), "a stream ended before what was done under it: {reports:?}");
    let whole = reports.iter().all(|r| r.lost == 0 && r.cut == 0);
    ensure!(whole, "lost packets: {reports:?}\n{}", dropped(lab, f));
    let sent: u64 = reports.iter().map(|r| r.sent).sum();
    let gap = reports.iter().map(|r| r.longest_gap_ms).max().unwrap_or_default();
    println!("    {}: {sent} packets, 0 lost, 0 connections cut, longest gap {gap} ms", lab.cluster.name());
    Ok(done)
}

/// Why nodes say that they dropped something of the client: the reason of a loss is there, or the loss is elsewhere.
fn dropped(lab: &Lab, f: &Fixture) -> String {
    let program = image::binary("axoneme").display().to_string();
    let words = [program.as_str(), "observe", "--verdict", "DROPPED", "--last", "1000", "-o", "json"];
    let own = |line: &&str| f.client[0].addresses.iter().any(|a| line.contains(&format!("\"{a}\"")));
    let of_node = |node: &String| {
        let said = output(&mut lab.cluster.command_in(node, &words)).unwrap_or_else(|e| format!("{e:#}"));
        let lines: Vec<&str> = said.lines().filter(own).take(10).collect();
        format!("{node}: {} drops of the client {}", lines.len(), lines.join("\n"))
    };
    lab.cluster.nodes().iter().map(of_node).collect::<Vec<_>>().join("\n")
}
