//! SwiGLU: `silu(gate) * up`.

use super::element::{Element, load, store};
use super::lanes::{LANES, Lanes, exp, vectorised};

/// Rows of `out = silu(gate) * up`; `out`'s rows are `stride` apart, its last may be cut to its length.
pub fn forward<T: Element>(gate_up: &[T], width: usize, out: &mut [T], stride: usize) {
    for (gate_up, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_mut(stride)) {
        let (gate, up) = gate_up.split_at(width);
        forward_row(gate, up, &mut out[..width]);
    }
}

/// As [`forward`], the result in the place of `gate`.
pub fn forward_in_place<T: Element>(gate_up: &mut [T], width: usize) {
    for gate_up in gate_up.chunks_exact_mut(2 * width) {
        let (gate, up) = gate_up.split_at_mut(width);
        in_place_row(gate, up);
    }
}

/// Rows of the backward: `act` holds the gradient of the output and, with `remake`, becomes the output.
pub fn backward<T: Element>(gate_up: &[T], width: usize, act: &mut [T], d_gate_up: &mut [T], remake: bool) {
    let rows = gate_up.chunks_exact(2 * width).zip(d_gate_up.chunks_exact_mut(2 * width));
    for ((gate_up, d_gate_up), act) in rows.zip(act.chunks_exact_mut(width)) {
        let (gate, up) = gate_up.split_at(width);
        let (d_gate, d_up) = d_gate_up.split_at_mut(width);
        backward_row(gate, up, act, d_gate, d_up, remake);
    }
}

fn forward_row<T: Element>(gate: &[T], up: &[T], out: &mut [T]) {
    vectorised!(forward_lanes::<T>(gate: &[T], up: &[T], out: &mut [T]))
}

fn in_place_row<T: Element>(gate: &mut [T], up: &[T]) {
    vectorised!(in_place_lanes::<T>(gate: &mut [T], up: &[T]))
}

fn backward_row<T: Element>(gate: &[T], up: &[T], act: &mut [T], d_gate: &mut [T], d_up: &mut [T], remake: bool) {
    vectorised!(backward_lanes::<T>(gate: &[T], up: &[T], act: &mut [T], d_gate: &mut [T], d_up: &mut [T], remake: bool))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
fn sigmoid<V: Lanes>(x: V) -> V {
    // SAFETY: x proves that the processor has the instructions.
    let (zero, one) = unsafe { (V::splat(0.0), V::splat(1.0)) };
    one.over(one.plus(exp(zero.minus(x))))
}

/// # Safety
/// The processor has what `V` needs.
#[inline(always)]
unsafe fn forward_lanes<T: Element, V: Lanes>(gate: &[T], up: &[T], out: &mut [T]) {
    for i in (0..out.len()).step_by(LANES) {
        // SAFETY: the caller's promise.
        let (g, u): (V, V) = unsafe { (load(gate, i), load(up, i)) };
        store(out, i, g.times(sigmoid(g)).times(u));
    }
}

/// # Safety
/// The processor has what `V` needs.
#[inline(always)]
unsafe fn in_place_lanes<T: Element, V: Lanes>(gate: &mut [T], up: &[T]) {
    for i in (0..gate.len()).step_by(LANES) {
        // SAFETY: the caller's promise.
        let (g, u): (V, V) = unsafe { (load(gate, i), load(up, i)) };
        store(gate, i, g.times(sigmoid(g)).times(u));
    }
}

/// # Safety
/// The processor has what `V` needs.
#[inline(always)]
unsafe fn backward_lanes<T: Element, V: Lanes>(
    gate: &[T],
    up: &[T],
    act: &mut [T],
    d_gate: &mut [T],
    d_up: &mut [T],
    remake: bool,
) {
    for i in (0..act.len()).step_by(LANES) {
        // SAFETY: the caller's promise.
        let (g, u, d, one): (V, V, V, V) = unsafe { (load(gate, i), load(up, i), load(act, i), V::splat(1.0)) };
        let s = sigmoid(g);
        let silu = g.times(s);
        if remake {
            store(act, i, silu.times(u));
        }
        store(d_up, i, d.times(silu));
        store(d_gate, i, d.times(u).times(s.plus_product(silu, one.minus(s))));
    }
}
