//! How much room the maps have.

use std::sync::atomic::Ordering;

use axoneme_abi::policy::{SLOTS, TABLE_ENTRIES};

use super::{
    datapath::{BpfDatapath, lock},
    table::Table,
};
use crate::datapath::{Fullness, Result};

fn entries<K: aya::Pod, V: aya::Pod>(map: &Table<K, V>) -> Result<Fullness> {
    let mut used = 0;
    map.walk(|_, _| used += 1)?;
    Ok(Fullness { map: map.name(), used, capacity: map.capacity() })
}

impl BpfDatapath {
    /// Maps that can become full. Not those whose oldest entries go unnoticed (affinity, translations, fragments).
    pub(super) fn count(&self) -> Result<Vec<Fullness>> {
        let m = &self.maps;
        let of = |map, used: usize, capacity| Fullness { map, used: u32::try_from(used).unwrap_or(u32::MAX), capacity };
        let [four, six] = &self.connections;
        let mut all = vec![
            of("CT4", four.load(Ordering::Relaxed) as usize, m.ct4.capacity()),
            of("CT6", six.load(Ordering::Relaxed) as usize, m.ct6.capacity()),
            entries(&m.endpoints4)?,
            entries(&m.endpoints6)?,
            entries(&m.services4)?,
            entries(&m.services6)?,
            entries(&m.backends4)?,
            entries(&m.backends6)?,
        ];
        {
            let nodes = lock(&self.nodes);
            let [four, six, known] = nodes.counts();
            all.push(of("IPCACHE4", four, m.ipcache4.capacity()));
            all.push(of("IPCACHE6", six, m.ipcache6.capacity()));
            all.push(of("NODES", known, m.nodes.capacity()));
        }
        let tables = lock(&self.tables).sizes();
        all.push(of("SLOTS", tables.len(), SLOTS - 1));
        all.push(of("POLICY", tables.into_iter().max().unwrap_or(0) as usize, TABLE_ENTRIES));
        Ok(all)
    }
}
