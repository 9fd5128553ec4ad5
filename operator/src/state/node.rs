//! A node: its Node object, its CiliumNode and what its agent reports.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use axoneme_crds::axoneme_config::IpamMode;
use axoneme_intake::CiliumNode;
use axoneme_model::{Cidr, world::Node};
use axoneme_wire::NodeReport;
use serde_json::Value;

use super::{Cluster, Name, WorldChange};
use crate::ipam::NodeState;

/// All that is known of one node.
#[derive(Clone, Debug, Default)]
pub struct NodeEntry {
    pub node: Option<Node>,
    pub node_raw: Value,
    pub cilium: Option<CiliumNode>,
    pub cilium_raw: Value,
    pub report: Option<NodeReport>,
    /// What the model was told last.
    emitted: Option<Node>,
}

impl NodeEntry {
    /// Addresses that the node holds on its pod-facing interfaces: as reported, else as they were written down.
    #[must_use]
    pub fn internal_addresses(&self) -> Vec<IpAddr> {
        let reported = self.report.as_ref().map(|r| &r.addresses).filter(|a| !a.is_empty());
        let written = self.cilium.as_ref().map(|c| &c.internal_addresses).filter(|a| !a.is_empty());
        let annotated = self.node.as_ref().map(|n| &n.internal_addresses);
        reported.or(written).or(annotated).cloned().unwrap_or_default()
    }

    /// Pod prefixes by pool.
    #[must_use]
    pub fn pools(&self, mode: IpamMode) -> BTreeMap<Arc<str>, Vec<Cidr>> {
        let one =
            |cidrs: Vec<Cidr>| if cidrs.is_empty() { BTreeMap::new() } else { [("default".into(), cidrs)].into() };
        let Some(cilium) = &self.cilium else {
            // known before the leader has written it down
            let of_node = self.node.as_ref().filter(|_| mode == IpamMode::Kubernetes);
            return one(of_node.map(|n| n.pod_cidrs.clone()).unwrap_or_default());
        };
        match mode {
            IpamMode::ClusterPool => one(cilium.pod_cidrs.clone()),
            IpamMode::Kubernetes => one(self.node.as_ref().map(|n| n.pod_cidrs.clone()).unwrap_or_default()),
            IpamMode::CRD => one(cilium.addresses_for_pods.iter().copied().map(axoneme_model::cidr::host).collect()),
            IpamMode::MultiPool => {
                let held = cilium.pools.iter().filter(|(_, s)| !s.blocks.is_empty());
                held.map(|(n, s)| (n.clone(), s.blocks.clone())).collect()
            }
        }
    }

    fn model(&self, mode: IpamMode) -> Option<Node> {
        let mut node = self.node.clone()?;
        node.internal_addresses = self.internal_addresses();
        node.pod_cidrs = match mode {
            // single addresses are no route
            IpamMode::CRD => Vec::new(),
            _ => self.pools(mode).into_values().flatten().collect(),
        };
        Some(node)
    }

    /// For address allocation.
    #[must_use]
    pub fn ipam(&self, demand: BTreeMap<Arc<str>, [u32; 2]>) -> NodeState {
        let cilium = self.cilium.as_ref();
        NodeState {
            ignored: cilium.is_some_and(|c| c.ipam_ignored),
            blocks: cilium.map(|c| c.pod_cidrs.clone()).unwrap_or_default(),
            kubernetes: self.node.as_ref().map(|n| n.pod_cidrs.clone()).unwrap_or_default(),
            pools: cilium
                .map(|c| {
                    c.pools
                        .iter()
                        .filter(|(_, s)| !s.blocks.is_empty())
                        .map(|(n, s)| (n.clone(), s.blocks.clone()))
                        .collect()
                })
                .unwrap_or_default(),
            demand,
            addresses: self.node.as_ref().map(|n| n.addresses.clone()).unwrap_or_default(),
        }
    }
}

impl Cluster {
    pub(super) fn emit_node(&mut self, name: &Name) {
        let mode = self.settings.ipam.mode;
        self.touched.nodes.insert(name.clone());
        let Some(entry) = self.nodes.get_mut(name) else { return };
        let model = entry.model(mode);
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
            self.emit_node(name);
        }
    }
}
