//! Attention's backward: every tile of scores again, from queries, keys and the saved log-sums.

use super::tile::{Left, product};
use super::{BLOCK, Columns, Sizes, gather, strips, transpose};
use crate::device::Attention;
use crate::device::cpu::element::Element;
use crate::device::cpu::lanes::{LANES, Lanes, exp, vectorised};
use crate::device::cpu::pool::scratch;
use crate::device::cpu::simd::sum2;

/// One call's operands that are read.
#[derive(Clone, Copy)]
pub struct Backward<'a, T> {
    /// Sizes.
    pub shape: &'a Attention,
    /// `[tokens, row]`.
    pub qkv: &'a [T],
    /// `[tokens, heads * head_dim]`.
    pub out: &'a [T],
    /// `[micro, heads, seq]`.
    pub lse: &'a [f32],
    /// Gradient of `out`.
    pub dout: &'a [T],
}

/// Tensors of one head in scratch.
const TENSORS: usize = 9;

impl<T: Element> Backward<'_, T> {
    /// Key/value head `kv` of sequence `sequence` with all its query heads. `columns` gives the columns of `dqkv` that
    /// belong to one of the heads in a row: queries', then keys', then values'.
    pub fn group(&self, sequence: usize, kv: usize, columns: &dyn Fn(usize) -> Columns<T>) {
        let sizes = Sizes::of(self.shape);
        let len = TENSORS * sizes.head() + 2 * BLOCK * BLOCK + sizes.padded;
        scratch(len, |buffer| run(self, sequence, kv, columns, buffer));
    }
}

fn run<T: Element>(
    call: &Backward<T>,
    sequence: usize,
    kv: usize,
    columns: &dyn Fn(usize) -> Columns<T>,
    buffer: &mut [f32],
) {
    vectorised!(one_group::<T>(
        call: &Backward<T>,
        sequence: usize,
        kv: usize,
        columns: &dyn Fn(usize) -> Columns<T>,
        buffer: &mut [f32],
    ))
}

/// # Safety
/// The processor has what `V` needs.
#[inline(always)]
unsafe fn one_group<T: Element, V: Lanes>(
    call: &Backward<T>,
    sequence: usize,
    kv: usize,
    columns: &dyn Fn(usize) -> Columns<T>,
    buffer: &mut [f32],
) {
    let shape = call.shape;
    let Sizes { width, row, padded } = Sizes::of(shape);
    let (seq, hd) = (shape.seq, shape.head_dim);
    let scale = 1.0 / (hd as f32).sqrt();
    let (tensors, buffer) = buffer.split_at_mut(TENSORS * padded * width);
    let (weights, buffer) = buffer.split_at_mut(BLOCK * BLOCK);
    let (dscores, deltas) = buffer.split_at_mut(BLOCK * BLOCK);
    let [queries, keys, keys_t, values, values_t, douts, dqueries, dkeys, dvalues] = {
        let mut parts = tensors.chunks_exact_mut(padded * width);
        std::array::from_fn(|_| parts.next().expect("as many tensors as were asked for"))
    };
    let tokens = &call.qkv[sequence * seq * row..];
    gather(&tokens[(shape.heads + kv) * hd..], row, seq, hd, width, 1.0, keys);
    gather(&tokens[(shape.heads + shape.kv_heads + kv) * hd..], row, seq, hd, width, 1.0, values);
    transpose(keys, width, keys_t);
    transpose(values, width, values_t);
    dkeys.fill(0.0);
    dvalues.fill(0.0);
    let group = shape.heads / shape.kv_heads;
    let out_row = shape.heads * hd;
    for head in kv * group..(kv + 1) * group {
        let at = sequence * seq * out_row + head * hd;
        let lse = &call.lse[(sequence * shape.heads + head) * seq..][..seq];
        gather(&tokens[head * hd..], row, seq, hd, width, scale, queries);
        gather(&call.dout[at..], out_row, seq, hd, width, 1.0, douts);
        for (i, delta) in deltas[..seq].iter_mut().enumerate() {
            let row = at + i * out_row;
            *delta = sum2(&call.out[row..row + hd], &call.dout[row..row + hd], |a, b| a.get() * b.get());
        }
        dqueries.fill(0.0);
        for left in (0..seq).step_by(BLOCK) {
            let block = left * width..(left + BLOCK) * width;
            let (keys, keys_t, values_t) = (&keys[block.clone()], &keys_t[block.clone()], &values_t[block.clone()]);
            let (dkeys, dvalues) = (&mut dkeys[block.clone()], &mut dvalues[block]);
            for top in (left..seq).step_by(BLOCK) {
                let rows = (seq - top).min(BLOCK);
                for (first, rows, seen) in strips(top, rows, left) {
                    let here = (top + first) * width..(top + first + rows) * width;
                    let (queries, douts) = (&queries[here.clone()], &douts[here.clone()]);
                    let plain = |data| Left { data, row: width, col: 1 };
                    let size = (rows, width, seen);
                    // SAFETY: the caller's promise, here and below.
                    unsafe {
                        product::<V>(size, plain(queries), keys_t, BLOCK, weights, BLOCK, false);
                        product::<V>(size, plain(douts), values_t, BLOCK, dscores, BLOCK, false);
                    }
                    for i in 0..rows {
                        let row = i * BLOCK..i * BLOCK + seen;
                        let (weights, dscores) = (&mut weights[row.clone()], &mut dscores[row]);
                        if top == left {
                            weights[first + i + 1..].fill(f32::NEG_INFINITY);
                        }
                        let token = top + first + i;
                        // SAFETY: see above.
                        unsafe { turn::<V>(weights, dscores, lse[token], deltas[token]) };
                    }
                    let turned = |data| Left { data, row: 1, col: BLOCK };
                    let straight = Left { data: dscores, row: BLOCK, col: 1 };
                    // SAFETY: see above.
                    unsafe {
                        product::<V>((seen, rows, width), turned(weights), douts, width, dvalues, width, true);
                        product::<V>((seen, rows, width), turned(dscores), queries, width, dkeys, width, true);
                        product::<V>((rows, seen, width), straight, keys, width, &mut dqueries[here], width, true);
                    }
                }
            }
        }
        let target = columns(head);
        for (i, dquery) in dqueries.chunks_exact(width).take(seq).enumerate() {
            // SAFETY: the gradient has a row for every token.
            unsafe { target.write(i, dquery, scale) };
        }
    }
    // The queries were scaled already.
    for (tensor, head) in [(dkeys, shape.heads + kv), (dvalues, shape.heads + shape.kv_heads + kv)] {
        let target = columns(head);
        for (i, values) in tensor.chunks_exact(width).take(seq).enumerate() {
            // SAFETY: the gradient has a row for every token.
            unsafe { target.write(i, values, 1.0) };
        }
    }
}

/// Scores become weights, gradients of weights become gradients of scores.
///
/// # Safety
/// The processor has what `V` needs.
#[inline(always)]
unsafe fn turn<V: Lanes>(weights: &mut [f32], dscores: &mut [f32], lse: f32, delta: f32) {
    // SAFETY: the caller's promise; the slices are whole vectors long.
    unsafe {
        let (lse, delta) = (V::splat(lse), V::splat(delta));
        for i in (0..weights.len()).step_by(LANES) {
            let (w, d) = (&mut weights[i..i + LANES], &mut dscores[i..i + LANES]);
            let weight = exp(V::load(w.as_ptr()).minus(lse));
            weight.store(w.as_mut_ptr());
            weight.times(V::load(d.as_ptr()).minus(delta)).store(d.as_mut_ptr());
        }
    }
}
