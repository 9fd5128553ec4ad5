//! A pinned map with the types of its keys and values.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use super::sys::{self, Cursor};
use crate::datapath::{DatapathError, Result};

/// Key of an LPM trie: leading bits that count, then the data.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lpm<K> {
    pub(crate) bits: u32,
    pub(crate) data: K,
}

// SAFETY: the ABI's data types have an alignment of at most 4 and follow a `u32`: no padding, any bytes are a value.
#[allow(unsafe_code, reason = "aya's marker trait is unsafe to implement")]
unsafe impl<K: aya::Pod> aya::Pod for Lpm<K> {}

/// A map, shared by all threads: every call is one system call, and the kernel orders them.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    name: &'static str,
    map: OwnedFd,
    capacity: u32,
    types: PhantomData<fn(K) -> V>,
}

/// Elements of one batch.
const BATCH: usize = 4096;

impl<K: aya::Pod, V: aya::Pod> Table<K, V> {
    /// Opens the map that is pinned as `name` in `dir`.
    pub(crate) fn open(dir: &Path, name: &'static str) -> Result<Self> {
        let path = dir.join(name);
        let failed = |source| DatapathError::Io { operation: format!("open pinned map {}", path.display()), source };
        let map = sys::open_pin(&path).map_err(failed)?;
        let info = sys::map_info(map.as_fd()).map_err(failed)?;
        Ok(Self { name, map, capacity: info.max_entries, types: PhantomData })
    }

    /// A map that is not pinned.
    pub(crate) fn of(name: &'static str, map: OwnedFd, capacity: u32) -> Self {
        Self { name, map, capacity, types: PhantomData }
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) const fn capacity(&self) -> u32 {
        self.capacity
    }

    fn failed(&self, what: &str, e: io::Error) -> DatapathError {
        match e.raw_os_error() {
            Some(libc::E2BIG | libc::ENOSPC) => DatapathError::Full { map: self.name, capacity: self.capacity },
            _ => DatapathError::Io { operation: format!("{what} in map {}", self.name), source: e },
        }
    }

    pub(crate) fn get(&self, key: &K) -> Result<Option<V>> {
        sys::lookup(self.map.as_fd(), key).map_err(|e| self.failed("lookup", e))
    }
    pub(crate) fn get_per_cpu(&self, key: &K, cpus: usize) -> Result<Vec<V>> {
        sys::lookup_per_cpu(self.map.as_fd(), key, cpus).map_err(|e| self.failed("lookup", e))
    }
    pub(crate) fn put(&self, key: &K, value: &V) -> Result<()> {
        sys::update(self.map.as_fd(), key, value, 0).map_err(|e| self.failed("update", e))
    }
    /// False: it was not there.
    pub(crate) fn remove(&self, key: &K) -> Result<bool> {
        sys::delete(self.map.as_fd(), key).map_err(|e| self.failed("delete", e))
    }
    pub(crate) fn put_all(&self, keys: &[K], values: &[V]) -> Result<()> {
        sys::update_batch(self.map.as_fd(), keys, values).map_err(|(_, e)| self.failed("batch update", e))
    }
    pub(crate) fn remove_all(&self, keys: &[K]) -> Result<usize> {
        sys::delete_batch(self.map.as_fd(), keys).map_err(|e| self.failed("batch delete", e))
    }

    /// Calls `each` with every element. Elements that come or go meanwhile may be seen or not.
    pub(crate) fn walk(&self, mut each: impl FnMut(&K, &V)) -> Result<()> {
        let capacity = BATCH.min(self.capacity as usize + 1);
        let (mut keys, mut values) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        let mut cursor = Cursor::new();
        loop {
            let more = match sys::lookup_batch(self.map.as_fd(), &mut cursor, &mut keys, &mut values) {
                Ok(more) => more,
                // A bucket with more elements than fit: more room, same place.
                Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && keys.capacity() < 1 << 20 => {
                    let wider = keys.capacity() * 2;
                    keys.reserve(wider);
                    values.reserve(wider);
                    continue;
                }
                Err(e) => return Err(self.failed("walk", e)),
            };
            for (k, v) in keys.iter().zip(&values) {
                each(k, v);
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Every element, one call per element: for kinds without batches (tries before 6.0).
    pub(crate) fn elements(&self) -> Result<Vec<(K, V)>> {
        let mut found = Vec::new();
        let mut key = sys::next_key::<K>(self.map.as_fd(), None).map_err(|e| self.failed("walk", e))?;
        while let Some(k) = key {
            if let Some(v) = self.get(&k)? {
                found.push((k, v));
            }
            key = sys::next_key(self.map.as_fd(), Some(&k)).map_err(|e| self.failed("walk", e))?;
        }
        Ok(found)
    }
}

impl<K, V> AsFd for Table<K, V> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.map.as_fd()
    }
}
