//! Progress for people: one line when long work starts, one with its seconds when it ends, on standard error.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::settings;

/// Seconds with one decimal, as every line of this tool prints them.
pub(crate) fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}

/// One line of news.
pub(crate) fn say(line: impl Display) {
    eprintln!("{line}");
}

/// Runs one piece of work and says how long it took; announces it first, since it may be long.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(format_args!("  .. {what}"));
    timed(what, work)
}

/// Runs one piece of work that is short, and says how long it took.
pub(crate) fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let result = work();
    let mark = if result.is_ok() { "ok" } else { "!!" };
    say(format_args!("  {mark} {what} ({})", seconds(started.elapsed())));
    result
}

/// Waits until `ready` answers `Some`, asking every `pause`. On a machine that is said to be slow
/// ([`settings::patience`]), as many times as long.
///
/// # Errors
/// When `limit` has passed, or when `ready` itself fails.
pub(crate) fn wait<T>(
    what: &str,
    limit: Duration,
    pause: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    let limit = limit.saturating_mul(settings::patience());
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if started.elapsed() > limit {
            anyhow::bail!("{what}: not there after {}", seconds(limit));
        }
        std::thread::sleep(pause);
    }
}
