//! Attention, forward and backward.

use tawpipe::device::{Attention, Cpu, Device};
use tawpipe::model::Dtype;

use crate::gpu::{on_gpu, on_gpu_in_any_order, on_gpu_with_little_shared_memory};
use crate::support::{Buffer, Random, TYPES, close};

/// Output, log-sums and gradient equal the CPU's, for odd lengths, groups and head sizes; no bit depends on the order of
/// threads.
#[test]
fn simple_kernels_equal_the_cpu() {
    let mut random = Random::new(21);
    for (dtype, _) in TYPES {
        for (micro, seq, heads, kv_heads, head_dim) in
            [(2, 1, 1, 1, 2), (1, 67, 4, 2, 6), (1, 35, 2, 1, 80), (1, 9, 1, 1, 256)]
        {
            let shape = Attention { micro, seq, heads, kv_heads, head_dim };
            compare(&mut random, &shape, dtype);
        }
    }
    let shape = Attention { micro: 2, seq: 33, heads: 3, kv_heads: 1, head_dim: 64 };
    compare(&mut random, &shape, Dtype::F32);
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
        compare(&mut random, &shape, Dtype::Bf16);
    }
}

/// The way with atomics, where queries' gradients are summed up in any order, equals the CPU too; so do the first generation
/// of kernels, which do any head, and those that are left where shared memory is too small for a head of 128.
#[test]
fn other_ways_equal_the_cpu() {
    let mut random = Random::new(24);
    for (micro, seq, heads, kv_heads, head_dim) in [
        (2, 1, 1, 1, 64),
        (1, 160, 4, 2, 64),
        (2, 300, 1, 1, 64),
        (1, 31, 2, 1, 128),
        (1, 130, 3, 1, 128),
        (1, 257, 1, 1, 128),
    ] {
        let shape = Attention { micro, seq, heads, kv_heads, head_dim };
        let operands = Operands::new(&mut random, &shape, Dtype::Bf16);
        let expected = operands.run(&Cpu::new(1), Dtype::F32);
        for seed in [1, 2] {
            let gpu = on_gpu_in_any_order(seed, |device| operands.run(device, Dtype::Bf16));
            near(&format!("{shape:?}, any order"), &gpu, &expected, Dtype::Bf16);
        }
        for shared in [0, 100 << 10] {
            let small = on_gpu_with_little_shared_memory(shared, |device| operands.run(device, Dtype::Bf16));
            near(&format!("{shape:?}, {shared} bytes"), &small, &expected, Dtype::Bf16);
        }
    }
}

/// What attention and its backward start from.
struct Operands {
    shape: Attention,
    qkv: Vec<f32>,
    dout: Vec<f32>,
}

/// Output, log-sums and gradient.
type Results = [Vec<f64>; 3];

impl Operands {
    /// Numbers that `dtype` can hold. Scores are up to some 30, so that rows have both sharp and flat weights.
    fn new(random: &mut Random, shape: &Attention, dtype: Dtype) -> Self {
        let mut operand = |len: usize, magnitude: f32| {
            let values: Vec<f32> = random.vec(len).iter().map(|x| x * magnitude).collect();
            Buffer::of(&values, dtype).wide().iter().map(|&x| x as f32).collect::<Vec<_>>()
        };
        let qkv = operand(shape.tokens() * shape.row(), 2.0);
        let dout = operand(shape.tokens() * shape.heads * shape.head_dim, 1.0);
        Operands { shape: *shape, qkv, dout }
    }

    fn run(&self, device: &dyn Device, dtype: Dtype) -> Results {
        let (shape, rows) = (&self.shape, self.shape.micro * self.shape.heads * self.shape.seq);
        let [qkv, dout] = [&self.qkv, &self.dout].map(|values| Buffer::of(values, dtype));
        let out = Buffer::of(&vec![f32::NAN; dout.view().len()], dtype);
        let dqkv = Buffer::of(&vec![f32::NAN; qkv.view().len()], dtype);
        let lse = Buffer::f32(&vec![f32::NAN; rows]);
        device.attention(shape, qkv.view(), out.view(), lse.view());
        let scratch = Buffer::f32(&vec![f32::NAN; shape.scratch()]);
        let [q, o, l, d, dq, s] = [&qkv, &out, &lse, &dout, &dqkv, &scratch].map(Buffer::view);
        device.attention_backward(shape, q, o, l, d, dq, s);
        [out.wide(), lse.wide(), dqkv.wide()]
    }
}

/// Results are the expected ones but for the type's rounding.
fn near(what: &str, got: &Results, expected: &Results, dtype: Dtype) {
    // In f32 an exponential is as wrong as its argument; in bf16 the rounding of weights and results is all there is. Tensor
    // cores cut sums where a processor rounds them, and a GPU's logarithms and exponentials are off by some units in the last place.
    let (out, lse, dqkv) = match dtype {
        Dtype::F32 => (10.0 * TYPES[0].1, 2e-6, 15.0 * TYPES[0].1),
        _ => (0.6 * TYPES[1].1, 1e-5, 0.8 * TYPES[1].1),
    };
    for (i, (name, error)) in [("out", out), ("lse", lse), ("dqkv", dqkv)].into_iter().enumerate() {
        close(&format!("{what} {dtype:?} {name}"), &got[i], &expected[i], error);
    }
}

/// Our kernels against the CPU, which computes in f32 from operands that the GPU's type can hold.
fn compare(random: &mut Random, shape: &Attention, dtype: Dtype) {
    let operands = Operands::new(random, shape, dtype);
    let cpu = operands.run(&Cpu::new(1), Dtype::F32);
    let gpu = on_gpu(1, |device| operands.run(device, dtype));
    near(&format!("{shape:?}"), &gpu, &cpu, dtype);
    assert!(gpu == on_gpu(2, |device| operands.run(device, dtype)), "the order of threads changed bits: {shape:?}");
}
