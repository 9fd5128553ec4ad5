//! Addresses of the node's pods.
//!
//! A pool is a list of CIDRs per name. Free addresses are handed out in rotation, so the one that was released longest
//! ago comes back last, and none comes back within [`QUARANTINE`]: peers may still hold connections and neighbour
//! entries of its last owner. Editing pools never touches an address in use.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use ipnetwork::IpNetwork;

/// A released address rests this long.
pub const QUARANTINE: Duration = Duration::from_secs(30);
/// Addresses of one CIDR that are used, counted from its start: 64 times what a kubelet runs, and 8 KiB of bitmap even
/// for an IPv6 /64.
const SPAN: u32 = 1 << 16;

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
    pools: BTreeMap<String, Vec<Block>>,
    /// In use, also outside of the present pools.
    taken: BTreeSet<IpAddr>,
    resting: VecDeque<(Instant, IpAddr)>,
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
}

impl Block {
    fn new(cidr: IpNetwork) -> Self {
        let host_bits = if cidr.is_ipv4() { 32 } else { 128 } - u32::from(cidr.prefix());
        let size = if host_bits >= SPAN.trailing_zeros() { SPAN } else { 1 << host_bits };
        let mut block = Self { cidr, bits: vec![0; size.div_ceil(64) as usize], size, cursor: 0, reserved: Vec::new() };
        for unused in size..size.next_multiple_of(64) {
            block.set(unused, true);
        }
        // a CIDR of one or two addresses has neither network nor router (RFC 3021)
        if size > 2 {
            block.reserve(0);
            block.reserve(1);
            if cidr.is_ipv4() && 1 << host_bits == size {
                block.reserve(size - 1);
            }
        }
        block
    }

    fn reserve(&mut self, offset: u32) {
        self.set(offset, true);
        self.reserved.push(offset);
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
        let words = self.bits.len();
        let start = self.cursor as usize / 64;
        for step in 0..=words {
            let index = (start + step) % words;
            let mut word = *self.bits.get(index)?;
            if step == 0 {
                word |= (1 << (self.cursor % 64)) - 1;
            }
            if word != u64::MAX {
                let offset = u32::try_from(index).ok()? * 64 + word.trailing_ones();
                self.set(offset, true);
                self.cursor = (offset + 1) % self.size;
                return Some(self.address(offset));
            }
        }
        None
    }
}

fn family(v4: bool) -> &'static str {
    if v4 { "IPv4" } else { "IPv6" }
}

impl Ipam {
    /// Takes the pools as they are now. Addresses in use stay in use, wherever they are.
    pub fn configure<'a>(&mut self, pools: impl IntoIterator<Item = (&'a str, &'a [IpNetwork])>) {
        let mut old: BTreeMap<IpNetwork, u32> = self.pools.values().flatten().map(|b| (b.cidr, b.cursor)).collect();
        self.pools = pools
            .into_iter()
            .map(|(name, cidrs)| (name.to_owned(), cidrs.iter().map(|c| Block::new(*c)).collect()))
            .collect();
        for block in self.pools.values_mut().flatten() {
            block.cursor = old.remove(&block.cidr).unwrap_or(0);
        }
        for address in self.taken.clone() {
            self.mark(address, true);
        }
        for (_, address) in self.resting.clone() {
            self.mark(address, true);
        }
    }

    fn mark(&mut self, address: IpAddr, used: bool) {
        for block in self.pools.values_mut().flatten() {
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
        let blocks = self.pools.get_mut(pool).map(Vec::as_mut_slice).unwrap_or_default();
        let found = blocks.iter_mut().filter(|b| b.cidr.is_ipv4() == v4).find_map(Block::take);
        match found {
            Some(address) => {
                self.taken.insert(address);
                Ok(address)
            }
            None => Err(self.none_left(pool, v4)),
        }
    }

    fn none_left(&self, pool: &str, v4: bool) -> IpamError {
        let (pool, family) = (pool.to_owned(), family(v4));
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
        for (pool, blocks) in &self.pools {
            for v4 in [true, false] {
                let of_family: Vec<&Block> = blocks.iter().filter(|b| b.cidr.is_ipv4() == v4).collect();
                if of_family.is_empty() {
                    continue;
                }
                let holds = |a: &IpAddr| of_family.iter().any(|b| b.offset(*a).is_some());
                out.push(Usage {
                    pool: pool.clone(),
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
        i.configure([("default", cidrs.as_slice())]);
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
        i.configure([("default", [other].as_slice())]);
        assert!(i.is_taken(held));
        assert_eq!(i.allocate("default", true, now).unwrap().to_string(), "10.0.2.2");
        let back: IpNetwork = "10.0.1.0/29".parse().unwrap();
        i.configure([("default", [back].as_slice())]);
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

    #[derive(Clone, Debug)]
    enum Op {
        Allocate(bool),
        Release(usize),
        Claim(u8),
        Wait(u64),
        Reconfigure(bool),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => any::<bool>().prop_map(Op::Allocate),
            3 => any::<usize>().prop_map(Op::Release),
            1 => (0u8..40).prop_map(Op::Claim),
            2 => (0u64..25).prop_map(Op::Wait),
            1 => any::<bool>().prop_map(Op::Reconfigure),
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
            i.configure([("default", wide.as_slice())]);
            let (mut now, mut held, mut released) = (Instant::now(), Vec::<IpAddr>::new(), BTreeMap::<IpAddr, Instant>::new());
            for op in ops {
                match op {
                    Op::Allocate(v4) => if let Ok(a) = i.allocate("default", v4, now) {
                        prop_assert!(!held.contains(&a));
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
                    Op::Reconfigure(w) => i.configure([("default", if w { wide.as_slice() } else { narrow.as_slice() })]),
                }
            }
            for a in held { i.release(a, now); }
            now += QUARANTINE;
            i.configure([("default", wide.as_slice())]);
            let mut free = BTreeSet::new();
            while let Ok(a) = i.allocate("default", true, now) { free.insert(a); }
            while let Ok(a) = i.allocate("default", false, now) { free.insert(a); }
            // of the /27, the /30 and the /124
            prop_assert_eq!(free.len(), 29 + 1 + 14);
        }
    }
}
