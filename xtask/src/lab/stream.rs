//! A numbered stream between two pods, running beside what is done to the cluster meanwhile.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Lab, Pod};

/// What the workload counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Report {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) send_errors: u64,
    pub(crate) cut: u64,
    pub(crate) longest_gap_ms: u64,
}

/// A stream under way.
#[derive(Debug)]
pub(crate) struct Stream {
    what: String,
    child: Child,
}

impl Lab {
    /// Starts a stream of `packets` at `rate` a second from a pod to `udp:…` or `tcp:…` of an echo server.
    pub(crate) fn stream(&self, from: &Pod, target: &str, packets: u64, rate: u32) -> Result<Stream> {
        let (packets, rate) = (packets.to_string(), rate.to_string());
        let mut command = self.inside(from)?;
        command.args(["axoneme-workload", "stream", target, "--packets", &packets, "--rate", &rate]);
        Stream::start(command, format!("{}/{} to {target}", from.namespace, from.name))
    }
}

/// More than any scenario lasts.
const ENDLESS: &str = "1000000";

impl Lab {
    /// As [`Lab::stream`], but it lasts until [`Stream::finish`].
    pub(crate) fn stream_until_finished(&self, from: &Pod, target: &str, rate: u32) -> Result<Stream> {
        let mut command = self.inside(from)?;
        command.args([
            "axoneme-workload",
            "stream",
            target,
            "--packets",
            ENDLESS,
            "--until-closed",
            "--rate",
            &rate.to_string(),
        ]);
        Stream::endless(command, format!("{}/{} to {target}", from.namespace, from.name))
    }
}

impl Lab {
    /// As [`Lab::stream_until_finished`], in turn to so many addresses from the target's on.
    pub(crate) fn sweep(&self, from: &Pod, first: &str, addresses: u32, rate: u32) -> Result<Stream> {
        let (addresses, rate) = (addresses.to_string(), rate.to_string());
        let mut command = self.inside(from)?;
        command.args(["axoneme-workload", "stream", first, "--packets", ENDLESS, "--until-closed", "--rate", &rate]);
        command.args(["--addresses", &addresses]);
        Stream::endless(command, format!("{}/{} to {addresses} from {first}", from.namespace, from.name))
    }
}

impl Stream {
    /// Starts the workload's `stream`, wherever the command runs it.
    pub(crate) fn start(mut command: Command, what: String) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Self { what, child })
    }

    /// Starts the workload's `stream --until-closed`, wherever the command runs it.
    pub(crate) fn endless(mut command: Command, what: String) -> Result<Self> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Self { what, child })
    }

    /// Nothing more is sent by a stream that lasts until it is finished.
    pub(crate) fn stop(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for the end, which is now for a stream that lasts until then.
    pub(crate) fn finish(mut self) -> Result<Report> {
        self.stop();
        let mut text = String::new();
        if let Some(mut out) = self.child.stdout.take() {
            out.read_to_string(&mut text)?;
        }
        let mut error = String::new();
        if let Some(mut err) = self.child.stderr.take() {
            err.read_to_string(&mut error)?;
        }
        self.child.wait()?;
        serde_json::from_str(text.trim()).with_context(|| format!("stream {}: {text} {error}", self.what))
    }

    /// Whether it still runs: what is measured under it must end before it does.
    pub(crate) fn running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

/// A probe that goes on until its outcome changes.
#[derive(Debug)]
pub(crate) struct Until {
    child: Child,
    /// When the watcher's own clock started.
    started: Instant,
}

#[derive(Deserialize)]
struct Changed {
    began_ms: Option<u64>,
}

impl Lab {
    /// Probes `target` from a pod again and again until the outcome is `ok` or `timeout`. Returns once the first probe
    /// has been answered, so that what follows is measured against a running watcher.
    pub(crate) fn until(&self, from: &Pod, target: &str, outcome: &str) -> Result<Until> {
        let mut command = self.inside(from)?;
        command.args(["axoneme-workload", "until", target, outcome]);
        Until::start(command, target)
    }
}

impl Until {
    /// Starts the workload's `until`, wherever the command runs it; returns as [`Lab::until`] does.
    pub(crate) fn start(mut command: Command, target: &str) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("a pipe")?;
        let mut out = BufReader::new(out);
        let mut line = String::new();
        out.read_line(&mut line)?;
        anyhow::ensure!(line.starts_with("started"), "watcher of {target}: {line:?}");
        let started = Instant::now();
        child.stdout = Some(out.into_inner());
        Ok(Self { child, started })
    }

    /// When the first probe with the new outcome was begun.
    pub(crate) fn finish(mut self) -> Result<Instant> {
        let mut text = String::new();
        if let Some(mut out) = self.child.stdout.take() {
            out.read_to_string(&mut text)?;
        }
        self.child.wait()?;
        let changed: Changed = serde_json::from_str(text.trim()).with_context(|| format!("watcher: {text}"))?;
        let after = changed.began_ms.with_context(|| format!("the outcome never changed: {text}"))?;
        Ok(self.started + Duration::from_millis(after))
    }
}
