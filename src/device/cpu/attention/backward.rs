//! Attention's backward: every tile of scores again, from queries, keys and the saved log-sums.

use super::tile::{Left, Vector, product};
use super::{BLOCK, Columns, Sizes, gather, transpose, vectorised};
use crate::device::Attention;
use crate::device::cpu::element::Element;
use crate::device::cpu::pool::scratch;
use crate::device::cpu::simd::{exp, sum2};

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
unsafe fn one_group<T: Element, V: Vector>(
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
            let columns = (seq - left).min(BLOCK);
            let block = left * width..(left + BLOCK) * width;
            for top in (left..seq).step_by(BLOCK) {
                let rows = (seq - top).min(BLOCK);
                let here = top * width..(top + BLOCK) * width;
                let plain = |data| Left { data, row: width, col: 1 };
                // SAFETY: the caller's promise, here and below.
                unsafe {
                    product::<V>(
                        rows,
                        width,
                        BLOCK,
                        plain(&queries[here.clone()]),
                        &keys_t[block.clone()],
                        weights,
                        false,
                    );
                    product::<V>(
                        rows,
                        width,
                        BLOCK,
                        plain(&douts[here.clone()]),
                        &values_t[block.clone()],
                        dscores,
                        false,
                    );
                }
                let tiles = weights.chunks_exact_mut(BLOCK).zip(dscores.chunks_exact_mut(BLOCK));
                for (i, (weights, dscores)) in tiles.take(rows).enumerate() {
                    let seen = (top + i + 1 - left).min(BLOCK);
                    let (lse, delta) = (lse[top + i], deltas[top + i]);
                    for (w, d) in weights[..seen].iter_mut().zip(&mut dscores[..seen]) {
                        *w = exp(*w - lse);
                        *d = *w * (*d - delta);
                    }
                    weights[seen..].fill(0.0);
                    dscores[seen..].fill(0.0);
                }
                let turned = |data| Left { data, row: 1, col: BLOCK };
                let straight = Left { data: dscores, row: BLOCK, col: 1 };
                // SAFETY: see above.
                unsafe {
                    product::<V>(
                        columns,
                        rows,
                        width,
                        turned(weights),
                        &douts[here.clone()],
                        &mut dvalues[block.clone()],
                        true,
                    );
                    product::<V>(
                        columns,
                        rows,
                        width,
                        turned(dscores),
                        &queries[here.clone()],
                        &mut dkeys[block.clone()],
                        true,
                    );
                    product::<V>(rows, BLOCK, width, straight, &keys[block.clone()], &mut dqueries[here], true);
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
