#!/usr/bin/env python3
"""Checks and measures tawpipe on one GPU, in steps that can be taken up again. See docs/gpu-checks.md.

    python3 benches/gpu/check.py [--bundle DIR] [--out DIR] [--minutes 9] [--only a,b,…] [--python PYTHON]
    python3 benches/gpu/check.py --emulated DRIVER …     # every step, tiny, on the emulated driver

Each step writes OUT/STEP.json (what ran, what came out, how long it took); a step that has its file and succeeded is not
run again. No step is begun that may not end within --minutes. OUT/summary.md is written anew at the end. Exit code: 0 if all
steps are done and good, 1 if one failed, 4 if time is up and some are left.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import models
import summary

HERE = pathlib.Path(__file__).resolve().parent
SYSTEMS = ["ddp", "fsdp", "tawpipe", "weipipe", "weipipe-naive", "gpipe", "1f1b", "zb-h1"]


def found_libraries(python):
    """Folders of CUDA's libraries on this machine: of a toolkit, and of PyTorch's packages."""
    folders = [p for p in map(pathlib.Path, ["/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"]) if p.is_dir()]
    site = subprocess.run([python, "-c", "import torch; print(torch.__path__[0])"], capture_output=True, text=True)
    if site.returncode == 0:
        packages = pathlib.Path(site.stdout.strip()).parent / "nvidia"
        folders += sorted(p.parent for p in packages.glob("*/lib/lib*.so*") if p.name.startswith(("libcublasLt.so", "libnccl.so")))
    return list(dict.fromkeys(map(str, folders)))


class Check:
    def __init__(self, a):
        self.a = a
        self.bundle = pathlib.Path(a.bundle).resolve()
        self.emulated = pathlib.Path(a.emulated).resolve() if a.emulated else None
        self.tiny = bool(a.emulated)
        self.started = time.monotonic()
        # Steps whose programs change from run to run keep their files under a name of the GPU and the day.
        self.gpu = "emulated" if self.tiny else self.gpu_name()
        day = datetime.date.today().isoformat()
        self.out = pathlib.Path(a.out or HERE / f"{day}-{self.gpu}").resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.env = dict(os.environ)
        libraries = [self.bundle / "extra", self.bundle / "lib"]
        if self.emulated:
            libraries.insert(0, self.emulated)
            self.env["TAWPIPE_KERNELS"] = str(self.emulated / "modules")
        else:
            libraries += found_libraries(a.python)
            self.env["TAWPIPE_KERNELS"] = str(self.bundle / "kernels")
        self.env["LD_LIBRARY_PATH"] = ":".join([*map(str, libraries), self.env.get("LD_LIBRARY_PATH", "")]).rstrip(":")
        self.env["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
        self.env.update(self.mpi())

    def gpu_name(self):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        name = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0].strip()
        if not name:
            sys.exit("nvidia-smi names no GPU; --emulated DRIVER tries this script without one")
        return re.sub(r"[^A-Za-z0-9]+", "-", name.removeprefix("NVIDIA ")).strip("-").lower()

    def mpi(self):
        """For several ranks on one GPU of one machine; where Open MPI lies if it came along."""
        env = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_btl": "self,vader", "OMPI_MCA_pml": "ob1"}
        prefix = self.bundle / "mpi"
        if prefix.is_dir():
            env |= {"OPAL_PREFIX": str(prefix), "OPAL_LIBDIR": str(self.bundle / "lib"), "OPAL_BINDIR": str(prefix / "bin"),
                    "OPAL_PKGLIBDIR": str(prefix / "plugins"), "OPAL_PKGDATADIR": str(prefix / "share"),
                    "OPAL_DATADIR": str(prefix), "PMIX_INSTALL_PREFIX": str(prefix / "pmix"), "PMIX_PKGLIBDIR": str(prefix / "pmix/lib/pmix"),
                    # None: the machine's own plugins of hwloc may be of another version.
                    "HWLOC_PLUGINS_PATH": str(prefix),
                    "PATH": f"{prefix / 'bin'}:{os.environ['PATH']}"}
        return env

    def program(self, name):
        """A program of the bundle: by its name there, or as cargo leaves it in the folder that --bundle names."""
        beside = self.bundle / "bin" / name
        return str(beside if beside.exists() else shutil.which(name, path=str(self.bundle)) or beside)

    def run(self, command, timeout=540, env=None, cwd=None):
        """Runs a command; its output, and how it ended."""
        command = list(map(str, command))
        begin = time.monotonic()
        try:
            done = subprocess.run(command, env=env or self.env, cwd=cwd or self.bundle, text=True, timeout=timeout,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            code, out, err = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as late:
            text = lambda data: data.decode(errors="replace") if isinstance(data, bytes) else data or ""
            code, out, err = 124, text(late.stdout), text(late.stderr)
        except OSError as error:
            code, out, err = 127, "", str(error)
        return {"command": " ".join(command), "code": code, "seconds": round(time.monotonic() - begin, 2), "out": out, "err": err}

    def python(self, script, *args, timeout=540):
        # PyTorch brings its own libraries.
        env = {k: v for k, v in os.environ.items()}
        extra = ["--device", "cpu", "--eager"] if self.tiny else []
        return self.run([self.a.python, HERE.parent / script, *args, *extra], env=env, timeout=timeout)

    # ---- steps ----

    def machine(self):
        """Driver, GPU, versions, the command, and the revision that was bundled."""
        say = lambda *command: self.run(command, timeout=120)["out"].strip()
        revision = self.bundle / "REVISION"
        versions = "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.nccl.version() if torch.cuda.is_available() else '')"
        return {"ok": True, "gpu": self.gpu, "nvidia_smi": say("nvidia-smi", "-q") if not self.tiny else "",
                "nvcc": say("nvcc", "--version"), "torch": say(self.a.python, "-c", versions), "uname": say("uname", "-a"),
                "revision": revision.read_text().strip() if revision.exists() else "", "command": " ".join(sys.argv)}

    def kernels(self, tool=None, only=()):
        """The tests of all operations against the CPU device, on the GPU; under compute-sanitizer with a tool."""
        env = dict(self.env, TAWPIPE_TEST_GPU="1")
        command = [self.program("kernels-tests"), *(only or ("ops::", "attention::", "units::")), "--test-threads=1"]
        if tool:
            # Exit code 9 says that the tool has found something.
            command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *command]
        if tool and self.tiny:
            command = command[5:]
        r = self.run(command, env=env)
        passed = len(re.findall(r"^test .* ok$", r["out"], re.M))
        return {**r, "ok": r["code"] == 0 and passed > 0, "passed": passed, "why": summary.tail(r)}

    def train(self, deck, ranks=1, timeout=540, **settings):
        """The steps that a run reports, and how it ended."""
        folder = self.out / "runs" / f"{time.monotonic_ns()}"
        settings |= {"run.device": "cuda", "run.folder": folder}
        command = [self.program("tawpipe"), "train", deck, "--json"]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        if ranks > 1:
            command = ["mpirun", "--bind-to", "none", "-n", ranks, *command, "--set", "gpu.share=true"]
        r = self.run(command, timeout=timeout)
        shutil.rmtree(folder, ignore_errors=True)
        steps = [json.loads(line) for line in r["out"].splitlines() if line.startswith("{")]
        r["steps"] = [s for s in steps if "step_s" in s]
        del r["out"]
        return r

    def parity(self, config, dtype):
        """20 steps from the same weights on the same data as PyTorch: every loss within the type's rounding."""
        folder = self.bundle / "parity" / config
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
        got = [s["loss"] for s in r["steps"]]
        tolerance = {"f32": 2e-5, "bf16": 3e-3}[dtype]
        worst = max((abs(g - w) / w for g, w in zip(got, wanted)), default=float("nan"))
        good = r["code"] == 0 and len(got) == steps and worst <= tolerance
        return {**r, "ok": good, "worst": worst, "tolerance": tolerance, "why": summary.tail(r)}

    def ranks(self, system, ranks, fabric):
        """Several ranks on this GPU: the losses of one rank, but for the order of sums."""
        folder = self.bundle / "parity" / "a_mha4"
        steps = 2 if self.tiny else 5
        deck = self.deck("ranks", f"""
            model.from = "{folder}/init"
            data = {{ tokens = "{folder}/tokens.bin", token_type = "i32", order = "sequential", seq = 64 }}
            batch = {{ global = 8, micro = 1 }}
            optim = {{ lr = 1e-3, schedule = "constant" }}
            run = {{ steps = {steps}, dtype = "f32" }}
            """)
        alone = self.train(deck, **{"system.name": "single"})
        groups = "[1,1]" if ranks == 2 else "[2,2]"
        r = self.train(deck, ranks, **{"system.name": system, "run.fabric": fabric, "cluster.ranks_per_group": groups})
        pairs = list(zip([s["loss"] for s in alone["steps"]], [s["loss"] for s in r["steps"]]))
        worst = max((abs(a - b) / a for a, b in pairs), default=float("nan"))
        refused = r["code"] == 2
        good = alone["code"] == 0 and (refused or (r["code"] == 0 and len(pairs) == steps and worst <= 2e-5))
        return {**r, "ok": good, "refused": refused, "worst": worst, "why": summary.tail(r)}

    def kernel_table(self):
        r = self.run([self.program("gpu-kernels"), *(["--tiny", "--repeat", "2"] if self.tiny else [])])
        rows = [json.loads(line) for line in r.pop("out").splitlines() if line.startswith("{")]
        return {**r, "ok": r["code"] == 0 and len(rows) > 5, "rows": rows, "why": summary.tail(r)}

    def torch_kernels(self):
        r = self.python("torch_gpu.py", "kernels", *(["--tiny"] if self.tiny else []))
        rows = [json.loads(line) for line in r.pop("out").splitlines() if line.startswith("{")]
        return {**r, "ok": r["code"] == 0 and len(rows) > 5, "rows": rows, "why": summary.tail(r)}

    def model(self, name, seq, who):
        """Tokens a second of a whole model, ours or PyTorch's; too large for the memory is a result."""
        case = models.case(name, seq, self.memory(), self.tiny)
        if case is None:
            return {"ok": True, "fits": False}
        shape, micro, accum, recompute = case["shape"], case["micro"], case["accum"], case["recompute"]
        if who != "tawpipe":
            args = ["train", "--shape", json.dumps(shape), "--seq", seq, "--micro", micro, "--accum", accum]
            args += (["--recompute"] if recompute else []) + (["--pure"] if who == "torch-pure" else [])
            r = self.python("torch_gpu.py", *args)
            rows = [json.loads(line) for line in r.pop("out").splitlines() if line.startswith("{")]
            rows = [row for row in rows if "tokens_per_s" in row]
            memory_ended = "OutOfMemory" in r["err"]
            return {**r, **case, **(rows[-1] if rows else {}), "ok": bool(rows) or memory_ended, "fits": bool(rows), "why": summary.tail(r)}
        steps, warm = (2, 1) if self.tiny else (8, 3)
        deck = self.deck(f"model-{name}-{seq}", f"""
            model = {{ {", ".join(f"{k} = {v}" for k, v in shape.items())} }}
            data = {{ tokens = "{self.tokens(shape['vocab'], seq)}", token_type = "u16", seq = {seq} }}
            batch = {{ global = {micro * accum}, micro = {micro} }}
            optim = {{ lr = 3e-4, weight_decay = 0.1, clip = 1.0 }}
            run = {{ steps = {steps}, dtype = "bf16", recompute = "{"block" if recompute else "none"}" }}
            """)
        r = self.train(deck, **{"system.name": "single"})
        rates = sorted(s["tokens_per_s"] for s in r["steps"][warm:])
        memory_ended = "memory" in r["err"] and r["code"] != 0
        rate = rates[len(rates) // 2] if rates else None
        return {**r, **case, "ok": bool(rates) or memory_ended, "fits": bool(rates), "tokens_per_s": rate, "why": summary.tail(r)}

    # ---- what steps need ----

    def memory(self):
        query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        return float(self.run(query)["out"].split("\n")[0]) * 2**20 if not self.tiny else 8 * 2**30

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

    def steps(self):
        """Every step: name, seconds that it may take, and what does it."""
        yield "machine", 20, self.machine
        yield "a-kernels", 120, self.kernels
        yield "a-memcheck", 400, lambda: self.kernels("memcheck")
        yield "a-racecheck-ops", 400, lambda: self.kernels("racecheck", ["ops::"])
        yield "a-racecheck-attention", 500, lambda: self.kernels("racecheck", ["attention::"])
        for config in ["a_mha4", "b_gqa2"]:
            for dtype in ["f32", "bf16"]:
                yield f"b-{config}-{dtype}", 60, lambda c=config, d=dtype: self.parity(c, d)
        for fabric in ["mpi", "nccl"]:
            for system in SYSTEMS:
                for ranks in [2, 4]:
                    yield f"c-{fabric}-{system}-{ranks}", 90, lambda s=system, r=ranks, f=fabric: self.ranks(s, r, f)
        yield "d-kernels", 300, self.kernel_table
        yield "d-torch", 400, self.torch_kernels
        for name in models.NAMES[:1] if self.tiny else models.NAMES:
            for seq in [32] if self.tiny else models.LENGTHS:
                for who in ["tawpipe", "torch", "torch-pure"]:
                    yield f"e-{name}-{seq}-{who}", 240, lambda n=name, s=seq, w=who: self.model(n, s, w)

    def all(self):
        only = [part for part in self.a.only.split(",") if part]
        left, failed = [], []
        for name, seconds, run in self.steps():
            path = self.out / f"{name}.json"
            if only and not any(name == part or name.startswith(part + "-") for part in only) and name != "machine":
                continue
            old = json.loads(path.read_text()) if path.exists() else None
            if old and old["ok"]:
                continue
            if left or time.monotonic() - self.started + seconds > 60 * self.a.minutes:
                left.append(name)
                continue
            begin = time.monotonic()
            try:
                result = run()
            except Exception as error:
                result = {"ok": False, "why": f"{type(error).__name__}: {error}"}
            result["step_seconds"] = round(time.monotonic() - begin, 1)
            path.write_text(json.dumps(result, indent=1))
            word = "good" if result["ok"] else "FAILED: " + str(result.get("why", ""))
            print(f"{name:36} {result['step_seconds']:7.1f} s  {word}", flush=True)
            if not result["ok"]:
                failed.append(name)
        shutil.rmtree(self.out / "runs", ignore_errors=True)
        (self.out / "summary.md").write_text(summary.text(self.out))
        print(f"{self.out}/summary.md: {len(failed)} steps failed, {len(left)} are left" + (": run again" if left else ""))
        return 1 if failed else 4 if left else 0


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--bundle", default=HERE.parent.parent)
    ap.add_argument("--out", default="")
    ap.add_argument("--minutes", type=float, default=9)
    ap.add_argument("--only", default="", help="steps or parts of them: a,b,c,d,e or a-memcheck")
    ap.add_argument("--python", default=sys.executable, help="one that has PyTorch")
    ap.add_argument("--emulated", default="", help="folder of the emulated driver")
    return Check(ap.parse_args()).all()


if __name__ == "__main__":
    sys.exit(main())
