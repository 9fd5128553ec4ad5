//! Addresses of the node's pods.
//!
//! A pool is a list of CIDRs per name. Free addresses are handed out in rotation, so the one that was released longest
//! ago comes back last, and none comes back within [`QUARANTINE`]: peers may still hold connections and neighbour
//! entries of its last owner. Editing pools never touches an address in use.
//!
//! A block that the operator wants back is closed: nothing is handed out of it, and once nothing of it is in use or at
//! rest the node says so ([`Ipam::released`]). Until then it stays the node's.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use axoneme_model::rows::{BlockUse, Edges, NO_POOL};
use ipnetwork::IpNetwork;

/// A released address rests this long.
pub const QUARANTINE: Duration = Duration::from_secs(30);

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    #[error(
        "pool {pool:?} has no {family} CIDR on this node: give the node one, or turn {family} off in AxonemeConfig"
    )]
    NoPool { pool: String, family: &'static str },
    /// `resting` are free but were released a moment ago: a later try will succeed.
    #[error(
        "pool {pool:?} is empty: all {size} {family} addresses of this node are in use ({resting} of them released within \
         the last 30 s): enlarge the pool, or lower maxPods of the kubelet"
    )]
    Empty { pool: String, family: &'static str, size: u32, resting: usize },
    #[error("address {address} is already in use on this node")]
    Taken { address: IpAddr },
    /// The operator chose no pool, and says why.
    #[error("no pool for the pod's {family} address: {reason}")]
    Refused { family: &'static str, reason: String },
}

/// Use of one pool and family.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    pub pool: String,
    pub family: &'static str,
    pub size: u32,
    pub used: usize,
    pub resting: usize,
}

#[derive(Debug, Default)]
pub struct Ipam {
    pools: BTreeMap<String, Pool>,
    /// In use, also outside of the present pools.
    taken: BTreeSet<IpAddr>,
    resting: VecDeque<(Instant, IpAddr)>,
    /// Newest version of the blocks that was obeyed.
    version: u64,
    /// Closed blocks.
    releasing: BTreeSet<IpNetwork>,
}

#[derive(Debug, Default)]
struct Pool {
    blocks: Vec<Block>,
    /// Where the search among single addresses starts: these rotate, while larger blocks are used up one by one, so that
    /// the last ones can be given back.
    next: usize,
}

#[derive(Debug)]
struct Block {
    cidr: IpNetwork,
    /// One bit an address: in use, resting, or never handed out.
    bits: Vec<u64>,
    size: u32,
    /// Where the search for the next address starts.
    cursor: u32,
    /// Offsets that are never handed out: network, router, broadcast.
    reserved: Vec<u32>,
    /// Nothing is handed out any more.
    closed: bool,
}

impl Block {
    fn new(cidr: IpNetwork, edges: Edges) -> Self {
        let (size, reserved) = edges.of(cidr);
        let bits = vec![0; size.div_ceil(64) as usize];
        let mut block = Self { cidr, bits, size, cursor: 0, reserved: Vec::new(), closed: false };
        for unused in size..size.next_multiple_of(64) {
            block.set(unused, true);
        }
        for offset in &reserved {
            block.set(*offset, true);
        }
        block.reserved = reserved;
        block
    }

    fn set(&mut self, offset: u32, used: bool) {
        if let Some(word) = self.bits.get_mut(offset as usize / 64) {
            let bit = 1 << (offset % 64);
            *word = if used { *word | bit } else { *word & !bit };
        }
    }

    fn offset(&self, address: IpAddr) -> Option<u32> {
        let offset = match (address, self.cidr.network()) {
            (IpAddr::V4(a), IpAddr::V4(n)) => u128::from(a.to_bits().checked_sub(n.to_bits())?),
            (IpAddr::V6(a), IpAddr::V6(n)) => a.to_bits().checked_sub(n.to_bits())?,
            _ => return None,
        };
        u32::try_from(offset).ok().filter(|o| *o < self.size)
    }

    fn address(&self, offset: u32) -> IpAddr {
        match self.cidr.network() {
            IpAddr::V4(n) => Ipv4Addr::from_bits(n.to_bits() + offset).into(),
            IpAddr::V6(n) => Ipv6Addr::from_bits(n.to_bits() + u128::from(offset)).into(),
        }
    }

