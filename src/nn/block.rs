//! A decoder block: attention and SwiGLU, each behind an RMSNorm and added to the residual stream.

use crate::device::{Attention, Device, Matrix, View};
use crate::model::{
    BlockBackward, BlockEvaluate, BlockForward, BlockPending, BlockSaved, Dtype, Field, ModelShape, Recompute,
};

use super::Span;
use super::weights::{BlockTable, Projection};

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
    /// What lies in what is saved.
    pub recompute: Recompute,
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
    /// May be the place of `norm2`.
    norm1: View,
    qkv: View,
    attention: View,
    lse: View,
    middle: View,
    norm2: View,
    gate_up: View,
    /// SwiGLU's result, `[tokens, ffn]`; may be the first half of `gate_up`.
    act: Matrix,
    inverse_rms1: View,
    inverse_rms2: View,
}

/// A projection of a block.
#[derive(Clone, Copy)]
enum Part {
    Qkv,
    Out,
    GateUp,
    Down,
}

/// Where a backward leaves the arguments of the projections that it computes again, and the gradients of their results.
struct Gradients {
    norm1: View,
    d_qkv: View,
    norm2: View,
    d_gate_up: View,
    /// The gradient of SwiGLU's result; then the result, if it was not kept.
    act: View,
    /// Gradients of the norms' weights (f32), added to with `add`.
    d_weight1: View,
    d_weight2: View,
    add: bool,
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

    fn saved(&self) -> BlockSaved {
        BlockSaved::new(self.shape, self.dtype, self.recompute, self.tokens())
    }

    /// Tensors of a forward that keeps what backward reads.
    fn kept(&self, saved: View, workspace: View) -> Tensors {
        let keep = self.saved();
        let work = BlockForward::new(self.shape, self.dtype, self.tokens());
        let [norm1, norm2, act] = match keep.cheap {
            Some(cheap) => [cheap.norm1, cheap.norm2, cheap.act].map(|f| field(saved, f)),
            None => [work.norm, work.norm, work.act].map(|f| field(workspace, f)),
        };
        Tensors {
            norm1,
            qkv: field(saved, keep.qkv),
            attention: field(saved, keep.attention),
            lse: field(saved, keep.lse),
            middle: field(saved, keep.middle),
            norm2,
            gate_up: field(saved, keep.gate_up),
            act: self.by_token(act),
            inverse_rms1: field(saved, keep.inverse_rms1),
            inverse_rms2: field(saved, keep.inverse_rms2),
        }
    }

