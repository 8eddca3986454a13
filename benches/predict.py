#!/usr/bin/env python3
"""Measured and simulated step times of every system on 4 ranks (2 groups of 2) of this machine.

    benches/predict.py [--tawpipe target/release/tawpipe] [--steps 6] [--dim 256]

Calibrates before and after every run, because other work on the machine changes its speed, and simulates with the mean
of both. Prints the table of docs/simulator.md.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

SYSTEMS = {
    "ddp": {},
    "ddp zero1": {"name": "ddp", "zero1": True},
    "fsdp": {},
    "hsdp": {},
    "gpipe": {},
    "1f1b": {},
    "1f1b-interleaved": {},
    "zb-h1": {},
    "zb-h2": {},
    "zb-1p": {},
    "zb-2p": {},
    "zb-v": {},
    "weipipe-naive": {},
    "weipipe": {},
    "tawpipe": {},
    "tawpipe paper": {"name": "tawpipe", "preset": "paper"},
    "tawpipe paper w/o overlap": {"name": "tawpipe", "preset": "paper", "overlap": False},
}

DECK = """
[model]
dim = {dim}
layers = 8
heads = {heads}
ffn = {ffn}
vocab = 256
[data]
text = "text.txt"
tokenizer = "bytes"
seq = 256
[batch]
global = 16
micro = 1
[run]
steps = {steps}
threads = 1
recompute = "block"
folder = "{folder}"
[cluster]
ranks_per_group = [2, 2]
[system]
{system}
"""

ENVIRONMENT = dict(
    os.environ,
    OMPI_ALLOW_RUN_AS_ROOT="1",
    OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    OMPI_MCA_rmaps_base_oversubscribe="1",
    RUST_LOG="error",
)


def call(*words):
    done = subprocess.run([str(w) for w in words], env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tawpipe", default="target/release/tawpipe")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--dim", type=int, default=256)
    args = parser.parse_args()
    program = pathlib.Path(args.tawpipe).resolve()
    ranks = ["mpirun", "--bind-to", "none", "-n", "4", program]
    errors = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "text.txt").write_text("In the beginning God created the heaven and the earth. " * 4000)

        def calibrate(file):
            call(*ranks, "bench", "--calibrate", file, "--groups", "2,2")

        print("| system | measured, s | simulated, s | error |\n|---|---|---|---|")
        calibrate(folder / "before.toml")
        for label, options in SYSTEMS.items():
            options = {"name": label.split()[0]} | options
            system = "\n".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
            deck = folder / "deck.toml"
            run = f"run-{len(list(folder.iterdir()))}"
            deck.write_text(
                DECK.format(
                    dim=args.dim,
                    heads=args.dim // 64,
                    ffn=-(-8 * args.dim // 96) * 32,
                    steps=args.steps,
                    folder=run,
                    system=system,
                )
            )
            try:
                lines = call(*ranks, "train", deck, "--json").splitlines()
                times = [json.loads(line)["step_s"] for line in lines if line.startswith("{")]
                calibrate(folder / "after.toml")
                simulated = []
                for file in ["before.toml", "after.toml"]:
                    out = call(program, "plan", deck, "--cluster", folder / file, "--json")
                    simulated.append(json.loads(out)["step"])
            except RuntimeError as error:
                print(f"| {label} | {error} | | |", flush=True)
                continue
            # The first step touches memory for the first time.
            measured, predicted = statistics.median(times[1:]), statistics.mean(simulated)
            errors.append(predicted / measured - 1)
            print(f"| {label} | {measured:.3f} | {predicted:.3f} | {100 * errors[-1]:+.0f} % |", flush=True)
            (folder / "after.toml").replace(folder / "before.toml")
    if errors:
        median = statistics.median(map(abs, errors))
        print(f"\nMedian error {100 * median:.0f} % over {len(errors)} systems.")


if __name__ == "__main__":
    main()
