#!/usr/bin/env bash
# Builds the fuzz targets of fsd/fuzz with the stable compiler, runs each over its corpus, and then on
# from there: no input may be a panic, a hang, much memory, or wrong data.
#
#   scripts/fuzz.sh [SECONDS [TARGET..]]    default 60 seconds for each target; 0: the corpus alone
#   scripts/fuzz.sh --seeds STORE           adds what STORE and its messages give, and what was found
#                                           since, to the corpus; keeps the least that reaches as much
#
# An input that fails stays in the log directory; put into the corpus it is a test from then on.
# New inputs go to the target directory, not to the corpus.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/harness.sh
. scripts/harness.sh
seconds=${1:-60} seeds=''
if [ "$seconds" = --seeds ]; then
  seeds=${2:?of which store} seconds=0
  set -- 0
fi
if [ $# -gt 0 ]; then shift; fi
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then targets=(journal table notes control policy); fi

harness_log fuzz
trap 'harness_abort $?' EXIT
target=$(cargo metadata --format-version 1 --no-deps --offline |
  sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
host=$(rustc -vV | sed -n 's/^host: //p')
# What `cargo fuzz build --sanitizer none` passes: the coverage that libFuzzer is led by.
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares"
build=(env CARGO_TARGET_DIR="$target/fuzz" RUSTFLAGS="$flags"
  cargo build --release --locked --target "$host" --manifest-path fsd/fuzz/Cargo.toml)
echo "building the fuzz targets"
if ! "${build[@]}" >"$logs/build.log" 2>&1; then
  tail -n 40 "$logs/build.log" >&2
  exit 1
fi
built=$target/fuzz/$host/release
# A store in memory is small: an input that needs more than this has made something grow.
limits=(-timeout=20 -rss_limit_mb=1024 -malloc_limit_mb=512 -verbosity=0 -print_final_stats=1)

run() { # TARGET
  local found=$target/fuzz/found/$1
  mkdir -p "$found"
  "$built/$1" "${limits[@]}" -artifact_prefix="$logs/$1-" -runs=0 "fsd/fuzz/corpus/$1"
  if [ "$seconds" -gt 0 ]; then
    "$built/$1" "${limits[@]}" -artifact_prefix="$logs/$1-" -max_len=4096 -max_total_time="$seconds" \
      "$found" "fsd/fuzz/corpus/$1"
  fi
}

merge() { # TARGET
  local new=$logs/corpus/$1
  mkdir -p "$new" "fsd/fuzz/corpus/$1" "$logs/seeds/$1" "$target/fuzz/found/$1"
  "$built/$1" "${limits[@]}" -max_len=4096 -merge=1 "$new" "fsd/fuzz/corpus/$1" "$logs/seeds/$1" \
    "$target/fuzz/found/$1" >"$logs/merge-$1.log" 2>&1
  # What was once a failure stays, whatever else reaches the same.
  find "fsd/fuzz/corpus/$1" -type f ! -name 'regression-*' -delete
  # Of all sizes, but few, and none that is large: the corpus is to stay a few dozen KB.
  find "$new" -type f -size -9 -printf '%s %p\n' | sort -n |
    awk '{ path[NR] = $2 } END { step = NR > 60 ? NR / 60 : 1; for (i = step; i <= NR; i += step) print path[int(i)] }' |
    xargs -r cp -t "fsd/fuzz/corpus/$1"
  echo "$1: $(find "fsd/fuzz/corpus/$1" -type f | wc -l) inputs"
}

if [ -n "$seeds" ]; then
  cargo build --locked -p agentfs-tests
  "$target/debug/agentfs-test-helper" fuzz-seeds "$seeds" "$logs/seeds"
  mkdir -p "$logs/seeds/policy"
  find examples policy -name '*.toml' ! -name Cargo.toml -exec cp -t "$logs/seeds/policy" {} +
  for name in "${targets[@]}"; do merge "$name"; done
  count 1 0 0
  harness_sum
fi
for name in "${targets[@]}"; do
  check "$name" run "$name"
  grep -aE 'stat::number_of_executed_units|stat::peak_rss' "$logs/$name.log" | tail -n 2 | sed 's/^stat::/        /' || true
done
harness_sum
