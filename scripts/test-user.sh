#!/usr/bin/env bash
# The ordinary user of the suites.
#
#   test-user.sh up STATE     makes the user `agentfs-test` with a second group, opens /dev/fuse for
#                             it, and writes to the file STATE what `down` must undo
#   test-user.sh down STATE   undoes it; nothing to do when STATE does not exist
set -euo pipefail

user=agentfs-test
group=agentfs-extra
state=${2:?usage: test-user.sh up|down STATE}

case ${1:-} in
  up)
    made_user=0 made_group=0 fuse_mode=
    if ! getent group "$group" >/dev/null; then groupadd "$group"; made_group=1; fi
    if ! getent passwd "$user" >/dev/null; then
      useradd --create-home --shell /bin/bash --groups "$group" "$user"
      made_user=1
    fi
    usermod --append --groups "$group" "$user"
    home=$(getent passwd "$user" | cut -d: -f6)
    chmod 755 "$home"
    # A file that the user can read through that group only.
    install -d -m 755 "$home/by-group"
    echo "for the group" >"$home/by-group/file"
    chown "root:$group" "$home/by-group/file"
    chmod 640 "$home/by-group/file"
    # Files of root's that the user may change on the host, in a directory of the user's.
    install -d -o "$user" -g "$user" -m 755 "$home/by-group/own"
    echo "root's" >"$home/by-group/own/file"
    chmod 666 "$home/by-group/own/file"
    install -d -m 777 "$home/by-group/own/open"
    # ssh refuses included system configuration of strangers; some hosts have none to be refused.
    ssh_config=
    if [ -d /etc/ssh/ssh_config.d ]; then
      ssh_config=/etc/ssh/ssh_config.d/agentfs-test.conf
      echo "# Nothing: made by the tests of agentfs, and removed by them." >"$ssh_config"
    fi
    [ -c /dev/fuse ] || modprobe fuse || { echo "test-user.sh: no /dev/fuse" >&2; exit 1; }
    fuse_mode=$(stat -c %a /dev/fuse)
    cat >"$state" <<STATE
user=$user
home=$home
group_file=$home/by-group/file
made_user=$made_user
made_group=$made_group
ssh_config=$ssh_config
fuse_mode=$fuse_mode
STATE
    chmod 666 /dev/fuse
    ;;
  down)
    [ -e "$state" ] || exit 0
    # shellcheck source=/dev/null
    . "$state"
    chmod "${fuse_mode:?}" /dev/fuse
    if [ -n "${ssh_config?}" ]; then rm -f "$ssh_config"; fi
    if [ "${made_user:?}" = 1 ]; then
      # Only processes that the suites left behind can be his; the leak check has seen them.
      userdel --force --remove "$user" 2>/dev/null
    fi
    if [ "${made_group:?}" = 1 ] && getent group "$group" >/dev/null; then groupdel "$group"; fi
    rm -f "$state"
    ;;
  *)
    echo "usage: test-user.sh up|down STATE" >&2
    exit 2
    ;;
esac
