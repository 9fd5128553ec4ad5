//! Flows into files, for those who collect files, and to OpenTelemetry collectors.
//!
//! ```text
//!  settings ────────────┐                                                        ┌▶ JSON lines ─▶ file, put aside when full
//!  a file of exporters ─┴▶ wanted ─▶ one task each: walk (allow, deny, mask) ─▶ aggregate ─┴▶ log records ─▶ collector (OTLP)
//! ```
//!
//! Lines, filters and the file of exporters are Hubble's (`hubble-export-*`, `hubble-flowlogs-config-path`), so that
//! what reads them goes on reading; there an exporter may have `otlp` in place of `filePath`. The file of exporters is looked at every five seconds: exporters begin, change and
//! end without a restart; one with a mistake in it is told and leaves the others as they are.
//!
//! *Guarantees*: an exporter is one more reader of the history: it holds up neither the producer nor other readers. What
//! was overwritten before it was written is a line of its own (`lost_events`). A file that cannot be written is opened
//! again every five seconds, and how many lines were not written is told in the log and in metrics ([`Stats`]).

mod aggregate;
mod config;
mod file;
mod otlp;
mod stats;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

pub use config::{Destination, Exporter, exporters, interval};
pub use file::Rotation;
pub use otlp::{Collector, Files, Protocol};
pub use stats::Stats;

use crate::{
    json,
    node::{self, BUDGET, Node},
    pb::{
        flow::LostEventSource,
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
    },
    walk::{Step, Walk},
};
use aggregate::Aggregator;
use file::Rotated;

/// The file of exporters is looked at so often, and a file that cannot be written is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// A reader that has caught up looks for losses so often.
const LOSSES: Duration = Duration::from_secs(1);

/// What is exported.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Exporters that are there from the start.
    pub fixed: Vec<Exporter>,
    /// A file of further ones, which may change.
    pub changing: Option<PathBuf>,
    pub rotation: Rotation,
}

