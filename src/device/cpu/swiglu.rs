//! SwiGLU: `silu(gate) * up`.

use super::element::Element;
use super::simd::exp;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Rows of `out = silu(gate) * up`; `out`'s rows are `stride` apart, its last may be cut to its length.
#[inline(always)]
pub fn forward<T: Element>(gate_up: &[T], width: usize, out: &mut [T], stride: usize) {
    for (gate_up, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_mut(stride)) {
        let (gate, up) = gate_up.split_at(width);
        for ((out, g), u) in out[..width].iter_mut().zip(gate).zip(up) {
            let g = g.get();
            *out = T::of(g * sigmoid(g) * u.get());
        }
    }
}

/// As [`forward`], the result in the place of `gate`.
#[inline(always)]
pub fn forward_in_place<T: Element>(gate_up: &mut [T], width: usize) {
    for gate_up in gate_up.chunks_exact_mut(2 * width) {
        let (gate, up) = gate_up.split_at_mut(width);
        for (gate, up) in gate.iter_mut().zip(up) {
            let g = gate.get();
            *gate = T::of(g * sigmoid(g) * up.get());
        }
    }
}

/// Rows of the backward: `act` holds the gradient of the output and becomes the output.
#[inline(always)]
pub fn backward<T: Element>(gate_up: &[T], width: usize, act: &mut [T], d_gate_up: &mut [T]) {
    let rows = gate_up.chunks_exact(2 * width).zip(d_gate_up.chunks_exact_mut(2 * width));
    for ((gate_up, d_gate_up), act) in rows.zip(act.chunks_exact_mut(width)) {
        let (gate, up) = gate_up.split_at(width);
        let (dgate, dup) = d_gate_up.split_at_mut(width);
        for (((act, g), u), (dg, du)) in act.iter_mut().zip(gate).zip(up).zip(dgate.iter_mut().zip(dup)) {
            let (d, g, u) = (act.get(), g.get(), u.get());
            let s = sigmoid(g);
            let silu = g * s;
            *act = T::of(silu * u);
            *du = T::of(d * silu);
            *dg = T::of(d * u * (s + silu * (1.0 - s)));
        }
    }
}
