//! Products of bf16 matrices on AMX, the tile unit of recent Intel processors: eighteen times the f32 rate.
//!
//! The unit multiplies a tile of 16 rows of 32 bf16 (A) by one of 16 rows of 16 bf16 pairs (B) onto 16 x 16 f32. Packing
//! brings operands of any layout into such tiles ([`pack`]), the kernel multiplies 32 x 32 blocks ([`tile`]), and this
//! file cuts a product into blocks that stay in the cache.

mod pack;
mod tile;

pub use pack::{Operand, Side};
pub use tile::{Tiles, available};

use half::bf16;

use super::element::{Element, load, store};
use super::lanes::{Avx512, LANES, Lanes};
use super::pool::{Pool, scratch};
use crate::device::{Matrix, View};
use crate::model::Dtype;

/// Rows and columns of a block of registers: two tiles.
pub const BLOCK: usize = 32;

/// Products are summed over this many elements at a time: two tiles of A and B.
pub const STEP: usize = 32;

/// bf16 elements of B that are packed at a time: half of a second-level cache of 2 MiB.
const PACKED: usize = 1 << 19;

/// Longest sum that is taken at once.
const DEPTH: usize = 1024;

/// `c (+)= a·b` of bf16 matrices; c is bf16 or f32. Every element's sum is taken in the same order whatever the number
/// of threads.
pub fn product(pool: &Pool, a: Matrix, b: Matrix, c: Matrix, add: bool) {
    // Threads share the longer side; each packs its own operands.
    let wide = c.cols > c.rows;
    let long = if wide { c.cols } else { c.rows };
    let share = long.div_ceil(pool.threads()).next_multiple_of(BLOCK);
    pool.each(long.div_ceil(share), |i| {
        let part = i * share..((i + 1) * share).min(long);
        let (a, b, c) = if wide {
            (a, columns(b, &part), columns(c, &part))
        } else {
            (columns(a.t(), &part).t(), b, columns(c.t(), &part).t())
        };
        one_thread(a, b, c, add);
    });
}

/// Columns of a matrix of any layout.
fn columns(m: Matrix, range: &std::ops::Range<usize>) -> Matrix {
    let start = range.start * m.col_stride;
    let len = (m.rows - 1) * m.row_stride + (range.len() - 1) * m.col_stride + 1;
    Matrix { view: m.view.sub(start..start + len), cols: range.len(), ..m }
}

fn one_thread(a: Matrix, b: Matrix, c: Matrix, add: bool) {
    let depth = a.cols;
    // A sum in several parts that must be rounded once at its end is kept in f32 meanwhile, for some rows at a time.
    let parted = depth > 4 * DEPTH && c.view.dtype() == Dtype::Bf16;
    let deep = if parted || c.view.dtype() == Dtype::F32 { depth.min(DEPTH) } else { depth };
    let deep = deep.next_multiple_of(STEP);
    let wide = (PACKED / deep / BLOCK * BLOCK).clamp(BLOCK, c.cols.next_multiple_of(BLOCK));
    let rows = if parted { 256.min(c.rows) } else { c.rows };
    let sums = if parted { rows * wide } else { 0 };
    // Scratch is counted in f32: two bf16 each.
    let (a_len, b_len) = (BLOCK * deep / 2, wide * deep / 2);
    scratch(a_len + b_len + BLOCK * BLOCK + sums, |buffer| {
        let (a_pack, buffer) = buffer.split_at_mut(a_len);
        let (b_pack, buffer) = buffer.split_at_mut(b_len);
        let (block, sums) = buffer.split_at_mut(BLOCK * BLOCK);
        let tiles = Tiles::configure();
        for top in (0..c.rows).step_by(rows) {
            let rows = (c.rows - top).min(rows);
            for left in (0..c.cols).step_by(wide) {
                let cols = (c.cols - left).min(wide);
                for start in (0..depth).step_by(deep) {
                    let summed = (depth - start).min(deep);
                    let steps = summed.div_ceil(STEP);
                    let right = Operand::of(b.t());
                    for (j, pack) in b_pack.chunks_exact_mut(BLOCK * deep / 2).take(cols.div_ceil(BLOCK)).enumerate() {
                        let first = left + j * BLOCK;
                        right.pack(Side::B, first..(first + BLOCK).min(c.cols), start..start + summed, pack);
                    }
                    let target = Target { c, sums: parted.then_some(sums.as_mut_ptr()), left, top, wide };
                    for i in (top..top + rows).step_by(BLOCK) {
                        let height = (top + rows - i).min(BLOCK);
                        Operand::of(a).pack(Side::A, i..i + height, start..start + summed, a_pack);
                        for j in (left..left + cols).step_by(BLOCK) {
                            let panel = &b_pack[(j - left) * deep / 2..];
                            tiles.multiply(a_pack, panel, steps, block);
                            let width = (left + cols - j).min(BLOCK);
                            // SAFETY: the processor has AVX-512, since it has AMX.
                            unsafe { target.put(block, i, j, height, width, add, start, start + summed == depth) };
                        }
                    }
                }
            }
        }
    });
}

/// Where blocks of sums go.
#[derive(Clone, Copy)]
struct Target {
    c: Matrix,
    /// Sums of parts, `[rows, wide]`, from (top, left) on.
    sums: Option<*mut f32>,
    left: usize,
    top: usize,
    wide: usize,
}

impl Target {
    /// Adds or writes a block at (i, j): the sum from depth `start` on; `last` if it is complete.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn put(
        &self,
        block: &mut [f32],
        i: usize,
        j: usize,
        height: usize,
        width: usize,
        add: bool,
        start: usize,
        last: bool,
    ) {
        // SAFETY: the part's rows and columns lie within `sums`.
        let part = |row: usize| {
            let at = (i + row - self.top) * self.wide + j - self.left;
            self.sums.map(|sums| unsafe { std::slice::from_raw_parts_mut(sums.add(at), width) })
        };
        for (row, block) in block.chunks_exact_mut(BLOCK).take(height).enumerate() {
            if let Some(part) = part(row) {
                if start > 0 {
                    part.iter().zip(block.iter_mut()).for_each(|(part, x)| *x += part);
                }
                if !last {
                    part.copy_from_slice(&block[..width]);
                    continue;
                }
            }
            let add = add || (start > 0 && self.sums.is_none());
            match self.c.view.dtype() {
                Dtype::F32 => self.row::<f32>(&block[..width], i + row, j, add),
                _ => self.row::<bf16>(&block[..width], i + row, j, add),
            }
        }
    }

    #[inline(always)]
    fn row<T: Element>(&self, block: &[f32], i: usize, j: usize, add: bool) {
        let start = i * self.c.row_stride + j;
        let view: View = self.c.view.sub(start..start + block.len());
        // SAFETY: T is the view's type; each element of c belongs to one thread.
        let to = unsafe { view.slice_mut::<T>() };
        for j in (0..block.len()).step_by(LANES) {
            // SAFETY: the caller runs on AVX-512.
            unsafe {
                let x: Avx512 = load(block, j);
                let x = if add { x.plus(load(to, j)) } else { x };
                store(to, j, x);
            }
        }
    }
}
