//! The packet path in the kernel, and its events.

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use axoneme_flow::{ClockOffset, Feed, Ring};
use axoneme_kernel::{
    bpf::{BpfDatapath, Event, EventReader, Loader},
    datapath::{Datapath, DatapathConfig, DatapathError},
};
use axoneme_runtime::clock;
use tokio::sync::watch;

use crate::engine::DatapathFactory;

/// The programs wake nobody: this is how late a flow is seen at most, and how often an idle node wakes.
const POLL: Duration = Duration::from_millis(50);
/// Records of each ring a turn.
const BATCH: usize = 2048;
/// Between measurements of the clocks, and between collections of dead connections.
const CHORES: Duration = Duration::from_secs(30);

/// The datapath that is in use, for those who only look.
pub type Current = watch::Receiver<Option<Arc<BpfDatapath>>>;

/// Opens the datapath for the engine and shows it to the event reader.
#[derive(Debug)]
pub struct Factory {
    current: watch::Sender<Option<Arc<BpfDatapath>>>,
}

impl Factory {
    pub fn new() -> (Self, Current) {
        let (current, receiver) = watch::channel(None);
        (Self { current }, receiver)
    }
}

impl DatapathFactory for Factory {
    fn open(&mut self, config: &DatapathConfig) -> Result<Arc<dyn Datapath>, DatapathError> {
        let datapath = Arc::new(Loader::open(config.clone())?);
        self.current.send_replace(Some(datapath.clone()));
        Ok(datapath)
    }

    fn attached(&mut self) -> Result<(), DatapathError> {
        let current = self.current.borrow().clone();
        current.map_or(Ok(()), |d| d.forget_other_versions().map(|_| ()))
    }
}

/// Reads events on a thread of its own until the datapath's owner is gone.
pub fn read_events(mut current: Current, mut feed: Feed) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("events".to_owned()).spawn(move || {
        let (mut reader, mut chores_at) = (None, Instant::now());
        let mut events = Vec::with_capacity(BATCH);
        loop {
            match current.has_changed() {
                Err(_) => return,
                Ok(true) => reader = reopen(&mut current),
                Ok(false) => {}
            }
            let full = reader.as_mut().is_some_and(|r| drain(r, &mut events, &mut feed));
            if Instant::now() >= chores_at {
                chores_at = Instant::now() + CHORES;
                chores(&mut current, &mut feed);
            }
            if !full {
                std::thread::sleep(POLL);
            }
        }
    })
}

fn reopen(current: &mut Current) -> Option<EventReader> {
    let datapath = current.borrow_and_update().clone()?;
    datapath.events().inspect_err(|error| tracing::error!(%error, "flows are not read")).ok()
}

/// Whether there may be more right now.
fn drain(reader: &mut EventReader, events: &mut Vec<Event>, feed: &mut Feed) -> bool {
    events.clear();
    let read = reader.read(BATCH, events);
    for event in events.iter() {
        let ring = match event {
            Event::Drop(_) => Ring::Drops,
            Event::Flow(_) => Ring::Flows,
        };
        feed.take(ring, event.bytes());
    }
    read >= BATCH
}

fn chores(current: &mut Current, feed: &mut Feed) {
    feed.set_clock(clock_offset());
    let Some(datapath) = current.borrow().clone() else { return };
    match datapath.metrics() {
        Ok(m) => {
            feed.set_lost(Ring::Drops, m.lost_drops);
            feed.set_lost(Ring::Flows, m.lost_flows);
        }
        Err(error) => tracing::warn!(%error, "counters are not read"),
    }
    if let Err(error) = datapath.gc() {
        tracing::warn!(%error, "dead connections are not collected");
    }
}

/// What the kernel's monotonic clock lacks to the wall clock.
fn clock_offset() -> ClockOffset {
    let wall = clock::wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    let kernel = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    let nanos = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    ClockOffset(nanos(wall) - nanos(kernel))
}
