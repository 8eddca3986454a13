//! What a GPU's memory holds beside a plan's slots. A plan is refused for it before anything runs, also where no GPU is.

use crate::model::{Dtype, ModelShape};

/// Bytes of scratch memory of matrix products, of which cuBLASLt makes partial sums: what its makers recommend for Hopper,
/// and for others. <https://docs.nvidia.com/cuda/cublas/#cublassetworkspace>
pub const WORKSPACE: [usize; 2] = [64 << 20, 32 << 20];

/// Partial sums of a squared norm (f64) at most: blocks of the first stage, elements of `Launcher::squares`.
pub const SQUARES_PARTS: usize = 1024;

/// Bytes that a GPU keeps beside a plan's slots, with what for: the most that any GPU does, so that all ranks plan by the same
/// number. The driver's own memory and NCCL's are not counted: nobody knows them before.
pub fn beside(shape: &ModelShape, seq: usize) -> [(&'static str, usize); 3] {
    [
        ("matrix products", WORKSPACE[0].max(WORKSPACE[1])),
        ("sums of squares", SQUARES_PARTS * Dtype::F64.bytes()),
        ("rotary table", seq * shape.head_dim * Dtype::F32.bytes()),
    ]
}
