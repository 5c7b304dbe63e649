//! Snapshots, branches of them, and the way back, through the command line and real runs.

use std::fs;

use agentfs_tests::need::need_run;
use agentfs_tests::wait::until;
use agentfs_tests::{Done, Manifest, Sandbox, base};

fn json(done: Done) -> serde_json::Value {
    serde_json::from_str(&done.ok().out()).expect("JSON")
}

/// A sandbox with the small base tree, and its manifest.
fn sandbox() -> (Sandbox, Manifest) {
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let before = Manifest::of(&sandbox.work());
    (sandbox, before)
}

#[test]
fn branches_diverge_from_a_snapshot_and_from_each_other() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    sandbox
        .sh("f", "echo one > file; mv dir moved; echo n > new")
        .ok();
    let made = sandbox.call(&["snapshot", "create", "f"]).ok();
    assert_eq!(made.out(), "f@1\n");
    sandbox
        .sh(
            "f",
            "echo two > file; rm new; echo x >> moved/one; printf x >> big",
        )
        .ok();
    sandbox
        .call(&["snapshot", "create", "f", "--name", "second"])
        .ok();
    sandbox.sh("f", "rm -rf moved; echo three > file").ok();

    let from = |name: &str, point: &str, script: &str| {
        let args = [
            "run", "-q", "--branch", name, "--from", point, "--", "sh", "-c", script,
        ];
        sandbox.call(&args).ok().out()
    };
    let look = "cat file; cat new 2>/dev/null; ls; tail -n 1 moved/one 2>/dev/null; wc -c < big";
    let first = from("a", "f@1", look);
    assert!(first.starts_with("one\nn\n"), "{first}");
    let second = from("b", "f@second", look);
    assert!(
        second.starts_with("two\n") && second.contains("1x\n"),
        "{second}"
    );
    // What one does, no other sees; nor does the snapshot.
    from("c", "f@1", "echo c > file; rm -rf moved; echo c >> big");
    assert_eq!(from("d", "f@1", look), first);
    assert!(
        sandbox
            .sh("f", "cat file; ls")
            .ok()
            .out()
            .starts_with("three\n")
    );
    // A branch of a branch of a snapshot.
    sandbox.call(&["branch", "create", "e", "--from", "c"]).ok();
    assert_eq!(
        sandbox
            .sh("e", "cat file; ls -d moved 2>/dev/null; true")
            .ok()
            .out(),
        "c\n"
    );
    let tree = sandbox.call(&["branch", "tree"]).ok().out();
    let expect =
        "f\n|-- @1\n|   |-- a\n|   |-- c\n|   |   `-- e\n|   `-- d\n`-- @second\n    `-- b\n";
    assert_eq!(tree, expect);
    sandbox.call(&["fsck"]).ok();
    before.assert_still();
}

