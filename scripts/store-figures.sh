#!/usr/bin/env bash
# Measures what the store costs with many changed files: a snapshot, a branch, an opening, the daemon's
# memory, the first write to a large file after a snapshot. Times stand beside those of one fdatasync
# of the same disk in the same round; a machine that does other things shows it there. Gates nothing.
#
#   scripts/store-figures.sh [ROUNDS [FILES..]]    default 15 and 10 10000 300000
#
# Builds the release programs, unless AGENTFS_BIN_DIR names them. FIGURES_LARGE_MIB: size of the
# large file, default 4096.
# shellcheck disable=SC2317 # functions are called by check
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/harness.sh
. scripts/harness.sh
harness_isolate "$PWD/scripts/store-figures.sh" "$@"
rounds=${1:-15} large_mib=${FIGURES_LARGE_MIB:-4096}
if [ $# -gt 1 ]; then files=("${@:2}"); else files=(10 10000 300000); fi
if [ -z "${AGENTFS_BIN_DIR:-}" ]; then
  cargo build --release --workspace --locked --quiet
  target=$(cargo metadata --format-version 1 --no-deps --offline |
    sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
  export AGENTFS_BIN_DIR=$target/release
fi
harness_begin store-figures
results=$logs/results.jsonl

store_figures() { "$bin/agentfs-test-figures" "$scratch/figures" "$rounds" "$@" | tee -a "$results"; }

resident_kib() { # MNT
  local pid
  for pid in $(daemons); do awk '$1 == "VmRSS:" { print $2 }' "/proc/$pid/status"; done
}

# New files of a real mount; the kernel refers to all of them at first, and to none after the last line.
memory() { # FILES
  local mnt=$scratch/mnt live opened
  mount_branch memory "$mnt" "$scratch/base"
  python3 - "$mnt" "$1" <<'PY'
import os, sys
top, count = sys.argv[1], int(sys.argv[2])
for n in range(count):
    if n % 100 == 0:
        where = f"{top}/d{n // 100}"
        os.mkdir(where)
    with open(f"{where}/f{n}", "wb") as f:
        f.write(b"x" * 100)
PY
  live=$(resident_kib)
  umount_branch "$mnt"
  mount_branch memory "$mnt" "$scratch/base"
  find "$mnt" | tail -n 1 >/dev/null
  opened=$(resident_kib)
  umount_branch "$mnt"
  printf '{"files": %d, "rss_after_creating_kib": %d, "rss_after_a_walk_kib": %d}\n' "$1" "$live" "$opened" |
    tee -a "$results"
}

# The bytes of the large file lie in a frozen layer: its first write must not copy them.
first_write() {
  local mnt=$scratch/mnt
  mount_branch large "$mnt" "$scratch/base"
  fallocate --length "${large_mib}M" "$mnt/large"
  umount_branch "$mnt"
  "$bin/agentfs" snapshot create large
  mount_branch large "$mnt" "$scratch/base"
  python3 - "$mnt/large" "$rounds" "$large_mib" <<'PY' | tee -a "$results"
import json, os, sys, time
path, rounds, mib = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
start = time.monotonic()
f = os.open(path, os.O_RDWR)
os.pwrite(f, b"x" * 100, 12345)
first = time.monotonic() - start
later = []
for n in range(rounds):
    start = time.monotonic()
    os.pwrite(f, b"x" * 100, (n + 7) << 20)
    later.append(time.monotonic() - start)
print(json.dumps({"large_mib": mib, "first_write_ms": first * 1e3,
                  "later_write_ms": sorted(later)[len(later) // 2] * 1e3}))
PY
  umount_branch "$mnt"
}

check "snapshots, branches, openings" store_figures "${files[@]}"
cat "$results"
check "memory" memory "${files[-1]}"
check "first write to a large file after a snapshot" first_write
tail -n 2 "$results"
harness_end
