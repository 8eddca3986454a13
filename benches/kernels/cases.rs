//! What is timed: each operation with the least work and traffic that it can mean.

use tawpipe::device::cuda::{Arg, Cuda, Gpu, Launch, Launcher};
use tawpipe::device::{AdamW, AdamWStep, Attention, Device, Matrix, View};
use tawpipe::model::{Dtype, NORM_PARTS};
use tawpipe::plan::{stats, step};

use crate::room::Room;

/// Enqueues an operation.
pub type Call = dyn Fn(&Gpu<Cuda>);

/// One call to be timed.
pub struct Case {
    /// The operation; behind a slash an earlier generation of it.
    pub name: String,
    /// Its sizes, in words.
    pub sizes: String,
    /// Arithmetic operations; a multiplication with an addition is two.
    pub flops: f64,
    /// Bytes: each operand read once and each result written once.
    pub bytes: f64,
    /// Runs it once, on the GPU's stream.
    pub run: Box<Call>,
}

/// Allocates a case's operands when its turn comes.
pub type Lazy<'a> = Box<dyn FnOnce() -> Case + 'a>;

/// How large everything is.
pub struct Sizes {
    tokens: usize,
    /// Of models: width, and width of the MLP.
    widths: Vec<(usize, usize)>,
    vocab: usize,
    /// Heads and key/value heads of `head_dim` elements, sequences and their length.
    attention: Vec<Attention>,
    /// Elements of a flat tensor.
    flat: usize,
    /// Side of the largest matrix product.
    ceiling: usize,
}

impl Sizes {
    /// Those of LLaMA-like models of 0.5B to 8B parameters.
    pub fn real() -> Self {
        let shape = |micro, seq, heads, kv_heads, head_dim| Attention { micro, seq, heads, kv_heads, head_dim };
        Sizes {
            tokens: 8192,
            widths: vec![(1024, 4096), (2048, 5632), (3072, 8192), (4096, 14336)],
            vocab: 32000,
            attention: vec![
                shape(16, 1024, 16, 16, 64),
                shape(4, 4096, 16, 16, 64),
                shape(1, 16384, 16, 16, 64),
                shape(16, 1024, 16, 16, 128),
                shape(4, 4096, 16, 16, 128),
                shape(4, 4096, 32, 8, 128),
                shape(1, 16384, 16, 16, 128),
                shape(1, 32768, 16, 16, 128),
            ],
            flat: 256 << 20,
            ceiling: 8192,
        }
    }

    /// Attention at one size of models of 1B and more, and next to nothing of the rest.
    pub fn profile() -> Self {
        let attention = Attention { micro: 4, seq: 4096, heads: 16, kv_heads: 16, head_dim: 128 };
        Sizes { attention: vec![attention], ..Sizes::tiny() }
    }

    /// As small as can be, to try this program.
    pub fn tiny() -> Self {
        let shape = |micro, seq, heads, kv_heads, head_dim| Attention { micro, seq, heads, kv_heads, head_dim };
        Sizes {
            tokens: 24,
            widths: vec![(64, 96)],
            vocab: 640,
            attention: vec![shape(1, 40, 2, 1, 64), shape(1, 40, 1, 1, 128)],
            flat: 5000,
            ceiling: 64,
        }
    }
}

const T: Dtype = Dtype::Bf16;

fn lazy<'a>(case: impl FnOnce() -> Case + 'a) -> Lazy<'a> {
    Box::new(case)
}

/// All of them, ceilings first.
pub fn all(cuda: &Cuda, sizes: Sizes) -> Vec<Lazy<'_>> {
    let mut all = ceilings(cuda, &sizes);
    for &(dim, ffn) in &sizes.widths {
        all.extend(products(cuda, sizes.tokens, dim, ffn, sizes.vocab));
        all.extend(rows(cuda, sizes.tokens, dim, ffn));
    }
    for &shape in &sizes.attention {
        all.extend(attention(cuda, shape));
    }
    let dim = sizes.widths.last().expect("some width").0;
    all.extend(ends(cuda, sizes.tokens, dim, sizes.vocab));
    all.extend(flat(cuda, sizes.flat));
    all
}

