//! Numbered streams between pods for as long as something is done to the cluster: what is lost is counted.

use anyhow::{Result, ensure};

use super::fixture::Fixture;
use crate::lab::{Lab, Stream};

/// Packets a second of one stream. A receiver's socket holds more than a second of them (212992 bytes, of which each
/// packet takes 768): a machine that is busy for so long loses none.
pub(super) const RATE: u32 = 200;

/// Streams from a client to both servers, UDP and TCP, in all families, while `during` runs; all of them must see no
/// loss and outlive it.
pub(super) fn under_traffic<T>(lab: &Lab, f: &Fixture, during: impl FnOnce() -> Result<T>) -> Result<T> {
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
    ensure!(reports.iter().all(|r| r.lost == 0 && r.cut == 0), "lost packets: {reports:?}");
    let sent: u64 = reports.iter().map(|r| r.sent).sum();
    let gap = reports.iter().map(|r| r.longest_gap_ms).max().unwrap_or_default();
    println!("    {}: {sent} packets, 0 lost, 0 connections cut, longest gap {gap} ms", lab.cluster.name());
    Ok(done)
}
