//! What a device must be able to do: every operation the model is made of.

use std::ops::Range;

use super::{DeviceError, Matrix, Memory, View};
use crate::plan::Slot;

/// Sizes of a causal self-attention with grouped queries. A token's row of `qkv` holds `heads` queries, `kv_heads` keys
/// and `kv_heads` values of `head_dim` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Sequences.
    pub micro: usize,
    /// Tokens of each.
    pub seq: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of a head; even.
    pub head_dim: usize,
}

impl Attention {
    /// Elements of a token's row of queries, keys and values.
    pub fn row(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Rows: tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.micro * self.seq
    }

    /// Numbers of scratch that backward takes: a gradient of queries in f32, and one number a row and head.
    pub fn scratch(&self) -> usize {
        self.tokens() * self.heads * (self.head_dim + 1)
    }
}

/// Constants of AdamW; what varies from step to step lies in device memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, for tensors of two dimensions.
    pub weight_decay: f64,
}

/// One AdamW step on a run of elements; every view has the same length.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// Constants.
    pub rule: AdamW,
    /// Whether these elements decay.
    pub decay: bool,
    /// Read: learning rate, update number, clip, as [`crate::plan::step`] says (f64).
    pub step: View,
    /// Read: squared gradient norm, as [`crate::plan::stats`] says (f64).
    pub stats: View,
    /// Read: f32.
    pub gradient: View,
    /// Updated: f32.
    pub master: View,
    /// Updated: f32.
    pub moment1: View,
    /// Updated: f32.
    pub moment2: View,
    /// Written, if any: the new weights in this view's own type.
    pub home: Option<View>,
}

impl AdamWStep {
    /// The same step on elements `range` alone.
    pub fn part(&self, range: Range<usize>, decay: bool) -> Self {
        let part = |view: View| view.sub(range.clone());
        AdamWStep {
            decay,
            gradient: part(self.gradient),
            master: part(self.master),
            moment1: part(self.moment1),
            moment2: part(self.moment2),
            home: self.home.map(part),
            ..*self
        }
    }
}

/// Arithmetic on views of device memory. "T" is the compute type (f32 or bf16) of the views of one call; sums are taken
/// in f32 or better whatever T is. Every result is a function of the operands alone, not of the number of threads; except
/// for the backward of attention on a GPU that was told that any order of its sums will do.
///
/// # Panics
/// Operations panic when sizes or types do not fit: that is a defect of the caller, never of user input.
pub trait Device: Send + Sync {
    /// Memory that this device computes on, zeroed.
    ///
    /// # Errors
    /// If there is not that much.
    fn memory(&self, slots: &[Slot]) -> Result<Memory, DeviceError>;

    /// Waits until every operation so far is complete: a GPU computes while its host goes on.
    ///
    /// # Errors
    /// The first operation that failed; what followed it was not done.
    fn finish(&self) -> Result<(), DeviceError>;

    /// Runs several operations that follow each other. A processor's threads wake up once for all of them, not for each.
    fn together(&self, body: &mut (dyn FnMut() + Send)) {
        body();
    }

    /// `c = a·b`, or `c += a·b` with `add`. `a` and `b` have the same type (T), `c` has T or f32.
    fn matmul(&self, a: Matrix, b: Matrix, c: Matrix, add: bool);

    /// `out = x / rms(x) * weight` row by row (T), with `1 / rms` in `inverse_rms` (f32, one a row).
    fn rmsnorm(&self, x: View, weight: View, eps: f32, out: View, inverse_rms: View);

    /// `sum += x`, then [`Device::rmsnorm`] of `sum`, in one pass.
    fn add_rmsnorm(&self, x: View, sum: View, weight: View, eps: f32, out: View, inverse_rms: View);

    /// Backward of [`Device::rmsnorm`]: `dx = …`, or `dx += …` with `add`; `dweight` (f32) is overwritten or, with
    /// `add_weight`, added to. `scratch` holds [`crate::model::NORM_PARTS`] rows in f32.
    #[allow(clippy::too_many_arguments, reason = "each is a tensor of the operation")]
    fn rmsnorm_backward(
        &self,
        dout: View,
        x: View,
        weight: View,
        inverse_rms: View,
        dx: View,
        add: bool,
        dweight: View,
        add_weight: bool,
        scratch: View,
    );

    /// Rotary embedding in place, of the queries and keys in `qkv` (T): halves of a head are rotated against each other
    /// (Hugging Face's layout). `table` (f32) holds `head_dim / 2` cosines and as many sines a position. `inverse`
    /// rotates back, which is also the backward.
    fn rope(&self, shape: &Attention, qkv: View, table: View, inverse: bool);

    /// Causal softmax attention: `out` is `[tokens, heads * head_dim]` (T), `lse` `[micro, heads, seq]` (f32) the
    /// logarithm of each row's sum of exponentials.
    fn attention(&self, shape: &Attention, qkv: View, out: View, lse: View);

    /// Backward of [`Device::attention`], from its inputs and results: writes the gradient of `qkv`, laid out like it.
    /// `scratch` holds [`Attention::scratch`] numbers (f32) and starts at a multiple of 16 bytes.
    #[allow(clippy::too_many_arguments, reason = "each is a tensor of the operation")]
    fn attention_backward(
        &self,
        shape: &Attention,
        qkv: View,
        out: View,
        lse: View,
        dout: View,
        dqkv: View,
        scratch: View,
    );

    /// `out = silu(gate) * up`; a row of `gate_up` is a row of gate, then one of up (T).
    fn swiglu(&self, gate_up: View, out: Matrix);

    /// Backward of [`Device::swiglu`]: `d_gate_up` is written; `act` holds the gradient of the output and, with `remake`,
    /// becomes the output itself, which the product after it needs for its weight gradient.
    fn swiglu_backward(&self, gate_up: View, act: View, d_gate_up: View, width: usize, remake: bool);

    /// `out[i] = table[tokens[i]]`: rows of `dim` elements (T), tokens i32.
    fn embed(&self, table: View, tokens: View, out: View, dim: usize);

    /// `dtable[tokens[i]] += dout[i]` in the order of i; `dtable` is f32.
    fn embed_backward(&self, dout: View, tokens: View, dtable: View, dim: usize);

    /// Softmax cross-entropy of rows of `vocab` f32 logits: adds `scale * Σ nll` to `loss` (one f64); rows with a
    /// negative target (i32) count nothing. With `gradient`, the logits are overwritten by that matrix: their gradient,
    /// times `scale`; it lies in the same memory, row on row, in T. `scratch` is one f32 a row.
    fn cross_entropy(
        &self,
        logits: Matrix,
        targets: View,
        scale: f64,
        loss: View,
        scratch: View,
        gradient: Option<Matrix>,
    );

    /// One AdamW step as PyTorch defines it, with `gradient * min(1, clip / (norm + 1e-6))`.
    fn adamw(&self, step: &AdamWStep);

    /// `sum[0] += Σ x²`; x is f32, the sum is taken in f64.
    fn add_squares(&self, x: View, sum: View);

    /// `dst = src`, converted to `dst`'s type (f32 and bf16).
    fn cast(&self, src: View, dst: View);

    /// `dst += src`, added in f32 (f32 and bf16).
    fn accumulate(&self, src: View, dst: View);

    /// `dst = 0`.
    fn clear(&self, dst: View);
}