    /// The next free address behind the cursor.
    fn take(&mut self) -> Option<IpAddr> {
        let offset = self.find()?;
        self.set(offset, true);
        self.cursor = (offset + 1) % self.size;
        Some(self.address(offset))
    }

    fn find(&self) -> Option<u32> {
        let words = self.bits.len();
        let start = self.cursor as usize / 64;
        for step in 0..=words {
            let index = (start + step) % words;
            let mut word = *self.bits.get(index)?;
            if step == 0 {
                word |= (1 << (self.cursor % 64)) - 1;
            }
            if word != u64::MAX {
                return Some(u32::try_from(index).ok()? * 64 + word.trailing_ones());
            }
        }
        None
    }
}

impl Pool {
    /// Open blocks of a family, in the order in which they are searched.
    fn order(&self, v4: bool) -> impl Iterator<Item = usize> + use<'_> {
        let count = self.blocks.len();
        let all = (0..count).map(move |i| (self.next + i) % count);
        all.filter(move |i| self.blocks.get(*i).is_some_and(|b| !b.closed && b.cidr.is_ipv4() == v4))
    }

    fn take(&mut self, v4: bool) -> Option<IpAddr> {
        let index = self.order(v4).find(|i| self.blocks.get(*i).is_some_and(|b| b.find().is_some()))?;
        let block = self.blocks.get_mut(index)?;
        let address = block.take();
        if block.size == 1 {
            self.next = (index + 1) % self.blocks.len();
        }
        address
    }

    fn has_free(&self, v4: bool) -> bool {
        self.order(v4).any(|i| self.blocks.get(i).is_some_and(|b| b.find().is_some()))
    }
}

fn family(v4: bool) -> &'static str {
    if v4 { "IPv4" } else { "IPv6" }
}

impl Ipam {
    /// What a former process obeyed last: nothing older is.
    pub fn restore(&mut self, version: u64) {
        self.version = self.version.max(version);
    }

