#!/bin/sh
# Prints where nvcc is: the toolkit's, or one from PyPI in target/nvcc, which is installed if need be.
#
# CUDA 13.0: machine code from it needs a driver of branch R580 or later. For an older driver give `make kernels` a
# toolkit 12.x: NVCC=/usr/local/cuda-12.8/bin/nvcc.
set -eu

for nvcc in nvcc /usr/local/cuda/bin/nvcc; do
    if command -v "$nvcc" >/dev/null 2>&1; then
        command -v "$nvcc"
        exit 0
    fi
done

root=$(cd "$(dirname "$0")/.." && pwd)
venv=$root/target/nvcc
found() { ls "$venv"/lib/python3.*/site-packages/nvidia/cu13/bin/nvcc 2>/dev/null; }
if ! found >/dev/null; then
    echo "no CUDA toolkit: installing nvcc 13.0 into $venv (300 MB)" >&2
    python3 -m venv "$venv" >&2
    "$venv/bin/pip" install -q 'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-cuda-runtime==13.0.*' \
        'nvidia-nvvm==13.0.*' 'nvidia-cuda-cccl==13.0.*' >&2
fi
found
