//! Branches with a limit (`--disk`): real programs run into it in every way, `df` shows it, and it
//! stays what it is over runs, kills and snapshots.

use std::fs;

use agentfs_tests::mounted::{mount, need_any_mount, umount};
use agentfs_tests::need::need_run;
use agentfs_tests::wait::until;
use agentfs_tests::{Done, Manifest, Sandbox, base, cmd};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MIB: u64 = 1 << 20;

/// Runs a script on branch `b` with this limit. It ends with the first command that fails, and names that.
fn limited(sandbox: &Sandbox, disk: &str, script: &str) -> Done {
    let named = r#"trap 'echo "line $LINENO: $BASH_COMMAND" $(df -B1 --output=avail,iavail .) $(ls | wc -l) files >&2' ERR"#;
    let script = format!("set -eE; {named}; {script}");
    sandbox.call(&[
        "run", "-q", "--branch", "b", "--disk", disk, "--", "bash", "-c", &script,
    ])
}

/// What `branch show` says that the branch takes up: bytes and inodes, counted from scratch.
fn used(sandbox: &Sandbox, branch: &str) -> (u64, u64) {
    let done = sandbox.call(&["branch", "show", branch, "--json"]).ok();
    let value: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let used = &value["branch"]["used"];
    let number = |key: &str| used[key].as_u64().unwrap_or_else(|| panic!("{value}"));
    (number("bytes"), number("inodes"))
}

/// What takes up room on the host for the branch's own layer: blocks of its objects.
fn on_disk(sandbox: &Sandbox) -> u64 {
    let script = "find ../store/layers/*/objects -type f -printf '%b\n' | \
                  awk '{n += $1} END {print n * 512}'";
    let done = sandbox.host_sh(script);
    done.out().trim().parse().expect("a number")
}

#[test]
fn programs_run_into_the_limit_as_on_a_full_disk() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let source = sandbox.out().join("src");
    fs::create_dir(&source).expect("mkdir");
    for i in 0..12 {
        fs::write(source.join(i.to_string()), vec![i; 1 << 20]).expect("write");
    }
    sandbox.host_sh("tar -C ../out/src -cf big.tar .");
    let before = Manifest::of(&sandbox.work());
    let script = r#"
soon() { local end=$((SECONDS + 30)); until "$@"; do [ $SECONDS -lt $end ]; sleep 0.05; done; }
full() { local out; if out=$("$@" 2>&1); then echo "no error: $*"; exit 9; fi
  case $out in *"o space left on device"*|*"disk is full"*) ;; *) echo "$* said: $out"; exit 9;; esac; }