fn ceilings<'a>(cuda: &'a Cuda, sizes: &Sizes) -> Vec<Lazy<'a>> {
    let (n, side) = (4 * sizes.flat, sizes.ceiling);
    let copy = move || {
        let mut room = Room::new(cuda, &[(n, Dtype::Byte), (n, Dtype::Byte)]);
        let (from, to, stream) = (room.take(), room.take(), cuda.stream().clone());
        let run = move |_: &Gpu<Cuda>| {
            let _keep = &room;
            stream.copy_view(from, to).expect("a copy");
        };
        Case { name: "copy".into(), sizes: format!("{n} bytes"), flops: 0.0, bytes: 2.0 * n as f64, run: Box::new(run) }
    };
    vec![lazy(copy), product(cuda, "matmul", side, side, side, false)]
}

/// `[m, k] x [k, n]`; into f32 and added to what is there where `adds`, as weight gradients are.
fn product<'a>(cuda: &'a Cuda, name: &str, m: usize, n: usize, k: usize, adds: bool) -> Lazy<'a> {
    let name = name.to_string();
    lazy(move || {
        let out = if adds { Dtype::F32 } else { T };
        let mut room = Room::new(cuda, &[(m * k, T), (n * k, T), (m * n, out)]);
        let [a, b, c] = [room.take(), room.take(), room.take()];
        // Forward: x w^T; a weight's gradient: dy^T x.
        let (a, b) = if adds {
            (Matrix::new(a, k, m).t(), Matrix::new(b, k, n))
        } else {
            (Matrix::new(a, m, k), Matrix::new(b, n, k).t())
        };
        let c = Matrix::new(c, m, n);
        let traffic = 2 * (m * k + n * k) + m * n * if adds { 8 } else { 2 };
        let run = move |device: &Gpu<Cuda>| {
            let _keep = &room;
            device.matmul(a, b, c, adds);
        };
        let (flops, sizes) = (2.0 * (m * n * k) as f64, format!("{m} x {n} x {k}"));
        Case { name, sizes, flops, bytes: traffic as f64, run: Box::new(run) }
    })
}

fn products<'a>(cuda: &'a Cuda, tokens: usize, dim: usize, ffn: usize, vocab: usize) -> Vec<Lazy<'a>> {
    vec![
        product(cuda, "product forward", tokens, dim, dim, false),
        product(cuda, "product forward", tokens, 2 * ffn, dim, false),
        product(cuda, "product forward", tokens, dim, ffn, false),
        product(cuda, "product of logits", tokens.min(2048), vocab, dim, false),
        product(cuda, "product for weights", 2 * ffn, dim, tokens, true),
    ]
}

/// Operations on each row of activations.
fn rows<'a>(cuda: &'a Cuda, rows: usize, dim: usize, ffn: usize) -> Vec<Lazy<'a>> {
    let (n, f) = (rows * dim, Dtype::F32);
    let case = move |name: &str, width: usize, bytes: usize, run: Box<Call>| Case {
        name: name.into(),
        sizes: format!("{rows} x {width}"),
        flops: 0.0,
        bytes: bytes as f64,
        run,
    };
    vec![
        lazy(move || {
            let mut room = Room::new(cuda, &[(n, T), (n, T), (dim, T), (n, T), (rows, f)]);
            let [x, sum, w, out, inverse] = [(); 5].map(|()| room.take());
            let run = move |device: &Gpu<Cuda>| {
                let _keep = &room;
                device.add_rmsnorm(x, sum, w, 1e-5, out, inverse);
            };
            case("add_rmsnorm", dim, 8 * n, Box::new(run))
        }),
        lazy(move || {
            let tensors = [(n, T), (n, T), (dim, T), (rows, f), (n, T), (dim, f), (NORM_PARTS * dim, f)];
            let mut room = Room::new(cuda, &tensors);
            let [dout, x, w, inverse, dx, dw, scratch] = [(); 7].map(|()| room.take());
            let run = move |device: &Gpu<Cuda>| {
                let _keep = &room;
                device.rmsnorm_backward(dout, x, w, inverse, dx, true, dw, true, scratch);
            };
            case("rmsnorm_backward", dim, 8 * n, Box::new(run))
        }),
        lazy(move || {
            let mut room = Room::new(cuda, &[(2 * rows * ffn, T), (rows * ffn, T)]);
            let [gate_up, out] = [(); 2].map(|()| room.take());
            let run = move |device: &Gpu<Cuda>| {
                let _keep = &room;
                device.swiglu(gate_up, Matrix::new(out, rows, ffn));
            };
            case("swiglu", ffn, 6 * rows * ffn, Box::new(run))
        }),
        lazy(move || {
            let mut room = Room::new(cuda, &[(2 * rows * ffn, T), (rows * ffn, T), (2 * rows * ffn, T)]);
            let [gate_up, act, d_gate_up] = [(); 3].map(|()| room.take());
            let run = move |device: &Gpu<Cuda>| {
                let _keep = &room;
                device.swiglu_backward(gate_up, act, d_gate_up, ffn, true);
            };
            case("swiglu_backward", ffn, 12 * rows * ffn, Box::new(run))
        }),
    ]
}

