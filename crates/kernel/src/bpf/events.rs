//! Drops and changes of connections, as the programs report them.
//!
//! The programs never wake a reader (a wake-up per record costs a third of the connection rate): whoever reads asks at
//! its own pace. Drops have a ring of their own, which a flood of connections cannot starve; a full ring loses records,
//! and each loss is counted ([`super::Metrics::lost_drops`]).

use std::path::Path;

use axoneme_abi::{DropEvent, FlowEvent};
use aya::maps::{Map, MapData, RingBuf};

use super::{datapath::BpfDatapath, system::io_error};
use crate::datapath::Result;

/// A decoded record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Drop(DropEvent),
    Flow(FlowEvent),
}

impl Event {
    /// As the ring held it, for decoders that know bytes only.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Drop(e) => bytes_of(e),
            Self::Flow(e) => bytes_of(e),
        }
    }
}

fn bytes_of<T: Copy>(event: &T) -> &[u8] {
    // SAFETY: the ABI's events are `repr(C)` integers without padding (asserted there): every byte is initialized.
    #[allow(unsafe_code, reason = "looking at an ABI struct as the bytes it came from")]
    unsafe {
        std::slice::from_raw_parts(std::ptr::from_ref(event).cast(), size_of::<T>())
    }
}

/// Reads both rings. One reader at a time: records go to the one that takes them.
pub struct EventReader {
    drops: RingBuf<MapData>,
    flows: RingBuf<MapData>,
}

impl std::fmt::Debug for EventReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventReader").finish_non_exhaustive()
    }
}

fn open(dir: &Path, name: &str) -> Result<RingBuf<MapData>> {
    let failed = |e: aya::maps::MapError| io_error(format!("open ring {name}"), std::io::Error::other(e));
    let data = MapData::from_pin(dir.join(name)).map_err(failed)?;
    RingBuf::try_from(Map::from_map_data(data).map_err(failed)?).map_err(failed)
}

impl EventReader {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        Ok(Self { drops: open(dir, "DROPS")?, flows: open(dir, "FLOWS")? })
    }

    /// Appends at most `limit` records of each ring, drops first. Returns how many. Never waits: call it on a timer (10
    /// to 100 ms), and again at once when it returned a full `limit`.
    pub fn read(&mut self, limit: usize, into: &mut Vec<Event>) -> usize {
        let before = into.len();
        take(&mut self.drops, limit, |b| into.extend(decode::<DropEvent>(b).map(Event::Drop)));
        take(&mut self.flows, limit, |b| into.extend(decode::<FlowEvent>(b).map(Event::Flow)));
        into.len() - before
    }
}

fn take(ring: &mut RingBuf<MapData>, limit: usize, mut each: impl FnMut(&[u8])) {
    for _ in 0..limit {
        match ring.next() {
            Some(item) => each(&item),
            None => return,
        }
    }
}

/// A record of another length is of another version: it is passed over.
fn decode<T: Copy>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: the ABI's events are `repr(C)` integers: any bytes are a value, and there are enough of them.
    #[allow(unsafe_code, reason = "reading plain bytes of a ring record as the ABI's struct")]
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

impl BpfDatapath {
    /// A reader of the events.
    pub fn events(&self) -> Result<EventReader> {
        EventReader::open(&self.dir)
    }
}
