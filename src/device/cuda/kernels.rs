//! The device's operations as kernel launches: which kernel, on what grid, with which arguments. It knows nothing of who
//! runs them, the emulator or a GPU's driver.

use super::attention::{self, Kind};
use super::launch::{Arg, Launch, Launcher, name};
use crate::device::beside::SQUARES_PARTS;
use crate::device::{AdamWStep, Attention, Device, DeviceError, Matrix, Memory, View};
use crate::model::{Dtype, NORM_PARTS};
use crate::plan::Slot;

/// A device whose arithmetic is our kernels, run by `L`.
#[derive(Clone, Debug)]
pub struct Gpu<L> {
    launcher: L,
    /// Whether sums are always taken in the same order.
    deterministic: bool,
}

/// Elements of a thread in a row of `width`.
fn vector(dtype: Dtype, width: usize) -> usize {
    let most = 16 / dtype.bytes();
    if width.is_multiple_of(most) { most } else { 1 }
}

impl<L: Launcher> Gpu<L> {
    /// A device of what `launcher` runs.
    pub fn new(launcher: L) -> Self {
        Gpu { launcher, deterministic: true }
    }

    /// The same device. Unless it is `deterministic`, it may take the sums of attention's backward in any order, which is
    /// faster: results differ from run to run in their last bits.
    pub fn deterministic(self, deterministic: bool) -> Self {
        Gpu { deterministic, ..self }
    }

    /// Who runs its kernels.
    pub fn launcher(&self) -> &L {
        &self.launcher
    }

    fn run(&self, launch: &Launch) {
        if !launch.is_empty() {
            self.launcher.launch(launch);
        }
    }

    fn launch<const N: usize>(&self, kernel: impl Into<String>, grid: [usize; 3], block: u32, args: [Arg; N]) {
        self.run(&Launch::new(kernel, grid, block, args));
    }

    fn flat(&self, kernel: &str, src: View, dst: View) {
        assert_eq!(src.len(), dst.len());
        let kernel = format!("{kernel}_{}_{}", name(src.dtype()), name(dst.dtype()));
        let args = [src.into(), dst.into(), Arg::I64(dst.len() as i64)];
        self.launch(kernel, [dst.len().div_ceil(2048), 1, 1], 256, args);
    }
}

impl<L: Launcher> Device for Gpu<L> {
    fn memory(&self, slots: &[Slot]) -> Result<Memory, DeviceError> {
        self.launcher.memory(slots)
    }

    fn finish(&self) -> Result<(), DeviceError> {
        self.launcher.finish()
    }

    fn matmul(&self, a: Matrix, b: Matrix, c: Matrix, add: bool) {
        self.launcher.matmul(a, b, c, add);
    }

    fn rmsnorm(&self, x: View, weight: View, eps: f32, out: View, inverse_rms: View) {
        let (rows, dim) = (inverse_rms.len(), weight.len());
        let args = [x.into(), weight.into(), out.into(), inverse_rms.into(), rows.into(), dim.into(), eps.into()];
        self.launch(format!("rmsnorm_{}", name(x.dtype())), [rows.div_ceil(8), 1, 1], 256, args);
    }

    fn add_rmsnorm(&self, x: View, sum: View, weight: View, eps: f32, out: View, inverse_rms: View) {
        let (rows, dim) = (inverse_rms.len(), weight.len());
        let [x_, sum, weight, out, inverse_rms] = [x, sum, weight, out, inverse_rms].map(Arg::View);
        let args = [x_, sum, weight, out, inverse_rms, rows.into(), dim.into(), eps.into()];
        self.launch(format!("rmsnorm_add_{}", name(x.dtype())), [rows.div_ceil(8), 1, 1], 256, args);
    }

    fn rmsnorm_backward(
        &self,
        dout: View,
        x: View,
        weight: View,
        inverse_rms: View,
        dx: View,
        add: bool,
        dweight: View,
        add_weight: bool,
        scratch: View,
    ) {
        let (rows, dim) = (inverse_rms.len(), weight.len());
        let dtype = name(x.dtype());
        let part = rows.div_ceil(NORM_PARTS);
        let parts = rows.div_ceil(part);
        // First, since dx may lie where dout does.
        let args = [dout.into(), x.into(), inverse_rms.into(), scratch.into(), rows.into(), dim.into(), part.into()];
        let columns = 32 * vector(x.dtype(), dim);
        self.launch(format!("rmsnorm_weight_parts_{dtype}"), [dim.div_ceil(columns), parts, 1], 256, args);
        let args = [scratch.into(), dweight.into(), parts.into(), dim.into(), add_weight.into()];
        self.launch("rmsnorm_weight_sum", [dim.div_ceil(256), 1, 1], 256, args);
        let [dout, x, weight, inverse_rms, dx] = [dout, x, weight, inverse_rms, dx].map(Arg::View);
        let args = [dout, x, weight, inverse_rms, dx, rows.into(), dim.into(), add.into()];
        self.launch(format!("rmsnorm_backward_{dtype}"), [rows.div_ceil(8), 1, 1], 256, args);
    }

    fn rope(&self, shape: &Attention, qkv: View, table: View, inverse: bool) {
        let heads = shape.heads + shape.kv_heads;
        let sign: f32 = if inverse { -1.0 } else { 1.0 };
        let sizes = [shape.row(), shape.seq, heads, shape.head_dim].map(Arg::from);
        let args = [qkv.into(), table.into(), sizes[0], sizes[1], sizes[2], sizes[3], sign.into()];
        self.launch(format!("rope_{}", name(qkv.dtype())), [shape.tokens(), 1, 1], 256, args);
    }

