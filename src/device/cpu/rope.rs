//! Rotary embedding, in place.

use super::element::Element;

/// Rotates `heads` heads at the start of every row of `x` by their position's angles. The rows are consecutive tokens,
/// the first at position `first` of a sequence of `seq`; `table` holds a position's cosines, then its sines.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "sizes of a strided tensor")]
pub fn rotate<T: Element>(
    x: &mut [T],
    row: usize,
    first: usize,
    seq: usize,
    heads: usize,
    head_dim: usize,
    table: &[f32],
    inverse: bool,
) {
    let half = head_dim / 2;
    let sign = if inverse { -1.0 } else { 1.0 };
    for (i, x) in x.chunks_exact_mut(row).enumerate() {
        let position = (first + i) % seq;
        let (cos, sin) = table[position * head_dim..(position + 1) * head_dim].split_at(half);
        for head in x[..heads * head_dim].chunks_exact_mut(head_dim) {
            let (low, high) = head.split_at_mut(half);
            for ((a, b), (&cos, &sin)) in low.iter_mut().zip(high).zip(cos.iter().zip(sin)) {
                let (u, v, sin) = (a.get(), b.get(), sign * sin);
                *a = T::of(u * cos - v * sin);
                *b = T::of(v * cos + u * sin);
            }
        }
    }
}
