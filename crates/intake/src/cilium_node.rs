//! CiliumNode (`cilium.io/v2`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use axoneme_model::{Cidr, Kind};
use serde_json::Value;

use crate::{
    address::{ip, prefix},
    error::ObjectErrors,
    field::Field,
    meta::annotations,
    read,
};

/// A node as the network sees it: what the operator and the agent (and, in IPAM mode CRD, the user) wrote down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CiliumNode {
    pub name: Arc<str>,
    /// Annotation `ipam.cilium.io/ignore: "true"`: the operator leaves the node's addresses alone.
    pub ipam_ignored: bool,
    /// Id of the running boot, empty if unknown.
    pub boot_id: Arc<str>,
    /// Its InternalIPs, then its ExternalIPs.
    pub addresses: Vec<IpAddr>,
    /// Its CiliumInternalIPs: what it holds on its pod-facing interfaces.
    pub internal_addresses: Vec<IpAddr>,
    /// Blocks for pods (IPAM modes ClusterPool and Kubernetes).
    pub pod_cidrs: Vec<Cidr>,
    /// Single addresses for pods (IPAM mode CRD), of both families.
    pub addresses_for_pods: BTreeSet<IpAddr>,
    /// Demand and blocks by pool (IPAM mode MultiPool).
    pub pools: BTreeMap<Arc<str>, PoolShare>,
    /// Blocks of `pools` that are marked to be given back: annotation [`RELEASING`].
    pub releasing: BTreeSet<Cidr>,
    /// Addresses that their giver wants back (IPAM mode CRD), and how far that is.
    pub release: BTreeMap<IpAddr, Release>,
    /// Who uses which address, as the agent reported: address → owner (`namespace/pod`).
    pub used: BTreeMap<IpAddr, Arc<str>>,
}

/// Annotation with the blocks that the node is to give back, separated by commas. In the object that hands the blocks
/// out, so that mark and blocks change together.
pub const RELEASING: &str = "axoneme.io/releasing";

/// How far the release of an address is (`status.ipam.release-ips`): its giver marks it, the node's side says whether it
/// may go, the giver releases it and takes it out of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Release {
    MarkedForRelease,
    ReadyForRelease,
    DoNotRelease,
    Released,
}

impl Release {
    const ALL: [(&'static str, Self); 4] = [
        ("marked-for-release", Self::MarkedForRelease),
        ("ready-for-release", Self::ReadyForRelease),
        ("do-not-release", Self::DoNotRelease),
        ("released", Self::Released),
    ];

    /// As the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, s)| *s == self).map_or("", |(text, _)| text)
    }
}

/// What a node wants and holds of one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolShare {
    /// Addresses that the node needs, spare ones included.
    pub needed_ipv4: u32,
    pub needed_ipv6: u32,
    /// Blocks that it holds.
    pub blocks: Vec<Cidr>,
    /// Whether pods get the first and the last address of a block.
    pub allow_first_address: bool,
    pub allow_last_address: bool,
}

/// Reads a CiliumNode.
pub fn cilium_node(object: &Value) -> Result<CiliumNode, ObjectErrors> {
    read(object, Kind::CiliumNode, |root, meta| {
        let annotations = annotations(root);
        let ignored = annotations.get("ipam.cilium.io/ignore").is_some_and(|v| &**v == "true");
        let mut node = CiliumNode { name: meta.object.name.clone(), ipam_ignored: ignored, ..CiliumNode::default() };
        // a mark that can't be read is none: the block stays
        let marks = annotations.get(RELEASING).into_iter().flat_map(|v| v.split(','));
        node.releasing = marks.filter_map(|c| c.trim().parse().ok()).collect();
        if let Some(spec) = root.require("spec").filter(Field::object) {
            node.boot_id = spec.get("bootid").and_then(|b| b.str()).unwrap_or_default().into();
            if let Some(list) = spec.get("addresses") {
                let all = addresses(&list);
                let of = |wanted: &'static str| all.iter().filter(move |(kind, _)| kind == wanted).map(|(_, ip)| *ip);
                node.addresses = of("InternalIP").chain(of("ExternalIP")).collect();
                node.internal_addresses = of("CiliumInternalIP").collect();
            }
            if let Some(ipam) = spec.get("ipam").filter(Field::object) {
                read_ipam(&ipam, &mut node);
            }
        }
        if let Some(status) = root.get("status").filter(Field::object)
            && let Some(ipam) = status.get("ipam").filter(Field::object)
        {
            node.used = used(&ipam);
            node.release = release(&ipam);
        }
        let held: BTreeSet<Cidr> = node.pools.values().flat_map(|s| &s.blocks).copied().collect();
        node.releasing.retain(|b| held.contains(b));
        (node, None)
    })
}

