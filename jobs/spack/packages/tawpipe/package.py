"""Builds tawpipe from the clone that this file is in. `spack repo add jobs/spack`, then `spack install tawpipe`."""

import os

from spack.package import *

try:  # Spack 1.0 and later
    from spack_repo.builtin.build_systems.cargo import CargoPackage
except ImportError:
    pass

CLONE = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 4))


class Tawpipe(CargoPackage):
    """Trains LLaMA-style models whose weights travel between ranks, over MPI."""

    git = "file://" + CLONE
    license("MIT OR Apache-2.0")
    version("main", branch="main")

    variant("onednn", default=True, description="bf16 matrix products by oneDNN, which is looked for at run time")

    depends_on("c", type="build")
    depends_on("rust@1.89:", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("llvm +clang", type="build")  # libclang, which reads MPI's and HDF5's headers
    depends_on("mpi")
    depends_on("hdf5 +hl")
    depends_on("onednn", when="+onednn", type="run")

    def setup_build_environment(self, env):
        env.set("LIBCLANG_PATH", self.spec["llvm"].prefix.lib)
        env.set("HDF5_DIR", self.spec["hdf5"].prefix)
        env.set("MPICC", self.spec["mpi"].mpicc)

    def setup_run_environment(self, env):
        if self.spec.satisfies("+onednn"):
            env.prepend_path("LD_LIBRARY_PATH", self.spec["onednn"].prefix.lib)
            env.prepend_path("LD_LIBRARY_PATH", self.spec["onednn"].prefix.lib64)
