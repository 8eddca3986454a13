//! Defaults that depend on other keys, and what must hold between keys.

use crate::data::Tokenizer;

use super::section::Origin;
use super::{BatchSection, Deck, DeckError, ModelSection, OptimSection, RunSection};

/// Base of the rotary frequencies in LLaMA.
const ROPE_THETA: f64 = 10_000.0;
/// Epsilon of RMSNorm in LLaMA.
const NORM_EPS: f64 = 1e-5;

/// Largest setting of the optimizer.
const MOST: f64 = 1e6;
/// Largest learning rate, and largest bound on a gradient norm: an f32 holds it.
const MOST_NORM: f64 = 1e30;

impl Deck {
    /// Fills in the model and checks everything that can be checked before a file of data is opened.
    pub(super) fn resolve(&mut self, origin: &Origin) -> Result<(), DeckError> {
        self.data(origin)?;
        self.resolve_model(origin)?;
        self.batch.check(origin)?;
        self.optim.check(origin)?;
        self.run.check(origin)?;
        // Of every step and every token the number is known, as a whole number of 64 bits with a sign.
        let tokens = self.run.steps as u128 * self.batch.global as u128 * self.data.seq as u128;
        if tokens > i64::MAX as u128 {
            return Err(origin.invalid(format!(
                "run.steps x batch.global x data.seq are {tokens} tokens; at most {} are possible",
                i64::MAX
            )));
        }
        Ok(())
    }

    fn data(&self, origin: &Origin) -> Result<(), DeckError> {
        let data = &self.data;
        match (&data.text, &data.tokens) {
            (Some(_), Some(_)) => return Err(origin.invalid("data.text and data.tokens exclude each other")),
            (None, None) => {
                return Err(origin.invalid("data.text (a text file) or data.tokens (a file of token ids) is required"));
            }
            _ => {}
        }
        Ok(())
    }

    fn resolve_model(&mut self, origin: &Origin) -> Result<(), DeckError> {
        if self.model.from.is_some() {
            if let Some(key) = self.model.shape_keys().first() {
                return Err(origin.invalid(format!("model.from replaces the shape; remove model.{key}")));
            }
            return Ok(());
        }
        let model = &mut self.model;
        for (key, value) in [("dim", model.dim), ("layers", model.layers), ("heads", model.heads)] {
            if value.is_none() {
                return Err(origin.invalid(format!("model.{key} is required (or model.from)")));
            }
        }
        let (Some(dim), Some(heads)) = (model.dim, model.heads) else { unreachable!("checked above") };
        model.kv_heads.get_or_insert(heads);
        if model.head_dim.is_none() && dim % heads != 0 {
            return Err(origin.invalid(format!(
                "model.dim = {dim} is no multiple of model.heads = {heads}; change one or set model.head_dim"
            )));
        }
        model.head_dim.get_or_insert(dim / heads);
        model.ffn.get_or_insert((8 * dim).div_ceil(3).next_multiple_of(16));
        model.tied.get_or_insert(false);
        model.rope_theta.get_or_insert(ROPE_THETA);
        model.norm_eps.get_or_insert(NORM_EPS);
        if self.model.vocab.is_none() {
            let tokenizer = Tokenizer::load(&self.tokenizer())
                .map_err(|data| DeckError::Data { file: origin.file.clone(), data })?;
            let (vocab, unused) = (tokenizer.vocab(), tokenizer.unused());
            if unused > 0 {
                log::info!("model.vocab = {vocab}: the tokenizer's largest id and 1; {unused} ids below it are unused");
            }
            self.model.vocab = Some(vocab);
        }
        let shape = self.model.shape().expect("every key is filled in");
        shape.validate().map_err(|shape| DeckError::Shape { file: origin.file.clone(), shape })
    }
}

impl ModelSection {
    /// Keys of the shape that the deck gives.
    fn shape_keys(&self) -> Vec<String> {
        use super::Section;
        self.write().keys().filter(|key| *key != "from").cloned().collect()
    }
}

impl BatchSection {
    fn check(&self, origin: &Origin) -> Result<(), DeckError> {
        let BatchSection { global, micro } = *self;
        if global % micro != 0 {
            return Err(origin.invalid(format!("batch.global = {global} is no multiple of batch.micro = {micro}")));
        }
        Ok(())
    }
}

impl OptimSection {
    fn check(&self, origin: &Origin) -> Result<(), DeckError> {
        let range = |key: &str, value: f64, fine: bool, want: &str| {
            if fine { Ok(()) } else { Err(origin.invalid(format!("optim.{key} = {value} must be {want}"))) }
        };
        range("lr", self.lr, self.lr > 0.0 && self.lr <= MOST_NORM, "above 0 and at most 1e30")?;
        for beta in self.betas {
            range("betas", beta, (0.0..1.0).contains(&beta), "from 0 to below 1")?;
        }
        range("eps", self.eps, self.eps > 0.0 && self.eps <= MOST, "above 0 and at most 1e6")?;
        range("weight_decay", self.weight_decay, (0.0..=MOST).contains(&self.weight_decay), "from 0 to 1e6")?;
        range("clip", self.clip, (0.0..=MOST_NORM).contains(&self.clip), "from 0 (no clipping) to 1e30")?;
        range("min_lr", self.min_lr, (0.0..=self.lr).contains(&self.min_lr), "from 0 to optim.lr")?;
        Ok(())
    }
}

impl RunSection {
    fn check(&self, origin: &Origin) -> Result<(), DeckError> {
        if !self.checkpoint && self.checkpoint_every > 0 {
            let every = self.checkpoint_every;
            return Err(origin.invalid(format!(
                "run.checkpoint = false excludes run.checkpoint_every = {every}; remove one of them"
            )));
        }
        Ok(())
    }
}
