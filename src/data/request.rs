//! What data a run wants.

use std::path::{Path, PathBuf};

/// Type of one token id in a file, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TokenType {
    /// One byte; a text file is such a file under the byte tokenizer.
    U8,
    /// Two bytes.
    U16,
    /// Four bytes, unsigned.
    U32,
    /// Four bytes, signed.
    I32,
}

impl TokenType {
    /// As decks write it.
    pub const fn name(self) -> &'static str {
        match self {
            TokenType::U8 => "u8",
            TokenType::U16 => "u16",
            TokenType::U32 => "u32",
            TokenType::I32 => "i32",
        }
    }

    /// Bytes of one id.
    pub const fn bytes(self) -> usize {
        match self {
            TokenType::U8 => 1,
            TokenType::U16 => 2,
            TokenType::U32 | TokenType::I32 => 4,
        }
    }

    /// Number of different ids that fit, counted from 0.
    pub const fn ids(self) -> u64 {
        match self {
            TokenType::U8 => 1 << 8,
            TokenType::U16 => 1 << 16,
            TokenType::U32 => 1 << 32,
            TokenType::I32 => 1 << 31,
        }
    }
}

/// Order in which sequences are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they stand in the file, and around again.
    Sequential,
    /// A new permutation every epoch.
    Random,
}

/// Where tokens come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Text, tokenised when opened.
    Text(PathBuf),
    /// Raw ids.
    Tokens(PathBuf, TokenType),
}

/// How text becomes token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerChoice {
    /// Every byte is a token; 256 of them.
    Bytes,
    /// A Hugging Face `tokenizer.json`.
    File(PathBuf),
}

impl TokenizerChoice {
    /// Name of the copy that a run keeps in its folder.
    pub const KEPT: &str = "tokenizer.json";

    /// The same, or the copy in this run folder if the file itself is gone.
    pub fn or_kept(&self, run: &Path) -> TokenizerChoice {
        let kept = run.join(Self::KEPT);
        match self {
            TokenizerChoice::File(path) if !path.exists() && kept.is_file() => {
                log::info!("{} is gone; its copy {} is used", path.display(), kept.display());
                TokenizerChoice::File(kept)
            }
            choice => choice.clone(),
        }
    }
}

/// What validates a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Valid {
    /// The last fraction of the tokens, from 0 (nothing) to below 1.
    Fraction(f64),
    /// A file of the same kind as the training data.
    File(PathBuf),
}

/// Everything a [`super::Dataset`] depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Where the tokens come from.
    pub source: Source,
    /// How text becomes ids.
    pub tokenizer: TokenizerChoice,
    /// What is kept for validation.
    pub valid: Valid,
    /// Order of training.
    pub order: Order,
    /// Seed of a random order.
    pub seed: u64,
    /// Tokens of a sequence.
    pub seq: usize,
    /// Sequences of a step.
    pub global: usize,
    /// Sequences of a micro-batch; divides `global`.
    pub micro: usize,
    /// Vocabulary of the model: every id must be below it.
    pub vocab: usize,
}
