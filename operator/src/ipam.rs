//! Which node owns which addresses. Pure: from what nodes hold and what the settings say to what they should hold.
//!
//! Invariants
//! - A block in which an address is in use stays with its node, whatever becomes of the pool.
//! - No block is given that overlaps with any block of any node, with the address of any pod or node, or with a prefix
//!   that another pool had first.
//! - A block that nobody needs is marked, given up by its node, and only then taken away: see
//!   [`axoneme_model::rows::BlockUse`].
//! - Nodes are served in the order of their names, what their pods need before what they keep in store, each from the
//!   first free block: the same inputs give the same plan.

mod blocks;
mod choice;
mod pools;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use axoneme_crds::axoneme_config::IpamMode;
use axoneme_intake::{Ipam, PodIpPool, PoolFamily};
use axoneme_model::{
    Cidr,
    cidr::{contains, host},
    rows::Edges,
};

pub use blocks::Blocks;
pub use choice::{Choice, choose};
pub use pools::PoolUse;

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
    /// Of these, the blocks that are marked: nothing is handed out of them any more.
    pub releasing: BTreeSet<Cidr>,
    /// Of these, the blocks that the node has given up, for exactly the version of its CiliumNode that this state is of.
    pub released: BTreeSet<Cidr>,
    /// Blocks that writes under way give it, by pool (of no name in mode ClusterPool): whether these will be carried out
    /// is not known.
    pub promised: BTreeMap<Arc<str>, Vec<Cidr>>,
    /// Addresses of each family that its pods wait for by pool (mode MultiPool): IPv4, IPv6.
    pub demand: BTreeMap<Arc<str>, [u32; 2]>,
    /// Addresses that its pods have.
    pub in_use: Arc<BTreeSet<IpAddr>>,
    /// Addresses of the node itself.
    pub addresses: Vec<IpAddr>,
}

/// What a node should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePlan {
    pub blocks: Vec<Cidr>,
    pub pools: BTreeMap<Arc<str>, Vec<Cidr>>,
    /// Blocks of `pools` that are to be marked.
    pub releasing: BTreeSet<Cidr>,
}

/// A CiliumPodIPPool with what the API server knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub spec: PodIpPool,
    /// `creationTimestamp`: of two pools that overlap, the older goes first.
    pub created: Arc<str>,
}

/// What kind of problem, as one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trouble {
    /// A prefix overlaps with something that was there first.
    Overlap,
    /// No block of a pool holds an address.
    TooSmall,
    /// No free block is left, and pods wait.
    Exhausted,
    /// Pods ask for a pool that does not exist, or that has no prefix of the family.
    Missing,
    /// Something with a node itself.
    Node,
}

/// Something that a person must mend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The CiliumPodIPPool concerned; none: the settings.
    pub pool: Option<Arc<str>>,
    pub node: Option<Arc<str>>,
    pub trouble: Trouble,
    pub message: String,
}

impl Trouble {
    /// As a reason of conditions and events.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Overlap => "Overlap",
            Self::TooSmall => "TooSmall",
            Self::Exhausted => "Exhausted",
            Self::Missing => "PoolMissing",
            Self::Node => "NodeProblem",
        }
    }
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
    /// What became of each pool (mode MultiPool).
    pub pools: BTreeMap<Arc<str>, PoolUse>,
}

