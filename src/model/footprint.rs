//! How many bytes a unit's forward keeps for its backward, and how many it needs while it runs.
//!
//! The sizes follow from layouts: which tensors lie in a slot and where. `nn` takes its tensors from the same layouts,
//! so that a size can be neither forgotten nor guessed.

use serde::{Deserialize, Serialize};

use super::{Dtype, ModelShape, Unit};

/// What is kept between a block's forward and its backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Keep everything backward reads.
    None,
    /// Keep what a product or attention made; make normalised inputs and SwiGLU's result, which only pass over memory,
    /// again.
    #[default]
    Selective,
    /// Keep only the block's input and run its forward again before its backward.
    Block,
}

impl Recompute {
    /// Whether forward leaves anything but its result.
    pub fn forward_keeps(self) -> bool {
        self != Recompute::Block
    }
}

/// Memory of one unit on one micro-batch, in bytes; every device obeys it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Kept from forward (or recomputation) until backward, beside the unit's input.
    pub saved: usize,
    /// Kept between the two halves of a split backward.
    pub pending: usize,
    /// Scratch while any op of the unit runs.
    pub workspace: usize,
}

/// Bytes a unit needs for a micro-batch of `micro` sequences of `seq` tokens. Linear in `seq`.
pub fn footprint(
    shape: &ModelShape,
    unit: Unit,
    dtype: Dtype,
    recompute: Recompute,
    micro: usize,
    seq: usize,
) -> Footprint {
    let tokens = micro * seq;
    match unit {
        Unit::Embed => Footprint { saved: 0, pending: 0, workspace: 0 },
        Unit::Block(_) => Footprint {
            saved: BlockSaved::new(shape, dtype, recompute, tokens).bytes,
            pending: BlockPending::new(shape, dtype, tokens).bytes,
            workspace: BlockForward::new(shape, dtype, tokens)
                .bytes
                .max(BlockEvaluate::new(shape, dtype, tokens).bytes)
                .max(BlockBackward::new(shape, dtype, tokens).bytes),
        },
        Unit::Head => Footprint { saved: 0, pending: 0, workspace: HeadWork::new(shape, dtype, tokens).bytes },
    }
}

/// A tensor's place in a slot of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// First byte.
    pub offset: usize,
    /// Number of elements.
    pub elems: usize,
    /// Their type.
    pub dtype: Dtype,
}

/// Tensors laid one after the other, each at the start of a cache line.
#[derive(Clone, Copy, Debug, Default)]
struct Layout {
    bytes: usize,
}

impl Layout {
    fn take(&mut self, elems: usize, dtype: Dtype) -> Field {
        let field = Field { offset: self.bytes, elems, dtype };
        self.bytes += (elems * dtype.bytes()).next_multiple_of(64);
        field
    }

    /// Two ways to use the same bytes, one after the other in time.
    fn either(&mut self, other: Layout) {
        self.bytes = self.bytes.max(other.bytes);
    }
}

/// What a block's backward reads beside its input and its weights.
#[derive(Clone, Copy, Debug)]
pub struct BlockSaved {
    /// `[tokens, q + 2 kv]` (T): rotated queries and keys, and values.
    pub qkv: Field,
    /// `[tokens, q]` (T): attention's result.
    pub attention: Field,
    /// `[micro, heads, seq]` (f32): attention's log-sums.
    pub lse: Field,
    /// `[tokens, dim]` (T): the input plus the attention branch.
    pub middle: Field,
    /// `[tokens, 2 ffn]` (T).
    pub gate_up: Field,
    /// `[tokens]` (f32): of the input.
    pub inverse_rms1: Field,
    /// `[tokens]` (f32): of the middle.
    pub inverse_rms2: Field,
    /// What backward makes again if it is not here.
    pub cheap: Option<BlockCheap>,
    /// All of it.
    pub bytes: usize,
}

/// Arguments of projections that only pass over memory to be made.
#[derive(Clone, Copy, Debug)]
pub struct BlockCheap {
    /// `[tokens, dim]` (T): the normalised input.
    pub norm1: Field,
    /// `[tokens, dim]` (T): the normalised middle.
    pub norm2: Field,
    /// `[tokens, ffn]` (T): SwiGLU's result.
    pub act: Field,
}

