//! Products of bf16 matrices on AMX, the tile unit of recent Intel processors: eighteen times the f32 rate.
//!
//! The unit multiplies a tile of 16 rows of 32 bf16 (A) by one of 16 rows of 16 bf16 pairs (B) onto 16 x 16 f32. Packing
//! brings operands of any layout into such tiles ([`pack`]), the kernel multiplies 32 x 32 blocks ([`tile`]), and this
//! file cuts a product into blocks that stay in the cache.

pub mod attention;
mod pack;
mod tile;

pub use tile::available;

use std::arch::x86_64::*;

use half::bf16;

use self::pack::{Operand, Side};
use self::tile::Tiles;
use super::element::{Element, load, store};
use super::lanes::{Avx512, LANES, Lanes};
use super::pool::{Pool, scratch};
use crate::device::Matrix;
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
        let (start, len) = (i * share, share.min(long - i * share));
        let (a, b, c) = if wide {
            (a, b.columns(start, len), c.columns(start, len))
        } else {
            (a.rows(start, len), b, c.rows(start, len))
        };
        one_thread(a, b, c, add);
    });
}

fn one_thread(a: Matrix, b: Matrix, c: Matrix, add: bool) {
    match c.view.dtype() {
        Dtype::F32 => blocked::<f32>(a, b, c, add),
        _ => blocked::<bf16>(a, b, c, add),
    }
}

fn blocked<T: Element>(a: Matrix, b: Matrix, c: Matrix, add: bool) {
    let depth = a.cols;
    let wide_result = c.view.dtype() == Dtype::F32;
    // A long sum is taken in parts. One that must be rounded only once, at its end, is kept in f32 meanwhile, for some
    // rows at a time.
    let parted = depth > 4 * DEPTH && !wide_result;
    let deep = if parted || wide_result { depth.min(DEPTH) } else { depth }.next_multiple_of(STEP);
    let wide = (PACKED / deep / BLOCK * BLOCK).clamp(BLOCK, c.cols.next_multiple_of(BLOCK));
    let rows = if parted { c.rows.min(256) } else { c.rows };
    let sums = if parted { rows.next_multiple_of(BLOCK) * wide } else { 0 };
    // Scratch is counted in f32: two bf16 each.
    let (a_len, b_len) = (BLOCK * deep / 2, wide * deep / 2);
    scratch(a_len + b_len + BLOCK * BLOCK + sums, |buffer| {
        let (a_pack, buffer) = buffer.split_at_mut(a_len);
        let (b_pack, buffer) = buffer.split_at_mut(b_len);
        let (block, sums) = buffer.split_at_mut(BLOCK * BLOCK);
        let tiles = Tiles::configure();
        let (left_side, right_side) = (Operand::of(a), Operand::of(b.t()));
        for (top, left) in grid((0, c.rows, rows), (0, c.cols, wide)) {
            let (bottom, right) = ((top + rows).min(c.rows), (left + wide).min(c.cols));
            for start in (0..depth).step_by(deep) {
                let summed = start..(start + deep).min(depth);
                let (steps, last) = (summed.len().div_ceil(STEP), summed.end == depth);
                for (j, pack) in (left..right).step_by(BLOCK).zip(b_pack.chunks_exact_mut(BLOCK * deep / 2)) {
                    right_side.pack(Side::B, j..(j + BLOCK).min(right), summed.clone(), pack);
                }
                for i in (top..bottom).step_by(BLOCK) {
                    let height = (bottom - i).min(BLOCK);
                    left_side.pack(Side::A, i..i + height, summed.clone(), a_pack);
                    for j in (left..right).step_by(BLOCK) {
                        let width = (right - j).min(BLOCK);
                        let b_pack = &b_pack[(j - left) * deep / 2..];
                        // SAFETY: whole blocks lie within c, `sums` or `block`; the processor has AVX-512.
                        unsafe {
                            if parted {
                                let sums = sums.as_mut_ptr().add((i - top) * wide + j - left);
                                tiles.multiply(a_pack, b_pack, steps, sums, wide, start > 0);
                                if last {
                                    finish::<T>(sums, wide, at(c, i, j), c.row_stride, height, width, add);
                                }
                                continue;
                            }
                            let add = add || start > 0;
                            if wide_result && height == BLOCK && width == BLOCK {
                                tiles.multiply(a_pack, b_pack, steps, at(c, i, j), c.row_stride, add);
                            } else {
                                tiles.multiply(a_pack, b_pack, steps, block.as_mut_ptr(), BLOCK, false);
                                finish::<T>(block.as_ptr(), BLOCK, at(c, i, j), c.row_stride, height, width, add);
                            }
                        }
                    }
                }
            }
        }
    });
}

/// First rows and columns of blocks, from (start, end, size) of each.
fn grid(rows: (usize, usize, usize), cols: (usize, usize, usize)) -> impl Iterator<Item = (usize, usize)> {
    (rows.0..rows.1).step_by(rows.2).flat_map(move |i| (cols.0..cols.1).step_by(cols.2).map(move |j| (i, j)))
}

/// Element (i, j) of a matrix with contiguous rows.
fn at<T>(c: Matrix, i: usize, j: usize) -> *mut T {
    let start = i * c.row_stride + j;
    c.view.sub(start..start + 1).address() as *mut T
}

/// Writes or adds a block of sums to the result, rounded to its type.
///
/// # Safety
/// Both have `height` rows of `width`; the processor has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn finish<T: Element>(
    from: *const f32,
    from_row: usize,
    to: *mut T,
    to_row: usize,
    height: usize,
    width: usize,
    add: bool,
) {
    for i in 0..height {
        // SAFETY: the caller's promise; of two bytes there is only bf16.
        unsafe {
            if size_of::<T>() == 2 && width == BLOCK && !add {
                let from = from.add(i * from_row);
                let row = row_of(_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(LANES)));
                _mm512_storeu_si512(to.add(i * to_row).cast(), row);
                continue;
            }
            let from = std::slice::from_raw_parts(from.add(i * from_row), width);
            let to = std::slice::from_raw_parts_mut(to.add(i * to_row), width);
            for j in (0..width).step_by(LANES) {
                let x: Avx512 = load(from, j);
                store(to, j, if add { x.plus(load(to, j)) } else { x });
            }
        }
    }
}

/// Thirty-two numbers rounded to bf16, in order: a row of a packed tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn row_of(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 64 bytes.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
}
