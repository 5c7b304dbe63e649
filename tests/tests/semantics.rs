//! One test per claim of fsd/SEMANTICS.md, named after its number.

use std::fs;

use agentfs_tests::cmd;
use agentfs_tests::need::{is_root, need_run};
use agentfs_tests::wait::until;
use agentfs_tests::{Manifest, Sandbox, base};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Runs `test` in a sandbox over the small base tree, and holds claim 1 of each of them.
fn claim(test: impl FnOnce(&Sandbox)) {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let before = Manifest::of(&sandbox.work());
    test(&sandbox);
    before.assert_still();
}

/// Runs a script that ends well, and returns what it printed.
#[track_caller]
fn sh(sandbox: &Sandbox, script: &str) -> String {
    sandbox.sh("b", &format!("set -e; {script}")).ok().out()
}

/// Runs a Python program on the branch; its asserts are the test.
#[track_caller]
fn python(sandbox: &Sandbox, program: &str) {
    let args = [
        "run",
        "-q",
        "--branch",
        "b",
        "--",
        "/usr/bin/python3",
        "-c",
        program,
    ];
    sandbox.call(&args).ok();
}

#[test]
fn every_claim_has_a_test() {
    let own = include_str!("semantics.rs");
    let text = include_str!("../../fsd/SEMANTICS.md");
    let claims: Vec<&str> = text
        .split("- **S")
        .skip(1)
        .filter_map(|t| t.split("**").next())
        .collect();
    assert!(claims.len() > 20, "{claims:?}");
    for number in claims {
        assert!(
            own.contains(&format!("fn s{number}_")),
            "no test for S{number}"
        );
    }
}

#[test]
fn s1_the_host_is_never_written() {
    claim(|sandbox| {
        let home = Manifest::of(&sandbox.home());
        sh(
            sandbox,
            "shopt -s dotglob; chmod -R u+rwx .; rm -rf -- *; touch ~/.gitconfig ~/x; mkdir a b",
        );
        home.assert_still();
    });
}

#[test]
fn s2_what_is_unchanged_is_the_hosts() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    sh(
        &sandbox,
        "cat file dir/one; echo mine > new; touch dir/sub/mine",
    );
    let work = sandbox.work();
    fs::write(work.join("file"), "the host's").expect("write");
    fs::write(work.join("dir/sub/later"), "made later").expect("write");
    fs::remove_file(work.join("dir/one")).expect("remove");
    let out = sh(
        &sandbox,
        "cat file; test ! -e dir/one; cat dir/sub/later new; test -e dir/sub/mine",
    );
    assert_eq!(out, "the host'smade latermine\n");
}

#[test]
fn s3_what_is_changed_is_the_branchs() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    sh(
        &sandbox,
        "echo mine > file; rm empty; rm -r hollow; chmod 600 exec; mv dir moved",
    );
    let work = sandbox.work();
    for name in ["file", "empty", "hollow"] {
        let _ = fs::remove_dir(work.join(name));
        fs::write(work.join(name), "the host's").expect("write");
    }
    fs::create_dir(work.join("dir/later")).expect("mkdir");
    let out = sh(
        &sandbox,
        "cat file; test ! -e empty; test ! -e hollow; test ! -e dir; cat moved/one; stat -c %a exec",
    );
    assert_eq!(out, "mine\n1600\n");
}

#[test]
fn s4_branches_do_not_see_each_other() {
    claim(|sandbox| {
        sandbox
            .sh("one", "echo 1 > file; echo 1 > own; rm two")
            .ok();
        sandbox
            .sh(
                "two",
                "set -e; test ! -e own; test -e two; echo 2 > file; ls; cat file",
            )
            .ok();
        assert_eq!(
            sandbox.sh("one", "cat file; test ! -e two").ok().out(),
            "1\n"
        );
    });
}

#[test]
fn s5_what_was_answered_survives_the_daemon() {
    claim(|sandbox| {
        kill_daemon(
            sandbox,
            "for i in $(seq 50); do echo $i > n$i; done; sync -f n1; rm n50; mv dir d2",
        );
        assert_eq!(
            sh(sandbox, "cat n49; test ! -e n50; cat d2/one; ls n* | wc -l"),
            "49\n149\n"
        );
    });
}

