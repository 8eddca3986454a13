"""Parts (d) and (e): how fast kernels and whole models are, beside PyTorch."""

import json

import models
from results import FAILED, GOOD, TOO_LARGE, last_words, not_run, records, verdict


class Speed:
    """`runs`: see runs.py."""

    def __init__(self, runs):
        self.runs, self.host, self.tiny = runs, runs.host, runs.tiny

    # ---- d: kernels ----

    def kernel_table(self):
        r = self.host.run([self.host.program("gpu-kernels"), *(["--tiny", "--repeat", "2"] if self.tiny else [])])
        rows = records(r)
        return {**r, "verdict": verdict(r["code"] == 0 and len(rows) > 5), "rows": rows, "why": last_words(r)}

    def torch_kernels(self, part):
        """PyTorch's: `attention` with the ceilings, which needs no compiler, or `rows`, which is compiled."""
        if why := self.host.no_torch():
            return not_run(why)
        r = self.host.run_torch("kernels", "--part", part, *(["--tiny"] if self.tiny else []))
        rows = [row for row in records(r) if "kernel" in row]
        errors = [f"{row['kernel']}: {row['error']}" for row in rows if "error" in row]
        good = r["code"] == 0 and len(rows) - len(errors) > 3
        return {**r, "verdict": verdict(good), "rows": rows, "why": last_words(r) or "; ".join(errors)}

    def profile(self):
        """One capture of attention, forward and backward, by Nsight Compute: the report, and its details as text."""
        if not (ncu := self.host.tool("ncu")):
            return not_run("Nsight Compute needs a GPU" if self.tiny else "no Nsight Compute (ncu)")
        report, text = self.runs.out / "attention.ncu-rep", self.runs.out / "attention.ncu.txt"
        # The clocks stay as they are; the machine may not be ours alone.
        capture = ["--set", "full", "--kernel-name", "regex:attention_", "--clock-control", "none", "--force-overwrite"]
        r = self.host.run([ncu, *capture, "--export", report, self.host.program("gpu-kernels"), "--profile"])
        if r["code"] == 0:
            details = self.host.run([ncu, "--import", report, "--page", "details"])
            text.write_text(details["out"])
            r["code"], r["err"] = details["code"], r["err"] + details["err"]
        good = r["code"] == 0 and "attention_flash" in text.read_text()
        return {**r, "verdict": verdict(good), "report": report.name, "details": text.name,
                "why": last_words(r) or ("" if good else f"no kernel of attention in {text.name}")}

    # ---- e: whole models ----

    def model(self, name, seq, who):
        """Tokens a second of a whole model, ours or PyTorch's; too large for the memory is a result."""
        case = models.case(name, seq, self.host.memory, self.tiny)
        if case is None:
            return {"verdict": TOO_LARGE, "why": "weights and optimizer state alone"}
        return {**case, **(self.torch_model(case, who) if who.startswith("torch") else self.our_model(name, case, who))}

    def our_model(self, name, case, who):
        """`tawpipe`: every sum in one order, the default; `tawpipe-any`: sums of attention's backward in any, as PyTorch's are."""
        steps, warm = (2, 1) if self.tiny else (8, 3)
        shape, seq = case["shape"], case["seq"]
        deck = self.runs.deck(f"model-{name}-{seq}", f"""
            model = {{ {", ".join(f"{key} = {value}" for key, value in shape.items())} }}
            data = {{ tokens = "{self.runs.tokens(shape['vocab'], seq)}", token_type = "u16", seq = {seq} }}
            batch = {{ global = {case["micro"] * case["accum"]}, micro = {case["micro"]} }}
            optim = {{ lr = 3e-4, weight_decay = 0.1, clip = 1.0 }}
            run = {{ steps = {steps}, dtype = "bf16", recompute = "{"block" if case["recompute"] else "none"}" }}
            """)
        order = "true" if who == "tawpipe" else "false"
        r = self.runs.train(deck, **{"system.name": "single", "run.deterministic": order})
        rates = sorted(step["tokens_per_s"] for step in r["steps"][warm:])
        if r["code"] == 0 and rates:
            return {**r, "verdict": GOOD, "tokens_per_s": rates[len(rates) // 2]}
        return {**r, "verdict": TOO_LARGE if "bytes of memory left of" in r["err"] else FAILED, "why": last_words(r)}

    def torch_model(self, case, who):
        if why := self.host.no_torch():
            return not_run(why)
        args = ["train", "--shape", json.dumps(case["shape"]), "--seq", case["seq"], "--micro", case["micro"]]
        args += ["--accum", case["accum"]]
        args += (["--recompute"] if case["recompute"] else []) + (["--pure"] if who == "torch-pure" else [])
        r = self.host.run_torch(*args)
        rows = [row for row in records(r) if "tokens_per_s" in row]
        if r["code"] == 0 and rows:
            return {**r, **rows[-1], "verdict": GOOD}
        return {**r, "verdict": TOO_LARGE if "OutOfMemoryError" in r["err"] else FAILED, "why": last_words(r)}
