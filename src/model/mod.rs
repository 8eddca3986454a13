//! What is trained: LLaMA shapes, the units that compute, the shards that travel, and parameter names.
//!
//! Pure arithmetic, no memory and no device. Everything else (plans, checkpoints, kernels) reads sizes and offsets
//! from here, so that there is one table of parameters.

mod footprint;
mod init;
mod param;
mod shape;
mod shard;

pub use footprint::{
    BlockBackward, BlockCheap, BlockEvaluate, BlockForward, BlockPending, BlockSaved, Field, Footprint, HeadWork,
    NORM_PARTS, Recompute, footprint,
};
pub use init::init;
pub use param::{ALIGN, Init, Param, align, unit_params};
pub use shape::{
    Extra, MOST_DIM, MOST_FFN, MOST_HEAD_DIM, MOST_HEADS, MOST_LAYERS, MOST_VOCAB, ModelShape, ShapeError,
};
pub use shard::{Placement, Shard, ShardId, Shards, Unit};

use serde::{Deserialize, Serialize};

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// bfloat16: the upper half of an f32.
    Bf16,
    /// 64-bit float (scalars only).
    F64,
    /// 32-bit signed integer (token ids).
    I32,
    /// Untyped bytes: saved activations and workspaces, whose inside is `nn`'s own business.
    Byte,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::Bf16 => 2,
            Dtype::F64 => 8,
            Dtype::Byte => 1,
        }
    }

    /// Lower-case name, as in decks and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::F64 => "f64",
            Dtype::I32 => "i32",
            Dtype::Byte => "byte",
        }
    }
}
