//! Real programs on a branch: what builds, archives and databases ask of a file system. Each test
//! looks at the programs' own checks, then at the base.

use std::fs;

use agentfs_tests::need::{need, need_run};
use agentfs_tests::{Manifest, Sandbox, base, bins};

/// Runs a Python program on branch `b`; its asserts are the test.
#[track_caller]
fn python(sandbox: &Sandbox, program: &str) {
    fs::write(sandbox.out().join("program.py"), program).expect("write");
    let mut args = vec!["run", "-q", "--branch", "b", "--ro"];
    let out = sandbox.out();
    args.extend([
        out.to_str().expect("UTF-8"),
        "--",
        "/usr/bin/python3",
        "../out/program.py",
    ]);
    sandbox.call(&args).ok();
}

#[test]
fn cargo_builds_once() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.host_sh(
        "mkdir src && echo 'fn main() { println!(\"hi\"); }' > src/main.rs && \
         printf '[package]\\nname = \"hi\"\\nversion = \"0.1.0\"\\nedition = \"2021\"\\n' > Cargo.toml",
    );
    let before = Manifest::of(&sandbox.work());
    let sysroot = bins::sysroot();
    let build = |args: &[&str]| {
        let mut command = sandbox.agentfs(&["run", "-q", "--branch", "b", "--ro"]);
        command
            .arg(&sysroot)
            .args(["--", "cargo"])
            .args(args)
            .arg("--offline");
        let path = format!(
            "{}:{}",
            sysroot.join("bin").display(),
            agentfs_tests::sandbox::SYSTEM_PATH
        );
        agentfs_tests::cmd::run(command.env("PATH", path)).ok()
    };
    assert!(build(&["build"]).stderr.contains("Compiling hi"));
    let second = build(&["build", "-v"]);
    assert!(second.stderr.contains("Fresh hi"), "{}", second.report());
    assert_eq!(build(&["run"]).out(), "hi\n");
    before.assert_still();
}

#[test]
fn python_makes_a_virtual_environment() {
    if !need_run() || !need("program:python3") {
        return;
    }
    let (sandbox, before) = Sandbox::small();
    let script = "set -e; /usr/bin/python3 -m venv env; . env/bin/activate; \
        python -c 'import sys; assert sys.prefix != sys.base_prefix; print(sys.prefix)'; pip --version";
    let out = sandbox.sh("b", script).ok().out();
    assert!(
        out.starts_with(&format!("{}/env\n", sandbox.work().display())),
        "{out}"
    );
    sandbox
        .sh("b", "env/bin/python -c 'import pip, json, sqlite3'")
        .ok();
    before.assert_still();
}

#[test]
fn sqlite_works_with_a_write_ahead_log() {
    if !need_run() || !need("program:sqlite3") {
        return;
    }
    let (sandbox, _) = Sandbox::small();
    sandbox.host_sh(
        "sqlite3 db 'pragma journal_mode=wal; create table t(n); insert into t values (1)'",
    );
    let before = Manifest::of(&sandbox.work());
    let script = "set -e; sqlite3 db 'insert into t select n+1 from t'; \
        ( for i in $(seq 40); do sqlite3 -cmd '.timeout 20000' db 'insert into t values (10)'; done ) & \
        for i in $(seq 40); do sqlite3 -cmd '.timeout 20000' db 'insert into t values (20)'; done; wait; \
        sqlite3 db 'pragma integrity_check; pragma journal_mode; select count(*) from t'";
    assert_eq!(sandbox.sh("b", script).ok().out(), "ok\nwal\n82\n");
    let again =
        "sqlite3 db 'select count(*), sum(n) from t'; sqlite3 db 'pragma wal_checkpoint(truncate)'";
    assert_eq!(sandbox.sh("b", again).ok().out(), "82|1203\n0|0|0\n");
    before.assert_still();
}

