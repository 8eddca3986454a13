#!/usr/bin/env python3
"""tawpipe against PyTorch on the same model, batch, dtype and number of threads: ratios within one run.

    python3 benches/compare.py [--torch PYTHON] [--rounds 3] [--only tiny-f32,small-bf16,...] [--out FILE]

Each case runs PyTorch and tawpipe in turn, `--rounds` times, because the speed of a shared machine drifts; a row is the
median of the ratios of neighbours. PyTorch is looked for in --torch (default: .venv-bench/bin/python, then python3).
Throughput is tokens/s over all ranks, memory the peak resident set of one process.
"""
import argparse, json, os, pathlib, shutil, statistics, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
# name: (deck, dtype here, PyTorch's --config, its --dtype, processes, threads)
CASES = {
    "tiny-f32": ("bench-tiny", "f32", "tiny", "f32", 1),
    "tiny-bf16": ("bench-tiny", "bf16", "tiny", "bf16amp", 1),
    "small-f32": ("bench-small", "f32", "small", "f32", 1),
    "small-bf16": ("bench-small", "bf16", "small", "bf16amp", 1),
    "long-f32": ("bench-long", "f32", "long", "f32", 1),
    "long-bf16": ("bench-long", "bf16", "long", "bf16amp", 1),
    "tiny-f32-4ranks": ("bench-tiny", "f32", "tiny", "f32", 4),
    "small-f32-4ranks": ("bench-small", "f32", "small", "f32", 4),
}
MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
       "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}


def run(command, **kw):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return done.stdout


def tawpipe(binary, deck, dtype, ranks, steps, warmup):
    """Median tokens/s of the steps after the warm-up, and the largest peak resident set of a process in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [binary, "train", ROOT / "inputs" / f"{deck}.toml", "--json", "--set", f"run.dtype={dtype}",
                   "--set", f"run.folder={folder}/run", "--set", f"run.steps={steps + warmup}", "--set", "run.threads=1"]
        if ranks > 1:
            micros = f"batch.global={ {'bench-tiny': 16, 'bench-small': 4}[deck] * ranks}"
            command = ["mpirun", "--bind-to", "none", "-n", str(ranks), *command, "--set", "system.name=tawpipe",
                       "--set", "cluster.ranks_per_group=2", "--set", micros]
        out = run(["/usr/bin/env", *[f"{k}={v}" for k, v in MPI.items()], *map(str, command)], cwd=ROOT)
    steps = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    steps = [s for s in steps if "step_s" in s][warmup:]
    return statistics.median(s["tokens_per_s"] for s in steps), max(s["memory_peak"] for s in steps) / 2**20


def torch(python, config, dtype, ranks, accum):
    with tempfile.TemporaryDirectory() as folder:
        args = [HERE / "torch_llama.py", "--config", config, "--dtype", dtype, "--threads", "1", "--out", f"{folder}/r.json"]
        if ranks > 1:
            command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *args, "--mode", "fsdp"]
        else:
            command = [python, *args]
        run(list(map(str, command)), cwd=folder)
        record = json.load(open(f"{folder}/r.json"))[-1]
    return record["tokens_per_s"], max(record["peak_rss_mib"])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--torch", default=None)
    ap.add_argument("--binary", default=ROOT / "target" / "release" / "tawpipe")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--only", default="")
    ap.add_argument("--out", default="")
    a = ap.parse_args()
    python = a.torch or next((p for p in (ROOT / ".venv-bench/bin/python", shutil.which("python3")) if p and os.path.exists(p)), None)
    if subprocess.run([python, "-c", "import torch"], capture_output=True).returncode:
        sys.exit(f"{python} has no torch: python3 -m venv .venv-bench && .venv-bench/bin/pip install torch numpy")
    names = a.only.split(",") if a.only else list(CASES)
    rows = ["| case | tawpipe tokens/s | PyTorch tokens/s | ratio | tawpipe MiB | PyTorch MiB | memory ratio |", "|---|---|---|---|---|---|---|"]
    print("\n".join(rows), flush=True)
    for name in names:
        deck, dtype, config, torch_dtype, ranks = CASES[name]
        steps, warmup = {"tiny": (8, 2), "small": (4, 1), "long": (2, 1)}[config]
        pairs = []
        for _ in range(a.rounds):
            theirs = torch(python, config, torch_dtype, ranks, 0)
            ours = tawpipe(a.binary, deck, dtype, ranks, steps, warmup)
            pairs.append((ours, theirs))
        med = lambda f: statistics.median(map(f, pairs))
        rows.append(f"| {name} | {med(lambda p: p[0][0]):.0f} | {med(lambda p: p[1][0]):.0f} | {med(lambda p: p[0][0] / p[1][0]):.2f} "
                    f"| {med(lambda p: p[0][1]):.0f} | {med(lambda p: p[1][1]):.0f} | {med(lambda p: p[0][1] / p[1][1]):.2f} |")
        print(rows[-1], flush=True)
    if a.out:
        pathlib.Path(a.out).write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
