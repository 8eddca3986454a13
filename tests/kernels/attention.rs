//! Attention, forward and backward.

use tawpipe::device::{Attention, Bf16Products, Cpu, Device};
use tawpipe::model::Dtype;

use crate::ops::Emulated;
use crate::support::{Buffer, Random, TYPES, close};

/// Output, log-sums and gradient equal the CPU's, for lengths around the tiles' edges, groups and head sizes; no bit
/// depends on the order of threads.
#[test]
fn equals_the_cpu() {
    let mut random = Random::new(21);
    for (dtype, rounding) in TYPES {
        for (micro, seq, heads, kv_heads, head_dim) in
            [(2, 1, 1, 1, 2), (1, 67, 4, 2, 6), (2, 33, 3, 1, 64), (1, 40, 2, 2, 128), (1, 35, 2, 1, 80)]
        {
            let shape = Attention { micro, seq, heads, kv_heads, head_dim };
            compare(&mut random, &shape, dtype, rounding);
        }
    }
}

fn compare(random: &mut Random, shape: &Attention, dtype: Dtype, rounding: f64) {
    let rows = shape.micro * shape.heads * shape.seq;
    let magnitude = 3.0;
    let values: Vec<f32> = random.vec(shape.tokens() * shape.row()).iter().map(|x| x * magnitude).collect();
    let (qkv, dout) = (Buffer::of(&values, dtype), random.buffer(shape.tokens() * shape.heads * shape.head_dim, dtype));
    let run = |device: &dyn Device| {
        let out = Buffer::of(&vec![f32::NAN; dout.view().len()], dtype);
        let dqkv = Buffer::of(&vec![f32::NAN; qkv.view().len()], dtype);
        let lse = Buffer::f32(&vec![f32::NAN; rows]);
        device.attention(shape, qkv.view(), out.view(), lse.view());
        device.attention_backward(shape, qkv.view(), out.view(), lse.view(), dout.view(), dqkv.view());
        (out.wide(), lse.wide(), dqkv.wide())
    };
    let cpu = run(&Cpu::with_products(1, Bf16Products::Widened));
    let gpu = run(&Emulated::new(1, rows).device);
    let what = format!("{shape:?} {dtype:?}");
    // As on the CPU: an exponential is as wrong as its argument.
    let rounding = rounding * f64::from(magnitude);
    close(&format!("{what} out"), &gpu.0, &cpu.0, 10.0 * rounding);
    close(&format!("{what} lse"), &gpu.1, &cpu.1, 2e-6);
    close(&format!("{what} dqkv"), &gpu.2, &cpu.2, 20.0 * rounding);
    assert!(gpu == run(&Emulated::new(2, rows).device), "the order of threads changed bits: {what}");
}