free() { df -B1 --output=avail . | tail -n 1; }
# The daemon hears of a close, and that a removed file is gone, a moment after the program went on.
has_free() { [ "$(free)" -gt $(($1 << 20)) ]; }
has_inodes() { [ "$(df --output=iavail . | tail -n 1)" -eq "$1" ]; }
[ "$(df -B1 --output=size . | tail -n 1)" -eq $((8 << 20)) ]
[ "$(df --output=itotal . | tail -n 1)" -eq 200 ]
full dd if=/dev/zero of=fill bs=100k
[ "$(free)" -lt 8192 ]
size=$(stat -c %s fill); [ "$size" -gt $((7 << 20)) ]; [ "$size" -le $((8 << 20)) ]
# Over what is there, to its end and not beyond; then away with it.
dd if=/dev/urandom of=fill bs=64k count=100 conv=notrunc status=none
full dd if=/dev/zero of=fill bs=64k seek=200 count=1 conv=notrunc status=none
full cp fill copy
rm -f copy; truncate -s 1M fill; soon has_free 6
rm fill; soon has_free 7
# Sparse, filled later; allocated ahead.
truncate -s 1T sparse; full dd if=/dev/zero of=sparse bs=1M seek=500000 conv=notrunc status=none
rm sparse; full fallocate -l 9M ahead; rm -f ahead
fallocate -l 6M ahead; dd if=/dev/zero of=fill bs=64k status=none 2>&1 | grep -q space
dd if=/dev/urandom of=ahead bs=1M count=6 conv=notrunc status=none
rm ahead fill; soon has_inodes 200
# Many files, by several at once; names, links and attributes.
for n in 1 2 3 4; do (i=0; while true; do : > many.$n.$i || exit 0; i=$((i + 1)); done) 2>/dev/null & done; wait
has_inodes 0; full mkdir dir.too; full ln -s x link.too
rm many.*; soon has_inodes 200
for n in 1 2 3 4; do dd if=/dev/zero of=race.$n bs=7k status=none 2>/dev/null & done; wait
[ "$(free)" -lt 8192 ]; full tar -cf archive.tar race.1
rm -f archive.tar race.*
mkdir tree; full tar -C tree -xf big.tar; rm -r tree
# The host's files can be changed in part, and removed, whatever is left.
dd if=/dev/zero of=fill bs=4k status=none 2>/dev/null || true
rm two; truncate -s 10 big; rm fill; echo more >> big; cat big > file
"#;
    let done = limited(&sandbox, "8M,inodes=200", script);
    assert_eq!(done.code(), 0, "{}", done.report());
    let (bytes, _) = used(&sandbox, "b");
    assert!(bytes < MIB, "{bytes}");
    sandbox.call(&["fsck", "b"]).ok();
    before.assert_still();
}

/// Maps, allocates, copies and holds files open at the limit.
const CALLS: &str = r#"
import errno, mmap, os, sqlite3
def err(call, *args):
    try: call(*args); return 0
    except OSError as e: return e.errno
def free(): s = os.statvfs("."); return s.f_bavail * s.f_frsize
def fill(name):
    f = os.open(name, os.O_RDWR | os.O_CREAT)
    try:
        while True: os.write(f, b"x" * 50000)
    except OSError as e: assert e.errno == errno.ENOSPC, e
    return f
# A mapping of a hole: storing works, what finds no room is told at msync(2) and is not kept.
f = os.open("map", os.O_RDWR | os.O_CREAT); os.ftruncate(f, 16 << 20)
page = mmap.mmap(f, 0); page[0:4] = b"kept"; page.flush()
for at in range(0, 16 << 20, 4096): page[at:at + 4] = b"data"
assert err(page.flush) == errno.ENOSPC or err(os.fsync, f) == errno.ENOSPC
assert free() < 8192, free()
page.close(); err(os.close, f); os.unlink("map")
# The file counts until the daemon hears of the close, which nobody waits for.
import time
def until_free():
    end = time.monotonic() + 30
    while free() < 3 << 20: assert time.monotonic() < end, free()
until_free()
# Unlinked and open: it counts until it is closed.
f = fill("gone"); os.unlink("gone")
assert err(os.write, os.open("other", os.O_RDWR | os.O_CREAT), b"y" * 8192) == errno.ENOSPC
os.close(f)
until_free()
# copy_file_range, posix_fallocate, attributes, a database.
g = os.open("source", os.O_RDWR | os.O_CREAT); os.write(g, b"s" * (3 << 20))
h = os.open("target", os.O_RDWR | os.O_CREAT); done = 0
try:
    while True:
        n = os.copy_file_range(g, h, 1 << 20, 0, done)
        assert n > 0; done += n
except OSError as e: assert e.errno == errno.ENOSPC, e
assert 0 < done < 2 << 20 and os.fstat(h).st_size >= done, done
os.ftruncate(h, 0); os.ftruncate(g, 0)
assert err(os.posix_fallocate, h, 0, 64 << 20) == errno.ENOSPC and free() > 3 << 20
left = 0
while err(os.setxattr, h, "user.%d" % left, b"v" * 60000) == 0: left += 1
assert 40 < left < 80, left
for i in range(left): os.removexattr(h, "user.%d" % i)
db = sqlite3.connect("db"); db.execute("create table t (v blob)"); db.commit(); rows = 0
try:
    while True:
        db.execute("insert into t values (zeroblob(100000))"); db.commit(); rows += 1
