//! A decoder block: attention and SwiGLU, each behind an RMSNorm and added to the residual stream.

use crate::device::{Attention, Device, Matrix, View};
use crate::model::{BlockBackward, BlockEvaluate, BlockForward, BlockSaved, Dtype, Field, ModelShape};

use super::Span;
use super::weights::BlockTable;

/// What every op of every block needs.
#[derive(Clone, Copy)]
pub struct Block<'a, D> {
    /// Where arithmetic happens.
    pub device: &'a D,
    /// Sizes.
    pub shape: &'a ModelShape,
    /// Places of the tensors.
    pub table: &'a BlockTable,
    /// Cosines and sines, `[seq, head_dim]`.
    pub rope: View,
    /// Type of computation, T.
    pub dtype: Dtype,
    /// Sequences.
    pub span: Span,
}

/// The tensor at a field of a slot of bytes.
pub fn field(slot: View, field: Field) -> View {
    let bytes = field.elems * field.dtype.bytes();
    slot.cast(Dtype::Byte).sub(field.offset..field.offset + bytes).cast(field.dtype)
}

/// Where a forward leaves its tensors; see [`BlockSaved`].
struct Tensors {
    norm: View,
    qkv: View,
    attention: View,
    lse: View,
    middle: View,
    gate_up: View,
    /// SwiGLU's result, `[tokens, ffn]`; may be the first half of `gate_up`.
    act: Matrix,
    inverse_rms1: View,
    inverse_rms2: View,
}

