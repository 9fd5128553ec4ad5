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

/// The programs wake nobody: this is how late a flow is seen at most, and how often an idle node wakes. The ring of flows
/// has room for 10,082 records (104 bytes each of 1 MiB): from idle to 600,000 a second none is lost.
const POLL: Duration = Duration::from_millis(16);
/// The same after a turn that found [`MANY`]: enough for 5,000,000 a second, and no more than a turn every so often.
const BUSY: Duration = Duration::from_millis(2);
/// Records of a turn from which on there may be too many of them before the next one.
const MANY: usize = 512;
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
            let read = reader.as_mut().map_or(0, |r| drain(r, &mut events, &mut feed));
            if Instant::now() >= chores_at {
                chores_at = Instant::now() + CHORES;
                chores(&mut current, &mut feed);
            }
            if let Some(pause) = pause(read) {
                std::thread::sleep(pause);
            }
        }
    })
}

/// How long the rings may be left alone after a turn; none: there may be more right now.
const fn pause(read: usize) -> Option<Duration> {
    match read {
        BATCH.. => None,
        MANY.. => Some(BUSY),
        _ => Some(POLL),
    }
}

fn reopen(current: &mut Current) -> Option<EventReader> {
    let datapath = current.borrow_and_update().clone()?;
    datapath.events().inspect_err(|error| tracing::error!(%error, "flows are not read")).ok()
}

/// How many there were.
fn drain(reader: &mut EventReader, events: &mut Vec<Event>, feed: &mut Feed) -> usize {
    events.clear();
    let read = reader.read(BATCH, events);
    for event in events.iter() {
        let ring = match event {
            Event::Drop(_) => Ring::Drops,
            Event::Flow(_) => Ring::Flows,
        };
        feed.take(ring, event.bytes());
    }
    read
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Records that the ring of flows has room for, as it is made.
    const ROOM: u64 = (1 << 20) / 104;

    #[test]
    fn no_record_is_lost_at_half_a_million_a_second_from_idle_on() {
        for a_second in [1_000, 100_000, 500_000, 600_000, 2_000_000] {
            let (mut waiting, mut most) = (0, 0);
            // idle until now; then as many come in each pause as the rate says
            let mut paused = Some(if a_second > 600_000 { BUSY } else { POLL });
            for _ in 0..1000 {
                waiting += a_second * paused.unwrap_or_default().as_millis() as u64 / 1000;
                most = most.max(waiting);
                let read = waiting.min(BATCH as u64);
                waiting -= read;
                paused = pause(read as usize);
            }
            assert!(most < ROOM, "{a_second} a second: {most}");
        }
    }

    #[test]
    fn an_idle_node_is_left_alone() {
        assert_eq!(pause(0), Some(POLL));
        assert_eq!(pause(BATCH), None);
    }
}