except sqlite3.OperationalError as e: assert "full" in str(e), e
db.close(); db = sqlite3.connect("db")
assert db.execute("pragma integrity_check").fetchone() == ("ok",)
assert db.execute("select count(*) from t").fetchone() == (rows,) and rows > 10
"#;

#[test]
fn mappings_open_files_and_databases_meet_the_limit() {
    if !(need_run() && agentfs_tests::need::need("program:python3")) {
        return;
    }
    let sandbox = Sandbox::new();
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
        CALLS,
    ];
    sandbox.call(&args).ok();
    let (bytes, _) = used(&sandbox, "b");
    assert!(bytes <= 4 * MIB, "{bytes}");
    assert!(on_disk(&sandbox) <= 4 * MIB + 256 * 1024);
    sandbox.call(&["fsck", "b"]).ok();
}

#[test]
fn git_survives_the_limit() {
    if !(need_run() && agentfs_tests::need::need("program:git")) {
        return;
    }
    let sandbox = Sandbox::new();
    let script = r"
git init -q r; cd r; git commit -q --allow-empty -m one
head -c 6000000 /dev/urandom > big
if git add big 2>err; then echo 'it fit'; exit 9; fi
rm big; git status --porcelain >/dev/null; git fsck --strict
echo small > small; git add small; git commit -q -m two; git log --oneline | wc -l";
    let done = limited(&sandbox, "8M", script).ok();
    assert_eq!(done.out().trim(), "2");
}

#[test]
fn the_count_survives_runs_kills_and_snapshots() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let fill =
        "dd if=/dev/zero of=f bs=10k 2>/dev/null || true; df -B1 --output=used . | tail -n 1";
    limited(&sandbox, "4M,inodes=10", &format!("echo 1 > keep; {fill}")).ok();
    let full = used(&sandbox, "b");
    assert!(full.0 <= 4 * MIB && full.0 > 4 * MIB - 8192, "{full:?}");
    assert_eq!(full.1, 2);
    // The limit is the branch's: no flag, the same limit.
    let none = "if echo more > more && [ -s more ]; then exit 9; fi; rm -f more";
    sandbox.sh("b", none).ok();
    assert_eq!(used(&sandbox, "b"), full);
    // Killed in the middle of writing, the next run counts the same.
    // What rm and ls ask, the kernel may know without the daemon, for good; what df asks, never.
    for _ in 0..3 {
        let run = sandbox.start_sh(
            "b",
            "echo go; while rm -f f && df . >/dev/null; do dd if=/dev/zero of=f bs=3k 2>/dev/null || true; done",
        );
        until("it writes", || !run.stdout_now().is_empty());
        let daemons = sandbox.daemons();
        assert_eq!(daemons.len(), 1);
        kill(Pid::from_raw(daemons[0]), Signal::SIGKILL).expect("kill the daemon");
        run.wait();
        sandbox.assert_quiet();
        let shown = sandbox
            .sh("b", "df -B1 --output=used . | tail -n 1")
            .ok()
            .out();
        let (counted, _) = used(&sandbox, "b");
        let shown: u64 = shown.trim().parse().expect("a number");
        assert!(
            shown.abs_diff(counted) <= 4096,
            "{shown} by df, {counted} counted"
        );
        assert!(counted <= 4 * MIB, "{counted}");
    }
    limited(&sandbox, "4M,inodes=10", fill).ok();
    // A snapshot keeps what is removed; without it there is room again.
    sandbox
        .call(&["snapshot", "create", "b", "--name", "s"])
        .ok();
    sandbox.sh("b", &format!("rm f; {none}")).ok();
    assert!(used(&sandbox, "b").0 >= 4 * MIB - 8192);
    sandbox
        .call(&["branch", "create", "child", "--from", "b@s"])
        .ok();
    assert_eq!(sandbox.row("child")["limit"]["bytes"], 4 * MIB);
    assert_eq!(used(&sandbox, "child"), (0, 0));
    sandbox
        .sh("child", "rm f; head -c 3000000 /dev/zero > own")
        .ok();
    let (bytes, inodes) = used(&sandbox, "child");
    assert!(
        bytes > 3_000_000 && bytes < 3_050_000 && inodes == 1,
        "{bytes} {inodes}"
    );
    sandbox.call(&["fsck"]).ok();
}

