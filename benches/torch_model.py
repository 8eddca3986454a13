"""The LLaMA that PyTorch trains in our comparisons: RMSNorm, RoPE, causal SDPA, SwiGLU, untied head, no biases; as Hugging
Face's LlamaForCausalLM computes it. Weights are drawn anew; speed does not depend on them.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

# Shapes and batches of shared comparisons: `accum` micro-batches of `batch` sequences a rank and step; ckpt = whether
# blocks are recomputed in the backward.
CONFIGS = {
    "tiny": dict(dim=256, layers=8, heads=8, ffn=688, vocab=512, seq=256, batch=8, ckpt=0, accum=2, steps=10, warmup=3),
    "tiny4k": dict(dim=256, layers=8, heads=8, ffn=688, vocab=4096, seq=256, batch=8, ckpt=0, accum=2, steps=10, warmup=3),
    "small": dict(dim=512, layers=8, heads=8, ffn=1376, vocab=32000, seq=1024, batch=2, ckpt=0, accum=2, steps=4, warmup=1),
    "long": dict(dim=512, layers=8, heads=8, ffn=1376, vocab=32000, seq=8192, batch=1, ckpt=1, accum=1, steps=2, warmup=1),
}


class RMSNorm(nn.Module):
    def __init__(self, dim, eps=1e-5):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


def rope_tables(seq, head_dim, theta=10000.0):
    """Cosines and sines, [seq, head_dim] each, in the rotate-half convention."""
    inverse = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(seq, dtype=torch.float32), inverse)
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        dim, ffn = c["dim"], c["ffn"]
        self.heads, self.head_dim = c["heads"], dim // c["heads"]
        self.n1, self.n2 = RMSNorm(dim), RMSNorm(dim)
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.q, self.k, self.v, self.o = (linear(dim, dim) for _ in range(4))
        self.gate, self.up, self.down = linear(dim, ffn), linear(dim, ffn), linear(ffn, dim)

    def forward(self, x, cos, sin):
        B, T, D = x.shape
        y = self.n1(x)
        q, k, v = (m(y).view(B, T, self.heads, self.head_dim).transpose(1, 2) for m in (self.q, self.k, self.v))
        q, k = rope(q, cos, sin), rope(k, cos, sin)
        a = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        x = x + self.o(a.transpose(1, 2).reshape(B, T, D))
        y = self.n2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.emb = nn.Embedding(c["vocab"], c["dim"])
        self.layers = nn.ModuleList(Block(c) for _ in range(c["layers"]))
        self.norm, self.head = RMSNorm(c["dim"]), nn.Linear(c["dim"], c["vocab"], bias=False)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, 0, 0.02)
        cos, sin = rope_tables(c["seq"], c["dim"] // c["heads"])
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x, targets):
        h = self.emb(x)
        cos, sin = self.cos.to(h.dtype), self.sin.to(h.dtype)
        for block in self.layers:
            h = checkpoint(block, h, cos, sin, use_reentrant=False) if self.c["ckpt"] else block(h, cos, sin)
        return F.cross_entropy(self.head(self.norm(h)).float().view(-1, self.c["vocab"]), targets.reshape(-1))


def decayed(parameters):
    """AdamW's groups: matrices decay, vectors do not."""
    parameters = list(parameters)
    matrices = [p for p in parameters if p.dim() == 2]
    vectors = [p for p in parameters if p.dim() != 2]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
