//! Which node owns which addresses. Pure: from what nodes hold and what the settings say to what they should hold.
//!
//! Invariants
//! - A block that a node holds stays with it, whatever becomes of the pool: pods use its addresses.
//! - No block is given that overlaps with any block of any node, with a node's own address, or with a pool that another
//!   pool overlaps with.
//! - Nodes are served in the order of their names, each from the first free block: the same inputs give the same plan.

mod blocks;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use axoneme_crds::axoneme_config::IpamMode;
use axoneme_intake::{Ipam, PodIpPool, PoolFamily};
use axoneme_model::{Cidr, cidr::contains};

pub use blocks::Blocks;

/// Free addresses that a node should hold of the default pool in multi-pool mode, unless the settings say otherwise
/// (upstream: `ipam.multiPoolPreAllocation`, default 8).
const PRE_ALLOCATE: u32 = 8;

/// What allocation knows of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Left alone: its CiliumNode says so.
    pub ignored: bool,
    /// Blocks that it holds (modes ClusterPool and Kubernetes).
    pub blocks: Vec<Cidr>,
    /// podCIDRs of the Node object.
    pub kubernetes: Vec<Cidr>,
    /// Blocks that it holds by pool (mode MultiPool).
    pub pools: BTreeMap<Arc<str>, Vec<Cidr>>,
    /// Addresses of each family that its pods need by pool (mode MultiPool): IPv4, IPv6.
    pub demand: BTreeMap<Arc<str>, [u32; 2]>,
    /// Addresses of the node itself.
    pub addresses: Vec<IpAddr>,
}

/// What a node should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePlan {
    pub blocks: Vec<Cidr>,
    pub pools: BTreeMap<Arc<str>, Vec<Cidr>>,
}

/// Something that a person must mend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The CiliumPodIPPool concerned; none: the settings.
    pub pool: Option<Arc<str>>,
    pub node: Option<Arc<str>>,
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(p) = &self.pool {
            write!(f, "CiliumPodIPPool {p}: ")?;
        }
        if let Some(n) = &self.node {
            write!(f, "node {n}: ")?;
        }
        f.write_str(&self.message)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Nodes that are not ignored.
    pub nodes: BTreeMap<Arc<str>, NodePlan>,
    pub problems: BTreeSet<Problem>,
}

/// Plans for all nodes. `pools` counts in mode MultiPool only.
#[must_use]
pub fn plan(settings: &Ipam, pools: &BTreeMap<Arc<str>, PodIpPool>, nodes: &BTreeMap<Arc<str>, NodeState>) -> Plan {
    let mut planner = Planner::new(nodes);
    match settings.mode {
        IpamMode::ClusterPool => planner.cluster_pool(settings),
        IpamMode::MultiPool => planner.multi_pool(settings, pools),
        IpamMode::Kubernetes => planner.kubernetes(),
        IpamMode::CRD => planner.keep(),
    }
    planner.plan
}

struct Planner<'a> {
    nodes: &'a BTreeMap<Arc<str>, NodeState>,
    taken: Blocks,
    plan: Plan,
}

impl<'a> Planner<'a> {
    fn new(nodes: &'a BTreeMap<Arc<str>, NodeState>) -> Self {
        let mut taken = Blocks::default();
        let mut plan = Plan::default();
        let mut owners: Vec<(Cidr, &Arc<str>)> = Vec::new();
        for (name, node) in nodes {
            for block in node.blocks.iter().chain(node.pools.values().flatten()) {
                if taken.overlaps(*block)
                    && let Some((other, owner)) = owners.iter().find(|(o, _)| overlap(*o, *block))
                {
                    let message = format!(
                        "block {block} overlaps with {other} of node {owner}: drain one of the nodes and delete its CiliumNode"
                    );
                    plan.problems.insert(Problem { pool: None, node: Some(name.clone()), message });
                }
                taken.insert(*block);
                owners.push((*block, name));
            }
        }
        Self { nodes, taken, plan }
    }

