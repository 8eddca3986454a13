//! The shape of a LLaMA and what makes one impossible.

use serde::{Deserialize, Serialize};

/// Largest hidden size that is accepted.
pub const MOST_DIM: usize = 1 << 20;
/// Most decoder blocks.
pub const MOST_LAYERS: usize = 10_000;
/// Most heads.
pub const MOST_HEADS: usize = 1 << 16;
/// Largest size of a head.
pub const MOST_HEAD_DIM: usize = 1 << 16;
/// Largest inner size of SwiGLU.
pub const MOST_FFN: usize = 1 << 24;
/// Largest vocabulary: token ids are 32-bit signed integers.
pub const MOST_VOCAB: usize = i32::MAX as usize;
/// Most parameters, some 10^15: with all sizes in range and this, no product of sizes of a model overflows.
const MOST_PARAMS: u128 = 1 << 50;

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
    /// Parameters that only a plan knows.
    #[serde(default, skip_serializing_if = "Extra::is_none")]
    pub extra: Extra,
}

/// Parameters of relatives of LLaMA, which plans count and nothing trains yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Extra {
    /// Biases of the projections to queries, keys and values.
    pub qkv_bias: bool,
    /// Bias of the projection out of attention.
    pub out_bias: bool,
    /// Biases of the three projections of SwiGLU.
    pub mlp_bias: bool,
    /// A norm over each head of queries and of keys.
    pub qk_norm: bool,
}

impl Extra {
    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        *self == Extra::default()
    }
}

/// Why a shape is no model.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ShapeError {
    /// A size is zero.
    #[error("model.{0} is 0; it must be at least 1")]
    Zero(&'static str),
    /// A size that no model has.
    #[error("model.{key} = {value} is too large; it must be at most {most}")]
    Large {
        /// Deck key.
        key: &'static str,
        /// What it was set to.
        value: usize,
        /// The largest that is accepted.
        most: usize,
    },
    /// Sizes that are fine alone, but not together.
    #[error(
        "the model has {0} parameters (model.dim, layers, heads, head_dim, ffn, vocab); at most {MOST_PARAMS} are possible"
    )]
    Params(u128),
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
        for (key, value, most) in [
            ("dim", self.dim, MOST_DIM),
            ("layers", self.layers, MOST_LAYERS),
            ("heads", self.heads, MOST_HEADS),
            ("kv_heads", self.kv_heads, MOST_HEADS),
            ("head_dim", self.head_dim, MOST_HEAD_DIM),
            ("ffn", self.ffn, MOST_FFN),
            ("vocab", self.vocab, MOST_VOCAB),
        ] {
            if value == 0 {
                return Err(ShapeError::Zero(key));
            }
            if value > most {
                return Err(ShapeError::Large { key, value, most });
            }
        }
        let wide = |value: usize| value as u128;
        let projections = 2 * wide(self.dim) * (wide(self.q_dim()) + wide(self.kv_dim()));
        let block = 2 * wide(self.dim) + projections + 3 * wide(self.dim) * wide(self.ffn);
        let params = wide(self.layers) * block + 2 * wide(self.vocab) * wide(self.dim) + wide(self.dim);
        if params > MOST_PARAMS {
            return Err(ShapeError::Params(params));
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
        let Extra { qkv_bias, out_bias, mlp_bias, qk_norm } = self.extra;
        let extra = [
            (qkv_bias, self.q_dim() + 2 * self.kv_dim()),
            (out_bias, self.dim),
            (mlp_bias, 2 * self.ffn + self.dim),
            (qk_norm, 2 * self.head_dim),
        ];
        let extra: usize = extra.iter().map(|(has, len)| usize::from(*has) * len).sum();
        let block = extra + 2 * self.dim + 2 * self.dim * (self.q_dim() + self.kv_dim()) + 3 * self.dim * self.ffn;
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
