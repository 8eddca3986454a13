//! Copies, sums and sums of squares over flat runs of numbers.

use super::element::Element;

/// `dst = src`.
#[inline(always)]
pub fn cast<S: Element, D: Element>(src: &[S], dst: &mut [D]) {
    for (dst, src) in dst.iter_mut().zip(src) {
        *dst = D::of(src.get());
    }
}

/// `dst += src`.
#[inline(always)]
pub fn accumulate<S: Element, D: Element>(src: &[S], dst: &mut [D]) {
    for (dst, src) in dst.iter_mut().zip(src) {
        *dst = D::of(dst.get() + src.get());
    }
}

/// `Σ x²` in f64.
#[inline(always)]
pub fn squares(x: &[f32]) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0f64; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += f64::from(chunk[i]) * f64::from(chunk[i]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(tail) {
        *lane += f64::from(x) * f64::from(x);
    }
    lanes.iter().sum()
}
