"""The table of a result folder: what was measured, and the gap to each target."""

import json
import pathlib

import models

# Dense bf16 peaks, TFLOP/s.
PEAKS = {"h100-nvl": 835, "h100-pcie": 756, "h100": 989, "h200": 989, "a100": 312}
# FlashAttention-2's and FlashAttention-3's published rates at heads of 128 (forward, backward; longest sequence).
FLASH = {"attention": (370, 648), "attention_backward": (322, 561)}
# llmq's share of the peak at S = 1k.
MFU = {"0.5b": 47, "1.5b": 57, "3b": 57, "7b": 57}


def tail(result):
    """The last words of a command that failed."""
    lines = (result.get("out", "") + "\n" + result.get("err", "")).strip().splitlines()
    return "" if result["code"] == 0 else f"exit {result['code']}: " + " | ".join(lines[-6:])[-1500:]


def results(folder, prefix):
    for path in sorted(pathlib.Path(folder).glob(f"{prefix}*.json")):
        yield path.stem, json.loads(path.read_text())


def row(*cells):
    return "| " + " | ".join("" if c is None else f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells) + " |"


def checks(folder):
    yield "## Right\n"
    yield row("step", "good", "worst relative difference", "seconds", "")
    yield "|---|---|---|---|---|"
    for part in "abc":
        for name, r in results(folder, f"{part}-"):
            note = "refused by the plan" if r.get("refused") else r.get("why", "")[:160].replace("|", "/") if not r["ok"] else ""
            yield row(name, "yes" if r["ok"] else "NO", r.get("worst"), r.get("step_seconds"), note)


def kernels(folder):
    ours = {(r["kernel"], r["sizes"]): r for _, all in results(folder, "d-kernels") for r in all["rows"] if "kernel" in r}
    theirs = {(r["kernel"], r["sizes"]): r for _, all in results(folder, "d-torch") for r in all["rows"] if "seconds" in r}
    if not ours:
        return
    copy = max((r["gbps"] for (k, _), r in ours.items() if k == "copy"), default=0) or float("nan")
    matmul = max((r["tflops"] for (k, _), r in ours.items() if k == "matmul"), default=0) or float("nan")
    yield f"\n## Kernels\n\nCeilings of this run: copy {copy:.0f} GB/s, matrix product {matmul:.0f} TFLOP/s.\n"
    yield row("kernel", "sizes", "µs", "TFLOP/s", "GB/s", "of the ceiling", "PyTorch µs", "PyTorch's time / ours", "target")
    yield "|---|---|---|---|---|---|---|---|---|"
    for (kernel, sizes), r in ours.items():
        other = theirs.get((kernel, sizes))
        bound = r["tflops"] / matmul if r["bound"] == "products" else r["gbps"] / copy
        target = None
        if kernel in FLASH and sizes.endswith("of 128"):
            second, third = FLASH[kernel]
            target = f"FA2 {second}: {r['tflops'] / second:.2f}; FA3 {third}: {r['tflops'] / third:.2f}"
        yield row(kernel, sizes, 1e6 * r["seconds"], r["tflops"] or None, r["gbps"], bound, 1e6 * other["seconds"] if other else None,
                  other["seconds"] / r["seconds"] if other else None, target)


def whole(folder, gpu):
    peak = next((p for name, p in PEAKS.items() if gpu.startswith(name)), None)
    found = {}
    for name, r in results(folder, "e-"):
        _, model, seq, who = name.split("-", 3)
        found.setdefault((model, int(seq)), {})[who] = r
    if not found:
        return
    yield f"\n## Whole models\n\nPeak {peak or 'unknown'} TFLOP/s; MFU with attention counted by half (causal) and in full.\n"
    yield row("model", "S", "tokens/s", "MFU causal %", "MFU full %", "compiled PyTorch", "ratio", "PyTorch, all bf16", "ratio", "target", "met")
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for (model, seq), who in sorted(found.items()):
        mine = who.get("tawpipe", {})
        if not mine.get("tokens_per_s"):
            yield row(model, seq, "does not fit" if mine.get("ok") else mine.get("why", "not run")[:80], *[None] * 8)
            continue
        rate = mine["tokens_per_s"]
        mfu = lambda causal: 100e-12 * rate * models.flops_per_token(mine["shape"], seq, causal) / peak if peak else None
        torch, pure = (who.get(w, {}).get("tokens_per_s") for w in ("torch", "torch-pure"))
        ratio, full = rate / torch if torch else None, mfu(False)
        wanted = f"MFU {MFU[model]} %; 1.1 x" if seq == 1024 and model in MFU else "1.1 x"
        met = ratio is not None and ratio >= 1.1 and (seq != 1024 or full is None or full >= MFU.get(model, 0))
        yield row(model, seq, rate, mfu(True), full, torch, ratio, pure, rate / pure if pure else None, wanted, "yes" if met else "no")


def text(folder):
    machine = next((r for _, r in results(folder, "machine")), {})
    lines = [f"# {machine.get('gpu', 'a GPU')}", "", f"Revision {machine.get('revision') or 'unknown'}, PyTorch {machine.get('torch')}.",
             f"`{machine.get('command')}`", ""]
    lines += [*checks(folder), *kernels(folder), *whole(folder, machine.get("gpu", ""))]
    return "\n".join(lines) + "\n"
