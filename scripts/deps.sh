#!/bin/sh
# Installs what tawpipe needs beside Rust and make: an MPI, HDF5, libclang (for bindings), oneDNN and a text.
# Does nothing if all of it is there; uses apt as root or through sudo; else says what to install by hand.
#   scripts/deps.sh slurm    also what jobs/virtual-cluster and its tests need
set -eu

# What a build looks for. MPICC, HDF5_DIR and LIBCLANG_PATH point to copies of your own.
missing=""
need() { missing="$missing $*"; }

command -v cc >/dev/null && command -v pkg-config >/dev/null || need build-essential pkg-config
if ! command -v "${MPICC:-mpicc}" >/dev/null || ! command -v mpirun >/dev/null; then need openmpi-bin libopenmpi-dev; fi
[ -n "${HDF5_DIR:-}" ] || command -v h5cc >/dev/null || command -v h5pcc >/dev/null || need libhdf5-dev
command -v h5dump >/dev/null || need hdf5-tools
if [ -z "${LIBCLANG_PATH:-}" ]; then
    found=$(ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* /usr/lib*/libclang*.so* 2>/dev/null | head -n 1)
    [ -n "$found" ] || need libclang-dev
fi

# Useful, not necessary: without oneDNN the crate `gemm` multiplies; without the text, set DATA; without h5py, a few
# tests are skipped.
wanted=""
[ -e /usr/include/dnnl.h ] || pkg-config --exists dnnl 2>/dev/null || wanted="$wanted libdnnl-dev"
[ -n "${DATA:-}" ] || [ -e data/kjv.txt ] || command -v bible >/dev/null || wanted="$wanted bible-kjv"
found=no
for python in "${TAWPIPE_PYTHON:-python3}" /usr/bin/python3; do
    "$python" -c 'import h5py' 2>/dev/null && found=yes && break
done
[ $found = yes ] || wanted="$wanted python3-h5py"

# Namespaces and links, Slurm, and what checks the scripts.
if [ "${1:-}" = slurm ]; then
    for pair in ip:iproute2 nsenter:util-linux python3:python3 munged:munge slurmctld:slurm-wlm shellcheck:shellcheck; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || wanted="$wanted ${pair#*:}"
    done
fi

if [ -z "$missing$wanted" ]; then
    echo "deps: nothing missing"
    exit 0
fi

as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo -n"
if command -v apt-get >/dev/null && { [ -z "$as_root" ] || sudo -n true 2>/dev/null; }; then
    echo "deps: installing$missing$wanted"
    export DEBIAN_FRONTEND=noninteractive
    $as_root apt-get update -qq
    # shellcheck disable=SC2086  # lists of words
    [ -z "$missing" ] || $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
    for package in $wanted; do
        $as_root apt-get install -y -qq --no-install-recommends "$package" >/dev/null || echo "deps: no $package here; going on without"
    done
    exit 0
fi

[ -n "$missing" ] || { echo "deps: all that is necessary is there; useful:$wanted"; exit 0; }
cat >&2 <<EOF
deps: missing$missing, and neither root nor passwordless sudo with apt to install them. By hand, one of:
  Debian, Ubuntu  apt install build-essential pkg-config openmpi-bin libopenmpi-dev libhdf5-dev hdf5-tools libclang-dev libdnnl-dev bible-kjv
  RHEL, Fedora    dnf install gcc make pkgconf openmpi-devel hdf5-devel clang-devel onednn-devel; module load mpi
  Spack           spack install openmpi hdf5 llvm onednn; spack load openmpi hdf5 llvm onednn
  conda           conda install -c conda-forge gcc_linux-64 pkg-config openmpi hdf5 libclang onednn
Copies of your own are found through MPICC (the MPI compiler wrapper), HDF5_DIR (the prefix of HDF5) and LIBCLANG_PATH (the
folder of libclang.so).
EOF
exit 1
