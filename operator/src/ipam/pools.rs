//! Mode MultiPool: blocks come and go with what the pods of a node need.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axoneme_intake::{Ipam, PoolFamily};
use axoneme_model::{Cidr, cidr::contains, rows::Edges};

use super::{NodeState, Planner, Pool, Trouble, edges, overlap, same_family};

/// Free addresses that a node should hold of the default pool, unless the settings say otherwise (upstream:
/// `ipam.multiPoolPreAllocation`, default 8).
const PRE_ALLOCATE: u32 = 8;
/// A block goes back when so many addresses more than are needed would be left (or a whole block of them, if it is
/// smaller): pods that come and go in a hurry must not make blocks wander. The last one goes when none is needed.
const SLACK: u64 = 8;

/// What became of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolUse {
    /// Blocks that nodes hold, IPv4 and IPv6; those in excess of a prefix that was taken out of the pool count.
    pub held: [u64; 2],
    /// Blocks that are free, as far as a number can say it.
    pub free: [u64; 2],
}

/// One family of one pool.
struct Of<'a> {
    name: &'a Arc<str>,
    family: &'a PoolFamily,
    /// 0: IPv4, 1: IPv6.
    index: usize,
    edges: Edges,
}

impl Of<'_> {
    fn capacity(&self, block: Cidr) -> u64 {
        self.edges.capacity(block).into()
    }

    /// Whether the pool still has the addresses of a block.
    fn holds(&self, block: Cidr) -> bool {
        self.family.cidrs.iter().any(|c| contains(*c, block))
    }

    /// Addresses that the node's pods wait for, and those that they have of blocks which the pool still has.
    fn used(&self, node: &NodeState) -> u64 {
        let waiting = node.demand.get(self.name).and_then(|d| d.get(self.index)).copied().unwrap_or(0);
        let held = node.pools.get(self.name).into_iter().flatten();
        let held = held.filter(|b| same_family(**b, self.family) && self.holds(**b));
        let having: usize = held.map(|b| node.in_use.range(b.network()..=b.broadcast()).count()).sum();
        u64::from(waiting) + having as u64
    }

    fn spare(&self, settings: &Ipam) -> u64 {
        let usual = if *self.name == settings.default_pool { PRE_ALLOCATE } else { 0 };
        settings.pre_allocate.get(self.name).copied().unwrap_or(usual).into()
    }
}

