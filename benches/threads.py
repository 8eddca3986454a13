#!/usr/bin/env python3
"""How much faster one rank is with several threads than with one, and PyTorch beside it: ratios within one run.

    python3 benches/threads.py [--binary FILE] [--threads 2] [--rounds 5] [--only tiny-f32,small-bf16-onednn,…]
                               [--onednn FILE] [--torch PYTHON] [--out FILE]

Each round runs one thread and then several; a row is the median of the rounds' ratios. Only an otherwise idle machine says
anything about threads: the load of its cores by others is measured during the run and printed. bf16 is measured by the
program's own code and by oneDNN, which is looked for as `libdnnl` if --onednn does not name it. PyTorch is looked for in
--torch (default: .venv-bench/bin/python, then python3), and left out where there is none.
"""
import argparse, ctypes.util, glob, json, os, pathlib, shutil, statistics, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
# Steps that count, and those before them.
STEPS = {"tiny": (8, 2), "small": (3, 1)}
CASES = [f"{model}-{kind}" for model in STEPS for kind in ("f32", "bf16", "bf16-onednn", "f32-torch", "bf16-torch")]


def ticks():
    """Ticks in which the machine's cores were busy."""
    numbers = [int(word) for word in open("/proc/stat").readline().split()[1:]]
    return sum(numbers[:8]) - numbers[3] - numbers[4]


def run(command, **kw):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return done.stdout


def tawpipe(a, model, dtype, library, threads):
    steps, warmup = STEPS[model]
    with tempfile.TemporaryDirectory() as folder:
        command = [a.binary, "train", ROOT / "inputs" / f"bench-{model}.toml", "--json"]
        for key, value in {"dtype": dtype, "folder": f"{folder}/run", "steps": steps + warmup, "threads": threads, "device": "cpu",
                           "validate_every": 0, "checkpoint_every": 0}.items():
            command += ["--set", f"run.{key}={value}"]
        out = run(command, cwd=ROOT, env={**os.environ, "TAWPIPE_ONEDNN": library})
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return statistics.median(row["tokens_per_s"] for row in [row for row in rows if "step_s" in row][warmup:])


def torch(a, model, dtype, threads):
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/r.json"
        run([a.torch, HERE / "torch_llama.py", "--config", model, "--dtype", {"bf16": "bf16amp"}.get(dtype, dtype),
             "--threads", threads, "--steps", STEPS[model][0], "--out", out], cwd=folder)
        return json.load(open(out))[-1]["tokens_per_s"]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--binary", default=ROOT / "target" / "release" / "tawpipe", type=os.path.abspath)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--only", default=",".join(CASES))
    ap.add_argument("--onednn", default=ctypes.util.find_library("dnnl") or next(iter(glob.glob("/usr/lib/*/libdnnl.so.[0-9]")), None))
    ap.add_argument("--torch", default=None)
    ap.add_argument("--out", default="")
    a = ap.parse_args()
    pythons = [a.torch] if a.torch else [ROOT / ".venv-bench/bin/python", shutil.which("python3")]
    has_torch = lambda python: python and os.path.exists(python) and not subprocess.run([python, "-c", "import torch"], capture_output=True).returncode
    a.torch = next(filter(has_torch, pythons), None)
    rows = [f"| case | 1 thread, tokens/s | {a.threads} threads | ratio | least and most | cores busy with others |", "|---|---|---|---|---|---|"]
    print("\n".join(rows), flush=True)
    for name in a.only.split(","):
        model, dtype, *by = name.split("-")
        if (by == ["torch"] and not a.torch) or (by == ["onednn"] and not a.onednn):
            print(f"{name}: left out, there is no {by[0]}", file=sys.stderr)
            continue
        measure = (lambda threads: torch(a, model, dtype, threads)) if by == ["torch"] else \
            (lambda threads: tawpipe(a, model, dtype, a.onednn if by else "off", threads))
        start, pairs = os.times(), []
        before = ticks()
        for _ in range(a.rounds):
            pairs.append((measure(1), measure(a.threads)))
        end = os.times()
        own = end.children_user + end.children_system - start.children_user - start.children_system
        others = ((ticks() - before) / os.sysconf("SC_CLK_TCK") - own) / (end.elapsed - start.elapsed)
        ratios = sorted(b / o for o, b in pairs)
        one, more = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        rows.append(f"| {name} | {one:.0f} | {more:.0f} | {statistics.median(ratios):.2f} | {ratios[0]:.2f} to {ratios[-1]:.2f} | {max(others, 0):.1f} |")
        print(rows[-1], flush=True)
    if a.out:
        pathlib.Path(a.out).write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
