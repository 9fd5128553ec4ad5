//! Running other programs: what they print becomes the answer, or the reason in the error.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::settings;

/// A command that finds system programs whatever the caller's search path is.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", settings::search_path());
    command
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn judge(line: &str, done: &Output) -> Result<String> {
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() {
        return Ok(out);
    }
    let err = String::from_utf8_lossy(&done.stderr);
    let text = if err.trim().is_empty() { out.as_str() } else { err.as_ref() };
    bail!("`{line}` ended with {}: {}", done.status, tail(text, 12))
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

/// Runs to the end; standard output on success, the end of standard error in the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = line_of(command);
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))?;
    judge(&line, &done)
}

/// As [`output`], with `input` on standard input.
pub(crate) fn output_with(command: &mut Command, input: &str) -> Result<String> {
    let line = line_of(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start `{line}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early closes the pipe; its status tells more than that error.
        drop(stdin.write_all(input.as_bytes()));
    }
    let done = child.wait_with_output().with_context(|| format!("waiting for `{line}`"))?;
    judge(&line, &done)
}

/// Runs with the caller's own input and output; an error when it fails.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let line = line_of(command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if status.success() { Ok(()) } else { bail!("`{line}` ended with {status}") }
}
