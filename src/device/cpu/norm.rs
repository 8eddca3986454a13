//! RMSNorm, forward and backward, alone and with the residual sum before it.

use super::element::Element;
use super::simd::sum2;

/// Rows of `out = x / rms(x) * weight`.
#[inline(always)]
pub fn forward<T: Element>(x: &[T], weight: &[T], eps: f32, out: &mut [T], inverse_rms: &mut [f32]) {
    let dim = weight.len();
    for ((x, out), inverse) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).zip(inverse_rms) {
        *inverse = normalise(x, weight, eps, out);
    }
}

/// Rows of `sum += x; out = sum / rms(sum) * weight`.
#[inline(always)]
pub fn add_forward<T: Element>(x: &[T], sum: &mut [T], weight: &[T], eps: f32, out: &mut [T], inverse_rms: &mut [f32]) {
    let dim = weight.len();
    let rows = x.chunks_exact(dim).zip(sum.chunks_exact_mut(dim)).zip(out.chunks_exact_mut(dim));
    for (((x, sum), out), inverse) in rows.zip(inverse_rms) {
        for (sum, x) in sum.iter_mut().zip(x) {
            *sum = T::of(sum.get() + x.get());
        }
        *inverse = normalise(sum, weight, eps, out);
    }
}

#[inline(always)]
fn normalise<T: Element>(x: &[T], weight: &[T], eps: f32, out: &mut [T]) -> f32 {
    let squares = sum2(x, x, |a, b| a.get() * b.get());
    let inverse = 1.0 / (squares / x.len() as f32 + eps).sqrt();
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = T::of(x.get() * inverse * w.get());
    }
    inverse
}

/// Rows of the backward: with g = dout · weight and r = 1 / rms, `dx (+)= g r - x r³ (g·x) / dim`; `dweight += dout x r`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "each is a tensor of the operation")]
pub fn backward<T: Element>(
    dout: &[T],
    x: &[T],
    weight: &[T],
    inverse_rms: &[f32],
    dx: &mut [T],
    add: bool,
    dweight: &mut [f32],
) {
    let dim = weight.len();
    let rows = dout.chunks_exact(dim).zip(x.chunks_exact(dim)).zip(dx.chunks_exact_mut(dim));
    for (((dout, x), dx), &r) in rows.zip(inverse_rms) {
        let mut product = 0.0;
        // In pieces that fit a few registers, so that `dout · weight` needs no buffer.
        for start in (0..dim).step_by(PIECE) {
            let piece = start..(start + PIECE).min(dim);
            let (dout, x, weight) = (&dout[piece.clone()], &x[piece.clone()], &weight[piece]);
            let mut g = [0f32; PIECE];
            for ((g, d), w) in g.iter_mut().zip(dout).zip(weight) {
                *g = d.get() * w.get();
            }
            product += sum2(&g[..x.len()], x, |g, x| g * x.get());
        }
        let c = product * r * r * r / dim as f32;
        let old = if add { 1.0 } else { 0.0 };
        let columns = dx.iter_mut().zip(dweight.iter_mut()).zip(dout.iter().zip(x).zip(weight));
        for ((dx, dweight), ((d, x), w)) in columns {
            let (d, x) = (d.get(), x.get());
            // What is not to be added to may hold anything, also NaN.
            let before = if old == 1.0 { dx.get() } else { 0.0 };
            *dx = T::of(before + (d * w.get() * r - x * c));
            *dweight += d * (x * r);
        }
    }
}

const PIECE: usize = 128;
