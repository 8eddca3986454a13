//! What a table can do: an interpolated Witten-Bell model of bytes, the bar a neural model must clear.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::random::STEP;

/// Longest context, so that context and next byte fit one 64-bit key beside their length.
pub const MAX_CONTEXT: usize = 6;

/// Multiplies: keys are already distinct numbers, and the standard hasher would take most of the time.
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = (key ^ (key >> 32)).wrapping_mul(STEP);
        self.0 ^= self.0 >> 32;
    }
}

/// What is known of a run of bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// How often it occurred.
    seen: u32,
    /// How often something followed it.
    followed: u32,
    /// By how many different bytes.
    kinds: u32,
}

/// Counts of all runs of up to `context + 1` bytes.
#[derive(Debug)]
pub struct WittenBell {
    context: usize,
    counts: HashMap<u64, Count, BuildHasherDefault<Spread>>,
}

/// A run of at most [`MAX_CONTEXT`] + 1 bytes as a number; the leading 1 tells lengths apart.
fn key(bytes: &[u8]) -> u64 {
    bytes.iter().fold(1, |key, byte| key << 8 | u64::from(*byte))
}

impl WittenBell {
    /// Counts a text with contexts of 0 to `context` bytes.
    ///
    /// # Panics
    /// If the context is longer than [`MAX_CONTEXT`].
    pub fn train(text: &[u8], context: usize) -> WittenBell {
        assert!(context <= MAX_CONTEXT, "contexts of at most {MAX_CONTEXT} bytes");
        let mut counts: HashMap<u64, Count, BuildHasherDefault<Spread>> = HashMap::default();
        for end in 0..text.len() {
            for length in 0..=context.min(end) {
                let run = counts.entry(key(&text[end - length..=end])).or_default();
                run.seen += 1;
                let new = run.seen == 1;
                let before = counts.entry(key(&text[end - length..end])).or_default();
                before.followed += 1;
                before.kinds += u32::from(new);
            }
        }
        WittenBell { context, counts }
    }

    /// Probability of a byte after `before`, of which the last `context` bytes count: from the uniform distribution up,
    /// each longer context h that was seen gives (count(h, byte) + kinds(h) · shorter) / (count(h) + kinds(h)).
    fn probability(&self, before: &[u8], byte: u8) -> f64 {
        let mut p = 1.0 / 256.0;
        for length in 0..=self.context.min(before.len()) {
            let context = key(&before[before.len() - length..]);
            // A run known only from the end of the text was never followed, nor was any longer one.
            let Some(count) = self.counts.get(&context).filter(|count| count.followed > 0) else { break };
            let seen = self.counts.get(&(context << 8 | u64::from(byte))).map_or(0, |run| run.seen);
            p = (f64::from(seen) + f64::from(count.kinds) * p) / (f64::from(count.followed) + f64::from(count.kinds));
        }
        p
    }

    /// Mean bits a byte of a text costs; its first bytes have a shorter context.
    pub fn bits_per_byte(&self, text: &[u8]) -> f64 {
        let bits: f64 = (0..text.len())
            .map(|at| -self.probability(&text[at.saturating_sub(self.context)..at], text[at]).log2())
            .sum();
        bits / text.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After any context the probabilities of the 256 bytes sum to 1: it is a model, not a score.
    #[test]
    fn probabilities_sum_to_one() {
        let model = WittenBell::train(b"in the beginning was the word, and the word was", 3);
        for before in [&b""[..], b"t", b"th", b"the", b"zzz", b" wo"] {
            let sum: f64 = (0..=255).map(|byte| model.probability(before, byte)).sum();
            assert!((sum - 1.0).abs() < 1e-12, "{sum} after {before:?}");
        }
    }

    /// Worked by hand: "abab" with one byte of context; p(b|a) = (2 + 1 p(b)) / 3, p(b) = (2 + 2/256) / 6.
    #[test]
    fn matches_a_hand_computation() {
        let model = WittenBell::train(b"abab", 1);
        let p_b = (2.0 + 2.0 / 256.0) / 6.0;
        assert!((model.probability(b"a", b'b') - (2.0 + p_b) / 3.0).abs() < 1e-15);
    }

    /// A text that repeats is nearly free once its rule has been seen.
    #[test]
    fn a_rule_is_learned() {
        let text: Vec<u8> = b"abcdefgh".iter().copied().cycle().take(8000).collect();
        assert!(WittenBell::train(&text, 2).bits_per_byte(&text) < 0.02);
    }
}
