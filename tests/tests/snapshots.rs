//! Snapshots, branches of them, and the way back, through the command line and real runs.

use std::fs;

use agentfs_tests::need::need_run;
use agentfs_tests::regime::is_zero_open;
use agentfs_tests::wait::until;
use agentfs_tests::{Done, Manifest, Sandbox, bins};

fn json(done: Done) -> serde_json::Value {
    serde_json::from_str(&done.ok().out()).expect("JSON")
}

#[test]
fn branches_diverge_from_a_snapshot_and_from_each_other() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = Sandbox::small();
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
    let (sandbox, before) = Sandbox::small();
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
    // What only a snapshot names is nobody's leftover.
    let done = sandbox.call(&["fsck", "--repair"]).ok();
    assert!(!done.out().contains("lost+found"), "{}", done.report());
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
    let (sandbox, _) = Sandbox::small();
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
    let (sandbox, before) = Sandbox::small();
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
    let (sandbox, _) = Sandbox::small();
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
    let (sandbox, before) = Sandbox::small();
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
    let (sandbox, before) = Sandbox::small();
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

/// What git can carry of the workspace on a branch: paths, types, the executable bit and contents.
fn held(sandbox: &Sandbox, branch: &str) -> String {
    let script = "find . -name .git -prune -o \\( -type f -o -type l \\) -print | sort | \
         while IFS= read -r f; do \
           if [ -L \"$f\" ]; then echo \"$f -> $(readlink \"$f\")\"; \
           else echo \"$f $(stat -c %A \"$f\" | cut -c4) $(sha256sum < \"$f\")\"; fi; done";
    sandbox.sh(branch, script).ok().out()
}

/// Applies what sets `to` apart from `from` to a branch that is made from `from`: it must hold what
/// one that is made from `to` holds. Both ways.
#[track_caller]
fn leads(sandbox: &Sandbox, one: &str, other: &str) {
    let made = |name: &str, from: &str| {
        let args = ["branch", "create", name, "--from", from];
        sandbox.call(&args).ok();
        held(sandbox, name)
    };
    for (from, to) in [(one, other), (other, one)] {
        let (before, goal) = (made("work-on", from), made("goal", to));
        assert_ne!(before, goal);
        let agentfs = bins::agentfs().display().to_string();
        sandbox.host_sh(&format!(
            "'{agentfs}' diff {from} {to} | '{agentfs}' exec -q work-on -- git apply"
        ));
        assert_eq!(held(sandbox, "work-on"), goal, "{from} to {to}");
        // What git cannot carry may differ: full modes, empty directories.
        let same = sandbox.call(&["diff", "work-on", "goal"]).ok();
        assert_eq!(same.out(), "", "{from} to {to}");
        sandbox.call(&["rm", "work-on", "goal"]).ok();
    }
}

/// Points of one lineage and of two, against git.
#[test]
fn a_diff_of_two_points_leads_from_one_to_the_other() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = Sandbox::small();
    sandbox.host_sh("git init -q; git add -A; git commit -qm base");
    let before = Manifest::of(&sandbox.work());
    sandbox
        .sh(
            "f",
            "seq 200 > text; echo one > file; mv dir moved; ln -s file s; mkdir made; \
             echo in > made/in; printf 'a\\0b' > binary; echo y | dd of=big bs=1 seek=9 conv=notrunc",
        )
        .ok();
    sandbox.call(&["snapshot", "create", "f"]).ok();
    sandbox
        .sh(
            "f",
            "sed -i 100d text; mv moved/one up; rm made/in; chmod +x file; ln -sf text s; \
             printf 'a\\0c' > binary; echo z | dd of=big bs=1 seek=99 conv=notrunc; mv text text2; \
             rm -r moved; echo m > moved",
        )
        .ok();
    sandbox.call(&["snapshot", "create", "f"]).ok();
    sandbox.sh("f", "rm -r made; echo two > file").ok();
    sandbox
        .sh(
            "g",
            "seq 200 > text; rm -r dir; echo dir > dir; echo g > made; chmod +x big; mv file gfile",
        )
        .ok();
    leads(&sandbox, "f@1", "f@2");
    leads(&sandbox, "f@1", "f");
    leads(&sandbox, "f@2", "g");
    leads(&sandbox, "f", "g");
    // What both have of `text` is the same by other means.
    let names = sandbox.call(&["diff", "f@1", "g", "--name-status"]);
    let names = names.ok().out();
    assert!(
        !names.contains("text") && names.contains("A\tdir\n"),
        "{names}"
    );
    sandbox.call(&["fsck"]).ok();
    before.assert_still();
}

