//! The learning rate of a step.

use crate::deck::{OptimSection, Schedule};

/// Part of the run, at its end, in which `wsd` decays.
const WSD_DECAY: f64 = 0.2;

/// Learning rate of step `step` (from 0) of a run of `steps`.
///
/// The warm-up rises by equal amounts and reaches `lr` at its last step; decays reach `min_lr` at the last step of the
/// run.
pub fn learning_rate(optim: &OptimSection, step: u64, steps: u64) -> f64 {
    let OptimSection { lr, min_lr, warmup, .. } = *optim;
    if step < warmup {
        return lr * (step + 1) as f64 / warmup as f64;
    }
    // How much of the decay lies behind: 0 at its start, 1 at the last step.
    let behind = |start: f64| {
        let (now, end) = (step as f64, (steps - 1) as f64);
        if end > start { ((now - start) / (end - start)).clamp(0.0, 1.0) } else { 0.0 }
    };
    let start = warmup as f64;
    let left = match optim.schedule {
        Schedule::Constant => 1.0,
        Schedule::Linear => 1.0 - behind(start),
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * behind(start)).cos()),
        Schedule::Wsd => 1.0 - behind(start.max((1.0 - WSD_DECAY) * steps as f64)),
    };
    min_lr + (lr - min_lr) * left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule) -> Vec<f64> {
        let optim = OptimSection { lr: 1.0, min_lr: 0.1, warmup: 4, schedule, ..OptimSection::default() };
        (0..101).map(|step| learning_rate(&optim, step, 101)).collect()
    }

    /// Every schedule warms up linearly to `lr`; all but the constant end exactly at `min_lr`, none rises again.
    #[test]
    fn ends_are_exact() {
        for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine, Schedule::Wsd] {
            let rates = rates(schedule);
            assert_eq!(rates[..5], [0.25, 0.5, 0.75, 1.0, 1.0], "{schedule:?}");
            let end = if schedule == Schedule::Constant { 1.0 } else { 0.1 };
            assert!((rates[100] - end).abs() < 1e-12, "{schedule:?} ends at {}", rates[100]);
            assert!(rates[4..].windows(2).all(|pair| pair[1] <= pair[0]), "{schedule:?} rises");
        }
    }

    /// Known points in the middle: halfway between the ends for linear and cosine; flat for wsd until its last fifth.
    #[test]
    fn middles_are_known() {
        assert!((rates(Schedule::Linear)[52] - 0.55).abs() < 1e-12);
        assert!((rates(Schedule::Cosine)[52] - 0.55).abs() < 1e-12);
        assert_eq!(rates(Schedule::Wsd)[80], 1.0);
        assert!(rates(Schedule::Wsd)[82] < 1.0);
    }
}