/// Causal attention on tensor cores, backward in one order and in any; and the simple kernels that came before, where they
/// end in bearable time. `tests/kernels/attention.rs` checks all of them.
fn attention<'a>(cuda: &'a Cuda, shape: Attention) -> Vec<Lazy<'a>> {
    let Attention { micro, seq, heads, kv_heads, head_dim } = shape;
    let sizes = format!("{micro} x {seq}, {heads} heads ({kv_heads} kv) of {head_dim}");
    let (qkv, out, lse) = (shape.tokens() * shape.row(), shape.tokens() * heads * head_dim, micro * heads * seq);
    // Two products of [seq, head_dim], of which the mask needs half.
    let flops = 2.0 * (micro * heads * head_dim) as f64 * (seq * seq) as f64;
    let tensors = [(qkv, T), (out, T), (lse, Dtype::F32), (out, T), (qkv, T), (shape.scratch(), Dtype::F32)];
    let mut all = Vec::new();
    let name = sizes.clone();
    all.push(lazy(move || {
        let mut room = Room::new(cuda, &tensors);
        let [qkv_, out_, lse_] = [(); 3].map(|()| room.take());
        let run = move |device: &Gpu<Cuda>| {
            let _keep = &room;
            device.attention(&shape, qkv_, out_, lse_);
        };
        let bytes = (2 * (qkv + out) + 4 * lse) as f64;
        Case { name: "attention".into(), sizes: name, flops, bytes, run: Box::new(run) }
    }));
    let bytes = (2 * (2 * qkv + 2 * out) + 4 * lse) as f64;
    // Five products, as everyone counts; with all sums in one order ours does seven.
    for (name, deterministic) in [("attention_backward", true), ("attention_backward/any order", false)] {
        let sizes = sizes.clone();
        all.push(lazy(move || {
            let mut room = Room::new(cuda, &tensors);
            let [qkv_, out_, lse_, dout, dqkv, scratch] = [(); 6].map(|()| room.take());
            let run = move |device: &Gpu<Cuda>| {
                let _keep = &room;
                let device = device.clone().deterministic(deterministic);
                device.attention_backward(&shape, qkv_, out_, lse_, dout, dqkv, scratch);
            };
            Case { name: name.into(), sizes, flops: 2.5 * flops, bytes, run: Box::new(run) }
        }));
    }
    if seq <= 1024 {
        let all_heads = heads;
        let simple = move |kernel: &str, heads: usize, operands: &[View]| {
            let operands = operands.iter().map(|&view| Arg::from(view));
            let numbers = [seq, all_heads, kv_heads, head_dim].map(Arg::from);
            let grid = [seq.div_ceil(4), heads, micro];
            Launch::new(format!("attention_{kernel}_bf16"), grid, 128, operands.chain(numbers).collect::<Vec<_>>())
        };
        let name = sizes.clone();
        all.push(lazy(move || {
            let mut room = Room::new(cuda, &tensors);
            let [qkv_, out_, lse_, dout, dqkv, scratch] = [(); 6].map(|()| room.take());
            let delta = scratch.sub(0..lse);
            let operands = [qkv_, dout, lse_, delta, dqkv];
            let launches = [
                simple("delta", heads, &[out_, dout, delta]),
                simple("simple_key", kv_heads, &operands),
                simple("simple_query", heads, &operands),
            ];
            let run = move |device: &Gpu<Cuda>| {
                let _keep = &room;
                launches.iter().for_each(|launch| device.launcher().launch(launch));
            };
            Case {
                name: "attention_backward/simple".into(),
                sizes: name,
                flops: 2.5 * flops,
                bytes,
                run: Box::new(run),
            }
        }));
        all.push(lazy(move || {
            let mut room = Room::new(cuda, &tensors);
            let launch = simple("simple", heads, &[(); 3].map(|()| room.take()));
            let run = move |device: &Gpu<Cuda>| {
                let _keep = &room;
                device.launcher().launch(&launch);
            };
            let bytes = (2 * (qkv + out) + 4 * lse) as f64;
            Case { name: "attention/simple".into(), sizes, flops, bytes, run: Box::new(run) }
        }));
    }
    all
}

