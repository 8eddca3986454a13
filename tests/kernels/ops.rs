//! Every operation but attention: emulated kernels and CPU device get the same operands, whose sizes do and do not fit
//! the kernels' vectors and blocks.

use half::bf16;
use tawpipe::device::{AdamW, AdamWStep, Attention, Cpu, Device, Matrix};
use tawpipe::model::{Dtype, NORM_PARTS};

use crate::gpu::on_gpu;
use crate::support::{Buffer, Random, TYPES, close};

/// Runs an operation on the CPU and twice on the GPU, if that is emulated with two orders of threads; returns the CPU's
/// results and the GPU's, which must not depend on the order.
pub fn both<R: PartialEq>(run: impl Fn(&dyn Device) -> R) -> (R, R) {
    let first = on_gpu(1, &run);
    assert!(first == on_gpu(2, &run), "the order of threads changed bits");
    (run(&Cpu::new(1)), first)
}

/// Numbers that make every comparison of bits work: NaN is equal to NaN.
fn bits(buffer: &Buffer) -> Vec<u64> {
    buffer.wide().iter().map(|x| x.to_bits()).collect()
}

fn numbers(bits: &[u64]) -> Vec<f64> {
    bits.iter().map(|&x| f64::from_bits(x)).collect()
}

/// A buffer that is sure not to hold the result yet.
fn blank(elems: usize, dtype: Dtype) -> Buffer {
    Buffer::of(&vec![f32::NAN; elems], dtype)
}

/// RMSNorm, with and without the residual sum, and its backward, overwriting and adding.
#[test]
fn norms() {
    let mut random = Random::new(14);
    for (dtype, rounding) in TYPES {
        for (rows, dim) in [(1, 1), (3, 65), (19, 64), (9, 300), (70, 512), (2, 1032)] {
            let [x, old, dout, dx] = [(); 4].map(|()| random.vec(rows * dim));
            let (weight, dweight) = (random.vec(dim), random.vec(dim));
            for add in [false, true] {
                let (cpu, gpu) = both(|device| {
                    let [x, sum, dout] = [&x, &old, &dout].map(|values| Buffer::of(values, dtype));
                    let weight = Buffer::of(&weight, dtype);
                    let (out, after) = (blank(rows * dim, dtype), blank(rows * dim, dtype));
                    let (inverse, inverse_sum) = (blank(rows, Dtype::F32), blank(rows, Dtype::F32));
                    device.rmsnorm(x.view(), weight.view(), 1e-5, out.view(), inverse.view());
                    let (x_, sum_) = (x.view(), sum.view());
                    device.add_rmsnorm(x_, sum_, weight.view(), 1e-5, after.view(), inverse_sum.view());
                    let got = if add { Buffer::of(&dx, dtype) } else { blank(rows * dim, dtype) };
                    let got_weight = if add { Buffer::f32(&dweight) } else { blank(dim, Dtype::F32) };
                    let parts = blank(NORM_PARTS * dim, Dtype::F32);
                    device.rmsnorm_backward(
                        dout.view(),
                        x.view(),
                        weight.view(),
                        inverse.view(),
                        got.view(),
                        add,
                        got_weight.view(),
                        add,
                        parts.view(),
                    );
                    [&out, &inverse, &sum, &after, &inverse_sum, &got, &got_weight].map(bits)
                });
                let names = ["out", "inverse rms", "sum", "out of sum", "inverse rms of sum", "dx", "dweight"];
                for (i, (name, (cpu, gpu))) in names.iter().zip(cpu.iter().zip(&gpu)).enumerate() {
                    // A norm of one element is constant: its gradient is the difference of two equal numbers.
                    let loss = if dim == 1 && i == 5 { 1e9 } else { 1.0 };
                    let tolerance = [3.0 * rounding, 1e-6, 0.0, 3.0 * rounding, 1e-6, 4.0 * rounding * loss, 2e-6][i];
                    let what = format!("{name}, {rows} x {dim}, {dtype:?}, add {add}");
                    close(&what, &numbers(gpu), &numbers(cpu), tolerance);
                }
            }
        }
    }
}

