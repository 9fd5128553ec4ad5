//! Records that the ring has no room for any more, in little memory.
//!
//! ```text
//!  History (ring) ──Archivist, on its own thread──▶ pages of packed records ──▶ History::get, as if they were still there
//! ```
//!
//! The ring is what the producer writes and what followers read: it is fast and 128 bytes a record. Who asks what happened
//! ten minutes ago may wait for a page to be unpacked. A packed record takes some 15 to 20 bytes (`ten_minutes_…`).
//!
//! *Guarantees*: the producer knows nothing of it; memory is bounded by the room given, and the oldest page goes first. A
//! page that is being read stays until its reader is done. *Caveats*: where records come faster than they are packed (some
//! hundred thousand a second), the ring's are overwritten before: readers learn of the gap as of any other.

mod pack;

use std::{
    collections::VecDeque,
    mem::size_of,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak},
    time::Duration,
};

use pack::{Packer, Words};

use crate::{
    history::{Found, History},
    hub::Hub,
    record::Record,
    time::Time,
};

/// What an agent gives the past: with its ring of 2 MiB and the pages that are read just now it has ten minutes at 1,000
/// records a second in less than 16 MiB (`ten_minutes_…`).
pub const PAST_BYTES: usize = 12 << 20;
/// Records of a page, where the ring is not too small for that.
const PAGE: u64 = 2048;
/// Pages that are kept unpacked, for those who read them now: 240 KiB each.
const UNPACKED: usize = 4;
/// The archivist looks so often whether there is a page to pack. The ring of an agent (16,384 records) is full after
/// twice this time at 400,000 records a second.
const LOOK: Duration = Duration::from_millis(20);

/// Records of a while ago.
#[derive(Debug, Default)]
pub(crate) struct Past {
    pages: RwLock<Pages>,
    unpacked: Mutex<VecDeque<(u64, Arc<Vec<Words>>)>>,
}

#[derive(Debug, Default)]
struct Pages {
    /// By their first record; between two there may be a gap.
    list: VecDeque<Arc<Page>>,
    bytes: usize,
    room: usize,
}

#[derive(Debug)]
struct Page {
    first: u64,
    count: u64,
    /// Of its oldest and its newest record, by their times.
    times: (Time, Time),
    bytes: Box<[u8]>,
}

impl Page {
    fn size(&self) -> usize {
        // with the counters of the Arc, and the place in the list
        size_of::<Self>() + 3 * size_of::<usize>() + self.bytes.len()
    }
}

/// What the past has of a position.
pub(crate) enum Kept {
    Record(Record),
    /// Not this one; the next that is there.
    Next(u64),
    Nothing,
}

impl Past {
    fn pages(&self) -> RwLockReadGuard<'_, Pages> {
        self.pages.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache(&self) -> MutexGuard<'_, VecDeque<(u64, Arc<Vec<Words>>)>> {
        self.unpacked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that pages may take; what is beyond goes at once.
    pub(crate) fn set_room(&self, bytes: usize) {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        pages.room = bytes;
        pages.shrink();
    }

    pub(crate) fn oldest(&self) -> Option<u64> {
        self.pages().list.front().map(|p| p.first)
    }

    /// Bytes of pages and of what is unpacked, and the records that they hold.
    pub(crate) fn size(&self) -> (usize, u64) {
        let unpacked: usize = self.cache().iter().map(|(_, page)| page.capacity() * size_of::<Words>()).sum();
        let pages = self.pages();
        (pages.bytes + unpacked, pages.list.iter().map(|p| p.count).sum())
    }

    pub(crate) fn get(&self, sequence: u64) -> Kept {
        let page = {
            let pages = self.pages();
            let after = pages.list.partition_point(|p| p.first <= sequence);
            let holds = |p: &&Arc<Page>| sequence - p.first < p.count;
            match after.checked_sub(1).and_then(|n| pages.list.get(n)).filter(holds) {
                Some(page) => page.clone(),
                None => return pages.list.get(after).map_or(Kept::Nothing, |p| Kept::Next(p.first)),
            }
        };
        let words = self.unpacked(&page).and_then(|all| all.get((sequence - page.first) as usize).copied());
        // a page of ours always unpacks; if it ever did not, it would be a gap
        words.map_or(Kept::Next(page.first + page.count), |words| Kept::Record(Record::unpack(&words)))
    }

