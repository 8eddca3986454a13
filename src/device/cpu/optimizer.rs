//! AdamW in one pass over gradient, weights and moments.

use super::element::Element;
use crate::device::AdamW;

/// One step's numbers, the same for all elements.
#[derive(Clone, Copy, Debug)]
pub struct Factors {
    /// Clip factor of the gradient.
    clip: f32,
    /// `1 - lr * weight_decay`.
    keep: f32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    /// `lr / (1 - beta1^t)`.
    rate: f32,
    /// `1 / sqrt(1 - beta2^t)`.
    root: f32,
    eps: f32,
}

impl Factors {
    /// For update `number` (from 1) at learning rate `lr`; `squares` is the squared gradient norm.
    pub fn new(rule: &AdamW, decay: bool, lr: f64, number: f64, clip: f64, squares: f64) -> Self {
        Factors {
            clip: (clip / (squares.sqrt() + 1e-6)).min(1.0) as f32,
            keep: if decay { 1.0 - lr * rule.weight_decay } else { 1.0 } as f32,
            beta1: rule.beta1 as f32,
            beta2: rule.beta2 as f32,
            one_minus_beta1: (1.0 - rule.beta1) as f32,
            one_minus_beta2: (1.0 - rule.beta2) as f32,
            rate: (lr / (1.0 - rule.beta1.powf(number))) as f32,
            root: (1.0 / (1.0 - rule.beta2.powf(number)).sqrt()) as f32,
            eps: rule.eps as f32,
        }
    }
}

/// The step; `home` is as long as the others or empty.
#[inline(always)]
pub fn step<T: Element>(f: Factors, g: &[f32], w: &mut [f32], m: &mut [f32], v: &mut [f32], home: &mut [T]) {
    let n = g.len();
    let (w, m, v) = (&mut w[..n], &mut m[..n], &mut v[..n]);
    for i in 0..n {
        let g = g[i] * f.clip;
        m[i] = f.beta1 * m[i] + f.one_minus_beta1 * g;
        v[i] = f.beta2 * v[i] + f.one_minus_beta2 * (g * g);
        w[i] = w[i] * f.keep - f.rate * (m[i] / (v[i].sqrt() * f.root + f.eps));
    }
    // Still in the first-level cache: callers pass short runs.
    for (home, w) in home.iter_mut().zip(w.iter()) {
        *home = T::of(*w);
    }
}
