//! Whole units: gradients against finite differences, and the rules about what is written.

use tawpipe::device::{AdamW, Cpu, Device};
use tawpipe::model::{Dtype, ModelShape, Recompute, Shards, Unit, footprint, unit_params};
use tawpipe::nn::{HeadOut, Network, Span};
use tawpipe::plan::Batch;

use crate::support::{Buffer, Random, close};

/// Sizes of which no tensor is a multiple of the alignment, so that queries, keys and values lie apart.
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

/// Sizes of which all stacked projections are one matrix.
fn even() -> ModelShape {
    ModelShape { dim: 64, heads: 4, kv_heads: 4, head_dim: 16, ffn: 128, ..odd() }
}

const SPAN: Span = Span { micro: 2, seq: 5 };

fn network(shape: &ModelShape, dtype: Dtype, recompute: Recompute) -> Network<Cpu> {
    let batch = Batch { seq: 5, micro: 2, micros: 1 };
    let adamw = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 };
    Network::new(shape, &Shards::new(shape, 1), batch, dtype, recompute, adamw, Cpu::new(1)).unwrap()
}

/// Random weights of a unit, of a size at which nothing saturates and every branch matters.
fn weights(shape: &ModelShape, unit: Unit, random: &mut Random) -> Vec<f32> {
    let (params, len) = unit_params(shape, unit);
    let mut values = vec![0.0; len];
    for p in params {
        let scale = if p.decay { 1.5 / (p.cols as f32).sqrt() } else { 1.0 };
        values[p.offset..p.offset + p.len()].iter_mut().for_each(|x| *x = scale * random.one());
    }
    values
}