#[test]
fn s6_without_the_daemon_everything_fails() {
    claim(|sandbox| {
        let out = kill_daemon(sandbox, "echo mine > file; cat file dir/one >/dev/null");
        assert!(!out.contains("hello, base"), "{out}");
        assert!(
            out.contains("failed: 107") || out.contains("failed: 103"),
            "{out}"
        );
    });
}

/// Runs `script`, kills the daemon under it, and returns what a look at the files then said.
fn kill_daemon(sandbox: &Sandbox, script: &str) -> String {
    let program = "import os, sys\nprint('ready', flush=True)\nsys.stdin.read()\n\
        try:\n    print(open('file').read(), os.listdir('dir'))\nexcept OSError as e:\n    print('failed:', e.errno)\n";
    let script = format!("set -e; {script}; exec /usr/bin/python3 -c \"$0\"");
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", "b", "--", "bash", "-c"]);
    command
        .arg(script)
        .arg(program)
        .stdin(std::process::Stdio::piped());
    let mut run = cmd::start(&mut command);
    until("the script is done", || {
        run.stdout_now().ends_with(b"ready\n")
    });
    let daemons = sandbox.daemons();
    assert_eq!(daemons.len(), 1);
    kill(Pid::from_raw(daemons[0]), Signal::SIGKILL).expect("kill the daemon");
    until("the daemon is gone", || sandbox.daemons().is_empty());
    drop(run.child.stdin.take());
    run.wait().out()
}

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
fn s11_inode_numbers_stay() {
    claim(|sandbox| {
        let inodes = "stat -c %i file dir/sub/two dir big | tr '\\n' ' '";
        let first = sh(sandbox, inodes);
        let moved = sh(
            sandbox,
            &format!("echo x >> file; chmod 600 dir/sub/two; echo x > big; {inodes}"),
        );
        assert_eq!(first, moved);
        let renamed = sh(
            sandbox,
            "mv file f; mv dir d; stat -c %i f d/sub/two d big | tr '\\n' ' '",
        );
        assert_eq!(first, renamed);
        assert_eq!(
            sh(sandbox, "stat -c %i f d/sub/two d big | tr '\\n' ' '"),
            first
        );
    });
}

#[test]
fn s12_hard_links_stay_links() {
    claim(|sandbox| {
        let out = sh(
            sandbox,
            "test file -ef dir/link; echo more >> dir/link; cat file; chmod 600 file; \
            stat -c '%a %h' dir/link; ln two three; echo x > three; cat dir/sub/two; stat -c %h two",
        );
        assert_eq!(out, "hello, base\nmore\n600 2\nx\n3\n");
        assert_eq!(
            sh(sandbox, "cat dir/link two; rm file; stat -c %h dir/link"),
            "hello, base\nmore\nx\n1\n"
        );
    });
}

#[test]
fn s13_unlinked_files_live_on() {
    claim(|sandbox| {
        let out = sh(
            sandbox,
            "exec 5<>big 6<>dir/one; rm big dir/one; echo two >&6; cat /proc/self/fd/6; \
            sha256sum < /proc/self/fd/5 | cut -c-8; test ! -e big",
        );
        let digest = sandbox.host_sh("sha256sum < big | cut -c-8").out();
        assert_eq!(out, format!("two\n{digest}"));
    });
}

