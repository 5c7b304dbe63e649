#!/usr/bin/env bash
# Sequential write and read, metadata and concurrent work on a branch, each as a multiple of the
# host's time, with a threshold for each: exit status 2 when one is exceeded. For people and for
# machines that are quiet; CI does not run it.
#
#   scripts/fuse-performance.sh [debug|release] [OPTIONS]    OPTIONS of `agentfs-test-bench run`
#
# Environment:
#   AGENTFS_PERF_SIZE_MIB    what is written and read [default: 8192]; `2x` is twice the memory
#   AGENTFS_PERF_RUNS        rounds [default: 3]
#   AGENTFS_PERF_MAX_WRITE, _READ, _METADATA, _CONCURRENT    thresholds, as multiples of the host's time
#                            [default as root 1.1, 1.1, 3, 2; else 1.6, 1.65, 4.5, 3]
#   AGENTFS_PERF_DIR         where to work [default: /var/tmp]: the disk that is measured
#   AGENTFS_BIN_DIR          programs that are built already; AGENTFS_FUSE_HOST_BIN another daemon
#   AGENTFS_FUSE_*           the daemon's knobs; they stand in the report
# Leaves logs/fuse-performance-TIME/{summary.json,report.md,results.jsonl,plot.svg}.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=debug
case ${1:-} in
  debug | release)
    profile=$1
    shift
    ;;
esac
if [ -z "${AGENTFS_BIN_DIR:-}" ]; then
  flags=()
  if [ "$profile" = release ]; then flags=(--release); fi
  cargo build --workspace --locked --quiet "${flags[@]}"
  target=$(cargo metadata --format-version 1 --no-deps --offline |
    sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
  export AGENTFS_BIN_DIR=$target/$profile
fi
size=${AGENTFS_PERF_SIZE_MIB:-8192}
if [ "$size" = 2x ]; then size=$(awk '$1 == "MemTotal:" { print int($2 / 512) }' /proc/meminfo); fi
export AGENTFS_BENCH_SCRATCH=${AGENTFS_PERF_DIR:-/var/tmp} AGENTFS_BENCH_NAME=fuse-performance

free_mib=$(($(stat -f -c '%a * %S' "$AGENTFS_BENCH_SCRATCH") / 1048576))
# One on the host and one on the branch at a time, and some room.
if [ "$free_mib" -lt $((size * 2 + 2048)) ]; then
  echo "fuse-performance.sh: $AGENTFS_BENCH_SCRATCH has $free_mib MiB free, twice $size are wanted" >&2
  echo "  fix: AGENTFS_PERF_SIZE_MIB=$((free_mib / 4)), or AGENTFS_PERF_DIR on a larger disk" >&2
  exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
  subject=agentfs defaults=(1.1 1.1 3 2)
  rows=perf-write,perf-read,perf-metadata,perf-concurrent
else
  # Caches, and with them a cold read, are root's to drop.
  subject=agentfs-user defaults=(1.6 1.65 4.5 3)
  rows=perf-write,perf-metadata,perf-concurrent
  echo "note: as root, reading with cold caches is measured too" >&2
fi
exec scripts/bench.sh --no-disk --files 100 --base-mib 1 --write-mib "$size" --runs "${AGENTFS_PERF_RUNS:-3}" \
  --limit-seconds 1800 --subjects "host,$subject" --rows "$rows" --judge \
  --bar "perf-write=${AGENTFS_PERF_MAX_WRITE:-${defaults[0]}}" \
  --bar "perf-read=${AGENTFS_PERF_MAX_READ:-${defaults[1]}}" \
  --bar "perf-metadata=${AGENTFS_PERF_MAX_METADATA:-${defaults[2]}}" \
  --bar "perf-concurrent=${AGENTFS_PERF_MAX_CONCURRENT:-${defaults[3]}}" "$@"
