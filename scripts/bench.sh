#!/usr/bin/env bash
# Measures agentfs beside the host and its peers: the tables of `just bench`, `just bench-peers`.
# Leaves logs/bench-TIME/{results.jsonl,summary.json,report.md,plot.svg}. Gates nothing.
#
#   scripts/bench.sh [OPTIONS]     those of `agentfs-test-bench run`, --help prints them
#   scripts/bench.sh list          the rows
#
# With --profile-missed each bar that was missed is looked into after the rounds, as root: a flame graph
# of the daemon (flame-ROW-SUBJECT.svg; needs perf, installs inferno) and a table of the requests, in
# report.md's section "Why the missed bars are missed". What cannot be had is named there.
#
# As root everything lies on a disk in memory, caches are dropped before cold rows, and an ordinary
# user is made for the time of it; else the caller's own agentfs is measured beside the host.
#
# Builds the release programs, unless AGENTFS_BIN_DIR names them. AGENTFS_BENCH_SCRATCH: where to
# work [default: /var/tmp]; AGENTFS_BENCH_NAME: the name of the logs [default: bench].
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/harness.sh
. scripts/harness.sh
harness_isolate "$PWD/scripts/bench.sh" "$@"

target=$(cargo metadata --format-version 1 --no-deps --offline |
  sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
if [ -z "${AGENTFS_BIN_DIR:-}" ]; then
  cargo build --release --workspace --locked --quiet
  export AGENTFS_BIN_DIR=$target/release
fi
bench=$AGENTFS_BIN_DIR/agentfs-test-bench
if [ ! -x "$bench" ]; then
  cargo build --release --locked --quiet -p agentfs-tests --bin agentfs-test-bench
  bench=$target/release/agentfs-test-bench
fi
for word in "$@"; do
  case $word in
    list) exec "$bench" list ;;
    -h | --help) exec "$bench" "${AGENTFS_BENCH_COMMAND:-run}" --help ;;
  esac
done

# Without it the report says that there is no flame graph, and what is missing.
case " $* " in *" --profile-missed "*)
  if tools=$(scripts/profile-tools.sh); then export AGENTFS_PROFILE_TOOLS=$tools; fi
  ;;
esac

harness_log "${AGENTFS_BENCH_NAME:-bench}"
# By it scripts/leaks.sh knows whatever is left of this run.
export SUITE_MARKER=harness
scratch=$(mktemp -d "${AGENTFS_BENCH_SCRATCH:-/var/tmp}/agentfs-bench.XXXXXX")
chmod 755 "$scratch"
undo() {
  scripts/test-user.sh down "$logs/user-state"
  mounts | while read -r point; do umount --lazy "$point"; done
  rm -rf --one-file-system "$scratch"
}
trap undo EXIT

# The ordinary user is there only when somebody is to be it.
needs_user() { # OPTION..
  case " $* " in
    *agentfs-user*) return 0 ;;
    *--subject*) return 1 ;;
  esac
  [ "${AGENTFS_BENCH_COMMAND:-run}" = run ]
}

options=(--logs "$logs" --scratch "$scratch")
if [ "$(id -u)" -eq 0 ] && needs_user "$@"; then
  scripts/test-user.sh up "$logs/user-state"
  # shellcheck source=/dev/null
  . "$logs/user-state" # user
  options+=(--user "${user:?}")
fi
code=0
"$bench" "${AGENTFS_BENCH_COMMAND:-run}" "${options[@]}" "$@" &
bench_pid=$!
# It takes everything down, and ends then.
trap 'kill -TERM "$bench_pid" 2>/dev/null || true' INT TERM HUP
wait "$bench_pid" || code=$?
# A signal ends the waiting, not the program.
while kill -0 "$bench_pid" 2>/dev/null; do
  code=0
  wait "$bench_pid" || code=$?
done
echo "logs: $logs"
exit "$code"
