//! What the agent has changed on the host that cannot be told by name: former values of settings.
//!
//! Links, routes and the nft table are found by their names and marks; only what was there before needs a record. It
//! is written before the setting is changed.

use std::collections::BTreeMap;

use axoneme_kernel::net::Network;
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    store::{self, Store},
};

const DOCUMENT: &str = "inventory";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    pub schema: u32,
    /// Key below /proc/sys → value before the first change.
    pub sysctls: BTreeMap<String, String>,
}

impl Inventory {
    pub fn load(store: &dyn Store) -> Result<Self, Error> {
        Ok(store::load(store, DOCUMENT)?.unwrap_or(Self { schema: 1, ..Self::default() }))
    }

    /// Remembers the value of a setting, unless an earlier one is known.
    pub fn remember_sysctl(&mut self, key: &str, value: &str, store: &dyn Store) -> Result<(), Error> {
        if self.sysctls.contains_key(key) {
            return Ok(());
        }
        self.sysctls.insert(key.to_owned(), value.to_owned());
        Ok(store::save(store, DOCUMENT, self)?)
    }

    /// Puts former values back and forgets them. A setting that cannot be put back is named; the others are.
    pub fn restore(&mut self, network: &dyn Network, store: &dyn Store) -> Result<Vec<String>, Error> {
        let mut problems = Vec::new();
        for (key, value) in &self.sysctls {
            // a setting of a device that is gone went with it
            if let Some(now) = network.sysctl(key)?
                && now != *value
                && let Err(e) = network.set_sysctl(key, value)
            {
                problems.push(e.to_string());
            }
        }
        if problems.is_empty() {
            self.sysctls.clear();
            store.remove(DOCUMENT)?;
        }
        Ok(problems)
    }
}