#[test]
fn tar_unpacks_ten_thousand_files() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let tree = sandbox.out().join("tree");
    fs::create_dir(&tree).expect("mkdir");
    base::wide(&tree, 10_000);
    base::small(&tree);
    sandbox.host_sh("tar -C ../out -cf many.tar tree");
    let before = Manifest::of(&sandbox.work());
    let out = sandbox.out().display().to_string();
    let script = "set -e; tar xf many.tar; find tree -type f | wc -l; diff -r --no-dereference tree ../out/tree; \
        tar --compare -f many.tar; tar cf - tree | tar tf - | wc -l";
    let args = [
        "run", "-q", "--branch", "b", "--ro", &out, "--", "bash", "-c", script,
    ];
    let done = sandbox.call(&args).ok();
    let files = Manifest::of(&tree).files.len();
    let regular = done
        .out()
        .lines()
        .next()
        .and_then(|n| n.parse::<usize>().ok());
    assert!(regular.is_some_and(|n| n >= 10_000), "{}", done.report());
    assert_eq!(
        done.out().lines().last(),
        Some(files.to_string().as_str()),
        "{}",
        done.report()
    );
    // And gone again, on the same branch.
    sandbox
        .sh("b", "rm -rf tree && test \"$(ls -A)\" = many.tar")
        .ok();
    before.assert_still();
}

#[test]
fn copies_are_faithful() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = Sandbox::small();
    let helper = bins::helper();
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", "b", "--ro"]);
    let script = format!(
        "set -e; mkdir ../home/c; cp -a . ../home/c/copy; '{0}' manifest . > ../home/c/1; \
         '{0}' manifest ../home/c/copy > ../home/c/2; diff ../home/c/1 ../home/c/2; \
         cmp sparse ../home/c/copy/sparse; test file -ef dir/link; \
         test ../home/c/copy/file -ef ../home/c/copy/dir/link; \
         diff -r --no-dereference . ../home/c/copy",
        helper.display()
    );
    command
        .arg(bins::bin_dir())
        .args(["--", "bash", "-c", &script]);
    agentfs_tests::cmd::run(&mut command).ok();
    before.assert_still();
}

#[test]
fn a_moved_base_directory_keeps_everything_below() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.work().join("bulk")).expect("mkdir");
    base::wide(&sandbox.work().join("bulk"), 1_000);
    base::small(&sandbox.work());
    let before = Manifest::of(&sandbox.work());
    let sums = "find . -type f -exec sha256sum {} + | sort";
    let expected = sandbox.host_sh(&format!("cd bulk; {sums}")).out();
    let script = format!(
        "set -e; mv bulk moved; test ! -e bulk; cd moved; {sums}; cd ..; mkdir deep; mv moved deep/er; \
         mv deep/er/d1 elsewhere; mv elsewhere deep/er/d1; mv dir/sub/deep dir2; test -e dir2/three; \
         mv dir hollow/; test $(cat hollow/dir/sub/two) = 22; mv deep/er bulk2"
    );
    assert_eq!(sandbox.sh("b", &script).ok().out(), expected);
    let done = sandbox.sh("b", &format!("cd bulk2; {sums}")).ok();
    assert_eq!(done.out(), expected, "in the next run too");
    // The old name is free for something new that shows nothing of the old.
    sandbox
        .sh(
            "b",
            "set -e; mkdir bulk; test -z \"$(ls -A bulk)\"; echo new > bulk/d0",
        )
        .ok();
    sandbox
        .sh(
            "b",
            "set -e; test \"$(ls -A bulk)\" = d0; test $(cat bulk/d0) = new",
        )
        .ok();
    before.assert_still();
}

#[test]
fn a_tree_is_removed_and_made_again() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = Sandbox::small();
    let out = sandbox.out().display().to_string();
    sandbox.host_sh("cp -a . ../out/copy");
    let script = "set -e; shopt -s dotglob; rm -rf -- *; test -z \"$(ls -A)\"; cp -a ../out/copy/. .; \
        diff -r --no-dereference . ../out/copy; test file -ef dir/link; test $(stat -c %h two) = 2";
    let args = [
        "run", "-q", "--branch", "b", "--ro", &out, "--", "bash", "-c", script,
    ];
    sandbox.call(&args).ok();
    let args = [
        "run",
        "-q",
        "--branch",
        "b",
        "--ro",
        &out,
        "--",
        "diff",
        "-r",
        "--no-dereference",
        ".",
        "../out/copy",
    ];
    sandbox.call(&args).ok();
    before.assert_still();
}

