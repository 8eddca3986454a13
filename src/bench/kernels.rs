//! How fast a rank computes.

use std::time::Instant;

use crate::cluster::{DeviceRates, Rates};
use crate::device::{AdamW, Attention, Device, DeviceError, processor_seconds};
use crate::model::{Dtype, ModelShape, Recompute, Shards, Unit, footprint, unit_params};
use crate::nn::{HeadOut, Network, Span};
use crate::plan::{Batch, Segment, Slot};

/// Runs of each kernel; the median counts, after one that only warms up.
const RUNS: usize = 3;

/// What is measured, and by which clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Processor seconds: what a rank loses by waiting for a core does not count.
    Processor,
    /// Seconds, until the device has finished.
    Wall,
}

/// How large the models are that are measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Their widths, multiples of 64: heads have 64.
    pub widths: Vec<usize>,
    /// Sequences of a micro-batch.
    pub micro: usize,
    /// Tokens of a sequence.
    pub seq: usize,
}

impl Sizes {
    /// Such as a device of this clock trains. On a processor a micro-batch no longer fits into its nearest caches, as in training.
    pub fn of(clock: Clock) -> Self {
        match clock {
            Clock::Processor => Sizes { widths: vec![64, 128, 256], micro: 8, seq: 256 },
            Clock::Wall => Sizes { widths: vec![1024, 2048, 4096], micro: 1, seq: 2048 },
        }
    }
}

/// Median seconds of a run.
fn median(device: &impl Device, clock: Clock, mut run: impl FnMut()) -> f64 {
    // A device that fails says so when the results are fetched.
    let mut timed = || match clock {
        Clock::Processor => {
            let start = processor_seconds();
            run();
            processor_seconds() - start
        }
        Clock::Wall => {
            let start = Instant::now();
            run();
            let _ = device.finish();
            start.elapsed().as_secs_f64()
        }
    };
    timed();
    let mut times: Vec<f64> = (0..RUNS).map(|_| timed()).collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2].max(1e-9)
}

fn slot(name: &str, elems: usize, dtype: Dtype) -> Slot {
    Slot { name: name.into(), elems, dtype, segment: Segment::Workspace, holds: None }
}