/// Exports until cancelled. Blocks while it writes: it wants a thread of its own.
pub async fn run(node: Arc<Node>, settings: Settings, cancel: CancellationToken) {
    let mut running: BTreeMap<String, (Exporter, CancellationToken)> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let mut told = String::new();
    loop {
        match wanted(&settings) {
            Ok(wanted) => {
                told.clear();
                running.retain(|name, (exporter, ending)| {
                    let stays = wanted.get(name) == Some(exporter);
                    if !stays {
                        tracing::info!(name, "flows are no longer exported, or otherwise");
                        ending.cancel();
                    }
                    stays
                });
                for (name, exporter) in wanted {
                    if let Entry::Vacant(place) = running.entry(name) {
                        let ending = cancel.child_token();
                        tracing::info!(name = place.key(), to = %exporter.to, "flows are exported");
                        tasks.spawn(export(node.clone(), exporter.clone(), settings.rotation, ending.clone()));
                        place.insert((exporter, ending));
                    }
                }
            }
            // as they are: a typing error must not end an audit trail
            Err(error) if error != told => {
                tracing::warn!(error, "exporters stay as they are");
                told = error;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(_) = tasks.join_next() => {}
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
    while tasks.join_next().await.is_some() {}
}

fn wanted(settings: &Settings) -> Result<BTreeMap<String, Exporter>, String> {
    let mut all: BTreeMap<String, Exporter> = settings.fixed.iter().map(|e| (e.name.clone(), e.clone())).collect();
    let Some(path) = &settings.changing else { return Ok(all) };
    let at = |e: String| format!("{}: {e}", path.display());
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        // no file, no exporters: the ConfigMap is optional
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(all),
        Err(e) => return Err(at(e.to_string())),
    };
    let now = node::now();
    for exporter in exporters(&text).map_err(at)? {
        if exporter.end.is_some_and(|end| end <= now) {
            continue;
        }
        if all.values().any(|other| other.to.is_file_of(&exporter.to)) {
            return Err(at(format!("{}: another exporter writes {}", exporter.name, exporter.to)));
        }
        all.insert(exporter.name.clone(), exporter);
    }
    Ok(all)
}

/// One exporter.
async fn export(node: Arc<Node>, exporter: Exporter, rotation: Rotation, ending: CancellationToken) {
    let mut walk: Walk = Walk::open(exporter.request.clone(), &node.hub, node::now());
    let mut pulse = node.pulse.clone();
    let stats = node.exporter(&exporter.name);
    let mut aggregator = exporter.alike.clone().map(|alike| Aggregator::new(alike, node::now()));
    let end = exporter.end;
    let mut out = Out::new(&node, exporter, rotation, stats.clone(), ending.clone());
    while !ending.is_cancelled() && end.is_none_or(|end| node::now() < end) {
        let (lines, state) = match walk.step(&node.hub, BUDGET, node::now()) {
            Step::More(lines) => (lines, State::More),
            Step::Idle(lines) => (lines, State::Idle),
            Step::End(lines) => (lines, State::End),
        };
        stats.overwritten(overwritten(&lines));
        let lines = match &mut aggregator {
            Some(aggregator) => aggregator.pass(lines, node::now()),
            None => lines,
        };
        out.write(&lines).await;
        match state {
            State::More => tokio::task::yield_now().await,
            State::Idle => {
                out.flush().await;
                tokio::select! {
                    () = ending.cancelled() => {}
                    _ = tokio::time::timeout(LOSSES, pulse.changed()) => {}
                }
            }
            State::End => break,
        }
    }
    if let Some(aggregator) = &mut aggregator {
        out.write(&aggregator.rest(node::now())).await;
    }
    out.flush().await;
}

enum State {
    More,
    Idle,
    End,
}

/// Events that the history no longer had.
fn overwritten(lines: &[GetFlowsResponse]) -> u64 {
    let of = |line: &GetFlowsResponse| match &line.response_types {
        Some(ResponseTypes::LostEvents(l)) if l.source() == LostEventSource::HubbleRingBuffer => l.num_events_lost,
        _ => 0,
    };
    lines.iter().map(of).sum()
}

/// Where lines go.
enum Out {
    File(Sink),
    Collector(Box<otlp::Sender>),
}

impl Out {
    fn new(node: &Node, exporter: Exporter, rotation: Rotation, stats: Arc<Stats>, ending: CancellationToken) -> Self {
        match exporter.to {
            Destination::File(path) => {
                Self::File(Sink { path, rotation, file: None, tried: None, missed: 0, buffer: Vec::new(), stats })
            }
            Destination::Collector(to) => {
                let own = node.hub.read(|view| view.names.node().clone());
                let sender = otlp::Sender::new(&exporter.name, to, (&node.cluster(), &own), stats, ending);
                Self::Collector(Box::new(sender))
            }
        }
    }

    async fn write(&mut self, lines: &[GetFlowsResponse]) {
        match self {
            Self::File(sink) => sink.write(lines),
            Self::Collector(sender) => sender.write(lines).await,
        }
    }

    async fn flush(&mut self) {
        match self {
            Self::File(sink) => sink.flush(),
            Self::Collector(sender) => sender.flush().await,
        }
    }
}

/// A file that may be away for a while.
struct Sink {
    path: PathBuf,
    rotation: Rotation,
    file: Option<Rotated>,
    tried: Option<Instant>,
    /// Lines that were not written since that was told last.
    missed: u64,
    buffer: Vec<u8>,
    stats: Arc<Stats>,
}

impl Sink {
    fn write(&mut self, lines: &[GetFlowsResponse]) {
        for line in lines {
            self.buffer.clear();
            if let Err(error) = json::line(line, &mut self.buffer) {
                // a message of ours is always one of the protocol's
                tracing::error!(error, "a flow could not be written as JSON");
                continue;
            }
            self.open();
            let written = self.file.as_mut().map(|file| file.line(&self.buffer, node::now()));
            match written {
                Some(Ok(())) => self.stats.written(1),
                Some(Err(error)) => {
                    self.miss();
                    self.failed(&error);
                }
                None => self.miss(),
            }
        }
    }

    fn miss(&mut self) {
        self.missed += 1;
        self.stats.unwritten(1);
    }

    fn flush(&mut self) {
        if let Some(Err(error)) = self.file.as_mut().map(Rotated::flush) {
            self.failed(&error);
        }
    }

    fn open(&mut self) {
        if self.file.is_some() || self.tried.is_some_and(|at| at.elapsed() < AGAIN) {
            return;
        }
        self.tried = Some(Instant::now());
        match Rotated::open(&self.path, self.rotation) {
            Ok(file) => {
                self.file = Some(file);
                if self.missed > 0 {
                    let (path, lines) = (self.path.display(), self.missed);
                    tracing::warn!(%path, lines, "flows are exported again; so many lines were not written");
                    self.missed = 0;
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &std::io::Error) {
        let path = self.path.display();
        tracing::warn!(%path, %error, lines = self.missed, "flows cannot be exported; tried again in 5 s");
        self.file = None;
        self.tried = Some(Instant::now());
    }
}
