//! Reading what `cargo test` prints: totals, ignored tests with their reasons, and the report of each failure.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::report::Report;

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

/// Runs a `cargo test` command and reports what it did. Tests that need root have their own rung and are not skips here.
pub(crate) fn run(report: &mut Report, rung: &str, command: &mut Command) -> Result<()> {
    let mut child = command
        .env("CARGO_TERM_COLOR", "never")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo test")?;
    let output = child.stdout.take().context("cargo test has an output")?;
    let mut failures = 0;
    let mut in_failures = false;
    for line in BufReader::new(output).lines() {
        let line = line.context("reading from cargo test")?;
        in_failures = (in_failures || line == "failures:") && !line.starts_with("test result:");
        if in_failures {
            eprintln!("{line}");
        }
        match read(&line) {
            Line::Passed => report.pass(1),
            Line::Failed(test) => {
                failures += 1;
                report.fail(test, "see above");
            }
            Line::Ignored { reason, .. } if reason.starts_with("needs root") => {}
            Line::Ignored { test, reason } => {
                report.skip(test, if reason.is_empty() { "no reason given" } else { reason });
            }
            Line::Other => {}
        }
    }
    let status = child.wait().context("waiting for cargo test")?;
    if !status.success() && failures == 0 {
        report.fail(rung, "cargo test failed before or beside its tests: see above");
    }
    Ok(())
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
    }
}