/// Addresses with their types.
fn addresses(list: &Field<'_>) -> Vec<(String, IpAddr)> {
    let mut out = Vec::new();
    for item in list.items().filter(Field::object) {
        let kind = item.get("type").and_then(|t| t.str()).unwrap_or_default();
        if let Some(address) = item.require("ip").and_then(|a| ip(&a)) {
            out.push((kind.to_owned(), address));
        }
    }
    out
}

fn read_ipam(ipam: &Field<'_>, node: &mut CiliumNode) {
    node.pod_cidrs = ipam.get("podCIDRs").iter().flat_map(Field::items).filter_map(|c| prefix(&c)).collect();
    for pool in ["pool", "ipv6-pool"] {
        if let Some(pool) = ipam.get(pool) {
            node.addresses_for_pods.extend(pool.entries().filter_map(|(text, entry)| key_address(text, &entry)));
        }
    }
    let Some(pools) = ipam.get("pools").filter(Field::object) else { return };
    for item in pools.get("requested").iter().flat_map(Field::items).filter(Field::object) {
        let needed = item.get("needed").filter(Field::object);
        let count = |family| needed.as_ref().and_then(|n| n.get(family)?.int(0..=u32::MAX)).unwrap_or(0);
        let (needed_ipv4, needed_ipv6) = (count("ipv4-addrs"), count("ipv6-addrs"));
        if let Some(name) = item.require("pool").and_then(|p| p.str().map(Arc::from)) {
            let share = node.pools.entry(name).or_default();
            (share.needed_ipv4, share.needed_ipv6) = (needed_ipv4, needed_ipv6);
        }
    }
    for item in pools.get("allocated").iter().flat_map(Field::items).filter(Field::object) {
        let blocks = item.get("cidrs").iter().flat_map(Field::items).filter_map(|c| prefix(&c)).collect();
        let flag = |name| item.get(name).and_then(|f| f.bool()).unwrap_or(false);
        let (first, last) = (flag("allowFirstIP"), flag("allowLastIP"));
        if let Some(name) = item.require("pool").and_then(|p| p.str().map(Arc::from)) {
            let share = node.pools.entry(name).or_default();
            (share.blocks, share.allow_first_address, share.allow_last_address) = (blocks, first, last);
        }
    }
}

fn used(ipam: &Field<'_>) -> BTreeMap<IpAddr, Arc<str>> {
    let mut out = BTreeMap::new();
    for map in ["used", "ipv6-used"] {
        for (text, entry) in ipam.get(map).iter().flat_map(Field::entries) {
            let owner = entry.get("owner").and_then(|o| o.str()).unwrap_or_default();
            if let Some(address) = key_address(text, &entry) {
                out.insert(address, owner.into());
            }
        }
    }
    out
}

fn release(ipam: &Field<'_>) -> BTreeMap<IpAddr, Release> {
    let mut out = BTreeMap::new();
    for map in ["release-ips", "release-ipv6s"] {
        for (text, entry) in ipam.get(map).iter().flat_map(Field::entries) {
            if let (Some(address), Some(state)) = (key_address(text, &entry), entry.choice(&Release::ALL)) {
                out.insert(address, state);
            }
        }
    }
    out
}

fn key_address(text: &str, entry: &Field<'_>) -> Option<IpAddr> {
    let address = text.parse().ok();
    if address.is_none() {
        entry.invalid("the key must be an IPv4 or IPv6 address");
    }
    address
}
