//! A run folder, read back.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::deck::{Deck, DeckError};

/// Why a folder cannot be reported on.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file of the run is missing or unreadable.
    #[error("{}: {reason}; a run folder holds deck.toml and metrics.jsonl", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// The journal has a line that is no record.
    #[error("{}, line {line}: {reason}", path.display())]
    Record {
        /// The journal.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The run's own deck is refused.
    #[error("{0}")]
    Deck(DeckError),
}

/// A training step of the journal.
#[derive(Clone, Debug)]
pub struct Step {
    /// From 1.
    pub step: u64,
    /// Nats a token.
    pub loss: f64,
    /// All the record's numbers by name.
    numbers: Map<String, Value>,
}

/// A validation of the journal.
#[derive(Clone, Debug)]
pub struct Validation {
    /// Steps trained before.
    pub step: u64,
    /// Nats a token.
    pub loss: f64,
    /// Bits a byte of text, where the tokenizer tells.
    pub bits_per_byte: Option<f64>,
}

/// A run: its deck and what its journal says.
#[derive(Debug)]
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// Its resolved deck.
    pub deck: Deck,
    /// Training steps in order.
    pub steps: Vec<Step>,
    /// Validations in order.
    pub valid: Vec<Validation>,
}

impl Run {
    /// Reads `deck.toml` and `metrics.jsonl`. A last line without its end is being written and is left out.
    pub fn read(folder: &Path) -> Result<Run, ReportError> {
        let deck_file = folder.join("deck.toml");
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|reason| ReportError::File { path: path.to_path_buf(), reason })
        };
        let deck = Deck::parse(&read(&deck_file)?, &deck_file, &[]).map_err(ReportError::Deck)?;
        let path = folder.join("metrics.jsonl");
        let journal = read(&path)?;
        let mut run = Run { folder: folder.to_path_buf(), deck, steps: Vec::new(), valid: Vec::new() };
        for (i, line) in journal.split_inclusive('\n').filter(|line| line.ends_with('\n')).enumerate() {
            run.record(line).map_err(|reason| ReportError::Record { path: path.clone(), line: i + 1, reason })?;
        }
        Ok(run)
    }

    /// A record is a validation if it has `valid_loss`, else a step; it may be both.
    fn record(&mut self, line: &str) -> Result<(), String> {
        let numbers: Map<String, Value> = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let number = |key: &str| numbers.get(key).and_then(Value::as_f64);
        let step = numbers.get("step").and_then(Value::as_u64).ok_or("a record without its step")?;
        if let Some(loss) = number("valid_loss") {
            self.valid.push(Validation { step, loss, bits_per_byte: number("bits_per_byte") });
        }
        if let Some(loss) = number("loss") {
            self.steps.push(Step { step, loss, numbers });
        }
        Ok(())
    }

    /// Median over the steps that have this number; the first step, which warms up, is left out if there are others.
    pub fn median(&self, key: &str) -> Option<f64> {
        let warm = if self.steps.len() > 1 { &self.steps[1..] } else { &self.steps };
        let mut values: Vec<f64> = warm.iter().filter_map(|step| step.numbers.get(key)?.as_f64()).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// What turns a loss into bits, and the unit: bits per byte where the tokenizer tells, else bits per token.
    pub fn bits(&self) -> (f64, &'static str) {
        use crate::data::TokenizerChoice::Bytes;
        let measured = self.valid.iter().find_map(|valid| Some(valid.bits_per_byte? / valid.loss));
        let per_token = 1.0 / std::f64::consts::LN_2;
        match measured {
            Some(factor) if factor.is_finite() => (factor, "bits per byte"),
            _ if self.deck.data.text.is_some() && self.deck.data.tokenizer == Bytes => (per_token, "bits per byte"),
            _ => (per_token, "bits per token"),
        }
    }
}
