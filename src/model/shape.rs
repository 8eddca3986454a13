//! The shape of a LLaMA and what makes one impossible.

use serde::{Deserialize, Serialize};

/// Dimensions of a LLaMA-style model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelShape {
    /// Hidden size.
    pub dim: usize,
    /// Number of decoder blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; `heads` is a multiple of it (grouped-query attention).
    pub kv_heads: usize,
    /// Size of one head; even, for rotary embedding.
    pub head_dim: usize,
    /// Inner size of SwiGLU.
    pub ffn: usize,
    /// Vocabulary size.
    pub vocab: usize,
    /// The output projection is the embedding table.
    pub tied: bool,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Epsilon inside RMSNorm's root.
    pub norm_eps: f64,
}

/// Why a shape is no model.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ShapeError {
    /// A size is zero.
    #[error("model.{0} is 0; it must be at least 1")]
    Zero(&'static str),
    /// Grouped-query attention needs whole groups.
    #[error("model.heads = {heads} is no multiple of model.kv_heads = {kv_heads}")]
    Groups {
        /// Query heads.
        heads: usize,
        /// Key/value heads.
        kv_heads: usize,
    },
    /// Rotary embedding turns pairs.
    #[error("model.head_dim = {0} is odd; rotary embedding needs an even head_dim")]
    OddHead(usize),
    /// A real-valued setting out of range.
    #[error("model.{key} = {value} must be a finite number above 0")]
    Real {
        /// Deck key.
        key: &'static str,
        /// What it was set to.
        value: f64,
    },
}

impl ModelShape {
    /// Checks that a model of this shape can exist.
    pub fn validate(&self) -> Result<(), ShapeError> {
        for (key, value) in [
            ("dim", self.dim),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("ffn", self.ffn),
            ("vocab", self.vocab),
        ] {
            if value == 0 {
                return Err(ShapeError::Zero(key));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(ShapeError::Groups { heads: self.heads, kv_heads: self.kv_heads });
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(ShapeError::OddHead(self.head_dim));
        }
        for (key, value) in [("rope_theta", self.rope_theta), ("norm_eps", self.norm_eps)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(ShapeError::Real { key, value });
            }
        }
        Ok(())
    }

    /// Width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Number of parameters, without padding; a tied head counts once.
    pub fn params(&self) -> usize {
        let block = 2 * self.dim + 2 * self.dim * (self.q_dim() + self.kv_dim()) + 3 * self.dim * self.ffn;
        let tables = if self.tied { 1 } else { 2 };
        self.layers * block + tables * self.vocab * self.dim + self.dim
    }

    /// Parameters that take part in matrix products: all but the embedding gather and the norms.
    pub fn matmul_params(&self) -> usize {
        let block = 2 * self.dim * (self.q_dim() + self.kv_dim()) + 3 * self.dim * self.ffn;
        self.layers * block + self.vocab * self.dim
    }

    /// Floating point operations a trained token costs, forward and backward, without recomputation:
    /// `6 P + A L q_dim S`, where A is 6 if attention is counted causal and 12 if counted full
    /// (PaLM, appendix B). Both are reported, because published numbers use either.
    pub fn flops_per_token(&self, seq: usize, causal: bool) -> f64 {
        let attention = if causal { 6.0 } else { 12.0 };
        6.0 * self.matmul_params() as f64 + attention * (self.layers * self.q_dim() * seq) as f64
    }
}
