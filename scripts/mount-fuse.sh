#!/usr/bin/env bash
# Shows a branch at DIR for trying things by hand, and takes it away again. Logs as the suites do:
# logs/mount-fuse-TIME and logs/umount-fuse-TIME.
#
#   scripts/mount-fuse.sh up DIR      branch "by-hand" over an empty base, both beside DIR in DIR.agentfs
#   scripts/mount-fuse.sh down DIR    unmounts; what the branch holds stays in DIR.agentfs
set -euo pipefail
case $#-${1:-} in
  2-up) recipe=mount-fuse ;;
  2-down) recipe=umount-fuse ;;
  *)
    echo "usage: mount-fuse.sh up|down DIR" >&2
    exit 2
    ;;
esac
if [ "$1" = up ]; then mkdir -p "$2"; fi
dir=$(realpath "$2")
cd "$(dirname "$0")/.."
# shellcheck source=scripts/harness.sh
. scripts/harness.sh
harness_log "$recipe"
trap 'harness_abort $?' EXIT
harness_programs
export AGENTFS_STORE=$dir.agentfs/store

up() {
  local options=rw
  if [ "$(id -u)" -eq 0 ]; then options=allow_other,suid,dev; fi
  mkdir -p "$dir.agentfs/base"
  "$bin/agentfs" mount by-hand "$dir" --base "$dir.agentfs/base" -o "$options"
  mountpoint "$dir"
}
down() {
  "$bin/agentfs" umount "$dir"
  # mountpoint(1) has exit 32 for what is none.
  local code=0
  mountpoint "$dir" || code=$?
  [ "$code" -eq 32 ]
}

check "$recipe" "$1"
if [ "$failed" -eq 0 ] && [ "$1" = up ]; then echo "branch by-hand is at $dir"; fi
harness_sum
