//! A node's state directory in memory. It outlives agents, and not the machine's reboot.

use std::{collections::BTreeMap, sync::Mutex};

use axoneme_node_agent::store::{Store, StoreError};

type Result<T> = std::result::Result<T, StoreError>;

/// Documents by name.
#[derive(Debug, Default)]
pub struct Disk(Mutex<BTreeMap<String, Vec<u8>>>);

impl Disk {
    /// A reboot: the directory is on tmpfs.
    pub fn wipe(&self) {
        self.0.lock().unwrap().clear();
    }
}

impl Store for Disk {
    fn save(&self, name: &str, document: &[u8]) -> Result<()> {
        self.0.lock().unwrap().insert(name.to_owned(), document.to_owned());
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.0.lock().unwrap().remove(name);
        Ok(())
    }

    fn load(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.0.lock().unwrap().get(name).cloned())
    }

    fn names(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.0.lock().unwrap().keys().filter(|n| n.starts_with(prefix)).cloned().collect())
    }

    fn set_aside(&self, name: &str) -> Result<()> {
        self.0.lock().unwrap().remove(name);
        Ok(())
    }
}
