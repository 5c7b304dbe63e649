#!/usr/bin/env bash
# Builds everything and runs every test: as the caller, and when that is root, the suites of whole
# runs again as an ordinary user. Prints one line per suite and the sum; exits 1 if any test failed.
# Started by an ordinary user it leaves out, and says so, what needs root; the rest must pass.
#
#   scripts/test.sh             all of it
#   scripts/test.sh SUITE..     only these (names of scripts/suites.sh)
#
# Knobs: AGENTFS_MUST_RUN=0 lets tests be skipped that need what the machine lacks;
# AGENTFS_TEST_THREADS, AGENTFS_MODEL_CASES, AGENTFS_DIFF_CASES; AGENTFS_TEST_SEED repeats what a
# failed test left to chance. AGENTFS_FUSE_TRANSPORT=device|io-uring has all of it run by that way of
# requests, AGENTFS_FUSE_REGIME=passthrough|zero-open in that regime; unset, some suites run in each of
# them (scripts/suites.sh: suites_ring, suites_zero_open).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/suites.sh
. scripts/suites.sh

export CARGO_TERM_COLOR=never
# By it scripts/leaks.sh knows whatever is left of this run.
export SUITE_MARKER=test.sh
if [ "${AGENTFS_MUST_RUN:-1}" = 0 ]; then unset AGENTFS_MUST_RUN; else export AGENTFS_MUST_RUN=1; fi
threads=${AGENTFS_TEST_THREADS:-$(nproc)}
wanted=("$@")
passed=0 failed=0 left_out=0
me=$(id -un)
if [ "$(id -u)" -ne 0 ]; then
  # What only root can prepare is not missed; see tests/src/need.rs.
  export AGENTFS_TEST_WITHOUT_ROOT=1
  if [ -n "${AGENTFS_MUST_RUN:-}" ] && ! { : <>/dev/fuse; } 2>/dev/null; then
    echo "test.sh: $me cannot open /dev/fuse, without which no command runs on a branch" >&2
    echo "  fix: as root, chmod 666 /dev/fuse; or set AGENTFS_MUST_RUN=0 to leave those tests out" >&2
    exit 1
  fi
fi

scratch=$(mktemp -d /var/tmp/agentfs-test-run.XXXXXX)
chmod 755 "$scratch"
mkdir "$scratch/logs" "$scratch/$me"
# FUSE over io_uring is switched on for a while, and left as it was.
switch=/sys/module/fuse/parameters/enable_uring
switch_was=
ring_on() {
  [ "$(id -u)" -eq 0 ] || { ring_lacks="only root can switch it on"; return 1; }
  [ -w "$switch" ] || { ring_lacks="this kernel has no FUSE over io_uring (Linux 6.14)"; return 1; }
  [ "$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || echo 2)" != 2 ] ||
    { ring_lacks="io_uring is off (kernel.io_uring_disabled)"; return 1; }
  switch_was=$(cat "$switch")
  echo Y >"$switch"
}
ring_off() {
  [ -z "$switch_was" ] || echo "$switch_was" >"$switch"
  switch_was=
}
undo() {
  ring_off
  scripts/test-user.sh down "$scratch/user-state"
  rm -rf "$scratch"
}
trap undo EXIT

