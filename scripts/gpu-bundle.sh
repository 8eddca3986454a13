#!/bin/sh
# Packs what a GPU machine needs to run benches/gpu/check.py into OUT/gpu-bundle.tar.gz, at most 40 MiB, and 60 MiB with the
# repository's files: programs, kernels, Open MPI, HDF5 and every other library but those of the C and C++ compilers, references,
# scripts. That machine needs a driver, Python with PyTorch and, for part (a), compute-sanitizer; no Rust, no MPI, no network. See
# docs/gpu-checks.md.
#
#     scripts/gpu-bundle.sh [OUT]             # default: target/gpu-bundle
#     PROFILE=dev scripts/gpu-bundle.sh       # programs as `make test` builds them
#     KERNELS=DIR scripts/gpu-bundle.sh       # fatbins from there instead of `make kernels`; empty: none
#     EXTRA=/path/libnccl.so.2 …              # larger libraries, in parts of 60 MiB beside the bundle
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/target/gpu-bundle}
profile=${PROFILE:-release}
target=${CARGO_TARGET_DIR:-$root/target}
dir=$out/gpu-bundle
rm -rf "$dir"
mkdir -p "$dir/bin" "$dir/lib" "$dir/kernels" "$dir/parity"
cd "$root"

# ---- kernels and programs ----

if [ -z "${KERNELS+set}" ]; then
    make --no-print-directory kernels
    KERNELS=$target/kernels/fatbins
fi
[ -z "$KERNELS" ] || cp "$KERNELS"/*.fatbin "$dir/kernels/"

# The file that cargo built: the last executable that it names.
built() { python3 -c 'import json, sys
print([x["executable"] for x in map(json.loads, sys.stdin) if x.get("executable")][-1])'; }
program() { # NAME COMMAND…
    name=$1
    shift
    file=$("$@" --profile "$profile" --message-format json | built)
    cp "$file" "$dir/bin/$name"
    strip "$dir/bin/$name"
}
program tawpipe cargo build --bin tawpipe
program kernels-tests cargo test --no-run --test kernels
program gpu-kernels cargo bench --no-run --bench gpu_kernels

# ---- libraries ----

# What a program or library needs, but for the C library and the compilers' own, which belong to the machine: the tools there
# (Nsight Compute, say) may need theirs to be newer than ours.
needs() { ldd "$@" 2>/dev/null | awk '$3 ~ /^\// { print $3 }' | sort -u |
    grep -vE '/(ld-linux[^/]*|lib(c|m|dl|rt|pthread|resolv|util|nsl|cuda|gcc_s|stdc\+\+))\.so' || true; }
take() { for library in $(needs "$@"); do cp -n "$library" "$dir/lib/"; done; }

mpirun=$(command -v mpirun.openmpi || command -v mpirun)
option() { ompi_info --parsable --path "$1" | sed -n "s/^path:$1://p"; }
plugins=$(option pkglibdir)
mkdir -p "$dir/mpi/bin" "$dir/mpi/plugins" "$dir/mpi/pmix/lib/pmix"
cp "$(readlink -f "$mpirun")" "$dir/mpi/bin/mpirun"
cp "$(readlink -f "$(command -v orted)")" "$dir/mpi/bin/orted"
# Without what speaks to networks and batch systems: all ranks are on one machine.
for plugin in "$plugins"/mca_*.so; do
    case $(basename "$plugin") in
    *ucx* | *ofi* | *psm* | *openib* | *usnic* | *portals* | *uct* | *monitoring* | *_slurm* | *_tm.so | *oshmem* | *spml* | \
        *scoll* | *sshmem* | *memheap* | *atomic* | *hcoll* | *romio* | *cuda*) ;;
    *) cp "$plugin" "$dir/mpi/plugins/" ;;
    esac
done
cp -r "$(option pkgdatadir)" "$dir/mpi/share"
for plugin in /usr/lib/*/pmix2/lib/pmix/*.so /usr/lib/*/pmix/*.so "$plugins"/../pmix/*.so; do
    [ ! -e "$plugin" ] || cp "$plugin" "$dir/mpi/pmix/lib/pmix/"
done
take "$dir"/bin/* "$dir"/mpi/bin/*
take "$dir"/mpi/plugins/*.so
[ -z "$(ls "$dir/mpi/pmix/lib/pmix")" ] || take "$dir"/mpi/pmix/lib/pmix/*.so
missing=$(LD_LIBRARY_PATH=$dir/lib ldd "$dir"/bin/* "$dir"/mpi/bin/* | grep 'not found' || true)
[ -z "$missing" ] || { echo "libraries are missing: $missing" >&2; exit 1; }

# ---- references, scripts ----

for config in a_mha4 b_gqa2; do
    mkdir -p "$dir/parity/$config"
    cp -r tests/data/parity/$config/init tests/data/parity/$config/reference.json tests/data/parity/$config/tokens.bin \
        "$dir/parity/$config/"
done
mkdir -p "$dir/benches/gpu"
cp benches/torch_gpu.py benches/torch_model.py "$dir/benches/"
cp benches/gpu/*.py "$dir/benches/gpu/"
cp scripts/gpu-check.sh "$dir/"
git describe --always --dirty > "$dir/REVISION"

# ---- packing ----

tar -C "$out" -c gpu-bundle | gzip -9 > "$out/gpu-bundle.tar.gz"
rm -f "$out"/extra-*
for file in ${EXTRA:-}; do
    name=$(basename "$file")
    split -b 60m -d "$(readlink -f "$file")" "$out/extra-$name.part-"
    sha256sum < "$(readlink -f "$file")" > "$out/extra-$name.sha256"
    ls -l "$out/extra-$name".* | awk '{ printf "    %3d MiB %s\n", $5 / 1048576, $NF }'
done
size=$(stat -c %s "$out/gpu-bundle.tar.gz")
# What a copy of the repository holds: everything that git does not ignore.
tree=0
if git rev-parse --git-dir > /dev/null 2>&1; then
    tree=$(git ls-files -z --cached --others --exclude-standard | xargs -0 stat -c %s 2> /dev/null | awk '{ n += $1 } END { print n }')
fi
du -sh "$dir"/* | sed 's/^/    /'
mib() { awk "BEGIN { printf \"%.1f MiB\", $1 / 1048576 }"; }
echo "$out/gpu-bundle.tar.gz: $(mib "$size"); the repository's files: $(mib "$tree")"
[ "$size" -le $((40 << 20)) ] || { echo "the bundle has more than 40 MiB" >&2; exit 1; }
[ $((size + tree)) -le $((60 << 20)) ] || { echo "bundle and repository have more than 60 MiB" >&2; exit 1; }
