//! Claims of fsd/SEMANTICS.md: names and directories.

use agentfs_tests::Sandbox;
use agentfs_tests::need::need_run;

use crate::{claim, python, sh};

#[test]
fn s7_names_are_bytes() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
import os
long = b"x" * 255
names = [long, b"\xff\xfe", b"a\nb", b" ", b"-", "\u00e9".encode(), "e\u0301".encode(), b"A", b"a"]
os.mkdir(b"n")
for n in names:
    open(b"n/" + n, "w").write(repr(n))
assert sorted(os.listdir(b"n")) == sorted(names)
for n in names:
    assert open(b"n/" + n).read() == repr(n)
for call in (lambda: open(b"n/" + b"x" * 256, "w"), lambda: os.stat(b"n/" + b"x" * 256), lambda: os.mkdir(b"y" * 256)):
    try:
        call(); assert False
    except OSError as e:
        assert e.errno == 36, e
"#,
        );
    });
}

#[test]
fn s8_rename_works_everywhere() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
import os, ctypes
libc = ctypes.CDLL(None, use_errno=True)
def rename2(a, b, flags):
    return 0 if libc.renameat2(-100, a, -100, b, flags) == 0 else ctypes.get_errno()
os.rename("dir", "hollow/dir"); assert open("hollow/dir/sub/two").read() == "22"
os.rename("hollow/dir/sub", "sub"); assert os.listdir("sub/deep") == ["three"]
assert rename2(b"file", b"two", 1) == 17 and rename2(b"file", b"moved", 1) == 0
before = os.stat("moved").st_ino, os.stat("sub").st_ino
assert rename2(b"moved", b"sub", 2) == 0
assert (os.stat("sub").st_ino, os.stat("moved").st_ino) == before
assert open("sub").read() == "hello, base\n" and open("moved/two").read() == "22"
assert rename2(b"moved", b"none", 2) == 2 and rename2(b"moved", b"moved/x", 0) == 22
"#,
        );
    });
}

#[test]
fn s9_nothing_of_the_old_comes_back() {
    claim(|sandbox| {
        sh(
            sandbox,
            "rm -r dir; mkdir dir; test -z \"$(ls -A dir)\"; rm file; echo new > file",
        );
        let out = sh(
            sandbox,
            "ls -A dir; cat file; stat -c %h file; mkdir dir/sub; ls -A dir/sub",
        );
        assert_eq!(out, "new\n1\n");
        python(
            sandbox,
            "import os; assert os.listxattr('file') == [] and os.listxattr('dir') == []",
        );
    });
}

#[test]
fn s10_listings_hold_every_name_once() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
import os
os.mkdir("many")
for i in range(3000):
    open(f"many/keep{i}", "w").close()
seen, removed = [], 0
with os.scandir("many") as it:
    for n, entry in enumerate(it):
        seen.append(entry.name)
        if n % 3 == 0:
            open(f"many/new{n}", "w").close()
        if n % 7 == 0 and n:
            os.unlink(f"many/new{n - n % 3}") if os.path.exists(f"many/new{n - n % 3}") else None
keep = [n for n in seen if n.startswith("keep")]
assert len(keep) == 3000 and len(set(keep)) == 3000, len(keep)
"#,
        );
        let out = sh(
            sandbox,
            "ls -a dir | sort | tr '\\n' ' '; ls -f hollow | sort | tr '\\n' ' '",
        );
        assert_eq!(out, ". .. dangling link one sub . .. ");
    });
}

#[test]
fn s32_names_of_a_file_and_symlinks_have_limits() {
    if !need_run() {
        return;
    }
    let sandbox = &Sandbox::new();
    let many = sandbox.out().display().to_string();
    // The host's names count too, so that not all of them must be made on the branch.
    let left = sandbox.host_sh(&format!(
        "/usr/bin/python3 -c 'import os\nopen(\"many\", \"w\").close()\n\
            for i in range(64998): os.link(\"many\", f\"{many}/{{i}}\")'; stat -c %h many"
    ));
    assert_eq!(left.out(), "64999\n");
    python(
        sandbox,
        r#"
assert err(os.link, "many", "last") == 0 and os.stat("many").st_nlink == 65000
assert err(os.link, "many", "more") == errno.EMLINK
os.unlink("last"); os.link("many", "again")
os.symlink("x" * 4095, "longest"); assert os.readlink("longest") == "x" * 4095
assert err(os.symlink, "x" * 4096, "longer") == errno.ENAMETOOLONG and err(os.symlink, "", "none") == errno.ENOENT
here = os.open(".", os.O_RDONLY)
for _ in range(40):
    os.mkdir("D" * 250, dir_fd=here)
    below = os.open("D" * 250, os.O_RDONLY, dir_fd=here); os.close(here); here = below
os.close(os.open("file", RW, dir_fd=here)); assert os.listdir(here) == ["file"]
"#,
    );
}

#[test]
fn s33_directories_count_and_keep_their_places() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
os.mkdir("d"); os.mkdir("d/a"); os.mkdir("d/b"); open("d/f", "w").close()
s = os.stat("d"); assert (s.st_nlink, s.st_size, s.st_blocks) == (4, 4096, 0), s
os.rmdir("d/a"); assert os.stat("d").st_nlink == 3
was = os.stat("dir").st_nlink; os.mkdir("dir/more"); assert os.stat("dir").st_nlink == was + 1
os.mkdir("many")
for i in range(300):
    open("many/%d" % i, "w").close()
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p; libc.telldir.restype = ctypes.c_long
stream = ctypes.c_void_p(libc.opendir(b"many")); places, names = [], []
while True:
    places.append(libc.telldir(stream)); entry = libc.readdir(stream)
    if not entry:
        break
    names.append(ctypes.string_at(entry + 19))
assert len(names) == 302
for at in range(0, 302, 17):
    libc.seekdir(stream, ctypes.c_long(places[at])); assert ctypes.string_at(libc.readdir(stream) + 19) == names[at]
f = os.open("d", os.O_RDONLY); fcntl.flock(f, fcntl.LOCK_EX); os.fsync(f)
assert err(fcntl.flock, os.open("d", os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB) == errno.EWOULDBLOCK
os.mkdir("gone"); g = os.open("gone", os.O_RDONLY); os.rmdir("gone")
assert os.listdir(g) == [] and os.fstat(g).st_nlink == 0 and err(lambda: os.mkdir("x", dir_fd=g)) == errno.ENOENT
"#,
        );
    });
}

#[test]
fn s34_whiteouts_are_files_like_others() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
open("from", "w").close()
assert libc.renameat2(-100, b"from", -100, b"to", 4) == 0 and os.path.isfile("to")
os.mknod("made", stat.S_IFCHR | 0o600, 0)
os.mkdir("dir/sub/x"); os.mknod("dir/sub/x/two", stat.S_IFCHR | 0o600, 0)
for name in ["from", "made", "dir/sub/x/two"]:
    s = os.stat(name); assert stat.S_ISCHR(s.st_mode) and s.st_rdev == 0
assert {"from", "made"} <= set(os.listdir(".")) and err(open, "made") in (errno.ENXIO, errno.EACCES)
os.unlink("from"); assert err(os.stat, "from") == errno.ENOENT
"#,
        );
    });
}
