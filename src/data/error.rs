//! What can be wrong with data; every message names the file.

use std::path::PathBuf;

/// Why data cannot be used. The program ends with exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file cannot be opened, read or written.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// Not a file.
    #[error("{}: is a {what}; a file is expected", path.display())]
    Kind {
        /// Which path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// No token in it.
    #[error("{}: the file is empty", .0.display())]
    Empty(PathBuf),
    /// Ends in the middle of a token.
    #[error("{}: {bytes} bytes are no multiple of the {width} bytes of a token; check data.token_type", path.display())]
    Ragged {
        /// Which file.
        path: PathBuf,
        /// Its size.
        bytes: usize,
        /// Bytes of a token.
        width: usize,
    },
    /// A file of ids in a format that is not read.
    #[error("{}: {reason}", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What it is, and what to do.
        reason: String,
    },
    /// An id the model does not know.
    #[error(
        "{}: token {position} has id {id}, but the vocabulary is 0 to {}; check model.vocab, data.tokenizer and data.token_type",
        path.display(), vocab - 1
    )]
    Vocabulary {
        /// Which file.
        path: PathBuf,
        /// Index of the token, from 0.
        position: usize,
        /// Its id.
        id: i64,
        /// Ids of the model.
        vocab: usize,
    },
    /// Not one whole sequence.
    #[error("{}: data.seq = {seq} needs {} tokens, but there are {have} to train on", path.display(), seq + 1)]
    Short {
        /// Which file.
        path: PathBuf,
        /// Tokens of a sequence.
        seq: usize,
        /// Tokens there are.
        have: usize,
    },
    /// Nothing to predict.
    #[error("{}: data.valid leaves {have} tokens to validate with; it takes at least 2", path.display())]
    NoValid {
        /// Which file.
        path: PathBuf,
        /// Tokens there are.
        have: usize,
    },
    /// The tokenizer's file is no tokenizer, or it fails on the text.
    #[error("{}: {reason}", path.display())]
    Tokenizer {
        /// Which file.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// Text that is not UTF-8 needs the byte tokenizer.
    #[error("{}: byte {position} is not UTF-8; data.tokenizer = \"bytes\" takes any file", path.display())]
    Encoding {
        /// Which file.
        path: PathBuf,
        /// Where, from 0.
        position: usize,
    },
}
