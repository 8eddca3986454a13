#!/bin/sh
# Installs what tawpipe needs beside make and git: Rust, an MPI, HDF5, libclang (for bindings), oneDNN and a text.
# Does nothing if all of it is there; uses apt as root or through sudo; else says what to install by hand.
#   scripts/deps.sh test    also what the tests use: Slurm, links of a virtual cluster, h5py, other processors, shellcheck
set -eu
cd "$(dirname "$0")/.."

# What a build looks for. MPICC, HDF5_DIR and LIBCLANG_PATH point to copies of your own.
missing=""
need() { missing="$missing $*"; }

# Rust: what Cargo.toml says, or newer. Debian's security archive has a recent one as cargo-web and rustc-web.
rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
recent() { [ -n "$1" ] && printf '%s\n' "$rust" "$1" | sort -C -V; }
rustc_version() { command -v cargo >/dev/null && rustc --version 2>/dev/null | cut -d ' ' -f 2; }
rust_is_recent() { recent "$(rustc_version)"; }
explain_rust() {
    found=$(rustc_version || true)
    echo "deps: Rust ${found:-is missing}: $rust or newer is needed; \`rustup update\` or https://rustup.rs gives it," \
        "or Debian's packages cargo-web and rustc-web" >&2
}
old_rust=""
if ! rust_is_recent; then
    # What rustup manages, or was put beside Debian's, stays in front of anything that apt installs.
    case $(command -v cargo || echo /usr/bin/cargo) in
    /usr/bin/cargo | /bin/cargo) if command -v rustup >/dev/null; then old_rust=yes; else need cargo-web rustc-web; fi ;;
    *) old_rust=yes ;;
    esac
fi
[ -z "$old_rust" ] || { explain_rust; exit 1; }

command -v cc >/dev/null && command -v c++ >/dev/null && command -v pkg-config >/dev/null || need build-essential pkg-config
if ! command -v "${MPICC:-mpicc}" >/dev/null || ! command -v mpirun >/dev/null; then need openmpi-bin libopenmpi-dev; fi
[ -n "${HDF5_DIR:-}" ] || command -v h5cc >/dev/null || command -v h5pcc >/dev/null || need libhdf5-dev
command -v h5dump >/dev/null || need hdf5-tools
if [ -z "${LIBCLANG_PATH:-}" ]; then
    # The names and places that bindgen tries. LLVM's libclang-cpp.so, which has no number, is another library.
    found=no
    usr=${DEPS_USR:-/usr} # tests have one of their own
    for folder in "$usr"/local/llvm*/lib* "$usr"/local/lib* "$usr"/local/lib*/* "$usr"/local/lib*/*/* \
        "$usr"/lib* "$usr"/lib*/* "$usr"/lib*/*/*; do
        for file in "$folder"/libclang.so* "$folder"/libclang-[0-9]*.so*; do
            [ ! -e "$file" ] || found=yes
        done
    done
    [ $found = yes ] || need libclang-dev
fi

# Useful, not necessary: without oneDNN the crate `gemm` multiplies; without the text, set DATA; without what tests use,
# they are counted as skipped.
wanted=""
# The library alone is used, at run time; its package has another name in every release, and this one brings it.
PATH="$PATH:/usr/sbin:/sbin" ldconfig -p 2>/dev/null | grep -q 'libdnnl\.so' || wanted="$wanted libdnnl-dev"
[ -n "${DATA:-}" ] || [ -e data/kjv.txt ] || command -v bible >/dev/null || wanted="$wanted bible-kjv"

if [ "${1:-}" = test ] || [ "${1:-}" = slurm ]; then
    for pair in ip:iproute2 nsenter:util-linux python3:python3 munged:munge slurmctld:slurm-wlm shellcheck:shellcheck \
        qemu-x86_64:qemu-user; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || wanted="$wanted ${pair#*:}"
    done
    python3 -c 'import ensurepip' 2>/dev/null || wanted="$wanted python3-venv"
    found=no
    for python in "${TAWPIPE_PYTHON:-python3}" /usr/bin/python3; do
        "$python" -c 'import h5py' 2>/dev/null && found=yes && break
    done
    [ $found = yes ] || wanted="$wanted python3-h5py"
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
    case $missing in *cargo-web*)
        offered=$(apt-cache show --no-all-versions cargo-web 2>/dev/null | sed -n 's/^Version: \([0-9.]*\).*/\1/p')
        recent "$offered" || { explain_rust; exit 1; } ;;
    esac
    # shellcheck disable=SC2086  # lists of words
    [ -z "$missing" ] || $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
    rust_is_recent || { explain_rust; exit 1; }
    for package in $wanted; do
        $as_root apt-get install -y -qq --no-install-recommends "$package" >/dev/null || echo "deps: no $package here; going on without"
    done
    exit 0
fi

[ -n "$missing" ] || { echo "deps: all that is necessary is there; useful:$wanted"; exit 0; }
case $missing in *cargo-web*) explain_rust ;; esac
cat >&2 <<EOT
deps: missing$missing, and neither root nor passwordless sudo with apt to install them. By hand, one of:
  Debian, Ubuntu  apt install build-essential pkg-config openmpi-bin libopenmpi-dev libhdf5-dev hdf5-tools libclang-dev libdnnl-dev bible-kjv
  RHEL, Fedora    dnf install gcc make pkgconf openmpi-devel hdf5-devel clang-devel onednn-devel; module load mpi
  Spack           spack install openmpi hdf5 llvm onednn; spack load openmpi hdf5 llvm onednn
  conda           conda install -c conda-forge gcc_linux-64 pkg-config openmpi hdf5 libclang onednn
Copies of your own are found through MPICC (the MPI compiler wrapper), HDF5_DIR (the prefix of HDF5) and LIBCLANG_PATH (the
folder of libclang.so).
EOT
exit 1