    fn managed(&self) -> impl Iterator<Item = (&'a Arc<str>, &'a NodeState)> + use<'a> {
        self.nodes.iter().filter(|(_, n)| !n.ignored)
    }

    fn keep(&mut self) {
        let keep = |n: &NodeState| NodePlan { blocks: n.blocks.clone(), pools: n.pools.clone() };
        self.plan.nodes = self.managed().map(|(name, n)| (name.clone(), keep(n))).collect();
    }

    fn kubernetes(&mut self) {
        for (name, node) in self.managed() {
            if node.kubernetes.is_empty() {
                let message = "its Node object has no podCIDRs: start kube-controller-manager with \
                    --allocate-node-cidrs, or choose another IPAM mode";
                self.problem(None, Some(name), message.to_owned());
            }
            let plan = NodePlan { blocks: node.kubernetes.clone(), pools: BTreeMap::new() };
            self.plan.nodes.insert(name.clone(), plan);
        }
    }

    fn cluster_pool(&mut self, settings: &Ipam) {
        self.keep();
        for family in [&settings.ipv4, &settings.ipv6].into_iter().flatten() {
            let usable = self.usable(None, family, &[]);
            for (name, node) in self.managed() {
                if node.blocks.iter().any(|b| same_family(*b, family)) {
                    continue;
                }
                match self.take(&usable, family.mask_size) {
                    Some(block) => self.plan.nodes.entry(name.clone()).or_default().blocks.push(block),
                    None => self.exhausted(None, name, family),
                }
            }
        }
    }

    fn multi_pool(&mut self, settings: &Ipam, pools: &BTreeMap<Arc<str>, PodIpPool>) {
        self.keep();
        let all: Vec<(&Arc<str>, Cidr)> = pools
            .iter()
            .flat_map(|(n, p)| {
                [&p.ipv4, &p.ipv6].into_iter().flatten().flat_map(move |f| f.cidrs.iter().map(move |c| (n, *c)))
            })
            .collect();
        for (pool_name, pool) in pools {
            // of two pools that overlap, the first by name goes on; the other gives nothing new
            let earlier: Vec<_> = all.iter().filter(|(n, _)| *n < pool_name).copied().collect();
            for (i, family) in [&pool.ipv4, &pool.ipv6].into_iter().enumerate() {
                let Some(family) = family else { continue };
                let usable = self.usable(Some(pool_name), family, &earlier);
                for (name, node) in self.managed() {
                    let needed = needed(settings, pool_name, node, i);
                    self.fill(name, pool_name, pool, family, &usable, needed);
                }
            }
        }
        for (name, node) in self.managed() {
            for pool in node.demand.keys().filter(|p| !pools.contains_key(*p)) {
                let message = format!("pods ask for addresses of CiliumPodIPPool {pool}, which does not exist");
                self.problem(Some(pool), Some(name), message);
            }
        }
    }

    /// Gives the node blocks of one family of a pool until it has the addresses that it needs.
    fn fill(
        &mut self,
        node: &Arc<str>,
        name: &Arc<str>,
        pool: &PodIpPool,
        family: &PoolFamily,
        usable: &[Cidr],
        needed: u64,
    ) {
        let lost = u64::from(!pool.allow_first_address) + u64::from(!pool.allow_last_address);
        let held = self.plan.nodes.get(node).and_then(|n| n.pools.get(name));
        let held = held.into_iter().flatten().filter(|b| same_family(**b, family));
        let mut have: u64 = held.map(|b| capacity(*b, lost)).sum();
        while have < needed {
            let Some(block) = self.take(usable, family.mask_size) else {
                return self.exhausted(Some(name), node, family);
            };
            if capacity(block, lost) == 0 {
                let message = format!("maskSize {} leaves no address in a block", family.mask_size);
                return self.problem(Some(name), None, message);
            }
            have += capacity(block, lost);
            let plan = self.plan.nodes.entry(node.clone()).or_default();
            plan.pools.entry(name.clone()).or_default().push(block);
        }
    }

    /// The prefixes of a pool that blocks may be taken from.
    fn usable(&mut self, pool: Option<&Arc<str>>, family: &PoolFamily, others: &[(&Arc<str>, Cidr)]) -> Vec<Cidr> {
        let mut usable = Vec::new();
        for cidr in &family.cidrs {
            let holder = self.nodes.iter().find(|(_, n)| n.addresses.iter().any(|a| cidr.contains(*a)));
            let problem = if let Some((name, _)) = holder {
                Some(format!("prefix {cidr} contains the address of node {name}: nothing is given from it"))
            } else if let Some((other, overlap)) = others.iter().find(|(_, o)| overlap(*o, *cidr)) {
                Some(format!(
                    "prefix {cidr} overlaps with {overlap} of CiliumPodIPPool {other}: nothing is given from it"
                ))
            } else {
                usable.push(*cidr);
                None
            };
            if let Some(message) = problem {
                self.problem(pool, None, message);
            }
        }
        usable
    }

    fn take(&mut self, usable: &[Cidr], mask: u8) -> Option<Cidr> {
        let block = usable.iter().find_map(|c| self.taken.first_free(*c, mask))?;
        self.taken.insert(block);
        Some(block)
    }

    fn exhausted(&mut self, pool: Option<&Arc<str>>, node: &Arc<str>, family: &PoolFamily) {
        let prefixes: Vec<_> = family.cidrs.iter().map(ToString::to_string).collect();
        let message = format!("no free /{} is left in {}: add a prefix", family.mask_size, prefixes.join(", "));
        self.problem(pool, Some(node), message);
    }

    fn problem(&mut self, pool: Option<&Arc<str>>, node: Option<&Arc<str>>, message: String) {
        self.plan.problems.insert(Problem { pool: pool.cloned(), node: node.cloned(), message });
    }
}

fn needed(settings: &Ipam, pool: &Arc<str>, node: &NodeState, family: usize) -> u64 {
    let used = node.demand.get(pool).and_then(|d| d.get(family)).copied().unwrap_or(0);
    let spare = settings.pre_allocate.get(pool).copied();
    let spare = spare.unwrap_or(if *pool == settings.default_pool { PRE_ALLOCATE } else { 0 });
    u64::from(used) + u64::from(spare)
}

/// Addresses of a block that pods can have; `lost` of its first and last are not given.
fn capacity(block: Cidr, lost: u64) -> u64 {
    let bits = if block.is_ipv4() { 32 } else { 128 } - u32::from(block.prefix());
    let size = 1u64.checked_shl(bits).unwrap_or(u64::MAX);
    // of blocks of one or two addresses all are given: there is no network and no broadcast address (RFC 3021)
    if size <= 2 { size } else { size - lost }
}

fn same_family(block: Cidr, family: &PoolFamily) -> bool {
    family.cidrs.first().is_some_and(|c| c.is_ipv4() == block.is_ipv4())
}

fn overlap(a: Cidr, b: Cidr) -> bool {
    contains(a, b) || contains(b, a)
}

#[cfg(test)]
mod tests;
