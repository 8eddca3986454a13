//! Which kernels compute attention, and on which grid.

use super::launch::{Arg, Launch, name};
use crate::device::{Attention, View};
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
    /// Gradients of keys and values, and sums for those of queries, in any order; on tensor cores only.
    All,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Forward => "",
            Kind::Keys => "_key",
            Kind::Queries => "_query",
            Kind::All => "_all",
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
    /// Numbers beside them, in f32 (or twice as many in bf16).
    numbers: usize,
}

/// All of them; see `kernels/attention_*.cu`.
#[rustfmt::skip]
const FLASH: [Flash; 8] = [
    Flash { kind: Kind::Forward, head_dim: 64, block: 128, kept: 128, passing: 4 * 64, numbers: 0 },
    Flash { kind: Kind::Forward, head_dim: 128, block: 128, kept: 128, passing: 4 * 32, numbers: 0 },
    Flash { kind: Kind::Keys, head_dim: 64, block: 128, kept: 2 * 128, passing: 4 * 32, numbers: 4 * 32 },
    Flash { kind: Kind::Keys, head_dim: 128, block: 256, kept: 2 * 128, passing: 4 * 64, numbers: 4 * 64 },
    Flash { kind: Kind::Queries, head_dim: 64, block: 128, kept: 2 * 128, passing: 4 * 32, numbers: 0 },
    Flash { kind: Kind::Queries, head_dim: 128, block: 128, kept: 2 * 128, passing: 4 * 32, numbers: 0 },
    Flash { kind: Kind::All, head_dim: 64, block: 128, kept: 2 * 128, passing: 4 * 32, numbers: 4 * 32 + 128 * 32 / 2 },
    Flash { kind: Kind::All, head_dim: 128, block: 256, kept: 2 * 128, passing: 4 * 64, numbers: 4 * 64 + 128 * 64 / 2 },
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

/// The kernel on tensor cores for bf16 in heads of 64 and 128, where `shared` bytes of shared memory are enough.
fn flash(kind: Kind, shape: &Attention, dtype: Dtype, shared: usize) -> Option<&'static Flash> {
    let fits = |flash: &&Flash| flash.kind == kind && flash.head_dim == shape.head_dim && flash.shared() <= shared;
    FLASH.iter().find(fits).filter(|_| dtype == Dtype::Bf16)
}

/// Whether there is a kernel on tensor cores.
pub(super) fn on_tensor_cores(kind: Kind, shape: &Attention, dtype: Dtype, shared: usize) -> bool {
    flash(kind, shape, dtype, shared).is_some()
}

/// The launch of a kernel for attention on these operands; sizes follow them. A simple kernel does what tensor cores
/// cannot.
pub(super) fn launch(kind: Kind, shape: &Attention, dtype: Dtype, shared: usize, operands: &[Arg]) -> Launch {
    let heads = if matches!(kind, Kind::Keys | Kind::All) { shape.kv_heads } else { shape.heads };
    match flash(kind, shape, dtype, shared) {
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

/// The launch that rounds the sums of [`Kind::All`] to the queries' gradients.
pub(super) fn round(shape: &Attention, sums: View, dqkv: View) -> Launch {
    let width = shape.heads * shape.head_dim;
    let scale = 1.0 / (shape.head_dim as f32).sqrt();
    let args = [sums.into(), dqkv.into(), width.into(), shape.row().into(), scale.into()];
    Launch::new("attention_flash_round", [shape.tokens(), width.div_ceil(2048), 1], 256, args)
}

/// A kernel for any type and any head of up to 256 elements: a warp a row.
fn simple(kernel: &str, shape: &Attention, dtype: Dtype, heads: usize, operands: &[Arg]) -> Launch {
    assert!(shape.head_dim <= 256, "heads of {} elements; at most 256", shape.head_dim);
    let sizes = [shape.seq, shape.heads, shape.kv_heads, shape.head_dim].map(Arg::from);
    let grid = [shape.seq.div_ceil(4), heads, shape.micro];
    Launch::new(format!("attention_{kernel}_{}", name(dtype)), grid, 128, [operands, &sizes].concat())
}
