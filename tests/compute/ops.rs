//! Norms, SwiGLU, embedding, loss, optimizer and the flat operations.

use half::bf16;
use tawpipe::device::{AdamW, AdamWStep, Cpu, Device, Matrix};
use tawpipe::model::{Dtype, NORM_PARTS};

use crate::support::{Buffer, Random, TYPES, close};

const EPS: f64 = 1e-5;

fn norm_rows(x: &[f64], weight: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let dim = weight.len();
    let mut inverse = Vec::new();
    let rows = x.chunks_exact(dim).flat_map(|x| {
        let r = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / dim as f64 + EPS).sqrt();
        inverse.push(r);
        x.iter().zip(weight).map(move |(x, w)| x * r * w).collect::<Vec<_>>()
    });
    (rows.collect(), inverse)
}

/// RMSNorm, with and without the residual sum, and its backward.
#[test]
fn norms() {
    let mut random = Random::new(4);
    for (dtype, rounding) in TYPES {
        for (rows, dim) in [(1, 1), (3, 65), (130, 64), (9, 300)] {
            let cpu = Cpu::new(2);
            let (x, weight) = (random.buffer(rows * dim, dtype), random.buffer(dim, dtype));
            let (out, inverse) = (Buffer::new(rows * dim, dtype), Buffer::new(rows, Dtype::F32));
            cpu.rmsnorm(x.view(), weight.view(), EPS as f32, out.view(), inverse.view());
            let (expected, expected_inverse) = norm_rows(&x.wide(), &weight.wide());
            close("norm", &out.wide(), &expected, 4.0 * rounding);
            close("inverse rms", &inverse.wide(), &expected_inverse, 1e-6);

            let sum = random.buffer(rows * dim, dtype);
            let expected: Vec<f64> = sum.wide().iter().zip(x.wide()).map(|(a, b)| a + b).collect();
            cpu.add_rmsnorm(x.view(), sum.view(), weight.view(), EPS as f32, out.view(), inverse.view());
            close("sum", &sum.wide(), &expected, rounding);
            close("norm of sum", &out.wide(), &norm_rows(&sum.wide(), &weight.wide()).0, 4.0 * rounding);

            // Backward of the norm of `sum`.
            let (dout, old) = (random.buffer(rows * dim, dtype), random.vec(rows * dim));
            let (s, w, d, r) = (sum.wide(), weight.wide(), dout.wide(), inverse.wide());
            let mut dweight = vec![0.0; dim];
            let mut dx = vec![0.0; rows * dim];
            for (i, r) in r.iter().enumerate() {
                let at = |j: usize| i * dim + j;
                let product: f64 = (0..dim).map(|j| d[at(j)] * w[j] * s[at(j)]).sum();
                for j in 0..dim {
                    dx[at(j)] = d[at(j)] * w[j] * r - s[at(j)] * r.powi(3) * product / dim as f64;
                    dweight[j] += d[at(j)] * s[at(j)] * r;
                }
            }
            let scratch = Buffer::new(NORM_PARTS * dim, Dtype::F32);
            for add in [false, true] {
                let before = if add { old.clone() } else { vec![f32::NAN; rows * dim] };
                let got = Buffer::of(&before, dtype);
                let got_weight = Buffer::f32(&vec![if add { 1.0 } else { f32::NAN }; dim]);
                let base = got.wide();
                cpu.rmsnorm_backward(
                    dout.view(),
                    sum.view(),
                    weight.view(),
                    inverse.view(),
                    got.view(),
                    add,
                    got_weight.view(),
                    add,
                    scratch.view(),
                );
                let plus = |x: f64, base: f64| if add { x + base } else { x };
                let expected: Vec<f64> = dx.iter().zip(base).map(|(x, b)| plus(*x, b)).collect();
                let expected_weight: Vec<f64> = dweight.iter().map(|x| plus(*x, 1.0)).collect();
                // A norm of one element is constant: its gradient is the difference of two equal numbers.
                let scale = if dim == 1 { 1e9 } else { 1.0 };
                close("dx", &got.wide(), &expected, 8.0 * rounding * scale);
                close("dweight", &got_weight.wide(), &expected_weight, 4e-6);
            }
        }
    }
}

