//! Attention's forward: a running maximum and sum for each query while its keys pass by.

use super::tile::{Left, product};
use super::{BLOCK, Columns, Sizes, gather, strips, transpose};
use crate::device::Attention;
use crate::device::cpu::element::Element;
use crate::device::cpu::lanes::{LANES, Lanes, exp, vectorised};
use crate::device::cpu::pool::scratch;

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
unsafe fn one_head<T: Element, V: Lanes>(
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
            for (first, rows, seen) in strips(top, rows, left) {
                let tile = Left { data: &queries[(top + first) * width..], row: width, col: 1 };
                let strip = &mut scores[first * BLOCK..];
                // SAFETY: the caller's promise, here and below.
                unsafe { product::<V>((rows, width, seen), tile, &keys_t[left * width..], BLOCK, strip, BLOCK, false) };
                for i in first..first + rows {
                    let scores = &mut scores[i * BLOCK..i * BLOCK + seen];
                    if top == left {
                        // Query i of the tile sees the keys up to itself.
                        scores[i + 1..].fill(f32::NEG_INFINITY);
                    }
                    // SAFETY: see above.
                    unsafe { absorb::<V>(scores, &mut tops[i], &mut totals[i], &mut sums[i * width..(i + 1) * width]) };
                }
                let weights = Left { data: &scores[first * BLOCK..], row: BLOCK, col: 1 };
                let (values, sums) = (&values[left * width..], &mut sums[first * width..]);
                // SAFETY: see above.
                unsafe { product::<V>((rows, seen, width), weights, values, width, sums, width, true) };
            }
        }
        for (i, sums) in sums.chunks_exact(width).take(rows).enumerate() {
            // SAFETY: the output has a row for every token.
            unsafe { out.write(top + i, sums, 1.0 / totals[i]) };
            lse[top + i] = tops[i] + totals[i].ln();
        }
    }
}

/// Turns a query's next scores into exponentials relative to the greatest score so far, `top`; what was summed up
/// before is scaled to it.
///
/// # Safety
/// The processor has what `V` needs.
#[inline(always)]
unsafe fn absorb<V: Lanes>(scores: &mut [f32], top: &mut f32, total: &mut f32, sums: &mut [f32]) {
    // SAFETY: the caller's promise; the slices are whole vectors long.
    unsafe {
        let at = |x: &[f32], i: usize| V::load(x[i..i + LANES].as_ptr());
        let mut greatest = at(scores, 0);
        for i in (LANES..scores.len()).step_by(LANES) {
            greatest = greatest.at_least(at(scores, i));
        }
        let greatest = greatest.greatest();
        if greatest > *top {
            // The first scores find sums of zero, and a factor of zero.
            let shrink = V::splat((*top - greatest).exp());
            *total *= (*top - greatest).exp();
            *top = greatest;
            for i in (0..sums.len()).step_by(LANES) {
                at(sums, i).times(shrink).store(sums[i..i + LANES].as_mut_ptr());
            }
        }
        let mut added = V::splat(0.0);
        for i in (0..scores.len()).step_by(LANES) {
            let e = exp(at(scores, i).minus(V::splat(*top)));
            added = added.plus(e);
            e.store(scores[i..i + LANES].as_mut_ptr());
        }
        *total += added.sum();
    }
}
