//! Softmax cross-entropy of rows of logits, the gradient in the logits' own memory.

use super::element::{Element, load, store};
use super::lanes::{LANES, Lanes, exp, vectorised};

/// Negative log-likelihood of one row of logits; 0 if the target is negative.
pub fn row(logits: &[f32], target: i32) -> f32 {
    if target < 0 {
        return 0.0;
    }
    let (top, sum) = top_and_sum(logits);
    sum.ln() + (top - logits[target as usize])
}

/// As [`row`]; `logits` becomes the gradient of `scale * nll`, rounded to `T`: the first of its bytes hold it.
pub fn row_gradient<T: Element>(logits: &mut [f32], target: i32, scale: f32) -> f32 {
    let (len, start) = (logits.len(), logits.as_mut_ptr());
    if target < 0 {
        logits.fill(0.0);
        return 0.0;
    }
    let (top, sum) = top_and_sum(logits);
    let nll = sum.ln() + (top - logits[target as usize]);
    let chosen = scale * ((logits[target as usize] - top).exp() / sum - 1.0);
    softmax::<T>(logits, top, scale / sum);
    // SAFETY: the row holds `len` f32, so also `len` T.
    let gradient = unsafe { std::slice::from_raw_parts_mut(start.cast::<T>(), len) };
    gradient[target as usize] = T::of(chosen);
    nll
}

/// The greatest logit and `Σ e^(x - top)`.
fn top_and_sum(logits: &[f32]) -> (f32, f32) {
    vectorised!(top_and_sum_lanes(logits: &[f32]) -> (f32, f32))
}

/// `factor * e^(x - top)`, rounded, into the first bytes of the same memory.
fn softmax<T: Element>(logits: &mut [f32], top: f32, factor: f32) {
    vectorised!(softmax_lanes::<T>(logits: &mut [f32], top: f32, factor: f32))
}

/// # Safety
/// The processor has what `V` needs.
#[inline(always)]
unsafe fn top_and_sum_lanes<V: Lanes>(x: &[f32]) -> (f32, f32) {
    let whole = x.len() / LANES * LANES;
    // SAFETY: the caller's promise.
    let v = |c: f32| unsafe { V::splat(c) };
    let mut tops = v(f32::NEG_INFINITY);
    for i in (0..whole).step_by(LANES) {
        // SAFETY: the caller's promise.
        tops = unsafe { load::<_, V>(x, i) }.at_least(tops);
    }
    let top = x[whole..].iter().fold(tops.greatest(), |top, &x| if x > top { x } else { top });
    let mut sums = v(0.0);
    for i in (0..whole).step_by(LANES) {
        // SAFETY: the caller's promise.
        sums = sums.plus(exp(unsafe { load::<_, V>(x, i) }.minus(v(top))));
    }
    (top, x[whole..].iter().fold(sums.sum(), |sum, x| sum + (x - top).exp()))
}

/// # Safety
/// The processor has what `V` needs.
#[inline(always)]
unsafe fn softmax_lanes<T: Element, V: Lanes>(x: &mut [f32], top: f32, factor: f32) {
    let (len, start) = (x.len(), x.as_mut_ptr());
    for i in (0..len).step_by(LANES) {
        // SAFETY: the caller's promise; element i is read before its bytes, or later ones, are written, since T is no
        // larger than f32.
        unsafe {
            let read = load::<f32, V>(std::slice::from_raw_parts(start, len), i);
            let p = exp(read.minus(V::splat(top))).times(V::splat(factor));
            store(std::slice::from_raw_parts_mut(start.cast::<T>(), len), i, p);
        }
    }
}
