//! What can go wrong with files of weights. Every error is one line for the user.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Whether a file was read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// Reading.
    Read,
    /// Writing.
    Write,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Read => "read",
            Direction::Write => "write",
        })
    }
}

/// Why weights could not be read or written. Serialisable, because the ranks tell each other.
#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("{path}: cannot {direction}: {reason}")]
    Io {
        /// Which file or folder.
        path: String,
        /// Reading or writing.
        direction: Direction,
        /// The system's words.
        reason: String,
    },
    /// The file is not what was once written there, or no such file at all.
    #[error("{path}: {problem}")]
    Damaged {
        /// Which file.
        path: String,
        /// What was found.
        problem: String,
    },
    /// A key of a configuration file cannot be used.
    #[error("{path}: {key} {problem}")]
    Setting {
        /// Which file.
        path: String,
        /// Which key.
        key: String,
        /// What is wrong with it, and what is accepted.
        problem: String,
    },
    /// A sound file, but of another model.
    #[error("{path}: is of another model: it has {key} = {found}, this run needs {wanted}")]
    OtherModel {
        /// Which file.
        path: String,
        /// Deck key of the first difference.
        key: String,
        /// In the file.
        found: String,
        /// In the run.
        wanted: String,
    },
    /// A tensor is missing, unknown, or of another shape or type.
    #[error("{path}: tensor {name} {problem}")]
    Tensor {
        /// Which file.
        path: String,
        /// Which tensor.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A value that would be written is no number.
    #[error("{tensor} is not finite at element {element}; no checkpoint is written from it")]
    NotFinite {
        /// Which tensor, with the state it is of.
        tensor: String,
        /// Its first such element, row by row.
        element: usize,
    },
    /// The pieces that the ranks hold do not make up the model; a defect of the caller.
    #[error("the ranks' pieces do not make up the model: {0}")]
    Pieces(String),
    /// Nothing to continue from.
    #[error("{folder}: no checkpoint to continue from{}", .tried.iter().map(|t| format!("; {t}")).collect::<String>())]
    NoCheckpoint {
        /// Where it was looked for.
        folder: String,
        /// Why each file that was there could not be used.
        tried: Vec<String>,
    },
    /// Built without the `hdf5` feature.
    #[error("{path}: this tawpipe was built without the feature hdf5, which checkpoints need")]
    NoHdf5 {
        /// Which file was asked for.
        path: String,
    },
    /// An error that some ranks met and all ranks return.
    #[error("{error} (on rank {rank}{})", if *.others == 0 { String::new() } else { format!(" and {} more", .others) })]
    OnRank {
        /// The first rank that met one.
        rank: usize,
        /// How many more ranks met one.
        others: usize,
        /// What that rank met.
        error: Box<CheckpointError>,
    },
}

impl CheckpointError {
    /// Whether the user gave something unusable (exit code 2), rather than the machine failing (exit code 1).
    pub fn is_bad_input(&self) -> bool {
        match self {
            CheckpointError::Io { direction, .. } => *direction == Direction::Read,
            CheckpointError::Pieces(_) | CheckpointError::NotFinite { .. } => false,
            CheckpointError::OnRank { error, .. } => error.is_bad_input(),
            _ => true,
        }
    }

    /// Whether another checkpoint of the same run might still be good.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            CheckpointError::Io { direction, .. } => *direction == Direction::Read,
            CheckpointError::Damaged { .. } | CheckpointError::Tensor { .. } => true,
            CheckpointError::OnRank { error, .. } => error.is_damage(),
            _ => false,
        }
    }

    /// For `map_err` on reads.
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                CheckpointError::Damaged { path, problem: "is truncated: it ends before its last tensor".into() }
            }
            _ => CheckpointError::Io { path, direction: Direction::Read, reason: reason(&error) },
        }
    }

    /// For `map_err` on writes.
    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |error| CheckpointError::Io { path, direction: Direction::Write, reason: reason(&error) }
    }

    pub(super) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        CheckpointError::Damaged { path: path.display().to_string(), problem: problem.into() }
    }

    pub(super) fn tensor(path: &Path, name: &str, problem: impl Into<String>) -> Self {
        CheckpointError::Tensor { path: path.display().to_string(), name: name.into(), problem: problem.into() }
    }

    pub(super) fn setting(path: &Path, key: &str, problem: impl Into<String>) -> Self {
        CheckpointError::Setting { path: path.display().to_string(), key: key.into(), problem: problem.into() }
    }

    pub(super) fn no_checkpoint(folder: &Path, tried: Vec<String>) -> Self {
        CheckpointError::NoCheckpoint { folder: PathBuf::from(folder).display().to_string(), tried }
    }
}

/// The system's words without "(os error 28)".
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_string()
}
