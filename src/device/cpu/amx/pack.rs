//! Operands brought into tiles, whatever their layout.
//!
//! An operand is seen as vectors (rows of A, columns of B) that run along the summed dimension. A tile of A wants each
//! vector's pairs of elements in a row, a tile of B the same pair of all vectors in a row: the one is the other's
//! transpose, a matrix of 16 x 16 pairs.

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;

use super::BLOCK;
use crate::device::Matrix;
use crate::model::Dtype;

/// Which tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The left one.
    A,
    /// The right one.
    B,
}

/// Vectors of bf16 along the summed dimension.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    start: *const bf16,
    vectors: usize,
    depth: usize,
    /// Elements from vector to vector, and along a vector; one of them is 1.
    vector_stride: usize,
    depth_stride: usize,
}

/// Sixteen vectors of pairs.
pub type Square = [__m512i; 16];

impl Operand {
    /// A matrix's rows: A itself, or B transposed.
    ///
    /// # Panics
    /// If it is not bf16, or neither stride is 1.
    pub fn of(m: Matrix) -> Self {
        assert_eq!(m.view.dtype(), Dtype::Bf16);
        assert!(m.row_stride == 1 || m.col_stride == 1);
        let start = m.view.address() as *const bf16;
        Operand { start, vectors: m.rows, depth: m.cols, vector_stride: m.row_stride, depth_stride: m.col_stride }
    }

    /// Rows of `depth` elements, `stride` apart.
    ///
    /// # Safety
    /// The memory lives while the operand does.
    pub unsafe fn rows(start: *const bf16, vectors: usize, depth: usize, stride: usize) -> Self {
        Operand { start, vectors, depth, vector_stride: stride, depth_stride: 1 }
    }

    /// The same memory with vectors across instead of along.
    pub fn across(self) -> Self {
        Operand {
            vectors: self.depth,
            depth: self.vectors,
            vector_stride: self.depth_stride,
            depth_stride: self.vector_stride,
            ..self
        }
    }

    /// Packs up to 32 vectors over a piece of their depth: for every 32 elements two tiles, 1 KiB each; what is missing
    /// to whole tiles is zero.
    ///
    /// # Panics
    /// If the operand has not these vectors or `to` is too short for them.
    pub fn pack(&self, side: Side, vectors: Range<usize>, depth: Range<usize>, to: &mut [f32]) {
        assert!(vectors.len() <= BLOCK && vectors.end <= self.vectors && depth.end <= self.depth);
        assert!(to.len() >= depth.len().div_ceil(32) * 512);
        // SAFETY: the processor has AVX-512, since it has AMX; the asserts bound all accesses.
        unsafe { self.pack_tiles(side, vectors, depth, to) }
    }

    /// # Safety
    /// As [`Operand::pack`] asserts.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn pack_tiles(&self, side: Side, vectors: Range<usize>, depth: Range<usize>, to: &mut [f32]) {
        let along = self.depth_stride == 1;
        for (step, to) in depth.clone().step_by(32).zip(to.chunks_exact_mut(512)) {
            let pairs = step..(step + 32).min(depth.end);
            for (half, to) in to.chunks_exact_mut(256).enumerate() {
                let first = vectors.start + 16 * half;
                let sixteen = first.min(vectors.end)..(first + 16).min(vectors.end);
                let to = to.as_mut_ptr();
                // SAFETY: the caller's promise; `to` is a tile.
                unsafe {
                    match along {
                        true => self.along(sixteen, pairs.clone(), to),
                        false => self.between(sixteen, pairs.clone(), to),
                    }
                    if along != (side == Side::A) {
                        transpose_tile(to);
                    }
                }
            }
        }
    }

    /// A row a vector: its elements lie side by side.
    ///
    /// # Safety
    /// Such vectors and elements exist; `to` is a tile; the processor has AVX-512.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn along(&self, vectors: Range<usize>, depth: Range<usize>, to: *mut f32) {
        let mask = mask(depth.len());
        // SAFETY: the mask keeps to the elements that exist.
        unsafe {
            let start = self.start.add(vectors.start * self.vector_stride + depth.start);
            for i in 0..vectors.len() {
                let row = _mm512_maskz_loadu_epi16(mask, start.add(i * self.vector_stride).cast());
                _mm512_storeu_si512(to.add(16 * i).cast(), row);
            }
            for i in vectors.len()..16 {
                _mm512_storeu_si512(to.add(16 * i).cast(), _mm512_setzero_si512());
            }
        }
    }

    /// A row a pair: the same element of all vectors lies side by side.
    ///
    /// # Safety
    /// As [`Operand::along`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn between(&self, vectors: Range<usize>, depth: Range<usize>, to: *mut f32) {
        let mask = mask(vectors.len()) as u16;
        // SAFETY: the mask keeps to the vectors that exist.
        let one = |at: usize| unsafe {
            let keep = if at < depth.end { mask } else { 0 };
            let at = at.min(depth.end - 1);
            let start = self.start.add(at * self.depth_stride + vectors.start);
            _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(keep, start.cast()))
        };
        for i in 0..16 {
            let (low, high) = (one(depth.start + 2 * i), one(depth.start + 2 * i + 1));
            let pairs = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
            // SAFETY: row i of a tile.
            unsafe { _mm512_storeu_si512(to.add(16 * i).cast(), pairs) };
        }
    }
}

/// Transposes a tile of pairs in place.
///
/// # Safety
/// `tile` is one; the processor has AVX-512.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn transpose_tile(tile: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let rows = transpose(std::array::from_fn(|i| _mm512_loadu_si512(tile.add(16 * i).cast())));
        for (i, row) in rows.into_iter().enumerate() {
            _mm512_storeu_si512(tile.add(16 * i).cast(), row);
        }
    }
}

fn mask(len: usize) -> u32 {
    if len >= 32 { u32::MAX } else { (1 << len) - 1 }
}

/// Transposes 16 x 16 numbers of 32 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub fn transpose(r: Square) -> Square {
    let mut t = r;
    // Pairs of rows, then fours, then the quarters of the registers.
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    let mut u = t;
    for i in 0..4 {
        for j in 0..2 {
            u[4 * i + 2 * j] = _mm512_unpacklo_epi64(t[4 * i + j], t[4 * i + 2 + j]);
            u[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(t[4 * i + j], t[4 * i + 2 + j]);
        }
    }
    let mut v = u;
    for i in 0..4 {
        // Rows 4g + i hold column 4q + i of rows 4g.. in quarter q.
        let (a, b) = (_mm512_shuffle_i32x4::<0x88>(u[i], u[4 + i]), _mm512_shuffle_i32x4::<0xdd>(u[i], u[4 + i]));
        let (c, d) =
            (_mm512_shuffle_i32x4::<0x88>(u[8 + i], u[12 + i]), _mm512_shuffle_i32x4::<0xdd>(u[8 + i], u[12 + i]));
        v[i] = _mm512_shuffle_i32x4::<0x88>(a, c);
        v[8 + i] = _mm512_shuffle_i32x4::<0xdd>(a, c);
        v[4 + i] = _mm512_shuffle_i32x4::<0x88>(b, d);
        v[12 + i] = _mm512_shuffle_i32x4::<0xdd>(b, d);
    }
    v
}
