//! Backward: every square of scores again, from queries, keys and the saved log-sums.

use std::arch::x86_64::*;

use half::bf16;

use super::super::pack::Side;
use super::super::tile::Tiles;
use super::{EDGE, HIDDEN, PACK, SUMS, Squares, head_rows, pairs_of, row_of, turn};
use crate::device::cpu::attention::{Backward, Columns};
use crate::device::cpu::element::Element;
use crate::device::cpu::lanes::{Avx512, Lanes, exp};
use crate::device::cpu::pool::scratch;
use crate::device::cpu::simd::sum2;

/// Squares of queries, and of keys, that are taken at a time.
const GROUP: usize = 2;

/// Key/value head `kv` of sequence `sequence` with all its query heads; see [`Backward::group`].
pub fn backward(call: &Backward<bf16>, sequence: usize, kv: usize, columns: &dyn Fn(usize) -> Columns<bf16>) {
    let Squares { head, seq } = Squares::of(call.shape);
    let len = head * seq * (7 * PACK + 3 * SUMS) + 2 * SUMS + 3 * GROUP * GROUP * PACK + 2 * seq * EDGE + head * SUMS;
    // SAFETY: where AMX is available so are the vectors.
    scratch(len, |buffer| unsafe { one_group(call, sequence, kv, columns, buffer) });
}

/// # Safety
/// The processor has these features and AMX.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn one_group(
    call: &Backward<bf16>,
    sequence: usize,
    kv: usize,
    columns: &dyn Fn(usize) -> Columns<bf16>,
    buffer: &mut [f32],
) {
    let shape = call.shape;
    let Squares { head: heads, seq: blocks } = Squares::of(shape);
    let (seq, hd) = (shape.seq, shape.head_dim);
    let (width, out_row, first) = (heads * EDGE, shape.heads * hd, sequence * seq);
    let scale = 1.0 / (hd as f32).sqrt();
    let (packs, buffer) = buffer.split_at_mut(7 * heads * blocks * PACK);
    let (tensors, buffer) = buffer.split_at_mut(3 * heads * blocks * SUMS);
    let (scores, buffer) = buffer.split_at_mut(SUMS);
    let (dweights, buffer) = buffer.split_at_mut(SUMS);
    let (weights, buffer) = buffer.split_at_mut(GROUP * GROUP * PACK);
    let (dscores, buffer) = buffer.split_at_mut(GROUP * GROUP * PACK);
    let (dscores_b, buffer) = buffer.split_at_mut(GROUP * GROUP * PACK);
    let (lse, buffer) = buffer.split_at_mut(blocks * EDGE);
    let (deltas, turned) = buffer.split_at_mut(blocks * EDGE);
    let [keys, values, keys_t, queries, douts, queries_x, douts_x] = {
        let mut parts = packs.chunks_exact_mut(heads * blocks * PACK);
        std::array::from_fn(|_| parts.next().expect("seven packed tensors"))
    };
    // Gradients of queries lie in a block of `[width, 32]` for every 32 of them; the others are `[tokens, width]`.
    let [dqueries, dkeys, dvalues] = {
        let mut parts = tensors.chunks_exact_mut(heads * blocks * SUMS);
        std::array::from_fn(|_| parts.next().expect("three tensors"))
    };
    // Packed by 32 tokens, or by 32 of a head's elements.
    let by_token = |from: super::Operand, side: Side, to: &mut [f32]| {
        for (block, pack) in to.chunks_exact_mut(heads * PACK).enumerate() {
            from.pack(side, block * EDGE..((block + 1) * EDGE).min(seq), 0..hd, pack);
        }
    };
    let by_element = |from: super::Operand, side: Side, to: &mut [f32]| {
        for (block, pack) in to.chunks_exact_mut(blocks * PACK).enumerate() {
            from.across().pack(side, block * EDGE..((block + 1) * EDGE).min(hd), 0..seq, pack);
        }
    };
    let qkv = |head: usize| head_rows(call.qkv, shape.row(), first, head * hd, shape);
    let (key_head, value_head) = (shape.heads + kv, shape.heads + shape.kv_heads + kv);
    by_token(qkv(key_head), Side::A, keys);
    by_element(qkv(key_head), Side::A, keys_t);
    by_token(qkv(value_head), Side::A, values);
    dkeys.fill(0.0);
    dvalues.fill(0.0);
    let group = shape.heads / shape.kv_heads;
    for head in kv * group..(kv + 1) * group {
        let dout = head_rows(call.dout, out_row, first, head * hd, shape);
        by_token(qkv(head), Side::B, queries);
        by_element(qkv(head), Side::B, queries_x);
        by_token(dout, Side::B, douts);
        by_element(dout, Side::B, douts_x);
        // What is beyond the sequence has weight e^-inf.
        lse[seq..].fill(f32::INFINITY);
        lse[..seq].copy_from_slice(&call.lse[(sequence * shape.heads + head) * seq..][..seq]);
        deltas[seq..].fill(0.0);
        for (i, delta) in deltas[..seq].iter_mut().enumerate() {
            let row = (first + i) * out_row + head * hd;
            *delta = sum2(&call.out[row..row + hd], &call.dout[row..row + hd], |a, b| a.get() * b.get());
        }
        dqueries.fill(0.0);
        let tiles = Tiles::configure();
        for left in (0..blocks).step_by(GROUP) {
            let key_blocks = (blocks - left).min(GROUP);
            for top in (left..blocks).step_by(GROUP) {
                let query_blocks = (blocks - top).min(GROUP);
                for (a, b) in (0..key_blocks).flat_map(|a| (0..query_blocks).map(move |b| (a, b))) {
                    if top + b < left + a {
                        continue;
                    }
                    let here = (top + b) * EDGE;
                    // SAFETY: squares of sums; packed squares within their arrays.
                    unsafe {
                        let query = (top + b) * heads * PACK;
                        let key = (left + a) * heads * PACK;
                        tiles.multiply(&keys[key..], &queries[query..], heads, scores.as_mut_ptr(), EDGE, false);
                        tiles.multiply(&values[key..], &douts[query..], heads, dweights.as_mut_ptr(), EDGE, false);
                        if top + b == left + a {
                            scores.iter_mut().zip(HIDDEN.as_flattened()).for_each(|(score, hidden)| *score += hidden);
                        }
                        turn_scores(
                            (scores, dweights, scale),
                            (&lse[here..here + EDGE], &deltas[here..here + EDGE]),
                            &mut weights[(a * GROUP + b) * PACK..][..PACK],
                            &mut dscores[(a * GROUP + b) * PACK..][..PACK],
                            &mut dscores_b[(b * GROUP + a) * PACK..][..PACK],
                        );
                    }
                }
                // On the diagonal, key block a has queries from block a on, query block b keys up to block b.
                let diagonal = top == left;
                for (i, a) in (0..heads).flat_map(|i| (0..key_blocks).map(move |a| (i, a))) {
                    let from = if diagonal { a } else { 0 };
                    let count = query_blocks - from;
                    let (pack, query) = ((a * GROUP + from) * PACK, (i * blocks + top + from) * PACK);
                    let sums = (left + a) * EDGE * width + i * EDGE;
                    // SAFETY: a square of sums within `[tokens, width]`.
                    unsafe {
                        let (dv, dk) = (dvalues.as_mut_ptr().add(sums), dkeys.as_mut_ptr().add(sums));
                        tiles.multiply(&weights[pack..], &douts_x[query..], count, dv, width, true);
                        tiles.multiply(&dscores[pack..], &queries_x[query..], count, dk, width, true);
                    }
                }
                for (i, b) in (0..heads).flat_map(|i| (0..query_blocks).map(move |b| (i, b))) {
                    let count = if diagonal { (b + 1).min(key_blocks) } else { key_blocks };
                    let keys = &keys_t[(i * blocks + left) * PACK..];
                    let sums = ((top + b) * heads + i) * SUMS;
                    // SAFETY: a square of sums.
                    unsafe {
                        let dq = dqueries.as_mut_ptr().add(sums);
                        tiles.multiply(keys, &dscores_b[b * GROUP * PACK..], count, dq, EDGE, true);
                    }
                }
            }
        }
        drop(tiles);
        let target = columns(head);
        for (block, sums) in dqueries.chunks_exact(heads * SUMS).enumerate() {
            for (row, half) in (0..width).step_by(16).flat_map(|row| [(row, 0), (row, 16)]) {
                // SAFETY: `turned` is `[32, width]`.
                unsafe {
                    let to = turned.as_mut_ptr().add(half * width + row);
                    turn(sums[row * EDGE + half..].as_ptr(), EDGE, _mm512_set1_ps(scale), to, width);
                }
            }
            let top = block * EDGE;
            for (i, row) in turned.chunks_exact(width).take((seq - top).min(EDGE)).enumerate() {
                // SAFETY: the gradient has a row for every token.
                unsafe { target.write(top + i, row, 1.0) };
            }
        }
    }
    for (tensor, head, factor) in [(dkeys, key_head, scale), (dvalues, value_head, 1.0)] {
        let target = columns(head);
        for (i, row) in tensor.chunks_exact(width).take(seq).enumerate() {
            // SAFETY: the gradient has a row for every token.
            unsafe { target.write(i, row, factor) };
        }
    }
}

