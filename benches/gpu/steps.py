"""Everything that is checked and measured, in order: each step runs something and gives a dictionary with its `verdict`, its
reason and its numbers."""

import functools
import sys
from typing import Callable, NamedTuple

import models
from correct import Correct
from results import FAILED, GOOD
from runs import Runs
from speed import Speed


class Step(NamedTuple):
    name: str
    # Seconds that it is expected to take, rather too many; in a call without a plan it may take longer (plans.py).
    seconds: float
    run: Callable


class Steps:
    """All steps on a host (host.py); `out` is the folder of results."""

    def __init__(self, host, out):
        self.host, self.tiny = host, host.tiny
        runs = Runs(host, out)
        self.correct, self.speed = Correct(runs), Speed(runs)

    def all(self, ranks=True):
        """Every step. What several ranks do is left out where nobody asks for it: it takes the program to name the systems."""
        yield Step("machine", 15, self.machine)
        tests = {"ops": ["ops::", "units::"], "attention": ["attention::"]}
        yield Step("a-kernels", 60, lambda: self.correct.kernels(tests["ops"] + tests["attention"]))
        for config in ["a_mha4", "b_gqa2"]:
            for dtype in ["f32", "bf16"]:
                yield Step(f"b-{config}-{dtype}", 10, lambda c=config, d=dtype: self.correct.parity(c, d))
        yield Step("d-kernels", 100, self.speed.kernel_table)
        yield from self.models(["tawpipe", "tawpipe-any"])
        yield Step("d-torch-attention", 30, lambda: self.speed.torch_kernels("attention"))
        yield Step("d-torch-rows", 120, lambda: self.speed.torch_kernels("rows"))
        yield from self.models(["torch", "torch-pure"])
        if ranks:
            yield from self.several("mpi")
        yield Step("d-profile-attention", 50, self.speed.profile)
        # Under these tools kernels are 10 to 100 times slower.
        for tool in ["memcheck", "racecheck"]:
            for part, seconds in [("attention", 60), ("ops", 240)]:
                run = lambda t=tool, which=tests[part]: self.correct.sanitized(t, which)
                yield Step(f"a-{tool}-{part}", seconds if tool == "memcheck" else 2 * seconds, run)
        # What is likeliest to wait for ever: several ranks on one GPU over a library that does not expect them.
        if ranks:
            yield from self.several("nccl")

    def machine(self):
        """Driver, GPU, versions, the command, and the revision that was bundled."""
        say = lambda *command: self.host.run(command)["out"].strip()
        revision = self.host.bundle / "REVISION"
        return {"verdict": GOOD, "nvidia_smi": "" if self.tiny else say("nvidia-smi", "-q"), "nvcc": say("nvcc", "--version"),
                "torch": self.host.torch, "tools": [self.host.tool(name) for name in ("compute-sanitizer", "ncu")],
                "uname": say("uname", "-a"), "revision": revision.read_text().strip() if revision.exists() else "",
                "command": " ".join(sys.argv)}

    def several(self, fabric):
        """Every system on several ranks; where the program does not say which there are, one step that tells why."""
        for ranks in [2, 4]:
            try:
                systems = self.correct.systems(ranks)
            except Exception as error:
                # The name is gone behind the clause.
                why = str(error)
                yield Step(f"c-{fabric}-{ranks}-systems", 1, lambda why=why: {"verdict": FAILED, "why": why})
                continue
            for system in systems:
                run = functools.partial(self.correct.ranks, fabric, ranks, system)
                yield Step(f"c-{fabric}-{ranks}-{system}", 60, run)

    def models(self, programs):
        """Whole models, the smallest and shortest first."""
        expected = {"tawpipe": (50, 70, 120, 240), "torch": (60, 70, 120, 240)}
        for size, name in enumerate(models.NAMES[:2] if self.tiny else models.NAMES):
            for seq in models.LENGTHS[:1] if self.tiny else models.LENGTHS:
                for who in programs:
                    seconds = expected[who.split("-")[0]][size] * (1 if seq <= 4096 else 2)
                    yield Step(f"e-{name}-{seq}-{who}", seconds, lambda n=name, s=seq, w=who: self.speed.model(n, s, w))
