#!/usr/bin/env bash
# Shows a branch at DIR for trying things by hand, and takes it away again.
#
#   scripts/mount-fuse.sh up DIR      branch "by-hand" over an empty base, both beside DIR in DIR.agentfs
#   scripts/mount-fuse.sh down DIR    unmounts; what the branch holds stays in DIR.agentfs
set -euo pipefail
if [ $# -ne 2 ]; then
  echo "usage: mount-fuse.sh up|down DIR" >&2
  exit 2
fi
mkdir -p "$2"
dir=$(realpath "$2")
cd "$(dirname "$0")/.."
cargo build --workspace --locked --quiet
target=$(cargo metadata --format-version 1 --no-deps --offline |
  sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
export AGENTFS_STORE=$dir.agentfs/store
case $1 in
  up)
    options=rw
    if [ "$(id -u)" -eq 0 ]; then options=allow_other,suid,dev; fi
    mkdir -p "$dir.agentfs/base"
    "$target/debug/agentfs" mount by-hand "$dir" --base "$dir.agentfs/base" -o "$options"
    ;;
  down) "$target/debug/agentfs" umount "$dir" ;;
  *)
    echo "mount-fuse.sh: neither up nor down: $1" >&2
    exit 2
    ;;
esac
