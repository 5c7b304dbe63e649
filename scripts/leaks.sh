#!/usr/bin/env bash
# Prints what a test run must not leave behind: mounts, also in other mount namespaces; processes,
# whoever's they are; loop devices; files; users; the mode of /dev/fuse. CI takes it before and
# after; the two must be equal.
#
# A process of the tests is known by its name, by SUITE_MARKER in its environment (test.sh, the
# harness scripts and every sandbox of the suites set it), or by a working directory or an argument
# below their directories.
set -euo pipefail

own=$(readlink /proc/self/ns/mnt)
theirs='/(tmp|var/tmp|dev/shm)/agentfs-'

is_of_tests() { # PROC
  local name cwd
  # No grep -q: what writes to it would be ended by its leaving, and pipefail makes that a no.
  # A process may end while it is looked at; what cannot be read is gone, or not of the tests.
  read -r name <"$1/comm" || return 1
  case $name in agentfs*) return 0 ;; esac
  if tr '\0' '\n' <"$1/environ" | grep '^SUITE_MARKER=' >/dev/null; then return 0; fi
  cwd=$(readlink "$1/cwd") || cwd=
  { echo "$cwd"; tr '\0' '\n' <"$1/cmdline"; } | grep -E "^$theirs" >/dev/null
}

echo "# mounts"
sed -E 's/^[0-9]+ [0-9]+ //' /proc/self/mountinfo | sort
echo "# processes"
for proc in /proc/[0-9]*; do
  if [ "${proc#/proc/}" != $$ ] && is_of_tests "$proc" 2>/dev/null; then
    echo "${proc#/proc/} $(tr '\0' ' ' <"$proc/cmdline" 2>/dev/null)"
  fi
done
echo "# mounts in other namespaces"
seen=$own
for proc in /proc/[0-9]*; do
  space=$(readlink "$proc/ns/mnt" 2>/dev/null) || continue
  case " $seen " in *" $space "*) continue ;; esac
  seen+=" $space"
  # Ours, and all below the directories of the tests.
  { sed -E 's/^[0-9]+ [0-9]+ //' "$proc/mountinfo" 2>/dev/null || true; } |
    { grep -E " $theirs| fuse\.agentfs | - tmpfs agentfs" || true; } |
    sed "s|^|of process ${proc#/proc/}: |"
done
echo "# FUSE connections"
# Also those that no process and no mount namespace leads to.
ls /sys/fs/fuse/connections 2>/dev/null || true
echo "# loop devices"
for file in /sys/block/loop*/loop/backing_file; do
  if [ -e "$file" ]; then echo "$file $(cat "$file")"; fi
done
echo "# temporary files"
find /tmp /var/tmp /dev/shm -mindepth 1 -maxdepth 1 \( -name 'agentfs*' -o -name '.tmp*' -o -name 'tmp*' \) | sort
echo "# stores and files elsewhere"
# Nothing in the suites may work on anybody's own store.
{
  getent passwd | cut -d: -f6
  echo "$HOME"
} | sort -u | while read -r home; do
  find "$home/.local/share/agentfs" "$home/.local/share/agentfs/branches" -maxdepth 1 2>/dev/null || true
done | sort -u
if [ -n "${XDG_DATA_HOME:-}" ]; then find "$XDG_DATA_HOME/agentfs" -maxdepth 2 2>/dev/null || true; fi
for file in /etc/ssh/ssh_config.d/agentfs* /home/agentfs*; do
  if [ -e "$file" ]; then echo "$file"; fi
done
echo "# users and groups"
getent passwd agentfs-test || true
getent group agentfs-test agentfs-extra || true
echo "# fuse"
stat -c '%A %U %G' /dev/fuse 2>/dev/null || echo "no /dev/fuse"