    /// Newest version of the blocks that was obeyed; see [`BlockUse`].
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Takes the pools as they are now, unless they are older than what is known: then nothing changes, and false is
    /// said. Addresses in use stay in use, wherever they are.
    pub fn configure<'a>(
        &mut self,
        pools: impl IntoIterator<Item = (&'a str, &'a [IpNetwork])>,
        blocks: &BlockUse,
    ) -> bool {
        // without a version there is no CiliumNode, and nothing that could have been given back
        if blocks.version != 0 && blocks.version < self.version {
            return false;
        }
        self.version = self.version.max(blocks.version);
        self.releasing.clone_from(&blocks.releasing);
        let mut old: BTreeMap<IpNetwork, u32> =
            self.pools.values().flat_map(|p| &p.blocks).map(|b| (b.cidr, b.cursor)).collect();
        let next: BTreeMap<String, usize> = self.pools.iter().map(|(n, p)| (n.clone(), p.next)).collect();
        let new = |name: &str, cidrs: &[IpNetwork]| {
            let edges = blocks.edges.get(name).copied().unwrap_or_default();
            let blocks: Vec<_> = cidrs.iter().map(|c| Block::new(*c, edges)).collect();
            let next = next.get(name).copied().unwrap_or(0) % blocks.len().max(1);
            Pool { blocks, next }
        };
        self.pools = pools.into_iter().map(|(name, cidrs)| (name.to_owned(), new(name, cidrs))).collect();
        for block in self.pools.values_mut().flat_map(|p| &mut p.blocks) {
            block.cursor = old.remove(&block.cidr).unwrap_or(0);
            block.closed = self.releasing.contains(&block.cidr);
        }
        for address in self.taken.clone() {
            self.mark(address, true);
        }
        for (_, address) in self.resting.clone() {
            self.mark(address, true);
        }
        true
    }

    /// Closed blocks that hold no address in use or at rest, and the version of the blocks that this is about.
    pub fn released(&mut self, now: Instant) -> (u64, BTreeSet<IpNetwork>) {
        self.wake(now);
        let idle = |c: &&IpNetwork| {
            self.taken.range(c.network()..=c.broadcast()).next().is_none()
                && !self.resting.iter().any(|(_, a)| c.contains(*a))
        };
        (self.version, self.releasing.iter().filter(idle).copied().collect())
    }

    /// When the answer of [`Self::released`] may change by itself.
    pub fn wake_at(&self) -> Option<Instant> {
        let closing = |a: &IpAddr| self.releasing.iter().any(|c| c.contains(*a));
        self.resting.iter().find(|(_, a)| closing(a)).map(|(at, _)| *at + QUARANTINE)
    }

    /// Why [`Self::allocate`] would fail now.
    pub fn lacks(&mut self, pool: &str, v4: bool, now: Instant) -> Option<IpamError> {
        self.wake(now);
        let free = self.pools.get(pool).is_some_and(|p| p.has_free(v4));
        (!free).then(|| self.none_left(pool, v4))
    }

    fn mark(&mut self, address: IpAddr, used: bool) {
        for block in self.pools.values_mut().flat_map(|p| &mut p.blocks) {
            if let Some(offset) = block.offset(address)
                && !block.reserved.contains(&offset)
            {
                block.set(offset, used);
            }
        }
    }

    fn wake(&mut self, now: Instant) {
        while let Some((_, address)) = self.resting.pop_front_if(|(at, _)| *at + QUARANTINE <= now) {
            if !self.taken.contains(&address) {
                self.mark(address, false);
            }
        }
    }

    /// A free address of the pool.
    pub fn allocate(&mut self, pool: &str, v4: bool, now: Instant) -> Result<IpAddr, IpamError> {
        self.wake(now);
        match self.pools.get_mut(pool).and_then(|p| p.take(v4)) {
            Some(address) => {
                self.taken.insert(address);
                Ok(address)
            }
            None => Err(self.none_left(pool, v4)),
        }
    }

    fn none_left(&self, pool: &str, v4: bool) -> IpamError {
        let family = family(v4);
        if let Some(reason) = pool.strip_prefix(NO_POOL) {
            return IpamError::Refused { family, reason: reason.to_owned() };
        }
        let pool = pool.to_owned();
        match self.usage().into_iter().find(|u| u.pool == pool && u.family == family) {
            Some(u) => IpamError::Empty { pool, family, size: u.size, resting: u.resting },
            None => IpamError::NoPool { pool, family },
        }
    }

    /// Takes this very address: one that the operator assigned, or that a pod has held since before a restart.
    pub fn claim(&mut self, address: IpAddr) -> Result<(), IpamError> {
        if !self.taken.insert(address) {
            return Err(IpamError::Taken { address });
        }
        self.resting.retain(|(_, a)| *a != address);
        self.mark(address, true);
        Ok(())
    }

    /// Gives it back, to rest.
    pub fn release(&mut self, address: IpAddr, now: Instant) {
        if self.taken.remove(&address) {
            self.resting.push_back((now, address));
        }
    }

    pub fn is_taken(&self, address: IpAddr) -> bool {
        self.taken.contains(&address)
    }

    /// Use of every pool and family.
    pub fn usage(&self) -> Vec<Usage> {
        let mut out = Vec::new();
        for (name, pool) in &self.pools {
            for v4 in [true, false] {
                let of_family: Vec<&Block> = pool.blocks.iter().filter(|b| b.cidr.is_ipv4() == v4).collect();
                if of_family.is_empty() {
                    continue;
                }
                let holds = |a: &IpAddr| of_family.iter().any(|b| b.offset(*a).is_some());
                out.push(Usage {
                    pool: name.clone(),
                    family: family(v4),
                    size: of_family.iter().map(|b| b.size - b.reserved.len() as u32).sum(),
                    used: self.taken.iter().filter(|a| holds(a)).count(),
                    resting: self.resting.iter().filter(|(_, a)| holds(a)).count(),
                });
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ipam(cidrs: &[&str]) -> Ipam {
        let cidrs: Vec<IpNetwork> = cidrs.iter().map(|c| c.parse().unwrap()).collect();
        let mut i = Ipam::default();
        i.configure([("default", cidrs.as_slice())], &BlockUse::default());
        i
    }

    #[test]
    fn network_router_and_broadcast_are_never_handed_out() {
        let (mut i, now) = (ipam(&["10.0.1.0/29", "fd00::/125"]), Instant::now());
        let v4: Vec<String> = (0..5).map(|_| i.allocate("default", true, now).unwrap().to_string()).collect();
        assert_eq!(v4, ["10.0.1.2", "10.0.1.3", "10.0.1.4", "10.0.1.5", "10.0.1.6"]);
        assert_eq!(
            i.allocate("default", true, now),
            Err(IpamError::Empty { pool: "default".into(), family: "IPv4", size: 5, resting: 0 })
        );
        let v6: Vec<String> = (0..6).map(|_| i.allocate("default", false, now).unwrap().to_string()).collect();
        assert_eq!((v6[0].as_str(), v6[5].as_str()), ("fd00::2", "fd00::7"));
        assert!(i.allocate("default", false, now).is_err());
        assert!(matches!(i.allocate("blue", true, now), Err(IpamError::NoPool { .. })));
    }

    #[test]
    fn a_released_address_rests_and_comes_back_last() {
        let (mut i, start) = (ipam(&["10.0.1.0/29"]), Instant::now());
        let first = i.allocate("default", true, start).unwrap();
        i.release(first, start);
        for _ in 0..4 {
            assert_ne!(i.allocate("default", true, start).unwrap(), first);
        }
        assert!(matches!(i.allocate("default", true, start), Err(IpamError::Empty { resting: 1, .. })));
        assert_eq!(i.allocate("default", true, start + QUARANTINE).unwrap(), first);
    }

    #[test]
    fn editing_pools_touches_no_address_in_use() {
        let (mut i, now) = (ipam(&["10.0.1.0/29"]), Instant::now());
        let held = i.allocate("default", true, now).unwrap();
        let other: IpNetwork = "10.0.2.0/30".parse().unwrap();
        i.configure([("default", [other].as_slice())], &BlockUse::default());
        assert!(i.is_taken(held));
        assert_eq!(i.allocate("default", true, now).unwrap().to_string(), "10.0.2.2");
        let back: IpNetwork = "10.0.1.0/29".parse().unwrap();
        i.configure([("default", [back].as_slice())], &BlockUse::default());
        assert_ne!(i.allocate("default", true, now).unwrap(), held);
        assert_eq!(i.claim(held), Err(IpamError::Taken { address: held }));
    }

    #[test]
    fn one_and_two_address_cidrs_are_used_whole() {
        let (mut i, now) = (ipam(&["10.0.1.4/31", "10.0.1.9/32"]), Instant::now());
        let mut all: Vec<String> = (0..3).map(|_| i.allocate("default", true, now).unwrap().to_string()).collect();
        all.sort();
        assert_eq!(all, ["10.0.1.4", "10.0.1.5", "10.0.1.9"]);
    }

    #[test]
    fn an_older_view_of_the_blocks_is_not_obeyed() {
        let (mut i, now) = (Ipam::default(), Instant::now());
        let cidr: IpNetwork = "10.0.2.0/30".parse().unwrap();
        let at = |version| BlockUse { version, ..BlockUse::default() };
        i.restore(6);
        assert!(!i.configure([("default", [cidr].as_slice())], &at(5)));
        assert!(i.allocate("default", true, now).is_err(), "it may have another owner by now");
        assert!(i.configure([("default", [cidr].as_slice())], &at(7)));
        assert!(i.allocate("default", true, now).is_ok());
        assert!(i.configure([("default", [].as_slice())], &at(0)), "no CiliumNode: nothing can have been given back");
        assert_eq!(i.version(), 7);
    }

    #[test]
    fn pools_say_which_edges_of_a_block_are_handed_out_and_single_addresses_rotate() {
        let now = Instant::now();
        let cidr: IpNetwork = "10.0.2.0/30".parse().unwrap();
        let all = |allow_first, allow_last| {
            let mut i = Ipam::default();
            let edges = [("p".into(), Edges::Pool { allow_first, allow_last })].into();
            i.configure([("p", [cidr].as_slice())], &BlockUse { edges, ..BlockUse::default() });
            std::iter::from_fn(|| i.allocate("p", true, now).ok()).map(|a| a.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(all(false, false), ["10.0.2.1", "10.0.2.2"]);
        assert_eq!(all(true, true), ["10.0.2.0", "10.0.2.1", "10.0.2.2", "10.0.2.3"]);
        let singles: Vec<IpNetwork> = (1..4).map(|n| format!("10.0.2.{n}/32").parse().unwrap()).collect();
        let mut i = Ipam::default();
        i.configure([("default", singles.as_slice())], &BlockUse::default());
        let first = i.allocate("default", true, now).unwrap();
        i.release(first, now);
        let later = now + QUARANTINE;
        assert_eq!(i.allocate("default", true, later).unwrap().to_string(), "10.0.2.2");
        assert_eq!(i.allocate("default", true, later).unwrap().to_string(), "10.0.2.3");
        assert_eq!(i.allocate("default", true, later).unwrap(), first);
        let refused = i.allocate("!none of the pools matches", true, later).unwrap_err().to_string();
        assert_eq!(refused, "no pool for the pod's IPv4 address: none of the pools matches");
    }

    #[derive(Clone, Debug)]
    enum Op {
        Allocate(bool),
        Release(usize),
        Claim(u8),
        Wait(u64),
        /// Whether all blocks are there, and whether the last is closed.
        Reconfigure(bool, bool),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => any::<bool>().prop_map(Op::Allocate),
            3 => any::<usize>().prop_map(Op::Release),
            1 => (0u8..40).prop_map(Op::Claim),
            2 => (0u64..25).prop_map(Op::Wait),
            1 => any::<[bool; 2]>().prop_map(|[w, c]| Op::Reconfigure(w, c)),
        ]
    }

    proptest! {
        /// No address is held twice, none comes back within its rest, none is lost: once everything is released and
        /// rested, the whole pool is free again.
        #[test]
        fn addresses_are_neither_doubled_nor_lost(ops in prop::collection::vec(op(), 0..300)) {
            let wide: Vec<IpNetwork> = ["10.0.1.0/27", "fd00::/124", "10.0.3.0/30"].iter().map(|c| c.parse().unwrap()).collect();
            let narrow = vec![wide[0], wide[1]];
            let mut i = Ipam::default();
            let mut version = 0;
            let mut closed = false;
            let mut configure = |i: &mut Ipam, cidrs: &[IpNetwork], close: bool| {
                version += 1;
                let releasing = close.then_some(wide[2]).into_iter().collect();
                assert!(i.configure([("default", cidrs)], &BlockUse { version, releasing, ..BlockUse::default() }));
            };
            configure(&mut i, &wide, false);
            let (mut now, mut held, mut released) = (Instant::now(), Vec::<IpAddr>::new(), BTreeMap::<IpAddr, Instant>::new());
            for op in ops {
                match op {
                    Op::Allocate(v4) => if let Ok(a) = i.allocate("default", v4, now) {
                        prop_assert!(!held.contains(&a));
                        prop_assert!(!(closed && wide[2].contains(a)), "a closed block gives nothing");
                        prop_assert!(released.get(&a).is_none_or(|at| *at + QUARANTINE <= now));
                        prop_assert!(wide.iter().any(|c| c.contains(a) && (c.network() != a)));
                        held.push(a);
                    },
                    Op::Release(n) => if !held.is_empty() {
                        let a = held.swap_remove(n % held.len());
                        i.release(a, now);
                        released.insert(a, now);
                    },
                    Op::Claim(n) => {
                        let a: IpAddr = Ipv4Addr::new(10, 0, 1, n).into();
                        prop_assert_eq!(i.claim(a).is_err(), held.contains(&a));
                        if !held.contains(&a) { held.push(a); }
                    }
                    Op::Wait(s) => now += Duration::from_secs(s),
                    Op::Reconfigure(w, c) => {
                        closed = c;
                        configure(&mut i, if w { &wide } else { &narrow }, c);
                    }
                }
                let free = held.iter().all(|a| !wide[2].contains(*a))
                    && released.iter().all(|(a, at)| !wide[2].contains(*a) || held.contains(a) || *at + QUARANTINE <= now);
                prop_assert_eq!(i.released(now).1.contains(&wide[2]), closed && free, "given back just when nothing of it is in use or rests");
            }
            for a in held { i.release(a, now); }
            now += QUARANTINE;
            configure(&mut i, &wide, false);
            let mut free = BTreeSet::new();
            while let Ok(a) = i.allocate("default", true, now) { free.insert(a); }
            while let Ok(a) = i.allocate("default", false, now) { free.insert(a); }
            // of the /27, the /30 and the /124
            prop_assert_eq!(free.len(), 29 + 1 + 14);
        }
    }
}
