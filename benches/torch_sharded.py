#!/usr/bin/env python3
"""PyTorch's parallel training over gloo, started like tawpipe, on the same hosts and links.

    mpirun -n 4 python benches/torch_sharded.py --mode fsdp --config tiny --steps 6 --json

Modes: ddp (gradients once a step), fsdp (fully_shard, gradients once a step), fsdp-sync (reduced with every micro-batch, which
keeps no unsharded gradients), hsdp (sharded inside a node, replicated between nodes). Ranks find each other through a file,
so the working folder must be shared by all nodes; GLOO_SOCKET_IFNAME names the network, eth0 where there is one. Prints one
JSON object a step on rank 0, with the keys of `tawpipe train --json` that it can fill.
"""

import argparse
import contextlib
import json
import os
import resource
import time


def main():
    modes = ["ddp", "fsdp", "fsdp-sync", "hsdp"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=modes, required=True)
    parser.add_argument("--config", default="tiny", help="a name in torch_model.CONFIGS, for what follows")
    for name in ["dim", "layers", "heads", "ffn", "vocab", "seq"]:
        parser.add_argument(f"--{name}", type=int, help="instead of the config's")
    parser.add_argument("--micro", type=int, help="sequences of a micro-batch")
    parser.add_argument("--accumulate", type=int, help="micro-batches of a rank and step")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="bf16 on the wire and in products, f32 weights and sums")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--store", help="the file through which ranks meet; must not exist")
    parser.add_argument("--json", action="store_true", help="always so; accepted for symmetry with tawpipe")
    args = parser.parse_args()

    rank, world, local = launched()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    if os.path.exists("/sys/class/net/eth0"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "eth0")

    import torch
    import torch.distributed as dist
    from torch_model import CONFIGS, Llama, decayed

    torch.set_num_threads(args.threads)
    config = dict(CONFIGS[args.config])
    given = {"batch": args.micro, "accum": args.accumulate}
    given |= {name: getattr(args, name) for name in ["dim", "layers", "heads", "ffn", "vocab", "seq"]}
    config |= {key: value for key, value in given.items() if value}

    namespace = os.environ.get("PMIX_NAMESPACE", os.environ.get("SLURM_JOB_ID", "alone")).replace("/", "_")
    store = os.path.abspath(args.store or f".torch-{namespace}-{args.mode}")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    torch.manual_seed(0)
    model, fwd = parallel(Llama(config), args, world, local)
    optimizer = torch.optim.AdamW(decayed(model.parameters()), lr=3e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
    generator = torch.Generator().manual_seed(1234 + rank)
    data = torch.randint(0, config["vocab"], (config["batch"], config["seq"] + 1), generator=generator)
    tokens = config["batch"] * config["seq"] * config["accum"] * world

    for number in range(1, args.steps + 1):
        dist.barrier()
        begin = time.perf_counter()
        loss = step(model, fwd, optimizer, data, config["accum"], args)
        dist.barrier()
        seconds = time.perf_counter() - begin
        mean = torch.tensor([loss])
        dist.all_reduce(mean)
        peak = torch.tensor([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024], dtype=torch.int64)
        dist.all_reduce(peak, dist.ReduceOp.MAX)
        if rank == 0:
            print(json.dumps({
                "step": number, "loss": mean.item() / world, "tokens": tokens * number, "step_s": seconds,
                "tokens_per_s": tokens / seconds, "peak_bytes": peak.item(), "torch": torch.__version__,
            }), flush=True)
    dist.destroy_process_group()
    if rank == 0 and os.path.exists(store):
        os.remove(store)


def launched():
    """Rank, ranks, and ranks on this node, as mpirun or srun say."""
    env = os.environ
    if "OMPI_COMM_WORLD_RANK" in env:
        return tuple(int(env[f"OMPI_COMM_WORLD_{name}"]) for name in ["RANK", "SIZE", "LOCAL_SIZE"])
    if "SLURM_PROCID" in env:
        local = env["SLURM_STEP_TASKS_PER_NODE"].split("(")[0].split(",")[0]
        return int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"]), int(local)
    raise SystemExit("start this with mpirun or srun")


def parallel(model, args, world, local):
    """The model whose parameters are trained, and what to call."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if args.mode == "ddp":
        return model, torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    shape, names = ((world // local, local), ("replicate", "shard")) if args.mode == "hsdp" else ((world,), ("shard",))
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    policy = MixedPrecisionPolicy()
    if args.bf16:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.layers:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model, model


def step(model, fwd, optimizer, data, accumulate, args):
    """One iteration; returns this rank's mean loss."""
    import torch

    total = 0.0
    for micro in range(accumulate):
        last = micro == accumulate - 1
        quiet = contextlib.nullcontext()
        if args.mode == "ddp" and not last:
            quiet = fwd.no_sync()
        elif args.mode != "ddp":
            model.set_requires_gradient_sync(last or args.mode == "fsdp-sync")
        wide = torch.autocast("cpu", torch.bfloat16, enabled=args.bf16 and args.mode == "ddp")
        with quiet:
            with wide:
                loss = fwd(data[:, :-1], data[:, 1:])
            (loss / accumulate).backward()
        total += loss.item() / accumulate
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


if __name__ == "__main__":
    main()
