//! Which updates are applied: none whose loss or gradient norm is not finite, and, if the deck asks for it, none whose norm
//! is an outlier.
//!
//! The decision itself falls where the weights are updated, by [`crate::plan::applies`] from the statistics that are summed
//! over all ranks; what is here knows it too, because the statistics come back from every step. So all ranks go the same way
//! without a message.

use crate::checkpoint::Position;
use crate::deck::{OnNonfinite, RunSection, Spike};
use crate::fabric::Control;

use super::{Session, StepResult};

/// Most updates in a row that are left out because something was not finite.
pub const MOST_IN_A_ROW: u64 = 10;

/// What a run does about updates that would ruin it.
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    on_nonfinite: OnNonfinite,
    spike: Option<Spike>,
}

/// What is to be done about a step's update.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It was applied.
    Applied,
    /// It was left out and the run goes on; the reason.
    Skipped(String),
    /// It was left out and the run ends; the reason.
    Stop(String),
}

impl Guard {
    /// What a deck asks for.
    pub fn new(run: &RunSection) -> Self {
        Guard { on_nonfinite: run.on_nonfinite, spike: run.spike }
    }

    /// Largest gradient norm whose update is applied next; infinity for any finite one.
    pub fn bound(&self, position: &Position) -> f64 {
        let Some(Spike { window, z }) = self.spike else { return f64::INFINITY };
        let norms = &position.norms;
        if norms.len() < window {
            return f64::INFINITY;
        }
        let count = norms.len() as f64;
        let mean = norms.iter().sum::<f64>() / count;
        let variance = norms.iter().map(|norm| (norm - mean).powi(2)).sum::<f64>() / count;
        mean + z * variance.sqrt()
    }

    /// Notes a step, and says what is to be done about its update.
    pub fn judge(&self, result: &StepResult, bound: f64, position: &mut Position) -> Verdict {
        if let Some(Spike { window, .. }) = self.spike.filter(|_| result.is_finite()) {
            position.norms.push(result.grad_norm);
            let old = position.norms.len().saturating_sub(window);
            position.norms.drain(..old);
        }
        if result.applied {
            position.updates += 1;
            position.skipped_in_a_row = 0;
            return Verdict::Applied;
        }
        position.skipped += 1;
        if result.is_finite() {
            position.skipped_in_a_row = 0;
            let norm = result.grad_norm;
            return Verdict::Skipped(format!("the gradient norm {norm:.4} is above {bound:.4} (run.spike)"));
        }
        position.skipped_in_a_row += 1;
        let what = what(result);
        match self.on_nonfinite {
            OnNonfinite::Stop => Verdict::Stop(what),
            OnNonfinite::Skip if position.skipped_in_a_row > MOST_IN_A_ROW => {
                Verdict::Stop(format!("{what}, after {MOST_IN_A_ROW} such steps in a row"))
            }
            OnNonfinite::Skip => Verdict::Skipped(what),
        }
    }
}

/// What of a step was not finite.
fn what(result: &StepResult) -> String {
    let StepResult { loss, grad_norm, .. } = result;
    match (loss.is_finite(), grad_norm.is_finite()) {
        (false, false) => format!("the loss is {loss} and the gradient norm {grad_norm}"),
        (false, true) => format!("the loss is {loss}"),
        _ => format!("the gradient norm is {grad_norm}"),
    }
}

/// Collective, after a step whose update was left out because something was not finite. Where in the gradient that was, on
/// rank 0; nothing if it was nowhere.
pub fn place(session: &Session, control: &dyn Control) -> anyhow::Result<Option<String>> {
    let found = session.nonfinite_gradients()?;
    let mine = serde_json::to_vec(&found).expect("plain data");
    let Some(all) = control.gather(&mine) else { return Ok(None) };
    let (mut tensors, mut bad, mut first) = (0, 0, None);
    for (rank, text) in all.iter().enumerate() {
        let (of, names): (usize, Vec<(usize, String)>) = serde_json::from_slice(text).expect("a rank sent this type");
        tensors += of;
        bad += names.len();
        let least = names.into_iter().min().map(|(shard, name)| (shard, name, rank));
        first = first.into_iter().chain(least).min();
    }
    Ok(first.map(|(shard, name, rank)| match bad == tensors {
        true => "in the gradients of all tensors".into(),
        false => format!("in the gradients of {bad} of {tensors} tensors, first {name} (shard {shard}, rank {rank})"),
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::engine::Measured;
    use crate::fabric::Sent;

    fn result(loss: f64, grad_norm: f64, applied: bool) -> StepResult {
        let measured =
            Measured { began: Instant::now(), seconds: 0.0, exposed: 0.0, sent: Sent::new(1), spans: Vec::new() };
        StepResult { loss, grad_norm, applied, measured }
    }

    fn guard(on_nonfinite: OnNonfinite, spike: Option<Spike>) -> Guard {
        Guard { on_nonfinite, spike }
    }

    /// `stop` stops at once; `skip` at the eleventh step in a row, and a good step between starts the count anew.
    #[test]
    fn ten_in_a_row_are_left_out() {
        let bad = result(f64::NAN, 1.0, false);
        let mut position = Position::default();
        let stop = guard(OnNonfinite::Stop, None).judge(&bad, f64::INFINITY, &mut position);
        assert_eq!(stop, Verdict::Stop("the loss is NaN".into()));
        let skip = guard(OnNonfinite::Skip, None);
        let mut position = Position::default();
        for _ in 0..3 {
            for _ in 0..10 {
                let verdict = skip.judge(&bad, f64::INFINITY, &mut position);
                assert!(matches!(verdict, Verdict::Skipped(_)), "{verdict:?}");
            }
            assert_eq!(skip.judge(&result(1.0, 1.0, true), f64::INFINITY, &mut position), Verdict::Applied);
        }
        assert_eq!((position.updates, position.skipped), (3, 30));
        for _ in 0..10 {
            skip.judge(&bad, f64::INFINITY, &mut position);
        }
        let last = skip.judge(&result(1.0, f64::INFINITY, false), f64::INFINITY, &mut position);
        assert_eq!(last, Verdict::Stop("the gradient norm is inf, after 10 such steps in a row".into()));
    }

    /// The bound is the mean plus z deviations of exactly the last `window` finite norms, and there is none before.
    #[test]
    fn spikes_are_measured_by_the_window() {
        let guard = guard(OnNonfinite::Skip, Some(Spike { window: 4, z: 2.0 }));
        let mut position = Position::default();
        for norm in [100.0, 1.0, 2.0] {
            guard.judge(&result(1.0, norm, true), f64::INFINITY, &mut position);
            assert_eq!(guard.bound(&position), f64::INFINITY);
        }
        for norm in [f64::NAN, 3.0, f64::INFINITY, 6.0] {
            guard.judge(&result(1.0, norm, norm.is_finite()), f64::INFINITY, &mut position);
        }
        assert_eq!(position.norms, [1.0, 2.0, 3.0, 6.0]);
        assert_eq!(guard.bound(&position), 3.0 + 2.0 * 3.5f64.sqrt());
        // An outlier is finite: it is left out, counts, and does not lengthen the row of those that are not.
        position.skipped_in_a_row = 9;
        let skipped = position.skipped;
        assert!(matches!(guard.judge(&result(1.0, 50.0, false), 6.7, &mut position), Verdict::Skipped(_)));
        assert_eq!((position.skipped, position.skipped_in_a_row), (skipped + 1, 0));
        assert_eq!(position.norms, [2.0, 3.0, 6.0, 50.0]);
    }
}
