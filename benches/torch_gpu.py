#!/usr/bin/env python3
"""PyTorch on one GPU, for comparison in the same run: its kernels, and training of a LLaMA.

    python torch_gpu.py kernels [--tiny] [--part attention | rows]
    python torch_gpu.py train --shape '{"dim": 1280, …}' --seq 4096 --micro 4 --accum 2 [--eager] [--pure] [--recompute]

One JSON object a line on standard output. `kernels` uses the names and sizes of `benches/kernels`; its part `attention`, with
the ceilings, compiles nothing and ends in seconds, `rows` is the rest. `train` is torch.compile,
flash SDPA, autocast to bf16 over f32 weights and fused AdamW, which is tawpipe's own arithmetic; `--pure` keeps weights and
optimizer state in bf16, which is faster and learns worse. `--device cpu --tiny` tries this program without a GPU; `--eager`
as well, where there is no C++ compiler.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time

import torch
import torch._dynamo
import torch._functorch.config
import torch.nn.functional as F
from torch_model import Llama, decayed


class Clock:
    """Times calls by the device's own events, or the host's clock without a GPU."""

    def __init__(self, device):
        self.cuda = device == "cuda"

    def times(self, call, repeat):
        for _ in range(max(1, repeat // 5)):
            call()
        if not self.cuda:
            seconds = []
            for _ in range(repeat):
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
            return seconds
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeat)]
        for start, end in pairs:
            start.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) * 1e-3 for start, end in pairs]


def say(**record):
    print(json.dumps(record), flush=True)


def flash(device):
    """Flash attention and nothing slower instead: on a GPU no fallback goes unnoticed. Good for one `with`."""
    backends = torch.nn.attention.SDPBackend
    return torch.nn.attention.sdpa_kernel([backends.FLASH_ATTENTION] + ([] if device == "cuda" else [backends.MATH]))


def compile(function, eager):
    """Compiled for each size anew, as for a model of that size: one kernel for all of them would be slower."""
    return function if eager else torch.compile(function, dynamic=False)


def kernels(a):
    device, clock, repeat = a.device, Clock(a.device), 3 if a.tiny else 20
    bf16 = dict(device=device, dtype=torch.bfloat16)
    tokens, flat, side, vocab = (24, 5000, 64, 640) if a.tiny else (8192, 256 << 20, 8192, 32000)
    widths = [(64, 96)] if a.tiny else [(1024, 4096), (2048, 5632), (3072, 8192), (4096, 14336)]
    shapes = [(1, 40, 2, 1, 64), (1, 40, 1, 1, 128)] if a.tiny else [
        (16, 1024, 16, 16, 64), (4, 4096, 16, 16, 64), (1, 16384, 16, 16, 64), (16, 1024, 16, 16, 128),
        (4, 4096, 16, 16, 128), (4, 4096, 32, 8, 128), (1, 16384, 16, 16, 128), (1, 32768, 16, 16, 128)]
    # A backward that is timed again and again keeps its operands.
    if hasattr(torch._functorch.config, "donated_buffer"):
        torch._functorch.config.donated_buffer = False

    def case(kernel, sizes, call, flops=0.0, bytes=0.0):
        try:
            seconds = statistics.median(clock.times(call, repeat))
        except Exception as error:  # a case that PyTorch cannot do is a fact, not the end
            say(kernel=kernel, sizes=sizes, error=str(error)[:300])
            return
        say(kernel=kernel, sizes=sizes, seconds=seconds, tflops=flops / seconds * 1e-12, gbps=bytes / seconds * 1e-9)

    if a.part != "rows":
        ceilings(case, flat, side, device, bf16)
        attention(case, shapes, device, bf16)
    if a.part != "attention":
        rows(case, tokens, widths, vocab, flat, device, bf16, lambda function: compile(function, a.eager))


def ceilings(case, flat, side, device, bf16):
    """What no kernel is faster than: a copy, and a large matrix product."""
    x = torch.randint(0, 255, (4 * flat,), dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    case("copy", f"{4 * flat} bytes", lambda: y.copy_(x), bytes=8.0 * flat)
    del x, y
    m = torch.randn(side, side, **bf16)
    n = torch.randn(side, side, **bf16)
    case("matmul", f"{side} x {side} x {side}", lambda: m @ n.T, flops=2.0 * side**3)


def attention(case, shapes, device, bf16):
    """Causal attention and its backward."""
    for micro, seq, heads, kv, head_dim in shapes:
        sizes = f"{micro} x {seq}, {heads} heads ({kv} kv) of {head_dim}"
        flops = 2.0 * micro * heads * head_dim * seq * seq
        q = torch.randn(micro, heads, seq, head_dim, **bf16).requires_grad_()
        k, v = (torch.randn(micro, kv, seq, head_dim, **bf16).requires_grad_() for _ in range(2))
        with flash(device):
            attend = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv)
            with torch.no_grad():
                case("attention", sizes, attend, flops=flops)
            out = attend()
            grad = torch.randn_like(out)
            case("attention_backward", sizes, lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True),
                 flops=2.5 * flops)
        del q, k, v, out, grad


def rows(case, tokens, widths, vocab, flat, device, bf16, compiled):
    """Operations on each row of activations, the loss, and the optimizer."""
    for dim, ffn in widths:
        torch._dynamo.reset()
        x, old, w = torch.randn(tokens, dim, **bf16), torch.randn(tokens, dim, **bf16), torch.randn(dim, **bf16)
        norm = compiled(lambda x, old, w: (lambda s: (s, F.rms_norm(s, (dim,), w, 1e-5)))(x + old))
        case("add_rmsnorm", f"{tokens} x {dim}", lambda: norm(x, old, w), bytes=8.0 * tokens * dim)
        leaf, weight = x.clone().requires_grad_(), w.clone().requires_grad_()
        out = compiled(lambda x, w: F.rms_norm(x, (dim,), w, 1e-5))(leaf, weight)
        case("rmsnorm_backward", f"{tokens} x {dim}",
             lambda: torch.autograd.grad(out, (leaf, weight), old, retain_graph=True), bytes=8.0 * tokens * dim)
        gate_up = torch.randn(tokens, 2 * ffn, **bf16)
        swiglu = compiled(lambda g: F.silu(g[:, :ffn]) * g[:, ffn:])
        case("swiglu", f"{tokens} x {ffn}", lambda: swiglu(gate_up), bytes=6.0 * tokens * ffn)
    few = min(tokens, 2048)
    logits = torch.randn(few, vocab, device=device).requires_grad_()
    targets = torch.randint(0, vocab, (few,), device=device)
    loss = compiled(lambda logits: F.cross_entropy(logits, targets))
    case("cross_entropy", f"{few} x {vocab}", lambda: torch.autograd.grad(loss(logits), logits), bytes=8.0 * few * vocab)
    weight = torch.nn.Parameter(torch.randn(flat, device=device))
    weight.grad = torch.randn(flat, device=device)
    adamw = torch.optim.AdamW([weight], lr=1e-4, fused=True)
    case("adamw", f"{flat}", adamw.step, bytes=28.0 * flat)


def train(a):
    device, shape = a.device, json.loads(a.shape)
    torch.manual_seed(0)
    c = dict(shape, seq=a.seq, batch=a.micro, ckpt=int(a.recompute))
    # Initial weights are drawn where they stay: a processor takes long for so many.
    with torch.device(device):
        model = Llama(c)
    count = sum(p.numel() for p in model.parameters())
    if a.pure:
        model = model.to(torch.bfloat16)
    opt = torch.optim.AdamW(decayed(model.parameters()), lr=3e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
    run = compile(model, a.eager)
    data = torch.randint(0, c["vocab"], (a.micro, a.seq + 1), device=device)
    amp = contextlib.nullcontext() if a.pure else torch.autocast(device, torch.bfloat16)

    def step():
        for _ in range(a.accum):
            with amp, flash(device):
                loss = run(data[:, :-1], data[:, 1:])
            (loss / a.accum).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)

    for _ in range(a.warmup):
        step()
    seconds = statistics.median(Clock(device).times(step, a.steps))
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    say(params=count, seq=a.seq, micro=a.micro, accum=a.accum, pure=a.pure, compiled=not a.eager, recompute=a.recompute,
        step_s=seconds, tokens_per_s=a.micro * a.seq * a.accum / seconds, memory_peak=peak)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=["kernels", "train"])
    ap.add_argument("--device", default="cuda")
    ap.add_argument("--tiny", action="store_true")
    ap.add_argument("--part", default="", choices=["", "attention", "rows"])
    ap.add_argument("--eager", action="store_true", help="without torch.compile")
    ap.add_argument("--pure", action="store_true")
    ap.add_argument("--recompute", action="store_true")
    ap.add_argument("--shape")
    ap.add_argument("--seq", type=int, default=1024)
    ap.add_argument("--micro", type=int, default=1)
    ap.add_argument("--accum", type=int, default=2)
    ap.add_argument("--steps", type=int, default=5)
    ap.add_argument("--warmup", type=int, default=2)
    a = ap.parse_args()
    say(torch=torch.__version__, cuda=torch.version.cuda,
        gpu=torch.cuda.get_device_name() if a.device == "cuda" else "none")
    kernels(a) if a.what == "kernels" else train(a)


if __name__ == "__main__":
    sys.exit(main())