#[test]
fn a_limit_is_set_kept_shown_and_not_loosened_unnoticed() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let run = |args: &[&str]| sandbox.call(&[&["run", "--branch", "b"], args].concat());
    // Told after the run that met it, in words and JSON, and not after others.
    let done = run(&["--disk", "1M", "--", "dd", "if=/dev/zero", "of=f"]);
    assert_eq!(done.code(), 1, "{}", done.report());
    for word in ["reached its limit 1M", "fix:", "--disk"] {
        assert!(done.stderr.contains(word), "{word}: {}", done.stderr);
    }
    let object = |done: &Done| -> serde_json::Value {
        let line = done.stderr.lines().rev().find(|line| line.starts_with('{'));
        serde_json::from_str(line.expect("a line of JSON")).expect("JSON")
    };
    let full = object(&run(&[
        "--json",
        "--",
        "dd",
        "if=/dev/zero",
        "of=g",
        "status=none",
    ]));
    assert_eq!(full["limit"]["bytes"], MIB);
    assert_eq!(full["limit"]["hit"], true, "{full}");
    let idle = object(&run(&["--json", "--", "true"]));
    assert_eq!(idle["limit"]["hit"], false, "{idle}");
    assert!(!run(&["--", "true"]).ok().stderr.contains("limit"));
    // Shown.
    let ls = sandbox.call(&["ls"]).ok().out();
    assert!(ls.contains("LIMIT") && ls.contains("1M"), "{ls}");
    let shown = sandbox.call(&["branch", "show", "b"]).ok().out();
    assert!(shown.contains("\nlimit       1M, "), "{shown}");
    let plan = run(&["--disk", "2M", "--dry-run", "--", "true"]).ok().out();
    assert!(plan.contains("\nlimit      2M\n"), "{plan}");
    let plan = run(&["--dry-run", "--json", "--", "true"]).ok().out();
    let plan: serde_json::Value = serde_json::from_str(&plan).expect("JSON");
    assert_eq!(plan["limit"]["bytes"], MIB);
    assert_eq!(plan["passthrough"], false);
    // Bad words are refused with good ones.
    for bad in ["lots", "2Q", "0", "inodes=0", "1G,1G", ""] {
        let done = run(&["--disk", bad, "--", "true"]);
        assert_ne!(done.code(), 0);
        assert!(done.stderr.contains("2G"), "{}", done.report());
    }
    // A live branch keeps its limit; a run that asks for another is told.
    let go = sandbox.out().join("go");
    let wait = "echo on; while [ ! -e ../out/go ]; do sleep 0.05; done";
    let mut live = sandbox.agentfs(&["run", "-q", "--branch", "b", "--rw"]);
    live.arg(sandbox.out()).args(["--", "bash", "-c", wait]);
    let live = cmd::start(live.stdin(std::process::Stdio::null()));
    until("it runs", || !live.stdout_now().is_empty());
    for other in ["2M", "none", "512K"] {
        let done = run(&["--disk", other, "--", "true"]);
        assert_eq!(done.code(), 125, "{}", done.report());
        assert!(
            done.stderr.contains("is live with the limit 1M"),
            "{}",
            done.stderr
        );
        assert!(done.stderr.contains("fix:"), "{}", done.stderr);
    }
    run(&["--disk", "1M", "--", "true"]).ok();
    let joined = object(&run(&["--json", "--", "bash", "-c", "echo x > more"]));
    assert_eq!(joined["limit"]["hit"], true, "{joined}");
    assert_eq!(joined["joined"], true);
    let done = sandbox.call(&["run", "-q", "--branch", "b", "--", "true"]);
    done.ok();
    fs::write(&go, "").expect("go");
    live.wait().ok();
    // Taken away.
    run(&[
        "--disk",
        "none",
        "--",
        "bash",
        "-c",
        "echo more > more; cat more",
    ])
    .ok();
    assert_eq!(sandbox.row("b")["limit"], serde_json::Value::Null);
    assert!(!sandbox.call(&["ls"]).ok().out().contains("LIMIT"));
}

