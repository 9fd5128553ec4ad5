//! Processes by recorded identity: pid and start time, so that a reused pid is never taken for the recorded one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::progress::wait;

/// A process as it was when it was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pid: i32,
    /// Clock ticks since boot, field 22 of `/proc/<pid>/stat`.
    started: u64,
}

/// What `/proc/<pid>/stat` says of a process.
struct Look {
    state: char,
    threads: u32,
    started: u64,
}

impl Look {
    /// A zombie whose other threads have not ended yet still holds its files and sockets.
    fn running(&self) -> bool {
        !matches!(self.state, 'Z' | 'X') || self.threads > 1
    }
}

/// `None` when there is no such process.
fn look(pid: i32) -> Option<Look> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count from its end.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let threads = fields.nth(16)?.parse().ok()?;
    Some(Look { state, threads, started: fields.nth(1)?.parse().ok()? })
}

impl Recorded {
    /// The process that has this pid now.
    pub(crate) fn of(pid: i32) -> Result<Self> {
        let found = look(pid).with_context(|| format!("process {pid} is gone"))?;
        Ok(Self { pid, started: found.started })
    }

    /// Writes it where `down` will look.
    pub(crate) fn save(self, path: &Path) -> Result<()> {
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, format!("{} {}\n", self.pid, self.started))?;
        fs::rename(&fresh, path).with_context(|| format!("recording {}", path.display()))
    }

    /// Reads a record; `None` when there is none, or it is cut short.
    pub(crate) fn load(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let mut words = text.split_whitespace();
        Some(Self { pid: words.next()?.parse().ok()?, started: words.next()?.parse().ok()? })
    }

    /// The pid in the machine's pid namespace.
    pub(crate) fn pid(self) -> i32 {
        self.pid
    }

    /// Whether it still runs; a zombie does not.
    pub(crate) fn alive(self) -> bool {
        look(self.pid).is_some_and(|found| found.started == self.started && found.running())
    }

    /// Sends a signal, if it still is that process.
    pub(crate) fn signal(self, signal: Signal) -> Result<()> {
        if !self.alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("sending {signal} to {}", self.pid)),
        }
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn end(self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        wait(&format!("end of process {}", self.pid), Duration::from_secs(20), Duration::from_millis(10), || {
            Ok((!self.alive()).then_some(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_of_another_start_is_not_this_process() {
        let me = Recorded::of(std::process::id().cast_signed()).unwrap();
        assert!(me.alive());
        let earlier = Recorded { started: me.started - 1, ..me };
        assert!(!earlier.alive());
        assert!(earlier.signal(Signal::SIGKILL).is_ok(), "no signal goes to a process that only shares the pid");
    }
}
