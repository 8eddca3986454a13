//! The host's processor as a device: f32 and bf16, one file a concern.
//!
//! Here views become slices, work is split over threads and kernels are compiled for the processor's vectors; the
//! kernels themselves are plain safe loops.

#[cfg_attr(not(all(target_arch = "x86_64", target_os = "linux")), path = "amx_absent.rs")]
mod amx;
mod attention;
mod element;
mod embed;
mod lanes;
mod loss;
mod matmul;
mod norm;
mod onednn;
mod optimizer;
mod pool;
mod products;
mod rope;
mod simd;
mod swiglu;
mod vector;

use std::sync::OnceLock;

use self::element::typed;
use self::pool::Pool;
pub use self::products::{Bf16Products, library, library_path, library_refused};
use self::simd::wide;
use super::{AdamWStep, Attention, Device, DeviceError, Matrix, Memory, View};
use crate::model::{Dtype, NORM_PARTS};
use crate::plan::{Slot, applies, stats, step};

/// Elements below which a second thread is not worth waking.
const GRAIN: usize = 1 << 14;

/// The host's processor.
#[derive(Debug)]
pub struct Cpu {
    pool: Pool,
    /// Found when bf16 is first multiplied, if not given.
    bf16: OnceLock<Bf16Products>,
}

impl Cpu {
    /// A device of `threads` threads (at least one); with one, work is done by the calling thread.
    pub fn new(threads: usize) -> Self {
        Self::with_products(threads, None)
    }

    /// As [`Cpu::new`], with a choice of what multiplies bf16 matrices; it must be available.
    pub fn with_products(threads: usize, bf16: impl Into<Option<Bf16Products>>) -> Self {
        Cpu { pool: Pool::new(threads), bf16: bf16.into().map(OnceLock::from).unwrap_or_default() }
    }

    fn bf16(&self) -> Bf16Products {
        *self.bf16.get_or_init(Bf16Products::best)
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Splits `rows` rows of `width` elements over the threads.
    fn rows(&self, rows: usize, width: usize, body: impl Fn(std::ops::Range<usize>) + Send + Sync) {
        self.pool.split(rows, GRAIN.div_ceil(width), body);
    }
}

/// Rows of a view, to be read.
///
/// # Safety
/// As [`View::slice`].
unsafe fn rows<'a, T>(view: View, rows: &std::ops::Range<usize>, width: usize) -> &'a [T] {
    // SAFETY: the caller's promise.
    unsafe { view.sub(rows.start * width..rows.end * width).slice() }
}

/// Rows of a view, to be written.
///
/// # Safety
/// As [`View::slice_mut`].
unsafe fn rows_mut<'a, T>(view: View, rows: &std::ops::Range<usize>, width: usize) -> &'a mut [T] {
    // SAFETY: the caller's promise.
    unsafe { view.sub(rows.start * width..rows.end * width).slice_mut() }
}

// SAFETY of all blocks below: the plan's order keeps other operations off the views (see `View`); within an operation
// threads write disjoint rows; `typed!` gives the type that the view's dtype names.
impl Device for Cpu {
    fn memory(&self, slots: &[Slot]) -> Result<Memory, DeviceError> {
        Ok(Memory::new(slots))
    }