/// SwiGLU apart and in place, and its backward, over gates from very negative to very positive.
#[test]
fn swiglu() {
    let mut random = Random::new(15);
    for (dtype, rounding) in TYPES {
        for (rows, width, remake) in [(5, 37, true), (3, 320, false), (2, 2056, true), (4, 9, false)] {
            let spread = |i: usize| if i.is_multiple_of(7) { 120.0 } else { 3.0 };
            let values: Vec<f32> = (0..rows * 2 * width).map(|i| random.one() * spread(i)).collect();
            let d = random.vec(rows * width);
            let (cpu, gpu) = both(|device| {
                let (gate_up, act) = (Buffer::of(&values, dtype), Buffer::of(&d, dtype));
                let (out, d_gate_up) = (blank(rows * width, dtype), blank(rows * 2 * width, dtype));
                device.swiglu(gate_up.view(), Matrix::new(out.view(), rows, width));
                device.swiglu_backward(gate_up.view(), act.view(), d_gate_up.view(), width, remake);
                device.swiglu(gate_up.view(), Matrix::new(gate_up.view(), rows, 2 * width).columns(0, width));
                [&out, &act, &d_gate_up, &gate_up].map(bits)
            });
            for (name, (cpu, gpu)) in ["out", "act", "d_gate_up", "in place"].iter().zip(cpu.iter().zip(&gpu)) {
                close(&format!("{name}, {rows} x {width}"), &numbers(gpu), &numbers(cpu), 2.0 * rounding);
            }
        }
    }
}

/// The rotation forth and back; values are not touched.
#[test]
fn rope() {
    let mut random = Random::new(16);
    for (dtype, rounding) in TYPES {
        for (heads, kv_heads, head_dim) in [(2, 1, 6), (3, 1, 64), (4, 2, 128), (2, 2, 80)] {
            let shape = Attention { micro: 2, seq: 19, heads, kv_heads, head_dim };
            let qkv = random.vec(shape.tokens() * shape.row());
            let table = random.vec(shape.seq * head_dim);
            for inverse in [false, true] {
                let (cpu, gpu) = both(|device| {
                    let (qkv, table) = (Buffer::of(&qkv, dtype), Buffer::f32(&table));
                    device.rope(&shape, qkv.view(), table.view(), inverse);
                    bits(&qkv)
                });
                close(&format!("{shape:?} {inverse}"), &numbers(&gpu), &numbers(&cpu), rounding);
            }
        }
    }
}

/// A gather; and a scatter that adds in the order of the tokens, bit for bit as the CPU does.
#[test]
fn embedding() {
    let mut random = Random::new(17);
    for (dtype, _) in TYPES {
        for (count, vocab, dim) in [(1, 3, 5), (700, 40, 72), (300, 257, 2056)] {
            let tokens: Vec<i32> = (0..count).map(|_| (random.bits() % vocab as u64) as i32 / 2).collect();
            let (table, dout) = (random.vec(vocab * dim), random.vec(count * dim));
            let (cpu, gpu) = both(|device| {
                let (ids, sums) = (Buffer::i32(&tokens), Buffer::f32(&table));
                let (table, dout, out) =
                    (Buffer::of(&table, dtype), Buffer::of(&dout, dtype), blank(count * dim, dtype));
                device.embed(table.view(), ids.view(), out.view(), dim);
                device.embed_backward(dout.view(), ids.view(), sums.view(), dim);
                [bits(&out), bits(&sums)]
            });
            assert!(cpu == gpu, "{count} tokens of {vocab}, {dim} columns, {dtype:?}");
        }
    }
}

