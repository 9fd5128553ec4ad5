//! What the maps hold of the kernel's memory.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::Path,
};

use super::{datapath::MAPS, loader::maps_dir, sys, system::io_error, table::Table};
use crate::datapath::Result;

/// Bytes by map: everything that is pinned below the directory, with the inner tables of `POLICY` as `POLICY.inner`. As
/// the kernel counts (`memlock` of `/proc/self/fdinfo`; exact since 6.4, before that hash maps without preallocation
/// count too much).
pub fn memory_by_map(pin_dir: &Path) -> Result<BTreeMap<String, u64>> {
    let dir = maps_dir(pin_dir);
    let mut all = BTreeMap::new();
    for name in MAPS {
        let path = dir.join(name);
        let map = sys::open_pin(&path).map_err(|e| io_error(format!("open pinned map {}", path.display()), e))?;
        all.insert(name.to_owned(), of(map.as_fd())?);
    }
    let mut inner = 0;
    let outer = Table::<u32, u32>::open(&dir, "POLICY")?;
    for place in 0..outer.capacity() {
        if let Some(id) = outer.get(&place)?
            && let Some(map) = sys::map_by_id(id).map_err(|e| io_error("open a policy table", e))?
        {
            inner += of(map.as_fd())?;
        }
    }
    all.insert("POLICY.inner".to_owned(), inner);
    Ok(all)
}

/// Bytes of all maps together, see [`memory_by_map`].
pub fn map_memory(pin_dir: &Path) -> Result<u64> {
    Ok(memory_by_map(pin_dir)?.values().sum())
}

fn of(map: BorrowedFd<'_>) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let text = fs::read_to_string(&path).map_err(|e| io_error(format!("read {path}"), e))?;
    Ok(text.lines().find_map(|l| l.strip_prefix("memlock:")?.trim().parse().ok()).unwrap_or(0))
}
