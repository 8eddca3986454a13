//! Checksums of tensors that add up over any cut of the tensor.

use crate::random::{STEP, mix};

/// Sum over elements of a hash of (element index, bits), modulo 2^64. Because it is a sum, ranks that hold parts of a
/// tensor add their parts; because the hash is a bijection for a given index, any change of one element shows.
pub(super) fn checksum(start: usize, values: &[f32]) -> u64 {
    values.iter().enumerate().fold(0u64, |sum, (i, value)| {
        let index = ((start + i) as u64).wrapping_mul(STEP);
        sum.wrapping_add(mix(index ^ u64::from(value.to_bits())))
    })
}

/// The same, and the first element that is not finite: values are read from memory once.
pub(super) fn checked(start: usize, values: &[f32]) -> (u64, Option<usize>) {
    const RUN: usize = 4096;
    let (mut sum, mut odd) = (0u64, None);
    for (number, run) in values.chunks(RUN).enumerate() {
        let first = start + number * RUN;
        sum = sum.wrapping_add(checksum(first, run));
        if odd.is_none() && !run.iter().all(|value| value.is_finite()) {
            odd = run.iter().position(|value| !value.is_finite()).map(|at| first + at);
        }
    }
    (sum, odd)
}

/// The same for text: 8 bytes an element.
#[cfg_attr(not(any(feature = "hdf5", test)), allow(dead_code, reason = "only the HDF5 side uses it"))]
pub(super) fn text(bytes: &[u8]) -> u64 {
    bytes.chunks(8).enumerate().fold(mix(bytes.len() as u64), |sum, (i, chunk)| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sum.wrapping_add(mix(mix(i as u64 + 1) ^ u64::from_le_bytes(word)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts of any length add up to the whole; a flipped bit and two exchanged elements change it.
    #[test]
    fn parts_add_up_and_changes_show() {
        let values: Vec<f32> = (0..1000).map(|i| (i as f32).sin()).collect();
        let whole = checksum(0, &values);
        for cut in [0, 1, 7, 500, 1000] {
            let sum = checksum(0, &values[..cut]).wrapping_add(checksum(cut, &values[cut..]));
            assert_eq!(sum, whole);
        }
        let mut flipped = values.clone();
        flipped[3] = f32::from_bits(flipped[3].to_bits() ^ 1);
        assert_ne!(checksum(0, &flipped), whole);
        let mut swapped = values;
        swapped.swap(10, 20);
        assert_ne!(checksum(0, &swapped), whole);
        let long: Vec<f32> = (0..10_000).map(|i| (i as f32).cos()).collect();
        assert_eq!(checked(7, &long), (checksum(7, &long), None));
        for (at, odd) in [(0, f32::NAN), (4096, f32::INFINITY), (9_999, f32::NEG_INFINITY)] {
            let mut long = long.clone();
            long[at] = odd;
            assert_eq!(checked(7, &long), (checksum(7, &long), Some(7 + at)));
        }
        assert_ne!(text(b"lr = 1"), text(b"lr = 2"));
        assert_ne!(text(b"a\0"), text(b"a"));
    }
}