impl Planner<'_> {
    pub(super) fn multi_pool(&mut self, settings: &Ipam, pools: &BTreeMap<Arc<str>, Pool>) {
        self.keep();
        self.move_to_default(settings);
        self.let_go();
        let enabled = [settings.ipv4.is_some(), settings.ipv6.is_some()];
        let families = pools.iter().flat_map(|(name, pool)| of(name, pool));
        let families: Vec<Of<'_>> = families.filter(|f| enabled.get(f.index).copied().unwrap_or(false)).collect();
        for of in &families {
            self.adopt_into(of);
        }
        self.spare_pods();
        for of in &families {
            let first = self.first_served(of, pools);
            let usable = self.usable(Some(of.name), of.family, &first);
            if of.capacity(block_of(of.family)) == 0 {
                let message =
                    format!("maskSize {} leaves no address in a block: choose a smaller one", of.family.mask_size);
                self.problem(Some(of.name), None, Trouble::TooSmall, message);
                continue;
            }
            self.serve(settings, of, &usable);
        }
        self.mark_strays(pools);
        self.missing(pools);
        self.count(pools);
    }

    /// A node of a cluster that had one pool before: its blocks are now of the default pool.
    fn move_to_default(&mut self, settings: &Ipam) {
        for node in self.plan.nodes.values_mut().filter(|n| !n.blocks.is_empty()) {
            let blocks = std::mem::take(&mut node.blocks);
            let held = node.pools.entry(settings.default_pool.clone()).or_default();
            held.extend(blocks.into_iter().filter(|b| !node_has(held, *b)).collect::<Vec<_>>());
        }
    }

    /// Takes away what nodes have given up. It is free for others with the next plan: first it must be written.
    fn let_go(&mut self) {
        for (name, node) in self.managed() {
            let Some(plan) = self.plan.nodes.get_mut(name) else { continue };
            let stays = |b: &Cidr| !(node.released.contains(b) && node.releasing.contains(b) && is_idle(node, *b));
            for held in plan.pools.values_mut() {
                held.retain(stays);
            }
            plan.pools.retain(|_, held| !held.is_empty());
            plan.releasing.retain(stays);
        }
    }

    /// Blocks that the node's pods have addresses of though the CiliumNode does not name them: it was lost.
    fn adopt_into(&mut self, of: &Of<'_>) {
        for (name, node) in self.managed() {
            let held = self.plan.nodes.get(name).map(|p| p.pools.values().flatten().copied().collect::<Vec<_>>());
            let mut adopted = self.adopt(node, of.family);
            adopted.retain(|b| !node_has(held.as_deref().unwrap_or_default(), *b));
            if !adopted.is_empty() {
                let plan = self.plan.nodes.entry(name.clone()).or_default();
                plan.pools.entry(of.name.clone()).or_default().extend(adopted);
            }
        }
    }

    /// Prefixes of other pools that go before those of this one: where nodes hold blocks, then by age and name.
    fn first_served<'a>(&self, of: &Of<'_>, pools: &'a BTreeMap<Arc<str>, Pool>) -> Vec<(&'a Arc<str>, Cidr)> {
        let rank = |name: &Arc<str>, pool: &Pool, prefix: Cidr| {
            let blocks = self.nodes.values().filter_map(|n| n.pools.get(name)).flatten();
            let unused = !blocks.into_iter().any(|b| overlap(*b, prefix));
            (unused, pool.created.clone(), name.clone())
        };
        let Some(own) = pools.get(of.name) else { return Vec::new() };
        let mut first = Vec::new();
        for (name, pool) in pools.iter().filter(|(n, _)| *n != of.name) {
            for theirs in [&pool.spec.ipv4, &pool.spec.ipv6].into_iter().flatten().flat_map(|f| &f.cidrs) {
                let mine = of.family.cidrs.iter().filter(|c| overlap(**c, *theirs));
                if mine.into_iter().any(|c| rank(name, pool, *theirs) < rank(of.name, own, *c)) {
                    first.push((name, *theirs));
                }
            }
        }
        first
    }

    fn serve(&mut self, settings: &Ipam, of: &Of<'_>, usable: &[Cidr]) {
        let mut short = false;
        for (name, node) in self.managed() {
            if !self.fill(name, node, of, usable, of.used(node)) {
                // nothing that others give back could be given from a prefix that is refused
                short |= !usable.is_empty();
                self.exhausted(Some(of.name), name, of.family);
            }
        }
        for (name, node) in self.managed().filter(|_| !short) {
            self.fill(name, node, of, usable, of.used(node) + of.spare(settings));
        }
        for (name, node) in self.managed() {
            // where pods of another node wait, nothing is kept in store
            let spare = if short { 0 } else { of.spare(settings) };
            self.mark_surplus(name, node, of, of.used(node) + spare, short);
        }
    }

    /// Gives the node blocks until it has the addresses that it needs; those that it is about to give back come first.
    fn fill(&mut self, name: &Arc<str>, node: &NodeState, of: &Of<'_>, usable: &[Cidr], needed: u64) -> bool {
        let plan = self.plan.nodes.entry(name.clone()).or_default();
        let held = plan.pools.get(of.name).cloned().unwrap_or_default();
        let held: Vec<Cidr> = held.into_iter().filter(|b| same_family(*b, of.family) && of.holds(*b)).collect();
        let mut have = 0;
        let mut closed = Vec::new();
        for block in held {
            if !plan.releasing.contains(&block) {
                have += of.capacity(block);
            } else if !is_idle(node, block) {
                // it can't go anyway: better that it is used
                plan.releasing.remove(&block);
                have += of.capacity(block);
            } else {
                closed.push(block);
            }
        }
        for block in closed {
            if have >= needed {
                break;
            }
            plan.releasing.remove(&block);
            have += of.capacity(block);
        }
        while have < needed {
            let Some(block) = self.take(name, of.name, usable, of.family.mask_size) else { return false };
            have += of.capacity(block);
            let plan = self.plan.nodes.entry(name.clone()).or_default();
            plan.pools.entry(of.name.clone()).or_default().push(block);
        }
        true
    }

    /// Marks blocks that the node does not need and that hold no address, the last ones first.
    fn mark_surplus(&mut self, name: &Arc<str>, node: &NodeState, of: &Of<'_>, needed: u64, pressed: bool) {
        let Some(plan) = self.plan.nodes.get_mut(name) else { return };
        let held = plan.pools.get(of.name).map(Vec::as_slice).unwrap_or_default();
        let open = |b: &&Cidr| same_family(**b, of.family) && of.holds(**b) && !plan.releasing.contains(*b);
        let open: Vec<Cidr> = held.iter().filter(open).copied().collect();
        let mut have: u64 = open.iter().map(|b| of.capacity(*b)).sum();
        for block in open.iter().rev() {
            let capacity = of.capacity(*block);
            let slack = if pressed || needed == 0 { 0 } else { SLACK.min(capacity) };
            // what was given just now is not known to the node yet, and needed
            let known = node.pools.get(of.name).is_some_and(|p| p.contains(block));
            let idle = known && is_idle(node, *block);
            if idle && have >= needed + capacity + slack {
                have -= capacity;
                plan.releasing.insert(*block);
            }
        }
    }

    /// Marks what no pool has any more: prefixes taken out of pools, pools that were deleted. Addresses in use stay.
    fn mark_strays(&mut self, pools: &BTreeMap<Arc<str>, Pool>) {
        for plan in self.plan.nodes.values_mut() {
            for (name, held) in &plan.pools {
                let families: Vec<_> = pools.get(name).into_iter().flat_map(|p| of(name, p)).collect();
                let stray = |b: &&Cidr| !families.iter().any(|f| same_family(**b, f.family) && f.holds(**b));
                plan.releasing.extend(held.iter().filter(stray).copied());
            }
        }
    }

    /// Pools that pods ask for and that are not there.
    fn missing(&mut self, pools: &BTreeMap<Arc<str>, Pool>) {
        for (name, node) in self.managed() {
            for (pool, wanted) in &node.demand {
                let message = match pools.get(pool) {
                    None => format!("pods ask for addresses of CiliumPodIPPool {pool}, which does not exist"),
                    Some(p) if wanted[0] > 0 && p.spec.ipv4.is_none() => {
                        format!("pods ask for IPv4 addresses, and CiliumPodIPPool {pool} has no ipv4")
                    }
                    Some(p) if wanted[1] > 0 && p.spec.ipv6.is_none() => {
                        format!("pods ask for IPv6 addresses, and CiliumPodIPPool {pool} has no ipv6")
                    }
                    Some(_) => continue,
                };
                self.problem(Some(pool), Some(name), Trouble::Missing, message);
            }
        }
    }

    fn count(&mut self, pools: &BTreeMap<Arc<str>, Pool>) {
        for (name, pool) in pools {
            let mut count = PoolUse::default();
            for of in of(name, pool) {
                let held: BTreeSet<Cidr> = self
                    .plan
                    .nodes
                    .values()
                    .filter_map(|n| n.pools.get(name))
                    .flatten()
                    .filter(|b| same_family(**b, of.family))
                    .copied()
                    .collect();
                let free: u64 = of.family.cidrs.iter().map(|c| self.taken.count_free(*c, of.family.mask_size)).sum();
                if let (Some(h), Some(f)) = (count.held.get_mut(of.index), count.free.get_mut(of.index)) {
                    (*h, *f) = (held.len() as u64, free);
                }
            }
            self.plan.pools.insert(name.clone(), count);
        }
    }
}

fn of<'a>(name: &'a Arc<str>, pool: &'a Pool) -> impl Iterator<Item = Of<'a>> {
    let edges = edges(pool.spec.allow_first_address, pool.spec.allow_last_address);
    let families = [&pool.spec.ipv4, &pool.spec.ipv6].into_iter().enumerate();
    families.filter_map(move |(index, f)| Some(Of { name, family: f.as_ref()?, index, edges }))
}

/// A block of the family, wherever it is: all have the same size.
fn block_of(family: &PoolFamily) -> Cidr {
    let any = family.cidrs.first().copied().map(|c| c.ip());
    let any = any.unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    Cidr::new(any, family.mask_size).unwrap_or_else(|_| any.into())
}

/// Whether no pod that is known has an address of the block.
fn is_idle(node: &NodeState, block: Cidr) -> bool {
    node.in_use.range(block.network()..=block.broadcast()).next().is_none()
}

fn node_has(held: &[Cidr], block: Cidr) -> bool {
    held.iter().any(|h| overlap(*h, block))
}