/// Loss and gradient in place, for vocabularies shorter and longer than a block's run; masked targets count nothing.
#[test]
fn cross_entropy() {
    let mut random = Random::new(18);
    for (rows, vocab) in [(5, 7), (9, 257), (3, 4100), (2, 5001)] {
        let logits: Vec<f32> = random.vec(rows * vocab).iter().map(|x| 20.0 * x).collect();
        let targets: Vec<i32> = (0..rows).map(|i| if i % 5 == 3 { -1 } else { (i * 1037 % vocab) as i32 }).collect();
        for (dtype, rounding) in TYPES {
            for train in [false, true] {
                let (cpu, gpu) = both(|device| {
                    let (data, ids) = (Buffer::f32(&logits), Buffer::i32(&targets));
                    let (sum, scratch) = (Buffer::f64(&[1.5]), blank(rows, Dtype::F32));
                    let matrix = Matrix::new(data.view(), rows, vocab);
                    let pitch = vocab * 4 / dtype.bytes();
                    let out = Matrix::new(data.view().cast(dtype), rows, pitch).columns(0, vocab);
                    let out = train.then_some(out);
                    device.cross_entropy(matrix, ids.view(), 0.25, sum.view(), scratch.view(), out);
                    let gradient: Vec<u64> = match dtype {
                        Dtype::F32 => bits(&data),
                        _ => {
                            let pairs = data.read::<f32>().into_iter().map(f32::to_bits);
                            let all: Vec<bf16> =
                                pairs.flat_map(|x| [x as u16, (x >> 16) as u16]).map(bf16::from_bits).collect();
                            let rows = all.chunks_exact(pitch).map(|row| &row[..vocab]);
                            rows.flatten().map(|x| x.to_f64().to_bits()).collect()
                        }
                    };
                    (bits(&sum), if train { gradient } else { bits(&data) })
                });
                close("loss", &numbers(&gpu.0), &numbers(&cpu.0), 1e-6);
                close(&format!("gradient, {rows} x {vocab}"), &numbers(&gpu.1), &numbers(&cpu.1), 2.0 * rounding);
            }
        }
    }
}

/// NaN and infinite logits give a loss that is not finite; a logit of -inf is merely improbable.
#[test]
fn divergence_is_visible() {
    for (bad, finite) in [(f32::NAN, false), (f32::INFINITY, false), (f32::NEG_INFINITY, true)] {
        let mut values = vec![0.5f32; 40];
        values[7] = bad;
        let loss = on_gpu(1, |device| {
            let (data, ids) = (Buffer::f32(&values), Buffer::i32(&[3]));
            let (sum, scratch) = (Buffer::f64(&[0.0]), Buffer::new(1, Dtype::F32));
            let matrix = Matrix::new(data.view(), 1, 40);
            device.cross_entropy(matrix, ids.view(), 1.0, sum.view(), scratch.view(), Some(matrix));
            sum.wide()[0]
        });
        assert_eq!(loss.is_finite(), finite, "{bad} gave a loss of {loss}");
    }
}

/// Three steps of AdamW with and without clipping, decay and a home copy.
#[test]
fn adamw() {
    let mut random = Random::new(19);
    let rule = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    for (n, home) in [(3001, None), (3001, Some(Dtype::Bf16)), (1024, Some(Dtype::F32)), (5, Some(Dtype::Bf16))] {
        for (decay, clip) in [(false, f64::INFINITY), (true, 1.0)] {
            let weights = random.vec(n);
            let gradients = [(); 3].map(|()| random.vec(n));
            let (cpu, gpu) = both(|device| {
                let (master, stats) = (Buffer::f32(&weights), Buffer::f64(&[0.0, 0.0]));
                let (m, v) = (Buffer::new(n, Dtype::F32), Buffer::new(n, Dtype::F32));
                let copy = home.map(|dtype| blank(n, dtype));
                for (t, gradient) in gradients.iter().enumerate() {
                    let (step, gradient) =
                        (Buffer::f64(&[1e-2, t as f64 + 1.0, clip, f64::MAX]), Buffer::f32(gradient));
                    device.add_squares(gradient.view(), stats.view().sub(1..2));
                    device.adamw(&AdamWStep {
                        rule,
                        decay,
                        step: step.view(),
                        stats: stats.view(),
                        gradient: gradient.view(),
                        master: master.view(),
                        moment1: m.view(),
                        moment2: v.view(),
                        home: copy.as_ref().map(Buffer::view),
                    });
                }
                [bits(&master), bits(&m), bits(&v), copy.map_or(vec![], |copy| bits(&copy))]
            });
            for (name, (cpu, gpu)) in ["weights", "moment 1", "moment 2", "home"].iter().zip(cpu.iter().zip(&gpu)) {
                let tolerance = if *name == "home" && home == Some(Dtype::Bf16) { 4e-3 } else { 1e-6 };
                close(name, &numbers(gpu), &numbers(cpu), tolerance);
            }
        }
    }
}

