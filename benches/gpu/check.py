#!/usr/bin/env python3
"""Checks and measures tawpipe on one GPU, in steps that can be taken up again. See docs/gpu-checks.md.

    python3 benches/gpu/check.py --plan first …          # kernels, losses, speed, in 6 minutes
    python3 benches/gpu/check.py --plan second …         # PyTorch's side, memcheck, a profile, in 5
    python3 benches/gpu/check.py [--minutes 9] [--only a,b,…] …
    python3 benches/gpu/check.py --emulated DRIVER …     # every step, tiny, on the emulated driver

Each step writes OUT/STEP.json (what ran, what came out, how long it took, the verdict); a step that has its file and is done is
not run again. No step is begun that is not expected to end within --minutes; the next that is takes its turn. After every step
OUT/summary.md and the archive of all results are written anew. Exit code: 0 if nothing failed and nothing is left, 1 if a step
failed, 4 if time is up and some are left. What the machine lacks a tool for is "not run": neither good nor failed.
"""

import argparse
import datetime
import json
import pathlib
import shutil
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import host
import plans
import results
import steps
import summary


def chosen(name, only):
    """Whether a step, or its part of the checks, is wanted; the machine is always told."""
    return not only or name == "machine" or any(name == part or name.startswith(part + "-") for part in only)


def wanted(a, all_steps):
    """The steps of this call, in order, and those to take where time is left."""
    only = [part for part in a.only.split(",") if part]
    if not a.plan:
        ranks = not only or any(part.split("-")[0] == "c" for part in only)
        return [step for step in all_steps(ranks) if chosen(step.name, only)], []
    found = {step.name: step for step in all_steps(ranks=False)}
    plan = plans.PLANS[a.plan]
    return [[found[name] for name in names if chosen(name, only)] for names in (plan.steps, plan.extra)]


def take(step, limit, machine, clock):
    """A step's result, whatever happens in it; a command that is under way when its time is up is ended."""
    machine.deadline = time.monotonic() + clock.patience(limit)
    begin = time.monotonic()
    try:
        result = step.run()
    except KeyboardInterrupt:
        result = {"verdict": results.FAILED, "why": "stopped", "stopped": True}
    except Exception as error:
        result = {"verdict": results.FAILED, "why": f"{type(error).__name__}: {error}"}
    return {**result, "step_seconds": round(time.monotonic() - begin, 1), "allowed_seconds": round(limit, 1),
            "gpu": machine.gpu, "driver": machine.driver}


def check(a):
    clock = plans.Pretended(a.pretend) if a.pretend else plans.Clock()
    minutes = a.minutes or (plans.PLANS[a.plan].minutes if a.plan else 9)
    machine = host.Host(a.bundle, a.python, a.emulated)
    out = pathlib.Path(a.out or host.HERE / f"{datetime.date.today().isoformat()}-{machine.gpu}").resolve()
    archive = pathlib.Path(a.archive).resolve() if a.archive else out.with_name(out.name + ".tar.gz")
    out.mkdir(parents=True, exist_ok=True)
    machine.deadline = time.monotonic() + 60
    undone = lambda some: [step for step in some if not results.done(out / f"{step.name}.json")]
    todo, extra = map(undone, wanted(a, steps.Steps(machine, out).all))
    left, size = [], 0
    for number, step in enumerate(todo + extra):
        later = [other.seconds for other in todo[number + 1:]] if a.plan else []
        limit = plans.allowed(step.seconds, later, 60 * minutes - clock.now())
        if limit is None:
            left += [step.name] if number < len(todo) else []
            continue
        result = take(step, limit, machine, clock)
        clock.step_is_over(step.seconds, limit)
        (out / f"{step.name}.json").write_text(json.dumps(result, indent=1))
        why = f": {result['why']}" if result.get("why") and result["verdict"] != results.GOOD else ""
        print(f"{clock.now():5.0f} s  {step.name:32} {result['step_seconds']:6.1f} s  {result['verdict']}{why}", flush=True)
        size = write(out, archive)
        if result.get("stopped"):
            left += [other.name for other in todo[number + 1:]]
            break
    shutil.rmtree(out / "runs", ignore_errors=True)
    size = size or write(out, archive)
    count = summary.count(out)
    print(f"{out}/summary.md: {count}; {len(left)} steps are left" + (f" ({', '.join(left)})" if left else ""))
    print(f"{archive}: {size / 2**20:.1f} MiB after {clock.now():.0f} of {60 * minutes:.0f} s")
    if size > results.ARCHIVE:
        print(f"{archive} has more than {results.ARCHIVE >> 20} MiB: take a smaller --only, or the files of {out}", file=sys.stderr)
        return 1
    return 1 if count[results.FAILED] else 4 if left else 0


def write(out, archive):
    """Summary and archive of what there is."""
    (out / "summary.md").write_text(summary.text(out))
    return results.pack(out, archive)


def stop(*_):
    """Results are kept also by a script that is told to end."""
    raise KeyboardInterrupt


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--bundle", default=host.HERE.parent.parent)
    ap.add_argument("--out", default="", help="folder of results; default: benches/gpu/DATE-GPU")
    ap.add_argument("--archive", default="", help="where all results go as one file; default: OUT.tar.gz")
    ap.add_argument("--plan", choices=list(plans.PLANS), help="the steps of one call to a machine that is lent for 15 minutes")
    ap.add_argument("--minutes", type=float, default=0, help="default: the plan's, or 9")
    ap.add_argument("--only", default="", help="steps or parts of them: a,b,c,d,e or a-memcheck or c-nccl-2")
    ap.add_argument("--python", default=sys.executable, help="one that has PyTorch")
    ap.add_argument("--emulated", default="", help="folder of the emulated driver")
    ap.add_argument("--pretend", type=float, default=0, metavar="FACTOR",
                    help="tries a plan: the clock says that each step took so many times what is expected of it")
    signal.signal(signal.SIGTERM, stop)
    return check(ap.parse_args())


if __name__ == "__main__":
    sys.exit(main())
