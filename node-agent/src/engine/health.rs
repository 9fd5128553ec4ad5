//! The node's health endpoint, and where those of other nodes are.
//!
//! It is an endpoint like a pod's: link, programs, entries, a table; only its namespace is the agent's own, its address
//! is one that no pod gets, and its table lets everything pass. It ends with the process, and the next one makes it anew.
//! A node row tells where another node's is, so that no row of its own is needed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use axoneme_cni::protocol::Attachment;
use axoneme_kernel::{datapath::IpEntry, net::HEALTH_LINK};
use axoneme_model::{
    Identity,
    rows::{HealthRow, NodeConfigRow, NodeRow, Routing},
};
use axoneme_wire::Proof;
use ipnetwork::IpNetwork;

use super::{Endpoint, Engine};
use crate::{
    Error,
    endpoint::{self, Intent, Phase, SCHEMA},
    health::{Peers, Plan},
    plan::Ways,
    store,
    tables::OPEN,
};

/// Between two attempts to make the endpoint.
const RETRY: Duration = Duration::from_secs(5);

/// No runtime has such a container: its name is longer than what any calls one, and the interface is ours to name.
static OURS: LazyLock<Attachment> =
    LazyLock::new(|| Attachment { container_id: "axoneme-health-endpoint".into(), ifname: "eth0".into() });

/// Whether this is the health endpoint.
pub(super) fn is_ours(attachment: &Attachment) -> bool {
    *attachment == *OURS
}

#[derive(Debug, Default)]
pub(super) struct Health {
    /// Namespace of the endpoint, while there is one.
    netns: Option<Arc<OwnedFd>>,
    /// Why there is none that should be, and when that is tried again; none: with whatever happens next.
    failed: Option<(String, Option<Instant>)>,
    /// Endpoints of other nodes, and whose they are.
    others: BTreeMap<IpNetwork, (Arc<str>, IpEntry)>,
    of_node: BTreeMap<Arc<str>, Vec<IpNetwork>>,
    /// The plan is to be made anew.
    dirty: bool,
    proof: Proof,
}

impl Health {
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.failed.as_ref()?.1
    }

    pub(super) fn address(&self, prefix: IpNetwork) -> Option<IpEntry> {
        self.others.get(&prefix).map(|(_, entry)| *entry)
    }

    /// What the plan depends on is another.
    pub(super) const fn changed(&mut self) {
        self.dirty = true;
    }

    /// What the operator is to be told. Where probes are wanted and none was made yet, that is pending.
    pub(super) fn proof(&self, config: Option<&NodeConfigRow>) -> Proof {
        if config.is_none_or(|c| c.health.is_none()) {
            return Proof::Unasked;
        }
        match (&self.failed, &self.proof) {
            (Some((why, _)), _) => Proof::Refuted(why.clone()),
            (None, Proof::Unasked) => Proof::Pending,
            (None, proof) => proof.clone(),
        }
    }
}

/// The health endpoints of another node as the datapath is to know them.
fn entries(node: &NodeRow, routing: &Routing, ways: Ways<'_>) -> impl Iterator<Item = (IpNetwork, IpEntry)> {
    let tunnel = node.underlay().filter(|_| routing.tunnel().is_some());
    // classes of reserved identities have their numbers
    let (identity, peer) = (Identity::HEALTH.0, Identity::HEALTH.0);
    node.health_addresses().map(move |a| {
        let direct = tunnel.is_some() && ways.hop(&node.name, a.is_ipv4()).is_some();
        (IpNetwork::from(a), IpEntry { identity, peer, tunnel, is_node: false, direct })
    })
}

impl Engine {
    fn health_row(&self) -> Option<HealthRow> {
        self.rows.rows().config.as_ref()?.health
    }

    /// Knows the health endpoints of a node, or forgets them.
    pub(super) fn wish_health(&mut self, name: &Arc<str>) {
        self.health.dirty = true;
        let rows = self.rows.rows();
        let config = rows.config.as_ref().filter(|c| c.health.is_some_and(|h| h.endpoints));
        let node = rows.nodes.get(name).filter(|_| **name != *self.parts.node);
        let ways = Ways::of(rows, &self.parts.node);
        let now: Vec<(IpNetwork, IpEntry)> =
            config.zip(node).map(|(c, n)| entries(n, &c.routing, ways).collect()).unwrap_or_default();
        let mut touched = self.health.of_node.remove(name).unwrap_or_default();
        for prefix in &touched {
            // a block may have passed to another node in the same batch
            if self.health.others.get(prefix).is_some_and(|(owner, _)| owner == name) {
                self.health.others.remove(prefix);
            }
        }
        if !now.is_empty() {
            self.health.of_node.insert(name.clone(), now.iter().map(|(p, _)| *p).collect());
        }
        touched.extend(now.iter().map(|(p, _)| *p));
        self.health.others.extend(now.into_iter().map(|(prefix, entry)| (prefix, (name.clone(), entry))));
        for prefix in touched {
            self.wish_ip(prefix);
        }
    }

