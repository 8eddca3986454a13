#!/usr/bin/env python3
"""The tables of a result folder: what was found right, what was measured, and the gap to each target.

    python3 benches/gpu/summary.py FOLDER        # anew, of results from several calls: their archives unpacked into one folder
"""

import json
import pathlib
import sys

import models
from results import FAILED, GOOD, NOT_RUN, REFUSED, TOO_LARGE

# Dense bf16 peaks, TFLOP/s.
PEAKS = {"h100-nvl": 835, "h100-pcie": 756, "h100": 989, "h200": 989, "a100": 312}
# FlashAttention-2's and FlashAttention-3's published rates at heads of 128 (forward, backward; longest sequence).
FLASH = {"attention": (370, 648), "attention_backward": (322, 561), "attention_backward/any order": (322, 561)}
# llmq's share of the peak at S = 1k.
MFU = {"0.5b": 47, "1.5b": 57, "3b": 57, "7b": 57}

PARTS = {
    "a": "(a) Kernels against the CPU device",
    "b": "(b) 20 steps against PyTorch's losses",
    "c": "(c) Several ranks on this GPU against one rank",
    "d": "(d) Times of kernels",
    "e": "(e) Whole models",
}


def results(folder, prefix=""):
    """Name and result of each step that has one, in the order in which they were taken."""
    paths = sorted(pathlib.Path(folder).glob(f"{prefix}*.json"), key=lambda path: path.stat().st_mtime_ns)
    for path in paths:
        yield path.stem, json.loads(path.read_text())


class Count(dict):
    """How many steps have each verdict."""

    def __str__(self):
        return ", ".join(f"{number} {verdict}" for verdict, number in self.items() if number) or "no steps"


def count(folder, prefix=""):
    verdicts = [r["verdict"] for _, r in results(folder, prefix)]
    return Count({verdict: verdicts.count(verdict) for verdict in (GOOD, REFUSED, TOO_LARGE, NOT_RUN, FAILED)})


def cell(value):
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "/").replace("\n", " ")


def row(*cells):
    return "| " + " | ".join(map(cell, cells)) + " |"


def table(*columns):
    return [row(*columns), "|" + "---|" * len(columns)]


def overview(folder):
    """A line for each part, then every step that is not simply good, with its reason."""
    yield "## Verdicts\n"
    yield from table("part", "steps")
    for part, title in PARTS.items():
        yield row(title, count(folder, f"{part}-"))
    others = [(name, r) for name, r in results(folder) if r["verdict"] != GOOD]
    if others:
        yield ""
        yield from table("step", "verdict", "why")
        for name, r in others:
            yield row(name, r["verdict"], r.get("why", "")[:300])


def checks(folder):
    """Every step of (a) to (c)."""
    yield "\n## Right\n"
    yield "Of whole runs: the largest relative difference of a loss from what it should be, and what rounding allows.\n"
    yield from table("step", "verdict", "passed", "difference", "allowed", "seconds")
    for part in "abc":
        for name, r in results(folder, f"{part}-"):
            yield row(name, r["verdict"], r.get("passed"), r.get("worst"), r.get("tolerance"), r["step_seconds"])


