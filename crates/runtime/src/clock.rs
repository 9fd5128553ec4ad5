//! Time as a dependency, so that tests own it.

use std::{
    fmt::Debug,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// Where a component reads time from.
pub trait Clock: Send + Sync + Debug {
    /// Monotonic time: for deadlines, ages and backoff. Does not jump when the wall clock is set.
    fn now(&self) -> Instant;
    /// Wall clock: only for what people read and for what outlives the process.
    fn wall(&self) -> SystemTime;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Clock for System {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        wall()
    }
}

/// The wall clock. The one place that reads it.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Milliseconds since the Unix epoch; 0 for a clock that is set before it.
pub fn unix_millis(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct Manual {
    start: Instant,
    state: Mutex<(Duration, SystemTime)>,
}

impl Default for Manual {
    fn default() -> Self {
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Self { start: Instant::now(), state: Mutex::new((Duration::ZERO, epoch)) }
    }
}

impl Manual {
    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let mut s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        s.0 += by;
        s.1 += by;
    }

    /// Sets the wall clock only, as an operator or NTP does.
    pub fn set_wall(&self, to: SystemTime) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = to;
    }
}

impl Clock for Manual {
    fn now(&self) -> Instant {
        self.start + self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn wall(&self) -> SystemTime {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_jump_moves_no_deadline() {
        let c = Manual::default();
        let before = c.now();
        c.set_wall(SystemTime::UNIX_EPOCH);
        assert_eq!(c.now(), before);
        assert_eq!(unix_millis(c.wall()), 0);
        c.advance(Duration::from_secs(5));
        assert_eq!(c.now() - before, Duration::from_secs(5));
        assert_eq!(unix_millis(c.wall()), 5000);
    }
}