    /// The kernel takes the link of a process that has ended along with its namespace, a while later: before it does, its
    /// programs would be taken for those of a link that lives.
    pub(super) fn drop_former_health(&self) -> Result<(), Error> {
        if self.parts.network.links()?.iter().any(|l| l.name == HEALTH_LINK) {
            self.parts.network.remove_link(HEALTH_LINK)?;
        }
        Ok(())
    }

    /// The addresses that the endpoint should have: none where there should be no endpoint.
    fn health_addresses(&self) -> BTreeSet<IpAddr> {
        let config = self.rows.rows().config.as_ref().filter(|c| c.health.is_some_and(|h| h.endpoints));
        let (Some(config), Some(node)) = (config, self.own_node()) else { return BTreeSet::new() };
        let wanted = |a: &IpAddr| if a.is_ipv4() { config.ipv4 } else { config.ipv6 };
        // where something else assigns addresses, one of them may be a pod's
        let free = |a: &IpAddr| self.local.get(a).is_none_or(is_ours);
        node.health_addresses().filter(wanted).filter(free).collect()
    }

    /// Wants the table of the endpoint before there is one.
    pub(super) fn want_health(&mut self) {
        let wanted = !self.health_addresses().is_empty() || self.endpoints.contains_key(&OURS);
        self.tables.want_open(wanted);
    }

    /// Makes the endpoint, makes it anew where its addresses are others, or removes it.
    pub(super) fn settle_health(&mut self) {
        let now = self.parts.clock.now();
        if self.health.retry_at().is_some_and(|at| at > now) {
            return;
        }
        let wanted = self.health_addresses();
        match &mut self.health.failed {
            Some((_, at)) if !wanted.is_empty() => *at = None,
            failed => *failed = None,
        }
        if let Some(endpoint) = self.endpoints.get(&OURS) {
            let live = endpoint.intent.phase == Phase::Live && endpoint.intent.addresses == wanted;
            if !live && !endpoint.doomed {
                self.health.netns = None;
                self.health.dirty = true;
                self.teardown(&OURS);
            }
            // another one is made when this one is gone
            return;
        }
        let in_force = self.tables.slot_in_force(OPEN).is_some();
        if wanted.is_empty() || !in_force || !self.base.attached || self.base.plan.is_none() {
            return;
        }
        if let Err(error) = self.make_health(wanted) {
            tracing::warn!(%error, "the health endpoint is not made; it is tried again");
            self.health.netns = None;
            self.health.failed = Some((format!("the health endpoint is not made: {error}"), Some(now + RETRY)));
            self.teardown(&OURS);
            self.remove_links_now();
        }
    }

    fn make_health(&mut self, addresses: BTreeSet<IpAddr>) -> Result<(), Error> {
        let netns = self.parts.network.new_namespace()?;
        let intent = Intent {
            schema: SCHEMA,
            phase: Phase::Creating,
            attachment: OURS.clone(),
            uid: OURS.container_id.as_str().into(),
            namespace: "".into(),
            name: "health".into(),
            addresses,
            host_name: HEALTH_LINK.to_owned(),
            pod_mac: endpoint::pod_mac(&OURS),
            mtu: self.base.plan.as_ref().map_or(1500, |b| b.mtu),
            netkit: self.base.makes_netkit(),
            identity: Identity::HEALTH.0,
            peer: Identity::HEALTH.0,
            table: OPEN.0,
            bandwidth: axoneme_model::Bandwidth::default(),
            // as long as the descriptor is open, and it is as long as there is the endpoint
            netns: format!("/proc/self/fd/{}", netns.as_raw_fd()),
        };
        store::save(&*self.parts.store, &intent.document(), &intent)?;
        for address in &intent.addresses {
            self.local.insert(*address, OURS.clone());
        }
        let endpoint = Endpoint {
            intent,
            ifindex: None,
            reported: None,
            fault: None,
            doomed: false,
            lost_since: None,
            unfit: None,
        };
        self.endpoints.insert(OURS.clone(), endpoint);
        self.build(&OURS, &netns)?;
        self.health.netns = Some(Arc::new(netns));
        self.health.failed = None;
        self.health.dirty = true;
        Ok(())
    }

    /// The plan for probes, if it is another than the one that was taken last.
    pub fn take_health_plan(&mut self) -> Option<Arc<Plan>> {
        let base = self.base.plan.as_ref()?;
        if !std::mem::take(&mut self.health.dirty) {
            return None;
        }
        let rows = self.rows.rows();
        let config = rows.config.as_ref()?;
        let peers =
            self.health_row().map(|health| Peers::new(&self.parts.node, health, config, &rows.nodes, &base.addresses));
        let plan = Plan {
            peers,
            cluster: config.cluster_name.clone(),
            addresses: base.addresses.clone(),
            endpoint: self.health.netns.clone(),
        };
        Some(Arc::new(plan))
    }

    /// Probes say whether packets get through.
    pub fn proven(&mut self, proof: Proof) {
        match (&self.health.proof, &proof) {
            (_, Proof::Refuted(why)) => {
                tracing::error!(why, "packets do not get through");
                self.event(true, "DatapathNotProven", why.clone());
            }
            (Proof::Refuted(_), Proof::Proven) => {
                self.event(false, "DatapathProven", "probes of other nodes and pods get through again".to_owned());
            }
            _ => {}
        }
        self.health.proof = proof;
        self.tick();
    }
}
