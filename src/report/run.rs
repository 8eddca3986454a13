//! What is reported of a run.

use std::path::PathBuf;

use crate::metrics::{History, Record};

/// What a table model achieves on a run's validation text.
#[derive(Clone, Debug, PartialEq)]
pub struct Baseline {
    /// For legends and tables.
    pub name: String,
    /// Bits per byte.
    pub bits: f64,
}

/// A run, read back.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its folder.
    pub folder: PathBuf,
    /// Its parallel system.
    pub system: String,
    /// Whether its tokens are the bytes of a text.
    pub bytes: bool,
    /// Steps and validations in order.
    pub history: History,
    /// What it is compared with.
    pub baselines: Vec<Baseline>,
}

impl Run {
    /// The folder's own name.
    pub fn name(&self) -> String {
        let whole = || self.folder.display().to_string();
        self.folder.file_name().map_or_else(whole, |name| name.to_string_lossy().into_owned())
    }

    /// Median of a number over the steps that know it; the first step, which warms up, is left out if there are others.
    pub fn median(&self, number: impl Fn(&Record) -> f64) -> Option<f64> {
        let steps = &self.history.steps;
        let warm = if steps.len() > 1 { &steps[1..] } else { steps };
        let mut values: Vec<f64> = warm.iter().map(number).filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// What turns a loss into bits, and the unit: bits per byte where the tokenizer tells, else bits per token.
    pub fn bits(&self) -> (f64, &'static str) {
        let mut measured = self.history.validations.iter().map(|valid| valid.bits_per_byte / valid.valid_loss);
        let per_token = 1.0 / std::f64::consts::LN_2;
        match measured.find(|factor| factor.is_finite()) {
            Some(factor) => (factor, "bits per byte"),
            None => (per_token, if self.bytes { "bits per byte" } else { "bits per token" }),
        }
    }
}
