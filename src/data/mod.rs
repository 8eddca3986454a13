//! Token files, tokenizers, and which sequence a step sees.
//!
//! A [`Dataset`] answers one question: the inputs and targets of micro-batch m of step s. The answer depends on the
//! files, the seed, s and m alone, never on rank or world size, so that every system at every world size trains on the
//! same batches.

pub mod baseline;
mod cache;
mod dataset;
mod error;
mod formats;
mod permute;
mod request;
mod tokenizer;
mod tokens;
mod windows;

pub use cache::cache_folder;
pub use dataset::Dataset;
pub use error::DataError;
pub use permute::permute;
pub use request::{Order, Request, Source, TokenType, TokenizerChoice, Valid};
pub use tokenizer::Tokenizer;
pub use tokens::{TokenWriter, Tokens};