#[test]
fn s14_the_first_write_copies_little() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let file = fs::File::create(sandbox.work().join("huge")).expect("create");
    // 10 GiB, of which 64 MiB are real.
    file.set_len(10 << 30).expect("set_len");
    for chunk in 0..64_u64 {
        let at = chunk * (150 << 20);
        std::os::unix::fs::FileExt::write_all_at(&file, &base::pattern(1, 1 << 20), at)
            .expect("write");
    }
    let before = fs::metadata(sandbox.work().join("huge")).expect("stat");
    let started = std::time::Instant::now();
    let out = sh(
        &sandbox,
        "chmod 600 huge; printf x | dd of=huge bs=1 seek=5000000000 conv=notrunc status=none; \
        stat -c %s huge; dd if=huge bs=1 skip=5000000000 count=1 status=none",
    );
    assert_eq!(out, format!("{}\nx", 10_u64 << 30));
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    // By blocks: the file that holds the one written byte is as long as the base's, and sparse.
    let du = sandbox
        .host_sh("du -sB1 \"$AGENTFS_STORE\" | cut -f1")
        .out();
    let taken: u64 = du.trim().parse().expect("a number of bytes");
    assert!(taken < 16 << 20, "the branch takes {taken} bytes");
    let after = fs::metadata(sandbox.work().join("huge")).expect("stat");
    assert_eq!(
        before.modified().expect("mtime"),
        after.modified().expect("mtime")
    );
}

#[test]
fn s15_times_are_kept_to_the_nanosecond() {
    claim(|sandbox| {
        let stamps = "stat -c '%n %y' file big dir hollow dir/sub/two";
        let host = sandbox.host_sh(stamps).out();
        assert_eq!(sh(sandbox, stamps), host);
        assert_eq!(
            sh(
                sandbox,
                &format!("chmod 600 file big; chmod 700 dir; {stamps}")
            ),
            host
        );
        let out = sh(
            sandbox,
            "touch -d 2033-05-18T03:33:20.123456789Z file; TZ=UTC stat -c %y file; \
            stat -c %X file > ~/x; cat file > /dev/null; stat -c %X file | cmp - ~/x",
        );
        assert_eq!(out, "2033-05-18 03:33:20.123456789 +0000\n");
    });
}

#[test]
fn s16_mappings_and_reads_agree() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
import mmap, os
for name in ["big", "file"]:
    f = os.open(name, os.O_RDWR); size = os.fstat(f).st_size
    m = mmap.mmap(f, size)
    g = os.open(name, os.O_RDWR)
    os.pwrite(g, b"AB", 3); assert m[3:5] == b"AB"
    m[5:7] = b"CD"; assert os.pread(g, 4, 3) == b"ABCD"
"#,
        );
    });
}

#[test]
fn s17_locks_hold_within_a_branch_only() {
    claim(|sandbox| {
        let take = "exec 5<>file; flock -n 5 || exit 9";
        let run = sandbox.start(&[
            "run",
            "-q",
            "--branch",
            "b",
            "--",
            "bash",
            "-c",
            &format!("{take}; echo ready; exec sleep 600"),
        ]);
        until("the lock is taken", || run.stdout_now() == b"ready\n");
        sandbox.sh("b", take).expect(9);
        sandbox.sh("other", take).ok();
        sandbox.host_sh(take);
        run.signal(Signal::SIGTERM);
        run.wait().expect(143);
        sandbox.sh("b", take).ok();
    });
}

#[test]
fn s18_space_and_holes() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
import os, ctypes
libc = ctypes.CDLL(None, use_errno=True)
def fallocate(fd, mode, off, n):
    return 0 if libc.fallocate(fd, mode, ctypes.c_long(off), ctypes.c_long(n)) == 0 else ctypes.get_errno()
for name in ["big", "new"]:
    f = os.open(name, os.O_RDWR | os.O_CREAT); os.pwrite(f, b"x" * 70000, 0)
    assert fallocate(f, 0, 0, 80000) == 0 and os.fstat(f).st_size == 80000
    assert fallocate(f, 1, 80000, 8192) == 0 and os.fstat(f).st_size == 80000
    assert fallocate(f, 3, 4096, 8192) == 0 and os.pread(f, 8192, 4096) == bytes(8192)
    assert fallocate(f, 16, 20480, 4096) == 0 and os.pread(f, 4096, 20480) == bytes(4096)
    assert os.pread(f, 1, 4095) == b"x" and os.pread(f, 1, 12288) == b"x"
    assert fallocate(f, 8, 0, 4096) == 95 and fallocate(f, 32, 0, 4096) == 95
    assert os.lseek(f, 0, os.SEEK_HOLE) <= 80000 and os.lseek(f, 0, os.SEEK_DATA) == 0
