//! The datapath and the routing table as targets of reconcilers. Addresses are staged: a commit puts them in force.

use std::net::IpAddr;

use axoneme_kernel::{
    datapath::{Datapath, EndpointEntry, IpEntry, Limit, ServiceEntry},
    net::{Network, Route},
};
use axoneme_table::{Failure, Target};
use ipnetwork::IpNetwork;

use crate::{error::row_failure, plan::FrontendKey};

/// Addresses and whose they are.
pub(super) struct Ips<'a>(pub(super) &'a dyn Datapath);

impl Target<IpNetwork, IpEntry> for Ips<'_> {
    fn upsert(&mut self, key: &IpNetwork, _: Option<&IpEntry>, new: &IpEntry) -> Result<(), Failure> {
        self.0.stage_ip(*key, Some(*new)).map_err(|e| row_failure(&e))
    }

    fn remove(&mut self, key: &IpNetwork, _: &IpEntry) -> Result<(), Failure> {
        self.0.stage_ip(*key, None).map_err(|e| row_failure(&e))
    }
}

/// Addresses of this node's pods.
pub(super) struct Entries<'a>(pub(super) &'a dyn Datapath);

impl Target<IpAddr, EndpointEntry> for Entries<'_> {
    fn upsert(&mut self, key: &IpAddr, _: Option<&EndpointEntry>, new: &EndpointEntry) -> Result<(), Failure> {
        self.0.stage_endpoint(*key, Some(*new)).map_err(|e| row_failure(&e))
    }

    fn remove(&mut self, key: &IpAddr, _: &EndpointEntry) -> Result<(), Failure> {
        self.0.stage_endpoint(*key, None).map_err(|e| row_failure(&e))
    }
}

/// Limits of pods' traffic.
pub(super) struct Limits<'a>(pub(super) &'a dyn Datapath);

impl Target<u32, Limit> for Limits<'_> {
    fn upsert(&mut self, key: &u32, _: Option<&Limit>, new: &Limit) -> Result<(), Failure> {
        self.0.set_limit(*key, Some(new)).map_err(|e| row_failure(&e))
    }

    fn remove(&mut self, key: &u32, _: &Limit) -> Result<(), Failure> {
        self.0.set_limit(*key, None).map_err(|e| row_failure(&e))
    }
}

/// Frontends.
pub(super) struct Services<'a>(pub(super) &'a dyn Datapath);

impl Target<FrontendKey, ServiceEntry> for Services<'_> {
    fn upsert(&mut self, _: &FrontendKey, _: Option<&ServiceEntry>, new: &ServiceEntry) -> Result<(), Failure> {
        self.0.upsert_service(new).map_err(|e| row_failure(&e))
    }

    fn remove(&mut self, (address, protocol, port): &FrontendKey, _: &ServiceEntry) -> Result<(), Failure> {
        self.0.remove_service(*address, *protocol, *port).map_err(|e| row_failure(&e))
    }
}

/// Routes to other nodes' pods.
pub(super) struct Routes<'a>(pub(super) &'a dyn Network);

impl Target<IpNetwork, Route> for Routes<'_> {
    fn upsert(&mut self, _: &IpNetwork, old: Option<&Route>, new: &Route) -> Result<(), Failure> {
        let failed = |e: axoneme_kernel::net::NetworkError| Failure { message: e.to_string(), retry: true };
        self.0.upsert_route(new).map_err(failed)?;
        // another device is another route to the kernel: the old one goes after the new one is there
        if let Some(old) = old.filter(|o| o.ifindex != new.ifindex) {
            self.0.remove_route(old).map_err(failed)?;
        }
        Ok(())
    }

    fn remove(&mut self, _: &IpNetwork, old: &Route) -> Result<(), Failure> {
        self.0.remove_route(old).map_err(|e| Failure { message: e.to_string(), retry: true })
    }
}
