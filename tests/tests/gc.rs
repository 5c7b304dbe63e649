//! `agentfs gc` through the command line and real runs: what goes, what stays, who is not disturbed.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use agentfs_tests::need::need_run;
use agentfs_tests::wait::until;
use agentfs_tests::{Done, Sandbox};

fn json(done: Done) -> serde_json::Value {
    serde_json::from_str(&done.ok().out()).expect("JSON")
}

/// Allocated bytes of all files below a directory.
fn allocated(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in fs::read_dir(dir).expect("list").flatten() {
        let Ok(meta) = entry.path().symlink_metadata() else {
            continue;
        };
        sum += match meta.is_dir() {
            true => allocated(&entry.path()),
            false => meta.blocks() * 512,
        };
    }
    sum
}

/// Files below a directory.
fn files(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.path().is_dir() {
            true => files(&entry.path()),
            false => 1,
        })
        .sum()
}

fn whats(object: &serde_json::Value) -> Vec<&str> {
    let removed = object["removed"].as_array().expect("a list");
    removed
        .iter()
        .filter_map(|gone| gone["what"].as_str())
        .collect()
}

/// A branch whose big file only a dropped snapshot showed, in an earlier version.
fn with_garbage(sandbox: &Sandbox) {
    sandbox
        .sh(
            "f",
            "head -c 3000000 /dev/zero | tr '\\0' a > large; echo one > file",
        )
        .ok();
    sandbox.call(&["snapshot", "create", "f"]).ok();
    sandbox.sh("f", "rm large; echo two > file").ok();
    sandbox.call(&["snapshot", "create", "f"]).ok();
    sandbox.call(&["snapshot", "rm", "f@1"]).ok();
}

#[test]
fn what_only_a_dropped_snapshot_showed_goes_with_its_bytes() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = Sandbox::small();
    with_garbage(&sandbox);
    let full = allocated(&sandbox.store());
    let would = json(sandbox.call(&["gc", "--dry-run", "--json"]));
    assert_eq!(
        allocated(&sandbox.store()),
        full,
        "a dry run removes nothing"
    );
    assert_eq!(whats(&would), ["objects"]);
    assert_eq!(would["removed"][0]["branches"][0], "f");
    let freed = would["freed"]["bytes"].as_u64().expect("bytes");
    assert!((3_000_000..3_100_000).contains(&freed), "{would}");
    let text = sandbox.call(&["gc", "--dry-run"]).ok();
    assert!(
        text.out().contains("would remove ") && text.out().contains("would free 2.9M"),
        "{}",
        text.out()
    );
    assert!(
        !text.stderr.contains('\x1b'),
        "no bar where nobody looks: {}",
        text.stderr
    );
    let done = json(sandbox.call(&["gc", "--json"]));
    assert_eq!(done["removed"], would["removed"]);
    let now = allocated(&sandbox.store());
    assert!(now + freed <= full + 4096, "{now} of {full}");
    sandbox.call(&["fsck"]).ok();
    let held = "test ! -e large; cat file";
    assert_eq!(sandbox.sh("f", held).ok().out(), "two\n");
    let args = [
        "run", "-q", "--branch", "g", "--from", "f@2", "--", "sh", "-c", held,
    ];
    assert_eq!(sandbox.call(&args).ok().out(), "two\n");
    assert!(whats(&json(sandbox.call(&["gc", "--json"]))).is_empty());
    let words = sandbox.call(&["gc"]).ok();
    assert!(words.out().contains("nothing to remove"), "{}", words.out());
    before.assert_still();
}

/// A running program reads a file that its branch no longer shows, which only a dropped snapshot
/// had, and that it opens again by its descriptor.
#[test]
fn a_running_branch_is_not_disturbed() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = Sandbox::small();
    sandbox
        .sh("f", "head -c 200000 /dev/zero | tr '\\0' a > large")
        .ok();
    sandbox.call(&["snapshot", "create", "f"]).ok();
    let script = "exec 3< large; rm large; : > ready; while test ! -e go; do sleep 0.05; done; \
                  wc -c < /proc/self/fd/3; wc -c <&3";
    let running = sandbox.start_sh("f", script);
    let is_ready = || {
        sandbox
            .call(&["exec", "-q", "f", "--", "test", "-e", "ready"])
            .code()
            == 0
    };
    until("the file is gone and open", is_ready);
    sandbox.call(&["snapshot", "rm", "f@1"]).ok();
    let kept = json(sandbox.call(&["gc", "--json"]));
    assert!(whats(&kept).is_empty(), "{kept}");
    assert_eq!(kept["kept"][0]["reason"], "live");
    assert_eq!(kept["branches"][0]["live"], true);
    sandbox.call(&["exec", "-q", "f", "--", "touch", "go"]).ok();
    assert_eq!(running.wait().ok().out(), "200000\n200000\n");
    until("the branch is idle", || sandbox.daemons().is_empty());
    assert_eq!(whats(&json(sandbox.call(&["gc", "--json"]))), ["objects"]);
    sandbox.call(&["fsck"]).ok();
}

