//! Claims of fsd/SEMANTICS.md: what is left out or answered otherwise.

use std::fs;

use agentfs_tests::cmd;
use agentfs_tests::mounted::{Mounted, need_any_mount};
use agentfs_tests::need::is_root;

use crate::{PRELUDE, claim, python, sh};

#[test]
fn s25_unnamed_files_are_refused_cleanly() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
import os, tempfile
try:
    os.open(".", os.O_RDWR | os.O_TMPFILE); assert False
except OSError as e:
    assert e.errno == 95, e
with tempfile.TemporaryFile(dir=".") as t:
    t.write(b"x"); t.seek(0); assert t.read() == b"x"
"#,
        );
        sh(
            sandbox,
            "exec 3<>named; ln -L /proc/self/fd/3 second; test \"$(stat -c %h named)\" = 2",
        );
    });
}

#[test]
fn s26_watches_tell_of_the_runs_own_changes() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
import ctypes, os, struct
libc = ctypes.CDLL(None)
fd = libc.inotify_init()
assert libc.inotify_add_watch(fd, b"dir", 0x100 | 0x200) > 0
open("dir/new", "w").close(); os.unlink("dir/one")
names = []
data = os.read(fd, 4096)
while len(names) < 2:
    if not data:
        data = os.read(fd, 4096)
    n = struct.unpack("iIII", data[:16])[3]
    names.append(data[16:16 + n].rstrip(b"\0")); data = data[16 + n:]
assert names == [b"new", b"one"], names
"#,
        );
    });
}

#[test]
fn s27_statfs_shows_where_changes_go() {
    claim(|sandbox| {
        let blocks = "stat -f -c '%b %c %S' .";
        sandbox.sh("b", &format!("{blocks} > ours")).ok();
        let ours = sandbox.call(&["exec", "-q", "b", "--", "cat", "ours"]).ok();
        let store = sandbox.store().display().to_string();
        let host = sandbox.host_sh(&format!("stat -f -c '%b %c %S' '{store}'"));
        assert_eq!(ours.out(), host.out());
    });
}

#[test]
fn s28_birth_times_are_not_shown() {
    claim(|sandbox| {
        sandbox
            .sh(
                "b",
                "test \"$(stat -c %w file)\" = - && : > new && test \"$(stat -c %w new)\" = -",
            )
            .ok();
    });
}

#[test]
fn s30_files_have_no_attributes_of_chattr() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
GETFLAGS, SETFLAGS, FSGETXATTR, FSSETXATTR = 0x80086601, 0x40086602, 0x801c581f, 0x401c5820
open("new", "w").close()
for name in ["new", "file", "dir"]:
    f = os.open(name, os.O_RDONLY)
    assert fcntl.ioctl(f, GETFLAGS, b"\xff" * 8)[:4] == bytes(4)
    assert fcntl.ioctl(f, FSGETXATTR, b"\xff" * 28) == bytes(28)
    assert err(fcntl.ioctl, f, SETFLAGS, bytes(8)) == 0 and err(fcntl.ioctl, f, FSSETXATTR, bytes(28)) == 0
    # NODUMP, as ext4 gives it to every owner.
    assert err(fcntl.ioctl, f, SETFLAGS, struct.pack("q", 0x40)) == errno.EOPNOTSUPP
    assert err(fcntl.ioctl, f, FSSETXATTR, struct.pack("I24x", 0x80)) == errno.EOPNOTSUPP
"#,
        );
        let out = sh(
            sandbox,
            "lsattr -d file dir | tr -d -- -; ! chattr +d file 2>&1",
        );
        assert!(
            out.starts_with(" file\n dir\n") && out.contains("not supported"),
            "{out}"
        );
    });
}

#[test]
fn s48_fanotify_is_for_who_has_the_right() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
# FAN_CLASS_NOTIF, FAN_CLASS_CONTENT, FAN_CLASS_PRE_CONTENT.
for kind in (0, 4, 8):
    assert err(syscall, 300, kind, 0) == errno.EPERM
