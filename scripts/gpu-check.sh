#!/bin/sh
# Runs the checks of docs/gpu-checks.md: from a bundle (beside this file), or from a working tree, whose programs it packs
# first. Arguments go to benches/gpu/check.py; run it again until nothing is left.
#
#     scripts/gpu-check.sh [--only a] [--minutes 9] …
#     scripts/gpu-check.sh --emulated         # every step, tiny, on the emulated driver
set -eu

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
if [ -d "$here/bin" ]; then
    # Larger libraries that came in parts, beside the bundle or in it: put together, and what they were before.
    for sum in "$here"/extra-*.sha256 "$here"/../extra-*.sha256; do
        [ -e "$sum" ] || continue
        parts=${sum%.sha256}
        library=$here/extra/$(basename "$parts" | sed 's/^extra-//')
        [ ! -e "$library" ] || continue
        mkdir -p "$here/extra"
        cat "$parts".part-* > "$library.part"
        [ "$(sha256sum < "$library.part")" = "$(cat "$sum")" ] || {
            echo "$parts.part-*: a part is missing or damaged, as $sum tells" >&2
            exit 1
        }
        mv "$library.part" "$library"
    done
    exec "$python" "$here/benches/gpu/check.py" --bundle "$here" --python "$python" "$@"
fi
root=$(dirname "$here")
target=${CARGO_TARGET_DIR:-$root/target}
out=$target/gpu-bundle
# REUSE=1 takes the bundle that is there.
bundled() { [ -n "${REUSE:-}" ] && [ -d "$out/gpu-bundle" ]; }
if [ "${1:-}" = --emulated ]; then
    shift
    make --no-print-directory -C "$root/kernels" driver OUT="$target/kernels"
    bundled || KERNELS="" PROFILE=${PROFILE:-dev} "$here/gpu-bundle.sh" "$out"
    set -- --emulated "$target/kernels/emu/driver" --out "$target/gpu-emulated" "$@"
else
    bundled || "$here/gpu-bundle.sh" "$out"
    set -- --out "$root/benches/gpu/$(date +%F)-$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr -cs 'A-Za-z0-9\n' -)" "$@"
fi
exec "$python" "$root/benches/gpu/check.py" --bundle "$out/gpu-bundle" --python "$python" "$@"