/// A square of scores and of gradients of weights (a row a key) becomes packed weights and packed gradients of scores,
/// these both by keys (as A) and by queries (as B).
///
/// # Safety
/// The processor has these features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn turn_scores(
    (scores, dweights, scale): (&[f32], &[f32], f32),
    (lse, deltas): (&[f32], &[f32]),
    weights: &mut [f32],
    dscores: &mut [f32],
    dscores_b: &mut [f32],
) {
    // SAFETY: every slice is a whole square, or a row of one.
    unsafe {
        let scale = Avx512::splat(scale);
        let zero = Avx512::splat(0.0);
        let minus_lse = [0, 16].map(|i| zero.minus(Avx512::load(lse[i..].as_ptr())));
        let deltas = [0, 16].map(|i| Avx512::load(deltas[i..].as_ptr()));
        let one = |row: usize, half: usize| {
            let at = row * EDGE + 16 * half;
            let weight = exp(minus_lse[half].plus_product(Avx512::load(scores[at..].as_ptr()), scale));
            (weight, weight.times(Avx512::load(dweights[at..].as_ptr()).minus(deltas[half])))
        };
        for pair in 0..EDGE / 2 {
            let [first, second] = [2 * pair, 2 * pair + 1].map(|row| {
                let ((w0, d0), (w1, d1)) = (one(row, 0), one(row, 1));
                let at = row * 16;
                _mm512_storeu_si512(weights[at..].as_mut_ptr().cast(), row_of(w0.register(), w1.register()));
                _mm512_storeu_si512(dscores[at..].as_mut_ptr().cast(), row_of(d0.register(), d1.register()));
                [d0, d1]
            });
            for half in 0..2 {
                let to = dscores_b[half * PACK / 2 + pair * 16..].as_mut_ptr();
                _mm512_storeu_si512(to.cast(), pairs_of(first[half].register(), second[half].register()));
            }
        }
    }
}
