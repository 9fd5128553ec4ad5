//! Maps of other ABI versions: connections of older ones are taken over, newer ones are refused.
//!
//! ```text
//!   <pin_dir>/1/CT4 ──convert──▶ <pin_dir>/2/CT4      when the datapath is opened, again before the first program is
//!                                                     replaced, and again when the old maps are forgotten
//! ```
//!
//! What is copied is what cannot be computed anew: connections and what belongs to them. Everything else comes from the
//! caller's rows. A copied connection keeps its state and counters, but not its verdict: its next packet is judged by
//! the new tables. An entry that the new programs have made is never overwritten by an old one.
//!
//! A version that changes the layout of a map below adds a line to [`KNOWN`] for the version before it.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use axoneme_abi::{Conntrack, VERSION};

use super::{datapath::BpfDatapath, loader::maps_dir, sys, system::io_error};
use crate::datapath::Result;

/// An element of this version, made from one of an older version. None: it is left behind.
pub type Convert = fn(map: &str, key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)>;

/// Maps that outlive a change of version.
const MAPS: [&str; 10] = [
    "CT4",
    "CT6",
    "REVERSE4",
    "REVERSE6",
    "TRANSLATIONS4",
    "TRANSLATIONS6",
    "AFFINITY4",
    "AFFINITY6",
    "SOCKETS4",
    "SOCKETS6",
];

/// Older versions and how their elements become ours.
const KNOWN: [(u32, Convert); 4] = [(1, unchanged), (2, unchanged), (3, unchanged), (4, unchanged)];

/// Versions 1 to 4 had these maps' layouts.
#[expect(clippy::unnecessary_wraps, reason = "other versions may leave elements behind")]
fn unchanged(_: &str, key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    Some((key.to_vec(), value.to_vec()))
}

/// `BPF_NOEXIST`.
const NO_EXIST: u64 = 1;
/// Never the sum of epoch and revisions, which begin at zero and count changes: the verdict does not hold.
const NO_REVISION: u32 = u32::MAX;

/// Maps to take over from.
#[derive(Debug)]
pub(super) struct Migration {
    dir: PathBuf,
    version: u32,
    convert: Convert,
    /// Whether the copy before the first replacement of a program is done.
    caught_up: bool,
}

/// Versions whose maps are pinned.
fn versions(pin_dir: &Path) -> Result<Vec<u32>> {
    let list = match fs::read_dir(pin_dir) {
        Ok(list) => list,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error(format!("list {}", pin_dir.display()), e)),
    };
    Ok(list.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
}

/// Looks whether the pinned maps are ones that this version may touch, and touches nothing.
///
/// Errors: a newer version's maps are there; the directory cannot be read.
pub fn refuse_newer(pin_dir: &Path) -> Result<()> {
    let Some(newer) = versions(pin_dir)?.into_iter().filter(|v| *v > VERSION).max() else { return Ok(()) };
    let message = format!(
        "the maps below {} are of version {newer}, this agent knows versions up to {VERSION}: start the newer agent \
         again, or drain the node and uninstall",
        pin_dir.display()
    );
    Err(io_error(message, io::Error::from(io::ErrorKind::Unsupported)))
}

/// The newest older version, if this one can read it.
///
/// Errors: a newer version's maps are there.
pub(super) fn find(pin_dir: &Path, test: Option<(u32, Convert)>) -> Result<Option<Migration>> {
    refuse_newer(pin_dir)?;
    let versions = versions(pin_dir)?;
    let Some(version) = versions.into_iter().filter(|v| *v != VERSION).max() else { return Ok(None) };
    let convert = test.into_iter().chain(KNOWN).find(|k| k.0 == version).map(|k| k.1);
    if convert.is_none() {
        tracing::warn!(version, "connections in the maps of this version are not taken over: they are judged anew");
    }
    let dir = pin_dir.join(version.to_string());
    Ok(convert.map(|convert| Migration { dir, version, convert, caught_up: false }))
}

impl Migration {
    /// Copies what is not there yet. Returns how many elements were.
    pub(super) fn copy(&self, pin_dir: &Path) -> Result<u32> {
        let mut copied = 0;
        for name in MAPS {
            let failed =
                |e| io_error(format!("take over map {name} of version {} ({})", self.version, self.dir.display()), e);
            let old = match sys::open_pin(&self.dir.join(name)) {
                Ok(old) => old,
                // The older version had no such map.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => continue,
                Err(e) => return Err(failed(e)),
            };
            let new = sys::open_pin(&maps_dir(pin_dir).join(name)).map_err(failed)?;
            copied += self.copy_map(name, old.as_fd(), new.as_fd()).map_err(failed)?;
        }
        Ok(copied)
    }

