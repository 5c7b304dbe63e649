//! Claims of fsd/SEMANTICS.md: files and their content.

use std::fs;

use agentfs_tests::need::need_run;
use agentfs_tests::wait::until;
use agentfs_tests::{Sandbox, base};
use nix::sys::signal::Signal;

use crate::{LiveShell, PRELUDE, claim, python, sh};

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
    if need_run() {
        links_stay_links_when_the_host_changes_one(&Sandbox::new());
    }
}

fn links_stay_links_when_the_host_changes_one(sandbox: &Sandbox) {
    // Names that the branch has looked at are its own once it has changed the file by one of them.
    sandbox.host_sh(
        "for f in written removed; do echo base > $f.1; ln $f.1 $f.2; ln $f.1 $f.3; done; \
        for k in 1 2 3 4; do echo old > a$k; done",
    );
    sh(
        sandbox,
        "stat written.* removed.* > /dev/null; echo data > written.1; rm removed.1; echo data > removed.2",
    );
    // ext4 gives the number of a removed file to the next one.
    let mut run = LiveShell::start(sandbox);
    run.sh("stat a1 a2 a3 a4");
    sandbox.host_sh("for k in 1 2 3 4; do rm a$k; echo new > a$k; ln a$k b$k; done");
    run.sh("for k in 1 2 3 4; do echo changed > b$k; done");
    run.end();
    sandbox.host_sh(
        "for f in written removed; do for n in 1 2 3; do echo host > new; mv new $f.$n; done; done",
    );
    for _ in 0..2 {
        assert_eq!(
            sh(
                sandbox,
                "cat written.* removed.*; stat -c %h written.1 removed.2"
            ),
            format!("{}3\n2\n", "data\n".repeat(5))
        );
        assert_eq!(sh(sandbox, "cat a* b*"), "changed\n".repeat(8));
    }
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
def sparse(name, data):
    f = os.open(name, os.O_RDWR | os.O_CREAT); os.truncate(f, 1 << 20)
    if data: os.pwrite(f, b"x" * 4096, 65536)
    os.close(f); assert os.stat(name).st_blocks == (8 if data else 0), os.stat(name)
sparse("holes", True); sparse("onehole", False); sparse("stored", False)
f = os.open("stored", os.O_RDWR); m = mmap.mmap(f, 1 << 20); os.close(f)
# As of mmap(2), which mmap.mmap keeps a descriptor beside: the stores come after the last close.
f = os.open("onehole", os.O_RDWR)
libc.mmap.restype = ctypes.c_void_p
at = libc.mmap(None, ctypes.c_long(1 << 20), 3, 1, f, ctypes.c_long(0)); os.close(f)
assert os.stat("onehole").st_blocks == 0
ctypes.memset(at, 1, 4096)
libc.msync(ctypes.c_void_p(at), ctypes.c_long(4096), 4); assert os.stat("onehole").st_blocks == 8, os.stat("onehole")
m[:5] = b"hello"; m.close(); assert os.stat("stored").st_blocks == 8, os.stat("stored")
"#,
        );
        // A further run knows what was recorded, and no more.
        let blocks = "stat -c %b holes onehole stored; cp holes copy; stat -c %b copy";
        assert_eq!(sh(sandbox, blocks), "8\n8\n8\n8\n");
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
fn s40_leases_and_locks_of_descriptions() {
    claim(|sandbox| {
        python(
            sandbox,
            r#"
import signal
signal.signal(signal.SIGIO, lambda *_: None)
whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
open("new", "w").write("x")
for name in ["new", "file"]:
    a, b = os.open(name, os.O_RDWR), os.open(name, os.O_RDWR)
    fcntl.fcntl(a, 37, whole); assert err(fcntl.fcntl, b, 37, whole) == errno.EAGAIN
    os.close(a); fcntl.fcntl(b, 37, whole); os.close(b)
    for lease, flags in ((fcntl.F_RDLCK, os.O_RDONLY), (fcntl.F_WRLCK, os.O_RDWR)):
        f = os.open(name, flags); fcntl.fcntl(f, fcntl.F_SETLEASE, lease)
        assert fcntl.fcntl(f, fcntl.F_GETLEASE) == lease
        child = os.fork()
        if child == 0:
            os._exit(err(os.open, name, os.O_WRONLY | os.O_NONBLOCK))
        assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == errno.EWOULDBLOCK; os.close(f)
fcntl.fcntl(os.open(".", os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_CREATE)
"#,
        );
    });
}

#[test]
fn s54_a_limited_branch_takes_no_more() {
    claim(|sandbox| {
        let call = |disk: &str, script: &str| {
            let args = [
                "run", "-q", "--branch", "b", "--disk", disk, "--", "bash", "-ec", script,
            ];
            sandbox.call(&args).ok().out()
        };
        let used = "df -B1 --output=used . | tail -n 1";
        let script = "df -B1 --output=size,itotal . | tail -n 1
            truncate -s 1G sparse; fallocate -l 1M ahead; dd if=/dev/zero of=full bs=10k 2>/dev/null && exit 9
            dd if=/dev/urandom of=ahead bs=1M count=1 conv=notrunc status=none
            [ $(($(stat -c '%b * 512' full))) -gt 3000000 ]; rm full ahead; truncate -s 10 big; echo x >> big
            i=0; while : > n$i; do i=$((i + 1)); done 2>/dev/null; [ $i -ge 90 ]; rm n*";
        let out = call("4M,inodes=100", &format!("{script}; {used}"));
        let words: Vec<u64> = out
            .split_whitespace()
            .map(|w| w.parse().expect("n"))
            .collect();
        assert_eq!(words[..2], [4 << 20, 100]);
        assert!(words[2] < 1 << 16, "{out}");
        let again = sandbox.sh("b", used).ok().out();
        assert_eq!(again.trim(), words[2].to_string());
    });
}

#[test]
fn s55_a_mapping_that_finds_no_room_is_told_at_msync() {
    claim(|sandbox| {
        let program = format!(
            "{PRELUDE}{}",
            r#"
f = os.open("new", RW); os.ftruncate(f, 8 << 20); page = mmap.mmap(f, 0)
page[:5] = b"first"; assert err(page.flush) == 0
for at in range(0, 8 << 20, 4096): page[at + 8:at + 12] = b"more"
assert err(page.flush) == errno.ENOSPC
page.close(); err(os.close, f)
f = os.open("new", os.O_RDWR); assert os.pread(f, 5, 0) == b"first"; os.ftruncate(f, 0)
os.posix_fallocate(f, 0, 1 << 20); page = mmap.mmap(f, 0)
fill = os.open("fill", RW)
while err(os.write, fill, bytes(4096)) == 0: pass
for at in range(0, 1 << 20, 4096): page[at:at + 4] = b"sure"
assert err(page.flush) == 0 and err(os.fsync, f) == 0
assert os.pread(f, 4, (1 << 20) - 4096) == b"sure"
"#
        );
        let args = [
            "run",
            "-q",
            "--branch",
            "b",
            "--disk",
            "4M",
            "--",
            "/usr/bin/python3",
            "-c",
            &program,
        ];
        sandbox.call(&args).ok();
    });
}
