//! Which parts of the address space are taken.

use std::{collections::BTreeMap, net::IpAddr};

use axoneme_model::Cidr;

/// Taken ranges, by family: first address → last address. Ranges that touch or overlap are one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    v4: BTreeMap<u128, u128>,
    v6: BTreeMap<u128, u128>,
}

impl Blocks {
    pub fn insert(&mut self, block: Cidr) {
        let (mut first, mut last) = range(block);
        let ranges = self.family_mut(block);
        while let Some((f, l)) = touching(ranges, first, last) {
            ranges.remove(&f);
            first = first.min(f);
            last = last.max(l);
        }
        ranges.insert(first, last);
    }

    #[must_use]
    pub fn overlaps(&self, block: Cidr) -> bool {
        let (first, last) = range(block);
        overlapping(self.family(block), first, last).is_some()
    }

    /// The first block of `mask` bits in `pool` of which nothing is taken.
    #[must_use]
    pub fn first_free(&self, pool: Cidr, mask: u8) -> Option<Cidr> {
        let width: u8 = if pool.is_ipv4() { 32 } else { 128 };
        if mask < pool.prefix() || mask > width {
            return None;
        }
        let host_bits = u32::from(width - mask);
        // a block of the whole IPv6 space has no size that fits
        let size = 1u128.checked_shl(host_bits)?;
        let (pool_first, pool_last) = range(pool);
        let mut at = pool_first;
        while at <= pool_last {
            let last = at + (size - 1);
            let Some((_, taken_last)) = overlapping(self.family(pool), at, last) else {
                return cidr(pool, at, mask);
            };
            // the next block that starts behind what is taken
            at = (taken_last >> host_bits).checked_add(1)?.checked_shl(host_bits)?;
            if at == 0 {
                return None;
            }
        }
        None
    }

    const fn family(&self, of: Cidr) -> &BTreeMap<u128, u128> {
        match of {
            Cidr::V4(_) => &self.v4,
            Cidr::V6(_) => &self.v6,
        }
    }

    const fn family_mut(&mut self, of: Cidr) -> &mut BTreeMap<u128, u128> {
        match of {
            Cidr::V4(_) => &mut self.v4,
            Cidr::V6(_) => &mut self.v6,
        }
    }
}

fn overlapping(ranges: &BTreeMap<u128, u128>, first: u128, last: u128) -> Option<(u128, u128)> {
    ranges.range(..=last).next_back().map(|(f, l)| (*f, *l)).filter(|(_, l)| *l >= first)
}

fn touching(ranges: &BTreeMap<u128, u128>, first: u128, last: u128) -> Option<(u128, u128)> {
    overlapping(ranges, first.saturating_sub(1), last.saturating_add(1))
}

fn range(block: Cidr) -> (u128, u128) {
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    };
    (number(block.network()), number(block.broadcast()))
}

fn cidr(family: Cidr, first: u128, mask: u8) -> Option<Cidr> {
    let address = match family {
        Cidr::V4(_) => IpAddr::from(u32::try_from(first).ok()?.to_be_bytes()),
        Cidr::V6(_) => IpAddr::from(first.to_be_bytes()),
    };
    Cidr::new(address, mask).ok()
}

impl Blocks {
    /// How many blocks of `mask` bits in `pool` are free, as far as 64 bits can say it.
    #[must_use]
    pub fn count_free(&self, pool: Cidr, mask: u8) -> u64 {
        let width: u8 = if pool.is_ipv4() { 32 } else { 128 };
        let Some(size) = 1u128.checked_shl(u32::from(width.saturating_sub(mask))) else { return 0 };
        let whole = |first: u128, last: u128| {
            // blocks that start and end between the two
            let start = first.div_ceil(size);
            let end = last.checked_add(1).map_or(u128::MAX / size, |l| l / size);
            end.saturating_sub(start)
        };
        let (mut at, last) = range(pool);
        let mut free = 0u128;
        let ranges = self.family(pool);
        let first = ranges.range(..=at).next_back().filter(|(_, l)| **l >= at).map_or(at, |(f, _)| *f);
        for (f, l) in ranges.range(first..=last) {
            if *f > at {
                free += whole(at, *f - 1);
            }
            match l.checked_add(1) {
                Some(next) => at = at.max(next),
                None => return u64::try_from(free).unwrap_or(u64::MAX),
            }
        }
        if at <= last {
            free += whole(at, last);
        }
        u64::try_from(free).unwrap_or(u64::MAX)
    }

    /// The fewest prefixes that hold exactly what is taken, IPv4 first.
    #[must_use]
    pub fn prefixes(&self) -> Vec<Cidr> {
        let v4 = Cidr::V4(ipnetwork::Ipv4Network::from(std::net::Ipv4Addr::UNSPECIFIED));
        let v6 = Cidr::V6(ipnetwork::Ipv6Network::from(std::net::Ipv6Addr::UNSPECIFIED));
        [(v4, 32u32), (v6, 128)]
            .into_iter()
            .flat_map(|(f, w)| self.family(f).iter().flat_map(move |(a, b)| cover(f, w, *a, *b)))
            .collect()
    }
}

fn cover(family: Cidr, width: u32, mut first: u128, last: u128) -> Vec<Cidr> {
    let mut out = Vec::new();
    loop {
        let aligned = first.trailing_zeros().min(width);
        let room = (last - first).checked_add(1).map_or(128, u128::ilog2);
        let bits = aligned.min(room);
        out.extend(cidr(family, first, u8::try_from(width - bits).unwrap_or(0)));
        let step = 1u128.checked_shl(bits).and_then(|s| first.checked_add(s));
        match step {
            Some(next) if next <= last => first = next,
            _ => return out,
        }
    }
}
