#!/bin/sh
# Runs `cargo test` with the given arguments and says at the end what passed, what failed and what could not run here.
#   scripts/test.sh [--kernels] [ARGUMENTS]     --kernels compiles the kernels for GPUs first, where nvcc can be had
#   TAWPIPE_TEST_RECORD=FILE                    results are appended there, for a caller who adds up several runs himself
set -u
cd "$(dirname "$0")/.." || exit

own=""
if [ -z "${TAWPIPE_TEST_RECORD:-}" ]; then
    own=$(mktemp)
    TAWPIPE_TEST_RECORD=$own
fi
export TAWPIPE_TEST_RECORD
said=$(mktemp)
trap 'rm -f "$said" "$said.code" $own' EXIT

failed=0
if [ "${1:-}" = --kernels ]; then
    shift
    if ! scripts/nvcc.sh >/dev/null; then
        printf >>"$TAWPIPE_TEST_RECORD" 'passed\t1\nskipped\tno nvcc\tscripts/nvcc.sh installs it where Python has venv and pip\tkernels for GPUs\n'
    elif make --no-print-directory kernels; then
        printf >>"$TAWPIPE_TEST_RECORD" 'passed\t1\n'
    else
        failed=1
        printf >>"$TAWPIPE_TEST_RECORD" 'failed\t1\tmake kernels\n'
    fi
fi

{ cargo test --no-fail-fast "$@" 2>&1; echo $? >"$said.code"; } | tee "$said"
code=$(cat "$said.code")

# Cargo names each program before it runs; one that gave no result has crashed.
awk '
    / Running (unittests )?[^ ]+ \(/ || / Doc-tests / { lost(); program = $0; sub(/^ *(Running (unittests )?|Doc-)/, "", program) }
    /^test result: / {
        print "passed\t" $4
        if ($6 > 0) { print "failed\t" $6 "\t" program; failures = 1 }
        program = ""
    }
    END { lost(); if (code != 0 && !failures) print "failed\t1\tcargo test, code " code }
    function lost() { if (program != "") { print "failed\t1\t" program " ended without a result"; failures = 1 } }
' code="$code" "$said" >>"$TAWPIPE_TEST_RECORD"

if [ -n "$own" ]; then
    awk -f scripts/test-summary.awk "$own"
else
    exit $((failed || code))
fi
