#!/usr/bin/env bash
# Eight processes of mixed operations at once on one branch; then it is unmounted and mounted, and
# must be what each of them recorded, while the base is as it was.
#
#   scripts/stress.sh [SECONDS [PROCESSES]]    default 60 and 8
# shellcheck disable=SC2317 # functions are called by check
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/harness.sh
. scripts/harness.sh
harness_isolate "$PWD/scripts/stress.sh" "$@"
seconds=${1:-60} processes=${2:-8}
harness_begin fuse-stress

base=$scratch/base mnt=$scratch/mnt records=$scratch/records
mkdir "$base" "$records"
sums() { (cd "$base" && find . -printf '%p %y %m %s %n %T@\n' | sort && find . -type f -exec sha256sum -- {} + | sort); }
"$bin/agentfs-test-stress" prepare "$base" "$processes"
sums >"$scratch/before"
again() {
  umount_branch "$mnt"
  mount_branch stress "$mnt" "$base"
}
# A note is no damage; anything else that fsck has to say is.
fsck() { "$bin/agentfs" fsck stress; }

mount_branch stress "$mnt" "$base"
check "all processes" timeout $((seconds + 300)) \
  "$bin/agentfs-test-stress" run "$mnt" "$records" "$seconds" "$processes"
check "fsck of the live branch" fsck
check "the tree at once" "$bin/agentfs-test-stress" verify "$mnt" "$records"
check "unmount and mount" again
check "the tree mounted again" "$bin/agentfs-test-stress" verify "$mnt" "$records"
check "unmount" umount_branch "$mnt"
check "fsck" fsck
check "the base is as it was" diff -u "$scratch/before" <(sums)
if [ "$failed" -gt 0 ]; then cp -r "$records" "$logs/"; fi
harness_end
