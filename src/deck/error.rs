//! What can be wrong with a deck; every message is one line that names the file (or `--set`) and the key.

use std::path::PathBuf;

use crate::data::DataError;
use crate::model::ShapeError;

/// Why a deck is refused. The program ends with exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum DeckError {
    /// The file cannot be read.
    #[error("{file}: cannot read the deck: {reason}")]
    Read {
        /// The deck.
        file: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{file}, line {line}: {message}")]
    Syntax {
        /// The deck.
        file: PathBuf,
        /// Line number from 1.
        line: usize,
        /// What the parser expected.
        message: String,
    },
    /// A `--set` that is not `section.key=value`.
    #[error("--set {0}: write it as section.key=value, for example --set optim.lr=1e-3")]
    Set(String),
    /// A section or key that nothing reads.
    #[error("{origin}: unknown {what} {name}; {hint}")]
    Unknown {
        /// File, or `--set`.
        origin: String,
        /// `section` or `key`.
        what: &'static str,
        /// As typed, with its section.
        name: String,
        /// The nearest name, or all of them.
        hint: String,
    },
    /// A value of the wrong kind.
    #[error("{origin}: {key} = {found} is not accepted; it must be {accepts}")]
    Value {
        /// File, or `--set`.
        origin: String,
        /// Section and key.
        key: String,
        /// What was given, as TOML.
        found: String,
        /// What would be right.
        accepts: String,
    },
    /// Values that are fine alone but not together, or out of range.
    #[error("{file}: {message}")]
    Invalid {
        /// The deck.
        file: PathBuf,
        /// Names the keys and what they must satisfy.
        message: String,
    },
    /// No model of this shape can exist.
    #[error("{file}: {shape}")]
    Shape {
        /// The deck.
        file: PathBuf,
        /// The reason.
        shape: ShapeError,
    },
    /// The deck's tokenizer or data cannot be used.
    #[error("{file}: {data}")]
    Data {
        /// The deck.
        file: PathBuf,
        /// The reason.
        data: DataError,
    },
}

/// A hint for a mistyped name: the nearest of `names`, or all of them if none is near.
pub(super) fn nearest(typed: &str, prefix: &str, names: &[&str]) -> String {
    let best = names.iter().map(|name| (strsim::damerau_levenshtein(typed, name), name)).min();
    match best {
        Some((distance, name)) if distance <= 1 + typed.len().min(name.len()) / 3 => {
            format!("did you mean {prefix}{name}?")
        }
        _ => format!("accepted: {}", names.join(", ")),
    }
}
