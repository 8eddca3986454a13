//! Token embedding: a gather, and its transpose.

use super::element::Element;

/// `out[i] = table[tokens[i]]`.
pub fn forward<T: Element>(table: &[T], tokens: &[i32], out: &mut [T], dim: usize) {
    for (out, &token) in out.chunks_exact_mut(dim).zip(tokens) {
        let start = token as usize * dim;
        out.copy_from_slice(&table[start..start + dim]);
    }
}

/// `dtable[tokens[i]] += dout[i]`, in order, for tokens from `first` on whose rows `dtable` holds: threads share the
/// work by vocabulary, so that the order of the sums does not depend on them.
#[inline(always)]
pub fn backward<T: Element>(dout: &[T], tokens: &[i32], first: usize, dtable: &mut [f32], dim: usize) {
    let rows = dtable.len() / dim;
    for (dout, &token) in dout.chunks_exact(dim).zip(tokens) {
        let Some(row) = (token as usize).checked_sub(first).filter(|row| *row < rows) else { continue };
        for (sum, d) in dtable[row * dim..(row + 1) * dim].iter_mut().zip(dout) {
            *sum += d.get();
        }
    }
}