    fn copy_map(&self, name: &str, old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> io::Result<u32> {
        let (from, to) = (sys::map_info(old)?, sys::map_info(new)?);
        let (mut key, mut next) = (vec![0; from.key_size as usize], vec![0; from.key_size as usize]);
        let mut value = vec![0; from.value_size as usize];
        let (mut first, mut copied) = (true, 0);
        // A key that goes while it is the place of the walk starts the walk anew: hence the bound.
        for _ in 0..u64::from(from.max_entries) * 4 {
            if !sys::raw::next_key(old, (!first).then_some(&key[..]), &mut next)? {
                break;
            }
            first = false;
            std::mem::swap(&mut key, &mut next);
            if !sys::raw::lookup(old, &key, &mut value)? {
                continue;
            }
            let Some((k, mut v)) = (self.convert)(name, &key, &value) else { continue };
            if k.len() != to.key_size as usize || v.len() != to.value_size as usize {
                continue;
            }
            if matches!(name, "CT4" | "CT6") {
                judge_anew(&mut v);
            }
            match sys::raw::update(new, &k, &v, NO_EXIST) {
                Ok(()) => copied += 1,
                Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(copied)
    }
}

fn judge_anew(entry: &mut [u8]) {
    let at = std::mem::offset_of!(Conntrack, revision);
    if let Some(place) = entry.get_mut(at..at + size_of::<u32>()) {
        place.copy_from_slice(&NO_REVISION.to_ne_bytes());
    }
}

impl BpfDatapath {
    /// Copies what came to the old maps since the datapath was opened: `last` for the maps that are about to go, else
    /// once before a program is replaced.
    pub(super) fn catch_up(&self, last: bool) -> Result<()> {
        let mut migration = super::datapath::lock(&self.migration);
        let Some(m) = migration.as_mut() else { return Ok(()) };
        if last || !m.caught_up {
            let copied = m.copy(&self.config.pin_dir)?;
            m.caught_up = true;
            tracing::info!(copied, version = m.version, "connections of an older version are taken over");
        }
        if last {
            *migration = None;
        }
        Ok(())
    }
}

/// Writes a map as an older version might have had it.
#[doc(hidden)]
pub fn write_old_map(path: &Path, elements: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
    let length = |x: Option<&Vec<u8>>| x.and_then(|x| u32::try_from(x.len()).ok()).unwrap_or(0);
    let first = elements.first();
    let entries = u32::try_from(elements.len()).unwrap_or(u32::MAX).max(1);
    let map = sys::create_hash(length(first.map(|e| &e.0)), length(first.map(|e| &e.1)), entries)?;
    for (key, value) in elements {
        sys::raw::update(map.as_fd(), key, value, 0)?;
    }
    sys::pin(map.as_fd(), path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_maps_are_refused_and_older_ones_found() {
        let dir = std::env::temp_dir().join(format!("axk-migration-{}", std::process::id()));
        fs::create_dir_all(dir.join("links")).unwrap();
        assert!(find(&dir, None).unwrap().is_none());
        fs::create_dir_all(dir.join(VERSION.to_string())).unwrap();
        assert!(find(&dir, None).unwrap().is_none());
        fs::create_dir_all(dir.join("1")).unwrap();
        assert_eq!(find(&dir, None).unwrap().unwrap().version, 1);
        fs::create_dir_all(dir.join("4711")).unwrap();
        let message = find(&dir, None).unwrap_err().to_string();
        assert!(message.contains("version 4711") && message.contains(&format!("up to {VERSION}")), "{message}");
        fs::remove_dir_all(&dir).unwrap();
        assert!(find(&dir, None).unwrap().is_none());
    }

    #[test]
    fn a_copied_connection_has_no_verdict() {
        let entry = Conntrack { revision: 5, packets: [7, 8], ..Conntrack::default() };
        // SAFETY: integers without padding.
        #[allow(unsafe_code, reason = "looking at an ABI struct as bytes and back")]
        let back = unsafe {
            let mut bytes: [u8; 64] = std::mem::transmute(entry);
            judge_anew(&mut bytes);
            std::mem::transmute::<[u8; 64], Conntrack>(bytes)
        };
        assert_eq!(back, Conntrack { revision: NO_REVISION, ..entry });
    }
}
