//! What guards the node itself.
//!
//! The guard is written last, when its table is in its slot, and taken away first; while its table is not there what was
//! in force stays. A node whose configuration names no guard has none.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use axoneme_kernel::datapath::{Datapath, DatapathError, IpEntry, NodeGuard};
use axoneme_model::{
    Identity, PeerClass,
    rows::{GuardRow, TableId},
};
use axoneme_wire::RowKey;
use ipnetwork::IpNetwork;

use super::Engine;

/// Between two attempts.
const RETRY: Duration = Duration::from_secs(1);

/// The guard as it is, and why it is not as it should be.
#[derive(Debug, Default)]
pub(super) struct Guarding {
    in_force: Option<NodeGuard>,
    failed: Option<(TableId, String, Instant)>,
    /// Addresses of the node's devices that no row tells of, while the node is guarded: what is not known as the node's is
    /// not judged.
    addresses: BTreeMap<IpNetwork, IpEntry>,
}

impl Guarding {
    /// Takes what the datapath has for what is in force.
    pub(super) fn adopt(&mut self, datapath: &dyn Datapath) -> Result<(), DatapathError> {
        self.in_force = datapath.guard()?;
        Ok(())
    }

    /// The slot that packets of the node are judged by.
    pub(super) fn slot(&self) -> Option<u16> {
        self.in_force.as_ref().map(|g| g.slot)
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.failed.as_ref().map(|(.., at)| *at)
    }

    /// Why the guard is not in force, as of its table.
    pub(super) fn refusal(&self) -> Option<(RowKey, String)> {
        self.failed.as_ref().map(|(id, message, _)| (RowKey::Table(*id), message.clone()))
    }

    /// What a prefix is if no row says.
    pub(super) fn address(&self, prefix: IpNetwork) -> Option<IpEntry> {
        self.addresses.get(&prefix).copied()
    }

    pub(super) fn drift(&self, datapath: &dyn Datapath) -> Result<Option<String>, DatapathError> {
        let present = datapath.guard()?;
        let differs = present != self.in_force;
        Ok(differs.then(|| format!("the node's guard is {present:?}, should be {:?}", self.in_force)))
    }
}

fn guard(row: &GuardRow, slot: u16) -> NodeGuard {
    NodeGuard {
        slot,
        unprotected: row.unprotected.iter().fold(0, |bits, member| bits | member.bit()),
        overlay_port: row.overlay_port,
        apiservers: row.apiserver.clone(),
    }
}

impl Engine {
    fn guard_row(&self) -> Option<&GuardRow> {
        self.rows.rows().config.as_ref()?.guard.as_ref()
    }

    /// Puts the guard in force that the rows name, or takes it away.
    pub(super) fn settle_guard(&mut self, datapath: &dyn Datapath) {
        // rows of the copy may be older than what is in force
        if self.former.leaves_alone() || self.rows.rows().config.is_none() {
            return;
        }
        let row = self.guard_row();
        let wanted = match row {
            None => None,
            // what is in force stays until the table is
            Some(row) => match self.tables.slot_in_force(row.table) {
                Some(slot) => Some(guard(row, slot)),
                None => return,
            },
        };
        let id = row.map_or(TableId(0), |r| r.table);
        let now = self.parts.clock.now();
        if wanted == self.guard.in_force || self.guard.retry_at().is_some_and(|at| at > now) {
            return;
        }
        match self.set_guard(datapath, wanted) {
            Ok(()) => {
                self.counters.kernel_writes += 1;
                if self.guard.failed.take().is_some() {
                    self.acked = None;
                }
            }
            Err(error) => {
                tracing::error!(%error, "the node is not guarded as it should be; it is tried again");
                self.guard.failed = Some((id, error.to_string(), now + RETRY));
                self.acked = None;
            }
        }
    }

    fn set_guard(&mut self, datapath: &dyn Datapath, wanted: Option<NodeGuard>) -> Result<(), DatapathError> {
        let grace = self.parts.grace.clone();
        let _short = grace.as_deref().map(axoneme_kernel::grace::GracePeriods::shorten);
        datapath.set_guard(wanted.as_ref())?;
        tracing::info!(guarded = wanted.is_some(), "the node's own traffic");
        self.guard.in_force = wanted;
        Ok(())
    }

    /// While the node is guarded, all addresses of its devices are known as its own.
    pub(super) fn own_addresses(&mut self) {
        let rows = &self.rows.rows().ips;
        // as the node's other addresses are known here
        let own = rows.values().find(|r| r.pod.is_empty() && r.node == self.parts.node);
        let peer = own.map_or(PeerClass(Identity::HOST.0), |r| r.local_peer).0;
        let entry = IpEntry { identity: Identity::HOST.0, peer, tunnel: None, is_node: true, direct: false };
        let addresses = self.base.plan.iter().flat_map(|b| &b.own).filter(|_| self.guard_row().is_some());
        let now: BTreeMap<IpNetwork, IpEntry> = addresses.map(|a| (IpNetwork::from(*a), entry)).collect();
        let before = std::mem::replace(&mut self.guard.addresses, now.clone());
        for prefix in before.keys().chain(now.keys()).copied().collect::<Vec<_>>() {
            self.wish_ip(prefix);
        }
    }
}
