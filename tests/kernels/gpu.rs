//! The device's operations as kernel launches: which kernel, on what grid, with which arguments. It knows nothing of who
//! runs them, the emulator or a GPU's driver.

use tawpipe::device::{AdamWStep, Attention, Cpu, Device, Matrix, View};
use tawpipe::model::{Dtype, NORM_PARTS};

/// An argument of a kernel, in the kernel's own type.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// A pointer.
    View(View),
    I32(i32),
    I64(i64),
    F32(f32),
    F64(f64),
}

impl Arg {
    /// The bytes of the argument, from the first on.
    pub fn bits(&self) -> u64 {
        match *self {
            Arg::View(view) => view.address() as u64,
            Arg::I32(x) => u64::from(x as u32),
            Arg::I64(x) => x as u64,
            Arg::F32(x) => u64::from(x.to_bits()),
            Arg::F64(x) => x.to_bits(),
        }
    }
}

impl From<View> for Arg {
    fn from(view: View) -> Self {
        Arg::View(view)
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Self {
        Arg::F32(x)
    }
}

impl From<f64> for Arg {
    fn from(x: f64) -> Self {
        Arg::F64(x)
    }
}

/// A size: i32 in kernels, where no tensor has a longer side.
impl From<usize> for Arg {
    fn from(x: usize) -> Self {
        Arg::I32(i32::try_from(x).expect("a side of a tensor below 2^31"))
    }
}

impl From<bool> for Arg {
    fn from(x: bool) -> Self {
        Arg::I32(x.into())
    }
}

/// One launch, as `cuLaunchKernel` takes it.
#[derive(Clone, Debug)]
pub struct Launch {
    pub kernel: String,
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of shared memory beside the kernel's own arrays.
    pub shared: u32,
    pub args: Vec<Arg>,
}

/// Who runs kernels, one after the other.
pub trait Launcher: Send + Sync {
    fn launch(&self, launch: &Launch);
}

/// Blocks of the first stage of a sum of squares at most.
const SQUARES_PARTS: usize = 1024;

/// Memory that kernels need beside their operands.
#[derive(Clone, Copy, Debug)]
pub struct Scratch {
    /// `[1024]` (f64): partial sums of squares.
    pub squares: View,
    /// `[micro, heads, seq]` (f32): of attention's backward, for each row the product of output and its gradient.
    pub deltas: View,
}

/// A device whose arithmetic is our kernels. Matrix products are the host's.
pub struct Gpu<L> {
    launcher: L,
    scratch: Scratch,
    products: Cpu,
}

fn name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "f32",
        Dtype::Bf16 => "bf16",
        other => panic!("{} is no type to compute in", other.name()),
    }
}

/// Elements of a thread in a row of `width`.
fn vector(dtype: Dtype, width: usize) -> usize {
    let most = 16 / dtype.bytes();
    if width.is_multiple_of(most) { most } else { 1 }
}

impl<L: Launcher> Gpu<L> {
    pub fn new(launcher: L, scratch: Scratch) -> Self {
        Gpu { launcher, scratch, products: Cpu::new(1) }
    }

    fn launch<const N: usize>(&self, kernel: String, grid: [usize; 3], block: u32, args: [Arg; N]) {
        if grid.contains(&0) {
            return;
        }
        let grid = grid.map(|side| u32::try_from(side).expect("a grid below 2^32"));
        self.launcher.launch(&Launch { kernel, grid, block, shared: 0, args: args.to_vec() });
    }

    fn attention_launch(&self, tile: Tile, seq: usize, heads: usize, micro: usize, args: Vec<Arg>) {
        if seq * heads * micro == 0 {
            return;
        }
        let grid = [seq.div_ceil(tile.rows), heads, micro].map(|side| u32::try_from(side).expect("a grid below 2^32"));
        let shared = u32::try_from(tile.shared).expect("a block's shared memory");
        self.launcher.launch(&Launch { kernel: tile.kernel, grid, block: tile.block, shared, args });
    }

