"""The machine that is checked: its GPU, the programs of the bundle, what they need to run, and how they are run."""

import functools
import os
import pathlib
import re
import shutil
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
        self.gpu = "emulated" if self.tiny else self.gpu_name()
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
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            return ""

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
        """PyTorch's version, that of its CUDA, and whether it sees a GPU; empty where there is no PyTorch."""
        code = "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.is_available())"
        return self.run([self.python, "-c", code], timeout=120, env=dict(os.environ))["out"].strip()

    def no_torch(self):
        """Why PyTorch cannot be compared with, or None."""
        if not self.torch:
            return f"no PyTorch in {self.python}; PYTHON=… names another"
        return None if self.tiny or self.torch.endswith("True") else "PyTorch sees no GPU"

    @functools.cached_property
    def sanitizer(self):
        """compute-sanitizer of the CUDA toolkit; None without one."""
        if self.tiny:
            return None
        beside = ["/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer"]
        return shutil.which("compute-sanitizer", path=":".join([os.environ.get("PATH", ""), *beside]))

    def cuda_libraries(self):
        """Folders of CUDA's libraries: of a toolkit, and of PyTorch's packages."""
        toolkit = ["/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"]
        folders = [path for path in map(pathlib.Path, toolkit) if path.is_dir()]
        where = self.run([self.python, "-c", "import torch; print(torch.__path__[0])"], timeout=120, env=dict(os.environ))
        if where["code"] == 0:
            # nvidia/cublas/lib of CUDA 12, nvidia/cu13/lib of CUDA 13.
            libraries = (pathlib.Path(where["out"].strip()).parent / "nvidia").glob("*/lib/lib*.so*")
            folders += sorted(path.parent for path in libraries if path.name.startswith(("libcublasLt.so", "libnccl.so")))
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

    def run(self, command, timeout=540, env=None):
        """Runs a command: its output, and how it ended."""
        command = list(map(str, command))
        begin = time.monotonic()
        try:
            done = subprocess.run(command, env=env or self.env, cwd=self.bundle, text=True, errors="replace", timeout=timeout,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            code, out, err = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as late:
            text = lambda data: data.decode(errors="replace") if isinstance(data, bytes) else data or ""
            code, out, err = 124, text(late.stdout), text(late.stderr) + f"\nnot done after {timeout} s"
        except OSError as error:
            code, out, err = 127, "", str(error)
        seconds = round(time.monotonic() - begin, 2)
        return {"command": " ".join(command), "code": code, "seconds": seconds, "out": out, "err": err}

    def run_torch(self, *args):
        """benches/torch_gpu.py, which brings its own libraries."""
        cpu = ["--device", "cpu", "--eager"] if self.tiny else []
        return self.run([self.python, HERE.parent / "torch_gpu.py", *args, *cpu], env=dict(os.environ))
