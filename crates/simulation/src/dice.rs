//! Chance that can be had again.

use std::{ops::Range, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// One part's chance: it depends on the seed and the part's name only, not on what others draw.
#[derive(Debug)]
pub struct Dice(StdRng);

impl Dice {
    #[must_use]
    pub fn new(seed: u64, part: &str) -> Self {
        // FNV-1a
        let mix = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        Self(StdRng::seed_from_u64(part.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, mix)))
    }

    pub fn chance(&mut self, of_a_thousand: u32) -> bool {
        self.0.random_range(0..1000) < of_a_thousand
    }

    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { self.0.random_range(0..limit) }
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.below(of.len())) }
    }

    /// Milliseconds, evenly.
    pub fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.0.random_range(range))
    }

    /// Up to one half.
    pub fn half(&mut self) -> f64 {
        self.0.random_range(0.0..0.5)
    }
}
