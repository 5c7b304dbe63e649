#!/usr/bin/env bash
# Many runs at once on one base, and a base of a million files: starts, throughput, memory. Leaves
# logs/bench-scale-TIME/{summary.json,report.md}. Gates nothing.
#
#   scripts/bench-scale.sh [OPTIONS]    those of `agentfs-test-bench scale`, --help prints them:
#                                       --live 1,10,50 --files 1000000 --subject agentfs-user
set -euo pipefail
cd "$(dirname "$0")/.."
export AGENTFS_BENCH_NAME=bench-scale AGENTFS_BENCH_COMMAND=scale
exec scripts/bench.sh "$@"
