//! Pods that went without a DEL: their runtime died, or its record of the sandbox was lost. The namespace took the link
//! with it; entries, address and intent are collected here.

use std::time::Duration;

use axoneme_cni::protocol::Attachment;

use super::Engine;
use crate::endpoint::Phase;

/// Between looks at the node's links.
const LOOK: Duration = Duration::from_secs(30);
/// A link that was missing for so long does not come back, and its runtime has had the time for a DEL.
const PATIENCE: Duration = Duration::from_mins(1);

impl Engine {
    /// Looks for live endpoints without a link, and removes those that have been so for a while.
    pub(super) fn collect_lost(&mut self) {
        let now = self.parts.clock.now();
        if self.endpoints.is_empty() {
            self.look_at = None;
            return;
        }
        match self.look_at {
            Some(at) if at <= now => {}
            Some(_) => return,
            None => {
                self.look_at = Some(now + LOOK);
                return;
            }
        }
        self.look_at = Some(now + LOOK);
        let links = match self.parts.network.links() {
            Ok(links) => links,
            Err(error) => return tracing::warn!(%error, "pods that are gone are not looked for"),
        };
        let mut lost: Vec<Attachment> = Vec::new();
        for (attachment, endpoint) in self.endpoints.iter_mut().filter(|(_, e)| e.intent.phase == Phase::Live) {
            if links.iter().any(|l| l.name == endpoint.intent.host_name) {
                endpoint.lost_since = None;
            } else if *endpoint.lost_since.get_or_insert(now) + PATIENCE <= now {
                lost.push(attachment.clone());
            }
        }
        self.inspect_table();
        for attachment in lost {
            tracing::info!(%attachment, "collecting a pod whose network namespace is gone without a DEL");
            self.teardown(&attachment);
        }
    }

    /// Looks whether somebody else has changed what packets are judged by: one table a turn.
    fn inspect_table(&mut self) {
        // rows of a former process may be older than the kernel's
        let Some(datapath) = self.datapath.clone().filter(|_| self.initialized()) else { return };
        match self.tables.inspect(&self.rows.rows().tables, &*datapath) {
            Ok(None) => {}
            Ok(Some(difference)) => {
                tracing::error!(difference, "somebody else has changed a policy table; it is mended");
                self.event(true, "PolicyTableChanged", format!("somebody else has changed it, mended: {difference}"));
            }
            Err(error) => tracing::warn!(%error, "a policy table is not looked at"),
        }
    }
}