/// SwiGLU apart and in place, and its backward, over gates from very negative to very positive.
#[test]
fn swiglu() {
    let mut random = Random::new(5);
    for (dtype, rounding) in TYPES {
        let (rows, width) = (5, 37);
        let cpu = Cpu::new(1);
        let values: Vec<f32> =
            (0..rows * 2 * width).map(|i| random.one() * if i % 7 == 0 { 120.0 } else { 3.0 }).collect();
        let gate_up = Buffer::of(&values, dtype);
        let wide = gate_up.wide();
        let dout = random.buffer(rows * width, dtype);
        let (mut out, mut d_gate_up) = (vec![], vec![0.0; rows * 2 * width]);
        for i in 0..rows * width {
            let at = i / width * 2 * width + i % width;
            let (g, u, d) = (wide[at], wide[at + width], dout.wide()[i]);
            let s = 1.0 / (1.0 + (-g).exp());
            out.push(g * s * u);
            d_gate_up[at + width] = d * g * s;
            d_gate_up[at] = d * u * (s + g * s * (1.0 - s));
        }
        let apart = Buffer::new(rows * width, dtype);
        cpu.swiglu(gate_up.view(), Matrix::new(apart.view(), rows, width));
        close("out", &apart.wide(), &out, 2.0 * rounding);
        let (act, got) = (Buffer::new(rows * width, dtype), Buffer::new(rows * 2 * width, dtype));
        cpu.cast(dout.view(), act.view());
        for remake in [false, true] {
            cpu.swiglu_backward(gate_up.view(), act.view(), got.view(), width, remake);
            assert_eq!(act.wide(), if remake { &apart } else { &dout }.wide());
            close("d_gate_up", &got.wide(), &d_gate_up, 4.0 * rounding);
        }
        cpu.swiglu(gate_up.view(), Matrix::new(gate_up.view(), rows, 2 * width).columns(0, width));
        let in_place: Vec<f64> = gate_up.wide().chunks_exact(2 * width).flat_map(|r| r[..width].to_vec()).collect();
        assert_eq!(in_place, apart.wide());
    }
}

/// A gather, and a scatter that adds up repeated tokens, the same with more threads.
#[test]
fn embedding() {
    let mut random = Random::new(6);
    for (dtype, _) in TYPES {
        let (vocab, dim) = (257, 70);
        let tokens: Vec<i32> = (0..900).map(|_| (random.bits() % 257) as i32 / 2).collect();
        let table = random.buffer(vocab * dim, dtype);
        let (ids, out) = (Buffer::i32(&tokens), Buffer::new(tokens.len() * dim, dtype));
        Cpu::new(2).embed(table.view(), ids.view(), out.view(), dim);
        let rows = table.wide();
        let expected: Vec<f64> = tokens.iter().flat_map(|&t| rows[t as usize * dim..][..dim].to_vec()).collect();
        assert_eq!(out.wide(), expected);
        let dout = random.buffer(tokens.len() * dim, dtype);
        let mut expected = vec![1.0; vocab * dim];
        for (d, &t) in dout.wide().chunks_exact(dim).zip(&tokens) {
            expected[t as usize * dim..][..dim].iter_mut().zip(d).for_each(|(e, d)| *e += d);
        }
        let run = |threads| {
            let sums = Buffer::f32(&vec![1.0; vocab * dim]);
            Cpu::new(threads).embed_backward(dout.view(), ids.view(), sums.view(), dim);
            sums.wide()
        };
        close("dtable", &run(1), &expected, 1e-6);
        assert_eq!(run(1), run(3));
    }
}

