"""Shapes of the models that are measured, and how much of one fits into a GPU."""

# LLaMA's family; 7b is LLaMA 2's.
SHAPES = {
    "0.5b": dict(dim=1280, layers=20, heads=20, ffn=3456, vocab=32000),
    "1.5b": dict(dim=2048, layers=26, heads=16, ffn=5632, vocab=32000),
    "3b": dict(dim=3072, layers=24, heads=24, ffn=8192, vocab=32000),
    "7b": dict(dim=4096, layers=32, heads=32, ffn=11008, vocab=32000),
}
NAMES = list(SHAPES)
LENGTHS = [1024, 4096, 16384, 32768]
TINY = dict(dim=64, layers=2, heads=1, ffn=96, vocab=300)

# Bytes a parameter: f32 master, gradient and two moments, weights in bf16.
STATE = 18


def parameters(shape):
    """All of them, and those outside of the embedding, which no product reads."""
    dim, ffn, vocab = shape["dim"], shape["ffn"], shape["vocab"]
    block = 4 * dim * dim + 3 * dim * ffn + 2 * dim
    body = shape["layers"] * block + dim + vocab * dim
    return body + vocab * dim, body


def flops_per_token(shape, seq, causal):
    """Of training, without what is recomputed; the products of attention counted by half or in full."""
    factor = 6 if causal else 12
    return 6 * parameters(shape)[1] + factor * shape["layers"] * shape["dim"] * seq


def case(name, seq, memory, tiny):
    """Length, batch and recomputation for a GPU with so many bytes; None if the state alone does not fit."""
    if tiny:
        return dict(shape=TINY, seq=32, micro=2, accum=2, recompute=False)
    shape = SHAPES[name]
    state = STATE * parameters(shape)[0]
    left = 0.92 * memory - state - 3e9
    micro = max(1, 16384 // seq)
    while micro >= 1:
        tokens = micro * seq
        # Of a block: inputs, normalised inputs, q k v, attention's result, gate, up and their product, in bf16.
        kept = tokens * shape["layers"] * (14 * shape["dim"] + 6 * shape["ffn"])
        inputs = tokens * shape["layers"] * 2 * shape["dim"] + kept / shape["layers"]
        if kept < left:
            return dict(shape=shape, seq=seq, micro=micro, accum=4, recompute=False)
        if inputs < left and micro * seq <= max(8192, seq):
            return dict(shape=shape, seq=seq, micro=micro, accum=4, recompute=True)
        micro //= 2
    return None
