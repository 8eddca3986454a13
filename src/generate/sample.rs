//! From logits to a token.

use crate::random::SplitMix64;

/// Draws tokens; the same seed gives the same text.
#[derive(Clone, Debug)]
pub struct Sampler {
    temperature: f32,
    random: SplitMix64,
}

impl Sampler {
    /// Temperature 0 takes the likeliest token; 1 draws from the model's own distribution.
    pub fn new(temperature: f32, seed: u64) -> Self {
        Sampler { temperature, random: SplitMix64::new(seed) }
    }

    /// Draws a token from unnormalised log-probabilities, one a token.
    pub fn pick(&mut self, logits: &[f32]) -> u32 {
        let (best, top) =
            logits.iter().enumerate().fold((0, f32::MIN), |best, (i, l)| if *l > best.1 { (i, *l) } else { best });
        if self.temperature <= 0.0 {
            return best as u32;
        }
        let weights: Vec<f64> = logits.iter().map(|l| f64::from((l - top) / self.temperature).exp()).collect();
        let mut rest = self.random.uniform() * weights.iter().sum::<f64>();
        for (id, weight) in weights.iter().enumerate() {
            rest -= weight;
            if rest < 0.0 {
                return id as u32;
            }
        }
        best as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without temperature the likeliest token wins; with it, frequencies follow the softmax.
    #[test]
    fn draws_from_the_softmax() {
        assert_eq!(Sampler::new(0.0, 1).pick(&[0.0, 3.0, 1.0]), 1);
        let logits = [0.0, (3.0f32).ln()];
        let mut sampler = Sampler::new(1.0, 7);
        let ones = (0..4000).filter(|_| sampler.pick(&logits) == 1).count();
        // Expected 3000, standard deviation 27.
        assert!((2880..3120).contains(&ones), "{ones} of 4000");
        let mut again = Sampler::new(1.0, 7);
        let mut first = Sampler::new(1.0, 7);
        assert!((0..50).all(|_| again.pick(&logits) == first.pick(&logits)));
    }

    /// At any temperature the draws are of the softmax of the logits divided by it: each frequency within five standard
    /// deviations, and further than that from what another temperature would give.
    #[test]
    fn temperature_flattens_and_sharpens() {
        let logits = [1.5f32, -0.5, 0.0, 2.0, -3.0];
        let draws = 40_000;
        let softmax = |temperature: f64| {
            let weights = logits.map(|logit| (f64::from(logit) / temperature).exp());
            weights.map(|weight| weight / weights.iter().sum::<f64>())
        };
        for (temperature, others) in [(0.5, [0.4, 0.6]), (0.8, [0.7, 1.0]), (1.0, [0.8, 1.2]), (2.0, [1.6, 2.5])] {
            let mut sampler = Sampler::new(temperature, 3);
            let mut counts = [0.0; 5];
            (0..draws).for_each(|_| counts[sampler.pick(&logits) as usize] += 1.0);
            // The largest distance of a frequency from its probability, in standard deviations.
            let off = |temperature: f64| {
                let each = softmax(temperature).into_iter().zip(counts);
                let off =
                    each.map(|(p, n)| (n / f64::from(draws) - p).abs() / (p * (1.0 - p) / f64::from(draws)).sqrt());
                off.fold(0.0, f64::max)
            };
            assert!(off(f64::from(temperature)) < 5.0, "{counts:?} at {temperature}");
            for other in others {
                assert!(off(other) > 5.0, "{counts:?} at {temperature} could be {other}");
            }
        }
    }
}