#[test]
fn a_second_word_is_a_point_or_a_path_and_never_either() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = Sandbox::small();
    sandbox
        .sh(
            "f",
            "echo f > file; echo f > own; mkdir new; echo n > new/n",
        )
        .ok();
    sandbox.call(&["snapshot", "create", "f"]).ok();
    sandbox.sh("f", "echo later > own; mv new/n moved").ok();
    for name in ["g", "file", "own"] {
        sandbox
            .call(&["branch", "create", name, "--from", "f@1"])
            .ok();
    }
    let names = |args: &[&str]| {
        let args = [&["diff", "--name-status"], args].concat();
        sandbox.call(&args).ok().out()
    };
    assert_eq!(names(&["f@1", "f"]), "R100\tnew/n\tmoved\nM\town\n");
    assert_eq!(names(&["f@1", "f", "own"]), "M\town\n");
    assert_eq!(names(&["f", "g", "new"]), "A\tnew/n\n");
    assert_eq!(names(&["f@1", "g"]), "");
    assert_eq!(names(&["g", "f@1", "--all"]), "");
    // Paths, of the host and of the first point alone, that are branches too.
    for word in ["file", "own"] {
        let done = sandbox.call(&["diff", "f", word]).expect(125);
        for fix in [format!("diff f --to {word}"), format!("diff f -- {word}")] {
            assert!(done.stderr.contains(&fix), "{}", done.report());
        }
        assert!(done.out().is_empty());
    }
    assert_eq!(names(&["f", "--", "own"]), "A\town\n");
    assert_eq!(names(&["f", "--to", "own", "own"]), "M\town\n");
    // A path, for want of a branch of that name or of a snapshot.
    assert_eq!(names(&["f", "moved"]), "A\tmoved\n");
    let told = json(sandbox.call(&["diff", "f@1", "f", "--json"]));
    assert_eq!(
        (&told["from"], &told["branch"]),
        (&"f@1".into(), &"f".into())
    );
    assert_eq!(told["changes"][0]["from"], "new/n");
    let stat = sandbox.call(&["diff", "f@1", "f", "--stat"]).ok().out();
    assert!(stat.contains("own"), "{stat}");

    let refused = |args: &[&str], word: &str| {
        let done = sandbox.call(args).expect(125);
        assert!(done.stderr.contains(word), "{word}: {}", done.report());
    };
    refused(&["diff", "f", "f@9"], "no snapshot 9");
    refused(&["diff", "f", "--to", "none"], "no branch none");
    refused(&["diff", "f", "none"], "none does not exist");
    refused(&["diff", "f", "g", "none"], "none does not exist");
    refused(&["diff", "f", "--all", "own", "g"], "own");
    refused(&["diff", "f", "--all", "moved"], "--all");
    sandbox.call(&["rm", "file", "own", "g"]).ok();
}

/// A snapshot that is refused changes nothing for a file that is open meanwhile.
#[test]
fn a_refused_snapshot_loses_nothing_of_open_files() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = Sandbox::small();
    sandbox.sh("f", "true").ok();
    sandbox
        .call(&["snapshot", "create", "f", "--name", "s"])
        .ok();
    let (begun, go) = (sandbox.out().join("begun"), sandbox.out().join("go"));
    let script = "exec 7>log; echo first >&7; touch \"$0\"; \
        while [ ! -e \"$1\" ]; do sleep 0.02; done; seq 5000 >&7; exec 7>&-; wc -c <log";
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", "f", "--rw"]);
    command
        .arg(sandbox.out())
        .args(["--", "bash", "-c", script]);
    let run = agentfs_tests::cmd::start(command.arg(&begun).arg(&go));
    until("the file is open", || begun.exists());
    let again = ["snapshot", "create", "f", "--name", "s"];
    let done = sandbox.call(&again).expect(125);
    assert!(done.stderr.contains("f@s exists"), "{}", done.report());
    fs::write(&go, b"").expect("go");
    assert_eq!(run.wait().ok().out(), "23899\n");
    let out = sandbox.sh("f", "wc -c <log; tail -n 1 log").ok().out();
    assert_eq!(out, "23899\n5000\n");
    sandbox.call(&["fsck"]).ok();
}

/// A command that was suspended stays so: the pause for a snapshot is not its SIGCONT.
#[test]
fn a_snapshot_wakes_no_suspended_command() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = Sandbox::small();
    let woken = sandbox.out().join("woken");
    let begun = sandbox.out().join("begun");
    let script = "import os, signal, sys
f = os.open('log', os.O_RDWR | os.O_CREAT)
os.write(f, b'x')
open(sys.argv[1], 'w').close()
os.kill(os.getpid(), signal.SIGSTOP)
open(sys.argv[2], 'w').close()
";
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", "f", "--rw"]);
    command
        .arg(sandbox.out())
        .args(["--", "python3", "-c", script]);
    let run = agentfs_tests::cmd::start(command.arg(&begun).arg(&woken));
    until("it is about to stop", || begun.exists());
    until("the launcher stopped with it", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", run.pid())).unwrap_or_default();
        let state = stat.rsplit(") ").next().unwrap_or_default();
        state.starts_with('T')
    });
    for _ in 0..3 {
        sandbox.call(&["snapshot", "create", "f"]).ok();
    }
    assert!(!woken.exists(), "the command was woken");
    run.signal(nix::sys::signal::Signal::SIGCONT);
    run.wait().ok();
    assert!(woken.exists());
}