    fn flat(&self, kernel: &str, src: View, dst: View) {
        assert_eq!(src.len(), dst.len());
        let kernel = format!("{kernel}_{}_{}", name(src.dtype()), name(dst.dtype()));
        let args = [src.into(), dst.into(), Arg::I64(dst.len() as i64)];
        self.launch(kernel, [dst.len().div_ceil(2048), 1, 1], 256, args);
    }
}

/// Kernels for attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Any type and head size up to 256.
    Simple,
    /// bf16 on tensor cores, heads of 64 or 128.
    Flash,
}

/// A kernel for attention: a block does `rows` queries or keys of a head.
struct Tile {
    kernel: String,
    rows: usize,
    block: u32,
    shared: usize,
}

impl Way {
    fn of(shape: &Attention, dtype: Dtype) -> Self {
        assert!(shape.head_dim <= 256, "heads of {} elements; at most 256", shape.head_dim);
        if dtype == Dtype::Bf16 && [64, 128].contains(&shape.head_dim) { Way::Flash } else { Way::Simple }
    }

    fn sizes(self, shape: &Attention) -> Vec<Arg> {
        let mut sizes = vec![shape.seq.into(), shape.heads.into(), shape.kv_heads.into()];
        if self == Way::Simple {
            sizes.push(shape.head_dim.into());
        }
        sizes
    }

    fn simple(kind: &str, dtype: Dtype) -> Tile {
        Tile { kernel: format!("attention_simple{kind}_{}", name(dtype)), rows: 4, block: 128, shared: 0 }
    }

    /// Shared memory of the others: tiles of `kept` rows that stay, `passing` rows that pass by, in bf16, and as many
    /// `numbers` in f32.
    fn flash(kind: &str, hd: usize, block: u32, [kept, passing, numbers]: [usize; 3]) -> Tile {
        let kernel = format!("attention_flash{kind}_{hd}");
        Tile { kernel, rows: 128, block, shared: (kept + passing) * hd * 2 + numbers * 4 }
    }

    fn forward(self, shape: &Attention, dtype: Dtype) -> Tile {
        match (self, shape.head_dim) {
            (Way::Simple, _) => Self::simple("", dtype),
            (Way::Flash, 64) => Self::flash("", 64, 128, [128, 4 * 64, 0]),
            (Way::Flash, hd) => Self::flash("", hd, 128, [128, 4 * 32, 0]),
        }
    }

    fn keys(self, shape: &Attention, dtype: Dtype) -> Tile {
        match (self, shape.head_dim) {
            (Way::Simple, _) => Self::simple("_key", dtype),
            (Way::Flash, 64) => Self::flash("_key", 64, 128, [2 * 128, 4 * 32, 4 * 32]),
            (Way::Flash, hd) => Self::flash("_key", hd, 256, [2 * 128, 4 * 64, 4 * 64]),
        }
    }

    fn queries(self, shape: &Attention, dtype: Dtype) -> Tile {
        match (self, shape.head_dim) {
            (Way::Simple, _) => Self::simple("_query", dtype),
            (Way::Flash, 64) => Self::flash("_query", 64, 128, [2 * 128, 4 * 32, 0]),
            (Way::Flash, hd) => Self::flash("_query", hd, 128, [2 * 128, 4 * 32, 0]),
        }
    }
}

impl<L: Launcher> Device for Gpu<L> {
    fn matmul(&self, a: Matrix, b: Matrix, c: Matrix, add: bool) {
        self.products.matmul(a, b, c, add);
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
        self.launch("rmsnorm_weight_sum".into(), [dim.div_ceil(256), 1, 1], 256, args);
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
        let way = Way::of(shape, qkv.dtype());
        let mut args = vec![qkv.into(), out.into(), lse.into()];
        args.extend(way.sizes(shape));
        self.attention_launch(way.forward(shape, qkv.dtype()), shape.seq, shape.heads, shape.micro, args);
    }