/// Plans for all nodes. `pools` counts in mode MultiPool only.
#[must_use]
pub fn plan(settings: &Ipam, pools: &BTreeMap<Arc<str>, Pool>, nodes: &BTreeMap<Arc<str>, NodeState>) -> Plan {
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
                    let problem = Problem { pool: None, node: Some(name.clone()), trouble: Trouble::Node, message };
                    plan.problems.insert(problem);
                }
                taken.insert(*block);
                owners.push((*block, name));
            }
        }
        for block in nodes.values().flat_map(|n| n.promised.values()).flatten() {
            taken.insert(*block);
        }
        Self { nodes, taken, plan }
    }

    fn managed(&self) -> impl Iterator<Item = (&'a Arc<str>, &'a NodeState)> + use<'a> {
        self.nodes.iter().filter(|(_, n)| !n.ignored)
    }

    fn keep(&mut self) {
        let keep = |n: &NodeState| NodePlan {
            blocks: n.blocks.clone(),
            pools: n.pools.clone(),
            releasing: n.releasing.clone(),
        };
        self.plan.nodes = self.managed().map(|(name, n)| (name.clone(), keep(n))).collect();
    }

    fn kubernetes(&mut self) {
        for (name, node) in self.managed() {
            if node.kubernetes.is_empty() {
                let message = "its Node object has no podCIDRs: start kube-controller-manager with \
                    --allocate-node-cidrs, or choose another IPAM mode";
                self.problem(None, Some(name), Trouble::Node, message.to_owned());
            }
            let plan = NodePlan { blocks: node.kubernetes.clone(), ..NodePlan::default() };
            self.plan.nodes.insert(name.clone(), plan);
        }
    }

    fn cluster_pool(&mut self, settings: &Ipam) {
        self.keep();
        let families: Vec<&PoolFamily> = [&settings.ipv4, &settings.ipv6].into_iter().flatten().collect();
        let lacks = |n: &NodeState, f: &PoolFamily| !n.blocks.iter().any(|b| same_family(*b, f));
        // a node whose CiliumNode was lost gets the block back that its pods have their addresses from
        for (name, node) in self.managed() {
            for family in families.iter().filter(|f| lacks(node, f)) {
                if let Some(block) = self.adopt(node, family).into_iter().next() {
                    self.plan.nodes.entry(name.clone()).or_default().blocks.push(block);
                }
            }
        }
        self.spare_pods();
        for family in families {
            let usable = self.usable(None, family, &[]);
            for (name, _) in self.managed() {
                if self.plan.nodes.get(name).is_some_and(|n| n.blocks.iter().any(|b| same_family(*b, family))) {
                    continue;
                }
                match self.take(name, "", &usable, family.mask_size) {
                    Some(block) => self.plan.nodes.entry(name.clone()).or_default().blocks.push(block),
                    None => self.exhausted(None, name, family),
                }
            }
        }
    }

    /// Takes the blocks of a family that hold addresses of the node's pods, as far as nobody has them.
    fn adopt(&mut self, node: &NodeState, family: &PoolFamily) -> Vec<Cidr> {
        let mut adopted = Vec::new();
        for address in &*node.in_use {
            let inside = family.cidrs.iter().any(|c| c.contains(*address));
            let block = Cidr::new(*address, family.mask_size).ok().map(axoneme_model::cidr::normalise);
            let promised = |b: &Cidr| node.promised.values().flatten().any(|p| p == b);
            let free = |b: &Cidr| promised(b) || !self.taken.overlaps(*b);
            if let Some(block) = block.filter(|b| inside && !adopted.contains(b) && free(b)) {
                self.taken.insert(block);
                adopted.push(block);
            }
        }
        adopted
    }

    /// Keeps addresses that pods have from being given to another node with a block.
    fn spare_pods(&mut self) {
        for node in self.nodes.values() {
            node.in_use.iter().for_each(|a| self.taken.insert(host(*a)));
        }
    }

    /// The prefixes of a pool that blocks may be taken from. `others`: prefixes that other pools had first.
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
                self.problem(pool, None, Trouble::Overlap, message);
            }
        }
        usable
    }

    /// The next block for a node: one that it was promised, else the first that is free.
    fn take(&mut self, node: &str, pool: &str, usable: &[Cidr], mask: u8) -> Option<Cidr> {
        let planned = self.plan.nodes.get(node);
        let has = |b: &Cidr| {
            planned.is_some_and(|p| p.blocks.iter().chain(p.pools.values().flatten()).any(|h| overlap(*h, *b)))
        };
        let fits = |b: &&Cidr| b.prefix() == mask && usable.iter().any(|u| contains(*u, **b)) && !has(b);
        let promised = self.nodes.get(node).and_then(|n| n.promised.get(pool));
        if let Some(block) = promised.into_iter().flatten().find(fits) {
            return Some(*block);
        }
        let block = usable.iter().find_map(|c| self.taken.first_free(*c, mask))?;
        self.taken.insert(block);
        Some(block)
    }

    fn exhausted(&mut self, pool: Option<&Arc<str>>, node: &Arc<str>, family: &PoolFamily) {
        let prefixes: Vec<_> = family.cidrs.iter().map(ToString::to_string).collect();
        let message = format!("no free /{} is left in {}: add a prefix", family.mask_size, prefixes.join(", "));
        self.problem(pool, Some(node), Trouble::Exhausted, message);
    }

    fn problem(&mut self, pool: Option<&Arc<str>>, node: Option<&Arc<str>>, trouble: Trouble, message: String) {
        self.plan.problems.insert(Problem { pool: pool.cloned(), node: node.cloned(), trouble, message });
    }
}

/// What is handed out of the blocks of a pool.
#[must_use]
pub fn edges(allow_first: bool, allow_last: bool) -> Edges {
    Edges::Pool { allow_first, allow_last }
}

fn same_family(block: Cidr, family: &PoolFamily) -> bool {
    family.cidrs.first().is_some_and(|c| c.is_ipv4() == block.is_ipv4())
}

fn overlap(a: Cidr, b: Cidr) -> bool {
    contains(a, b) || contains(b, a)
}

#[cfg(test)]
mod tests;