/// An update whose loss or gradient norm is not finite, or whose norm is above the bound, changes no bit: as on the CPU.
#[test]
fn adamw_is_left_out() {
    let rule = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let (nan, inf, most) = (f64::NAN, f64::INFINITY, f64::MAX);
    let cases = [
        (nan, 1.0, most, false),
        (-inf, 1.0, inf, false),
        (1.0, nan, inf, false),
        (1.0, inf, inf, false),
        (1.0, 4.1, 4.0, false),
        (1.0, 4.0, 4.0, true),
        (1.0, 1.0, inf, true),
    ];
    for (loss, squares, bound, applied) in cases {
        for home in [None, Some(Dtype::Bf16)] {
            let changed = |device: &dyn Device| {
                let mut random = Random::new(9);
                let n = 2051;
                let (master, gradient) = (Buffer::f32(&random.vec(n)), Buffer::f32(&random.vec(n)));
                let (m, v) = (Buffer::new(n, Dtype::F32), Buffer::new(n, Dtype::F32));
                let copy = home.map(|dtype| blank(n, dtype));
                let all = || [bits(&master), bits(&m), bits(&v), copy.as_ref().map_or(vec![], bits)];
                let before = all();
                let (step, stats) = (Buffer::f64(&[1e-2, 3.0, 1.0, bound]), Buffer::f64(&[loss, squares]));
                device.adamw(&AdamWStep {
                    rule,
                    decay: true,
                    step: step.view(),
                    stats: stats.view(),
                    gradient: gradient.view(),
                    master: master.view(),
                    moment1: m.view(),
                    moment2: v.view(),
                    home: copy.as_ref().map(Buffer::view),
                });
                device.finish().unwrap();
                before != all()
            };
            let (cpu, gpu) = both(|device| changed(device));
            assert_eq!((cpu, gpu), (applied, applied), "loss {loss}, squares {squares}, bound {bound}");
        }
    }
}

/// Conversions, sums, squares and zeros of lengths with and without a rest, from addresses that fit 16 bytes or do not.
#[test]
fn flat_operations() {
    let mut random = Random::new(20);
    for (n, first) in [(1, 0), (6000, 0), (6001, 3), (20_000, 1)] {
        let mut values = random.vec(n + first);
        values[n / 2] = f32::from_bits(0x3f80_8000);
        let (old, special) = (random.vec(n + first), [f32::INFINITY, f32::NAN]);
        for (from, to) in [Dtype::F32, Dtype::Bf16].into_iter().flat_map(|a| [Dtype::F32, Dtype::Bf16].map(|b| (a, b)))
        {
            let (cpu, gpu) = both(|device| {
                let mut values = values.clone();
                let count = special.len().min(n - 1);
                values[first..first + count].copy_from_slice(&special[..count]);
                let src = Buffer::of(&values, from);
                let (copy, sum) = (blank(n + first, to), Buffer::of(&old, to));
                device.cast(src.view().sub(first..first + n), copy.view().sub(first..first + n));
                device.accumulate(src.view().sub(first..first + n), sum.view().sub(first..first + n));
                device.clear(src.view().sub(first..first + n));
                let nan = |buffer: &Buffer| buffer.wide().iter().map(|x| x.is_nan()).collect::<Vec<_>>();
                let known = |buffer: &Buffer| buffer.wide().iter().map(|x| if x.is_nan() { 0.0 } else { *x }).collect();
                let results: [Vec<f64>; 3] = [&copy, &sum, &src].map(known);
                (results, [&copy, &sum, &src].map(nan))
            });
            assert!(cpu == gpu, "{n} elements from {first}, {from:?} to {to:?}");
        }
        let (cpu, gpu) = both(|device| {
            let (x, sum) = (Buffer::f32(&values), Buffer::f64(&[2.0]));
            device.add_squares(x.view().sub(first..first + n), sum.view());
            bits(&sum)
        });
        close("squares", &numbers(&gpu), &numbers(&cpu), 1e-13);
    }
}
