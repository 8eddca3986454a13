"""The machine that is checked: its GPU, the programs of the bundle, what they need to run, and how they are run."""

import functools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent


def environment(**variables):
    """What the caller has set goes before what we would."""
    return {name: os.environ.get(name, value) for name, value in variables.items()}


class Host:
    """`bundle`: a folder of scripts/gpu-bundle.sh. `python`: one that has PyTorch, perhaps. `emulated`: folder of the emulated
    driver; with it there is no GPU, everything is tiny, and PyTorch computes on the CPU."""

    def __init__(self, bundle, python, emulated):
        self.bundle = pathlib.Path(bundle).resolve()
        self.emulated = pathlib.Path(emulated).resolve() if emulated else None
        self.tiny = self.emulated is not None
        self.python = python
        # When what runs is ended, of time.monotonic().
        self.deadline = time.monotonic() + 60
        self.gpu = "emulated" if self.tiny else self.gpu_name()
        self.driver = "" if self.tiny else self.ask("driver_version")
        self.env = dict(os.environ)
        libraries = [self.bundle / "extra", self.bundle / "lib"]
        if self.emulated:
            libraries.insert(0, self.emulated)
            self.env["TAWPIPE_KERNELS"] = str(self.emulated / "modules")
        else:
            libraries += self.cuda_libraries()
            self.env["TAWPIPE_KERNELS"] = str(self.bundle / "kernels")
        self.env["LD_LIBRARY_PATH"] = ":".join([*map(str, libraries), self.env.get("LD_LIBRARY_PATH", "")]).rstrip(":")
        self.env |= self.mpi()
        # Ranks that share a GPU: a collective of NCCL takes few blocks, so that those of all ranks fit beside each other.
        self.env |= environment(NCCL_MULTI_RANK_GPU_ENABLE="1", NCCL_MAX_CTAS="2", NCCL_NVLS_ENABLE="0")

    # ---- what there is ----

    def ask(self, query):
        """One number or name that nvidia-smi knows of the first GPU."""
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "--id=0"]
        r = self.run(command, timeout=30, env=dict(os.environ))
        return r["out"].strip() if r["code"] == 0 else ""

    def gpu_name(self):
        name = self.ask("name")
        if not name:
            sys.exit("nvidia-smi names no GPU; --emulated DRIVER tries this script without one")
        return re.sub(r"[^A-Za-z0-9]+", "-", name.removeprefix("NVIDIA ")).strip("-").lower()

    @functools.cached_property
    def memory(self):
        """Bytes of the GPU."""
        return 8 * 2**30 if self.tiny else float(self.ask("memory.total")) * 2**20

    @functools.cached_property
    def torch(self):
        """PyTorch's version and its folder; two empty words where there is none. It is not started: that takes seconds."""
        code = ("import importlib.metadata as m, importlib.util as u\n"
                "s = u.find_spec('torch')\n"
                "print(m.version('torch'), s.submodule_search_locations[0])")
        r = self.run([self.python, "-c", code], timeout=30, env=dict(os.environ))
        version, _, folder = r["out"].strip().partition(" ") if r["code"] == 0 else ("", "", "")
        return version, folder

    def no_torch(self):
        """Why PyTorch cannot be compared with, or None."""
        version = self.torch[0]
        if not version:
            return f"no PyTorch in {self.python}; PYTHON=… names another"
        return f"PyTorch {version} is for processors alone" if version.endswith("+cpu") and not self.tiny else None

    @functools.cache
    def tool(self, name):
        """A tool of the CUDA toolkit: compute-sanitizer, ncu. None without one, and where the GPU is emulated."""
        beside = ["/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer", "/usr/local/cuda/nsight-compute"]
        profilers = sorted(pathlib.Path("/opt/nvidia/nsight-compute").glob("*"), reverse=True)
        path = ":".join([os.environ.get("PATH", ""), *beside, *map(str, profilers)])
        return None if self.tiny else shutil.which(name, path=path)

    def cuda_libraries(self):
        """Folders of CUDA's libraries: of a toolkit, of PyTorch's packages, of a driver that the loader may not know."""
        toolkit = ["/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"]
        folders = [path for path in map(pathlib.Path, toolkit) if path.is_dir()]
        if folder := self.torch[1]:
            # nvidia/cublas/lib of CUDA 12, nvidia/cu13/lib of CUDA 13.
            libraries = (pathlib.Path(folder).parent / "nvidia").glob("*/lib/lib*.so*")
            folders += sorted(path.parent for path in libraries if path.name.startswith(("libcublasLt.so", "libnccl.so")))
        folders += [path for path in [pathlib.Path("/usr/local/nvidia/lib64")] if path.is_dir()]
        return list(dict.fromkeys(map(str, folders)))

    def mpi(self):
        """For several ranks on one machine; and where Open MPI lies if it came along."""
        env = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_btl": "self,vader", "OMPI_MCA_pml": "ob1"}
        prefix = self.bundle / "mpi"
        if prefix.is_dir():
            plugins = prefix / "pmix/lib/pmix"
            env |= {"OPAL_PREFIX": str(prefix), "OPAL_LIBDIR": str(self.bundle / "lib"), "OPAL_BINDIR": str(prefix / "bin"),
                    "OPAL_PKGLIBDIR": str(prefix / "plugins"), "OPAL_PKGDATADIR": str(prefix / "share"),
                    "OPAL_DATADIR": str(prefix), "PMIX_INSTALL_PREFIX": str(prefix / "pmix"), "PMIX_PKGLIBDIR": str(plugins),
                    # None: the machine's own plugins of hwloc may be of another version.
                    "HWLOC_PLUGINS_PATH": str(prefix),
                    "PATH": f"{prefix / 'bin'}:{os.environ.get('PATH', '/usr/bin:/bin')}"}
        return env

    # ---- what is run ----

    def program(self, name):
        """A program of the bundle: by its name there, or as cargo leaves it in the folder that --bundle names."""
        beside = self.bundle / "bin" / name
        return str(beside if beside.exists() else shutil.which(name, path=str(self.bundle)) or beside)

    def run(self, command, timeout=None, env=None):
        """Runs a command, until the step's deadline or for `timeout` seconds: its output, and how it ended."""
        command = list(map(str, command))
        begin = time.monotonic()
        limit = self.deadline - begin
        limit = limit if timeout is None else min(timeout, limit)
        try:
            code, out, err = run_group(command, limit, env or self.env, self.bundle)
        except OSError as error:
            code, out, err = 127, "", str(error)
        seconds = round(time.monotonic() - begin, 2)
        return {"command": " ".join(command), "code": code, "seconds": seconds, "out": out, "err": err}

    def run_torch(self, *args):
        """benches/torch_gpu.py, which brings its own libraries."""
        cpu = ["--device", "cpu", "--eager"] if self.tiny else []
        return self.run([self.python, HERE.parent / "torch_gpu.py", *args, *cpu], env=dict(os.environ))


