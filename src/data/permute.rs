//! A random order without a table.

use crate::random::{STEP, mix};

/// Where position `index` of `0..len` goes in the permutation keyed by (seed, epoch).
///
/// A Feistel network permutes the next even power of two; walking its cycle until the result is below `len` makes that
/// a permutation of `0..len` (the domain is below 4 `len`, so four steps on average). Any entry costs the same, on any
/// rank, after any resume: nothing is stored.
///
/// # Panics
/// If `index` is not below `len`.
pub fn permute(seed: u64, epoch: u64, index: usize, len: usize) -> usize {
    assert!(index < len, "position {index} of a permutation of {len}");
    let half = (usize::BITS - (len - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    let key = mix(mix(seed).wrapping_add(epoch.wrapping_mul(STEP)));
    let mut at = index as u64;
    loop {
        let (mut left, mut right) = (at >> half, at & mask);
        for round in 0..6u64 {
            let turned = left ^ (mix(key ^ (round << 56) ^ right) & mask);
            (left, right) = (right, turned);
        }
        at = left << half | right;
        if at < len as u64 {
            return at as usize;
        }
    }
}
