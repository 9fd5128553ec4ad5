//! Maps by peer class.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use axoneme_model::PeerClass;

/// Classes are looked up for every peer of every table that a change touches. Their numbers are those of identities, which
/// the leader gives, or come from a digest: nobody outside chooses them, so a multiplication spreads them well enough.
pub(crate) type ByClass<V> = HashMap<PeerClass, V, BuildHasherDefault<Spread>>;

/// Spreads one number over 64 bits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, i: u32) {
        // 2^64 divided by the golden ratio; the upper half goes down, where small tables look
        let product = (self.0.rotate_left(5) ^ u64::from(i)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ (product >> 32);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn neighbours_are_spread_over_small_tables() {
        let of = |i: u32| {
            let mut hasher = Spread::default();
            hasher.write_u32(i);
            hasher.finish()
        };
        for first in [0, 256, 1 << 24] {
            let low: BTreeSet<u64> = (first..first + 1024).map(|i| of(i) % 1024).collect();
            let high: BTreeSet<u64> = (first..first + 1024).map(|i| of(i) >> 57).collect();
            assert!(low.len() > 500 && high.len() == 128, "{} {}", low.len(), high.len());
        }
    }
}