def run_group(command, limit, env, folder):
    """Runs a command in a process group of its own, which ends with it: what a command leaves behind would hold the GPU. Gives
    exit code (124 if it had to be ended), output and errors."""
    if limit <= 0:
        return 124, "", "no time was left"
    process = subprocess.Popen(command, env=env, cwd=folder, text=True, errors="replace", stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=os.setpgrp)
    try:
        out, err = process.communicate(timeout=limit)
        return process.returncode, out, err
    except subprocess.TimeoutExpired:
        # A launcher ends its ranks, which are in other groups, if it is asked to; who does not listen is killed.
        end(process, signal.SIGTERM)
        wait(process)
        end(process, signal.SIGKILL)
        out, err = rest(process)
        return 124, out, f"{err}\nended after {limit:.0f} s"
    finally:
        end(process, signal.SIGKILL)
        wait(process)


def end(process, number):
    """Sends a signal to all of a process's group that is left."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def wait(process):
    """For a moment: a driver may keep a process from ending."""
    try:
        process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        pass


def rest(process):
    """What was said until now; who has left the group may hold the pipes for ever."""
    try:
        return process.communicate(timeout=1)
    except subprocess.TimeoutExpired as late:
        text = lambda data: data.decode(errors="replace") if isinstance(data, bytes) else data or ""
        return text(late.stdout), text(late.stderr)
