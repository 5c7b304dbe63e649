#!/usr/bin/env bash
# Installs inferno, which draws flame graphs, below the target directory, once; prints the directory
# of its programs: the AGENTFS_PROFILE_TOOLS of the bench. That variable set, it is taken as it is.
#
#   scripts/profile-tools.sh
#
# Needs perf, without which there is nothing to draw.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v perf >/dev/null; then
  echo "profile-tools.sh: perf is not installed" >&2
  echo "  fix: apt-get install linux-perf (Debian), linux-tools-generic (Ubuntu), perf (Fedora)" >&2
  exit 1
fi
if [ -n "${AGENTFS_PROFILE_TOOLS:-}" ]; then
  echo "$AGENTFS_PROFILE_TOOLS"
  exit 0
fi
target=$(cargo metadata --format-version 1 --no-deps --offline |
  sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
version=0.12.8
inferno=$target/suites/inferno-$version
if [ ! -x "$inferno/bin/inferno-flamegraph" ]; then
  echo "profile-tools.sh: installing inferno $version, which draws" >&2
  CARGO_TARGET_DIR=$target/suites/build cargo install --quiet --locked --root "$inferno" \
    --version "$version" --no-default-features --features cli inferno >&2
  rm -rf "$target/suites/build"
fi
echo "$inferno/bin"