def kernels(folder):
    ours = {(r["kernel"], r["sizes"]): r for _, all in results(folder, "d-kernels") for r in all.get("rows", []) if "kernel" in r}
    theirs = {(r["kernel"], r["sizes"]): r for _, all in results(folder, "d-torch") for r in all.get("rows", []) if "seconds" in r}
    if not ours:
        return
    copy = max((r["gbps"] for (k, _), r in ours.items() if k == "copy"), default=0) or float("nan")
    matmul = max((r["tflops"] for (k, _), r in ours.items() if k == "matmul"), default=0) or float("nan")
    yield "\n## Kernels\n"
    yield f"Median times of single calls. Ceilings of this run: a copy reaches {cell(copy)} GB/s, a matrix product {cell(matmul)} TFLOP/s."
    yield "Bytes are counted once for each operand. Behind a slash in a name: an earlier generation of the kernel. FA2, FA3: the"
    yield "published rates of FlashAttention, and our part of them.\n"
    yield from table("kernel", "sizes", "µs", "TFLOP/s", "GB/s", "part of the ceiling", "PyTorch, µs", "PyTorch / ours", "targets")
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
    yield "\n## Whole models\n"
    yield "Training, tokens a second; in any order: with `run.deterministic = false`, as PyTorch's attention adds up. Compiled PyTorch"
    yield "does our arithmetic (f32 weights, autocast to bf16); the other keeps everything in bf16. MFU against"
    yield f"{f'{peak} TFLOP/s' if peak else 'a peak that is not known: none'}, the products of attention counted by half (causal) or in full.\n"
    yield from table("model", "S", "micro-batch", "recompute", "tokens/s", "in any order", "MFU causal %", "MFU full %",
                     "compiled PyTorch", "ours / it", "PyTorch, all bf16", "ours / it", "target", "met")
    for (model, seq), who in sorted(found.items()):
        mine = who.get("tawpipe", {})
        case = [model, seq, mine.get("micro"), "yes" if mine.get("recompute") else "no"]
        free, torch, pure = (who.get(w, {}).get("tokens_per_s") for w in ("tawpipe-any", "torch", "torch-pure"))
        wanted = f"MFU {MFU[model]} %; 1.1 x" if seq == 1024 and model in MFU else "1.1 x"
        if not mine.get("tokens_per_s"):
            yield row(*case, mine.get("verdict", NOT_RUN), free, None, None, torch, None, pure, None, wanted, None)
            continue
        rate = mine["tokens_per_s"]
        mfu = lambda causal: 100e-12 * rate * models.flops_per_token(mine["shape"], seq, causal) / peak if peak else None
        ratio, full = rate / torch if torch else None, mfu(False)
        # Where one half of the target was not measured nobody can say.
        share = None if seq != 1024 or model not in MFU else full is not None and full >= MFU[model]
        met = "not measured" if ratio is None or (seq == 1024 and full is None) else "yes" if ratio >= 1.1 and share is not False else "no"
        yield row(*case, rate, free, mfu(True), full, torch, ratio, pure, rate / pure if pure else None, wanted, met)


def profiles(folder):
    """Where the captures of Nsight Compute are."""
    for name, r in results(folder, "d-profile"):
        if r["verdict"] == GOOD:
            yield f"\nProfile of attention: `{r['details']}`, and `{r['report']}` for Nsight Compute."


def cards(folder):
    """The GPUs that were used; and which steps ran on which, where they are several: their times do not compare."""
    used = {}
    for name, r in results(folder):
        used.setdefault((r.get("gpu", "a GPU"), r.get("driver", "")), []).append(name)
    return used


def text(folder):
    machine = next((r for _, r in results(folder, "machine")), {})
    used = cards(folder) or {("a GPU", ""): []}
    gpu = machine.get("gpu") or next(iter(used))[0]
    version = (machine.get("torch") or [""])[0]
    lines = [f"# {gpu}", "", f"Revision {machine.get('revision') or 'unknown'}; driver {machine.get('driver') or 'none'}; "
             f"PyTorch {version or 'none'}.", "", f"    {machine.get('command')}", ""]
    if gpu == "emulated":
        lines += ["**Emulated: this shows that every step works. Times, and all that is made of them, mean nothing.**", ""]
    if len(used) > 1:
        lines += ["**Steps ran on different GPUs or drivers; their times do not compare.**", ""]
        lines += [f"- {' '.join(filter(None, card))}: {', '.join(names)}" for card, names in used.items()] + [""]
    lines += [*overview(folder), *checks(folder), *kernels(folder), *profiles(folder), *whole(folder, gpu)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    place = pathlib.Path(sys.argv[1])
    (place / "summary.md").write_text(text(place))
    print(f"{place}/summary.md: {count(place)}")
