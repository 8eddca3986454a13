#!/bin/sh
# The part of `make lint` that needs tools which not every machine has: shell scripts, spelling, licences and advisories.
set -u
cd "$(dirname "$0")/.." || exit

failed=0
where_installed() { # HOW COMMAND…
    how=$1
    shift
    if command -v "$1" >/dev/null; then
        echo "$1"
        "$@" || failed=1
    else
        echo "lint: not checked, no $1: $how"
    fi
}
where_installed "\`scripts/deps.sh test\` installs it" shellcheck --external-sources --severity=warning \
    .ci/run .ci/checks scripts/*.sh jobs/common.sh jobs/*.sbatch jobs/machines/*.sh
where_installed "\`pip install typos\`" typos
where_installed "\`cargo install cargo-deny\`" cargo-deny check
exit $failed