"#,
        );
    });
    if !is_root() || !need_any_mount() {
        return;
    }
    let m = Mounted::new(|dir| fs::write(dir.join("file"), b"x").expect("write"));
    let program = format!(
        r#"{PRELUDE}
import sys
os.chdir(sys.argv[1]); add, close_write, in_dir, mount, whole, fid = 1, 8, 0x08000000, 0x10, 0x100, 0x200
for how, mask, what in ((0, close_write | in_dir, b"."), (0, close_write, b"file"), (mount, close_write, b".")):
    events = syscall(300, 0, os.O_RDONLY); assert syscall(301, events, add | how, mask, -100, what) == 0
    open("file", "w").close(); assert len(os.read(events, 24)) == 24; os.close(events)
assert err(syscall, 301, syscall(300, fid, 0), add | whole, close_write, -100, b".") == errno.ENODEV
"#
    );
    let mut command = std::process::Command::new("/usr/bin/python3");
    cmd::run(command.args(["-c", &program]).arg(m.mnt())).ok();
}

#[test]
fn s49_there_are_no_file_handles() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
for name in [b"file", b"dir", b"."]:
    handle = ctypes.create_string_buffer(struct.pack("I", 128), 200); mount = ctypes.c_int()
    assert err(syscall, 303, -100, name, handle, ctypes.byref(mount), 0) == errno.EOPNOTSUPP
"#,
        );
    });
}

#[test]
fn s50_there_is_no_device_to_tell_of() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
for name in ["file", "big"]:
    f = os.open(name, os.O_RDONLY)
    # FS_IOC_FIEMAP; FS_IOC_GETVERSION, GETFSLABEL, ENABLE_VERITY, GET_ENCRYPTION_POLICY_EX.
    assert err(fcntl.ioctl, f, 0xc020660b, bytearray(struct.pack("QQIIII", 0, 1 << 40, 0, 0, 0, 0))) == errno.EOPNOTSUPP
    for request, size in ((0x80087601, 8), (0x81009431, 256), (0x40806685, 128), (0xc0096616, 9)):
        assert err(fcntl.ioctl, f, request, bytes(size)) == errno.ENOTTY, hex(request)
"#,
        );
    });
}

#[test]
fn s51_files_can_be_polled() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
import select
e = select.epoll()
e.register(os.open("file", os.O_RDONLY), select.EPOLLIN); assert len(e.poll(0)) == 1
p = select.poll(); p.register(os.open("file", os.O_RDWR)); assert p.poll(0)[0][1] == select.POLLIN | select.POLLOUT
"#,
        );
    });
}

#[test]
fn s52_pathconf_gives_defaults() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
assert os.pathconf("file", "PC_NAME_MAX") == 255 and os.pathconf("file", "PC_LINK_MAX") == 127
f = os.open("new", RW)
for i in range(200):
    os.link("new", "link%d" % i)
assert os.fstat(f).st_nlink == 201 and os.pathconf("file", "PC_FILESIZEBITS") == 32
assert os.pwrite(f, b"x", 1 << 40) == 1 and os.fstat(f).st_size == (1 << 40) + 1
"#,
        );
    });
}

#[test]
fn s53_no_quota_no_swap_no_freezing() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
f = os.open(".", os.O_RDONLY)
# quotactl_fd(Q_SYNC), swapon, FIFREEZE, FITRIM.
assert err(syscall, 443, f, 0x800001 << 8 & 0x7fffffff, 0, 0) in (errno.ENOSYS, errno.EPERM)
assert err(syscall, 167, b"big", 0) == errno.EPERM
assert err(fcntl.ioctl, f, 0xc0045877, 0) in (errno.EPERM, errno.EOPNOTSUPP)
assert err(fcntl.ioctl, f, 0xc0185879, bytearray(24)) in (errno.ENOTTY, errno.EPERM)
"#,
        );
    });
}
