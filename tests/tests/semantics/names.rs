//! Claims of fsd/SEMANTICS.md: names and directories.

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