/// A file that is open and unlinked while a snapshot is made goes with the last who has it open.
#[test]
fn what_is_unlinked_and_open_at_a_snapshot_leaves_nothing() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = Sandbox::small();
    let script = "exec 3<> tmpfile; head -c 3000000 /dev/zero | tr '\\0' a >&3; rm tmpfile; : > ready; \
                  while test ! -e go; do sleep 0.05; done; echo more >&3; wc -c < /proc/self/fd/3";
    let running = sandbox.start_sh("f", script);
    let is_ready = || {
        sandbox
            .call(&["exec", "-q", "f", "--", "test", "-e", "ready"])
            .code()
            == 0
    };
    until("the file is gone and open", is_ready);
    sandbox.call(&["snapshot", "create", "f"]).ok();
    sandbox.call(&["exec", "-q", "f", "--", "touch", "go"]).ok();
    assert_eq!(running.wait().ok().out(), "3000005\n");
    until("the branch is idle", || sandbox.daemons().is_empty());
    let left = allocated(&sandbox.store());
    assert!(left < 2_000_000, "{left} bytes stay");
    assert!(whats(&json(sandbox.call(&["gc", "--json"]))).is_empty());
    sandbox.call(&["fsck"]).ok();
}

/// Killed wherever it may be, it goes on the next time.
#[test]
fn it_can_be_killed_and_run_again() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = Sandbox::small();
    sandbox
        .sh(
            "f",
            "mkdir d; i=0; while test $i -lt 300; do echo $i > d/$i; i=$((i+1)); done",
        )
        .ok();
    sandbox.call(&["snapshot", "create", "f"]).ok();
    sandbox.sh("f", "rm -r d; echo two > file").ok();
    sandbox.call(&["snapshot", "rm", "f@1"]).ok();
    let layers = sandbox.store().join("layers");
    let full = files(&layers);
    for gone in [0, 1, 50, 150, 250] {
        let mut command = sandbox.agentfs(&["gc"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut gc = command.spawn().expect("start");
        until("it is at it, or done", || {
            files(&layers) + gone <= full || gc.try_wait().expect("ask").is_some()
        });
        gc.kill().expect("kill");
        gc.wait().expect("wait");
        sandbox.call(&["fsck"]).ok();
    }
    sandbox.call(&["gc"]).ok();
    assert!(whats(&json(sandbox.call(&["gc", "--json"]))).is_empty());
    assert_eq!(sandbox.sh("f", "cat file").ok().out(), "two\n");
}

/// A hundred snapshots work with few descriptors, cost only what changed, and are all there.
#[test]
fn a_hundred_snapshots_need_few_descriptors_and_little_space() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = Sandbox::small();
    for n in 0..100 {
        sandbox
            .sh("f", &format!("echo {n} > file{n}; echo {n} > same"))
            .ok();
        sandbox.call(&["snapshot", "create", "f"]).ok();
    }
    let agentfs = sandbox.agentfs(&["x"]).get_program().to_owned();
    let script = "ulimit -n 256; exec \"$0\" run -q --branch f -- \
                  sh -c 'cat file0 file50 file99 same; ls | grep -c ^file'";
    let mut command = sandbox.host("sh");
    command.arg("-c").arg(script).arg(agentfs);
    let done = command.output().expect("run");
    let out = String::from_utf8_lossy(&done.stdout);
    assert!(
        out.starts_with("0\n50\n99\n99\n"),
        "{out} {}",
        String::from_utf8_lossy(&done.stderr)
    );
    sandbox.call(&["gc"]).ok();
    sandbox.call(&["fsck"]).ok();
    let args = [
        "run", "-q", "--branch", "g", "--from", "f@50", "--", "cat", "same",
    ];
    assert_eq!(sandbox.call(&args).ok().out(), "49\n");
    let used = allocated(&sandbox.store());
    assert!(
        used < 100 * 40_000,
        "{used} bytes for a hundred snapshots of two lines each"
    );
}