impl BlockSaved {
    /// For `tokens` tokens computed in `dtype` (T); with [`Recompute::Block`] what making them again leaves.
    pub fn new(shape: &ModelShape, dtype: Dtype, recompute: Recompute, tokens: usize) -> Self {
        let mut layout = Layout::default();
        BlockSaved {
            qkv: layout.take(tokens * (shape.q_dim() + 2 * shape.kv_dim()), dtype),
            attention: layout.take(tokens * shape.q_dim(), dtype),
            lse: layout.take(tokens * shape.heads, Dtype::F32),
            middle: layout.take(tokens * shape.dim, dtype),
            gate_up: layout.take(tokens * 2 * shape.ffn, dtype),
            inverse_rms1: layout.take(tokens, Dtype::F32),
            inverse_rms2: layout.take(tokens, Dtype::F32),
            cheap: (recompute == Recompute::None).then(|| BlockCheap {
                norm1: layout.take(tokens * shape.dim, dtype),
                norm2: layout.take(tokens * shape.dim, dtype),
                act: layout.take(tokens * shape.ffn, dtype),
            }),
            bytes: layout.bytes,
        }
    }
}

/// Scratch of a block's forward that keeps what backward reads, but for [`BlockCheap`].
#[derive(Clone, Copy, Debug)]
pub struct BlockForward {
    /// `[tokens, dim]` (T): a norm's result.
    pub norm: Field,
    /// `[tokens, ffn]` (T): SwiGLU's result.
    pub act: Field,
    /// All of it.
    pub bytes: usize,
}

impl BlockForward {
    /// For `tokens` tokens computed in `dtype` (T).
    pub fn new(shape: &ModelShape, dtype: Dtype, tokens: usize) -> Self {
        let mut layout = Layout::default();
        BlockForward {
            norm: layout.take(tokens * shape.dim, dtype),
            act: layout.take(tokens * shape.ffn, dtype),
            bytes: layout.bytes,
        }
    }
}

/// Scratch of a block's forward that keeps nothing: the attention's tensors and SwiGLU's share their place.
#[derive(Clone, Copy, Debug)]
pub struct BlockEvaluate {
    /// `[tokens, dim]` (T): a norm's result.
    pub norm: Field,
    /// `[tokens]` (f32).
    pub inverse_rms: Field,
    /// `[micro, heads, seq]` (f32).
    pub lse: Field,
    /// `[tokens, q + 2 kv]` (T).
    pub qkv: Field,
    /// `[tokens, q]` (T).
    pub attention: Field,
    /// `[tokens, 2 ffn]` (T), after the attention; its first half becomes SwiGLU's result.
    pub gate_up: Field,
    /// All of it.
    pub bytes: usize,
}

impl BlockEvaluate {
    /// For `tokens` tokens computed in `dtype` (T).
    pub fn new(shape: &ModelShape, dtype: Dtype, tokens: usize) -> Self {
        let mut layout = Layout::default();
        let norm = layout.take(tokens * shape.dim, dtype);
        let inverse_rms = layout.take(tokens, Dtype::F32);
        let lse = layout.take(tokens * shape.heads, Dtype::F32);
        let mut later = layout;
        let qkv = layout.take(tokens * (shape.q_dim() + 2 * shape.kv_dim()), dtype);
        let attention = layout.take(tokens * shape.q_dim(), dtype);
        let gate_up = later.take(tokens * 2 * shape.ffn, dtype);
        layout.either(later);
        BlockEvaluate { norm, inverse_rms, lse, qkv, attention, gate_up, bytes: layout.bytes }
    }
}

/// Scratch of a block's backward: SwiGLU's tensors and the attention's share their place.
#[derive(Clone, Copy, Debug)]
pub struct BlockBackward {
    /// `[tokens, dim]` (T): a norm's result, computed again if it was not kept.
    pub norm: Field,
    /// `[tokens, dim]` (T): gradient of it.
    pub d_norm: Field,
    /// `[tokens]` (f32): of the norm computed again; what was saved is not written to.
    pub inverse_rms: Field,
    /// `[8, dim]` (f32): partial gradients of a norm's weight.
    pub parts: Field,
    /// `[tokens, ffn]` (T): gradient of SwiGLU's result; then the result, if it was not kept.
    pub act: Field,
    /// `[tokens, 2 ffn]` (T).
    pub d_gate_up: Field,
    /// `[tokens, q]` (T).
    pub d_attention: Field,
    /// `[tokens, q + 2 kv]` (T).
    pub d_qkv: Field,
    /// `[tokens, q]` and `[micro, heads, seq]` (f32): sums of the queries' gradient, where a device takes them in any order,
    /// and products of attention's result and its gradient.
    pub attention: Field,
    /// All of it.
    pub bytes: usize,
}

/// Partial sums of a norm weight's gradient.
pub const NORM_PARTS: usize = 8;

