#!/bin/bash
# Runs a command in a clone of HEAD inside a new, minimal Debian root, which has only make, git, certificates and this machine's
# Rust: what a stranger's machine would lack, it lacks. Needs root and mmdebstrap, which is installed if need be.
#
#     scripts/fresh.sh [COMMAND]           a line of shell; by default: make run && make test
#     SUITE=trixie scripts/fresh.sh        another release of Debian than bookworm
#     RUST=debian scripts/fresh.sh         without this machine's Rust
#
# The command sees FRESH_ROOT=yes. Exit code: the command's, or 77 if there can be no such root. Downloaded crates are shared with this machine, and so is the
# file TAWPIPE_TEST_RECORD, where it is set. All happens in namespaces: when their first process ends, also by a signal, all
# processes and mounts are gone, and the root is a folder without mounts, which is removed.
set -euo pipefail

impossible() { echo "fresh: $*" >&2; exit 77; }

# Within the namespaces: mounts, then the new root in place of the old.
if [ "${1:-}" = --within ]; then
    root=$2 command=$3
    mount --bind "$root" "$root"
    share() { # FROM TO [ro]
        mkdir -p "$root/$2"
        mount --bind "$1" "$root/$2"
        [ -z "${3:-}" ] || mount -o "remount,bind,$3" "$root/$2"
    }
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/dev/shm"
    mount --rbind /sys "$root/sys"
    mount -t proc proc "$root/proc"
    share "$FRESH_CARGO/registry" root/.cargo/registry
    if [ "$FRESH_RUST" = machine ]; then
        share "$FRESH_CARGO/bin" root/.cargo/bin ro
        share "$FRESH_RUSTUP" root/.rustup ro
    fi
    if [ -n "${TAWPIPE_TEST_RECORD:-}" ]; then
        touch "$root/record"
        mount --bind "$TAWPIPE_TEST_RECORD" "$root/record"
        export TAWPIPE_TEST_RECORD=/record
    fi
    cd "$root"
    mkdir .machine
    pivot_root . .machine
    # shellcheck disable=SC2016  # for the shell inside, which stays the first process and collects orphans
    exec chroot . /bin/sh -c 'umount -l /.machine && rmdir /.machine && cd /src && sh -c "$1"; exit $?' sh "$command"
fi

cd "$(dirname "$0")/.."
command=${1:-make run && make test}
suite=${SUITE:-bookworm}
rust=${RUST:-machine}
cargo=${CARGO_HOME:-$HOME/.cargo}
rustup=${RUSTUP_HOME:-$HOME/.rustup}
case $rust in
    debian) ;;
    machine) [ -x "$cargo/bin/rustup" ] || impossible "this machine's Rust is not rustup's; RUST=debian does without" ;;
    *) echo "fresh: RUST is machine or debian, not $rust" >&2; exit 2 ;;
esac
[ "$(id -u)" = 0 ] || impossible "needs root"
unshare --mount --pid --fork true 2>/dev/null || impossible "namespaces are denied here"
command -v mmdebstrap >/dev/null || { apt-get update -qq && apt-get install -y -qq mmdebstrap >/dev/null; } ||
    impossible "mmdebstrap cannot be installed"
[ -z "$(git status --porcelain)" ] || echo "fresh: what is not committed is left out" >&2

# This machine's mirrors, from both forms of apt's sources.
uris=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
    sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb \(\[[^]]*\] *\)\?\([^ ]*\).*/\2/p' || true)
mirror=$(grep -m 1 '/debian/\?$' <<<"$uris") || impossible "apt's sources name no mirror of Debian"
security=$(grep -m 1 '/debian-security/\?$' <<<"$uris") || security=""

folder=$(mktemp -d /var/tmp/tawpipe-fresh-XXXXXX)
inside=""
clean() {
    [ -z "$inside" ] || { kill -KILL "$inside" && wait "$inside"; } 2>/dev/null || true
    rm -rf --one-file-system "$folder"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

echo "fresh: Debian $suite, $([ "$rust" = debian ] && echo "Debian's Rust" || echo "this machine's Rust")"
root=$folder/root
{
    echo "deb $mirror $suite main"
    echo "deb $mirror $suite-updates main"
    [ -z "$security" ] || echo "deb $security $suite-security main"
} | mmdebstrap --quiet --variant=minbase --include=make,git,ca-certificates "$suite" "$root" - >"$folder/log" 2>&1 ||
    { tail -n 3 "$folder/log" >&2; impossible "mmdebstrap failed"; }
# Packages start no daemons there.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"
# How this machine reaches the network, and whom it trusts.
for file in etc/hosts etc/resolv.conf etc/pip.conf etc/apt/apt.conf.d etc/apt/auth.conf.d etc/ssl/certs; do
    [ ! -e "/$file" ] || cp -rL "/$file" "$root/$(dirname "$file")/" 2>/dev/null || true
done
mkdir -p "$cargo/registry" "$root/root/.cargo"
cp "$cargo"/config* "$root/root/.cargo/" 2>/dev/null || true
git clone -q . "$root/src"

variables=(FRESH_ROOT=yes HOME=/root PATH=/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
    FRESH_CARGO="$cargo" FRESH_RUSTUP="$rustup" FRESH_RUST="$rust")
while IFS= read -r name; do
    variables+=("$name=${!name}")
done < <(compgen -e | grep -iE '^(https?_proxy|no_proxy|CI|TERM|SSL_CERT_.*|PIP_.*|CARGO_(HTTP|NET|REGISTR|SOURCE).*|TAWPIPE_TEST_RECORD)$')

# In the background, because a shell that waits for a foreground program acts on no signal.
env -i "${variables[@]}" unshare --mount --pid --fork --kill-child \
    bash "$PWD/scripts/fresh.sh" --within "$root" "$command" </dev/null &
inside=$!
code=0
wait "$inside" || code=$?
inside=""
echo "fresh: $command: $([ $code = 0 ] && echo well || echo "ended with $code")" >&2
exit "$code"
