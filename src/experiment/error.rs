//! What ends an experiment, as opposed to one of its cells.

use std::path::PathBuf;

use crate::cluster::DescriptionError;
use crate::deck::DeckError;
use crate::results::ResultError;

/// Why an experiment cannot be run; one line.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// The file cannot be read.
    #[error("{file}: cannot read the experiment: {reason}")]
    Read {
        /// The experiment.
        file: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// A key or value that is not accepted.
    #[error("{file}: {message}")]
    Invalid {
        /// The experiment.
        file: PathBuf,
        /// Key, what was found, and what is accepted.
        message: String,
    },
    /// A cell's deck is refused.
    #[error("{file}: {label}: {deck}")]
    Deck {
        /// The experiment.
        file: PathBuf,
        /// The system of the cell.
        label: String,
        /// The reason.
        deck: Box<DeckError>,
    },
    /// A description of a machine is refused.
    #[error(transparent)]
    Description(#[from] DescriptionError),
    /// There is no place to run.
    #[error("{0}")]
    Place(String),
    /// A result file.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// A program of ours could not be used.
    #[error("{what}: {reason}")]
    Program {
        /// What was tried.
        what: String,
        /// What went wrong.
        reason: String,
    },
}

impl ExperimentError {
    /// Whether the user can mend it in what was typed or in a file.
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, ExperimentError::Program { .. } | ExperimentError::Result(ResultError::Io { .. }))
    }
}
