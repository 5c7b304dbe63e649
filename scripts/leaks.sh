#!/usr/bin/env bash
# Prints what a test run must not leave behind: mounts, agentfs processes, loop devices, temporary
# files, the mode of /dev/fuse. CI takes it before and after; the two must be equal.
set -euo pipefail

echo "# mounts"
sed -E 's/^[0-9]+ [0-9]+ //' /proc/self/mountinfo | sort
echo "# processes"
for status in /proc/[0-9]*/status; do
  # A process may end while it is looked at.
  line=$(sed -nE 's/^(Name|Pid):\t//p' "$status" 2>/dev/null | paste -sd ' ') || continue
  case $line in agentfs*) echo "$line" ;; esac
done
if getent passwd agentfs-test >/dev/null; then ps -u agentfs-test -o pid=,args= || [ $? -eq 1 ]; fi
echo "# loop devices"
for file in /sys/block/loop*/loop/backing_file; do
  if [ -e "$file" ]; then echo "$file $(cat "$file")"; fi
done
echo "# temporary files"
find /tmp /var/tmp /dev/shm -mindepth 1 -maxdepth 1 \( -name 'agentfs*' -o -name '.tmp*' -o -name 'tmp*' \) | sort
echo "# fuse"
stat -c '%A %U %G' /dev/fuse 2>/dev/null || echo "no /dev/fuse"