#[test]
fn the_policy_limits_and_a_repository_only_tightens() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let config = sandbox.home().join(".config/agentfs");
    fs::create_dir_all(&config).expect("mkdir");
    let user = |text: &str| fs::write(config.join("policy.toml"), text).expect("policy");
    let repository = |text: &str| {
        fs::write(sandbox.work().join(".agentfs.toml"), text).expect("policy");
    };
    let size = |branch: &str| {
        let done = sandbox
            .sh(branch, "df -B1 --output=size,itotal . | tail -n 1")
            .ok();
        let words: Vec<u64> = done
            .out()
            .split_whitespace()
            .map(|w| w.parse().expect("n"))
            .collect();
        (words[0], words[1])
    };
    user("[limits]\ndisk = '64M'\n");
    assert_eq!(size("a").0, 64 * MIB);
    repository("[limits]\ndisk = '1G,inodes=300'\n");
    assert_eq!(size("c"), (64 * MIB, 300));
    repository("[limits]\ndisk = '32M'\n");
    assert_eq!(size("d").0, 32 * MIB);
    // It holds for branches that are there, too; the user's own word goes first.
    assert_eq!(size("a").0, 32 * MIB);
    let done = limited(&sandbox, "128M", "df -B1 --output=size . | tail -n 1").ok();
    assert_eq!(done.out().trim(), (128 * MIB).to_string());
    for bad in [
        "[limits]\ndisk = 'much'\n",
        "[limits]\nmemory = '1G'\n",
        "[limits]\ndisk = 5\n",
    ] {
        repository(bad);
        let done = sandbox.sh("e", "true");
        assert_eq!(done.code(), 125, "{}", done.report());
        assert!(done.stderr.contains(".agentfs.toml:2"), "{}", done.stderr);
    }
}

#[test]
fn a_mount_has_the_limit_of_its_branch() {
    if !need_any_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    let mnt = sandbox.root().join("mnt");
    fs::create_dir(&mnt).expect("mkdir");
    sandbox
        .call(&["branch", "create", "b", "--disk", "2M"])
        .ok();
    for (round, size) in [(0, 2), (1, 4)] {
        match round {
            0 => mount(&sandbox, "b", &mnt, &sandbox.work(), "rw").ok(),
            _ => {
                let args = ["mount", "b", mnt.to_str().expect("UTF-8"), "--disk", "4M"];
                sandbox.call(&args).ok()
            }
        };
        let stat = rustix::fs::statvfs(&mnt).expect("statvfs");
        assert_eq!(stat.f_blocks * stat.f_frsize, size * MIB);
        let error = fs::write(mnt.join("f"), vec![1; 5 << 20]).expect_err("too much");
        assert_eq!(error.raw_os_error(), Some(nix::libc::ENOSPC));
        umount(&sandbox, &mnt);
        let (bytes, _) = used(&sandbox, "b");
        assert!(bytes <= size * MIB && bytes > size * MIB - 8192, "{bytes}");
    }
}
