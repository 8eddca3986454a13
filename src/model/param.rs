//! The one table of parameters: names, shapes, order inside a unit, initialisation and weight decay.

use super::{Extra, ModelShape, Unit};

/// Tensors start at multiples of this many elements, and shards are padded to it.
pub const ALIGN: usize = 128;

/// Rounds a length up to [`ALIGN`].
pub const fn align(len: usize) -> usize {
    len.div_ceil(ALIGN) * ALIGN
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All ones (norm weights).
    Ones,
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
}

/// One tensor of a unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Its name in a Hugging Face checkpoint.
    pub name: String,
    /// Rows; a vector has one.
    pub rows: usize,
    /// Columns: the input features of a projection (`y = x Wᵀ`).
    pub cols: usize,
    /// Elements from the start of the unit's region.
    pub offset: usize,
    /// How it starts.
    pub init: Init,
    /// Whether AdamW decays it: tensors of two dimensions.
    pub decay: bool,
}

impl Param {
    /// Number of elements, unpadded.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Never true: shapes of size zero are refused.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shape as Hugging Face stores it: `[rows, cols]`, or `[cols]` for a vector.
    pub fn dims(&self) -> Vec<usize> {
        if self.decay { vec![self.rows, self.cols] } else { vec![self.cols] }
    }
}

/// Parameters of a block that only plans know.
fn extra(shape: &ModelShape) -> Vec<(String, (usize, usize, Init))> {
    let Extra { qkv_bias, out_bias, mlp_bias, qk_norm } = shape.extra;
    let list = [
        (qkv_bias, "self_attn.q_proj.bias", shape.q_dim()),
        (qkv_bias, "self_attn.k_proj.bias", shape.kv_dim()),
        (qkv_bias, "self_attn.v_proj.bias", shape.kv_dim()),
        (out_bias, "self_attn.o_proj.bias", shape.dim),
        (mlp_bias, "mlp.gate_proj.bias", shape.ffn),
        (mlp_bias, "mlp.up_proj.bias", shape.ffn),
        (mlp_bias, "mlp.down_proj.bias", shape.dim),
        (qk_norm, "self_attn.q_norm.weight", shape.head_dim),
        (qk_norm, "self_attn.k_norm.weight", shape.head_dim),
    ];
    list.into_iter().filter(|(has, ..)| *has).map(|(_, name, len)| (name.to_string(), (1, len, Init::Ones))).collect()
}

/// The tensors of a unit in the order of its region, offsets relative to the region's start; the second value is the
/// region's length (padded). Standard deviations follow GPT-2: 0.02, and 0.02/√(2 layers) for the two projections
/// that write into the residual stream.
pub fn unit_params(shape: &ModelShape, unit: Unit) -> (Vec<Param>, usize) {
    let (d, f, q, kv) = (shape.dim, shape.ffn, shape.q_dim(), shape.kv_dim());
    let normal = Init::Normal(0.02);
    let residual = Init::Normal(0.02 / (2.0 * shape.layers as f64).sqrt());
    let table = (shape.vocab, d, normal);
    let norm = (1, d, Init::Ones);
    let list: Vec<(String, (usize, usize, Init))> = match unit {
        Unit::Embed => vec![("model.embed_tokens.weight".into(), table)],
        Unit::Head if shape.tied => {
            vec![("model.embed_tokens.weight".into(), table), ("model.norm.weight".into(), norm)]
        }
        Unit::Head => vec![("lm_head.weight".into(), table), ("model.norm.weight".into(), norm)],
        Unit::Block(i) => [
            ("input_layernorm", norm),
            ("self_attn.q_proj", (q, d, normal)),
            ("self_attn.k_proj", (kv, d, normal)),
            ("self_attn.v_proj", (kv, d, normal)),
            ("self_attn.o_proj", (d, q, residual)),
            ("post_attention_layernorm", norm),
            ("mlp.gate_proj", (f, d, normal)),
            ("mlp.up_proj", (f, d, normal)),
            ("mlp.down_proj", (d, f, residual)),
        ]
        .into_iter()
        .map(|(name, shape)| (format!("{name}.weight"), shape))
        .chain(extra(shape))
        .map(|(name, shape)| (format!("model.layers.{i}.{name}"), shape))
        .collect(),
    };
    let mut offset = 0;
    let params = list
        .into_iter()
        .map(|(name, (rows, cols, init))| {
            let param = Param { name, rows, cols, offset, init, decay: init != Init::Ones };
            offset += align(rows * cols);
            param
        })
        .collect();
    (params, offset)
}
