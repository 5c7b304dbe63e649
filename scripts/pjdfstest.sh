#!/usr/bin/env bash
# Runs pjdfstest (crates.io) as root on a mount of ours, remounts included. Any failure fails it, and
# so does a skip that tests/external/pjdfstest.skips does not list, or a listed one that is none.
#
#   scripts/pjdfstest.sh            all of it
#   scripts/pjdfstest.sh PATTERN..  tests whose names hold one of these: "rename", "chmod::enoent"
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/harness.sh
. scripts/harness.sh
harness_isolate "$PWD/scripts/pjdfstest.sh" "$@"

if [ "$(id -u)" -ne 0 ]; then
  echo "pjdfstest.sh: only root can change to the users the suite needs" >&2
  exit 1
fi
name=pjdfstest-full
if [ $# -gt 0 ]; then name=pjdfs-subset-$(printf '%s' "$*" | tr -c 'A-Za-z0-9_' '-'); fi
harness_begin "$name"
install_suite pjdfstest 0.2.2

# Two users that exist, and where the second does not, one for the time of the run.
made_user=
if ! getent passwd tests >/dev/null; then
  useradd --system --user-group --no-create-home --shell /usr/sbin/nologin tests
  made_user=tests
fi
remove_user() { if [ -n "$made_user" ]; then userdel "$made_user"; fi; }
trap 'code=$?; remove_user; harness_abort $code' EXIT

config=$scratch/pjdfstest.toml
sed -e "s/@NOBODY_GROUP@/$(id -gn nobody)/" -e "s/@USER@/tests/" -e "s/@USER_GROUP@/$(id -gn tests)/" \
  tests/external/pjdfstest.toml >"$config"
# mount(8) asks a mount helper first, for a FUSE file system also on a remount; -i: do it yourself.
mkdir "$scratch/path" "$scratch/second"
printf '#!/bin/sh\nexec "%s" -i "$@"\n' "$(command -v mount)" >"$scratch/path/mount"
chmod 755 "$scratch/path/mount"
mount -t tmpfs -o mode=755 pjdfstest-second "$scratch/second"
mount_branch pjdfstest "$scratch/mnt" "$scratch/base" allow_other,suid,dev
chmod 755 "$scratch/mnt"


log=
run_suite() { # LOG CONFIG ARGUMENT..
  local config=$2 code=0 bad
  log=$logs/$1.log
  shift 2
  PATH=$scratch/path:$PATH timeout 600 "$suite" -c "$config" -s "$scratch/second" -p "$scratch/mnt" "$@" \
    >"$log" 2>&1 </dev/null || code=$?
  if ! [[ $(grep '^Summary: ' "$log") =~ ([0-9]+)\ failed,\ ([0-9]+)\ skipped,\ ([0-9]+)\ passed ]]; then
    tail -n 40 "$log"
    echo "pjdfstest.sh: the suite did not come to its end, exit $code" >&2
    exit 1
  fi
  bad=${BASH_REMATCH[1]}
  count "${BASH_REMATCH[3]}" "$bad" "${BASH_REMATCH[2]}"
  while read -r test; do
    failures+=("$test")
    echo "FAILED  $test"
    awk -v name="$test" '/^[^\t ]/ { on = $1 == name } on' "$log" | head -n 5
  done < <(sed -nE 's/^([a-z0-9_:]+) +FAILED$/\1/p' "$log")
  [ "$code" -eq "$((bad > 0))" ] || {
    echo "pjdfstest.sh: the suite counts $bad failures and exits with $code" >&2
    exit 1
  }
}

names_skipped() { # LOG..
  sed -nE 's/^([a-z0-9_:]+) +skipped$/\1/p' "$@" | sort
}
names_listed() { # those of the list that this run was to meet
  local listed pattern
  { grep -vE '^(#|$)' tests/external/pjdfstest.skips || [ $? -eq 1 ]; } | while read -r listed _; do
    if [ $# -eq 0 ]; then echo "$listed"; fi
    for pattern in "$@"; do case $listed in *"$pattern"*) echo "$listed" ;; esac done
  done | sort -u
}

# The suite leaves files open for writing that no remount to read-only can get past, on any file
# system (open::einval_invalid_combination). So the tests that remount get a process of their own.
run_suite pjdfstest "$config" -- "$@"
first=$log
readarray -t deferred < <(sed -nE '/^[a-z0-9_:]+ +skipped$/{N;s/^([a-z0-9_:]+) .*\(allow_remount\).*$/\1/p}' "$first")
if [ ${#deferred[@]} -gt 0 ]; then
  sed 's/^allow_remount = false$/allow_remount = true/' "$config" >"$scratch/remount.toml"
  before=$((passed + failed))
  run_suite pjdfstest-remount "$scratch/remount.toml" --exact -- "${deferred[@]/#/pjdfstest::tests::}"
  check "every test that remounts ran" [ "$((passed + failed - before))" -eq "${#deferred[@]}" ]
  skipped=$((skipped - ${#deferred[@]}))
  names_skipped "$log" >"$scratch/skipped"
fi
names_skipped "$first" | grep -vxF -f <(printf '%s\n' "${deferred[@]:-}") >>"$scratch/skipped" || [ $? -eq 1 ]
check "skips are those of the list" diff -u <(names_listed "$@") "$scratch/skipped"
check "unmount" umount_branch "$scratch/mnt"
remove_user
made_user=
harness_end
