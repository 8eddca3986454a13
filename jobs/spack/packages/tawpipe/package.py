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

    variant("onednn", default=True, description="Matrix products by oneDNN")

    depends_on("c", type="build")
    depends_on("rust@1.89:", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("llvm +clang", type="build")  # libclang, which reads MPI's and HDF5's headers
    depends_on("mpi")
    depends_on("hdf5 +hl")
    depends_on("onednn", when="+onednn")

    @property
    def build_args(self):
        return ["--features", "onednn"] if self.spec.satisfies("+onednn") else []

    def setup_build_environment(self, env):
        env.set("LIBCLANG_PATH", self.spec["llvm"].prefix.lib)
        env.set("HDF5_DIR", self.spec["hdf5"].prefix)
        env.set("MPICC", self.spec["mpi"].mpicc)
        if self.spec.satisfies("+onednn"):
            env.set("DNNL_DIR", self.spec["onednn"].prefix)
