#!/usr/bin/env bash
# What CI runs of the long suites, in short: pjdfstest whole, fsx with few operations, eight processes
# at once for some seconds. Prints what they print, and the sum of it in the last line.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" -ne 0 ]; then
  echo "note: run as root to run pjdfstest, fsx and stress" >&2
  echo "0 passed, 0 failed"
  exit 0
fi
passed=0 failed=0
one() { # SCRIPT ARGUMENT..
  local code=0 out
  out=$("$@" 2>&1) || code=$?
  echo "== $*"
  echo "$out"
  if [[ $(tail -n 1 <<<"$out") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
    passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2]))
    if [ "$code" -eq 0 ] || [ "${BASH_REMATCH[2]}" -gt 0 ]; then return 0; fi
  fi
  failed=$((failed + 1))
}
one scripts/pjdfstest.sh
one scripts/fsx.sh 5000 2
one scripts/stress.sh 8
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
