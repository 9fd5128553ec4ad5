//! The node's own set-up: follows configuration and the node's addresses.

use std::{cmp::Ordering, sync::Arc};

use axoneme_flow::flow::TunnelProtocol;
use axoneme_kernel::{datapath::Hook, grace::GracePeriods, net::OverlayKind};
use axoneme_model::rows::PodDevice;
use axoneme_wire::NodeEvent;

use super::Engine;
use crate::{
    Error,
    base::{self, Base, Observed, Tunnels},
    plan,
};

impl Engine {
    /// Makes the base so if something it depends on has changed or a retry is due.
    pub(super) fn settle_base(&mut self) {
        let now = self.parts.clock.now();
        let due = self.base.retry_at.is_some_and(|at| at <= now);
        if !(self.base.dirty || due) || self.rows.rows().config.is_none() {
            return;
        }
        self.base.dirty = false;
        match self.make_base() {
            Ok(()) => {
                self.base.error = None;
                let lacking = self.base.tunnels.lack.is_some();
                self.base.attempts = if lacking { self.base.attempts + 1 } else { 0 };
                self.base.retry_at = lacking.then(|| now + axoneme_table::Backoff::default().after(self.base.attempts));
            }
            Err(error) => {
                let message = error.to_string();
                if self.base.error.as_deref() != Some(&message) {
                    tracing::error!(error = message, "the node is not set up");
                    self.event(true, "NodeNotSetUp", message.clone());
                }
                self.base.error = Some(message);
                self.base.attempts += 1;
                self.base.retry_at = Some(now + axoneme_table::Backoff::default().after(self.base.attempts));
            }
        }
    }

    fn make_base(&mut self) -> Result<(), Error> {
        let Some(config) = self.rows.rows().config.clone() else { return Ok(()) };
        let network = self.parts.network.clone();
        let plan = base::plan(&config, self.own_node(), &Observed::read(&*network)?)?;
        let changed = self.base.plan.as_ref() != Some(&plan);
        let mtu = plan.mtu;
        self.fit_pods(mtu, Ordering::Greater);
        if changed || self.base.attempts > 0 {
            let tunnels = plan.apply(&*network, &mut self.inventory, &*self.parts.store)?;
            self.use_tunnels(&plan, tunnels);
        }
        // asked again only with other settings: a kernel that lacks it looks for a module each time
        if plan.pod_device == PodDevice::Netkit && (changed || self.base.netkit.is_none()) {
            self.base.netkit = Some(network.has_netkit()?);
        }
        self.base.attached &= !changed;
        let wanted = plan.datapath_config(&config, self.base.tunnels.overlay, &self.parts.paths);
        self.base.plan = Some(plan);
        self.own_addresses();
        self.health.changed();
        self.fit_pods(mtu, Ordering::Less);
        self.adopt_routes()?;
        for name in self.rows.rows().nodes.keys().cloned().collect::<Vec<_>>() {
            self.wish_routes(&name);
        }
        if self.base.datapath.as_ref() != Some(&wanted) {
            let first = self.datapath.is_none();
            let grace = self.parts.grace.clone();
            let short = grace.as_deref().map(GracePeriods::shorten);
            let datapath = self.factory.open(&wanted)?;
            drop(short);
            self.guard.adopt(&*datapath)?;
            self.datapath = Some(datapath);
            if first {
                self.adopt_datapath()?;
            }
            self.base.attached = false;
            self.base.datapath = Some(wanted);
        }
        // what a former process set may be newer than the rows at hand
        if self.former.leaves_alone() { Ok(()) } else { self.masquerade(&config) }
    }

    /// Knows the tunnel devices; tells of one that cannot be made, and flows of those that are there.
    fn use_tunnels(&mut self, plan: &Base, tunnels: Tunnels) {
        if let Some(lack) = tunnels.lack.as_ref().filter(|lack| self.base.tunnels.lack.as_ref() != Some(*lack)) {
            tracing::error!(lack, "the tunnel that nodes are to change to is not there");
            self.event(true, "TunnelNotMade", lack.clone());
        }
        if let Some(flows) = &self.parts.flows {
            let devices = [(plan.overlay, Some(tunnels.overlay)), (plan.also, tunnels.also)];
            flows.names(|names| {
                for (overlay, ifindex) in devices {
                    let Some((overlay, ifindex)) = overlay.zip(ifindex) else { continue };
                    names.upsert_interface(ifindex, overlay.kind.link());
                    names.upsert_tunnel(
                        ifindex,
                        match overlay.kind {
                            OverlayKind::Vxlan => TunnelProtocol::Vxlan,
                            OverlayKind::Geneve => TunnelProtocol::Geneve,
                        },
                    );
                }
            });
        }
        // also where the plan is as it was: a device that could not be made before has no programs yet
        self.base.attached &= self.base.tunnels == tunnels;
        self.base.tunnels = tunnels;
    }