#[test]
fn a_branch_goes_back_to_a_snapshot_and_forth_again() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    sandbox
        .sh("f", "echo one > file; ln file link; rm -r dir")
        .ok();
    sandbox
        .call(&["snapshot", "create", "f", "--name", "good"])
        .ok();
    sandbox
        .sh("f", "echo two > link; mkdir dir; echo d > dir/d")
        .ok();
    let done = sandbox.call(&["restore", "f", "good"]).ok();
    assert!(done.stderr.contains("f@1"), "{}", done.report());
    assert_eq!(
        sandbox
            .sh("f", "cat link; ls -d dir 2>/dev/null; true")
            .ok()
            .out(),
        "one\n"
    );
    sandbox.call(&["restore", "f", "1"]).ok();
    assert_eq!(sandbox.sh("f", "cat file dir/d").ok().out(), "two\nd\n");
    let list = json(sandbox.call(&["snapshot", "list", "f", "--json"]));
    let names: Vec<_> = (list["snapshots"].as_array().into_iter().flatten())
        .map(|s| s["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(names, ["good", "1"]);
    sandbox.call(&["fsck"]).ok();
    before.assert_still();
}

#[test]
fn what_is_needed_or_live_or_not_there_is_refused() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = sandbox();
    sandbox.sh("f", "echo one > file").ok();
    sandbox.call(&["snapshot", "create", "f"]).ok();
    sandbox
        .call(&["branch", "create", "child", "--from", "f@1"])
        .ok();
    let refused = |args: &[&str], words: &[&str]| {
        let done = sandbox.call(args).expect(125);
        for word in words {
            assert!(done.stderr.contains(word), "{word}: {}", done.report());
        }
        assert!(done.stderr.contains("fix: "), "{}", done.report());
    };
    refused(&["snapshot", "rm", "f@1"], &["f@1", "needed by child"]);
    refused(&["rm", "f"], &["needed by child"]);
    refused(&["snapshot", "create", "f", "--name", "1"], &["f@1 exists"]);
    refused(&["snapshot", "create", "none"], &["no branch none"]);
    refused(&["snapshot", "show", "f@none"], &["no snapshot none"]);
    refused(&["snapshot", "show", "f"], &["no snapshot"]);
    refused(&["restore", "f", "none"], &["no snapshot none"]);
    refused(
        &["run", "--branch", "x", "--from", "f@none", "--", "true"],
        &["no snapshot none"],
    );
    refused(&["branch", "create", "child"], &["child exists"]);
    refused(&["branch", "rename", "f", "child"], &["child exists"]);
    let bad = sandbox
        .call(&["branch", "create", "x", "--from", "f@../y"])
        .expect(125);
    assert!(
        bad.stderr.contains("invalid snapshot name"),
        "{}",
        bad.report()
    );

    let go = sandbox.out().join("go");
    let begun = sandbox.out().join("begun");
    let script = "touch \"$0\"; while [ ! -e \"$1\" ]; do sleep 0.02; done";
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", "f", "--rw"]);
    command.arg(sandbox.out()).args(["--", "sh", "-c", script]);
    let run = agentfs_tests::cmd::start(command.arg(&begun).arg(&go));
    until("the run began", || begun.exists());
    refused(&["restore", "f", "1"], &["live"]);
    refused(&["branch", "rename", "f", "g"], &["live"]);
    fs::write(&go, b"").expect("go");
    run.wait().ok();
    sandbox.call(&["branch", "rename", "f", "g"]).ok();
    assert_eq!(sandbox.sh("g", "cat file").ok().out(), "one\n");
    assert_eq!(
        json(sandbox.call(&["branch", "show", "child", "--json"]))["branch"]["parent"],
        "g@1"
    );
    sandbox.call(&["rm", "child", "g"]).ok();
    sandbox.call(&["fsck"]).ok();
}

/// Two files are written in step, by descriptors that stay open: a snapshot shows them in step.
#[test]
fn a_snapshot_of_a_run_is_one_point_in_time() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    let (begun, go) = (sandbox.out().join("begun"), sandbox.out().join("go"));
    let script = "import os, sys, mmap
begun, go = sys.argv[1:]
a = os.open('a', os.O_RDWR | os.O_CREAT)
b = os.open('b', os.O_RDWR | os.O_CREAT)
i = 0
while not os.path.exists(go):
    for _ in range(50):
        i += 1
        os.pwrite(a, b'%20d' % i, 0)
        os.pwrite(b, b'%20d' % i, 0)
    if i == 100: open(begun, 'w')
";
    let args = ["run", "-q", "--branch", "f", "--rw"];
    let mut command = sandbox.agentfs(&args);
    command
        .arg(sandbox.out())
        .args(["--", "python3", "-c", script]);
    let run = agentfs_tests::cmd::start(command.arg(&begun).arg(&go));
    until("it writes", || begun.exists());
    for _ in 0..5 {
        sandbox.call(&["snapshot", "create", "f"]).ok();
    }
    sandbox.call(&["branch", "create", "g", "--from", "f"]).ok();
    fs::write(&go, b"").expect("go");
    run.wait().ok();
    let pair = |text: String| -> [u64; 2] {
        let mut words = text
            .split_ascii_whitespace()
            .map(|w| w.parse().expect("a number"));
        [words.next().expect("a"), words.next().expect("b")]
    };
    let mut last = 0;
    for n in 1..=5 {
        let (name, point) = (format!("of{n}"), format!("f@{n}"));
        let args = [
            "run", "-q", "--branch", &name, "--from", &point, "--", "cat", "a", "b",
        ];
        let [a, b] = pair(sandbox.call(&args).ok().out());
        assert!(a == b || a == b + 1, "{point}: {a} {b}");
        assert!(a >= last, "{point} is older than the one before");
        last = a;
    }
    let [a, b] = pair(sandbox.sh("g", "cat a b").ok().out());
    assert!((a == b || a == b + 1) && a >= last, "{a} {b}");
    let [a, b] = pair(sandbox.sh("f", "cat a b").ok().out());
    assert!(a == b && a > last, "the branch went on: {a} {b}");
    sandbox.call(&["fsck"]).ok();
    before.assert_still();
}

