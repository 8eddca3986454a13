//! What a rank's time goes to, and how much of it is useful.

use serde::Serialize;

use crate::model::ModelShape;

/// What a rank's time goes to; the three add up to the iteration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RankUse {
    /// Seconds in which the compute lane computes.
    pub busy: f64,
    /// Seconds in which it waits while something moves to or from the rank: communication that nothing hides.
    pub exposed: f64,
    /// Seconds in which it waits for others who are not ready: the bubble.
    pub idle: f64,
}

/// Adds up a rank's time while it is simulated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    computing: bool,
    moving: usize,
    since: f64,
    busy: f64,
    exposed: f64,
    /// When the last op was complete.
    pub end: f64,
}

impl Meter {
    fn note(&mut self, now: f64) {
        let passed = now - self.since;
        if self.computing {
            self.busy += passed;
        } else if self.moving > 0 {
            self.exposed += passed;
        }
        self.since = now;
    }

    /// The compute lane starts or ends an op.
    pub fn compute(&mut self, now: f64, computing: bool) {
        self.note(now);
        self.computing = computing;
    }

    /// Something starts or ends moving to or from this rank.
    pub fn moves(&mut self, now: f64, more: bool) {
        self.note(now);
        if more {
            self.moving += 1;
        } else {
            self.moving -= 1;
        }
    }

    /// The table's line for an iteration of this length.
    pub fn over(&self, step_s: f64) -> RankUse {
        RankUse { busy: self.busy, exposed: self.exposed, idle: (step_s - self.busy - self.exposed).max(0.0) }
    }
}

/// Model FLOP utilisation: useful operations, without recomputation, over the device's peak.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mfu {
    /// Attention counted as far as it is causal.
    pub causal: f64,
    /// Attention counted in full, as some publications do.
    pub full: f64,
}

impl Mfu {
    /// At this speed and peak.
    pub fn of(shape: &ModelShape, seq: usize, tokens_per_s: f64, peak: f64) -> Self {
        let of = |causal| flops_per_token(shape, seq, causal) * tokens_per_s / peak;
        Mfu { causal: of(true), full: of(false) }
    }
}

/// Operations of forward and backward a token: 6 a parameter in products, and 12 (causal: 6) a block, head width and
/// position of attention.
pub fn flops_per_token(shape: &ModelShape, seq: usize, causal: bool) -> f64 {
    let attention = if causal { 6.0 } else { 12.0 };
    6.0 * shape.matmul_params() as f64 + attention * (shape.layers * shape.q_dim() * seq) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rank that waits is exposed to communication while something moves to or from it, and idle otherwise; what moves
    /// while it computes is hidden.
    #[test]
    fn waiting_is_exposed_or_idle() {
        let mut meter = Meter::default();
        meter.moves(1.0, true);
        meter.compute(3.0, true);
        meter.moves(4.0, false);
        meter.moves(5.0, true);
        meter.compute(6.0, false);
        meter.moves(7.0, false);
        // Idle in the first second and from 7 to 10, exposed from 1 to 3 and from 6 to 7.
        assert_eq!(meter.over(10.0), RankUse { busy: 3.0, exposed: 3.0, idle: 4.0 });
    }
}
