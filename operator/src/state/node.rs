//! A node: its Node object, its CiliumNode and what its agent reports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use axoneme_crds::axoneme_config::IpamMode;
use axoneme_intake::{CiliumNode, PoolShare, Release};
use axoneme_model::{Cidr, cidr::host, rows::BlockUse, world::Node};
use axoneme_wire::NodeReport;
use serde_json::Value;

use super::{
    Cluster, Name, WorldChange,
    said::{SaidCiliumNode, SaidNode},
};
use crate::ipam::{Blocks, NodeState};

/// All that is known of one node.
#[derive(Clone, Debug, Default)]
pub struct NodeEntry {
    pub node: Option<Node>,
    /// What plans compare of the Node object.
    pub node_said: SaidNode,
    pub cilium: Option<CiliumNode>,
    /// The CiliumNode that somebody deleted though the Node is there.
    pub lost: Option<CiliumNode>,
    /// What plans compare of the CiliumNode.
    pub cilium_said: SaidCiliumNode,
    /// Version of the CiliumNode; 0: there is none, or it is of a source without versions.
    version: u64,
    pub report: Option<NodeReport>,
    /// What the model was told last.
    emitted: Option<Node>,
}

impl NodeEntry {
    /// Addresses that the node holds on its pod-facing interfaces: as reported, else as they were written down.
    #[must_use]
    pub fn internal_addresses(&self) -> Vec<IpAddr> {
        let reported = self.report.as_ref().map(|r| &r.addresses).filter(|a| !a.is_empty());
        let written = self.written().map(|c| &c.internal_addresses).filter(|a| !a.is_empty());
        let annotated = self.node.as_ref().map(|n| &n.internal_addresses);
        reported.or(written).or(annotated).cloned().unwrap_or_default()
    }

    /// The CiliumNode as it is, or as it was before somebody deleted it.
    fn written(&self) -> Option<&CiliumNode> {
        self.cilium.as_ref().or(self.lost.as_ref())
    }

    /// Version of the CiliumNode; 0: there is none, or it is of a source without versions.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Takes the CiliumNode as it was said; null: it is gone.
    pub(super) fn set_cilium(&mut self, raw: &Value) {
        let version = raw.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        self.version = version.and_then(|v| v.parse().ok()).unwrap_or(0);
        self.cilium_said = SaidCiliumNode::of(raw);
    }

    /// Pod prefixes by pool. `in_use`: what its pods have, which in mode CRD may be more than what it was given.
    #[must_use]
    pub fn pools(&self, mode: IpamMode, in_use: &BTreeSet<IpAddr>) -> BTreeMap<Arc<str>, Vec<Cidr>> {
        let one =
            |cidrs: Vec<Cidr>| if cidrs.is_empty() { BTreeMap::new() } else { [("default".into(), cidrs)].into() };
        let Some(cilium) = self.written() else {
            // known before the leader has written it down
            let of_node = self.node.as_ref().filter(|_| mode == IpamMode::Kubernetes);
            return one(of_node.map(|n| n.pod_cidrs.clone()).unwrap_or_default());
        };
        match mode {
            IpamMode::ClusterPool => one(cilium.pod_cidrs.clone()),
            IpamMode::Kubernetes => one(self.node.as_ref().map(|n| n.pod_cidrs.clone()).unwrap_or_default()),
            IpamMode::CRD => one(cilium.addresses_for_pods.union(in_use).copied().map(host).collect()),
            IpamMode::MultiPool => {
                let held = cilium.pools.iter().filter(|(_, s)| !s.blocks.is_empty());
                held.map(|(n, s)| (n.clone(), s.blocks.clone())).collect()
            }
        }
    }

