#!/usr/bin/env bash
# Runs the suites once for each way in which a mount can be served: both regimes
# (AGENTFS_FUSE_REGIME), each by both ways of requests (AGENTFS_FUSE_TRANSPORT). Prints what test.sh
# prints, then one line for each of the four and the sum; exits 1 if any of them failed.
#
#   scripts/every-way.sh             all suites that mount anything, and the suites of others
#   scripts/every-way.sh SUITE..     only these (names of scripts/suites.sh)
#   scripts/every-way.sh external    pjdfstest, fsx and stress alone
#
# Left out are the unit tests, the documentation's and suites_any_way of scripts/suites.sh: nothing in
# them depends on it, and test.sh runs them. Knobs: those of test.sh; AGENTFS_FUSE_REGIME or
# AGENTFS_FUSE_TRANSPORT set leaves only the ways with that. An ordinary user cannot switch io_uring
# on, and is told so where root has not.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/suites.sh
. scripts/suites.sh

wanted=("$@")
if [ $# -eq 0 ]; then
  for suite in $suites_both $suites_once; do
    case " $suites_any_way " in *" $suite "*) ;; *) wanted+=("$suite") ;; esac
  done
  wanted+=(external)
fi

sum=$(mktemp /var/tmp/agentfs-every-way.XXXXXX)
trap 'rm -f "$sum"' EXIT
switch=/sys/module/fuse/parameters/enable_uring
lines=() all_passed=0 all_failed=0
for transport in device io-uring; do
  for regime in passthrough zero-open; do
    way="$regime by $transport"
    if [ "${AGENTFS_FUSE_REGIME:-$regime}" != "$regime" ] ||
      [ "${AGENTFS_FUSE_TRANSPORT:-$transport}" != "$transport" ]; then
      continue
    fi
    if [ $transport = io-uring ] && [ "$(id -u)" -ne 0 ] && [ "$(cat "$switch" 2>/dev/null)" != Y ]; then
      lines+=("note    $way: left out, only root can switch it on: echo Y > $switch")
      continue
    fi
    echo "== $way"
    start=$SECONDS code=0 passed=0 failed=0
    : >"$sum"
    AGENTFS_FUSE_REGIME=$regime AGENTFS_FUSE_TRANSPORT=$transport AGENTFS_TEST_SUM=$sum \
      scripts/test.sh "${wanted[@]}" || code=$?
    # Without a sum it stopped before its end.
    if [ -s "$sum" ]; then read -r passed failed <"$sum"; fi
    if [ "$code" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
    all_passed=$((all_passed + passed)) all_failed=$((all_failed + failed))
    word=ok
    if [ "$failed" -gt 0 ]; then word=FAILED; fi
    lines+=("$(printf '%-7s %s: %s passed, %s failed in %s s' "$word" "$way" "$passed" "$failed" $((SECONDS - start)))")
  done
done
if [ ${#lines[@]} -eq 0 ]; then
  echo "every-way.sh: no way is both AGENTFS_FUSE_REGIME=${AGENTFS_FUSE_REGIME:-} and" \
    "AGENTFS_FUSE_TRANSPORT=${AGENTFS_FUSE_TRANSPORT:-}" >&2
  echo "  fix: passthrough or zero-open, and device or io-uring; or unset them" >&2
  exit 1
fi
echo "== every way"
printf '%s\n' "${lines[@]}"
echo "$all_passed passed, $all_failed failed"
[ "$all_passed" -gt 0 ] && [ "$all_failed" -eq 0 ]
