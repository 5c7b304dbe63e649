#!/usr/bin/env bash
# Attaches perf to the daemon while a row of the bench runs, and leaves a flame graph. For each bar
# that a whole run missed: scripts/bench.sh --profile-missed.
#
#   scripts/perf-profile.sh [ROW [OPTIONS]]     default tar-x; rows: scripts/bench.sh list;
#                                               OPTIONS of `agentfs-test-bench run`, as
#                                               --subjects agentfs-user, --ops 20000
#
# Builds the release programs, unless AGENTFS_BIN_DIR names them. AGENTFS_PROFILE_HZ: samples a second
# [default: 1999]; AGENTFS_PROFILE_UNWIND: as perf's --call-graph [default: dwarf,8192, which any
# build can do; fp for programs built with frame pointers]. Needs perf, installs inferno
# (scripts/profile-tools.sh). Leaves logs/perf-profile-TIME/{flame-ROW-SUBJECT.svg,
# perf-ROW-SUBJECT.data,perf-ROW-SUBJECT.folded,report.md}.
set -euo pipefail
cd "$(dirname "$0")/.."
row=${1:-tar-x}
if [ $# -gt 0 ]; then shift; fi
AGENTFS_PROFILE_TOOLS=$(scripts/profile-tools.sh)
export AGENTFS_BENCH_NAME=perf-profile AGENTFS_PROFILE_TOOLS
exec scripts/bench.sh --rows "$row" --subjects agentfs --runs 1 --profile --profile-unwind \
  "${AGENTFS_PROFILE_UNWIND:-dwarf,8192}" --profile-hz "${AGENTFS_PROFILE_HZ:-1999}" "$@"
