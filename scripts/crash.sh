#!/usr/bin/env bash
# Kills the daemon, the monitor, whole runs and commands at random moments of real loads, until there
# were KILLS of them; after each the store must be sound and hold all that was acknowledged.
#
#   scripts/crash.sh [KILLS [LANES]]     default 1000, on as many stores at once as there are CPUs + 1
#
# The log directory gets figures.json and, of a round that failed, its store as the kill left it.
# AGENTFS_TEST_SEED repeats what was left to chance; the machine's own timing it does not.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/harness.sh
. scripts/harness.sh
harness_isolate "$PWD/scripts/crash.sh" "$@"
kills=${1:-1000} lanes=${2:-$(($(nproc) + 1))}
harness_begin crash

suite=$(cargo test --workspace --locked --no-run --test crash 2>&1 |
  sed -nE 's/^ *Executable tests\/.*\.rs \((.*)\)$/\1/p')
if [ ! -x "$suite" ]; then
  echo "crash.sh: cargo named no test binary of crash" >&2
  exit 1
fi
log=$logs/rounds.log
code=0
AGENTFS_MUST_RUN=1 AGENTFS_TEST_DIR=$scratch AGENTFS_BIN_DIR=$bin AGENTFS_CRASH_LOGS=$logs \
  AGENTFS_CRASH_KILLS=$kills AGENTFS_CRASH_LANES=$lanes "$suite" --nocapture 2>&1 </dev/null |
  tee "$log" | { grep --line-buffered -E "^AGENTFS_TEST_SEED=|^[0-9]+ of [0-9]+ kills$" || true; } || code=$?
if [ "$code" -eq 0 ]; then
  count 1 0 0
  cat "$logs/figures.json"
  echo
else
  count 0 1 0
  failures+=("a round of kills; its store is below $logs")
  grep -A60 'panicked at' "$log" | head -c 20000 || tail -n 40 "$log"
fi
harness_end
