//! What all parts of a run share.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{api::Api, net::Net, sabotage::Sabotage};

/// One run.
#[expect(missing_debug_implementations, reason = "holds the network")]
pub struct Sim {
    pub seed: u64,
    pub start: Instant,
    pub sabotage: Sabotage,
    pub net: Arc<Net>,
    pub api: Arc<Api>,
    pub known: Mutex<Knowledge>,
    trace: Mutex<String>,
    wrong: Mutex<Vec<String>>,
    /// By how much the wall clock of a host is off.
    walls: Mutex<BTreeMap<String, i64>>,
    /// Watches are told that their history is gone.
    pub storm: Mutex<bool>,
}

/// What each process of an operator knew of the API's log when it published a revision.
#[derive(Debug, Default)]
pub struct Knowledge(BTreeMap<Arc<str>, BTreeMap<u64, usize>>);

impl Knowledge {
    /// All changes before this place of the log are in force by this revision.
    pub fn learn(&mut self, process: &Arc<str>, revision: u64, place: usize) {
        self.0.entry(process.clone()).or_default().insert(revision, place);
    }

    #[must_use]
    pub fn of(&self, process: &Arc<str>, revision: u64) -> usize {
        self.0.get(process).and_then(|k| k.range(..=revision).next_back()).map_or(0, |(_, place)| *place)
    }
}

impl Sim {
    #[must_use]
    pub fn new(seed: u64, sabotage: Sabotage) -> Self {
        Self {
            seed,
            start: Instant::now(),
            sabotage,
            net: Arc::default(),
            api: Arc::default(),
            known: Mutex::default(),
            trace: Mutex::default(),
            wrong: Mutex::default(),
            walls: Mutex::default(),
            storm: Mutex::default(),
        }
    }

    /// A line of the trace.
    pub fn say(&self, who: &str, what: impl std::fmt::Display) {
        let millis = self.start.elapsed().as_millis();
        let _ = writeln!(self.trace.lock().unwrap(), "{:>6}.{:03} {who}: {what}", millis / 1000, millis % 1000);
    }

    /// Something that must not be.
    pub fn wrong(&self, what: String) {
        self.say("WRONG", &what);
        self.wrong.lock().unwrap().push(what);
    }

    #[must_use]
    pub fn take_wrong(&self) -> Vec<String> {
        let twice = std::mem::take(&mut self.api.state().twice);
        for t in twice {
            self.wrong(t);
        }
        self.wrong.lock().unwrap().clone()
    }

    #[must_use]
    pub fn trace(&self) -> String {
        self.trace.lock().unwrap().clone()
    }

    /// The wall clock of a host.
    #[must_use]
    pub fn wall(&self, host: &str) -> SystemTime {
        let off = self.walls.lock().unwrap().get(host).copied().unwrap_or(0);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.start.elapsed();
        let by = Duration::from_secs(off.unsigned_abs());
        if off < 0 { now - by } else { now + by }
    }

    /// Sets a host's wall clock, in seconds off the true time.
    pub fn set_wall(&self, host: &str, seconds: i64) {
        self.walls.lock().unwrap().insert(host.to_owned(), seconds);
    }
}