impl<D: Device> Block<'_, D> {
    fn attention(&self) -> Attention {
        Attention {
            micro: self.span.micro,
            seq: self.span.seq,
            heads: self.shape.heads,
            kv_heads: self.shape.kv_heads,
            head_dim: self.shape.head_dim,
        }
    }

    fn tokens(&self) -> usize {
        self.span.tokens()
    }

    /// A tensor as a matrix of one row a token.
    fn by_token(&self, view: View) -> Matrix {
        Matrix::new(view, self.tokens(), view.len() / self.tokens())
    }

    /// Tensors of a forward that keeps what backward reads.
    fn kept(&self, saved: View, workspace: View) -> Tensors {
        let keep = BlockSaved::new(self.shape, self.dtype, self.tokens());
        let work = BlockForward::new(self.shape, self.dtype, self.tokens());
        Tensors {
            norm: field(workspace, work.norm),
            qkv: field(saved, keep.qkv),
            attention: field(saved, keep.attention),
            lse: field(saved, keep.lse),
            middle: field(saved, keep.middle),
            gate_up: field(saved, keep.gate_up),
            act: self.by_token(field(workspace, work.act)),
            inverse_rms1: field(saved, keep.inverse_rms1),
            inverse_rms2: field(saved, keep.inverse_rms2),
        }
    }

    /// Tensors of a forward that keeps nothing; the middle of the residual stream lies in the output.
    fn passing(&self, output: View, workspace: View) -> Tensors {
        let work = BlockEvaluate::new(self.shape, self.dtype, self.tokens());
        let gate_up = field(workspace, work.gate_up);
        let inverse_rms = field(workspace, work.inverse_rms);
        Tensors {
            norm: field(workspace, work.norm),
            qkv: field(workspace, work.qkv),
            attention: field(workspace, work.attention),
            lse: field(workspace, work.lse),
            middle: output,
            gate_up,
            act: self.by_token(gate_up).columns(0, self.shape.ffn),
            inverse_rms1: inverse_rms,
            inverse_rms2: inverse_rms,
        }
    }

    /// Forward: `[tokens, dim]` to `[tokens, dim]`.
    pub fn forward(&self, weights: View, input: View, output: View, saved: Option<View>, workspace: View) {
        let tensors = match saved {
            Some(saved) => self.kept(saved, workspace),
            None => self.passing(output, workspace),
        };
        self.to_gate_up(weights, input, &tensors);
        self.device.swiglu(tensors.gate_up, tensors.act);
        if saved.is_some() {
            self.device.cast(tensors.middle, output);
        }
        self.table.down.forward(self.device, weights, tensors.act, self.by_token(output), true);
    }

    /// Forward again, for what it keeps.
    pub fn recompute(&self, weights: View, input: View, saved: View, workspace: View) {
        self.to_gate_up(weights, input, &self.kept(saved, workspace));
    }

    /// Forward up to SwiGLU's arguments: everything that backward reads.
    fn to_gate_up(&self, weights: View, input: View, t: &Tensors) {
        let (device, table) = (self.device, self.table);
        let eps = self.shape.norm_eps as f32;
        device.rmsnorm(input, weights.sub(table.norm1.clone()), eps, t.norm, t.inverse_rms1);
        table.qkv.forward(device, weights, self.by_token(t.norm), self.by_token(t.qkv), false);
        device.rope(&self.attention(), t.qkv, self.rope, false);
        device.attention(&self.attention(), t.qkv, t.attention, t.lse);
        table.out.forward(device, weights, self.by_token(t.attention), self.by_token(t.middle), false);
        device.add_rmsnorm(input, t.middle, weights.sub(table.norm2.clone()), eps, t.norm, t.inverse_rms2);
        table.gate_up.forward(device, weights, self.by_token(t.norm), self.by_token(t.gate_up), false);
    }

    /// Backward; `dx` holds the output's gradient and becomes the input's.
    #[allow(clippy::too_many_arguments, reason = "each is a region of the operation")]
    pub fn backward(
        &self,
        weights: View,
        input: View,
        saved: View,
        dx: View,
        gradient: View,
        accumulate: bool,
        workspace: View,
    ) {
        let (device, table, add) = (self.device, self.table, accumulate);
        let keep = BlockSaved::new(self.shape, self.dtype, self.tokens());
        let work = BlockBackward::new(self.shape, self.dtype, self.tokens());
        let kept = |f| field(saved, f);
        let [norm, d_norm, act, d_gate_up, d_attention, d_qkv] =
            [work.norm, work.d_norm, work.act, work.d_gate_up, work.d_attention, work.d_qkv]
                .map(|f| field(workspace, f));
        let (parts, again) = (field(workspace, work.parts), field(workspace, work.inverse_rms));
        let [m_dx, m_norm, m_d_norm, m_act, m_d_gate_up, m_d_attention, m_d_qkv] =
            [dx, norm, d_norm, act, d_gate_up, d_attention, d_qkv].map(|view| self.by_token(view));
        let eps = self.shape.norm_eps as f32;

        // The SwiGLU branch: dx stays the gradient of the residual stream.
        let weight2 = weights.sub(table.norm2.clone());
        let inverse2 = kept(keep.inverse_rms2);
        table.down.backward_input(device, weights, m_dx, m_act);
        device.swiglu_backward(kept(keep.gate_up), act, d_gate_up, self.shape.ffn);
        table.down.backward_weight(device, gradient, m_dx, m_act, add);
        device.rmsnorm(kept(keep.middle), weight2, eps, norm, again);
        table.gate_up.backward_weight(device, gradient, m_d_gate_up, m_norm, add);
        table.gate_up.backward_input(device, weights, m_d_gate_up, m_d_norm);
        let d_weight2 = gradient.sub(table.norm2.clone());
        device.rmsnorm_backward(d_norm, kept(keep.middle), weight2, inverse2, dx, true, d_weight2, add, parts);

        // The attention branch.
        let weight1 = weights.sub(table.norm1.clone());
        let inverse1 = kept(keep.inverse_rms1);
        let attention = kept(keep.attention);
        table.out.backward_input(device, weights, m_dx, m_d_attention);
        table.out.backward_weight(device, gradient, m_dx, self.by_token(attention), add);
        let (qkv, lse) = (kept(keep.qkv), kept(keep.lse));
        device.attention_backward(&self.attention(), qkv, attention, lse, d_attention, d_qkv);
        device.rope(&self.attention(), d_qkv, self.rope, true);
        device.rmsnorm(input, weight1, eps, norm, again);
        table.qkv.backward_weight(device, gradient, m_d_qkv, m_norm, add);
        table.qkv.backward_input(device, weights, m_d_qkv, m_d_norm);
        let d_weight1 = gradient.sub(table.norm1.clone());
        device.rmsnorm_backward(d_norm, input, weight1, inverse1, dx, true, d_weight1, add, parts);
        if !add {
            for gap in &table.gaps {
                device.clear(gradient.sub(gap.clone()));
            }
        }
    }
}
