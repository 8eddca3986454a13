#!/usr/bin/env python3
"""Numerical-parity reference for LLaMA training, from transformers.LlamaForCausalLM in float32,
plus an independent plain float64 implementation of the same run ("float64" in reference.json) as a cross-check and to set tolerances.

  python tests/data/parity/make_parity.py [outdir = this script's folder]
  Needs torch, transformers, numpy. A newer PyTorch may differ in the last bits; tests allow for that.

Per config <name> writes  <out>/<name>/
  init/{config.json,model.safetensors}    HF checkpoint before training (f32)
  final/{config.json,model.safetensors}   HF checkpoint after the 20 AdamW steps (f32)
  tokens.bin (int32 LE) and tokens.npy    fixed stream of 160*64+1 tokens
  init_logits.npy                         f32 [2,64,256] logits of micro-batch 0 at the initial weights
  reference.json                          losses, gradient norms, parameter norms (see "conventions")
Conventions: sample i = tokens[i*seq : i*seq+seq+1]; inputs are its first 64 tokens, targets its last 64 (shift by one).
Micro-batch j of step s = samples (s*4+j)*2, (s*4+j)*2+1. Loss = mean NLL over all tokens of a micro-batch;
step loss = mean of its 4 micro-batch losses at the weights before the update; gradient = mean of the 4 micro-batch gradients.
Clip = torch.nn.utils.clip_grad_norm_(all params, 1.0): g *= min(1, 1/(norm+1e-6)).
AdamW (torch): p *= 1-lr*wd; m,v update; p -= lr * (m/bc1) / (sqrt(v)/sqrt(bc2)+eps). wd=0.1 on every 2-D parameter
(embedding and lm_head included), 0 on RMSNorm weights.
"""
import json, os, random, sys
os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np, torch, transformers
from transformers import LlamaConfig, LlamaForCausalLM
torch.set_num_threads(1); torch.use_deterministic_algorithms(True)
OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
SEQ, MICRO, BATCH, STEPS, VOCAB = 64, 4, 2, 20, 256
LR, BETAS, EPS, WD, CLIP = 1e-3, (0.9, 0.95), 1e-8, 0.1, 1.0
CONFIGS = {"a_mha4": dict(num_hidden_layers=4, num_key_value_heads=4, seed=1), "b_gqa2": dict(num_hidden_layers=6, num_key_value_heads=2, seed=2)}

def tokens(seed):
    """Order-1 Markov chain with 4 successors a token: learnable, so the loss falls below ln(256)."""
    r = random.Random(seed); succ = [[r.randrange(VOCAB) for _ in range(4)] for _ in range(VOCAB)]
    t, out = r.randrange(VOCAB), []
    for _ in range(STEPS * MICRO * BATCH * SEQ + 1):
        out.append(t); t = succ[t][min(3, int(r.expovariate(1.0)))]
    return np.array(out, dtype=np.int32)

def batch(tok, s, j):
    b = np.stack([tok[i * SEQ:i * SEQ + SEQ + 1] for i in ((s * MICRO + j) * BATCH + k for k in range(BATCH))]).astype(np.int64)
    return torch.from_numpy(b[:, :-1].copy()), torch.from_numpy(b[:, 1:].copy())

