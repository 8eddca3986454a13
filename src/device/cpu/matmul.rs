//! Matrix products.

use std::ops::Range;

use gemm::Parallelism;
use half::bf16;

use super::element::Element;
use super::pool::{Pool, scratch};
use crate::device::{Matrix, View};
use crate::model::Dtype;

/// Rows or columns of a product that one thread computes are a multiple of this, the numbers in the widest vector.
const TILE: usize = 16;

/// `c (+)= a·b` in f32. Threads share the longer side of c. Each packs its own operands: that costs less than to wait for each
/// other, as the threads of the crate `gemm` do. The bits do not depend on the number of threads.
pub fn f32(pool: &Pool, a: Matrix, b: Matrix, c: Matrix, add: bool) {
    let (a, b, c, depth) = (pointer(a), pointer(b), pointer(c), a.cols);
    let (long, short) = (c.rows.max(c.cols), c.rows.min(c.cols));
    // `gemm` adds more than 512 terms in other blocks if the result is small (64 x 256). So no part may be that small, unless
    // the whole is.
    let least = match (depth > 512, short) {
        (true, ..=64) => 320,
        (true, ..=256) => 96,
        _ => TILE,
    };
    let parts = (long / least).clamp(1, pool.threads());
    let cut = |i: usize| if i == parts { long } else { i * long / parts / TILE * TILE };
    pool.each(parts, |i| {
        let part = cut(i)..cut(i + 1);
        let (a, b, c) = match c.rows >= c.cols {
            true => (a.rows_of(&part), b, c.rows_of(&part)),
            false => (a, b.cols_of(&part), c.cols_of(&part)),
        };
        // SAFETY: `Matrix` covers its elements; c overlaps neither a nor b (see `View`), and parts of it are disjoint.
        unsafe { raw(a, b, c, depth, add) }
    });
}

/// A matrix in host memory.
#[derive(Clone, Copy)]
struct Raw {
    address: usize,
    rows: usize,
    cols: usize,
    row_stride: isize,
    col_stride: isize,
}

impl Raw {
    /// These rows.
    fn rows_of(self, rows: &Range<usize>) -> Raw {
        let bytes = rows.start * self.row_stride as usize * size_of::<f32>();
        Raw { address: self.address + bytes, rows: rows.len(), ..self }
    }

    /// These columns.
    fn cols_of(self, cols: &Range<usize>) -> Raw {
        let bytes = cols.start * self.col_stride as usize * size_of::<f32>();
        Raw { address: self.address + bytes, cols: cols.len(), ..self }
    }
}

fn pointer(m: Matrix) -> Raw {
    Raw {
        address: m.view.address(),
        rows: m.rows,
        cols: m.cols,
        row_stride: m.row_stride as isize,
        col_stride: m.col_stride as isize,
    }
}

/// # Safety
/// The matrices lie in readable, c in writable f32 memory and c overlaps no other.
unsafe fn raw(a: Raw, b: Raw, c: Raw, depth: usize, add: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        gemm::gemm(
            c.rows,
            c.cols,
            depth,
            c.address as *mut f32,
            c.col_stride,
            c.row_stride,
            add,
            a.address as *const f32,
            a.col_stride,
            a.row_stride,
            b.address as *const f32,
            b.col_stride,
            b.row_stride,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Edge of the blocks that bf16 operands are widened in.
const BLOCK: usize = 256;

/// `c (+)= a·b` of bf16 matrices, without hardware for it: blocks are widened to f32, summed in f32, and rounded once if
/// c is bf16.
pub fn bf16(pool: &Pool, a: Matrix, b: Matrix, c: Matrix, add: bool) {
    let (rows, cols) = (c.rows.div_ceil(BLOCK), c.cols.div_ceil(BLOCK));
    pool.each(rows * cols, |block| {
        let (top, left) = (block / cols * BLOCK, block % cols * BLOCK);
        let (m, n) = ((c.rows - top).min(BLOCK), (c.cols - left).min(BLOCK));
        scratch(3 * BLOCK * BLOCK, |buffer| {
            let (a_block, rest) = buffer.split_at_mut(BLOCK * BLOCK);
            let (b_block, c_block) = rest.split_at_mut(BLOCK * BLOCK);
            if add {
                load(c, top, left, m, n, c_block);
            }
            for start in (0..a.cols).step_by(BLOCK) {
                let depth = (a.cols - start).min(BLOCK);
                load(a, top, start, m, depth, a_block);
                load(b, start, left, depth, n, b_block);
                let block = |data: &[f32], rows, cols| Raw {
                    address: data.as_ptr() as usize,
                    rows,
                    cols,
                    row_stride: cols as isize,
                    col_stride: 1,
                };
                let product = Raw { address: c_block.as_mut_ptr() as usize, ..block(c_block, m, n) };
                // SAFETY: three disjoint parts of the scratch, each of BLOCK² elements.
                unsafe {
                    raw(block(a_block, m, depth), block(b_block, depth, n), product, depth, add || start > 0);
                }
            }
            store(c, top, left, m, n, c_block);
        });
    });
}

/// Element (i, j) of a matrix, by its place.
fn place(m: Matrix, i: usize, j: usize) -> usize {
    i * m.row_stride + j * m.col_stride
}

fn one(view: View, place: usize) -> f32 {
    let view = view.sub(place..place + 1);
    // SAFETY: the view's type is matched; nobody writes operands during the product.
    unsafe {
        match view.dtype() {
            Dtype::F32 => view.slice::<f32>()[0],
            _ => view.slice::<bf16>()[0].get(),
        }
    }
}

/// Widens a block of `rows` x `cols` into `out`, row by row.
fn load(m: Matrix, top: usize, left: usize, rows: usize, cols: usize, out: &mut [f32]) {
    for (i, out) in out.chunks_exact_mut(cols).take(rows).enumerate() {
        if m.col_stride == 1 && m.view.dtype() == Dtype::Bf16 {
            let start = place(m, top + i, left);
            // SAFETY: bf16 by the test above; nobody writes operands during the product.
            let row = unsafe { m.view.sub(start..start + cols).slice::<bf16>() };
            for (out, x) in out.iter_mut().zip(row) {
                *out = x.get();
            }
        } else {
            for (j, out) in out.iter_mut().enumerate() {
                *out = one(m.view, place(m, top + i, left + j));
            }
        }
    }
}

/// Writes a block back, rounding to the matrix's type.
fn store(m: Matrix, top: usize, left: usize, rows: usize, cols: usize, block: &[f32]) {
    for (i, row) in block.chunks_exact(cols).take(rows).enumerate() {
        for (j, &x) in row.iter().enumerate() {
            let place = place(m, top + i, left + j);
            let element = m.view.sub(place..place + 1);
            // SAFETY: the view's type is matched; blocks of c are disjoint, one thread each.
            unsafe {
                match element.dtype() {
                    Dtype::F32 => element.slice_mut::<f32>()[0] = x,
                    _ => element.slice_mut::<bf16>()[0] = bf16::of(x),
                }
            }
        }
    }
}
