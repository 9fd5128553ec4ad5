//! How many events were lost, and where.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::flow::number_text;

/// Where an event can get lost on its way from packet to reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The kernel's ring for drops was full.
    DropRing,
    /// The kernel's ring for connection changes was full.
    FlowRing,
    /// The bytes were no event of this version.
    Undecodable,
    /// Overwritten in the history before a reader had read it.
    History,
}

impl Cause {
    pub const ALL: [Self; 4] = [Self::DropRing, Self::FlowRing, Self::Undecodable, Self::History];

    /// The word in status and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DropRing => "drop-ring",
            Self::FlowRing => "flow-ring",
            Self::Undecodable => "undecodable",
            Self::History => "history",
        }
    }

    /// Hubble's word for it.
    #[must_use]
    pub const fn source(self) -> LostEventSource {
        match self {
            Self::DropRing | Self::FlowRing => LostEventSource::PerfEventRingBuffer,
            Self::Undecodable => LostEventSource::ObserverEventsQueue,
            Self::History => LostEventSource::HubbleRingBuffer,
        }
    }
}

/// Counters by cause. Counting never waits.
#[derive(Debug, Default)]
pub struct Lost([AtomicU64; Cause::ALL.len()]);

impl Lost {
    fn counter(&self, cause: Cause) -> Option<&AtomicU64> {
        self.0.get(cause as usize)
    }

    pub fn add(&self, cause: Cause, events: u64) {
        if let Some(c) = self.counter(cause) {
            c.fetch_add(events, Ordering::Relaxed);
        }
    }

    /// For causes that another party counts (the kernel's own counters): the total so far.
    pub fn set(&self, cause: Cause, total: u64) {
        if let Some(c) = self.counter(cause) {
            c.fetch_max(total, Ordering::Relaxed);
        }
    }

    #[must_use]
    pub fn get(&self, cause: Cause) -> u64 {
        self.counter(cause).map_or(0, |c| c.load(Ordering::Relaxed))
    }

    /// All counters, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (Cause, u64)> {
        Cause::ALL.into_iter().map(|c| (c, self.get(c)))
    }
}

/// `flow.LostEventSource`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LostEventSource {
    PerfEventRingBuffer,
    ObserverEventsQueue,
    HubbleRingBuffer,
}

/// `flow.LostEvent`: so many events are missing at this place of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostEvents {
    pub source: LostEventSource,
    #[serde(with = "number_text")]
    pub num_events_lost: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_own_counter() {
        let lost = Lost::default();
        for (n, cause) in Cause::ALL.into_iter().enumerate() {
            lost.add(cause, n as u64 + 1);
        }
        assert_eq!(lost.iter().map(|c| c.1).collect::<Vec<_>>(), [1, 2, 3, 4]);
        lost.set(Cause::DropRing, 9);
        lost.set(Cause::DropRing, 7);
        assert_eq!(lost.get(Cause::DropRing), 9, "a total never goes back");
    }
}
