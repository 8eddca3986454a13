//! A run folder, read back.

use std::path::{Path, PathBuf};

use crate::deck::{Deck, DeckError};
use crate::metrics::{History, MetricsError, Record, read_journal};

/// Why a folder cannot be reported on.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The folder's `deck.toml` is missing or refused.
    #[error("{0}; a run folder holds deck.toml and metrics.jsonl")]
    Deck(DeckError),
    /// The folder's `metrics.jsonl` is missing or damaged.
    #[error("{0}; a run folder holds deck.toml and metrics.jsonl")]
    Journal(MetricsError),
    /// The drawing cannot be written.
    #[error("{}: {reason}", path.display())]
    Drawing {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
}

impl ReportError {
    /// Whether the user named something that is no run (exit code 2), rather than the machine failing (exit code 1).
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, ReportError::Drawing { .. })
    }
}

/// A run: its deck and what its journal says.
#[derive(Debug)]
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// Its resolved deck.
    pub deck: Deck,
    /// Steps and validations in order.
    pub history: History,
}

impl Run {
    /// Reads `deck.toml` and `metrics.jsonl`.
    pub fn read(folder: &Path) -> Result<Run, ReportError> {
        let deck = Deck::read(&folder.join("deck.toml"), &[]).map_err(ReportError::Deck)?;
        let history = read_journal(&folder.join("metrics.jsonl")).map_err(ReportError::Journal)?;
        Ok(Run { folder: folder.to_path_buf(), deck, history })
    }

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
        use crate::data::TokenizerChoice::Bytes;
        let measured = self.history.validations.iter().map(|valid| valid.bits_per_byte / valid.valid_loss);
        let per_token = 1.0 / std::f64::consts::LN_2;
        match measured.into_iter().find(|factor| factor.is_finite()) {
            Some(factor) => (factor, "bits per byte"),
            None if self.deck.data.text.is_some() && self.deck.data.tokenizer == Bytes => (per_token, "bits per byte"),
            None => (per_token, "bits per token"),
        }
    }
}