#[test]
fn programs_that_check_owners_still_work() {
    if !need_run() || !need("program:ssh") {
        return;
    }
    let (sandbox, _) = Sandbox::small();
    sandbox.host_sh("git init -q && git add -A && git commit -qm x");
    let before = Manifest::of(&sandbox.work());
    // ssh refuses system configuration that root does not own.
    let out = sandbox.sh("b", "ssh -G localhost").ok().out();
    assert!(out.contains("hostname localhost"), "{out}");
    // tmux and screen refuse directories of strangers, sudo-like tools a strange passwd.
    sandbox
        .sh(
            "b",
            "getent passwd root && id root && cat /etc/hosts >/dev/null",
        )
        .ok();
    let script = "stat -c %u file; id -u; id -un; whoami; echo ~";
    assert_eq!(
        sandbox.sh("b", script).ok().out(),
        sandbox.host_sh(script).out()
    );
    // git refuses repositories of strangers; sshd-style private keys must be private.
    sandbox.sh("b", "git status --porcelain").ok();
    sandbox
        .sh(
            "b",
            "ssh-keygen -q -t ed25519 -N '' -f ./key && ssh-keygen -y -f ./key",
        )
        .ok();
    before.assert_still();
}

#[test]
fn locks_exclude_between_processes() {
    if !need_run() || !need("program:python3") {
        return;
    }
    let (sandbox, before) = Sandbox::small();
    python(
        &sandbox,
        r#"
import fcntl, os, time
for name in ["file", "fresh"]:
    for take in (fcntl.flock, fcntl.lockf):
        f = open(name, "a+")
        take(f, fcntl.LOCK_EX)
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            g = open(name, "a+")
            try:
                take(g, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os._exit(1)
            except OSError:
                os.write(w, b"busy")
            take(g, fcntl.LOCK_EX)
            g.write("child\n"); g.flush()
            os._exit(0)
        os.close(w)
        assert os.read(r, 4) == b"busy", (name, take)
        f.write("parent\n"); f.flush()
        take(f, fcntl.LOCK_UN)
        assert os.waitpid(pid, 0)[1] == 0, (name, take)
    assert open(name).read().endswith("parent\nchild\nparent\nchild\n")
a = open("file", "r+"); fcntl.lockf(a, fcntl.LOCK_EX, 4, 0)
if os.fork() == 0:
    b = open("file", "r+"); fcntl.lockf(b, fcntl.LOCK_EX | fcntl.LOCK_NB, 4, 4)
    os._exit(0)
assert os.wait()[1] == 0, "ranges apart do not exclude"
"#,
    );
    before.assert_still();
}

#[test]
fn shared_mappings_are_shared() {
    if !need_run() || !need("program:python3") {
        return;
    }
    let (sandbox, before) = Sandbox::small();
    python(
        &sandbox,
        r#"
import mmap, os
for name, size in [("big", 70000), ("made", 300000)]:
    f = open(name, "r+b" if name == "big" else "w+b"); f.truncate(size)
    m = mmap.mmap(f.fileno(), size)
    m[5000:5005] = b"first"
    if os.fork() == 0:
        g = open(name, "r+b"); n = mmap.mmap(g.fileno(), size)
        assert n[5000:5005] == b"first"
        n[66000:66006] = b"second"
        n.flush(); os._exit(0)
    assert os.wait()[1] == 0
    assert m[66000:66006] == b"second"
    m[size - 3:] = b"end"
    m.flush(); m.close(); f.close()
    data = open(name, "rb").read()
    assert data[5000:5005] == b"first" and data[66000:66006] == b"second" and data[-3:] == b"end"
"#,
    );
    python(
        &sandbox,
        r#"
data = open("made", "rb").read()
assert len(data) == 300000 and data[66000:66006] == b"second" and data[-3:] == b"end"
assert open("big", "rb").read()[5000:5005] == b"first"
"#,
    );
    before.assert_still();
}

#[test]
fn space_holes_and_sparse_files() {
    if !need_run() || !need("program:python3") {
        return;
    }
    let (sandbox, before) = Sandbox::small();
    python(
        &sandbox,
        r#"
import os, ctypes
libc = ctypes.CDLL(None, use_errno=True)
def fallocate(fd, mode, off, n):
    r = libc.fallocate(fd, mode, ctypes.c_long(off), ctypes.c_long(n))
    assert r == 0, os.strerror(ctypes.get_errno())
f = os.open("made", os.O_RDWR | os.O_CREAT)
os.posix_fallocate(f, 0, 1 << 20); assert os.fstat(f).st_size == 1 << 20
fallocate(f, 1, 1 << 20, 1 << 20); assert os.fstat(f).st_size == 1 << 20
os.pwrite(f, b"x" * (1 << 20), 0)
fallocate(f, 3, 65536, 131072)
assert os.pread(f, 131072, 65536) == bytes(131072) and os.pread(f, 1, 65535) == b"x"
os.ftruncate(f, 1 << 40); assert os.fstat(f).st_size == 1 << 40 and os.fstat(f).st_blocks < 8192
os.ftruncate(f, 1 << 20)
for name in ["sparse", "made2"]:
    g = os.open(name, os.O_RDWR | os.O_CREAT)
    if name == "made2":
        os.pwrite(g, b"end", 200000)
    size = os.fstat(g).st_size
    data = os.lseek(g, 0, os.SEEK_DATA)
    assert 0 <= data <= 200000 and os.pread(g, data, 0) == bytes(data), (name, data)
    hole = os.lseek(g, 0, os.SEEK_HOLE); assert hole <= size
    assert os.lseek(g, size - 1, os.SEEK_HOLE) == size
    try:
        os.lseek(g, size, os.SEEK_DATA); assert False
    except OSError as e:
        assert e.errno == 6
fd = os.open("sparse", os.O_RDWR); os.pwrite(fd, b"mid", 100000)
assert os.pread(fd, 3, 100000) == b"mid" and os.pread(fd, 3, 200000) == b"end"
"#,
    );
    before.assert_still();
}

#[test]
fn fifos_and_sockets_connect_processes() {
    if !need_run() || !need("program:python3") {
        return;
    }
    let (sandbox, before) = Sandbox::small();
    python(
        &sandbox,
        r#"
import os, socket, stat
os.mkfifo("fifo")
if os.fork() == 0:
    open("fifo", "w").write("through"); os._exit(0)
assert open("fifo").read() == "through"
os.wait()
s = socket.socket(socket.AF_UNIX); s.bind("sock"); s.listen()
assert stat.S_ISSOCK(os.stat("sock").st_mode)
if os.fork() == 0:
    c = socket.socket(socket.AF_UNIX); c.connect("sock"); c.sendall(b"hello"); os._exit(0)
conn, _ = s.accept(); assert conn.recv(5) == b"hello"
os.wait()
"#,
    );
    sandbox.sh("b", "test -p fifo && test -S sock").ok();
    before.assert_still();
}

#[test]
fn attributes_are_kept() {
    if !need_run() || !need("program:python3") {
        return;
    }
    let (sandbox, before) = Sandbox::small();
    python(
        &sandbox,
        r#"
import os
assert os.getxattr("file", "user.a") == b"base value" and os.listxattr("dir/link") == ["user.a"]
os.setxattr("file", "user.b", b"\0\xff" * 500); os.removexattr("file", "user.a")
assert os.listxattr("file") == ["user.b"]
os.setxattr("dir", "user.c", b"")
for flag, name, err in [(os.XATTR_CREATE, "user.b", 17), (os.XATTR_REPLACE, "user.z", 61)]:
    try:
        os.setxattr("file", name, b"", flag); assert False
    except OSError as e:
        assert e.errno == err
try:
    os.getxattr("file", "user.none"); assert False
except OSError as e:
    assert e.errno == 61
"#,
    );
    python(
        &sandbox,
        r#"
import os
assert os.getxattr("dir/link", "user.b") == b"\0\xff" * 500
assert sorted(os.listxattr("dir")) == ["user.b", "user.c"]
"#,
    );
    before.assert_still();
}

#[test]
fn unlinked_files_live_until_they_are_closed() {
    if !need_run() || !need("program:python3") {
        return;
    }
    let (sandbox, before) = Sandbox::small();
    python(
        &sandbox,
        r#"
import os, tempfile
for name in ["file", "big", "new"]:
    f = open(name, "a+b"); f.write(b"more"); f.flush()
    os.unlink(name) if name != "file" else (os.unlink("file"), os.unlink("dir/link"))
    assert os.fstat(f.fileno()).st_nlink == 0
    f.write(b"still"); f.flush(); f.seek(0); assert f.read().endswith(b"morestill")
    open(name, "w").write("another"); f.seek(0); assert f.read().endswith(b"morestill")
    assert open(name).read() == "another"
    f.close()
t = tempfile.TemporaryFile(dir="."); t.write(b"x" * 100000); t.seek(0); assert len(t.read()) == 100000
os.chdir("hollow"); os.rmdir("../hollow")
assert os.listdir(".") == []
try:
    open("x", "w"); assert False
except FileNotFoundError:
    pass
"#,
    );
    before.assert_still();
}
