//! The operator's process, with the simulated nodes.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axoneme_operator::{app, core::Techniques, options};
use axoneme_wire::server::{self, Service};
use bytes::Bytes;
use clap::Parser as _;
use futures::StreamExt as _;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;

use crate::{Options, Technique, world};

/// What simulated nodes were sent.
#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicU64,
    commits: AtomicU64,
    /// Nodes that have their first commit.
    served: AtomicU64,
    lost: AtomicU64,
}

/// Runs the operator and does what it is told on standard input, until that ends.
pub(crate) async fn run(o: &Options, api: &str) -> anyhow::Result<()> {
    axoneme_runtime::telemetry::init(axoneme_runtime::telemetry::Format::Text, "warn")?;
    let options = options::Options::try_parse_from([
        "operator",
        "--skip-crds",
        "--stream-port=0",
        "--health-port=0",
        "--config-dir=/nonexistent",
    ])?;
    let client = kube::Client::try_from(kube::Config::new(api.parse()?))?;
    let running = app::start_by(client, &options, techniques(&o.without)).await?;
    let mut ready = running.readiness.watch();
    while !*ready.borrow_and_update() {
        ready.changed().await?;
    }
    say(&json!({"said": "ready", "stream": running.stream_address.port()}));
    let (counts, tasks) = (Arc::new(Counts::default()), TaskTracker::new());
    let mut lines = told();
    while let Some(line) = lines.recv().await {
        if line == "subscribe" {
            let began = Instant::now();
            let wanted = o.nodes - o.reserved();
            for i in o.reserved()..o.nodes {
                tasks.spawn(node(running.service.clone(), world::node_name(i), counts.clone()));
            }
            while counts.served.load(Ordering::Relaxed) < u64::from(wanted) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            say(&json!({"said": "subscribed", "seconds": began.elapsed().as_secs_f64()}));
        }
        if line == "counts" {
            let count = |c: &AtomicU64| c.load(Ordering::Relaxed);
            let (bytes, commits, lost) = (count(&counts.bytes), count(&counts.commits), count(&counts.lost));
            say(&json!({"said": "counts", "bytes": bytes, "commits": commits, "lost": lost}));
        }
    }
    Ok(())
}

/// All but those.
fn techniques(without: &[Technique]) -> Techniques {
    let uses = |t| !without.contains(&t);
    let serving = server::Techniques {
        shared: uses(Technique::Sharing),
        paced: uses(Technique::Pacing),
        quiet: uses(Technique::Quiet),
    };
    Techniques { incremental: uses(Technique::Incremental), serving }
}

/// Lines of standard input.
fn told() -> mpsc::Receiver<String> {
    let (tx, rx) = mpsc::channel(8);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if tx.blocking_send(line).is_err() {
                return;
            }
        }
    });
    rx
}

fn say(value: &serde_json::Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{value}");
    let _ = out.flush();
}

/// A node that takes everything, keeps nothing, and acknowledges what it is asked for; it comes back when its stream ends.
async fn node(service: Service, name: String, counts: Arc<Counts>) {
    let mut first = true;
    loop {
        session(&service, &name, &counts, &mut first).await;
        counts.lost.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn session(service: &Service, name: &str, counts: &Counts, first: &mut bool) {
    let (tx, rx) = mpsc::channel(8);
    if tx.send(Ok(hello(name))).await.is_err() {
        return;
    }
    let Ok(mut frames) = service.accept(name, ReceiverStream::new(rx)).await else { return };
    while let Some(Ok(frame)) = frames.next().await {
        counts.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        let Some((revision, quiet)) = commit(&frame) else { continue };
        counts.commits.fetch_add(1, Ordering::Relaxed);
        if std::mem::take(first) {
            counts.served.fetch_add(1, Ordering::Relaxed);
        }
        if !quiet && tx.send(Ok(acknowledgement(revision))).await.is_err() {
            return;
        }
    }
}

/// `NodeMessage{hello: Hello{node, agent_version, protocol: 1}}` of the protocol.
fn hello(node: &str) -> Bytes {
    let mut inner = vec![0x0a];
    varint(&mut inner, node.len() as u64);
    inner.extend_from_slice(node.as_bytes());
    inner.extend_from_slice(&[0x12, 1, b'0', 0x18, 1]);
    let mut message = vec![0x0a];
    varint(&mut message, inner.len() as u64);
    message.extend(inner);
    message.into()
}

/// `NodeMessage{ack: Ack{revision}}`.
fn acknowledgement(revision: u64) -> Bytes {
    let mut inner = vec![0x08];
    varint(&mut inner, revision);
    let mut message = vec![0x12];
    varint(&mut message, inner.len() as u64);
    message.extend(inner);
    message.into()
}

/// `OperatorMessage{commit: Commit{revision, quiet}}`; none for any other message.
fn commit(frame: &[u8]) -> Option<(u64, bool)> {
    let [0x2a, _, 0x08, rest @ ..] = frame else { return None };
    let last = rest.iter().position(|b| b & 0x80 == 0)?;
    let (revision, rest) = rest.split_at(last + 1);
    Some((revision.iter().rev().fold(0, |sum, b| sum << 7 | u64::from(b & 0x7f)), rest == [0x10, 1]))
}

fn varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}