# ---- build -------------------------------------------------------------------------------------
cargo build --workspace --locked
cargo test --workspace --locked --no-run 2>"$scratch/built" || { cat "$scratch/built" >&2; exit 1; }
built=$(cat "$scratch/built")
# NAME<tab>PATH of every test binary: "tests/run_main.rs (..)" and "unittests src/lib.rs (..)".
binaries=$(sed -nE 's/^ *Executable (unittests )?([^ ]*) \((.*)\)$/\2\t\3/p' <<<"$built")
[ -n "$binaries" ] || { echo "test.sh: cargo named no test binary" >&2; exit 1; }
target=$(cargo metadata --format-version 1 --no-deps --offline |
  sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
scripts/fetch-crate.sh "$target/fixtures"

if [ "${AGENTFS_FUSE_TRANSPORT:-}" = io-uring ] && [ "$(cat "$switch" 2>/dev/null)" != Y ]; then
  ring_on || { echo "test.sh: AGENTFS_FUSE_TRANSPORT=io-uring: $ring_lacks" >&2; exit 1; }
fi

# ---- run ---------------------------------------------------------------------------------------
is_wanted() { # NAME
  [ ${#wanted[@]} -eq 0 ] && return 0
  local name
  for name in "${wanted[@]}"; do [ "$name" = "$1" ] && return 0; done
  return 1
}

# Adds up the last "test result" line of a log; a binary that died without one counts as a failure.
# A test that left itself out, for lack of something, did not pass.
count() { # WHO NAME LOG EXIT SECONDS
  local line p=0 f=0 out
  line=$(grep -E '^test result: ' "$3" | tail -n 1) || line=
  if [[ $line =~ \ ([0-9]+)\ passed\;\ ([0-9]+)\ failed ]]; then
    p=${BASH_REMATCH[1]} f=${BASH_REMATCH[2]}
  fi
  if [ "$4" -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
  out=$(grep -c '^skipped: ' "$3") || true
  p=$((p - out))
  passed=$((passed + p)) failed=$((failed + f)) left_out=$((left_out + out))
  if [ "$f" -eq 0 ]; then
    echo "ok      $1 $2: $p tests in $5 s"
    sed -n 's/^skipped: //p' "$3" | sort | uniq -c | sed -E 's/^ *([0-9]+) /        left out \1: /'
  else
    echo "FAILED  $1 $2: $f of $((p + f)) tests in $5 s, exit $4"
    tail -c 30000 "$3"
  fi
}

run() { # WHO NAME COMMAND..
  local who=$1 name=$2 log start code=0
  shift 2
  log=$scratch/logs/$who-${name//\//_}.log
  start=$SECONDS
  # A shell's background job and nohup(1) ignore signals, which a child cannot take back.
  env --default-signal=HUP,INT,QUIT "$@" --test-threads="$threads" --show-output \
    >"$log" 2>&1 </dev/null || code=$?
  count "$who" "$name" "$log" "$code" $((SECONDS - start))
}

suite_of() { # tests/run_main.rs -> run_main; src/lib.rs (its path) -> the crate
  case $1 in
    tests/*) basename "$1" .rs ;;
    *) basename "$2" | sed -E 's/-[0-9a-f]+$//' ;;
  esac
}

# Where perf is, the bench shows that it can draw; else, that it says so.
if is_wanted bench && command -v perf >/dev/null; then
  if tools=$(scripts/profile-tools.sh); then
    export AGENTFS_PROFILE_TOOLS=$tools
  else
    echo "note    $me bench: no flame graph is drawn, inferno could not be installed"
  fi
fi

export AGENTFS_TEST_DIR=$scratch/$me AGENTFS_TEST_CRATE=$target/fixtures
while IFS=$'\t' read -r file path; do
  name=$(suite_of "$file" "$path")
  if is_wanted "$name"; then run "$me" "$name" "$path"; fi
done <<<"$binaries"
if is_wanted doc; then
  start=$SECONDS code=0
  cargo test --workspace --locked --doc >"$scratch/logs/doc.log" 2>&1 || code=$?
  count "$me" doc "$scratch/logs/doc.log" "$code" $((SECONDS - start))
fi

# Some of them again without opens; for ordinary users that is the default.
if [ -z "${AGENTFS_FUSE_REGIME:-}" ] && [ "$(id -u)" -eq 0 ]; then
  while IFS=$'\t' read -r file path; do
    name=$(suite_of "$file" "$path")
    case " $suites_zero_open " in
      *" $name "*)
        if is_wanted "$name"; then run "$me" "$name-zero-open" AGENTFS_FUSE_REGIME=zero-open "$path"; fi
        ;;
    esac
  done <<<"$binaries"
fi
# Some of them by io_uring too, where that is not how all of them run.
if [ -z "${AGENTFS_FUSE_TRANSPORT:-}" ]; then
  ring_lacks=
  if ! ring_on; then
    for name in $suites_ring; do
      is_wanted "$name" || continue
      left_out=$((left_out + 1))
      echo "note    $me $name by io_uring: left out, $ring_lacks"
    done
  else
    while IFS=$'\t' read -r file path; do
      name=$(suite_of "$file" "$path")
      case " $suites_ring " in
        *" $name "*)
          if is_wanted "$name"; then
            run "$me" "$name by io_uring" env AGENTFS_FUSE_TRANSPORT=io-uring "$path"
          fi
          ;;
      esac
    done <<<"$binaries"
    ring_off
  fi
fi

# The same binaries again, copied to where an ordinary user can reach them.
if [ "$(id -u)" -eq 0 ]; then
  scripts/test-user.sh up "$scratch/user-state"
  # shellcheck source=/dev/null
  . "$scratch/user-state" # user, home, group_file
  stage=$home/stage
  mkdir -p "$stage/bin"
  place() { cp -l "$@" 2>/dev/null || cp "$@"; }
  for program in agentfs agentfs-control-cli agentfs-fsd agentfs-test-helper agentfs-test-bench; do
    place "$target/debug/$program" "$stage/bin/"
  done
  cp -r "$target/fixtures" "$stage/fixtures"
  sysroot=$(rustc --print sysroot)
  as_user=(setpriv "--reuid=$user" "--regid=$user" --init-groups --reset-env env -C "$home")
  if ! "${as_user[@]}" "$sysroot/bin/cargo" --version >/dev/null 2>&1; then
    mkdir -p "$stage/toolchain/bin"
    for tool in cargo rustc rustdoc; do place "$sysroot/bin/$tool" "$stage/toolchain/bin/"; done
    cp -al "$sysroot/lib" "$stage/toolchain/lib" 2>/dev/null || cp -a "$sysroot/lib" "$stage/toolchain/lib"
    sysroot=$stage/toolchain
  fi
  chown -R "$user:" "$stage/fixtures"
  install -d -o "$user" "$scratch/$user"
  as_user+=("AGENTFS_BIN_DIR=$stage/bin" "AGENTFS_TEST_CRATE=$stage/fixtures"
    "AGENTFS_TEST_SYSROOT=$sysroot" "AGENTFS_TEST_DIR=$scratch/$user" "TMPDIR=$scratch/$user"
    "SUITE_MARKER=$SUITE_MARKER" "AGENTFS_TEST_GROUP_FILE=$group_file" "AGENTFS_MUST_RUN=${AGENTFS_MUST_RUN:-}")
  # Who runs it matters little to random operations: a part of them shows that.
  as_user+=("AGENTFS_MODEL_CASES=${AGENTFS_MODEL_CASES:-16}")
  as_user+=("AGENTFS_DIFF_CASES=${AGENTFS_DIFF_CASES:-8}")
  if [ -n "${AGENTFS_FUSE_REGIME:-}" ]; then as_user+=("AGENTFS_FUSE_REGIME=$AGENTFS_FUSE_REGIME"); fi
  if [ -n "${AGENTFS_FUSE_TRANSPORT:-}" ]; then
    as_user+=("AGENTFS_FUSE_TRANSPORT=$AGENTFS_FUSE_TRANSPORT")
  fi
  if [ -n "${AGENTFS_TEST_SEED:-}" ]; then as_user+=("AGENTFS_TEST_SEED=$AGENTFS_TEST_SEED"); fi
  [ -n "${AGENTFS_MUST_RUN:-}" ] || as_user+=(-u AGENTFS_MUST_RUN)
  while IFS=$'\t' read -r file path; do
    name=$(suite_of "$file" "$path")
    case " $suites_both " in
      *" $name "*)
        if is_wanted "$name"; then
          place "$path" "$stage/bin/$name"
          run "$user" "$name" "${as_user[@]}" "$stage/bin/$name"
        fi
        ;;
    esac
  done <<<"$binaries"
else
  echo "note: $left_out tests were left out; as root they run, and the suites run as both kinds of user" >&2
fi

# The suites of others, in short; what they print ends with their own sum.
if is_wanted external; then
  out=$(scripts/external.sh 2>&1) || echo "FAILED  external"
  echo "$out"
  if [[ $(tail -n 1 <<<"$out") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
    passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2]))
  else
    failed=$((failed + 1))
  fi
fi

if [ -n "${AGENTFS_TEST_SUM:-}" ]; then
  echo "$passed $failed" >"$AGENTFS_TEST_SUM"
else
  echo "$passed passed, $failed failed"
fi
[ "$passed" -gt 0 ] && [ "$failed" -eq 0 ]
