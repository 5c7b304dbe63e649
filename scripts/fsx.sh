#!/usr/bin/env bash
# Runs fsx (crates.io) on a mount of ours: over a new file, over a base file that is truncated first,
# and over base files of less and of more than a MiB, which are copied up in the middle of it. Only
# the first part of the large one is worked on; the rest, and all of the base, must stay as it is.
#
#   scripts/fsx.sh [OPERATIONS [SEEDS]]    default 200000 and 10
# shellcheck disable=SC2317 # functions are called by check
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/harness.sh
. scripts/harness.sh
harness_isolate "$PWD/scripts/fsx.sh" "$@"
operations=${1:-200000} seeds=${2:-10}
harness_begin fsx
install_suite fsx 0.3.2

small_bytes=262144 large_bytes=8388608 worked_bytes=2097152
base=$scratch/base mnt=$scratch/mnt
mkdir "$base" "$scratch/artifacts"
for seed in $(seq "$seeds"); do
  head -c "$small_bytes" /dev/urandom >"$base/truncated-$seed"
  head -c "$small_bytes" /dev/urandom >"$base/small-$seed"
  head -c "$large_bytes" /dev/urandom >"$base/large-$seed"
  # One file with holes, and a second name that must go on showing the same file.
  fallocate --punch-hole --offset 1048576 --length 524288 "$base/large-$seed"
  ln "$base/large-$seed" "$base/link-$seed"
done
sums() { (cd "$1" && sha256sum -- *); }
sums "$base" >"$scratch/sums"
{ echo "flen = $small_bytes"; cat tests/external/fsx-base.toml; } >"$scratch/small.toml"
{ echo "flen = $worked_bytes"; cat tests/external/fsx-base.toml; } >"$scratch/large.toml"

one() { # CONFIG FILE SEED
  "$suite" -f "$1" -N "$operations" -S "$3" -P "$scratch/artifacts" "$mnt/$2"
}
rest() { cmp <(tail -c +$((worked_bytes + 1)) "$1") <(tail -c +$((worked_bytes + 1)) "$2"); }
again() { # unmounts, mounts, compares what fsx left with what is there now
  sums "$mnt" >"$scratch/left"
  umount_branch "$mnt"
  mount_branch fsx "$mnt" "$base"
  diff -u "$scratch/left" <(sums "$mnt")
}

mount_branch fsx "$mnt" "$base"
for seed in $(seq "$seeds"); do
  check "new file, seed $seed" one tests/external/fsx.toml "new-$seed" "$seed"
  check "truncated base file, seed $seed" one tests/external/fsx.toml "truncated-$seed" "$seed"
  check "small base file, seed $seed" one "$scratch/small.toml" "small-$seed" "$seed"
  check "large base file, seed $seed" one "$scratch/large.toml" "large-$seed" "$seed"
  check "rest of the large file, seed $seed" rest "$base/large-$seed" "$mnt/large-$seed"
  check "second name of the large file, seed $seed" cmp "$mnt/large-$seed" "$mnt/link-$seed"
done
check "the base is as it was" diff -u "$scratch/sums" <(sums "$base")
check "the same after unmount and mount" again
check "unmount" umount_branch "$mnt"
if [ "$failed" -gt 0 ]; then cp -r "$scratch/artifacts" "$logs/"; fi
harness_end