"#,
        );
    });
}

#[test]
fn s19_fifos_and_sockets_connect() {
    claim(|sandbox| {
        let out = sh(sandbox, "mkfifo f; (echo through > f) & cat f; wait");
        assert_eq!(out, "through\n");
        python(
            sandbox,
            r#"
import os, socket
s = socket.socket(socket.AF_UNIX); s.bind("s"); s.listen()
c = socket.socket(socket.AF_UNIX); c.connect("s"); c.sendall(b"x")
assert s.accept()[0].recv(1) == b"x"
"#,
        );
    });
}

#[test]
fn s20_owners_and_rights_are_checked() {
    claim(|sandbox| {
        if is_root() {
            let out = sh(
                sandbox,
                "stat -c %u:%g file; chmod 640 file; stat -c %a file",
            );
            assert_eq!(out, "0:0\n640\n");
            return;
        }
        python(
            sandbox,
            r#"
import os
def err(call):
    try:
        call(); return 0
    except OSError as e:
        return e.errno
assert err(lambda: os.chown("file", 0, -1)) in (1, 22) and err(lambda: os.chown("file", -1, 0)) in (1, 22)
os.chmod("file", 0); assert err(lambda: open("file")) == 13
os.chmod("dir", 0o600); assert err(lambda: os.stat("dir/one")) == 13 and err(lambda: os.mkdir("dir/x")) == 13
os.chmod("dir", 0o500); assert err(lambda: os.unlink("dir/one")) == 13 and open("dir/one").read() == "1"
os.chmod("file", 0o400); assert err(lambda: open("file", "a")) == 13 and open("file").read()
"#,
        );
    });
}

#[test]
fn s21_owners_of_system_files() {
    claim(|sandbox| {
        let look = "stat -c %u /etc /etc/passwd /usr/bin/env | sort -u";
        let expected = if is_root() { "0\n" } else { "65534\n" };
        assert_eq!(sh(sandbox, look), expected);
        let me = nix::unistd::geteuid();
        assert_eq!(
            sh(sandbox, "find /etc/ssh -printf '%U\\n' | sort -u"),
            format!("{me}\n")
        );
        sh(sandbox, "ssh -G localhost");
    });
}

#[test]
fn s22_privileges_of_files_give_nothing() {
    claim(|sandbox| {
        let out = sh(
            sandbox,
            "cp /usr/bin/id ./id; chmod 6755 id; stat -c %a id; ./id -u; \
            printf x >> id; stat -c %a id; chmod 4755 exec; : > exec; stat -c %a exec; \
            chmod 6755 exec; truncate -s 9 exec; stat -c %a exec",
        );
        let mut lines = out.lines();
        assert_eq!(lines.next(), Some("6755"));
        assert_eq!(
            lines.next(),
            Some(nix::unistd::geteuid().to_string().as_str())
        );
        let cleared: Vec<&str> = lines.collect();
        assert_eq!(cleared, ["755", "755", "755"], "{out}");
    });
}

#[test]
fn s23_device_nodes_are_refused() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
import os, stat
for kind in (stat.S_IFCHR, stat.S_IFBLK):
    try:
        os.mknod("node", kind | 0o600, os.makedev(1, 3)); assert False
    except OSError as e:
        assert e.errno == 1, e
"#,
        );
    });
}

#[test]
fn s24_attributes_are_kept() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
import os
os.setxattr("file", "user.n", b"\0" * 1000); os.setxattr("dir", "user.d", b"d"); os.removexattr("dir", "user.b")
for flag, err in ((os.XATTR_CREATE, 17), (os.XATTR_REPLACE, 61)):
    try:
        os.setxattr("file", "user.n" if err == 17 else "user.none", b"", flag); assert False
    except OSError as e:
        assert e.errno == err
"#,
        );
        python(
            sandbox,
            r#"
import os
assert os.getxattr("dir/link", "user.n") == b"\0" * 1000 and os.getxattr("file", "user.a") == b"base value"
assert os.listxattr("dir") == ["user.d"]
"#,
        );
    });
}

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
