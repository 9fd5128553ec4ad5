//! SCTP's checksum (CRC32c, RFC 9260 appendix A) of a packet that changes in one place.
//!
//! A CRC is linear: what two bytes change of it depends on their difference and on how many bytes follow, not on what
//! those are. So a packet of any length is mended without being read: the difference is taken through as many bytes of
//! zero as follow, a power of two at a time. Each power is a matrix of 32 × 32 bits, kept as what it makes of each half
//! byte of a word. Looking that up has no branches: the verifier walks a multiplication bit by bit more than a million
//! steps.

/// Castagnoli's polynomial, its bits in the order of the wire.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Powers of two: a packet has less than 2¹⁶ bytes.
const POWERS: usize = 16;

type Columns = [u32; 32];
/// What becomes of a half byte, by its place in the word and its value.
type Halves = [[u32; 16]; 8];

/// What becomes of a word by a matrix given by its columns.
const fn times(columns: &Columns, word: u32) -> u32 {
    let (mut sum, mut bit) = (0, 0);
    while bit < 32 {
        if word >> bit & 1 != 0 {
            sum ^= columns[bit];
        }
        bit += 1;
    }
    sum
}

/// One byte of zero.
const fn one_byte() -> Columns {
    let (mut columns, mut bit) = ([0; 32], 0);
    while bit < 32 {
        let (mut word, mut step) = (1u32 << bit, 0);
        while step < 8 {
            word = if word & 1 == 0 { word >> 1 } else { word >> 1 ^ POLYNOMIAL };
            step += 1;
        }
        columns[bit] = word;
        bit += 1;
    }
    columns
}

const fn halves(columns: &Columns) -> Halves {
    let (mut all, mut place) = ([[0; 16]; 8], 0);
    while place < 8 {
        let mut value = 0;
        while value < 16 {
            all[place][value] = times(columns, (value as u32) << (4 * place));
            value += 1;
        }
        place += 1;
    }
    all
}

const fn powers() -> [Halves; POWERS] {
    let (mut all, mut columns, mut power) = ([[[0; 16]; 8]; POWERS], one_byte(), 0);
    while power < POWERS {
        all[power] = halves(&columns);
        let (mut twice, mut bit) = ([0; 32], 0);
        while bit < 32 {
            twice[bit] = times(&columns, columns[bit]);
            bit += 1;
        }
        columns = twice;
        power += 1;
    }
    all
}

static BY_POWER: [Halves; POWERS] = powers();

/// The difference of the checksum (in the order of the wire, as a little-endian word) that a difference of two bytes (the
/// first in the low byte) makes, where `rest` bytes are from the first of them to the packet's end.
#[inline(never)]
pub(crate) fn difference(bytes: u32, rest: u32) -> u32 {
    let mut word = bytes;
    for (power, by_place) in BY_POWER.iter().enumerate() {
        let mut moved = 0;
        for (place, by_value) in by_place.iter().enumerate() {
            let value = (word >> (4 * place) & 0xf) as usize;
            moved ^= by_value.get(value).copied().unwrap_or(0);
        }
        // All ones where the power is part of the length.
        let chosen = 0u32.wrapping_sub(rest >> power & 1);
        word ^= (word ^ moved) & chosen;
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// Bit by bit, as the appendix defines it.
    fn crc32c(data: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in data {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ POLYNOMIAL };
            }
        }
        !crc
    }

    #[test]
    fn the_reference_has_the_known_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_changed_place_changes_the_checksum_by_the_difference() {
        for length in [2usize, 3, 12, 17, 64, 255, 256, 1480, 9000, 65_515] {
            let data: Vec<u8> = (0..length).map(|n| (n * 7 + n / 251) as u8).collect();
            for at in [0, 1, 2, length / 2, length - 2] {
                if at + 2 > length {
                    continue;
                }
                for (x, y) in [(0u8, 1u8), (0x80, 0), (0xff, 0xff), (0x12, 0x34)] {
                    let mut other = data.clone();
                    other[at] ^= x;
                    other[at + 1] ^= y;
                    let rest = u32::try_from(length - at).unwrap();
                    let mended = crc32c(&data) ^ difference(u32::from(x) | u32::from(y) << 8, rest);
                    assert_eq!(mended, crc32c(&other), "length {length}, place {at}");
                }
            }
        }
    }
}
