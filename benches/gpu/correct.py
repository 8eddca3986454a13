"""Parts (a) to (c): whether kernels and whole runs are right."""

import functools
import json
import math
import re

from results import FAILED, GOOD, NOT_RUN, REFUSED, last_words, not_run, verdict


def worst_difference(ours, wanted):
    """The largest relative difference; None where there is nothing to compare, or what is no number."""
    differences = [abs(a - b) / b for a, b in zip(ours, wanted) if a is not None]
    finite = len(differences) == len(wanted) and all(map(math.isfinite, differences))
    return max(differences) if differences and finite else None


def groups(ranks):
    """Sizes of two groups."""
    return f"{ranks // 2},{ranks // 2}"


class Correct:
    """`runs`: see runs.py."""

    def __init__(self, runs):
        self.runs, self.host, self.tiny = runs, runs.host, runs.tiny

    # ---- a: kernels ----

    def kernels(self, tests, before=()):
        """The tests of all operations against the CPU device, on the GPU; `before` is what runs them."""
        command = [*before, self.host.program("kernels-tests"), *tests, "--test-threads=1"]
        r = self.host.run(command, env=dict(self.host.env, TAWPIPE_TEST_GPU="1"))
        passed = len(re.findall(r"^test .* ok$", r["out"], re.M))
        return {**r, "verdict": verdict(r["code"] == 0 and passed > 0), "passed": passed, "why": last_words(r)}

    def sanitized(self, tool, tests):
        """The same under compute-sanitizer, which must have found nothing and must say so."""
        if not (sanitizer := self.host.tool("compute-sanitizer")):
            return not_run("compute-sanitizer needs a GPU" if self.tiny else "no compute-sanitizer")
        # Code 9: the program was content, the tool is not.
        r = self.kernels(tests, [sanitizer, "--tool", tool, "--error-exitcode", "9"])
        found = re.findall(r"^=+ (?:ERROR|RACECHECK) SUMMARY: .*", r["out"] + r["err"], re.M)
        if r["verdict"] == GOOD and not found:
            return {**r, "verdict": FAILED, "why": f"{tool} gave no summary"}
        return {**r, "found": found[-1:], "why": r["why"] or " ".join(found[-1:])}

    # ---- b: losses ----

    def parity(self, config, dtype):
        """20 steps from the same weights on the same data as PyTorch: every loss within the type's rounding."""
        folder = self.host.bundle / "parity" / config
        steps = 1 if self.tiny else 20
        deck = self.runs.deck(f"parity-{config}", f"""
            model.from = "{folder}/init"
            data = {{ tokens = "{folder}/tokens.bin", token_type = "i32", order = "sequential", seq = 64 }}
            batch = {{ global = 8, micro = 2 }}
            optim = {{ lr = 1e-3, betas = [0.9, 0.95], eps = 1e-8, weight_decay = 0.1, clip = 1.0, schedule = "constant" }}
            run = {{ steps = {steps} }}
            """)
        r = self.runs.train(deck, **{"run.dtype": dtype, "system.name": "single"})
        wanted = json.loads((folder / "reference.json").read_text())["float32"]["step_loss"][:steps]
        got = [step["loss"] for step in r["steps"]]
        tolerance = {"f32": 2e-5, "bf16": 3e-3}[dtype]
        worst = worst_difference(got, wanted)
        good = r["code"] == 0 and len(got) == steps and worst is not None and worst <= tolerance
        return {**r, "verdict": verdict(good), "worst": worst, "tolerance": tolerance, "why": last_words(r)}

    # ---- c: several ranks ----

    @functools.cached_property
    def ranks_deck(self):
        """Blocks for the stages of every system on 4 ranks, as many micro-batches, heads for the fast attention."""
        dim, seq = (16, 12) if self.tiny else (128, 128)
        return self.runs.deck("ranks", f"""
            model = {{ dim = {dim}, layers = 6, heads = 2, kv_heads = 1, ffn = {3 * dim // 2}, vocab = 256 }}
            data = {{ tokens = "{self.runs.tokens(256, seq)}", token_type = "u16", seq = {seq} }}
            batch = {{ global = 8, micro = 1 }}
            optim = {{ lr = 3e-3, schedule = "constant" }}
            run = {{ steps = {2 if self.tiny else 5}, dtype = "f32" }}
            """)

    @functools.cache
    def systems(self, ranks):
        """Every system that the program knows and that is for several ranks; with its reason if it refuses so many."""
        command = [self.host.program("tawpipe"), "plan", self.ranks_deck, "--groups", groups(ranks), "--all", "--json"]
        r = self.host.run(command, timeout=60)
        if r["code"] != 0:
            raise RuntimeError(f"{r['command']}: {last_words(r)}")
        plans = sorted(json.loads(r["out"]), key=lambda plan: plan["system"]["name"])
        return {plan["system"]["name"]: plan.get("refused") for plan in plans if plan["system"]["name"] != "single"}

    @functools.cached_property
    def alone(self):
        """Losses of one rank."""
        r = self.runs.train(self.ranks_deck, **{"system.name": "single"})
        if r["code"] != 0:
            raise RuntimeError(f"one rank alone: {last_words(r)}")
        return [step["loss"] for step in r["steps"]]

    def ranks(self, fabric, ranks, system):
        """Several ranks on this GPU: the losses of one rank, but for the order of sums; or what the plan says refused."""
        sizes = f"[{groups(ranks)}]"
        r = self.runs.train(self.ranks_deck, ranks,
                            **{"system.name": system, "run.fabric": fabric, "cluster.ranks_per_group": sizes})
        refusal = self.systems(ranks)[system]
        if refusal:
            return {**r, "verdict": REFUSED if r["code"] == 2 else FAILED, "why": refusal}
        why = last_words(r)
        # Bad input, because this machine's NCCL is missing or too old to share a GPU.
        if r["code"] == 2 and fabric == "nccl" and (nccl := re.search(r"NCCL [^\n]*(not here|does not allow)[^\n]*", r["err"])):
            return {**r, "verdict": NOT_RUN, "why": nccl[0]}
        losses = [step["loss"] for step in r["steps"]]
        worst = worst_difference(losses, self.alone)
        good = r["code"] == 0 and len(losses) == len(self.alone) and worst is not None and worst <= 2e-5
        return {**r, "verdict": verdict(good), "worst": worst, "tolerance": 2e-5, "why": why}
