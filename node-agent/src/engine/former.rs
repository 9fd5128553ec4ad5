//! The rows that this node had last, on disk, for an agent that starts while nobody can send it any.
//!
//! *Guarantees*: where the kernel still holds what a former process put there, the copy changes none of it: what the
//! kernel judges by may be newer than the copy, and an older row must never allow what a newer one has denied. There the
//! copy gives only what new pods need: configuration, their rows, and tables that are in no slot. Where the kernel holds
//! nothing, the copy is the best that is known, and all of it is put in force. Nothing is removed by it. The first
//! snapshot from an operator takes its place whole: every row is compared with the kernel anew.
//!
//! *Writes*: at most one in [`SPACING`], later on large nodes ([`SHARE`]), none when the bytes are those on disk. A copy
//! that is not written (full disk) is tried again; the former one stays.

use std::time::{Duration, Instant};

use axoneme_kernel::datapath::Datapath;
use axoneme_model::rows::RowSet;
use axoneme_wire::{RowChange, archive, client::Desired};
use sha2::{Digest as _, Sha256};

use super::Engine;
use crate::{Error, store::StoreError};

/// Name of the copy in the store.
pub const DOCUMENT: &str = "rows.bin";

/// Changes come in bursts: so long after the first one.
const QUIET: Duration = Duration::from_secs(1);
/// Between two writes.
const SPACING: Duration = Duration::from_secs(5);
/// Between two writes in multiples of what the last one took: at most a two-hundredth of the engine's time.
const SHARE: u32 = 200;
/// After a write that failed.
const AGAIN: Duration = Duration::from_secs(30);

type Digest32 = [u8; 32];

/// State of the copy.
#[derive(Debug, Default)]
pub(super) struct Former {
    /// The rows at hand are those of the copy.
    in_use: bool,
    /// The kernel held a former process's state when the rows of the copy were taken.
    judged: bool,
    /// Of what is on disk.
    digest: Option<Digest32>,
    /// When the rows at hand are written.
    due: Option<Instant>,
    written: Option<Instant>,
    cost: Duration,
    /// Why the last write failed.
    failed: Option<String>,
}

impl Former {
    pub(super) const fn in_use(&self) -> bool {
        self.in_use
    }

    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Why the copy on disk is older than the rows at hand.
    pub(super) fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Whether settings that are no rows stay as a former process left them.
    pub(super) const fn leaves_alone(&self) -> bool {
        self.in_use && self.judged
    }
}

impl Engine {
    /// Takes the copy until an operator sends rows. One that cannot be read is set aside.
    pub(super) fn load_rows(&mut self) -> Result<(), Error> {
        let Some(document) = self.parts.store.load(DOCUMENT)? else { return Ok(()) };
        match read(&self.parts.node, &document) {
            Ok(rows) if rows.config.is_some() => {
                self.former.digest = Some(Sha256::digest(&document).into());
                self.former.in_use = true;
                self.rows = Desired::restore(rows, None);
                self.base.dirty = true;
                self.tell_names(&[], true);
                if let Some(config) = self.rows.rows().config.clone() {
                    self.use_blocks(&config);
                }
                Ok(())
            }
            // of no use alone
            Ok(_) => Ok(()),
            Err(message) => {
                let error = StoreError::Broken { path: DOCUMENT.into(), message };
                tracing::warn!(%error, "the last rows are not known: new pods wait for an operator");
                self.event(true, "RowsLost", error.to_string());
                Ok(self.parts.store.set_aside(DOCUMENT)?)
            }
        }
    }