/// Programs outside of a run cannot be stopped: a file that they write natively is in the way. Where none
/// is opened nothing is written so, and open files are in nobody's way.
#[test]
fn a_mounted_branch_that_is_being_written_is_busy() {
    if !agentfs_tests::mounted::need_mount() {
        return;
    }
    let (sandbox, _) = Sandbox::small();
    let mnt = sandbox.root().join("mnt");
    fs::create_dir(&mnt).expect("mkdir");
    agentfs_tests::mounted::mount(&sandbox, "m", &mnt, &sandbox.work(), "rw").ok();
    fs::write(mnt.join("new"), b"one").expect("write");
    let create = ["snapshot", "create", "m"];
    // The kernel tells of a close after it has returned.
    let quiet = || sandbox.call(&create).code() == 0;
    until("the file is closed", quiet);
    let open = fs::File::create(mnt.join("fresh")).expect("create");
    let done = sandbox.call(&create);
    match is_zero_open() {
        true => drop(done.ok()),
        false => drop(done.expect(125).says(&["close them"])),
    }
    drop(open);
    until("the file is closed again", quiet);
    agentfs_tests::mounted::umount(&sandbox, &mnt);
    sandbox.call(&["fsck"]).ok();
}

/// Stores through a mapping whose descriptor is closed come after the snapshot, and into the branch.
#[test]
fn a_mapping_that_outlives_its_descriptor_writes_into_no_snapshot() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = Sandbox::small();
    let (begun, go) = (sandbox.out().join("begun"), sandbox.out().join("go"));
    let script = "import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
def store(byte):
    ctypes.memset(at, byte, 4096)
    assert libc.msync(ctypes.c_void_p(at), ctypes.c_long(8192), 4) == 0
def wait(step):
    open(sys.argv[1] + step, 'w')
    while not os.path.exists(sys.argv[2] + step): os.sched_yield()
f = os.open('mapped', os.O_RDWR | os.O_CREAT)
os.write(f, b'-' * 8192)
at = libc.mmap(None, ctypes.c_long(8192), 3, 1, f, ctypes.c_long(0))
os.close(f)
store(ord('A')); wait('1')
store(ord('B')); wait('2')
f = os.open('mapped', os.O_RDWR); os.pwrite(f, b'z', 5000); os.close(f)
store(ord('C'))
";
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", "f", "--rw"]);
    command
        .arg(sandbox.out())
        .args(["--", "python3", "-c", script]);
    let run = agentfs_tests::cmd::start(command.arg(&begun).arg(&go));
    for step in ["1", "2"] {
        let at = |path: &std::path::Path| sandbox.out().join(format!("{}{step}", path.display()));
        until("it stored", || at(&begun).exists());
        sandbox.call(&["snapshot", "create", "f"]).ok();
        fs::write(at(&go), b"").expect("go");
    }
    run.wait().ok();
    let holds = |args: &[&str]| {
        let look = "head -c 4096 mapped | tr -s ABC; tail -c +5001 mapped | head -c 1";
        let args = [args, &["--", "sh", "-c", look]].concat();
        sandbox.call(&args).ok().out().to_owned()
    };
    let of = |n: &str| holds(&["run", "-q", "--branch", n, "--from", &format!("f@{n}")]);
    assert_eq!([of("1"), of("2")], ["A-", "B-"]);
    assert_eq!(holds(&["exec", "f"]), "Cz");
    sandbox.call(&["fsck"]).ok();
}

/// A daemon that is killed while the run stands still for a snapshot: nobody would wake it, and what
/// it wrote to open files then could be in no layer of the branch.
#[test]
fn a_run_that_stands_still_ends_with_its_daemon() {
    // Init is to be seen by root only.
    if !need_run() || !agentfs_tests::need::need("root") {
        return;
    }
    let (sandbox, _) = Sandbox::small();
    let begun = sandbox.out().join("begun");
    let script = "(echo >\"$0\"; exec sleep 600) & wait";
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", "f", "--rw"]);
    command
        .arg(sandbox.out())
        .args(["--", "bash", "-c", script]);
    let run = agentfs_tests::cmd::start(command.arg(&begun));
    until("it works", || begun.exists());
    // As the daemon stops them: parents first, whose pids are lower here.
    let daemons = sandbox.daemons();
    let inside = || -> Vec<i32> {
        let all = sandbox.processes().into_iter().map(|p| p.pid);
        let mut all: Vec<i32> = all
            .filter(|pid| *pid != run.pid() && !daemons.contains(pid))
            .collect();
        all.sort_unstable();
        all
    };
    let send = |pid: i32, signal| {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    };
    let mut stopped = Vec::new();
    while stopped != inside() {
        stopped = inside();
        for pid in &stopped {
            send(*pid, nix::sys::signal::Signal::SIGSTOP);
        }
    }
    assert!(
        stopped.len() >= 3,
        "init, a shell and its child: {stopped:?}"
    );
    send(daemons[0], nix::sys::signal::Signal::SIGKILL);
    run.wait_in(agentfs_tests::wait::PATIENCE).expect(137);
    sandbox.assert_quiet();
    sandbox.call(&["fsck"]).ok();
}
