# shellcheck shell=bash
# What the harness recipes of the Justfile have in common: a log directory, counted checks, a scratch
# directory with a store of its own, and the removal of every mount and process they made, also when
# they fail. Sourced, after `set -euo pipefail`:
#
#   harness_begin NAME               logs/NAME-TIME, $scratch, $store, built programs in $bin
#   check WHAT COMMAND..             runs it, logs it, counts it; goes on after a failure
#   mount_branch BRANCH MNT BASE [OPTIONS]    umount_branch MNT
#   harness_end                      summary.json, "N passed, N failed", exit 1 if any failed
#
# What is to stay mounted uses harness_log NAME, harness_programs and harness_sum instead of the
# first and the last: logs and counts, but no scratch directory and nothing taken away.
#
# AGENTFS_BIN_DIR names programs that are built already; AGENTFS_LOGS the directory of the logs.
# As root the work happens in a mount namespace of its own, which takes every mount along when it
# goes, whatever becomes of the script.

harness_isolate() { # SCRIPT ARGUMENT..
  if [ "${AGENTFS_HARNESS_NS:-}" = "$$" ]; then
    # A branch that somebody else mounted could not be closed while this copy of its mount lives.
    awk '$3 == "fuse.agentfs" { print $2 }' /proc/self/mounts | while read -r point; do
      umount --lazy "$(printf '%b' "$point")"
    done
    return 0
  fi
  if [ "$(id -u)" -ne 0 ]; then return 0; fi
  # exec keeps the pid, so the variable means this process and no child of it.
  AGENTFS_HARNESS_NS=$$ exec unshare --mount --propagation private -- bash "$@"
}

# The log directory and the counters alone: for what is to stay when the script ends.
harness_log() { # NAME
  local time
  harness_name=$1
  time=$(date -u +%Y%m%dT%H%M%SZ)
  logs=${AGENTFS_LOGS:-$PWD/logs}/$harness_name-$time
  mkdir -p "$(dirname "$logs")"
  while ! mkdir "$logs" 2>/dev/null; do logs=$logs+; done
  scratch='' passed=0 failed=0 skipped=0 failures=() harness_done=0 harness_start=$SECONDS
  started=$(date -u +%FT%TZ)
}

harness_begin() { # NAME
  harness_log "$1"
  # By it scripts/leaks.sh knows whatever is left of this run.
  export SUITE_MARKER=harness
  scratch=$(mktemp -d /var/tmp/agentfs-harness.XXXXXX)
  chmod 755 "$scratch"
  store=$scratch/store
  export AGENTFS_STORE=$store
  trap 'harness_abort $?' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  harness_programs
}

# Builds the programs, or takes those that are named: $bin.
harness_programs() {
  target=$(cargo metadata --format-version 1 --no-deps --offline |
    sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
  bin=${AGENTFS_BIN_DIR:-}
  if [ -z "$bin" ]; then
    if ! cargo build --workspace --locked >"$logs/build.log" 2>&1; then
      cat "$logs/build.log" >&2
      exit 1
    fi
    bin=$target/debug
  fi
}

# Processes that serve this harness's store, by their command lines.
daemons() {
  local file line
  for file in /proc/[0-9]*/cmdline; do
    # One may end while it is looked at.
    { line=$(tr '\0' ' ' <"$file"); } 2>/dev/null || continue
    case $line in *agentfs-fsd*"--store $store "*)
      file=${file#/proc/}
      echo "${file%/cmdline}"
      ;;
    esac
  done
}

# Mount points below the scratch directory, the deepest first.
mounts() {
  awk -v below="$scratch/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | sort -r
}

# Waits for a condition; fails after SECONDS.
await() { # SECONDS COMMAND..
  local until=$((SECONDS + $1))
  shift
  while ! "$@"; do
    if [ "$SECONDS" -ge "$until" ]; then return 1; fi
    sleep 0.02
  done
}

no_daemon() { [ -z "$(daemons)" ]; }

harness_clean() {
  local point pid
  while read -r point; do
    if [ -n "$point" ]; then umount --lazy "$point" || return 1; fi
  done <<<"$(mounts)"
  if ! await 20 no_daemon; then
    for pid in $(daemons); do
      echo "harness: daemon $pid did not end by itself" >&2
      kill -KILL "$pid"
    done
    await 5 no_daemon || return 1
  fi
  rm -rf --one-file-system "$scratch"
}

check() { # WHAT COMMAND..
  local what=$1 start=$SECONDS code=0 log
  shift
  log=$logs/$(printf '%s' "$what" | tr -c 'A-Za-z0-9._-' '_').log
  # In a subshell of its own, so that `set -e` holds inside a function too.
  set +e
  (
    trap - EXIT
    set -euo pipefail
    "$@"
  ) >"$log" 2>&1 </dev/null
  code=$?
  set -e
  if [ "$code" -eq 0 ]; then
    passed=$((passed + 1))
    echo "ok      $what: $((SECONDS - start)) s"
  else
    failed=$((failed + 1))
    failures+=("$what")
    echo "FAILED  $what: exit $code after $((SECONDS - start)) s; end of $log:"
    tail -n 40 "$log"
  fi
}

# Takes over the counts of a suite that has its own.
count() { # PASSED FAILED SKIPPED
  passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

mount_branch() { # BRANCH MNT BASE [OPTIONS]
  mkdir -p "$2" "$3"
  "$bin/agentfs" mount "$1" "$2" --base "$3" ${4:+-o "$4"}
}

umount_branch() { "$bin/agentfs" umount "$1"; }

# Installs a suite of crates.io below the target directory, once; sets $suite to its program.
install_suite() { # CRATE VERSION
  local root=$target/suites/$1-$2
  suite=$root/bin/$1
  if [ -x "$suite" ]; then return 0; fi
  CARGO_TARGET_DIR=$target/suites/build cargo install --quiet --locked --root "$root" --version "$2" "$1" \
    >"$logs/install-$1.log" 2>&1 || {
    cat "$logs/install-$1.log" >&2
    return 1
  }
  rm -rf "$target/suites/build"
}

json_string() { # TEXT without control characters
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

harness_summary() { # EXIT
  local list='' failure
  for failure in "${failures[@]}"; do list+=${list:+, }$(json_string "$failure"); done
  cat >"$logs/summary.json" <<JSON
{
  "name": $(json_string "$harness_name"),
  "started": "$started",
  "seconds": $((SECONDS - harness_start)),
  "passed": $passed,
  "failed": $failed,
  "skipped": $skipped,
  "failures": [$list],
  "exit": $1
}
JSON
}

harness_end() {
  if ! harness_clean >"$logs/clean.log" 2>&1; then
    failed=$((failed + 1))
    failures+=("cleaning up")
    cat "$logs/clean.log"
  fi
  harness_sum
}

harness_sum() {
  local code=0
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ] || code=1
  harness_summary "$code"
  harness_done=1
  echo "logs: $logs"
  echo "$passed passed, $failed failed"
  exit "$code"
}

# The script stopped before its end.
harness_abort() { # EXIT
  if [ "$harness_done" -eq 1 ]; then return 0; fi
  set +e
  failed=$((failed + 1))
  failures+=("stopped with exit $1")
  if [ -n "$scratch" ]; then harness_clean >&2 || echo "harness: $scratch is left" >&2; fi
  harness_summary 1
  echo "$passed passed, $failed failed"
  exit 1
}