    fn finish(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn together(&self, body: &mut (dyn FnMut() + Send)) {
        self.pool.install(body);
    }

    fn matmul(&self, a: Matrix, b: Matrix, c: Matrix, add: bool) {
        assert!(a.cols == b.rows && a.rows == c.rows && b.cols == c.cols, "{a:?} · {b:?} -> {c:?}");
        assert_eq!(a.view.dtype(), b.view.dtype());
        match (a.view.dtype(), c.view.dtype()) {
            (Dtype::F32, Dtype::F32) => matmul::f32(&self.pool, a, b, c, add),
            (Dtype::Bf16, Dtype::F32 | Dtype::Bf16) => match self.bf16() {
                Bf16Products::Amx => amx::product(&self.pool, a, b, c, add),
                Bf16Products::OneDnn
                    if onednn::find().is_some_and(|library| library.product(&self.pool, a, b, c, add)) => {}
                _ => matmul::bf16(&self.pool, a, b, c, add),
            },
            types => panic!("no product of {types:?}"),
        }
    }

    fn rmsnorm(&self, x: View, weight: View, eps: f32, out: View, inverse_rms: View) {
        let dim = weight.len();
        typed!(x.dtype(), T => self.rows(inverse_rms.len(), dim, |r| unsafe {
            let (x, weight) = (rows::<T>(x, &r, dim), weight.slice::<T>());
            let (out, inverse) = (rows_mut::<T>(out, &r, dim), rows_mut(inverse_rms, &r, 1));
            wide(|| norm::forward(x, weight, eps, out, inverse));
        }));
    }

    fn add_rmsnorm(&self, x: View, sum: View, weight: View, eps: f32, out: View, inverse_rms: View) {
        let dim = weight.len();
        typed!(x.dtype(), T => self.rows(inverse_rms.len(), dim, |r| unsafe {
            let (x, sum) = (rows::<T>(x, &r, dim), rows_mut::<T>(sum, &r, dim));
            let (out, inverse) = (rows_mut::<T>(out, &r, dim), rows_mut(inverse_rms, &r, 1));
            let weight = weight.slice::<T>();
            wide(|| norm::add_forward(x, sum, weight, eps, out, inverse));
        }));
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
        let (dim, count) = (weight.len(), inverse_rms.len());
        let part = count.div_ceil(NORM_PARTS);
        let parts = count.div_ceil(part);
        typed!(x.dtype(), T => self.pool.each(parts, |i| unsafe {
            let r = i * part..((i + 1) * part).min(count);
            let sums = rows_mut::<f32>(scratch, &(i..i + 1), dim);
            sums.fill(0.0);
            let (dout, x) = (rows::<T>(dout, &r, dim), rows::<T>(x, &r, dim));
            let (weight, inverse) = (weight.slice::<T>(), rows(inverse_rms, &r, 1));
            let dx = rows_mut::<T>(dx, &r, dim);
            wide(|| norm::backward(dout, x, weight, inverse, dx, add, sums));
        }));
        let (dweight, sums) = unsafe { (dweight.slice_mut::<f32>(), scratch.slice::<f32>()) };
        if !add_weight {
            dweight.fill(0.0);
        }
        for sums in sums.chunks_exact(dim).take(parts) {
            vector::accumulate(sums, dweight);
        }
    }

    fn rope(&self, shape: &Attention, qkv: View, table: View, inverse: bool) {
        let heads = shape.heads + shape.kv_heads;
        let (row, hd, seq) = (shape.row(), shape.head_dim, shape.seq);
        typed!(qkv.dtype(), T => self.rows(shape.tokens(), row, |r| unsafe {
            let (x, table) = (rows_mut::<T>(qkv, &r, row), table.slice::<f32>());
            wide(|| rope::rotate(x, row, r.start, seq, heads, hd, table, inverse));
        }));
    }

    fn attention(&self, shape: &Attention, qkv: View, out: View, lse: View) {
        let (hd, seq) = (shape.head_dim, shape.seq);
        if qkv.dtype() == Dtype::Bf16 && self.bf16() == Bf16Products::Amx {
            return self.pool.each(shape.micro * shape.heads, |i| unsafe {
                let (sequence, head) = (i / shape.heads, i % shape.heads);
                let columns = attention::Columns::new(out, sequence * seq, shape.heads * hd, head * hd, hd);
                amx::attention::forward(shape, qkv.slice(), sequence, head, columns, rows_mut(lse, &(i..i + 1), seq));
            });
        }
        typed!(qkv.dtype(), T => self.pool.each(shape.micro * shape.heads, |i| unsafe {
            let (sequence, head) = (i / shape.heads, i % shape.heads);
            let columns = attention::Columns::new(out, sequence * seq, shape.heads * hd, head * hd, hd);
            let call = attention::Forward { shape, qkv: qkv.slice::<T>() };
            call.head(sequence, head, columns, rows_mut(lse, &(i..i + 1), seq));
        }));
    }

    fn attention_backward(
        &self,
        shape: &Attention,
        qkv: View,
        out: View,
        lse: View,
        dout: View,
        dqkv: View,
        _scratch: View,
    ) {
        let (hd, seq) = (shape.head_dim, shape.seq);
        if qkv.dtype() == Dtype::Bf16 && self.bf16() == Bf16Products::Amx {
            return self.pool.each(shape.micro * shape.kv_heads, |i| unsafe {
                let (sequence, kv) = (i / shape.kv_heads, i % shape.kv_heads);
                let (out, lse, dout) = (out.slice(), lse.slice(), dout.slice());
                let call = attention::Backward { shape, qkv: qkv.slice(), out, lse, dout };
                amx::attention::backward(&call, sequence, kv, &|head| {
                    attention::Columns::new(dqkv, sequence * seq, shape.row(), head * hd, hd)
                });
            });
        }
        typed!(qkv.dtype(), T => self.pool.each(shape.micro * shape.kv_heads, |i| unsafe {
            let (sequence, kv) = (i / shape.kv_heads, i % shape.kv_heads);
            let call = attention::Backward {
                shape,
                qkv: qkv.slice::<T>(),
                out: out.slice(),
                lse: lse.slice(),
                dout: dout.slice(),
            };
            call.group(sequence, kv, &|head| {
                attention::Columns::new(dqkv, sequence * seq, shape.row(), head * hd, hd)
            });
        }));
    }

    fn swiglu(&self, gate_up: View, out: Matrix) {
        let width = out.cols;
        typed!(gate_up.dtype(), T => self.rows(out.rows, 2 * width, |r| unsafe {
            if out.view.address() == gate_up.address() {
                assert_eq!(out.row_stride, 2 * width);
                let gate_up = rows_mut::<T>(gate_up, &r, 2 * width);
                return swiglu::forward_in_place(gate_up, width);
            }
            let out = out.rows(r.start, r.len());
            let (gate_up, rows) = (rows::<T>(gate_up, &r, 2 * width), out.view.slice_mut::<T>());
            swiglu::forward(gate_up, width, rows, out.row_stride);
        }));
    }

    fn swiglu_backward(&self, gate_up: View, act: View, d_gate_up: View, width: usize, remake: bool) {
        typed!(gate_up.dtype(), T => self.rows(act.len() / width, 2 * width, |r| unsafe {
            let (gate_up, act) = (rows::<T>(gate_up, &r, 2 * width), rows_mut::<T>(act, &r, width));
            let d_gate_up = rows_mut::<T>(d_gate_up, &r, 2 * width);
            swiglu::backward(gate_up, width, act, d_gate_up, remake);
        }));
    }

    fn embed(&self, table: View, tokens: View, out: View, dim: usize) {
        typed!(table.dtype(), T => self.rows(tokens.len(), dim, |r| unsafe {
            embed::forward(table.slice::<T>(), rows(tokens, &r, 1), rows_mut(out, &r, dim), dim);
        }));
    }

    fn embed_backward(&self, dout: View, tokens: View, dtable: View, dim: usize) {
        let vocab = dtable.len() / dim;
        typed!(dout.dtype(), T => self.rows(vocab, dim, |r| unsafe {
            let (dout, tokens) = (dout.slice::<T>(), tokens.slice());
            let dtable = rows_mut(dtable, &r, dim);
            wide(|| embed::backward(dout, tokens, r.start, dtable, dim));
        }));
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
        let (count, vocab) = (logits.rows, logits.cols);
        assert!(logits.col_stride == 1 && logits.row_stride == vocab, "rows of logits follow each other");
        let dtype = gradient.map(|g| g.view.dtype());
        self.rows(count, vocab, |r| unsafe {
            let (targets, losses) = (rows::<i32>(targets, &r, 1), rows_mut::<f32>(scratch, &r, 1));
            for (i, (&target, nll)) in r.zip(targets.iter().zip(losses)) {
                let row = rows_mut::<f32>(logits.view, &(i..i + 1), vocab);
                *nll = match dtype {
                    None => loss::row(row, target),
                    Some(dtype) => typed!(dtype, T => loss::row_gradient::<T>(row, target, scale as f32)),
                };
            }
        });
        unsafe {
            let sum: f64 = rows::<f32>(scratch, &(0..count), 1).iter().map(|&nll| f64::from(nll)).sum();
            loss.slice_mut::<f64>()[0] += scale * sum;
        }
    }

    fn adamw(&self, s: &AdamWStep) {
        let (scalars, sums) = unsafe { (s.step.slice::<f64>(), s.stats.slice::<f64>()) };
        if !applies(scalars[step::BOUND], sums[stats::LOSS], sums[stats::SQUARES]) {
            return;
        }
        let factors = optimizer::Factors::new(
            &s.rule,
            s.decay,
            scalars[step::LR],
            scalars[step::NUMBER],
            scalars[step::CLIP],
            sums[stats::SQUARES],
        );
        // Short runs, so that the rounded copy finds the new weights in the cache.
        const RUN: usize = 1024;
        self.rows(s.master.len(), 1, |r| unsafe {
            for start in r.clone().step_by(RUN) {
                let r = start..(start + RUN).min(r.end);
                let g = rows::<f32>(s.gradient, &r, 1);
                let (w, m, v) = (rows_mut(s.master, &r, 1), rows_mut(s.moment1, &r, 1), rows_mut(s.moment2, &r, 1));
                match s.home {
                    None => wide(|| optimizer::step::<f32>(factors, g, w, m, v, &mut [])),
                    Some(home) => typed!(home.dtype(), T => {
                        let home = rows_mut::<T>(home, &r, 1);
                        wide(|| optimizer::step(factors, g, w, m, v, home));
                    }),
                }
            }
        });
    }

    fn add_squares(&self, x: View, sum: View) {
        // Parts of a fixed size, so that the sum does not depend on the number of threads.
        const PART: usize = 1 << 18;
        let parts = x.len().div_ceil(PART);
        let partial: Vec<std::sync::atomic::AtomicU64> = (0..parts).map(|_| 0.into()).collect();
        self.pool.each(parts, |i| unsafe {
            let x = rows::<f32>(x, &(i * PART..((i + 1) * PART).min(x.len())), 1);
            let squares = wide(|| vector::squares(x));
            partial[i].store(squares.to_bits(), std::sync::atomic::Ordering::Relaxed);
        });
        let total: f64 = partial.into_iter().map(|bits| f64::from_bits(bits.into_inner())).sum();
        unsafe { sum.slice_mut::<f64>()[0] += total };
    }

    fn cast(&self, src: View, dst: View) {
        assert_eq!(src.len(), dst.len());
        typed!(src.dtype(), S => typed!(dst.dtype(), D => self.rows(dst.len(), 1, |r| unsafe {
            let (src, dst) = (rows::<S>(src, &r, 1), rows_mut::<D>(dst, &r, 1));
            wide(|| vector::cast(src, dst));
        })));
    }

    fn accumulate(&self, src: View, dst: View) {
        assert_eq!(src.len(), dst.len());
        typed!(src.dtype(), S => typed!(dst.dtype(), D => self.rows(dst.len(), 1, |r| unsafe {
            let (src, dst) = (rows::<S>(src, &r, 1), rows_mut::<D>(dst, &r, 1));
            wide(|| vector::accumulate(src, dst));
        })));
    }

    fn clear(&self, dst: View) {
        let bytes = dst.cast(Dtype::Byte);
        self.rows(bytes.len(), 1, |r| unsafe { rows_mut::<u8>(bytes, &r, 1).fill(0) });
    }
}
