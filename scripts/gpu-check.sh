#!/bin/sh
# Runs the checks of docs/gpu-checks.md: from a bundle (beside this file), or from a repository. There the programs are built
# and packed first where cargo is; where it is not, or with REUSE=1, those of target/gpu-bundle are taken. Arguments go to
# benches/gpu/check.py; run it again until nothing is left.
#
#     scripts/gpu-check.sh --plan first       # then --plan second: two calls to a machine that is lent for 15 minutes
#     scripts/gpu-check.sh [--only a] [--minutes 9] …
#     scripts/gpu-check.sh --emulated …       # every step, tiny, on the emulated driver
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
out=$root/target/gpu-bundle
# What is there already: a folder (REUSE=1), or what `make gpu-bundle` packed elsewhere.
bundled() {
    if [ -n "${REUSE:-}" ] && [ -d "$out/gpu-bundle" ]; then return 0; fi
    if [ -z "${REUSE:-}" ] && command -v cargo > /dev/null; then return 1; fi
    if [ ! -e "$out/gpu-bundle.tar.gz" ]; then
        [ -n "${REUSE:-}" ] && return 1
        echo "neither cargo nor $out/gpu-bundle.tar.gz is here: make gpu-bundle packs it on a machine with cargo" >&2
        exit 2
    fi
    rm -rf "$out/gpu-bundle"
    tar -C "$out" -xzf "$out/gpu-bundle.tar.gz" || exit 1
}
if [ "${1:-}" = --emulated ]; then
    shift
    driver=${CARGO_TARGET_DIR:-$root/target}/kernels
    make --no-print-directory -C "$root/kernels" driver OUT="$driver"
    bundled || KERNELS="" PROFILE=${PROFILE:-dev} "$here/gpu-bundle.sh" "$out"
    set -- --emulated "$driver/emu/driver" --out "$root/target/gpu-emulated" "$@"
else
    bundled || "$here/gpu-bundle.sh" "$out"
fi
exec "$python" "$root/benches/gpu/check.py" --bundle "$out/gpu-bundle" --python "$python" "$@"
