//! Another MTU for pods that run: the configuration's or the underlay's has changed.
//!
//! Shrinking begins with the pods and ends with the tunnel device, growing the other way round, so that no packet is on
//! its way that the next device is too small for. What that means for one pod: [`Network::fit_pod`].
//!
//! [`Network::fit_pod`]: axoneme_kernel::net::Network::fit_pod

use std::{cmp::Ordering, path::Path, time::Duration};

use axoneme_cni::protocol::Attachment;

use super::Engine;
use crate::{endpoint::Phase, store};

/// Between looks at the underlay's devices, and tries of pods that could not be changed.
const LOOK: Duration = Duration::from_secs(10);

impl Engine {
    /// Looks whether the underlay has another MTU, and tries again what failed.
    pub(super) fn look_at_underlay(&mut self) {
        let now = self.parts.clock.now();
        let Some(base) = &self.base.plan else { return };
        let due = self.base.underlay_at.is_none_or(|at| at <= now);
        if !due {
            return;
        }
        let first = self.base.underlay_at.replace(now + LOOK).is_none();
        if first {
            return;
        }
        let mtu = base.mtu;
        match self.parts.network.links() {
            Ok(links) if base.is_outgrown(&links) => self.base.dirty = true,
            Ok(_) => {
                self.fit_pods(mtu, Ordering::Greater);
                self.fit_pods(mtu, Ordering::Less);
            }
            Err(error) => tracing::warn!(%error, "the underlay's MTU is not looked at"),
        }
    }

    /// Gives this MTU to live pods whose own is so beside it.
    pub(super) fn fit_pods(&mut self, mtu: u32, own: Ordering) {
        let live = |e: &&super::Endpoint| e.intent.phase == Phase::Live && e.ifindex.is_some();
        let unfit = self.endpoints.iter().filter(|(_, e)| live(e) && e.intent.mtu.cmp(&mtu) == own);
        for attachment in unfit.map(|(a, _)| a.clone()).collect::<Vec<_>>() {
            self.fit_pod(&attachment, mtu);
        }
    }

    fn fit_pod(&mut self, attachment: &Attachment, mtu: u32) {
        let sources = self.sources();
        let Some(endpoint) = self.endpoints.get_mut(attachment) else { return };
        let Some(ifindex) = endpoint.ifindex else { return };
        let mut link = endpoint.intent.link(&sources);
        link.mtu = mtu;
        match self.parts.network.fit_pod(Path::new(&endpoint.intent.netns), ifindex, &link) {
            Ok(()) => {
                endpoint.unfit = None;
                endpoint.intent.mtu = mtu;
                if let Err(error) = store::save(&*self.parts.store, &endpoint.intent.document(), &endpoint.intent) {
                    tracing::warn!(%error, %attachment, "its MTU is not on disk: a restart sets it once more");
                }
            }
            Err(error) => {
                let why = format!(
                    "pod {}/{} keeps MTU {} in place of {mtu}: {error}",
                    endpoint.intent.namespace, endpoint.intent.name, endpoint.intent.mtu
                );
                if endpoint.unfit.as_ref() != Some(&why) {
                    tracing::warn!("{why}");
                    endpoint.unfit = Some(why);
                }
            }
        }
    }
}