    fn attention(&self, shape: &Attention, qkv: View, out: View, lse: View) {
        let operands = [qkv, out, lse].map(Arg::View);
        self.run(&attention::launch(Kind::Forward, shape, qkv.dtype(), self.launcher.shared(), &operands));
    }

    fn attention_backward(
        &self,
        shape: &Attention,
        qkv: View,
        out: View,
        lse: View,
        dout: View,
        dqkv: View,
        scratch: View,
    ) {
        let (dtype, shared) = (qkv.dtype(), self.launcher.shared());
        let (sums, deltas) = (scratch.sub(0..out.len()), scratch.sub(out.len()..out.len() + lse.len()));
        self.run(&attention::deltas(shape, dtype, &[out, dout, deltas].map(Arg::View)));
        if !self.deterministic && attention::on_tensor_cores(Kind::All, shape, dtype, shared) {
            self.clear(sums);
            let operands = [qkv, dout, lse, deltas, sums, dqkv].map(Arg::View);
            self.run(&attention::launch(Kind::All, shape, dtype, shared, &operands));
            return self.run(&attention::round(shape, sums, dqkv));
        }
        let operands = [qkv, dout, lse, deltas, dqkv].map(Arg::View);
        for kind in [Kind::Keys, Kind::Queries] {
            self.run(&attention::launch(kind, shape, dtype, shared, &operands));
        }
    }

    fn swiglu(&self, gate_up: View, out: Matrix) {
        assert_eq!(out.col_stride, 1);
        let width = out.cols;
        let grid = [out.rows, width.div_ceil(256 * vector(gate_up.dtype(), width)), 1];
        let args = [gate_up.into(), out.view.into(), width.into(), out.row_stride.into()];
        self.launch(format!("swiglu_{}", name(gate_up.dtype())), grid, 256, args);
    }

    fn swiglu_backward(&self, gate_up: View, act: View, d_gate_up: View, width: usize, remake: bool) {
        let grid = [act.len() / width, width.div_ceil(256 * vector(act.dtype(), width)), 1];
        let args = [gate_up.into(), act.into(), d_gate_up.into(), width.into(), remake.into()];
        self.launch(format!("swiglu_backward_{}", name(gate_up.dtype())), grid, 256, args);
    }

    fn embed(&self, table: View, tokens: View, out: View, dim: usize) {
        let args = [table.into(), tokens.into(), out.into(), dim.into()];
        self.launch(format!("embed_{}", name(table.dtype())), [tokens.len(), 1, 1], 256, args);
    }

    fn embed_backward(&self, dout: View, tokens: View, dtable: View, dim: usize) {
        let count = tokens.len();
        let args = [dout.into(), tokens.into(), dtable.into(), count.into(), dim.into()];
        self.launch(format!("embed_backward_{}", name(dout.dtype())), [count, dim.div_ceil(2048), 1], 256, args);
    }

    fn cross_entropy(
        &self,
        logits: Matrix,
        targets: View,
        scale: f64,
        loss: View,
        scratch: View,
        gradient: Option<Matrix>,
    ) {
        let (rows, vocab) = (logits.rows, logits.cols);
        assert!(logits.col_stride == 1 && logits.row_stride == vocab, "rows of logits follow each other");
        let nll = scratch.sub(0..rows);
        let [x, targets, nll_] = [logits.view, targets, nll].map(Arg::View);
        match gradient {
            None => self.launch("cross_entropy", [rows, 1, 1], 512, [x, targets, nll_, vocab.into()]),
            Some(gradient) => {
                assert_eq!(gradient.view.address(), logits.view.address());
                assert_eq!(gradient.row_stride * gradient.view.dtype().bytes(), vocab * 4, "row on row");
                let kernel = format!("cross_entropy_gradient_{}", name(gradient.view.dtype()));
                let args = [x, targets, nll_, vocab.into(), (scale as f32).into()];
                self.launch(kernel, [rows, 1, 1], 512, args);
            }
        }
        let args = [nll_, loss.into(), rows.into(), scale.into()];
        self.launch("cross_entropy_sum", [1, 1, 1], 512, args);
    }

    fn adamw(&self, s: &AdamWStep) {
        let decay = if s.decay { s.rule.weight_decay } else { 0.0 };
        let n = s.master.len();
        let kernel = s.home.map_or("adamw".into(), |home| format!("adamw_home_{}", name(home.dtype())));
        let [step, stats, g, w, m, v] = [s.step, s.stats, s.gradient, s.master, s.moment1, s.moment2].map(Arg::View);
        let [beta1, beta2, eps, decay] = [s.rule.beta1, s.rule.beta2, s.rule.eps, decay].map(Arg::F64);
        let mut args = vec![step, stats, beta1, beta2, eps, decay, g, w, m, v, Arg::I64(n as i64)];
        args.extend(s.home.map(Arg::View));
        self.run(&Launch::new(kernel, [n.div_ceil(1024), 1, 1], 256, args));
    }

    fn add_squares(&self, x: View, sum: View) {
        let parts = x.len().div_ceil(4096).min(SQUARES_PARTS);
        let partial = self.launcher.squares().sub(0..parts);
        let args = [x.into(), partial.into(), Arg::I64(x.len() as i64)];
        self.launch("squares_parts", [parts, 1, 1], 256, args);
        let args = [partial.into(), sum.into(), parts.into()];
        self.launch("squares_sum", [1, 1, 1], 256, args);
    }

    fn cast(&self, src: View, dst: View) {
        self.flat("cast", src, dst);
    }

    fn accumulate(&self, src: View, dst: View) {
        self.flat("accumulate", src, dst);
    }

    fn clear(&self, dst: View) {
        let args = [dst.into(), Arg::I64(dst.bytes() as i64)];
        self.launch("clear", [dst.bytes().div_ceil(4096), 1, 1], 256, args);
    }
}
