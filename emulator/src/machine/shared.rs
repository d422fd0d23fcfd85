//! Bytes that belong to a block or a thread, and how many wavefronts an access to shared memory takes.
//!
//! Shared memory has 32 banks of 4 bytes. A request is served in phases: all lanes for up to 4 bytes each, half a warp
//! for 8, a quarter for 16. A phase takes as many wavefronts as the busiest bank has distinct words; one is ideal.

use crate::registers::{Lanes, Mask, WARP};
use std::sync::atomic::AtomicU64;

/// Zeroed memory at a fixed address, aligned to 16.
pub(super) struct Bytes {
    words: Vec<[AtomicU64; 2]>,
    len: u64,
}

impl Bytes {
    pub fn new(len: u64) -> Bytes {
        let words = (0..len.div_ceil(16)).map(|_| [const { AtomicU64::new(0) }; 2]).collect();
        Bytes { words, len }
    }

    pub fn of(from: &[u8]) -> Bytes {
        let bytes = Bytes::new(from.len() as u64);
        for (i, &b) in from.iter().enumerate() {
            crate::memory::store::<std::sync::atomic::AtomicU8>(bytes.base() + i as u64, b);
        }
        bytes
    }

    /// Host address of the first byte.
    #[inline]
    pub fn base(&self) -> u64 {
        self.words.as_ptr().expose_provenance() as u64
    }

    pub fn len(&self) -> u64 {
        self.len
    }
}

/// Wavefronts of a request, and the least it could take. `at` are byte offsets of `bytes` (at most 16) each.
pub(super) fn wavefronts(at: &Lanes<u64>, mask: Mask, bytes: u32) -> (u64, u64) {
    let lanes = match bytes {
        0..=4 => 32,
        5..=8 => 16,
        _ => 8,
    };
    let mut total = (0, 0);
    for first in (0..WARP).step_by(lanes) {
        let phase = mask >> first & (u32::MAX >> (32 - lanes));
        if phase != 0 {
            total = (total.0 + busiest_bank(&at[first..first + lanes], phase, bytes.div_ceil(4)), total.1 + 1);
        }
    }
    total
}

/// Distinct words of the bank that has most.
fn busiest_bank(at: &[u64], mask: Mask, words: u32) -> u64 {
    // By bank a chain of its distinct words: index of the newest, plus one.
    let (mut newest, mut chain, mut count) = ([0u8; 32], [(0u32, 0u8); 64], [0u8; 32]);
    let mut used = 0;
    for (_, &address) in at.iter().enumerate().filter(|(lane, _)| mask >> lane & 1 == 1) {
        for word in (address / 4) as u32..(address / 4) as u32 + words {
            let bank = word as usize % 32;
            let mut link = newest[bank];
            while link != 0 && chain[link as usize - 1].0 != word {
                link = chain[link as usize - 1].1;
            }
            if link == 0 {
                chain[used] = (word, newest[bank]);
                used += 1;
                newest[bank] = used as u8;
                count[bank] += 1;
            }
        }
    }
    u64::from(count.into_iter().max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strided(stride: u64) -> Lanes<u64> {
        std::array::from_fn(|i| i as u64 * stride)
    }

    #[test]
    fn four_bytes_a_lane_conflict_by_stride() {
        for (stride, expected) in [(0, 1), (4, 1), (8, 2), (12, 1), (16, 4), (64, 16), (128, 32), (132, 1)] {
            assert_eq!(wavefronts(&strided(stride), Mask::MAX, 4), (expected, 1), "stride {stride}");
        }
    }

    #[test]
    fn wide_accesses_go_in_phases() {
        assert_eq!(wavefronts(&strided(8), Mask::MAX, 8), (2, 2));
        assert_eq!(wavefronts(&strided(16), Mask::MAX, 16), (4, 4));
        // Rows of 128 bytes: the eight lanes of a phase meet in the same four banks.
        assert_eq!(wavefronts(&strided(128), Mask::MAX, 16), (32, 4));
        // A row of 144 bytes moves every lane on by four banks.
        assert_eq!(wavefronts(&strided(144), Mask::MAX, 16), (4, 4));
        assert_eq!(wavefronts(&strided(16), 0xff, 16), (1, 1));
    }
}