/// Embedding, and loss with its gradient.
fn ends<'a>(cuda: &'a Cuda, tokens: usize, dim: usize, vocab: usize) -> Vec<Lazy<'a>> {
    let rows = tokens.min(2048);
    vec![
        lazy(move || {
            let mut room = Room::new(cuda, &[(vocab * dim, T), (tokens, Dtype::I32), (tokens * dim, T)]);
            let [table, ids, out] = [(); 3].map(|()| room.take());
            let run = move |device: &Gpu<Cuda>| {
                let _keep = &room;
                device.embed(table, ids, out, dim);
            };
            let bytes = (4 * tokens * dim) as f64;
            Case { name: "embed".into(), sizes: format!("{tokens} x {dim}"), flops: 0.0, bytes, run: Box::new(run) }
        }),
        lazy(move || {
            let mut room = Room::new(cuda, &[(tokens * dim, T), (tokens, Dtype::I32), (vocab * dim, Dtype::F32)]);
            let [dout, ids, dtable] = [(); 3].map(|()| room.take());
            let run = move |device: &Gpu<Cuda>| {
                let _keep = &room;
                device.embed_backward(dout, ids, dtable, dim);
            };
            let (bytes, sizes) = ((10 * tokens * dim) as f64, format!("{tokens} x {dim}"));
            Case { name: "embed_backward".into(), sizes, flops: 0.0, bytes, run: Box::new(run) }
        }),
        lazy(move || {
            let tensors = [(rows * vocab, Dtype::F32), (rows, Dtype::I32), (1, Dtype::F64), (rows, Dtype::F32)];
            let mut room = Room::new(cuda, &tensors);
            let [logits, targets, loss, scratch] = [(); 4].map(|()| room.take());
            let logits = Matrix::new(logits, rows, vocab);
            let run = move |device: &Gpu<Cuda>| {
                let _keep = &room;
                device.cross_entropy(logits, targets, 1e-3, loss, scratch, Some(logits));
            };
            let (bytes, sizes) = ((8 * rows * vocab) as f64, format!("{rows} x {vocab}"));
            Case { name: "cross_entropy".into(), sizes, flops: 0.0, bytes, run: Box::new(run) }
        }),
    ]
}

/// Operations on whole shards.
fn flat<'a>(cuda: &'a Cuda, n: usize) -> Vec<Lazy<'a>> {
    let case = move |name: &str, bytes: usize, run: Box<Call>| Case {
        name: name.into(),
        sizes: format!("{n}"),
        flops: 0.0,
        bytes: (n * bytes) as f64,
        run,
    };
    let pair = move |name: &'static str, from: Dtype, to: Dtype, bytes, run: fn(&Gpu<Cuda>, _, _)| {
        lazy(move || {
            let mut room = Room::new(cuda, &[(n, from), (n, to)]);
            let [from, to] = [(); 2].map(|()| room.take());
            let run = move |device: &Gpu<Cuda>| {
                let _keep = &room;
                run(device, from, to);
            };
            case(name, bytes, Box::new(run))
        })
    };
    let f = Dtype::F32;
    vec![
        pair("cast", f, T, 6, |device, from, to| device.cast(from, to)),
        pair("accumulate", T, f, 10, |device, from, to| device.accumulate(from, to)),
        pair("clear", T, f, 4, |device, _, to| device.clear(to)),
        lazy(move || {
            let mut room = Room::new(cuda, &[(n, f), (1, Dtype::F64)]);
            let [x, sum] = [(); 2].map(|()| room.take());
            let run = move |device: &Gpu<Cuda>| {
                let _keep = &room;
                device.add_squares(x, sum);
            };
            case("add_squares", 4, Box::new(run))
        }),
        lazy(move || {
            let d = Dtype::F64;
            let mut room = Room::new(cuda, &[(step::LEN, d), (stats::LEN, d), (n, f), (n, f), (n, f), (n, f), (n, T)]);
            let [step, stats, gradient, master, moment1, moment2, home] = [(); 7].map(|()| room.take());
            let rule = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
            let home = Some(home);
            let all = AdamWStep { rule, decay: true, step, stats, gradient, master, moment1, moment2, home };
            let run = move |device: &Gpu<Cuda>| {
                let _keep = &room;
                device.adamw(&all);
            };
            case("adamw", 30, Box::new(run))
        }),
    ]
}