/// Who is stopped for a snapshot goes on as it was: a stopped process stays stopped, and a shell
/// takes none of its children for stopped.
#[test]
fn a_snapshot_stops_nobody_for_good_and_wakes_nobody() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = sandbox();
    let (begun, go) = (sandbox.out().join("begun"), sandbox.out().join("go"));
    // Job control on, so that the shell would tell of a child that stops.
    let script = format!(
        "set -m; sleep 1000 & stopped=$!; kill -STOP $stopped; exec 7>>log; \
         python3 -c 'import os,sys,time
while not os.path.exists(sys.argv[2]):
    os.write(7, b\"x\")
    open(sys.argv[1], \"w\")' '{}' '{}'; echo end $?; \
         cut -d' ' -f3 /proc/$stopped/stat; kill -KILL $stopped",
        begun.display(),
        go.display()
    );
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", "f", "--rw"]);
    command
        .arg(sandbox.out())
        .args(["--", "bash", "-c", &script]);
    let run = agentfs_tests::cmd::start(&mut command);
    until("it writes", || begun.exists());
    for _ in 0..3 {
        sandbox.call(&["snapshot", "create", "f"]).ok();
    }
    fs::write(&go, b"").expect("go");
    let done = run.wait().ok();
    assert_eq!(done.out(), "end 0\nT\n", "{}", done.report());
}

#[test]
fn snapshots_outlive_a_killed_daemon() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    let (begun, go) = (sandbox.out().join("begun"), sandbox.out().join("go"));
    let script = "import os, sys
f = os.open('log', os.O_RDWR | os.O_CREAT | os.O_APPEND)
i = 0
try:
    while True:
        i += 1
        os.write(f, b'%d\\n' % i)
        open('new%d' % (i % 100), 'w').write(str(i))
        if i == 50: open(sys.argv[1], 'w')
except OSError:
    pass
";
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", "f", "--rw"]);
    command
        .arg(sandbox.out())
        .args(["--", "python3", "-c", script]);
    let run = agentfs_tests::cmd::start(command.arg(&begun).arg(&go));
    until("it writes", || begun.exists());
    for _ in 0..3 {
        sandbox.call(&["snapshot", "create", "f"]).ok();
    }
    for pid in sandbox.daemons() {
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
    }
    let _ended = run.wait();
    sandbox.call(&["fsck"]).ok();
    let mut last = 0;
    for point in ["f@1", "f@2", "f@3", "f"] {
        let name = point.replace('@', "-of-");
        let args = match point {
            "f" => vec!["run", "-q", "--branch", "f", "--", "wc", "-l", "log"],
            _ => vec![
                "run", "-q", "--branch", &name, "--from", point, "--", "wc", "-l", "log",
            ],
        };
        let out = sandbox.call(&args).ok().out();
        let lines: u64 = out
            .split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a number");
        assert!(lines >= last.max(50), "{point}: {out}");
        last = lines;
    }
    before.assert_still();
}

#[test]
fn a_diff_of_a_snapshot_is_that_of_the_branch_then() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    sandbox
        .sh("f", "echo one > file; mv dir moved; echo n > new; rm big")
        .ok();
    let forms = [&[][..], &["--stat"], &["--name-status"]];
    let diff = |point: &str, form: &[&str]| {
        let args = [&["diff", point], form].concat();
        sandbox.call(&args).ok().out()
    };
    let then: Vec<_> = forms.iter().map(|form| diff("f", form)).collect();
    sandbox.call(&["snapshot", "create", "f"]).ok();
    sandbox
        .sh("f", "echo two > file; rm -r moved new; echo later > later")
        .ok();
    for (form, then) in forms.iter().zip(&then) {
        assert_eq!(&diff("f@1", form), then);
        assert_ne!(&diff("f", form), then);
    }
    assert_eq!(diff("f@1", &["new", "--name-status"]), "A\tnew\n");
    let told = json(sandbox.call(&["diff", "f@1", "--json"]));
    assert_eq!(told["branch"], "f@1");
    assert_eq!(told["complete"], true);
    let none = sandbox.call(&["diff", "f@2"]).expect(125);
    assert!(none.stderr.contains("no snapshot 2"), "{}", none.report());
    before.assert_still();
}