    /// Tensors of a forward that keeps nothing; the middle of the residual stream lies in the output.
    fn passing(&self, output: View, workspace: View) -> Tensors {
        let work = BlockEvaluate::new(self.shape, self.dtype, self.tokens());
        let gate_up = field(workspace, work.gate_up);
        let [norm, inverse_rms] = [work.norm, work.inverse_rms].map(|f| field(workspace, f));
        Tensors {
            norm1: norm,
            qkv: field(workspace, work.qkv),
            attention: field(workspace, work.attention),
            lse: field(workspace, work.lse),
            middle: output,
            norm2: norm,
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
        device.rmsnorm(input, weights.sub(table.norm1.clone()), eps, t.norm1, t.inverse_rms1);
        table.qkv.forward(device, weights, self.by_token(t.norm1), self.by_token(t.qkv), false);
        device.rope(&self.attention(), t.qkv, self.rope, false);
        device.attention(&self.attention(), t.qkv, t.attention, t.lse);
        table.out.forward(device, weights, self.by_token(t.attention), self.by_token(t.middle), false);
        device.add_rmsnorm(input, t.middle, weights.sub(table.norm2.clone()), eps, t.norm2, t.inverse_rms2);
        table.gate_up.forward(device, weights, self.by_token(t.norm2), self.by_token(t.gate_up), false);
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
        let work = BlockBackward::new(self.shape, self.dtype, self.tokens());
        let scratch = |f| field(workspace, f);
        let tensors = Gradients {
            norm1: scratch(work.norm),
            d_qkv: scratch(work.d_qkv),
            norm2: scratch(work.norm),
            d_gate_up: scratch(work.d_gate_up),
            act: scratch(work.act),
            d_weight1: gradient.sub(table.norm1.clone()),
            d_weight2: gradient.sub(table.norm2.clone()),
            add,
        };
        self.backward_chain(weights, input, saved, dx, &tensors, workspace, |part, dy, x| {
            self.projection(part).backward_weight(device, gradient, dy, x, add);
        });
        self.clear_gaps(gradient, add);
    }

    /// Backward as far as the input's gradient; what [`Block::backward_weight`] needs goes to `pending`.
    pub fn backward_input(&self, weights: View, input: View, saved: View, dx: View, pending: View, workspace: View) {
        let keep = BlockPending::new(self.shape, self.dtype, self.tokens());
        let kept = |f| field(pending, f);
        let tensors = Gradients {
            norm1: kept(keep.norm1),
            d_qkv: kept(keep.d_qkv),
            norm2: kept(keep.norm2),
            d_gate_up: kept(keep.d_gate_up),
            act: kept(keep.act),
            d_weight1: kept(keep.d_weight1),
            d_weight2: kept(keep.d_weight2),
            add: false,
        };
        // Those that were computed here are where they are needed already; the others change or go away.
        self.backward_chain(weights, input, saved, dx, &tensors, workspace, |part, dy, x| {
            let (argument, gradient) = match part {
                Part::Qkv => (keep.norm1, None),
                Part::Out => (keep.attention, Some(keep.d_middle)),
                Part::GateUp => (keep.norm2, None),
                Part::Down => (keep.act, Some(keep.d_output)),
            };
            for (view, place) in gradient.map(|place| (dy.view, place)).into_iter().chain([(x.view, argument)]) {
                if view != kept(place) {
                    self.device.cast(view, kept(place));
                }
            }
        });
    }

    /// The gradient of the parameters from what [`Block::backward_input`] left.
    pub fn backward_weight(&self, pending: View, gradient: View, accumulate: bool) {
        let keep = BlockPending::new(self.shape, self.dtype, self.tokens());
        let pairs = [
            (Part::Down, keep.d_output, keep.act),
            (Part::GateUp, keep.d_gate_up, keep.norm2),
            (Part::Out, keep.d_middle, keep.attention),
            (Part::Qkv, keep.d_qkv, keep.norm1),
        ];
        for (part, dy, x) in pairs {
            let [dy, x] = [dy, x].map(|f| self.by_token(field(pending, f)));
            self.projection(part).backward_weight(self.device, gradient, dy, x, accumulate);
        }
        for (from, to) in [(keep.d_weight1, &self.table.norm1), (keep.d_weight2, &self.table.norm2)] {
            let (from, to) = (field(pending, from), gradient.sub(to.clone()));
            if accumulate { self.device.accumulate(from, to) } else { self.device.cast(from, to) }
        }
        self.clear_gaps(gradient, accumulate);
    }

    /// The chain of gradients from the output to the input. As soon as the argument `x` of a projection and the gradient
    /// `dy` of its result are there, `ready` gets them.
    #[allow(clippy::too_many_arguments, reason = "each is a region of the operation")]
    fn backward_chain(
        &self,
        weights: View,
        input: View,
        saved: View,
        dx: View,
        t: &Gradients,
        workspace: View,
        mut ready: impl FnMut(Part, Matrix, Matrix),
    ) {
        let (device, table) = (self.device, self.table);
        let keep = self.saved();
        let work = BlockBackward::new(self.shape, self.dtype, self.tokens());
        let kept = |f| field(saved, f);
        let [d_norm, d_attention, sums, parts, again] =
            [work.d_norm, work.d_attention, work.attention, work.parts, work.inverse_rms].map(|f| field(workspace, f));
        let [m_dx, m_act, m_d_gate_up, m_d_norm, m_d_attention, m_d_qkv] =
            [dx, t.act, t.d_gate_up, d_norm, d_attention, t.d_qkv].map(|view| self.by_token(view));
        // What was kept, or made again.
        let normalised = |place: Option<Field>, x, weight, out| {
            if place.is_none() {
                device.rmsnorm(x, weight, self.shape.norm_eps as f32, out, again);
            }
            self.by_token(place.map_or(out, kept))
        };

        // The SwiGLU branch: dx stays the gradient of the residual stream.
        let (middle, weight2) = (kept(keep.middle), weights.sub(table.norm2.clone()));
        table.down.backward_input(device, weights, m_dx, m_act);
        device.swiglu_backward(kept(keep.gate_up), t.act, t.d_gate_up, self.shape.ffn, keep.cheap.is_none());
        ready(Part::Down, m_dx, self.by_token(keep.cheap.map_or(t.act, |cheap| kept(cheap.act))));
        ready(Part::GateUp, m_d_gate_up, normalised(keep.cheap.map(|cheap| cheap.norm2), middle, weight2, t.norm2));
        table.gate_up.backward_input(device, weights, m_d_gate_up, m_d_norm);
        device.rmsnorm_backward(d_norm, middle, weight2, kept(keep.inverse_rms2), dx, true, t.d_weight2, t.add, parts);

        // The attention branch.
        let (attention, weight1) = (kept(keep.attention), weights.sub(table.norm1.clone()));
        table.out.backward_input(device, weights, m_dx, m_d_attention);
        ready(Part::Out, m_dx, self.by_token(attention));
        let (qkv, lse) = (kept(keep.qkv), kept(keep.lse));
        device.attention_backward(&self.attention(), qkv, attention, lse, d_attention, t.d_qkv, sums);
        device.rope(&self.attention(), t.d_qkv, self.rope, true);
        ready(Part::Qkv, m_d_qkv, normalised(keep.cheap.map(|cheap| cheap.norm1), input, weight1, t.norm1));
        table.qkv.backward_input(device, weights, m_d_qkv, m_d_norm);
        device.rmsnorm_backward(d_norm, input, weight1, kept(keep.inverse_rms1), dx, true, t.d_weight1, t.add, parts);
    }

    fn projection(&self, part: Part) -> &Projection {
        match part {
            Part::Qkv => &self.table.qkv,
            Part::Out => &self.table.out,
            Part::GateUp => &self.table.gate_up,
            Part::Down => &self.table.down,
        }
    }

    /// Zeros between the tensors of a gradient that is overwritten.
    fn clear_gaps(&self, gradient: View, accumulate: bool) {
        for gap in self.table.gaps.iter().filter(|_| !accumulate) {
            self.device.clear(gradient.sub(gap.clone()));
        }
    }
}