/// Cross-entropy of an odd vocabulary: masked targets count nothing, the gradient lies in the logits' memory.
#[test]
fn cross_entropy() {
    let mut random = Random::new(7);
    let (rows, vocab, scale) = (66, 257, 0.25);
    let logits: Vec<f32> = random.vec(rows * vocab).iter().map(|x| 20.0 * x).collect();
    let targets: Vec<i32> = (0..rows as i32).map(|i| if i % 5 == 3 { -1 } else { i * 37 % 257 }).collect();
    let (mut loss, mut gradient) = (0.0, vec![]);
    for (row, &target) in logits.chunks_exact(vocab).zip(&targets) {
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        let mut p: Vec<f64> = row.iter().map(|&x| scale * f64::from(x).exp() / sum).collect();
        if target < 0 {
            p.fill(0.0);
        } else {
            loss += scale * (sum.ln() - f64::from(row[target as usize]));
            p[target as usize] -= scale;
        }
        gradient.extend(p);
    }
    for (dtype, rounding) in TYPES {
        for train in [false, true] {
            let (data, ids) = (Buffer::f32(&logits), Buffer::i32(&targets));
            let (sum, scratch) = (Buffer::f64(&[1.5]), Buffer::new(rows, Dtype::F32));
            let matrix = Matrix::new(data.view(), rows, vocab);
            let pitch = vocab * 4 / dtype.bytes();
            let out = Matrix::new(data.view().cast(dtype), rows, pitch).columns(0, vocab);
            let (targets, loss_view) = (ids.view(), sum.view());
            Cpu::new(2).cross_entropy(matrix, targets, scale, loss_view, scratch.view(), train.then_some(out));
            close("loss", &sum.wide(), &[1.5 + loss], 1e-6);
            if train {
                let got: Vec<f64> = match dtype {
                    Dtype::F32 => data.wide(),
                    _ => {
                        let pairs = data.read::<f32>().into_iter().map(f32::to_bits);
                        let all: Vec<bf16> =
                            pairs.flat_map(|x| [x as u16, (x >> 16) as u16]).map(bf16::from_bits).collect();
                        all.chunks_exact(pitch).flat_map(|r| r[..vocab].iter().map(|x| x.to_f64())).collect()
                    }
                };
                close("gradient", &got, &gradient, 4.0 * rounding);
            }
        }
    }
}

/// NaN and infinite logits give a loss that is not finite: a diverged run is seen.
#[test]
fn divergence_is_visible() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut values = vec![0.5f32; 40];
        values[7] = bad;
        let (data, ids) = (Buffer::f32(&values), Buffer::i32(&[3]));
        let (sum, scratch) = (Buffer::f64(&[0.0]), Buffer::new(1, Dtype::F32));
        let matrix = Matrix::new(data.view(), 1, 40);
        Cpu::new(1).cross_entropy(matrix, ids.view(), 1.0, sum.view(), scratch.view(), Some(matrix));
        assert!(!sum.wide()[0].is_finite(), "{bad} gave a loss of {}", sum.wide()[0]);
    }
}

/// An update whose loss or gradient norm is not finite, or whose norm is above the bound, changes no bit; one at the bound does.
#[test]
fn adamw_is_left_out() {
    let rule = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let (nan, inf, most) = (f64::NAN, f64::INFINITY, f64::MAX);
    let cases = [
        (nan, 1.0, most, false),
        (inf, 1.0, most, false),
        (-inf, 1.0, inf, false),
        (1.0, nan, inf, false),
        (1.0, inf, inf, false),
        (1.0, 4.1, 4.0, false),
        (1.0, 4.0, 4.0, true),
        (1.0, 1.0, inf, true),
    ];
    for (loss, squares, bound, applied) in cases {
        let n = 3000;
        let mut random = Random::new(9);
        let buffers = [Dtype::F32, Dtype::F32, Dtype::F32, Dtype::Bf16].map(|dtype| random.buffer(n, dtype));
        // A second moment is a mean of squares.
        buffers[2].write(&vec![0.5f32; n]);
        let before = buffers.each_ref().map(Buffer::wide);
        let (step, sums) = (Buffer::f64(&[1e-2, 3.0, 1.0, bound]), Buffer::f64(&[loss, squares]));
        let gradient = random.buffer(n, Dtype::F32);
        let [master, moment1, moment2, home] = buffers.each_ref().map(Buffer::view);
        let (step, stats, gradient) = (step.view(), sums.view(), gradient.view());
        Cpu::new(2).adamw(&AdamWStep {
            rule,
            decay: true,
            step,
            stats,
            gradient,
            master,
            moment1,
            moment2,
            home: Some(home),
        });
        for (before, after) in before.iter().zip(buffers.each_ref().map(Buffer::wide)) {
            assert_eq!(*before != after, applied, "loss {loss}, squares {squares}, bound {bound}");
        }
    }
}