    /// How the blocks of [`Self::pools`] are used.
    #[must_use]
    pub fn block_use(&self, mode: IpamMode, in_use: &BTreeSet<IpAddr>) -> BlockUse {
        let Some(cilium) = self.written() else { return BlockUse::default() };
        match mode {
            IpamMode::ClusterPool | IpamMode::Kubernetes => BlockUse::default(),
            IpamMode::MultiPool => {
                let edges = |s: &PoolShare| crate::ipam::edges(s.allow_first_address, s.allow_last_address);
                BlockUse {
                    version: self.version(),
                    releasing: cilium.releasing.clone(),
                    edges: cilium.pools.iter().map(|(n, s)| (n.clone(), edges(s))).collect(),
                    unmasqueraded: BTreeSet::new(),
                }
            }
            IpamMode::CRD => {
                let taken_back = in_use.difference(&cilium.addresses_for_pods);
                let refused = |s: &Release| *s == Release::DoNotRelease;
                let leaving = cilium.release.iter().filter(|(_, s)| !refused(s)).map(|(a, _)| a);
                let releasing = taken_back.chain(leaving).copied().map(host).collect();
                BlockUse { version: self.version(), releasing, ..BlockUse::default() }
            }
        }
    }

    fn model(&self, mode: IpamMode, in_use: &BTreeSet<IpAddr>) -> Option<Node> {
        let mut node = self.node.clone()?;
        node.internal_addresses = self.internal_addresses();
        let held = self.pools(mode, in_use).into_values().flatten();
        node.pod_cidrs = match mode {
            // as few routes as single addresses allow
            IpamMode::CRD => {
                let mut all = Blocks::default();
                held.for_each(|c| all.insert(c));
                all.prefixes()
            }
            _ => held.collect(),
        };
        Some(node)
    }

    /// What the agent has given up, if it speaks of the CiliumNode as it is now.
    #[must_use]
    pub fn released(&self) -> Option<&BTreeSet<Cidr>> {
        let report = self.report.as_ref().filter(|r| r.blocks_version == self.version() && r.blocks_version != 0);
        report.filter(|_| self.cilium.is_some()).map(|r| &r.released)
    }

    /// For address allocation.
    #[must_use]
    pub fn ipam(&self, demand: BTreeMap<Arc<str>, [u32; 2]>, in_use: Arc<BTreeSet<IpAddr>>) -> NodeState {
        let cilium = self.written();
        let pools = cilium.map(|c| c.pools.iter().filter(|(_, s)| !s.blocks.is_empty()));
        NodeState {
            ignored: cilium.is_some_and(|c| c.ipam_ignored),
            blocks: cilium.map(|c| c.pod_cidrs.clone()).unwrap_or_default(),
            kubernetes: self.node.as_ref().map(|n| n.pod_cidrs.clone()).unwrap_or_default(),
            pools: pools.into_iter().flatten().map(|(n, s)| (n.clone(), s.blocks.clone())).collect(),
            releasing: cilium.map(|c| c.releasing.clone()).unwrap_or_default(),
            released: self.released().cloned().unwrap_or_default(),
            promised: BTreeMap::new(),
            demand,
            in_use,
            addresses: self.node.as_ref().map(|n| n.addresses.clone()).unwrap_or_default(),
        }
    }
}

impl Cluster {
    pub(super) fn emit_node(&mut self, name: &Name) {
        let mode = self.settings.ipam.mode;
        let in_use = self.uses(name).in_use;
        self.touched.nodes.insert(name.clone());
        let Some(entry) = self.nodes.get_mut(name) else { return };
        let model = entry.model(mode, &in_use);
        if model != entry.emitted {
            entry.emitted.clone_from(&model);
            self.changes.push(WorldChange::Node(name.clone(), model.map(Box::new)));
            (self.touched.ipam, self.touched.configs) = (true, true);
        }
        if entry.node.is_none() && entry.cilium.is_none() {
            self.nodes.remove(name);
        }
    }

    pub(super) fn emit_nodes(&mut self) {
        let names: Vec<_> = self.nodes.keys().cloned().collect();
        for name in &names {
            self.emit_node(name);
        }
    }

    /// What the node's agent says of it.
    pub fn node_report(&mut self, name: &Name, report: NodeReport) {
        let Some(entry) = self.nodes.get_mut(name) else { return };
        if entry.report.as_ref() != Some(&report) {
            entry.report = Some(report);
            // it may have given blocks up
            self.touched.ipam = true;
            self.emit_node(name);
        }
    }

    /// The node's agent has gone: what it said of itself holds, but whether it can serve is not known until it says so.
    pub fn node_silent(&mut self, name: &Name) {
        if let Some(report) = self.nodes.get_mut(name).and_then(|e| e.report.as_mut()) {
            report.ready = false;
        }
    }
}
