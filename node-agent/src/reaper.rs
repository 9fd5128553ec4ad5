//! What is left of pods whose entries are gone: connections, links, pins of programs.
//!
//! All of it waits for the kernel, and a removal holds the lock of all network configuration meanwhile; hence it is done
//! off the engine's thread, after DEL was answered, for all pods that are waiting at once. The pod is fenced by then:
//! programs stay on its link until the link is gone, and drop what comes from an address without an entry.

use std::{net::IpAddr, sync::Arc};

use axoneme_kernel::{datapath::Datapath, grace::GracePeriods, net::Network};
use tokio::sync::mpsc;

use crate::{engine::Doomed, run::Mail};

/// Pods that may wait for removal.
pub const QUEUE: usize = 4096;

/// One removal: what, and the datapath that may hold something of it.
#[derive(Debug)]
pub struct Removal {
    pub doomed: Doomed,
    pub datapath: Option<Arc<dyn Datapath>>,
}

/// Removes until the engine is gone.
pub(crate) fn reap(
    mut removals: mpsc::Receiver<Removal>,
    mail: &mpsc::WeakSender<Mail>,
    network: &dyn Network,
    grace: Option<&GracePeriods>,
) {
    while let Some(first) = removals.blocking_recv() {
        let datapath = first.datapath;
        let mut batch = vec![first.doomed];
        while let Ok(next) = removals.try_recv() {
            batch.push(next.doomed);
        }
        let result = remove(&batch, network, datapath.as_deref(), grace);
        let Some(mail) = mail.upgrade() else { return };
        for doomed in batch {
            if mail.blocking_send(Mail::LinkRemoved(doomed, result.clone())).is_err() {
                return;
            }
        }
    }
}

/// Removes what is left. Repeatable; the error is that of the first step that failed, in words.
pub fn remove(
    batch: &[Doomed],
    network: &dyn Network,
    datapath: Option<&dyn Datapath>,
    grace: Option<&GracePeriods>,
) -> Result<(), String> {
    if let Some(datapath) = datapath {
        let addresses: Vec<IpAddr> = batch.iter().flat_map(|d| &d.addresses).copied().collect();
        datapath.forget_connections_of(&addresses).map_err(|e| e.to_string())?;
    }
    let names: Vec<String> = batch.iter().map(|d| d.host_name.clone()).collect();
    {
        let _short = grace.map(GracePeriods::shorten);
        network.remove_links(&names).map_err(|e| e.to_string())?;
    }
    let Some(datapath) = datapath else { return Ok(()) };
    // the programs went with the interface: what is left are pins of dead links, which cost nothing to remove
    batch.iter().filter_map(|d| d.ifindex).try_for_each(|i| datapath.detach(i)).map_err(|e| e.to_string())
}
