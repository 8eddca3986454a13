//! Attention, forward and backward.

use tawpipe::device::{Attention, Cpu, Device};
use tawpipe::model::Dtype;

use crate::gpu::on_gpu;
use crate::support::{Buffer, Random, TYPES, close};

/// Output, log-sums and gradient equal the CPU's, for odd lengths, groups and head sizes; no bit depends on the order of
/// threads.
#[test]
fn simple_kernels_equal_the_cpu() {
    let mut random = Random::new(21);
    for (dtype, rounding) in TYPES {
        for (micro, seq, heads, kv_heads, head_dim) in
            [(2, 1, 1, 1, 2), (1, 67, 4, 2, 6), (1, 35, 2, 1, 80), (1, 9, 1, 1, 256)]
        {
            let shape = Attention { micro, seq, heads, kv_heads, head_dim };
            compare(&mut random, &shape, dtype, rounding);
        }
    }
    let shape = Attention { micro: 2, seq: 33, heads: 3, kv_heads: 1, head_dim: 64 };
    compare(&mut random, &shape, Dtype::F32, TYPES[0].1);
}

/// The same of the kernels on tensor cores, for lengths below, at and above the edges of their tiles and blocks.
#[test]
fn tensor_core_kernels_equal_the_cpu() {
    let mut random = Random::new(22);
    for (micro, seq, heads, kv_heads, head_dim) in [
        (2, 1, 1, 1, 64),
        (2, 33, 3, 1, 64),
        (1, 128, 2, 2, 64),
        (1, 203, 2, 1, 64),
        (1, 31, 1, 1, 128),
        (1, 64, 2, 1, 128),
        (2, 130, 2, 1, 128),
    ] {
        let shape = Attention { micro, seq, heads, kv_heads, head_dim };
        compare(&mut random, &shape, Dtype::Bf16, TYPES[1].1);
    }
}

/// The CPU computes in f32, from operands that the GPU's type can hold.
fn compare(random: &mut Random, shape: &Attention, dtype: Dtype, rounding: f64) {
    let rows = shape.micro * shape.heads * shape.seq;
    let mut operand = |len: usize, magnitude: f32| {
        let values: Vec<f32> = random.vec(len).iter().map(|x| x * magnitude).collect();
        Buffer::of(&values, dtype).wide().iter().map(|&x| x as f32).collect::<Vec<_>>()
    };
    // Scores are up to some 30, so that rows have both sharp and flat weights.
    let qkv = operand(shape.tokens() * shape.row(), 2.0);
    let dout = operand(shape.tokens() * shape.heads * shape.head_dim, 1.0);
    let run = |device: &dyn Device, dtype: Dtype| {
        let [qkv, dout] = [&qkv, &dout].map(|values| Buffer::of(values, dtype));
        let out = Buffer::of(&vec![f32::NAN; dout.view().len()], dtype);
        let dqkv = Buffer::of(&vec![f32::NAN; qkv.view().len()], dtype);
        let lse = Buffer::f32(&vec![f32::NAN; rows]);
        device.attention(shape, qkv.view(), out.view(), lse.view());
        let scratch = Buffer::f32(&vec![f32::NAN; rows]);
        let [q, o, l, d, dq, s] = [&qkv, &out, &lse, &dout, &dqkv, &scratch].map(Buffer::view);
        device.attention_backward(shape, q, o, l, d, dq, s);
        (out.wide(), lse.wide(), dqkv.wide())
    };
    let cpu = run(&Cpu::new(1), Dtype::F32);
    let gpu = on_gpu(1, |device| run(device, dtype));
    let what = format!("{shape:?} {dtype:?}");
    // In f32 an exponential is as wrong as its argument; in bf16 the rounding of weights and results is all there is.
    let (out, dqkv) = if dtype == Dtype::F32 { (10.0, 15.0) } else { (0.6, 0.8) };
    close(&format!("{what} out"), &gpu.0, &cpu.0, out * rounding);
    close(&format!("{what} lse"), &gpu.1, &cpu.1, 2e-6);
    close(&format!("{what} dqkv"), &gpu.2, &cpu.2, dqkv * rounding);
    assert!(gpu == on_gpu(2, |device| run(device, dtype)), "the order of threads changed bits: {what}");
}