/// Five steps of AdamW with clipping and decay follow PyTorch's formulas in f64; the home copy is the rounded weight.
#[test]
fn adamw() {
    let mut random = Random::new(8);
    let rule = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let (n, lr, clip) = (3000, 1e-2, 1.0);
    for decay in [false, true] {
        let master = random.buffer(n, Dtype::F32);
        let (m, v, home) = (Buffer::new(n, Dtype::F32), Buffer::new(n, Dtype::F32), Buffer::new(n, Dtype::Bf16));
        let (mut w64, mut m64, mut v64) = (master.wide(), vec![0.0; n], vec![0.0; n]);
        for t in 1..=5 {
            let gradient = random.buffer(n, Dtype::F32);
            let squares: f64 = gradient.wide().iter().map(|g| g * g).sum();
            let step = Buffer::f64(&[lr, f64::from(t), clip, f64::MAX]);
            let sums = Buffer::f64(&[0.0, squares]);
            Cpu::new(2).adamw(&AdamWStep {
                rule,
                decay,
                step: step.view(),
                stats: sums.view(),
                gradient: gradient.view(),
                master: master.view(),
                moment1: m.view(),
                moment2: v.view(),
                home: Some(home.view()),
            });
            let factor = (clip / (squares.sqrt() + 1e-6)).min(1.0);
            for i in 0..n {
                let g = gradient.wide()[i] * factor;
                if i == 0 {
                    assert!(factor < 1.0, "the gradient is clipped");
                }
                m64[i] = rule.beta1 * m64[i] + (1.0 - rule.beta1) * g;
                v64[i] = rule.beta2 * v64[i] + (1.0 - rule.beta2) * g * g;
                let (c1, c2) = (1.0 - rule.beta1.powi(t), 1.0 - rule.beta2.powi(t));
                w64[i] *= if decay { 1.0 - lr * rule.weight_decay } else { 1.0 };
                w64[i] -= lr * (m64[i] / c1) / (v64[i].sqrt() / c2.sqrt() + rule.eps);
            }
        }
        close("weights", &master.wide(), &w64, 1e-6);
        close("first moment", &m.wide(), &m64, 1e-6);
        close("second moment", &v.wide(), &v64, 1e-6);
        let rounded: Vec<f64> = master.read::<f32>().iter().map(|&x| bf16::from_f32(x).to_f64()).collect();
        assert_eq!(home.wide(), rounded);
    }
}

/// Conversions round to nearest even and keep NaN and infinity; sums are taken in f32.
#[test]
fn flat_operations() {
    let mut random = Random::new(9);
    let cpu = Cpu::new(2);
    let n = 70_001;
    let mut values = random.vec(n);
    values[..4].copy_from_slice(&[f32::NAN, f32::INFINITY, f32::from_bits(0x3f80_8000), f32::from_bits(0x3f81_8000)]);
    let (wide, narrow, back) = (Buffer::f32(&values), Buffer::new(n, Dtype::Bf16), Buffer::new(n, Dtype::F32));
    cpu.cast(wide.view(), narrow.view());
    cpu.cast(narrow.view(), back.view());
    for (i, (x, b)) in values.iter().zip(back.read::<f32>()).enumerate() {
        assert!(bf16::from_f32(*x).to_f32().to_bits() == b.to_bits() || (x.is_nan() && b.is_nan()), "{i}: {x} {b}");
    }
    let (a, b) = (random.buffer(n, Dtype::F32), random.buffer(n, Dtype::Bf16));
    let expected: Vec<f64> = a.wide().iter().zip(b.wide()).map(|(a, b)| a + b).collect();
    cpu.accumulate(b.view(), a.view());
    close("sum", &a.wide(), &expected, 1e-7);
    let sum = Buffer::f64(&[2.0]);
    cpu.add_squares(a.view(), sum.view());
    let expected = 2.0 + a.wide().iter().map(|x| x * x).sum::<f64>();
    close("squares", &sum.wide(), &[expected], 1e-12);
    cpu.clear(a.view());
    assert!(a.wide().iter().all(|x| *x == 0.0));
}
