#!/usr/bin/env bash
# Attaches perf to the daemon while a row of the bench runs, and leaves a flame graph.
#
#   scripts/perf-profile.sh [ROW [OPTIONS]]     default tar-x; rows: scripts/bench.sh list;
#                                               OPTIONS of `agentfs-test-bench run`, as
#                                               --subjects agentfs-user, --ops 20000
#
# Builds the release programs, unless AGENTFS_BIN_DIR names them. AGENTFS_PROFILE_HZ: samples a second
# [default: 1999]; AGENTFS_PROFILE_UNWIND: as perf's --call-graph [default: dwarf,8192, which any
# build can do; fp for programs built with frame pointers]. Leaves logs/perf-profile-TIME/
# {flame-ROW.svg,perf-ROW.data,perf-ROW.folded,report.md}.
set -euo pipefail
cd "$(dirname "$0")/.."
row=${1:-tar-x}
if [ $# -gt 0 ]; then shift; fi
if ! command -v perf >/dev/null; then
  echo "perf-profile.sh: perf is not installed" >&2
  echo "  fix: apt-get install linux-perf (Debian), linux-tools-generic (Ubuntu), perf (Fedora)" >&2
  exit 1
fi
target=$(cargo metadata --format-version 1 --no-deps --offline |
  sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
version=0.12.8
inferno=$target/suites/inferno-$version
if [ ! -x "$inferno/bin/inferno-flamegraph" ]; then
  echo "perf-profile.sh: installing inferno $version, which draws" >&2
  CARGO_TARGET_DIR=$target/suites/build cargo install --quiet --locked --root "$inferno" \
    --version "$version" --no-default-features --features cli inferno
  rm -rf "$target/suites/build"
fi
export AGENTFS_BENCH_NAME=perf-profile AGENTFS_PROFILE_TOOLS=$inferno/bin
exec scripts/bench.sh --rows "$row" --subjects agentfs --runs 1 --profile "${AGENTFS_PROFILE_UNWIND:-dwarf,8192}" \
  --profile-hz "${AGENTFS_PROFILE_HZ:-1999}" "$@"
