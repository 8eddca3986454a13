#!/usr/bin/env python3
"""Losses and gradient norms of a few short runs, to the last bit: for a change that should not change any number.

    python3 scripts/losses.py [--binary FILE] > before.txt     # and after the change once more, on the same machine
    diff before.txt after.txt

Every run takes three steps of inputs/kjv.toml on 1 or 4 ranks of this machine. Numbers depend on the processor, so that only
results of one machine can be compared. `make build` makes the binary.
"""
import argparse, json, os, pathlib, subprocess, sys, tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Ranks, and keys of the deck.
RUNS = [
    (1, "system.name=single"),
    (1, "system.name=single run.dtype=bf16"),
    (1, "system.name=single run.recompute=none batch.micro=2 run.threads=2"),
    (4, "system.name=tawpipe"),
    (4, "system.name=tawpipe run.dtype=bf16"),
    (4, "system.name=tawpipe system.preset=paper"),
    (4, "system.name=tawpipe system.stripe=true system.overlap=false"),
    (4, "system.name=fsdp system.prefetch=0"),
    (4, "system.name=hsdp run.dtype=bf16"),
    (4, "system.name=ddp system.zero1=true"),
    (4, "system.name=weipipe"),
    (4, "system.name=1f1b"),
    (4, "system.name=zb-2p"),
]
ALONE = {
    "TAWPIPE_ONEDNN": "off",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=ROOT / "target/release/tawpipe", type=os.path.abspath)
    options = parser.parse_args()
    for ranks, keys in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            sets = f"{keys} run.steps=3 run.folder={folder}/run run.validate_every=0 run.checkpoint_every=0 cluster.ranks_per_group={max(ranks // 2, 1)}"
            command = ["mpirun", "-n", str(ranks), "--bind-to", "none", options.binary, "train", ROOT / "inputs/kjv.toml", "--json"]
            command += [word for key in sets.split() for word in ("--set", key)]
            done = subprocess.run(command, cwd=ROOT, env={**os.environ, **ALONE}, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{keys}: ended with {done.returncode}\n{done.stderr[-2000:]}")
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        for row in rows:
            if "loss" in row:
                print(f"{ranks} ranks, {keys}, step {row['step']}: {row['loss'].hex()} {row['grad_norm'].hex()}", flush=True)


if __name__ == "__main__":
    main()
