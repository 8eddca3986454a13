//! Softmax cross-entropy of rows of logits, the gradient in the logits' own memory.

use half::bf16;

use super::element::Element;
use super::simd::{LANES, exp, fold, max};

/// Negative log-likelihood of one row; 0 if the target is negative. With `scale`, the row becomes the gradient of
/// `scale * nll`.
#[inline(always)]
pub fn row(logits: &mut [f32], target: i32, scale: Option<f32>) -> f32 {
    if target < 0 {
        if scale.is_some() {
            logits.fill(0.0);
        }
        return 0.0;
    }
    let target = target as usize;
    let top = max(logits);
    let chosen = logits[target];
    let sum = match scale {
        None => sum_exp(logits, top),
        Some(_) => sum_exp_in_place(logits, top),
    };
    if let Some(scale) = scale {
        let factor = scale / sum;
        for p in logits.iter_mut() {
            *p *= factor;
        }
        logits[target] -= scale;
    }
    sum.ln() + (top - chosen)
}

#[inline(always)]
fn sum_exp(x: &[f32], top: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += exp(chunk[i] - top);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(tail) {
        *lane += exp(x - top);
    }
    fold(lanes, |a, b| a + b)
}

#[inline(always)]
fn sum_exp_in_place(x: &mut [f32], top: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = x.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for i in 0..LANES {
            chunk[i] = exp(chunk[i] - top);
            lanes[i] += chunk[i];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(chunks.into_remainder()) {
        *x = exp(*x - top);
        *lane += *x;
    }
    fold(lanes, |a, b| a + b)
}

/// Rounds a row to bf16 in its own memory, whose first half it then fills.
#[inline(always)]
pub fn narrow(row: &mut [f32]) {
    let (len, start) = (row.len(), row.as_mut_ptr());
    let narrow = start.cast::<bf16>();
    for i in 0..len {
        // SAFETY: both lie within the row; element i is read before its bytes, or later ones, are overwritten, since
        // writing stays at or below byte 2i + 2 and reading at or above byte 4i.
        unsafe { narrow.add(i).write(bf16::of(start.add(i).read())) };
    }
}
