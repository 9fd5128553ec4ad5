//! What a former process left: intents, kernel state.

use axoneme_cni::protocol::Attachment;
use axoneme_kernel::net::{LINK_PREFIX, OverlayKind};
use axoneme_model::rows::NodeConfigRow;

use super::{Endpoint, Engine, health};
use crate::{
    Error,
    endpoint::{DOCUMENT_PREFIX, Intent, Phase, SCHEMA},
    store::{self, StoreError},
};

/// Document with the version of the blocks that was obeyed last.
const BLOCKS: &str = "blocks";

impl Engine {
    /// Reads which version of the node's blocks was obeyed last.
    pub(super) fn load_blocks(&mut self) -> Result<(), Error> {
        match store::load(&*self.parts.store, BLOCKS) {
            Ok(version) => self.ipam.restore(version.unwrap_or(0)),
            Err(error @ StoreError::Broken { .. }) => tracing::warn!(%error, "the version of the blocks is not known"),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Takes the node's blocks as the configuration says, unless it is older than what is known.
    pub(super) fn use_blocks(&mut self, config: &NodeConfigRow) {
        let before = self.ipam.version();
        if !self.ipam.configure(config.pools.iter().map(|(n, c)| (&**n, c.as_slice())), &config.blocks) {
            let version = config.blocks.version;
            tracing::warn!(version, before, "blocks of an older CiliumNode left out: this replica's view is behind");
        } else if self.ipam.version() != before
            && let Err(error) = store::save(&*self.parts.store, BLOCKS, &self.ipam.version())
        {
            tracing::warn!(%error, "the version of the blocks is not on disk");
        }
    }

    /// Reads all intents. One that cannot be read is set aside and told; its pod keeps what it has in the kernel.
    pub(super) fn load_intents(&mut self) -> Result<(), Error> {
        let names = self.parts.store.names(DOCUMENT_PREFIX)?;
        let links = self.parts.network.links()?;
        for name in names {
            let intent: Intent = match store::load(&*self.parts.store, &name) {
                Ok(Some(intent)) => intent,
                Ok(None) => continue,
                Err(error @ StoreError::Broken { .. }) => {
                    tracing::error!(%error, "an endpoint's intent is lost: its pod keeps its addresses until it is deleted");
                    self.event(true, "IntentLost", error.to_string());
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if intent.schema != SCHEMA {
                return Err(Error::Node(format!(
                    "intent {name} has schema {}, this agent knows {SCHEMA}: run the newer agent, or drain the node first",
                    intent.schema
                )));
            }
            // its namespace went with the process: it is made anew
            if health::is_ours(&intent.attachment) {
                self.parts.store.remove(&name)?;
                continue;
            }
            for address in &intent.addresses {
                if let Err(error) = self.ipam.claim(*address) {
                    tracing::error!(%error, pod = %intent.name, "two intents hold one address");
                }
                self.local.insert(*address, intent.attachment.clone());
            }
            let ifindex = links.iter().find(|l| l.name == intent.host_name).map(|l| l.ifindex);
            let endpoint =
                Endpoint { intent, ifindex, reported: None, fault: None, doomed: false, lost_since: None, unfit: None };
            let attachment = endpoint.intent.attachment.clone();
            self.dirty.insert(attachment.clone());
            self.endpoints.insert(attachment, endpoint);
        }
        Ok(())
    }

    /// Compares with what the datapath holds, then undoes and finishes what was left half done.
    pub(super) fn adopt_datapath(&mut self) -> Result<(), Error> {
        let Some(datapath) = self.datapath.clone() else { return Ok(()) };
        self.drop_former_health()?;
        self.tables.adopt(datapath.tables()?, &*self.parts.store)?;
        if self.former.in_use() {
            self.wish_former(&*datapath)?;
        } else {
            self.rows.rows().tables.keys().for_each(|id| self.tables.want(*id));
        }
        self.ips.adopt(datapath.ips()?);
        self.entries.adopt(datapath.endpoints()?);
        self.limits.adopt(datapath.limits()?);
        self.services.adopt(datapath.services()?.into_iter().map(|s| ((s.address, s.protocol, s.port), s)));
        let unfinished: Vec<Attachment> =
            self.endpoints.iter().filter(|(_, e)| e.intent.phase != Phase::Live).map(|(a, _)| a.clone()).collect();
        for attachment in unfinished {
            tracing::info!(%attachment, "finishing what a former process left half done");
            self.teardown(&attachment);
            self.remove_links_now();
        }
        self.dirty.extend(self.endpoints.keys().cloned());
        Ok(())
    }

    /// Routes to nodes that are there; those to pods belong to their links.
    pub(super) fn adopt_routes(&mut self) -> Result<(), Error> {
        let links = self.parts.network.links()?;
        let pod_link = |ifindex: u32| {
            let of_pod = |name: &str| name.starts_with(LINK_PREFIX) && OverlayKind::of_link(name).is_none();
            links.iter().any(|l| l.ifindex == ifindex && of_pod(&l.name))
        };
        let present = self.parts.network.routes()?.into_iter().filter(|r| !pod_link(r.ifindex));
        self.routes.adopt(present.map(|r| (r.destination, r)));
        Ok(())
    }

    /// Reads the kernel's state anew and mends what somebody else has changed. Returns how many rows differed.
    pub fn repair(&mut self) -> Result<usize, Error> {
        let Some(datapath) = self.datapath.clone() else { return Ok(0) };
        let differences = self.drift()?.len();
        self.ips.adopt(datapath.ips()?);
        self.entries.adopt(datapath.endpoints()?);
        self.limits.adopt(datapath.limits()?);
        self.services.adopt(datapath.services()?.into_iter().map(|s| ((s.address, s.protocol, s.port), s)));
        if self.initialized() {
            self.tables.readopt(&self.rows.rows().tables, datapath.tables()?);
        }
        self.adopt_routes()?;
        self.guard.adopt(&*datapath)?;
        self.base.dirty = true;
        self.looks.forget();
        self.settle();
        Ok(differences)
    }
}
