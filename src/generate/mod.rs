//! Text from a model on disk, on one rank.
//!
//! Every new token runs the whole context again: there is no key/value cache. That is a sample for the eye, not a
//! server; a context is at most the window given.

mod model;
mod sample;

pub use model::{Model, Window};
pub use sample::Sampler;

use anyhow::Context;

use crate::data::Tokenizer;
use crate::device::Device;

/// Why a model cannot continue a text. The program ends with exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// Nothing to continue.
    #[error("--prompt is empty; it must hold at least one token")]
    Empty,
    /// Another tokenizer than the model's.
    #[error("--prompt holds token {id}, but the model knows only {vocab}: another tokenizer?")]
    Unknown {
        /// The id.
        id: u32,
        /// Ids of the model.
        vocab: usize,
    },
    /// Nothing can be drawn.
    #[error("the model's predictions are not finite numbers: its weights are of no use")]
    NotFinite,
}

/// Continues `prompt` by `count` tokens and returns prompt and continuation. The window slides when it is full.
///
/// # Errors
/// [`GenerateError`], or if the device fails.
pub fn generate<D: Device>(
    window: &mut Window<D>,
    tokenizer: &Tokenizer,
    sampler: &mut Sampler,
    prompt: &str,
    count: usize,
) -> anyhow::Result<String> {
    let mut ids = tokenizer.encode(prompt)?;
    anyhow::ensure!(!ids.is_empty(), GenerateError::Empty);
    let vocab = window.vocab();
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
        anyhow::bail!(GenerateError::Unknown { id: *id, vocab });
    }
    for _ in 0..count {
        let from = ids.len().saturating_sub(window.seq());
        let logits = window.logits(&ids[from..])?;
        anyhow::ensure!(logits.iter().all(|logit| logit.is_finite()), GenerateError::NotFinite);
        ids.push(sampler.pick(logits));
    }
    tokenizer.decode(&ids).context("decoding the text")
}
