//! Reading what `cargo test` prints: totals, ignored tests with their reasons, and the report of each failure.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::show;
use crate::progress::say;
use crate::report::Report;
use crate::workspace::cargo;

/// A line of libtest's output, as far as it means something here.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Failed(&'a str),
    Ignored { test: &'a str, reason: &'a str },
    Passed,
    Other,
}

fn read(line: &str) -> Line<'_> {
    let Some((test, verdict)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) else {
        return Line::Other;
    };
    match verdict.split_once(',').map_or((verdict, ""), |(word, reason)| (word, reason.trim())) {
        ("ok", _) => Line::Passed,
        ("FAILED", _) => Line::Failed(test),
        ("ignored", reason) => Line::Ignored { test, reason },
        _ => Line::Other,
    }
}

/// What tests need that run in a place of their own, and so are no skips where they are passed over.
const ELSEWHERE: &[&str] = &["needs root", "needs the stock Hubble client", "needs cluster binaries"];

/// A test that prints nothing for so long hangs; the longest honest one takes a fraction of it.
const SILENCE: Duration = Duration::from_mins(10);

/// What follows `cargo test`: what to build, and words for the test programs.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    pub(crate) cargo: Vec<String>,
    pub(crate) programs: Vec<String>,
    /// A stock Hubble client, for the tests that ask by it.
    pub(crate) hubble_client: Option<PathBuf>,
}

/// Builds and runs tests and reports what they did. Tests that need root have their own rung and are not skips here.
pub(crate) fn run(report: &mut Report, rung: &str, selection: &Selection) -> Result<()> {
    // Built first, without a limit: only then does silence mean that a test hangs.
    show(cargo().args(["test", "--no-run", "--quiet"]).args(&selection.cargo)).context("building the tests")?;
    let mut child = cargo()
        .args(["test", "--no-fail-fast"])
        .args(&selection.cargo)
        .arg("--")
        .args(&selection.programs)
        .env("CARGO_TERM_COLOR", "never")
        .envs(selection.hubble_client.iter().map(|path| ("AXONEME_HUBBLE_CLIENT", path)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo test")?;
    let output = child.stdout.take().context("cargo test has an output")?;
    let (sender, lines) = mpsc::sync_channel(256);
    // Ends with the pipe, which the processes that hold it close when they end.
    std::thread::spawn(move || BufReader::new(output).lines().try_for_each(|line| sender.send(line)));
    let mut reader = Reader::default();
    let hung = loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => reader.take(report, &line.context("reading from cargo test")?),
            Err(mpsc::RecvTimeoutError::Disconnected) => break false,
            Err(mpsc::RecvTimeoutError::Timeout) => break true,
        }
    };
    if hung {
        end_tree(child.id())?;
    }
    let status = child.wait().context("waiting for cargo test")?;
    if hung {
        let last = reader.last;
        report.fail(rung, &format!("ended: nothing was printed for {} s after: {last}", SILENCE.as_secs()));
    } else if !status.success() && reader.failures == 0 {
        report.fail(rung, "cargo test failed before or beside its tests: see above");
    }
    Ok(())
}

/// Kills a process of this program and all that it has started.
fn end_tree(pid: u32) -> Result<()> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let _gone_is_fine = kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL);
    children.split_whitespace().try_for_each(|child| end_tree(child.parse()?))
}

/// Where in the output the reader is.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Where the tests run, before their names.
    pub(super) place: String,
    pub(super) failures: usize,
    pub(super) in_failures: bool,
    pub(super) last: String,
}

impl Reader {
    pub(super) fn take(&mut self, report: &mut Report, line: &str) {
        self.in_failures = (self.in_failures || line == "failures:") && !line.starts_with("test result:");
        if self.in_failures {
            eprintln!("{line}");
        }
        match read(line) {
            Line::Passed => report.pass(1),
            Line::Failed(test) => {
                self.failures += 1;
                report.fail(&format!("{}{test}", self.place), "see above");
            }
            Line::Ignored { reason, .. } if ELSEWHERE.iter().any(|what| reason.starts_with(what)) => {}
            Line::Ignored { test, reason } => {
                report.skip(test, if reason.is_empty() { "no reason given" } else { reason });
            }
            Line::Other => {}
        }
        match slow(line) {
            Some(took) => say(format_args!("  ok {took}, after {}", self.last)),
            None if line.is_empty() => {}
            None => line.clone_into(&mut self.last),
        }
    }
}

/// What a program with many or long tests says at its end: how many passed, and in what time.
fn slow(line: &str) -> Option<String> {
    let (counts, seconds) = line.strip_prefix("test result: ok. ")?.rsplit_once("; finished in ")?;
    let took: f64 = seconds.strip_suffix('s')?.parse().ok()?;
    let passed = counts.split(';').next()?;
    (took >= 2.0).then(|| format!("{passed} ({took:.1} s)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_libtest_are_understood() {
        assert_eq!(read("test a::b ... ok"), Line::Passed);
        assert_eq!(read("test a::b ... FAILED"), Line::Failed("a::b"));
        assert_eq!(read("test c - should panic ... ok"), Line::Passed);
        assert_eq!(
            read("test a::b ... ignored, needs root: links"),
            Line::Ignored { test: "a::b", reason: "needs root: links" }
        );
        assert_eq!(read("test result: ok. 3 passed; 0 failed; 1 ignored"), Line::Other);
        assert_eq!(read("running 3 tests"), Line::Other);
        let end = |time| {
            format!("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in {time}")
        };
        assert_eq!(slow(&end("12.34s")).as_deref(), Some("3 passed (12.3 s)"));
        assert_eq!(slow(&end("0.01s")), None);
        assert_eq!(slow("test a::b ... ok"), None);
    }
}
