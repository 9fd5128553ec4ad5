//! The host firewall: what guards the node itself.

use std::{collections::BTreeSet, io, net::IpAddr};

use axoneme_abi::{
    guard::{API_SERVERS, Guard},
    policy::SLOT_VALID,
};

use super::{datapath::BpfDatapath, policies::place, system::io_error};
use crate::datapath::{DatapathError, NodeGuard, Result};

/// The one place of the map.
const HERE: u32 = 0;

impl BpfDatapath {
    fn raw_guard(&self) -> Result<Guard> {
        Ok(self.maps.guard.get(&HERE)?.unwrap_or_default())
    }

    pub(super) fn is_guarded(&self) -> Result<bool> {
        Ok(self.raw_guard()?.slot != 0)
    }

    /// What an earlier process left stays in force, unless the host firewall was switched off.
    pub(super) fn adopt_guard(&self) -> Result<()> {
        if self.config.host_firewall || !self.is_guarded()? {
            return Ok(());
        }
        self.maps.guard.put(&HERE, &Guard::default())
    }

    pub(super) fn read_guard(&self) -> Result<Option<NodeGuard>> {
        let Guard { slot, unprotected, overlay_port, .. } = self.raw_guard()?;
        let Some(slot) = slot.checked_sub(1) else { return Ok(None) };
        let number = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let apiservers = self.apiservers()?;
        Ok(Some(NodeGuard { slot: number(slot), unprotected, overlay_port: number(overlay_port), apiservers }))
    }

    pub(super) fn change_guard(&self, guard: Option<&NodeGuard>) -> Result<()> {
        match guard {
            Some(guard) => self.put_guard(guard),
            None => self.remove_guard(),
        }
    }

    fn put_guard(&self, guard: &NodeGuard) -> Result<()> {
        if !self.config.host_firewall {
            let why = io::Error::from(io::ErrorKind::Unsupported);
            return Err(io_error("guard the node: the host firewall is switched off", why));
        }
        let slot = u32::from(place(guard.slot)?);
        let table = self.maps.slots.get(&slot)?.unwrap_or_default();
        if table.flags & SLOT_VALID == 0 {
            let why = io::Error::from(io::ErrorKind::NotFound);
            return Err(io_error(format!("guard the node: slot {} has no policy table", guard.slot), why));
        }
        if guard.apiservers.len() > API_SERVERS as usize {
            return Err(DatapathError::Full { map: "APISERVERS", capacity: API_SERVERS });
        }
        let now = self.read_guard()?;
        if now.as_ref() != Some(guard) {
            self.add_apiservers(&guard.apiservers)?;
        }
        self.attach_guard()?;
        if now.as_ref() == Some(guard) {
            return Ok(());
        }
        let overlay_port = u32::from(guard.overlay_port);
        self.maps.guard.put(&HERE, &Guard { slot, unprotected: guard.unprotected, overlay_port, reserved: 0 })?;
        self.keep_apiservers(&guard.apiservers)?;
        // What was judged by other settings is judged anew.
        self.renew_slot(slot)
    }

    fn remove_guard(&self) -> Result<()> {
        if self.is_guarded()? {
            self.maps.guard.put(&HERE, &Guard::default())?;
        }
        self.detach_guard()?;
        self.keep_apiservers(&BTreeSet::new())
    }

    fn apiservers(&self) -> Result<BTreeSet<IpAddr>> {
        let mut all: BTreeSet<IpAddr> = self.maps.apiservers4.elements()?.iter().map(|(a, _)| (*a).into()).collect();
        all.extend(self.maps.apiservers6.elements()?.iter().map(|(a, _)| IpAddr::from(*a)));
        Ok(all)
    }

    /// Those that go are removed first where there is no room for all.
    fn add_apiservers(&self, wanted: &BTreeSet<IpAddr>) -> Result<()> {
        let there = self.apiservers()?;
        if there.union(wanted).count() > API_SERVERS as usize {
            self.keep_apiservers(wanted)?;
        }
        for address in wanted.difference(&there) {
            match address {
                IpAddr::V4(a) => self.maps.apiservers4.put(&a.octets(), &1)?,
                IpAddr::V6(a) => self.maps.apiservers6.put(&a.octets(), &1)?,
            }
        }
        Ok(())
    }

    fn keep_apiservers(&self, wanted: &BTreeSet<IpAddr>) -> Result<()> {
        for address in self.apiservers()?.difference(wanted) {
            match address {
                IpAddr::V4(a) => self.maps.apiservers4.remove(&a.octets())?,
                IpAddr::V6(a) => self.maps.apiservers6.remove(&a.octets())?,
            };
        }
        Ok(())
    }
}
