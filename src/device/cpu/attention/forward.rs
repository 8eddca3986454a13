//! Attention's forward: a running maximum and sum for each query while its keys pass by.

use super::tile::{Left, Vector, product};
use super::{BLOCK, Columns, Sizes, gather, transpose, vectorised};
use crate::device::Attention;
use crate::device::cpu::element::Element;
use crate::device::cpu::pool::scratch;
use crate::device::cpu::simd::{LANES, exp, fold, max};

/// One call's operands.
#[derive(Clone, Copy)]
pub struct Forward<'a, T> {
    /// Sizes.
    pub shape: &'a Attention,
    /// `[tokens, row]`.
    pub qkv: &'a [T],
}

impl<T: Element> Forward<'_, T> {
    /// Query head `head` of sequence `sequence`: its columns of the output, and its log-sums.
    pub fn head(&self, sequence: usize, head: usize, out: Columns<T>, lse: &mut [f32]) {
        let shape = self.shape;
        let sizes = Sizes::of(shape);
        let (hd, tokens) = (shape.head_dim, &self.qkv[sequence * shape.seq * sizes.row..]);
        let key = shape.heads + head / (shape.heads / shape.kv_heads);
        let q = &tokens[head * hd..];
        let k = &tokens[key * hd..];
        let v = &tokens[(key + shape.kv_heads) * hd..];
        let len = 4 * sizes.head() + BLOCK * (BLOCK + sizes.width);
        scratch(len, |buffer| run(shape, q, k, v, out, lse, buffer));
    }
}

#[allow(clippy::too_many_arguments, reason = "each is a tensor of the operation")]
fn run<T: Element>(shape: &Attention, q: &[T], k: &[T], v: &[T], out: Columns<T>, lse: &mut [f32], buffer: &mut [f32]) {
    vectorised!(one_head::<T>(
        shape: &Attention,
        q: &[T],
        k: &[T],
        v: &[T],
        out: Columns<T>,
        lse: &mut [f32],
        buffer: &mut [f32],
    ))
}

/// # Safety
/// The processor has what `V` needs.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "each is a tensor of the operation")]
unsafe fn one_head<T: Element, V: Vector>(
    shape: &Attention,
    q: &[T],
    k: &[T],
    v: &[T],
    out: Columns<T>,
    lse: &mut [f32],
    buffer: &mut [f32],
) {
    let Sizes { width, row, .. } = Sizes::of(shape);
    let (seq, hd, size) = (shape.seq, shape.head_dim, Sizes::of(shape).head());
    let (queries, buffer) = buffer.split_at_mut(size);
    let (values, buffer) = buffer.split_at_mut(size);
    let (keys, buffer) = buffer.split_at_mut(size);
    let (keys_t, buffer) = buffer.split_at_mut(size);
    let (scores, sums) = buffer.split_at_mut(BLOCK * BLOCK);
    gather(q, row, seq, hd, width, 1.0 / (hd as f32).sqrt(), queries);
    gather(v, row, seq, hd, width, 1.0, values);
    gather(k, row, seq, hd, width, 1.0, keys);
    transpose(keys, width, keys_t);
    for top in (0..seq).step_by(BLOCK) {
        let rows = (seq - top).min(BLOCK);
        let mut tops = [f32::NEG_INFINITY; BLOCK];
        let mut totals = [0f32; BLOCK];
        sums.fill(0.0);
        for left in (0..=top).step_by(BLOCK) {
            let tile = Left { data: &queries[top * width..], row: width, col: 1 };
            // SAFETY: the caller's promise.
            unsafe { product::<V>(rows, width, BLOCK, tile, &keys_t[left * width..], scores, false) };
            for (i, scores) in scores.chunks_exact_mut(BLOCK).take(rows).enumerate() {
                // Query top + i sees the keys up to itself.
                let seen = (top + i + 1 - left).min(BLOCK);
                let (scores, hidden) = scores.split_at_mut(seen);
                let highest = tops[i].max(max(scores));
                let shrink = exp(tops[i] - highest);
                totals[i] = totals[i] * shrink + exponentials(scores, highest);
                hidden.fill(0.0);
                if left > 0 && shrink != 1.0 {
                    for sum in &mut sums[i * width..(i + 1) * width] {
                        *sum *= shrink;
                    }
                }
                tops[i] = highest;
            }
            let weights = Left { data: scores, row: BLOCK, col: 1 };
            // SAFETY: the caller's promise.
            unsafe { product::<V>(rows, BLOCK, width, weights, &values[left * width..], sums, true) };
        }
        for (i, sums) in sums.chunks_exact(width).take(rows).enumerate() {
            // SAFETY: the output has a row for every token.
            unsafe { out.write(top + i, sums, 1.0 / totals[i]) };
            lse[top + i] = tops[i] + totals[i].ln();
        }
    }
}

/// `x = e^(x - highest)`; returns the sum.
#[inline(always)]
fn exponentials(x: &mut [f32], highest: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = x.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for i in 0..LANES {
            chunk[i] = exp(chunk[i] - highest);
            lanes[i] += chunk[i];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(chunks.into_remainder()) {
        *x = exp(*x - highest);
        *lane += *x;
    }
    fold(lanes, |a, b| a + b)
}
