//! The one source of random numbers: SplitMix64, a generator whose state is a counter.
//!
//! Its n-th number is `mix(seed + n STEP)`, so that any number can be had without those before it. Initial weights, the order of
//! the data and checksums use [`mix`] in that way; sampling and delays use the generator. The numbers of a seed never change,
//! on any machine: runs that are repeated depend on it.
//!
//! Source: Steele, Lea and Flood, *Fast splittable pseudorandom number generators*, OOPSLA 2014.

use std::convert::Infallible;

use rand_core::{Rng, TryRng};

/// What the state grows by from number to number: the odd number nearest to 2^64 divided by the golden ratio.
pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's finaliser: a bijection in which every bit of the result depends on every bit of `z`.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A sequence of random numbers; the same seed gives the same.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Begins the sequence of a seed.
    pub fn new(seed: u64) -> Self {
        SplitMix64(seed)
    }

    /// A number in [0, 1), of 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl TryRng for SplitMix64 {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|number| (number >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 = self.0.wrapping_add(STEP);
        Ok(mix(self.0))
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Infallible> {
        for bytes in into.chunks_mut(8) {
            bytes.copy_from_slice(&self.next_u64().to_le_bytes()[..bytes.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are those of the published algorithm, one after another and each by itself.
    #[test]
    fn numbers_are_splitmix64s() {
        let published = [6457827717110365317u64, 3203168211198807973, 9817491932198370423, 4593380528125082431];
        let mut random = SplitMix64::new(1234567);
        assert_eq!(published, std::array::from_fn(|_| random.next_u64()));
        assert_eq!(published, std::array::from_fn(|n| mix(1234567u64.wrapping_add((n as u64 + 1).wrapping_mul(STEP)))));
        let mut bytes = [0; 12];
        SplitMix64::new(1234567).fill_bytes(&mut bytes);
        assert_eq!(bytes[..8], published[0].to_le_bytes());
        assert_eq!(bytes[8..], published[1].to_le_bytes()[..4]);
    }
}
