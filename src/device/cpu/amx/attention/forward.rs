//! Forward: a running maximum and sum for each query while its keys pass by.

use std::arch::x86_64::*;

use half::bf16;

use super::super::pack::Side;
use super::super::tile::Tiles;
use super::{EDGE, HIDDEN, PACK, SUMS, Squares, head_rows, pairs_of, turn};
use crate::device::Attention;
use crate::device::cpu::attention::Columns;
use crate::device::cpu::lanes::{Avx512, Lanes, exp};
use crate::device::cpu::pool::scratch;

/// Squares of keys that are taken at a time.
const KEYS: usize = 4;

/// How far a maximum may grow before sums are scaled to it: exponentials stay below e^8, far from overflow, and sums
/// are rarely touched.
const SLACK: f32 = 8.0;

/// One query head of one sequence: its columns of the output, and its log-sums.
pub fn forward(shape: &Attention, qkv: &[bf16], sequence: usize, head: usize, out: Columns<bf16>, lse: &mut [f32]) {
    let squares = Squares::of(shape);
    let packed = (2 * squares.seq + 1) * squares.head * PACK;
    let len = packed + KEYS * (SUMS + PACK) + 2 * squares.head * SUMS;
    // SAFETY: where AMX is available so are the vectors.
    scratch(len, |buffer| unsafe { one_head(shape, qkv, sequence, head, out, lse, buffer) });
}

/// # Safety
/// The processor has these features and AMX.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn one_head(
    shape: &Attention,
    qkv: &[bf16],
    sequence: usize,
    head: usize,
    out: Columns<bf16>,
    lse: &mut [f32],
    buffer: &mut [f32],
) {
    let Squares { head: heads, seq: blocks } = Squares::of(shape);
    let (seq, hd) = (shape.seq, shape.head_dim);
    let scale = 1.0 / (hd as f32).sqrt();
    let kv = shape.heads + head / (shape.heads / shape.kv_heads);
    let rows = |head: usize| head_rows(qkv, shape.row(), sequence * seq, head * hd, shape);
    let (q, k, v) = (rows(head), rows(kv), rows(kv + shape.kv_heads).across());

    let (keys, buffer) = buffer.split_at_mut(blocks * heads * PACK);
    let (values, buffer) = buffer.split_at_mut(blocks * heads * PACK);
    let (queries, buffer) = buffer.split_at_mut(heads * PACK);
    let (scores, buffer) = buffer.split_at_mut(KEYS * SUMS);
    let (weights, buffer) = buffer.split_at_mut(KEYS * PACK);
    let (sums, turned) = buffer.split_at_mut(heads * SUMS);
    for (block, pack) in keys.chunks_exact_mut(heads * PACK).enumerate() {
        k.pack(Side::A, block * EDGE..((block + 1) * EDGE).min(seq), 0..hd, pack);
    }
    for (block, pack) in values.chunks_exact_mut(blocks * PACK).enumerate() {
        v.pack(Side::A, block * EDGE..((block + 1) * EDGE).min(hd), 0..seq, pack);
    }
    let tiles = Tiles::configure();
    for block in 0..blocks {
        let top = block * EDGE;
        q.pack(Side::B, top..(top + EDGE).min(seq), 0..hd, queries);
        sums.fill(0.0);
        let mut tops = [f32::NEG_INFINITY; EDGE];
        let mut totals = [0f32; EDGE];
        for first in (0..=block).step_by(KEYS) {
            let count = (block + 1 - first).min(KEYS);
            for (i, scores) in scores.chunks_exact_mut(SUMS).take(count).enumerate() {
                // SAFETY: a square of scores.
                unsafe {
                    let keys = &keys[(first + i) * heads * PACK..];
                    tiles.multiply(keys, queries, heads, scores.as_mut_ptr(), EDGE, false);
                }
            }
            if first + count == block + 1 {
                let diagonal = &mut scores[(count - 1) * SUMS..count * SUMS];
                diagonal.iter_mut().zip(HIDDEN.as_flattened()).for_each(|(score, hidden)| *score += hidden);
            }
            for half in 0..2 {
                let lanes = 16 * half..16 * half + 16;
                // SAFETY: scores, weights and sums hold as many squares.
                unsafe {
                    absorb(
                        &scores[lanes.start..count * SUMS],
                        scale,
                        &mut tops[lanes.clone()],
                        &mut totals[lanes.clone()],
                        &mut sums[lanes.start..],
                        weights.as_mut_ptr().add(half * PACK / 2),
                    );
                }
            }
            for (i, sums) in sums.chunks_exact_mut(SUMS).enumerate() {
                // SAFETY: a square of sums.
                unsafe {
                    let values = &values[(i * blocks + first) * PACK..];
                    tiles.multiply(values, weights, count, sums.as_mut_ptr(), EDGE, true);
                }
            }
        }
        let factors = totals.map(|total| 1.0 / total);
        for (row, half) in (0..heads * EDGE).step_by(16).flat_map(|row| [(row, 0), (row, 16)]) {
            // SAFETY: `turned` is `[32, heads * 32]`.
            unsafe {
                let to = turned.as_mut_ptr().add(half * heads * EDGE + row);
                turn(sums[row * EDGE + half..].as_ptr(), EDGE, _mm512_loadu_ps(&factors[half]), to, heads * EDGE);
            }
        }
        for (i, row) in turned.chunks_exact(heads * EDGE).take(seq - top.min(seq)).enumerate().take(EDGE) {
            // SAFETY: the output has a row for every token.
            unsafe { out.write(top + i, row, 1.0) };
            lse[top + i] = tops[i] + totals[i].ln();
        }
    }
}

/// Takes in the scores of sixteen queries (columns) against some squares of keys: `weights` become their exponentials,
/// packed.
///
/// # Safety
/// `weights` is good for as many squares; the processor has these features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn absorb(
    scores: &[f32],
    scale: f32,
    tops: &mut [f32],
    totals: &mut [f32],
    sums: &mut [f32],
    weights: *mut f32,
) {
    // SAFETY: the caller's promise; every row has sixteen numbers from its start.
    unsafe {
        let scale = Avx512::splat(scale);
        let mut greatest = Avx512::splat(f32::NEG_INFINITY);
        for row in scores.chunks(EDGE) {
            greatest = greatest.at_least(Avx512::load(row.as_ptr()));
        }
        let greatest = greatest.times(scale);
        let mut top = Avx512::load(tops.as_ptr());
        let mut total = Avx512::load(totals.as_ptr());
        if greatest.minus(top).greatest() > SLACK {
            let higher = greatest.at_least(top);
            let shrink = exp(top.minus(higher));
            top = higher;
            total = total.times(shrink);
            for row in sums.chunks_mut(EDGE) {
                Avx512::load(row.as_ptr()).times(shrink).store(row.as_mut_ptr());
            }
            top.store(tops.as_mut_ptr());
        }
        let minus_top = Avx512::splat(0.0).minus(top);
        for (i, rows) in scores.chunks(2 * EDGE).enumerate() {
            let e = |row: *const f32| exp(minus_top.plus_product(Avx512::load(row), scale));
            let (first, second) = (e(rows.as_ptr()), e(rows.as_ptr().add(EDGE)));
            total = total.plus(first.plus(second));
            let to = weights.add(i / 16 * PACK + i % 16 * 16);
            _mm512_storeu_si512(to.cast(), pairs_of(first.register(), second.register()));
        }
        total.store(totals.as_mut_ptr());
    }
}
