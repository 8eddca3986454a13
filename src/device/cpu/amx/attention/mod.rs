//! Attention in bf16 on AMX: as `cpu::attention`, with all products on tiles.
//!
//! Scores are computed transposed, a row a key and a column a query: maxima, sums and log-sums of queries are then
//! vectors, and exponentials fall into the layout that the next product reads. Whatever is 32 x 32 below counts as one
//! *square*: 512 f32 of packed bf16 (two tiles), or 1,024 f32 of sums.

mod backward;
mod forward;

pub use backward::backward;
pub use forward::forward;

use std::arch::x86_64::*;

use half::bf16;

use super::pack::{Operand, transpose};
use super::row_of;
use crate::device::Attention;

/// Edge of a square.
const EDGE: usize = 32;
/// f32 that a packed square takes.
const PACK: usize = 512;
/// f32 of a square of sums.
const SUMS: usize = 1024;

/// Sizes in squares.
#[derive(Clone, Copy)]
struct Squares {
    /// Along a head.
    head: usize,
    /// Along a sequence.
    seq: usize,
}

impl Squares {
    fn of(shape: &Attention) -> Self {
        Squares { head: shape.head_dim.div_ceil(EDGE), seq: shape.seq.div_ceil(EDGE) }
    }
}

/// A head's columns of a strided tensor, a row a token, from the first token of a sequence on.
fn head_rows(tensor: &[bf16], row: usize, first: usize, column: usize, shape: &Attention) -> Operand {
    let start = first * row + column;
    assert!(start + (shape.seq - 1) * row + shape.head_dim <= tensor.len());
    // SAFETY: within the tensor, which the caller borrows for longer.
    unsafe { Operand::rows(tensor[start..].as_ptr(), shape.seq, shape.head_dim, row) }
}

/// What is added to scores on the diagonal: minus infinity where the key (row) comes after the query (column).
static HIDDEN: [[f32; EDGE]; EDGE] = {
    let mut table = [[0.0; EDGE]; EDGE];
    let mut key = 0;
    while key < EDGE {
        let mut query = 0;
        while query < key {
            table[key][query] = f32::NEG_INFINITY;
            query += 1;
        }
        key += 1;
    }
    table
};

/// Sixteen pairs of numbers rounded to bf16: a row of a packed tile of B.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pairs_of(first: __m512, second: __m512) -> __m512i {
    #[rustfmt::skip]
    let order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
        23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0,
    );
    _mm512_permutexvar_epi16(order, row_of(first, second))
}

/// Writes the transpose of 16 x 16 numbers, rows `from_row` and `to_row` apart, each column of `from` times its lane of
/// `factor`.
///
/// # Safety
/// Both are good for sixteen such rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn turn(from: *const f32, from_row: usize, factor: __m512, to: *mut f32, to_row: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let rows = std::array::from_fn(|i| {
            _mm512_castps_si512(_mm512_mul_ps(_mm512_loadu_ps(from.add(i * from_row)), factor))
        });
        for (i, row) in transpose(rows).into_iter().enumerate() {
            _mm512_storeu_si512(to.add(i * to_row).cast(), row);
        }
    }
}
