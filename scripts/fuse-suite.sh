#!/usr/bin/env bash
# Runs tests of a suite of tests/tests as a harness of its own with log and summary.
#
#   scripts/fuse-suite.sh NAME SUITE FILTER..     FILTER as of a test binary: "basic::", "many"
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/harness.sh
. scripts/harness.sh
harness_isolate "$PWD/scripts/fuse-suite.sh" "$@"
harness_begin "$1"
name=$2
shift 2

suite=$(cargo test --workspace --locked --no-run --test "$name" 2>&1 |
  sed -nE 's/^ *Executable tests\/.*\.rs \((.*)\)$/\1/p')
if [ ! -x "$suite" ]; then
  echo "fuse-suite.sh: cargo named no test binary of $name" >&2
  exit 1
fi
# A filter that fits nothing is a misspelt one: what it meant would go untested unseen.
for filter in "$@"; do
  if ! "$suite" --list --format terse "$filter" 2>>"$logs/list.log" | grep ': test$' >/dev/null; then
    echo "fuse-suite.sh: the filter '$filter' matches no test of $name" >&2
    exit 1
  fi
done
log=$logs/tests.log
code=0
AGENTFS_MUST_RUN=1 AGENTFS_TEST_DIR=$scratch AGENTFS_BIN_DIR=$bin "$suite" \
  --test-threads="${AGENTFS_TEST_THREADS:-$(nproc)}" "$@" >"$log" 2>&1 </dev/null || code=$?
if ! [[ $(grep '^test result: ' "$log") =~ \ ([0-9]+)\ passed\;\ ([0-9]+)\ failed ]]; then
  tail -n 40 "$log"
  echo "fuse-suite.sh: the tests did not come to their end, exit $code" >&2
  exit 1
fi
count "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}" 0
while read -r name; do failures+=("$name"); done < <(sed -nE 's/^test (.*) \.\.\. FAILED$/\1/p' "$log")
if [ "$failed" -gt 0 ]; then sed -n '/^failures:$/,$p' "$log" | head -c 20000; fi
harness_end
