//! Causal attention in tiles (flash style): never a row of scores in memory, only blocks of them in the cache.
//!
//! A head's queries, keys and values are first copied to contiguous f32 tiles, widened to whole vectors with zeros
//! (`width`), keys and values also transposed block by block. All products are then [`tile::product`]s.

mod backward;
mod forward;
mod tile;

pub use backward::Backward;
pub use forward::Forward;

use super::element::Element;
use crate::device::{Attention, View};

/// Queries and keys of a tile.
const BLOCK: usize = 64;

/// Queries of a strip of a tile on the diagonal, and the step in which its keys are cut off.
const STRIP: usize = 16;

/// Strips of the tile of queries `top..top + rows` and keys from `left` on: first query within the tile, number of
/// queries, and how many keys they see at most, rounded up to whole vectors. Below the diagonal it is one strip.
fn strips(top: usize, rows: usize, left: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let step = if top == left { STRIP } else { BLOCK };
    (0..rows).step_by(step).map(move |first| {
        let keys = if top == left { first + STRIP } else { BLOCK };
        (first, (rows - first).min(step), keys)
    })
}

/// Sizes that both directions share.
#[derive(Clone, Copy)]
struct Sizes {
    /// Elements of a head, rounded up to whole vectors.
    width: usize,
    /// Tokens of a sequence, rounded up to whole blocks.
    padded: usize,
    /// Elements between tokens in `qkv`.
    row: usize,
}

impl Sizes {
    fn of(shape: &Attention) -> Self {
        Sizes { width: shape.head_dim.div_ceil(16) * 16, padded: shape.seq.div_ceil(BLOCK) * BLOCK, row: shape.row() }
    }

    /// Elements of one head's tensor in scratch.
    fn head(&self) -> usize {
        self.padded * self.width
    }
}

/// Copies a head's rows, each `row` elements after the one before, into rows of `width`, filling with zeros; scaled.
#[inline(always)]
fn gather<T: Element>(from: &[T], row: usize, seq: usize, head_dim: usize, width: usize, scale: f32, to: &mut [f32]) {
    for (i, to) in to.chunks_exact_mut(width).enumerate() {
        if i < seq {
            for (to, x) in to.iter_mut().zip(&from[i * row..i * row + head_dim]) {
                *to = x.get() * scale;
            }
            to[head_dim..].fill(0.0);
        } else {
            to.fill(0.0);
        }
    }
}

/// Transposes every block of [`BLOCK`] rows: `to` holds blocks of `width` rows of [`BLOCK`].
#[inline(always)]
fn transpose(from: &[f32], width: usize, to: &mut [f32]) {
    for (from, to) in from.chunks_exact(BLOCK * width).zip(to.chunks_exact_mut(BLOCK * width)) {
        for (j, to) in to.chunks_exact_mut(BLOCK).enumerate() {
            for (i, to) in to.iter_mut().enumerate() {
                *to = from[i * width + j];
            }
        }
    }
}

/// One head's columns of a tensor whose other columns belong to other threads: rows of `len` elements, `stride` apart.
#[derive(Clone, Copy)]
pub struct Columns<T> {
    start: *mut T,
    stride: usize,
    len: usize,
}

// SAFETY: a handle; `Columns::new`'s caller promises that no other thread uses these columns.
unsafe impl<T: Send> Send for Columns<T> {}

impl<T: Element> Columns<T> {
    /// Columns `first..first + len` from row `row` on.
    ///
    /// # Safety
    /// The view's type is T, and nobody else uses these columns while the handle does.
    pub unsafe fn new(view: View, row: usize, stride: usize, first: usize, len: usize) -> Self {
        let view = view.sub(row * stride + first..view.len());
        Columns { start: view.address() as *mut T, stride, len }
    }

    /// Writes `values * scale`, rounded, into row `i`.
    ///
    /// # Safety
    /// The tensor has that row.
    #[inline(always)]
    pub unsafe fn write(&self, i: usize, values: &[f32], scale: f32) {
        // SAFETY: the caller's promise and `new`'s.
        let row = unsafe { std::slice::from_raw_parts_mut(self.start.add(i * self.stride), self.len) };
        for (to, x) in row.iter_mut().zip(values) {
            *to = T::of(x * scale);
        }
    }
}
