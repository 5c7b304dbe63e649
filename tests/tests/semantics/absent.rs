//! Claims of fsd/SEMANTICS.md: what is left out or answered otherwise.

use crate::{claim, python, sh};

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
