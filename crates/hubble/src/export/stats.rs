//! What became of the lines of an exporter.

use std::sync::atomic::{AtomicU64, Ordering};

/// Lines of one exporter; they only grow.
#[derive(Debug, Default)]
pub struct Stats {
    written: AtomicU64,
    unwritten: AtomicU64,
    refused: AtomicU64,
    overwritten: AtomicU64,
}

impl Stats {
    pub(super) fn written(&self, lines: u64) {
        self.written.fetch_add(lines, Ordering::Relaxed);
    }

    pub(super) fn unwritten(&self, lines: u64) {
        self.unwritten.fetch_add(lines, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, lines: u64) {
        self.refused.fetch_add(lines, Ordering::Relaxed);
    }

    pub(super) fn overwritten(&self, events: u64) {
        self.overwritten.fetch_add(events, Ordering::Relaxed);
    }

    /// Lines that are where they should be.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// What is not, by cause: the file or the collector could not be written to, the collector refused it, the history
    /// was faster.
    #[must_use]
    pub fn lost(&self) -> [(&'static str, u64); 3] {
        [("unwritten", &self.unwritten), ("refused", &self.refused), ("overwritten", &self.overwritten)]
            .map(|(cause, n)| (cause, n.load(Ordering::Relaxed)))
    }
}