    fn attention_backward(&self, shape: &Attention, qkv: View, out: View, lse: View, dout: View, dqkv: View) {
        let delta = self.scratch.deltas.sub(0..lse.len());
        let way = Way::of(shape, qkv.dtype());
        let sizes = Way::Simple.sizes(shape);
        let mut args = vec![out.into(), dout.into(), delta.into()];
        args.extend(&sizes);
        let deltas = Tile { kernel: format!("attention_delta_{}", name(qkv.dtype())), rows: 4, block: 128, shared: 0 };
        self.attention_launch(deltas, shape.seq, shape.heads, shape.micro, args);
        let mut args = vec![qkv.into(), dout.into(), lse.into(), delta.into(), dqkv.into()];
        args.extend(way.sizes(shape));
        self.attention_launch(way.keys(shape, qkv.dtype()), shape.seq, shape.kv_heads, shape.micro, args.clone());
        self.attention_launch(way.queries(shape, qkv.dtype()), shape.seq, shape.heads, shape.micro, args);
    }

    fn swiglu(&self, gate_up: View, out: Matrix) {
        assert_eq!(out.col_stride, 1);
        let width = out.cols;
        let grid = [out.rows, width.div_ceil(256 * vector(gate_up.dtype(), width)), 1];
        let args = [gate_up.into(), out.view.into(), width.into(), out.row_stride.into()];
        self.launch(format!("swiglu_{}", name(gate_up.dtype())), grid, 256, args);
    }

    fn swiglu_backward(&self, gate_up: View, act: View, d_gate_up: View, width: usize) {
        let grid = [act.len() / width, width.div_ceil(256 * vector(act.dtype(), width)), 1];
        let args = [gate_up.into(), act.into(), d_gate_up.into(), width.into()];
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
            None => self.launch("cross_entropy".into(), [rows, 1, 1], 512, [x, targets, nll_, vocab.into()]),
            Some(gradient) => {
                assert_eq!(gradient.view.address(), logits.view.address());
                assert_eq!(gradient.row_stride * gradient.view.dtype().bytes(), vocab * 4, "row on row");
                let kernel = format!("cross_entropy_gradient_{}", name(gradient.view.dtype()));
                let args = [x, targets, nll_, vocab.into(), (scale as f32).into()];
                self.launch(kernel, [rows, 1, 1], 512, args);
            }
        }
        let args = [nll_, loss.into(), rows.into(), scale.into()];
        self.launch("cross_entropy_sum".into(), [1, 1, 1], 512, args);
    }

    fn adamw(&self, s: &AdamWStep) {
        let decay = if s.decay { s.rule.weight_decay } else { 0.0 };
        let n = s.master.len();
        let kernel = s.home.map_or("adamw".into(), |home| format!("adamw_home_{}", name(home.dtype())));
        let [step, stats, g, w, m, v] = [s.step, s.stats, s.gradient, s.master, s.moment1, s.moment2].map(Arg::View);
        let [beta1, beta2, eps, decay] = [s.rule.beta1, s.rule.beta2, s.rule.eps, decay].map(Arg::F64);
        let mut args = vec![step, stats, beta1, beta2, eps, decay, g, w, m, v, Arg::I64(n as i64)];
        args.extend(s.home.map(Arg::View));
        if n > 0 {
            let grid = [n.div_ceil(1024) as u32, 1, 1];
            self.launcher.launch(&Launch { kernel, grid, block: 256, shared: 0, args });
        }
    }

    fn add_squares(&self, x: View, sum: View) {
        let parts = x.len().div_ceil(4096).min(SQUARES_PARTS);
        let partial = self.scratch.squares.sub(0..parts);
        let args = [x.into(), partial.into(), Arg::I64(x.len() as i64)];
        self.launch("squares_parts".into(), [parts, 1, 1], 256, args);
        let args = [partial.into(), sum.into(), parts.into()];
        self.launch("squares_sum".into(), [1, 1, 1], 256, args);
    }

    fn cast(&self, src: View, dst: View) {
        self.flat("cast", src, dst);
    }

    fn accumulate(&self, src: View, dst: View) {
        self.flat("accumulate", src, dst);
    }

    fn clear(&self, dst: View) {
        let args = [dst.into(), Arg::I64(dst.bytes() as i64)];
        self.launch("clear".into(), [dst.bytes().div_ceil(4096), 1, 1], 256, args);
    }
}
