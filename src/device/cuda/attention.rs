//! Which kernels compute attention, and on which grid.

use super::launch::{Arg, Launch, name};
use crate::device::Attention;
use crate::model::Dtype;

/// What a kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The result.
    Forward,
    /// Gradients of keys and values.
    Keys,
    /// Gradients of queries.
    Queries,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Forward => "",
            Kind::Keys => "_key",
            Kind::Queries => "_query",
        }
    }
}

/// A kernel on tensor cores, for bf16. A block does 128 queries or keys of a head.
struct Flash {
    kind: Kind,
    head_dim: usize,
    /// Threads of a block.
    block: u32,
    /// Rows in shared memory that stay, in bf16.
    kept: usize,
    /// Rows that pass by, in bf16.
    passing: usize,
    /// Numbers beside them, in f32.
    numbers: usize,
}

/// All of them; see `kernels/attention_*.cu`.
#[rustfmt::skip]
const FLASH: [Flash; 6] = [
    Flash { kind: Kind::Forward, head_dim: 64, block: 128, kept: 128, passing: 4 * 64, numbers: 0 },
    Flash { kind: Kind::Forward, head_dim: 128, block: 128, kept: 128, passing: 4 * 32, numbers: 0 },
    Flash { kind: Kind::Keys, head_dim: 64, block: 128, kept: 2 * 128, passing: 4 * 32, numbers: 4 * 32 },
    Flash { kind: Kind::Keys, head_dim: 128, block: 256, kept: 2 * 128, passing: 4 * 64, numbers: 4 * 64 },
    Flash { kind: Kind::Queries, head_dim: 64, block: 128, kept: 2 * 128, passing: 4 * 32, numbers: 0 },
    Flash { kind: Kind::Queries, head_dim: 128, block: 128, kept: 2 * 128, passing: 4 * 32, numbers: 0 },
];

impl Flash {
    fn name(&self) -> String {
        format!("attention_flash{}_{}", self.kind.name(), self.head_dim)
    }

    /// Bytes of shared memory.
    fn shared(&self) -> usize {
        (self.kept + self.passing) * self.head_dim * Dtype::Bf16.bytes() + self.numbers * Dtype::F32.bytes()
    }
}

/// Kernels on tensor cores, with the bytes of shared memory that each asks for at its launch.
pub(super) fn flash_kernels() -> impl Iterator<Item = (String, usize)> {
    FLASH.iter().map(|flash| (flash.name(), flash.shared()))
}

/// The launch of a kernel for attention on these operands; sizes follow them. Tensor cores compute bf16 in heads of 64 and
/// 128 where `shared` bytes of shared memory are enough, a simple kernel everything else.
pub(super) fn launch(kind: Kind, shape: &Attention, dtype: Dtype, shared: usize, operands: &[Arg]) -> Launch {
    let fits = |flash: &&Flash| flash.kind == kind && flash.head_dim == shape.head_dim && flash.shared() <= shared;
    let heads = if kind == Kind::Keys { shape.kv_heads } else { shape.heads };
    match FLASH.iter().find(fits).filter(|_| dtype == Dtype::Bf16) {
        None => simple(&format!("simple{}", kind.name()), shape, dtype, heads, operands),
        Some(flash) => {
            let sizes = [shape.seq, shape.heads, shape.kv_heads].map(Arg::from);
            let grid = [shape.seq.div_ceil(128), heads, shape.micro];
            let shared = flash.shared() as u32;
            Launch { shared, ..Launch::new(flash.name(), grid, flash.block, [operands, &sizes].concat()) }
        }
    }
}

/// The launch of `attention_delta_*`: products of rows of the result and of its gradient.
pub(super) fn deltas(shape: &Attention, dtype: Dtype, operands: &[Arg]) -> Launch {
    simple("delta", shape, dtype, shape.heads, operands)
}

/// A kernel for any type and any head of up to 256 elements: a warp a row.
fn simple(kernel: &str, shape: &Attention, dtype: Dtype, heads: usize, operands: &[Arg]) -> Launch {
    assert!(shape.head_dim <= 256, "heads of {} elements; at most 256", shape.head_dim);
    let sizes = [shape.seq, shape.heads, shape.kv_heads, shape.head_dim].map(Arg::from);
    let grid = [shape.seq.div_ceil(4), heads, shape.micro];
    Launch::new(format!("attention_{kernel}_{}", name(dtype)), grid, 128, [operands, &sizes].concat())
}