    fn unpacked(&self, page: &Page) -> Option<Arc<Vec<Words>>> {
        let known = |cache: &mut VecDeque<(u64, Arc<Vec<Words>>)>| {
            let at = cache.iter().position(|(first, _)| *first == page.first)?;
            let found = cache.remove(at)?;
            // the one that was used last stays longest
            cache.push_back(found.clone());
            Some(found.1)
        };
        if let Some(words) = known(&mut self.cache()) {
            return Some(words);
        }
        let words = Arc::new(pack::unpack(&page.bytes, page.count as usize)?);
        let mut cache = self.cache();
        cache.push_back((page.first, words.clone()));
        if cache.len() > UNPACKED {
            cache.pop_front();
        }
        Some(words)
    }

    /// The first record from `sequence` on whose page may hold one of `since` or later; pages before it hold none.
    pub(crate) fn skip_before(&self, since: Time, sequence: u64) -> u64 {
        let pages = self.pages();
        let older = |p: &&Arc<Page>| p.times.1 < since && p.first + p.count > sequence;
        let skipped = pages.list.iter().skip_while(|p| p.first + p.count <= sequence).take_while(older).last();
        skipped.map_or(sequence, |p| p.first + p.count)
    }

    fn push(&self, page: Page) {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        pages.bytes += page.size();
        pages.list.push_back(Arc::new(page));
        pages.shrink();
    }
}

impl Pages {
    fn shrink(&mut self) {
        while self.bytes > self.room {
            let Some(page) = self.list.pop_front() else { return };
            self.bytes -= page.size();
        }
    }
}

/// Packs what the ring of a hub will have no room for. There is one of it for each hub.
#[derive(Debug)]
pub struct Archivist {
    hub: Weak<Hub>,
    /// Packed up to here.
    next: u64,
    packer: Packer,
    records: Vec<Words>,
}

impl Archivist {
    /// Of this hub, from now on.
    #[must_use]
    pub fn new(hub: &Arc<Hub>) -> Self {
        Self { hub: Arc::downgrade(hub), next: hub.seen(), packer: Packer::new(), records: Vec::new() }
    }

    /// Packs until the hub is gone. Blocks: it wants a thread of its own.
    pub fn run(mut self) {
        while let Some(hub) = self.hub.upgrade() {
            let more = self.turn(&hub);
            drop(hub);
            if !more {
                std::thread::sleep(LOOK);
            }
        }
    }

    /// Packs one page, if there are records for one; whether there may be more right now.
    pub fn turn(&mut self, hub: &Hub) -> bool {
        hub.read_history(|history| self.page(history))
    }

    fn page(&mut self, history: &History) -> bool {
        // of a small ring a small part, so that it is not overwritten meanwhile
        let page = (history.capacity() / 4).clamp(16, PAGE);
        if history.head() < self.next.saturating_add(page) {
            return false;
        }
        self.records.clear();
        let first = self.next;
        for sequence in first..first + page {
            match history.in_ring(sequence) {
                Found::Record(record) => self.records.push(record.pack()),
                Found::Gone { oldest } => {
                    self.next = oldest;
                    break;
                }
                Found::NotYet => break,
            }
        }
        let count = self.records.len() as u64;
        if count == page {
            self.next = first + page;
        }
        if count > 0 {
            let time = |r: &Words| Time(*r.first().unwrap_or(&0));
            let times = self.records.iter().map(time);
            let times = (times.clone().min().unwrap_or_default(), times.max().unwrap_or_default());
            let bytes = self.packer.pack(&self.records);
            history.past().push(Page { first, count, times, bytes });
        }
        true
    }
}

#[cfg(test)]
mod tests;
