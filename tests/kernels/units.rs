//! Whole units on emulated kernels: the operations fit together as they do on the CPU.

use tawpipe::device::cuda::Gpu;
use tawpipe::device::{AdamW, Cpu, Device};
use tawpipe::model::{Dtype, ModelShape, Recompute, Shards, Unit, footprint, unit_params};
use tawpipe::nn::{HeadOut, Network, Span};
use tawpipe::plan::Batch;

use crate::gpu::{emulated, on_place, real};
use crate::support::{Buffer, Random, TYPES, close};

const SPAN: Span = Span { micro: 2, seq: 19 };

/// Tensor cores in bf16, rows of whole vectors.
fn even() -> ModelShape {
    ModelShape { dim: 128, heads: 4, kv_heads: 2, head_dim: 64, ffn: 192, vocab: 300, ..odd() }
}

/// Nothing is a multiple of anything.
fn odd() -> ModelShape {
    ModelShape {
        dim: 10,
        layers: 1,
        heads: 4,
        kv_heads: 2,
        head_dim: 6,
        ffn: 14,
        vocab: 257,
        tied: false,
        rope_theta: 10000.0,
        norm_eps: 1e-5,
        extra: Default::default(),
    }
}

/// Random weights of a unit, of a size at which nothing saturates.
fn weights(shape: &ModelShape, unit: Unit, random: &mut Random) -> Vec<f32> {
    let (params, len) = unit_params(shape, unit);
    let mut values = vec![0.0; len];
    for p in params {
        let scale = if p.decay { 1.5 / (p.cols as f32).sqrt() } else { 1.0 };
        values[p.offset..p.offset + p.len()].iter_mut().for_each(|x| *x = scale * random.one());
    }
    values
}

/// A model of one block from tokens to loss and back: each tensor that leaves a unit.
fn pass<D: Device>(
    device: D,
    shape: &ModelShape,
    (dtype, recompute): (Dtype, Recompute),
    all: &[Vec<f32>; 3],
    tokens: &[i32],
) -> Vec<Vec<f64>> {
    let batch = Batch { seq: SPAN.seq, micro: SPAN.micro, micros: 1 };
    let adamw = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 };
    let net = Network::new(shape, &Shards::new(shape, 1), batch, dtype, recompute, adamw, device).unwrap();
    let block = Unit::Block(0);
    let size = footprint(shape, block, dtype, recompute, SPAN.micro, SPAN.seq);
    let (saved, work) = (Buffer::new(size.saved, Dtype::Byte), Buffer::new(net.workspace(SPAN), Dtype::Byte));
    let [embed, middle, head] = [0, 1, 2].map(|i| Buffer::of(&all[i], dtype));
    let [d_embed, d_middle, d_head] = [0, 1, 2].map(|i| Buffer::new(all[i].len(), Dtype::F32));
    let (ids, targets) = (Buffer::i32(tokens), Buffer::i32(&tokens.iter().map(|t| t / 2).collect::<Vec<_>>()));
    let len = SPAN.tokens() * shape.dim;
    let [x, y, dx] = [(); 3].map(|()| Buffer::of(&vec![f32::NAN; len], dtype));
    let loss = Buffer::f64(&[0.0]);
    let (w, kept) = (Some(work.view()), Some(saved.view()));

    net.forward(Unit::Embed, SPAN, embed.view(), ids.view(), x.view(), None, w);
    net.forward(block, SPAN, middle.view(), x.view(), y.view(), kept, w);
    let out = HeadOut { dx: dx.view(), gradient: d_head.view(), accumulate: false };
    net.head_loss(head.view(), y.view(), targets.view(), 0.01, Some(out), loss.view(), w);
    let dy = dx.wide();
    net.backward(block, SPAN, Some(middle.view()), x.view(), kept, dx.view(), d_middle.view(), false, w);
    net.backward(Unit::Embed, SPAN, None, ids.view(), None, dx.view(), d_embed.view(), false, w);
    vec![y.wide(), loss.wide(), dy, d_head.wide(), dx.wide(), d_middle.wide(), d_embed.wide()]
}

/// Loss and all gradients of a small model are the CPU's, but for rounding; with everything kept for backward, and with
/// cheap things made again, they are the same bits.
#[test]
fn a_model_learns_the_same() {
    let mut random = Random::new(23);
    for shape in [odd(), even()] {
        let all = [Unit::Embed, Unit::Block(0), Unit::Head].map(|unit| weights(&shape, unit, &mut random));
        let tokens: Vec<i32> = (0..SPAN.tokens()).map(|_| (random.bits() % shape.vocab as u64) as i32).collect();
        for (dtype, rounding) in TYPES {
            let cpu = pass(Cpu::new(1), &shape, (dtype, Recompute::Selective), &all, &tokens);
            let [gpu, kept] = [Recompute::Selective, Recompute::None].map(|recompute| match real() {
                None => pass(emulated(3), &shape, (dtype, recompute), &all, &tokens),
                Some(cuda) => {
                    on_place(cuda, || pass(Gpu::new(cuda.clone()), &shape, (dtype, recompute), &all, &tokens))
                }
            });
            let names = ["output", "loss", "output's gradient", "head", "input's gradient", "block", "embedding"];
            for (name, (gpu, cpu)) in names.iter().zip(gpu.iter().zip(&cpu)) {
                close(&format!("{name}, {dtype:?}, {} wide", shape.dim), gpu, cpu, 8.0 * rounding);
            }
            // Operands lie elsewhere where everything is kept, and cuBLASLt chooses by their alignment who multiplies them.
            if real().is_none() {
                assert_eq!(gpu, kept, "{dtype:?}, {} wide: everything kept", shape.dim);
            }
            for (name, (kept, gpu)) in names.iter().zip(kept.iter().zip(&gpu)) {
                close(&format!("{name}, {dtype:?}, {} wide: everything kept", shape.dim), kept, gpu, 8.0 * rounding);
            }
        }
    }
}