class Plain(torch.nn.Module):
    """Independent float64 LLaMA with HF parameter names (HF itself keeps RMSNorm and softmax in float32 even in a float64 model)."""
    def __init__(s, hf):
        super().__init__(); s.c = hf.config; s.names = {}
        for n, p in hf.named_parameters():
            k = n.replace(".", "/"); s.register_parameter(k, torch.nn.Parameter(p.detach().double().clone())); s.names[n] = k
    def named_parameters(s, *a, **k): return [(n, s._parameters[v]) for n, v in s.names.items()]
    def forward(s, input_ids, use_cache=False):
        c, W = s.c, (lambda n: s._parameters[s.names[n]]); nh, nkv = c.num_attention_heads, c.num_key_value_heads; hd = c.hidden_size // nh
        x = W("model.embed_tokens.weight")[input_ids]; B, T, D = x.shape
        norm = lambda x, n: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + c.rms_norm_eps) * W(n)
        inv = 10000.0 ** (-torch.arange(0, hd, 2, dtype=torch.float64) / hd); f = torch.outer(torch.arange(T, dtype=torch.float64), inv)
        cos, sin = torch.cat([f, f], -1).cos(), torch.cat([f, f], -1).sin(); mask = torch.full((T, T), float("-inf"), dtype=torch.float64).triu(1)
        rot = lambda z: z * cos + torch.cat([-z[..., hd // 2:], z[..., :hd // 2]], -1) * sin
        for i in range(c.num_hidden_layers):
            L = f"model.layers.{i}."; y = norm(x, L + "input_layernorm.weight")
            heads = lambda p, h: (y @ W(L + f"self_attn.{p}_proj.weight").T).view(B, T, h, hd).transpose(1, 2)
            q, k, v = rot(heads("q", nh)), rot(heads("k", nkv)), heads("v", nkv)
            k, v = (z.repeat_interleave(nh // nkv, 1) for z in (k, v))
            a = torch.softmax(q @ k.transpose(-1, -2) / hd ** 0.5 + mask, -1) @ v
            x = x + a.transpose(1, 2).reshape(B, T, D) @ W(L + "self_attn.o_proj.weight").T
            y = norm(x, L + "post_attention_layernorm.weight"); m = lambda p: y @ W(L + f"mlp.{p}_proj.weight").T
            x = x + (torch.nn.functional.silu(m("gate")) * m("up")) @ W(L + "mlp.down_proj.weight").T
        class O: logits = norm(x, "model.norm.weight") @ W("lm_head.weight").T
        return O

def loss_of(model, x, y):
    lg = model(input_ids=x, use_cache=False).logits
    return torch.nn.functional.cross_entropy(lg.reshape(-1, VOCAB), y.reshape(-1)), lg

def train(model, tok):
    named = list(model.named_parameters()); params = [p for _, p in named]; rec = {}
    opt = torch.optim.AdamW([{"params": [p for p in params if p.dim() == 2], "weight_decay": WD},
                             {"params": [p for p in params if p.dim() != 2], "weight_decay": 0.0}],
                            lr=LR, betas=BETAS, eps=EPS, foreach=False, fused=False)
    with torch.no_grad():
        rec["initial_microbatch_losses"] = [float(loss_of(model, *batch(tok, 0, j))[0]) for j in range(MICRO)]
        logits0 = loss_of(model, *batch(tok, 0, 0))[1].float().numpy().copy()
    rec["initial_param_l2"] = {n: float(p.detach().double().norm()) for n, p in named}
    rec["step_loss"], rec["step_grad_norm_before_clip"] = [], []
    for s in range(STEPS):
        opt.zero_grad(set_to_none=True); tot = 0.0
        for j in range(MICRO):
            l, _ = loss_of(model, *batch(tok, s, j)); (l / MICRO).backward(); tot += float(l.detach()) / MICRO
        if s == 0:
            rec["step1_grad_l2"] = {n: float(p.grad.double().norm()) for n, p in named}
            rec["step1_grad_sum"] = {n: float(p.grad.double().sum()) for n, p in named}
        gn = float(torch.nn.utils.clip_grad_norm_(params, CLIP, foreach=False)); opt.step()
        rec["step_loss"].append(tot); rec["step_grad_norm_before_clip"].append(gn)
        if s == 0: rec["after_step1_param_l2"] = {n: float(p.detach().double().norm()) for n, p in named}
    rec["final_param_l2"] = {n: float(p.detach().double().norm()) for n, p in named}
    with torch.no_grad():
        rec["final_microbatch_losses_on_step1_data"] = [float(loss_of(model, *batch(tok, 0, j))[0]) for j in range(MICRO)]
    return rec, logits0

for name, c in CONFIGS.items():
    d = os.path.join(OUT, name); os.makedirs(d, exist_ok=True)
    cfg = LlamaConfig(vocab_size=VOCAB, hidden_size=64, intermediate_size=176, num_hidden_layers=c["num_hidden_layers"],
                      num_attention_heads=4, num_key_value_heads=c["num_key_value_heads"], max_position_embeddings=SEQ, rms_norm_eps=1e-5,
                      hidden_act="silu", tie_word_embeddings=False, attention_bias=False, mlp_bias=False, attention_dropout=0.0,
                      initializer_range=0.02, bos_token_id=1, eos_token_id=2, pad_token_id=None)
    cfg._attn_implementation = "eager"
    torch.manual_seed(c["seed"]); model = LlamaForCausalLM(cfg).float().train()
    g = torch.Generator().manual_seed(100 + c["seed"])          # RMSNorm weights off 1.0, so that parity covers them
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1: p.add_(0.1 * torch.randn(p.shape, generator=g))
    model.save_pretrained(os.path.join(d, "init"), safe_serialization=True)
    tok = tokens(c["seed"]); tok.tofile(os.path.join(d, "tokens.bin")); np.save(os.path.join(d, "tokens.npy"), tok)
    m64 = Plain(model)
    rec, lg = train(model, tok); np.save(os.path.join(d, "init_logits.npy"), lg)
    model.save_pretrained(os.path.join(d, "final"), safe_serialization=True)
    r64, _ = train(m64, tok)
    ref = dict(conventions=__doc__, torch=torch.__version__, transformers=transformers.__version__, seed=c["seed"], seq=SEQ, micro_batches=MICRO,
               batch=BATCH, steps=STEPS, lr=LR, betas=BETAS, eps=EPS, weight_decay=WD, grad_clip=CLIP, n_params=sum(p.numel() for p in model.parameters()),
               param_shapes={n: list(p.shape) for n, p in model.named_parameters()}, float32=rec, float64=r64)
    dl = [abs(a - b) for a, b in zip(rec["step_loss"], r64["step_loss"])]
    rel = lambda k: max(abs(rec[k][n] - r64[k][n]) / abs(r64[k][n]) for n in rec[k])
    ref["float32_vs_float64"] = dict(max_abs_step_loss=max(dl), step_loss_abs=dl, max_rel_step1_grad_l2=rel("step1_grad_l2"), max_rel_final_param_l2=rel("final_param_l2"))
    json.dump(ref, open(os.path.join(d, "reference.json"), "w"), indent=1)
    print(name, "params", ref["n_params"], "loss", rec["step_loss"][0], "->", rec["step_loss"][-1], "gradnorm", rec["step_grad_norm_before_clip"][0], ref["float32_vs_float64"]["max_abs_step_loss"], rel("step1_grad_l2"), rel("final_param_l2"))
