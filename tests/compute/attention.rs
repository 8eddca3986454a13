//! Attention and rotary embedding.

use tawpipe::device::{Attention, Bf16Products, Cpu, Device};
use tawpipe::model::Dtype;

use crate::support::{Buffer, Random, TYPES, close};

/// A dense attention in f64: output, log-sums and gradient of `qkv`.
struct Dense {
    out: Vec<f64>,
    lse: Vec<f64>,
    dqkv: Vec<f64>,
}

fn dense(shape: &Attention, qkv: &[f64], dout: &[f64]) -> Dense {
    let (hd, seq, row, width) = (shape.head_dim, shape.seq, shape.row(), shape.heads * shape.head_dim);
    let scale = 1.0 / (hd as f64).sqrt();
    let mut r = Dense {
        out: vec![0.0; shape.tokens() * width],
        lse: vec![0.0; shape.micro * shape.heads * seq],
        dqkv: vec![0.0; qkv.len()],
    };
    for b in 0..shape.micro {
        for h in 0..shape.heads {
            let kv = shape.heads + h / (shape.heads / shape.kv_heads);
            let at = |t: usize, head: usize, j: usize| (b * seq + t) * row + head * hd + j;
            let (q, k, v) = (h, kv, kv + shape.kv_heads);
            for i in 0..seq {
                let scores: Vec<f64> = (0..=i)
                    .map(|t| scale * (0..hd).map(|j| qkv[at(i, q, j)] * qkv[at(t, k, j)]).sum::<f64>())
                    .collect();
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let lse = top + scores.iter().map(|s| (s - top).exp()).sum::<f64>().ln();
                r.lse[(b * shape.heads + h) * seq + i] = lse;
                let weights: Vec<f64> = scores.iter().map(|s| (s - lse).exp()).collect();
                let o = (b * seq + i) * width + h * hd;
                for (t, w) in weights.iter().enumerate() {
                    for j in 0..hd {
                        r.out[o + j] += w * qkv[at(t, v, j)];
                        r.dqkv[at(t, v, j)] += w * dout[o + j];
                    }
                }
                let delta: f64 = (0..hd).map(|j| r.out[o + j] * dout[o + j]).sum();
                for (t, w) in weights.iter().enumerate() {
                    let dw: f64 = (0..hd).map(|j| dout[o + j] * qkv[at(t, v, j)]).sum();
                    let ds = w * (dw - delta) * scale;
                    for j in 0..hd {
                        r.dqkv[at(i, q, j)] += ds * qkv[at(t, k, j)];
                        r.dqkv[at(t, k, j)] += ds * qkv[at(i, q, j)];
                    }
                }
            }
        }
    }
    r
}

/// Forward and backward equal the dense computation for odd lengths, head sizes and groups, with large scores too; a
/// second thread changes no bit.
#[test]
fn tiles_equal_dense_attention() {
    let mut random = Random::new(2);
    for (dtype, rounding) in TYPES {
        for seq in [1, 3, 65, 130] {
            for (heads, kv_heads, head_dim) in [(1, 1, 2), (4, 2, 6), (3, 1, 64), (2, 2, 32), (2, 1, 80)] {
                for magnitude in [1.0, 6.0] {
                    let shape = Attention { micro: 2, seq, heads, kv_heads, head_dim };
                    let values = random.vec(shape.tokens() * shape.row());
                    let qkv = Buffer::of(&values.iter().map(|x| x * magnitude).collect::<Vec<_>>(), dtype);
                    let dout = random.buffer(shape.tokens() * heads * head_dim, dtype);
                    let expected = dense(&shape, &qkv.wide(), &dout.wide());
                    let run = |threads, products| {
                        let cpu = Cpu::with_products(threads, products);
                        let out = Buffer::of(&vec![f32::NAN; dout.view().len()], dtype);
                        let dqkv = Buffer::of(&vec![f32::NAN; qkv.view().len()], dtype);
                        let lse = Buffer::new(shape.micro * heads * seq, Dtype::F32);
                        let scratch = Buffer::new(shape.scratch(), Dtype::F32);
                        cpu.attention(&shape, qkv.view(), out.view(), lse.view());
                        let (o, l) = (out.view(), lse.view());
                        cpu.attention_backward(&shape, qkv.view(), o, l, dout.view(), dqkv.view(), scratch.view());
                        (out.wide(), lse.wide(), dqkv.wide())
                    };
                    // Sums of up to 130 terms; in bf16 the saved output is rounded before backward reads it; an
                    // exponential is as wrong as its argument, which grows with the magnitude.
                    let rounding = rounding * f64::from(magnitude);
                    for products in Bf16Products::available() {
                        let (out, lse, dqkv) = run(1, products);
                        let what = format!("{shape:?} {dtype:?} {products:?} times {magnitude}");
                        close(&format!("{what} out"), &out, &expected.out, 10.0 * rounding);
                        close(&format!("{what} lse"), &lse, &expected.lse, 2e-6);
                        close(&format!("{what} dqkv"), &dqkv, &expected.dqkv, 20.0 * rounding);
                        assert!(run(2, products) == (out, lse, dqkv), "threads changed bits: {what}");
                    }
                }
            }
        }
    }
}

/// The rotation is Hugging Face's: halves of a head against each other, values untouched; backward turns back.
#[test]
fn rotation_by_position() {
    let mut random = Random::new(3);
    for (dtype, rounding) in TYPES {
        let shape = Attention { micro: 2, seq: 65, heads: 2, kv_heads: 1, head_dim: 6 };
        let qkv = random.buffer(shape.tokens() * shape.row(), dtype);
        let before = qkv.wide();
        let angles: Vec<f32> = random.vec(65 * 3);
        let table: Vec<f32> = angles
            .chunks_exact(3)
            .flat_map(|a| a.iter().map(|a| a.cos()).chain(a.iter().map(|a| a.sin())).collect::<Vec<_>>())
            .collect();
        let table = Buffer::f32(&table);
        let cpu = Cpu::new(2);
        cpu.rope(&shape, qkv.view(), table.view(), false);
        let mut expected = before.clone();
        for (token, row) in expected.chunks_exact_mut(shape.row()).enumerate() {
            for head in row[..3 * 6].chunks_exact_mut(6) {
                for j in 0..3 {
                    let angle = f64::from(angles[token % 65 * 3 + j]);
                    let (a, b) = (head[j], head[j + 3]);
                    head[j] = a * angle.cos() - b * angle.sin();
                    head[j + 3] = b * angle.cos() + a * angle.sin();
                }
            }
        }
        close("rotated", &qkv.wide(), &expected, 2.0 * rounding);
        cpu.rope(&shape, qkv.view(), table.view(), true);
        close("turned back", &qkv.wide(), &before, 4.0 * rounding);
    }
}
