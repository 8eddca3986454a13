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

/// Continues `prompt` by `count` tokens and returns prompt and continuation. The window slides when it is full.
///
/// # Errors
/// If the prompt has no token, or one that the model does not know.
pub fn generate<D: Device>(
    window: &mut Window<D>,
    tokenizer: &Tokenizer,
    sampler: &mut Sampler,
    prompt: &str,
    count: usize,
) -> anyhow::Result<String> {
    let mut ids = tokenizer.encode(prompt)?;
    anyhow::ensure!(!ids.is_empty(), "--prompt is empty; it must hold at least one token");
    let vocab = window.vocab();
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
        anyhow::bail!("--prompt holds token {id}, but the model knows only {vocab}: another tokenizer?");
    }
    for _ in 0..count {
        let from = ids.len().saturating_sub(window.seq());
        let logits = window.logits(&ids[from..])?;
        ids.push(sampler.pick(logits));
    }
    tokenizer.decode(&ids).context("decoding the text")
}
