"""What is checked and measured: each step runs something and gives a dictionary with its `verdict` and its numbers."""

import functools
import json
import re
import shutil
import struct
import sys
import time

import models

# Verdicts. The last needs something that this machine has not: no verdict at all.
GOOD, FAILED, REFUSED, TOO_LARGE, NOT_RUN = "good", "FAILED", "refused by the plan", "does not fit", "not run"
DONE = (GOOD, REFUSED, TOO_LARGE)


def verdict(good):
    return GOOD if good else FAILED


def last_words(r):
    """The end of what a command said, if it failed."""
    lines = (r.get("out", "") + "\n" + r.get("err", "")).strip().splitlines()
    return "" if r["code"] == 0 else f"exit {r['code']}: " + " | ".join(lines[-6:])[-1500:]


def records(r):
    """The JSON lines of a command's output, which is then dropped."""
    return [json.loads(line) for line in r.pop("out").splitlines() if line.startswith("{")]


def not_run(why):
    return {"verdict": NOT_RUN, "why": why}


def worst_difference(ours, wanted):
    return max((abs(a - b) / b for a, b in zip(ours, wanted)), default=float("nan"))


class Steps:
    """All steps on a host (host.py); `out` is the folder of results."""

    def __init__(self, host, out):
        self.host, self.out, self.tiny = host, out, host.tiny

    def all(self):
        """Every step in order: name, seconds that it may take, and what does it."""
        yield "machine", 20, self.machine
        # Under the tools kernels are 10 to 100 times slower, which is why there are several steps.
        parts = {"ops": ["ops::", "units::"], "attention": ["attention::"]}
        yield "a-kernels", 120, lambda: self.kernels(parts["ops"] + parts["attention"])
        for tool in ["memcheck", "racecheck"]:
            for part, tests in parts.items():
                yield f"a-{tool}-{part}", 500, lambda t=tool, which=tests: self.sanitized(t, which)
        for config in ["a_mha4", "b_gqa2"]:
            for dtype in ["f32", "bf16"]:
                yield f"b-{config}-{dtype}", 60, lambda c=config, d=dtype: self.parity(c, d)
        for fabric in ["mpi", "nccl"]:
            for ranks in [2, 4]:
                for system in self.systems(ranks):
                    yield f"c-{fabric}-{ranks}-{system}", 90, lambda f=fabric, n=ranks, s=system: self.ranks(f, n, s)
        yield "d-kernels", 300, self.kernel_table
        yield "d-torch", 400, self.torch_kernels
        for name in models.NAMES[:1] if self.tiny else models.NAMES:
            for seq in [32] if self.tiny else models.LENGTHS:
                for who in ["tawpipe", "torch", "torch-pure"]:
                    yield f"e-{name}-{seq}-{who}", 240, lambda n=name, s=seq, w=who: self.model(n, s, w)

    def machine(self):
        """Driver, GPU, versions, the command, and the revision that was bundled."""
        say = lambda *command: self.host.run(command, timeout=120)["out"].strip()
        revision = self.host.bundle / "REVISION"
        return {"verdict": GOOD, "gpu": self.host.gpu, "driver": "" if self.tiny else self.host.ask("driver_version"),
                "nvidia_smi": "" if self.tiny else say("nvidia-smi", "-q"), "nvcc": say("nvcc", "--version"),
                "torch": self.host.torch, "sanitizer": self.host.sanitizer, "uname": say("uname", "-a"),
                "revision": revision.read_text().strip() if revision.exists() else "", "command": " ".join(sys.argv)}

    # ---- a: kernels ----

    def kernels(self, tests, before=()):
        """The tests of all operations against the CPU device, on the GPU; `before` is what runs them."""
        command = [*before, self.host.program("kernels-tests"), *tests, "--test-threads=1"]
        r = self.host.run(command, env=dict(self.host.env, TAWPIPE_TEST_GPU="1"))
        passed = len(re.findall(r"^test .* ok$", r["out"], re.M))
        return {**r, "verdict": verdict(r["code"] == 0 and passed > 0), "passed": passed, "why": last_words(r)}

    def sanitized(self, tool, tests):
        """The same under compute-sanitizer, which must have found nothing and must say so."""
        if not self.host.sanitizer:
            return not_run("compute-sanitizer needs a GPU" if self.tiny else "no compute-sanitizer")
        # Code 9: the program was content, the tool is not.
        r = self.kernels(tests, [self.host.sanitizer, "--tool", tool, "--error-exitcode", "9"])
        found = re.findall(r"^=+ (?:ERROR|RACECHECK) SUMMARY: .*", r["out"] + r["err"], re.M)
        if r["verdict"] == GOOD and not found:
            return {**r, "verdict": FAILED, "why": f"{tool} gave no summary"}
        return {**r, "found": found[-1:], "why": r["why"] or " ".join(found[-1:])}

    # ---- b and c: whole runs ----

    def train(self, deck, ranks=1, **settings):
        """The steps that a run reports, and how it ended."""
        folder = self.out / "runs" / f"{time.monotonic_ns()}"
        settings |= {"run.device": "cuda", "run.folder": folder}
        command = [self.host.program("tawpipe"), "train", deck, "--json"]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        if ranks > 1:
            command = ["mpirun", "--bind-to", "none", "-n", ranks, *command, "--set", "gpu.share=true"]
        r = self.host.run(command)
        shutil.rmtree(folder, ignore_errors=True)
        r["steps"] = [record for record in records(r) if "step_s" in record]
        return r

    def parity(self, config, dtype):
        """20 steps from the same weights on the same data as PyTorch: every loss within the type's rounding."""
        folder = self.host.bundle / "parity" / config
        steps = 3 if self.tiny else 20
        deck = self.deck(f"parity-{config}", f"""
            model.from = "{folder}/init"
            data = {{ tokens = "{folder}/tokens.bin", token_type = "i32", order = "sequential", seq = 64 }}
            batch = {{ global = 8, micro = 2 }}
            optim = {{ lr = 1e-3, betas = [0.9, 0.95], eps = 1e-8, weight_decay = 0.1, clip = 1.0, schedule = "constant" }}
            run = {{ steps = {steps} }}
            """)
        r = self.train(deck, **{"run.dtype": dtype, "system.name": "single"})
        wanted = json.loads((folder / "reference.json").read_text())["float32"]["step_loss"][:steps]
        got = [step["loss"] for step in r["steps"]]
        tolerance = {"f32": 2e-5, "bf16": 3e-3}[dtype]
        worst = worst_difference(got, wanted)
        good = r["code"] == 0 and len(got) == steps and worst <= tolerance
        return {**r, "verdict": verdict(good), "worst": worst, "tolerance": tolerance, "why": last_words(r)}

    @functools.cached_property
    def ranks_deck(self):
        """Blocks for the stages of every system on 4 ranks, as many micro-batches, heads for the fast attention."""
        dim, seq = (16, 12) if self.tiny else (128, 128)
        return self.deck("ranks", f"""
            model = {{ dim = {dim}, layers = 6, heads = 2, kv_heads = 1, ffn = {3 * dim // 2}, vocab = 256 }}
            data = {{ tokens = "{self.tokens(256, seq)}", token_type = "u16", seq = {seq} }}
            batch = {{ global = 8, micro = 1 }}
            optim = {{ lr = 3e-3, schedule = "constant" }}
            run = {{ steps = {2 if self.tiny else 5}, dtype = "f32" }}
            """)

    @functools.cache
    def systems(self, ranks):
        """Every system that the program knows and that is for several ranks; with its reason if it refuses so many."""
        command = [self.host.program("tawpipe"), "plan", self.ranks_deck, "--groups", groups(ranks), "--all", "--json"]
        r = self.host.run(command, timeout=120)
        if r["code"] != 0:
            sys.exit(f"{r['command']}: {last_words(r)}")
        plans = sorted(json.loads(r["out"]), key=lambda plan: plan["system"]["name"])
        return {plan["system"]["name"]: plan.get("refused") for plan in plans if plan["system"]["name"] != "single"}

    @functools.cached_property
    def alone(self):
        """Losses of one rank."""
        r = self.train(self.ranks_deck, **{"system.name": "single"})
        if r["code"] != 0:
            raise RuntimeError(f"one rank alone: {last_words(r)}")
        return [step["loss"] for step in r["steps"]]

    def ranks(self, fabric, ranks, system):
        """Several ranks on this GPU: the losses of one rank, but for the order of sums; or what the plan says refused."""
        sizes = f"[{groups(ranks)}]"
        r = self.train(self.ranks_deck, ranks,
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
        good = r["code"] == 0 and len(losses) == len(self.alone) and worst <= 2e-5
        return {**r, "verdict": verdict(good), "worst": worst, "tolerance": 2e-5, "why": why}

    # ---- d and e: speed ----

    def kernel_table(self):
        r = self.host.run([self.host.program("gpu-kernels"), *(["--tiny", "--repeat", "2"] if self.tiny else [])])
        rows = records(r)
        return {**r, "verdict": verdict(r["code"] == 0 and len(rows) > 5), "rows": rows, "why": last_words(r)}

    def torch_kernels(self):
        if why := self.host.no_torch():
            return not_run(why)
        r = self.host.run_torch("kernels", *(["--tiny"] if self.tiny else []))
        rows = records(r)
        errors = [f"{row['kernel']}: {row['error']}" for row in rows if "error" in row]
        good = r["code"] == 0 and len(rows) - len(errors) > 5
        return {**r, "verdict": verdict(good), "rows": rows, "why": last_words(r) or "; ".join(errors)}

    def model(self, name, seq, who):
        """Tokens a second of a whole model, ours or PyTorch's; too large for the memory is a result."""
        case = models.case(name, seq, self.host.memory, self.tiny)
        if case is None:
            return {"verdict": TOO_LARGE, "why": "weights and optimizer state alone"}
        return {**case, **(self.our_model(name, seq, case) if who == "tawpipe" else self.torch_model(seq, case, who))}

    def our_model(self, name, seq, case):
        steps, warm = (2, 1) if self.tiny else (8, 3)
        shape = case["shape"]
        deck = self.deck(f"model-{name}-{seq}", f"""
            model = {{ {", ".join(f"{key} = {value}" for key, value in shape.items())} }}
            data = {{ tokens = "{self.tokens(shape['vocab'], seq)}", token_type = "u16", seq = {seq} }}
            batch = {{ global = {case["micro"] * case["accum"]}, micro = {case["micro"]} }}
            optim = {{ lr = 3e-4, weight_decay = 0.1, clip = 1.0 }}
            run = {{ steps = {steps}, dtype = "bf16", recompute = "{"block" if case["recompute"] else "none"}" }}
            """)
        r = self.train(deck, **{"system.name": "single"})
        rates = sorted(step["tokens_per_s"] for step in r["steps"][warm:])
        if r["code"] == 0 and rates:
            return {**r, "verdict": GOOD, "tokens_per_s": rates[len(rates) // 2]}
        return {**r, "verdict": TOO_LARGE if "bytes of memory left of" in r["err"] else FAILED, "why": last_words(r)}

    def torch_model(self, seq, case, who):
        if why := self.host.no_torch():
            return not_run(why)
        args = ["train", "--shape", json.dumps(case["shape"]), "--seq", seq, "--micro", case["micro"], "--accum", case["accum"]]
        args += (["--recompute"] if case["recompute"] else []) + (["--pure"] if who == "torch-pure" else [])
        r = self.host.run_torch(*args)
        rows = [row for row in records(r) if "tokens_per_s" in row]
        if r["code"] == 0 and rows:
            return {**r, **rows[-1], "verdict": GOOD}
        return {**r, "verdict": TOO_LARGE if "OutOfMemoryError" in r["err"] else FAILED, "why": last_words(r)}

    # ---- what steps need ----

    def deck(self, name, text):
        path = self.out / "decks" / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(line.strip() for line in text.strip().splitlines()) + "\n")
        return path

    def tokens(self, vocab, seq):
        """A file of tokens that look random: speed does not depend on which."""
        path = self.out / "runs" / f"tokens-{vocab}-{seq}.bin"
        count = max(64 * seq, 1 << 16) + 1
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            state, values = 1, []
            for _ in range(count):
                state = (state * 6364136223846793005 + 1442695040888963407) & (2**64 - 1)
                values.append((state >> 33) % vocab)
            path.write_bytes(struct.pack(f"<{count}H", *values))
        return path


def groups(ranks):
    """Sizes of two groups."""
    return f"{ranks // 2},{ranks // 2}"