    /// What the rows of the copy are good for, once it is known what the kernel holds.
    pub(super) fn wish_former(&mut self, datapath: &dyn Datapath) -> Result<(), Error> {
        self.former.judged = !datapath.ips()?.is_empty() || !datapath.attached()?.is_empty();
        let rows = self.rows.rows();
        let tables: Vec<_> = rows.tables.keys().copied().filter(|t| self.tables.slot_in_force(*t).is_none()).collect();
        for id in tables {
            self.tables.want(id);
        }
        if self.former.judged {
            tracing::info!("no operator yet: the kernel's state stays, new pods get the rows that were known last");
            return Ok(());
        }
        tracing::info!("no operator yet, and nothing in the kernel: the rows that were known last are put in force");
        let rows = self.rows.rows();
        let prefixes: Vec<_> = rows.ips.keys().copied().collect();
        let services: Vec<_> = rows.services.keys().cloned().collect();
        for prefix in prefixes {
            self.wish_ip(prefix);
        }
        for service in services {
            self.wish_service(&service);
        }
        Ok(())
    }

    /// Whether the maps that new programs would judge by are full. Programs of a former version keep their own maps
    /// until an operator has filled the new ones.
    pub(super) fn former_fills_maps(&self) -> bool {
        let Some(datapath) = self.datapath.as_ref().filter(|_| self.former.in_use) else { return false };
        !self.former.judged || datapath.ips().is_ok_and(|ips| !ips.is_empty())
    }

    /// The first snapshot: every row of it is a wish, whether the copy had it or not.
    pub(super) fn replace_former(&mut self, changes: Vec<RowChange>) -> Vec<RowChange> {
        if !self.former.in_use {
            return changes;
        }
        self.former.in_use = false;
        self.base.dirty = true;
        let gone = changes.into_iter().filter(|c| matches!(c, RowChange::Remove(_)));
        axoneme_wire::change::upserts(self.rows.rows()).into_iter().chain(gone).collect()
    }

    /// The rows at hand are others than before.
    pub(super) fn rows_changed(&mut self) {
        if !self.initialized() || self.former.due.is_some() {
            return;
        }
        let now = self.parts.clock.now();
        let spacing = SPACING.max(self.former.cost * SHARE);
        let earliest = self.former.written.map_or(now, |at| at + spacing);
        self.former.due = Some(earliest.max(now + QUIET));
    }

    /// Writes the copy if it is due.
    pub(super) fn keep_rows(&mut self) {
        if self.former.due.is_some_and(|at| at <= self.parts.clock.now()) {
            self.write_rows();
        }
    }

    /// The process ends: what would have been written later is written now.
    pub fn finish(&mut self) {
        if self.former.due.is_some() {
            self.write_rows();
        }
    }

    fn write_rows(&mut self) {
        let begun = self.parts.clock.now();
        self.former.due = None;
        let document = write(&self.parts.node, self.rows.rows());
        let digest: Digest32 = Sha256::digest(&document).into();
        if self.former.digest == Some(digest) {
            return;
        }
        match self.parts.store.save(DOCUMENT, &document) {
            Ok(()) => {
                self.former.digest = Some(digest);
                self.former.failed = None;
            }
            Err(error) => {
                if self.former.failed.is_none() {
                    tracing::warn!(%error, "the last rows are not kept on disk: a restart without an operator has older ones");
                }
                self.former.failed = Some(error.to_string());
                self.former.due = Some(begun + AGAIN);
            }
        }
        self.former.written = Some(begun);
        self.former.cost = self.parts.clock.now().saturating_duration_since(begun);
    }
}

/// The rows behind their checksum: a disk may lose or turn bytes that are still messages.
fn write(node: &str, rows: &RowSet) -> Vec<u8> {
    let mut document = vec![0; size_of::<Digest32>()];
    archive::encode_behind(node, rows, &mut document);
    if let Some((checksum, body)) = document.split_first_chunk_mut::<32>() {
        *checksum = Sha256::digest(body).into();
    }
    document
}

fn read(node: &str, document: &[u8]) -> Result<RowSet, String> {
    let (checksum, body) = document.split_first_chunk::<32>().ok_or("ends early")?;
    if Digest32::from(Sha256::digest(body)) != *checksum {
        return Err("its checksum is of something else".to_owned());
    }
    archive::decode(node, body).map_err(|e| e.to_string())
}