/// Operations a second of a device, or of one of its cores, in a model of this width: heads of 64, SwiGLU of 8/3, 2,048 tokens
/// in the table.
///
/// # Errors
/// If the device fails.
pub fn rates(device: impl Device, clock: Clock, sizes: &Sizes, dim: usize, dtype: Dtype) -> Result<Rates, DeviceError> {
    let (micro, seq) = (sizes.micro, sizes.seq);
    let tokens = micro * seq;
    let heads = dim / 64;
    let shape = ModelShape {
        dim,
        layers: 1,
        heads,
        kv_heads: heads,
        head_dim: 64,
        ffn: (8 * dim / 3).next_multiple_of(32),
        vocab: 2048,
        tied: false,
        rope_theta: 1e4,
        norm_eps: 1e-5,
        extra: Default::default(),
    };
    let batch = Batch { seq, micro, micros: 1 };
    let adamw = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 };
    // What prices are relative to: see `simulate::prices`.
    let recompute = Recompute::Selective;
    let net = Network::new(&shape, &Shards::new(&shape, 1), batch, dtype, recompute, adamw, device)?;
    let device = net.device();
    let span = Span { micro, seq };
    let (block, head) = (Unit::Block(0), Unit::Head);
    let need = footprint(&shape, block, dtype, recompute, micro, seq);
    let most = unit_params(&shape, block).1.max(unit_params(&shape, head).1);
    let wide = tokens * shape.dim;
    let qkv = tokens * (shape.q_dim() + 2 * shape.kv_dim());
    let attention = Attention { micro, seq, heads, kv_heads: heads, head_dim: 64 };
    let memory = device.memory(&[
        slot("weights", most, dtype),
        slot("gradient", most, Dtype::F32),
        slot("input", wide, dtype),
        slot("output", wide, dtype),
        slot("saved", need.saved, Dtype::Byte),
        slot("pending", need.pending, Dtype::Byte),
        slot("workspace", net.workspace(span), Dtype::Byte),
        slot("targets", tokens, Dtype::I32),
        slot("loss", 1, Dtype::F64),
        slot("qkv", qkv, dtype),
        slot("dqkv", qkv, dtype),
        slot("lse", tokens * heads, Dtype::F32),
        slot("scratch", attention.scratch(), Dtype::F32),
    ])?;
    let [weights, gradient, input, output, saved, pending, work, targets, loss, qkv, dqkv, lse, scratch] =
        std::array::from_fn(|slot| memory.slot(slot));
    // Small numbers of changing sign: neither denormal nor infinite after a few passes.
    let noise: Vec<f32> = (0..most.max(wide)).map(|i| ((i * 7919) % 255) as f32 / 6375.0 - 0.02).collect();
    memory.upload(gradient, &noise[..most])?;
    device.cast(gradient, weights);
    device.cast(gradient.sub(0..wide.min(most)), input.sub(0..wide.min(most)));
    memory.upload(targets, &(0..tokens as i32).map(|i| i % 2048).collect::<Vec<_>>())?;

    let flops = 2.0 * (tokens * seq * shape.q_dim()) as f64;
    let forward_attention = median(device, clock, || device.attention(&attention, qkv, output, lse));
    let backward_attention =
        median(device, clock, || device.attention_backward(&attention, qkv, output, lse, input, dqkv, scratch));

    device.cast(gradient.sub(0..wide.min(most)), input.sub(0..wide.min(most)));
    let of = |unit| (weights.sub(0..unit_params(&shape, unit).1), gradient.sub(0..unit_params(&shape, unit).1));
    let products = 2.0 * ((shape.matmul_params() - shape.vocab * dim) * tokens) as f64;
    let (w, g) = of(block);
    let forward = median(device, clock, || net.forward(block, span, w, input, output, Some(saved), Some(work)));
    let backward = median(device, clock, || net.backward_input(span, [w, input, saved, output, pending], Some(work)))
        + median(device, clock, || net.backward_weight(span, pending, g, true));
    let (w, g) = of(head);
    let scale = 1.0 / tokens as f64;
    let out = || HeadOut { dx: output, gradient: g, accumulate: true };
    let whole = median(device, clock, || net.head_loss(w, input, targets, scale, Some(out()), loss, Some(work)));
    // What is not attention counts as products; a noisy clock must not make that nothing.
    let rest = |whole: f64, attention: f64| (whole - attention).max(0.1 * whole);
    let rates = Rates {
        dtype: Some(dtype),
        dim: dim as f64,
        forward: products / rest(forward, forward_attention),
        backward: 2.0 * products / rest(backward, backward_attention),
        attention: flops / forward_attention,
        attention_backward: 2.5 * flops / backward_attention,
        head: 6.0 * (shape.vocab * dim * tokens) as f64 / whole,
    };
    device.finish()?;
    Ok(rates)
}

/// Bytes a second of sums that do not fit into any cache.
///
/// # Errors
/// If the device fails.
pub fn memory_rate(device: impl Device, clock: Clock) -> Result<f64, DeviceError> {
    let elems = if clock == Clock::Wall { 32 << 20 } else { 8 << 20 };
    let memory = device.memory(&[slot("from", elems, Dtype::F32), slot("to", elems, Dtype::F32)])?;
    let seconds = median(&device, clock, || device.accumulate(memory.slot(0), memory.slot(1)));
    Ok(12.0 * elems as f64 / seconds)
}

/// Seconds that an operation on almost nothing takes.
///
/// # Errors
/// If the device fails.
pub fn op(device: impl Device) -> Result<f64, DeviceError> {
    let memory = device.memory(&[slot("some", 64, Dtype::F32)])?;
    let many = 10_000;
    let start = Instant::now();
    (0..many).for_each(|_| device.clear(memory.slot(0)));
    device.finish()?;
    Ok(start.elapsed().as_secs_f64() / many as f64)
}

/// A device of these numbers; its peak is the best rate seen.
pub fn device(memory: f64, memory_rate: f64, rates: Vec<Rates>) -> DeviceRates {
    let peak = rates.iter().flat_map(|r| [r.forward, r.backward, r.head]).fold(0.0, f64::max);
    DeviceRates { memory, memory_rate, peak: (peak > 0.0).then_some(peak), rates }
}
