#!/usr/bin/env python3
"""Checks and measures tawpipe on one GPU, in steps that can be taken up again. See docs/gpu-checks.md.

    python3 benches/gpu/check.py [--bundle DIR] [--out DIR] [--minutes 9] [--only a,b,…] [--python PYTHON]
    python3 benches/gpu/check.py --emulated DRIVER …     # every step, tiny, on the emulated driver

Each step writes OUT/STEP.json (what ran, what came out, how long it took, the verdict); a step that has its file and is done is
not run again. No step is begun that may not end within --minutes. OUT/summary.md is written anew at the end. Exit code: 0 if
nothing failed and nothing is left, 1 if a step failed, 4 if time is up and some are left. What the machine lacks a tool for is
"not run": neither good nor failed.
"""

import argparse
import datetime
import json
import pathlib
import shutil
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import host
import steps
import summary


def chosen(name, only):
    """Whether a step, or its part of the checks, is wanted; the machine is always told."""
    return not only or name == "machine" or any(name == part or name.startswith(part + "-") for part in only)


def check(a):
    began = time.monotonic()
    machine = host.Host(a.bundle, a.python, a.emulated)
    out = pathlib.Path(a.out or host.HERE / f"{datetime.date.today().isoformat()}-{machine.gpu}").resolve()
    out.mkdir(parents=True, exist_ok=True)
    only = [part for part in a.only.split(",") if part]
    left = []
    for name, seconds, run in steps.Steps(machine, out).all():
        path = out / f"{name}.json"
        if not chosen(name, only) or (path.exists() and json.loads(path.read_text())["verdict"] in steps.DONE):
            continue
        if left or time.monotonic() - began + seconds > 60 * a.minutes:
            left.append(name)
            continue
        begin = time.monotonic()
        try:
            result = run()
        except Exception as error:
            result = {"verdict": steps.FAILED, "why": f"{type(error).__name__}: {error}"}
        result["step_seconds"] = round(time.monotonic() - begin, 1)
        path.write_text(json.dumps(result, indent=1))
        why = f": {result['why']}" if result.get("why") and result["verdict"] != steps.GOOD else ""
        print(f"{name:36} {result['step_seconds']:7.1f} s  {result['verdict']}{why}", flush=True)
    shutil.rmtree(out / "runs", ignore_errors=True)
    (out / "summary.md").write_text(summary.text(out))
    count = summary.count(out)
    print(f"{out}/summary.md: {count}; {len(left)} steps are left" + (": run again" if left else ""))
    return 1 if count[steps.FAILED] else 4 if left else 0


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--bundle", default=host.HERE.parent.parent)
    ap.add_argument("--out", default="")
    ap.add_argument("--minutes", type=float, default=9)
    ap.add_argument("--only", default="", help="steps or parts of them: a,b,c,d,e or a-memcheck or c-nccl-2")
    ap.add_argument("--python", default=sys.executable, help="one that has PyTorch")
    ap.add_argument("--emulated", default="", help="folder of the emulated driver")
    return check(ap.parse_args())


if __name__ == "__main__":
    sys.exit(main())
