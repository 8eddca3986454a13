//! The head: final norm, output projection and cross-entropy as one op, a chunk of tokens at a time.
//!
//! A chunk's logits become their own gradient in place and are used up before the next chunk: no `[tokens, vocab]`
//! tensor exists, and backward needs no second product for the logits.

use crate::device::{Device, Matrix, View};
use crate::model::{Dtype, HeadWork, ModelShape};

use super::block::field;
use super::weights::HeadTable;

/// What every op of the head needs.
#[derive(Clone, Copy)]
pub struct Head<'a, D> {
    /// Where arithmetic happens.
    pub device: &'a D,
    /// Sizes.
    pub shape: &'a ModelShape,
    /// Places of the tensors.
    pub table: &'a HeadTable,
    /// Type of computation, T.
    pub dtype: Dtype,
}

/// What a training step's head writes.
#[derive(Clone, Copy, Debug)]
pub struct HeadOut {
    /// Gradient of the input, `[tokens, dim]` (T).
    pub dx: View,
    /// Gradient of the parameters (f32).
    pub gradient: View,
    /// Add to `gradient` instead of overwriting it.
    pub accumulate: bool,
}

impl<D: Device> Head<'_, D> {
    /// Adds `scale * Σ nll` to the f64 `loss`; in training also the gradients of it.
    #[allow(clippy::too_many_arguments, reason = "the regions of an action")]
    pub fn loss(
        &self,
        weights: View,
        input: View,
        targets: View,
        scale: f64,
        out: Option<HeadOut>,
        loss: View,
        workspace: View,
    ) {
        let (device, table, dim) = (self.device, self.table, self.shape.dim);
        let work = HeadWork::new(self.shape, self.dtype, targets.len());
        let weight = weights.sub(table.norm.clone());
        let parts = field(workspace, work.parts);
        self.chunks(weights, input, workspace, |first, rows, norm, logits| {
            let vector = |f| field(workspace, f).sub(0..rows);
            let targets = targets.sub(first..first + rows);
            // In bf16 the gradient fills the first half of each f32 row.
            let ratio = Dtype::F32.bytes() / self.dtype.bytes();
            let d_logits =
                Matrix::new(logits.view.cast(self.dtype), rows, ratio * self.shape.vocab).columns(0, self.shape.vocab);
            let gradient = out.map(|_| d_logits);
            device.cross_entropy(logits, targets, scale, loss, vector(work.losses), gradient);
            let Some(out) = out else { return };
            let add = out.accumulate || first > 0;
            let place = first * dim..(first + rows) * dim;
            let d_norm = field(workspace, work.d_norm).sub(0..rows * dim);
            table.projection.backward_input(device, weights, d_logits, Matrix::new(d_norm, rows, dim));
            table.projection.backward_weight(device, out.gradient, d_logits, norm, add);
            device.rmsnorm_backward(
                d_norm,
                input.sub(place.clone()),
                weight,
                vector(work.inverse_rms),
                out.dx.sub(place),
                false,
                out.gradient.sub(table.norm.clone()),
                add,
                parts,
            );
        });
        if let Some(out) = out.filter(|out| !out.accumulate) {
            for gap in &table.gaps {
                device.clear(out.gradient.sub(gap.clone()));
            }
        }
    }

    /// Logits of hidden states `[rows, dim]` (T) into `out`, `[rows, vocab]` (f32).
    pub fn logits(&self, weights: View, hidden: View, out: View, workspace: View) {
        let vocab = self.shape.vocab;
        self.chunks(weights, hidden, workspace, |first, rows, _, logits| {
            self.device.cast(logits.view, out.sub(first * vocab..(first + rows) * vocab));
        });
    }

    /// Calls `body(first, rows, norm, logits)` for every chunk.
    fn chunks(&self, weights: View, input: View, workspace: View, mut body: impl FnMut(usize, usize, Matrix, Matrix)) {
        let (device, table, dim) = (self.device, self.table, self.shape.dim);
        let tokens = input.len() / dim;
        let work = HeadWork::new(self.shape, self.dtype, tokens);
        for first in (0..tokens).step_by(work.chunk.max(1)) {
            let rows = (tokens - first).min(work.chunk);
            let norm = field(workspace, work.norm).sub(0..rows * dim);
            let inverse_rms = field(workspace, work.inverse_rms).sub(0..rows);
            let logits = Matrix::new(field(workspace, work.logits), rows, self.shape.vocab);
            let (x, weight) = (input.sub(first * dim..(first + rows) * dim), weights.sub(table.norm.clone()));
            device.rmsnorm(x, weight, self.shape.norm_eps as f32, norm, inverse_rms);
            let norm = Matrix::new(norm, rows, dim);
            table.projection.forward(device, weights, norm, logits, false);
            body(first, rows, norm, logits);
        }
    }
}