/// `f` at `at ± step·direction`, the difference divided by two steps.
fn slope(at: &[f32], direction: &[f32], step: f32, f: impl Fn(&[f32]) -> f64) -> f64 {
    let moved = |s: f32| at.iter().zip(direction).map(|(x, d)| x + s * d).collect::<Vec<_>>();
    (f(&moved(step)) - f(&moved(-step))) / (2.0 * f64::from(step))
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Directions along one tensor each.
fn directions(shape: &ModelShape, unit: Unit, random: &mut Random) -> Vec<(String, Vec<f32>)> {
    let (params, len) = unit_params(shape, unit);
    let one = |p: &tawpipe::model::Param, random: &mut Random| {
        let mut d = vec![0.0; len];
        d[p.offset..p.offset + p.len()].iter_mut().for_each(|x| *x = random.one());
        (p.name.clone(), d)
    };
    params.iter().map(|p| one(p, random)).collect()
}

/// A block's gradient along every tensor and its input is the slope of its output.
#[test]
fn block_gradients_are_slopes() {
    let mut random = Random::new(10);
    for shape in [odd(), even()] {
        let (net, unit) = (network(&shape, Dtype::F32, Recompute::Selective), Unit::Block(0));
        let size = footprint(&shape, unit, Dtype::F32, Recompute::Selective, SPAN.micro, SPAN.seq);
        let work = Buffer::new(size.workspace, Dtype::Byte);
        let len = SPAN.tokens() * shape.dim;
        let (w, x, dy) = (weights(&shape, unit, &mut random), random.vec(len), random.vec(len));
        let value = |w: &[f32], x: &[f32]| {
            let (w, x, y) = (Buffer::f32(w), Buffer::f32(x), Buffer::new(len, Dtype::F32));
            net.forward(unit, SPAN, w.view(), x.view(), y.view(), None, Some(work.view()));
            dot(&y.read::<f32>(), &dy)
        };
        let (weight, input, y) = (Buffer::f32(&w), Buffer::f32(&x), Buffer::new(len, Dtype::F32));
        let saved = Buffer::new(size.saved, Dtype::Byte);
        net.forward(unit, SPAN, weight.view(), input.view(), y.view(), Some(saved.view()), Some(work.view()));
        assert_eq!(dot(&y.read::<f32>(), &dy), value(&w, &x), "keeping changes no bit");
        let again = Buffer::new(size.saved, Dtype::Byte);
        net.recompute(unit, SPAN, weight.view(), input.view(), again.view(), Some(work.view()));
        assert!(saved.read::<u8>() == again.read::<u8>(), "recomputation changes no bit");

        let (dx, gradient) = (Buffer::f32(&dy), Buffer::f32(&vec![f32::NAN; w.len()]));
        let backward = |accumulate| {
            let (w, s, g) = (Some(weight.view()), Some(saved.view()), gradient.view());
            net.backward(unit, SPAN, w, input.view(), s, dx.view(), g, accumulate, Some(work.view()));
        };
        backward(false);
        let once = gradient.read::<f32>();
        assert!(saved.read::<u8>() == again.read::<u8>(), "backward only reads what was saved");
        for (name, direction) in directions(&shape, unit, &mut random) {
            let expected = slope(&w, &direction, 1e-2, |w| value(w, &x));
            let got = dot(&once, &direction);
            // Curvature of the step and f32 rounding of the sum of outputs.
            assert!((got - expected).abs() < 2e-3 * (1.0 + expected.abs()), "{name}: {got} instead of {expected}");
        }
        let direction = random.vec(len);
        let expected = slope(&x, &direction, 1e-2, |x| value(&w, x));
        let got = dot(&dx.read::<f32>(), &direction);
        assert!((got - expected).abs() < 2e-3 * (1.0 + expected.abs()), "input: {got} instead of {expected}");

        let used: usize = unit_params(&shape, unit).0.iter().map(|p| p.len()).sum();
        assert!(once.iter().all(|x| x.is_finite()), "everything is overwritten");
        assert!(once.iter().filter(|x| **x == 0.0).count() >= w.len() - used, "padding is zero");
        dx.write(&dy);
        backward(true);
        let twice: Vec<f64> = once.iter().map(|x| 2.0 * f64::from(*x)).collect();
        close("accumulated", &gradient.wide(), &twice, 1e-6);
    }
}

/// A backward in two halves gives the bits of a whole one, even if input and saved state are gone before the second half;
/// so does adding to a gradient that is there, up to the rounding of another order. Whatever is kept and whatever made
/// again, the bits are the same, and backward only reads what was kept.
#[test]
fn a_split_backward_is_the_whole_one() {
    let mut random = Random::new(13);
    for (shape, dtype) in [(odd(), Dtype::F32), (even(), Dtype::F32), (even(), Dtype::Bf16)] {
        let unit = Unit::Block(0);
        let len = SPAN.tokens() * shape.dim;
        let w = weights(&shape, unit, &mut random);
        let typed = |values: &[f32]| Buffer::of(values, dtype);
        let (weight, x, dy) = (typed(&w), random.vec(len), random.vec(len));
        let run = |recompute: Recompute, split: bool| {
            let net = network(&shape, dtype, recompute);
            let size = footprint(&shape, unit, dtype, recompute, SPAN.micro, SPAN.seq);
            // What nobody writes is NaN.
            let scratch = Buffer::new(size.workspace, Dtype::Byte);
            scratch.write(&vec![0xffu8; size.workspace]);
            let work = Some(scratch.view());
            let y = Buffer::new(len, dtype);
            let saved = Buffer::new(size.saved, Dtype::Byte);
            let gradient = Buffer::f32(&vec![f32::NAN; w.len()]);
            let mut list = Vec::new();
            for accumulate in [false, true] {
                let (input, dx) = (typed(&x), typed(&dy));
                let keep = recompute.forward_keeps().then(|| saved.view());
                net.forward(unit, SPAN, weight.view(), input.view(), y.view(), keep, work);
                if keep.is_none() {
                    net.recompute(unit, SPAN, weight.view(), input.view(), saved.view(), work);
                }
                let before = saved.read::<u8>();
                if split {
                    let pending = Buffer::new(size.pending, Dtype::Byte);
                    let regions = [&weight, &input, &saved, &dx, &pending].map(Buffer::view);
                    net.backward_input(SPAN, regions, work);
                    assert!(before == saved.read::<u8>(), "backward only reads what was kept");
                    let kept = dx.wide();
                    [&input, &saved, &dx].into_iter().for_each(|b| net.device().clear(b.view()));
                    net.backward_weight(SPAN, pending.view(), gradient.view(), accumulate);
                    list.push(kept);
                } else {
                    let (w, s, g) = (Some(weight.view()), Some(saved.view()), gradient.view());
                    net.backward(unit, SPAN, w, input.view(), s, dx.view(), g, accumulate, work);
                    assert!(before == saved.read::<u8>(), "backward only reads what was kept");
                    list.push(dx.wide());
                }
                list.push(gradient.wide());
            }
            list
        };
        let whole = run(Recompute::Selective, false);
        for recompute in [Recompute::None, Recompute::Selective, Recompute::Block] {
            assert!(run(recompute, false) == whole, "{dtype:?}, {recompute:?}: everything, bit by bit");
            let halves = run(recompute, true);
            assert!(whole[..3] == halves[..3], "{dtype:?}: input's gradient and a fresh gradient, bit by bit");
            close("accumulated", &halves[3], &whole[3], 1e-6);
        }
    }
}

/// The head's gradient is the slope of its loss; chunks, masks and the evaluation's loss agree; and the embedding's
/// gradient is the sum of what reached each token.
#[test]
fn head_and_embedding() {
    let mut random = Random::new(11);
    for tied in [false, true] {
        let shape = ModelShape { tied, ..odd() };
        let (net, unit) = (network(&shape, Dtype::F32, Recompute::Selective), Unit::Head);
        let work = Buffer::new(net.workspace(SPAN), Dtype::Byte);
        let len = SPAN.tokens() * shape.dim;
        let (w, x) = (weights(&shape, unit, &mut random), random.vec(len));
        let targets = Buffer::i32(&[1, 256, -1, 0, 7, 7, 3, -100, 100, 255]);
        let run = |w: &[f32], x: &[f32], out: Option<HeadOut>| {
            let (w, x, loss) = (Buffer::f32(w), Buffer::f32(x), Buffer::f64(&[0.0]));
            net.head_loss(w.view(), x.view(), targets.view(), 0.1, out, loss.view(), Some(work.view()));
            loss.wide()[0]
        };
        let dx = Buffer::f32(&vec![f32::NAN; len]);
        let gradient = Buffer::f32(&vec![f32::NAN; w.len()]);
        let out = |accumulate| Some(HeadOut { dx: dx.view(), gradient: gradient.view(), accumulate });
        close("same loss", &[run(&w, &x, out(false))], &[run(&w, &x, None)], 1e-7);
        let once = gradient.read::<f32>();
        for (name, direction) in directions(&shape, unit, &mut random) {
            let expected = slope(&w, &direction, 1e-2, |w| run(w, &x, None));
            let got = dot(&once, &direction);
            assert!((got - expected).abs() < 1e-3 * (0.1 + expected.abs()), "{name}: {got} instead of {expected}");
        }
        let direction = random.vec(len);
        let expected = slope(&x, &direction, 1e-2, |x| run(&w, x, None));
        let got = dot(&dx.read::<f32>(), &direction);
        assert!((got - expected).abs() < 1e-3 * (0.1 + expected.abs()), "input: {got} instead of {expected}");
        assert!(once.iter().all(|x| x.is_finite()), "everything is overwritten");
        run(&w, &x, out(true));
        let twice: Vec<f64> = once.iter().map(|x| 2.0 * f64::from(*x)).collect();
        close("accumulated", &gradient.wide(), &twice, 1e-6);

        // The embedding adds onto the head's gradient of the same table.
        let tokens = Buffer::i32(&[5, 5, 0, 256, 1, 1, 1, 2, 3, 4]);
        let base = gradient.wide();
        let table = shape.vocab * shape.dim;
        let region = gradient.view().sub(0..table);
        net.backward(Unit::Embed, SPAN, None, tokens.view(), None, dx.view(), region, true, None);
        let mut expected = base;
        for (d, t) in dx.wide().chunks_exact(shape.dim).zip(tokens.read::<i32>()) {
            expected[t as usize * shape.dim..][..shape.dim].iter_mut().zip(d).for_each(|(e, d)| *e += d);
        }
        close("embedding", &gradient.wide(), &expected, 1e-6);
    }
}

/// Logits for generation: those of a short sequence are the first rows of a longer one's, and masked loss from them is
/// the loss.
#[test]
fn shorter_sequences_give_the_same_states() {
    let mut random = Random::new(12);
    let shape = even();
    let (net, unit) = (network(&shape, Dtype::F32, Recompute::Selective), Unit::Block(0));
    let w = Buffer::f32(&weights(&shape, unit, &mut random));
    let x = random.vec(5 * shape.dim);
    let run = |seq: usize| {
        let span = Span { micro: 1, seq };
        let work = Buffer::new(net.workspace(span), Dtype::Byte);
        let (x, y) = (Buffer::f32(&x[..seq * shape.dim]), Buffer::new(seq * shape.dim, Dtype::F32));
        net.forward(unit, span, w.view(), x.view(), y.view(), None, Some(work.view()));
        y.wide()
    };
    let long = run(5);
    for seq in [1, 3] {
        close("prefix", &run(seq), &long[..seq * shape.dim], 1e-6);
    }
}

/// Memory is linear in the sequence length, and bf16 halves what is kept (but for a few f32 vectors).
#[test]
fn footprints() {
    let shape = ModelShape { dim: 512, heads: 8, kv_heads: 8, head_dim: 64, ffn: 1376, ..odd() };
    let kept = 3 * 512 + 512 + 512 + 2 * 1376 + 8 + 2;
    for (recompute, elements) in
        [(Recompute::None, kept + 2 * 512 + 1376), (Recompute::Selective, kept), (Recompute::Block, kept)]
    {
        let of = |dtype, seq| footprint(&shape, Unit::Block(0), dtype, recompute, 1, seq);
        let (short, long) = (of(Dtype::F32, 1024), of(Dtype::F32, 8192));
        assert!(long.saved <= 8 * short.saved && long.workspace <= 8 * short.workspace);
        assert!(of(Dtype::Bf16, 1024).saved < short.saved * 51 / 100);
        assert_eq!(short.saved, 1024 * 4 * elements);
        assert_eq!(footprint(&shape, Unit::Embed, Dtype::F32, recompute, 1, 1024).saved, 0);
    }
}
