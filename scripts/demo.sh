#!/usr/bin/env bash
# The main job on the example project of this repository: builds agentfs, runs the project's tests
# on a branch, shows what the branch holds and that the checkout is as it was, drops the branch.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --workspace --locked
target=$(cargo metadata --format-version 1 --no-deps --offline |
  sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
PATH=$target/debug:$PATH
cd examples/wordcount
branch=demo-$$

show() {
  printf '\n$ %s\n' "$*"
  "$@"
}

before=$(git status --porcelain --ignored .)
show agentfs run --branch "$branch" -- cargo test
show agentfs ls-branches
# The example's tests leave a file behind, as tests do; on the host it is not there.
show agentfs diff "$branch" sample.txt
show git status --short .
show agentfs rm "$branch"
if [ "$(git status --porcelain --ignored .)" != "$before" ]; then
  echo "demo.sh: the checkout has changed" >&2
  exit 1
fi
printf '\nThe checkout is as it was.\n'