    /// Whether the node runs with the newest settings: nothing failed, and nothing of them is still to be done.
    pub(super) fn is_set_up(&self) -> bool {
        self.base.error.is_none() && self.base.tunnels.lack.is_none() && !self.base.dirty && self.base.attached
    }

    /// Puts programs on every device once what they judge by is complete: a new version of the programs may have maps of
    /// its own, and until these are full the former programs go on with the former maps.
    pub(super) fn settle_programs(&mut self) {
        let full = self.initialized() || self.former_fills_maps();
        if self.base.attached || !full || self.datapath.is_none() {
            return;
        }
        match self.attach_all().and_then(|()| Ok(self.factory.attached()?)) {
            Ok(()) => self.base.attached = true,
            Err(error) => {
                tracing::error!(%error, "programs are not attached");
                self.base.error = Some(error.to_string());
                self.base.attempts += 1;
                let wait = axoneme_table::Backoff::default().after(self.base.attempts);
                self.base.retry_at = Some(self.parts.clock.now() + wait);
            }
        }
    }

    /// Puts programs on every device that should have them, and takes them off devices that should not.
    fn attach_all(&mut self) -> Result<(), Error> {
        let (Some(datapath), Some(base)) = (self.datapath.clone(), self.base.plan.clone()) else { return Ok(()) };
        for hook in self.wanted_hooks(&base) {
            self.attach_programs(&*datapath, hook.0, hook.1)?;
        }
        if self.former.leaves_alone() { Ok(()) } else { self.detach_strays(&base, &*datapath) }
    }

    fn wanted_hooks(&self, base: &Base) -> Vec<(Hook, u32)> {
        let mut wanted: Vec<(Hook, u32)> = base.devices.iter().map(|(_, i)| (Hook::Uplink, *i)).collect();
        if base.overlay.is_some() {
            wanted.push((Hook::Overlay, self.base.tunnels.overlay));
        }
        wanted.extend(self.base.tunnels.also.map(|also| (Hook::Overlay, also)));
        wanted.extend(self.endpoints.values().filter_map(|e| Some((Hook::Endpoint, e.ifindex?))));
        wanted
    }

    fn detach_strays(&self, base: &Base, datapath: &dyn axoneme_kernel::datapath::Datapath) -> Result<(), Error> {
        let wanted = self.wanted_hooks(base);
        let links = self.parts.network.links()?;
        for (hook, ifindex) in datapath.attached()? {
            // a pod's link without an intent keeps its programs while it lives: without them it would be open
            let alive = hook == Hook::Endpoint && links.iter().any(|l| l.ifindex == ifindex);
            if !wanted.contains(&(hook, ifindex)) && !alive {
                datapath.detach(ifindex)?;
            }
        }
        Ok(())
    }

    fn masquerade(&mut self, config: &axoneme_model::rows::NodeConfigRow) -> Result<(), Error> {
        let Some(base) = &self.base.plan else { return Ok(()) };
        let nodes: Vec<_> = self.rows.rows().nodes.values().collect();
        let devices: Vec<String> = base.devices.iter().map(|(n, _)| n.clone()).collect();
        let ways = plan::Ways::of(self.rows.rows(), &self.parts.node);
        let wanted = plan::masquerade(config, &nodes, &devices, &ways);
        self.parts.network.set_masquerade(wanted.as_ref())?;
        self.base.masquerade = wanted;
        Ok(())
    }

    /// Something for a person; the operator makes an Event of it.
    pub(super) fn event(&mut self, warning: bool, reason: &str, message: String) {
        self.tell(NodeEvent { warning, reason: reason.to_owned(), message, object: None });
    }

    /// The same, of any object.
    pub fn tell(&mut self, event: NodeEvent) {
        self.outgoing.push(super::Outgoing::Event(event));
    }

    /// The packet path, once it is there.
    pub fn datapath(&self) -> Option<Arc<dyn axoneme_kernel::datapath::Datapath>> {
        self.datapath.clone()
    }
}
