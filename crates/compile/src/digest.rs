//! Stable digests of keys, from which ids are made.

use std::hash::{Hash, Hasher};

use sha2::{Digest as _, Sha256};

/// First half of a SHA-256 over the value's fields. The same on every machine: all integers go in little endian and at
/// a fixed width.
pub(crate) fn digest<T: Hash + ?Sized>(domain: &str, value: &T) -> u128 {
    let mut sink = Sink(Sha256::new());
    domain.hash(&mut sink);
    value.hash(&mut sink);
    let out = sink.0.finalize();
    let mut half = [0; 16];
    half.iter_mut().zip(out.iter()).for_each(|(h, o)| *h = *o);
    u128::from_le_bytes(half)
}

struct Sink(Sha256);

impl Hasher for Sink {
    /// First 64 bits of the state so far. [`digest`] reads the whole state instead.
    fn finish(&self) -> u64 {
        self.0.clone().finalize().iter().take(8).fold(0, |h, b| h << 8 | u64::from(*b))
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn write_u16(&mut self, i: u16) {
        self.write(&i.to_le_bytes());
    }
    fn write_u32(&mut self, i: u32) {
        self.write(&i.to_le_bytes());
    }
    fn write_u64(&mut self, i: u64) {
        self.write(&i.to_le_bytes());
    }
    fn write_u128(&mut self, i: u128) {
        self.write(&i.to_le_bytes());
    }
    fn write_usize(&mut self, i: usize) {
        self.write_u64(i as u64);
    }
    fn write_isize(&mut self, i: isize) {
        self.write(&(i as i64).to_le_bytes());
    }
}