impl BlockBackward {
    /// For `tokens` tokens computed in `dtype` (T).
    pub fn new(shape: &ModelShape, dtype: Dtype, tokens: usize) -> Self {
        let mut layout = Layout::default();
        let norm = layout.take(tokens * shape.dim, dtype);
        let d_norm = layout.take(tokens * shape.dim, dtype);
        let inverse_rms = layout.take(tokens, Dtype::F32);
        let parts = layout.take(NORM_PARTS * shape.dim, Dtype::F32);
        let mut later = layout;
        let act = layout.take(tokens * shape.ffn, dtype);
        let d_gate_up = layout.take(tokens * 2 * shape.ffn, dtype);
        let d_attention = later.take(tokens * shape.q_dim(), dtype);
        let d_qkv = later.take(tokens * (shape.q_dim() + 2 * shape.kv_dim()), dtype);
        let attention = later.take(tokens * (shape.q_dim() + shape.heads), Dtype::F32);
        layout.either(later);
        let bytes = layout.bytes;
        BlockBackward { norm, d_norm, inverse_rms, parts, act, d_gate_up, d_attention, d_qkv, attention, bytes }
    }
}

/// What the gradient of a block's parameters needs beside nothing else: the argument of every projection and the gradient
/// of its result. Backward up to there writes it.
#[derive(Clone, Copy, Debug)]
pub struct BlockPending {
    /// `[tokens, dim]` (T): argument of queries, keys and values.
    pub norm1: Field,
    /// `[tokens, q + 2 kv]` (T): gradient of queries, keys and values.
    pub d_qkv: Field,
    /// `[tokens, q]` (T): argument of the output projection.
    pub attention: Field,
    /// `[tokens, dim]` (T): gradient of its result.
    pub d_middle: Field,
    /// `[tokens, dim]` (T): argument of gate and up.
    pub norm2: Field,
    /// `[tokens, 2 ffn]` (T): gradient of gate and up.
    pub d_gate_up: Field,
    /// `[tokens, ffn]` (T): argument of the down projection.
    pub act: Field,
    /// `[tokens, dim]` (T): gradient of its result.
    pub d_output: Field,
    /// `[dim]` (f32): gradient of the first norm's weight.
    pub d_weight1: Field,
    /// `[dim]` (f32): gradient of the second norm's weight.
    pub d_weight2: Field,
    /// All of it.
    pub bytes: usize,
}

impl BlockPending {
    /// For `tokens` tokens computed in `dtype` (T).
    pub fn new(shape: &ModelShape, dtype: Dtype, tokens: usize) -> Self {
        let mut layout = Layout::default();
        let (dim, q, kv, ffn) = (shape.dim, shape.q_dim(), shape.kv_dim(), shape.ffn);
        BlockPending {
            norm1: layout.take(tokens * dim, dtype),
            d_qkv: layout.take(tokens * (q + 2 * kv), dtype),
            attention: layout.take(tokens * q, dtype),
            d_middle: layout.take(tokens * dim, dtype),
            norm2: layout.take(tokens * dim, dtype),
            d_gate_up: layout.take(tokens * 2 * ffn, dtype),
            act: layout.take(tokens * ffn, dtype),
            d_output: layout.take(tokens * dim, dtype),
            d_weight1: layout.take(dim, Dtype::F32),
            d_weight2: layout.take(dim, Dtype::F32),
            bytes: layout.bytes,
        }
    }
}

/// Scratch of the head, which works on `chunk` tokens at a time.
#[derive(Clone, Copy, Debug)]
pub struct HeadWork {
    /// Tokens of a chunk.
    pub chunk: usize,
    /// `[chunk, dim]` (T): the norm's result.
    pub norm: Field,
    /// `[chunk, dim]` (T): gradient of it.
    pub d_norm: Field,
    /// `[8, dim]` (f32): partial gradients of the norm's weight.
    pub parts: Field,
    /// `[chunk]` (f32).
    pub inverse_rms: Field,
    /// `[chunk]` (f32): loss of each token.
    pub losses: Field,
    /// `[chunk, vocab]` (f32).
    pub logits: Field,
    /// All of it.
    pub bytes: usize,
}

impl HeadWork {
    /// For `tokens` tokens computed in `dtype` (T).
    pub fn new(shape: &ModelShape, dtype: Dtype, tokens: usize) -> Self {
        // Some 64 MiB of logits: every chunk passes over the projection and its gradient, so few chunks are fast.
        let most = ((16 << 20) / shape.vocab).clamp(64, 1024);
        let chunk = tokens.div_ceil(tokens.div_ceil(most)).next_multiple_of(16).min(tokens);
        let mut layout = Layout::default();
        HeadWork {
            chunk,
            norm: layout.take(chunk * shape.dim, dtype),
            d_norm: layout.take(chunk * shape.dim, dtype),
            parts: layout.take(NORM_PARTS * shape.dim, Dtype::F32),
            inverse_rms: layout.take(chunk, Dtype::F32),
            losses: layout.take(chunk, Dtype::F32),
            logits: layout.take(chunk * shape.vocab, Dtype::F32),
            bytes: layout.bytes,
        }
    }
}
