//! Branches over time: side by side, again and again, joined, and after the daemon was killed.

use std::fs;

use agentfs_tests::need::need_run;
use agentfs_tests::wait::until;
use agentfs_tests::{Manifest, Sandbox, base, bins};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn two_runs_at_once_see_only_their_own_changes() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let before = Manifest::of(&sandbox.work());
    let text = "set -e; for i in $(seq 60); do \
        echo $ME $i > file; echo $ME $i >> dir/one; echo $ME > new-$i; \
        mv dir/sub dir/sub-$ME; mv dir/sub-$ME dir/sub; \
        test \"$(cat file)\" = \"$ME $i\"; test \"$(cat new-$i)\" = $ME; \
        test $(grep -vc \"^1*$ME\" dir/one) = 0; done; test $(ls new-* | wc -l) = 60";
    let runs = ["left", "right"].map(|me| sandbox.start_sh(me, &format!("ME={me}; {text}")));
    for run in runs {
        run.wait().ok();
    }
    before.assert_still();
    for me in ["left", "right"] {
        let done = sandbox.sh(me, "cat file").ok();
        assert_eq!(done.out(), format!("{me} 60\n"));
    }
    sandbox
        .sh(
            "third",
            "test \"$(cat file)\" = 'hello, base'; test ! -e new-1",
        )
        .ok();
    before.assert_still();
}

#[test]
fn a_branch_is_re_entered_bit_for_bit() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let before = Manifest::of(&sandbox.work());
    let text = "set -e; echo changed > file; printf x >> big; rm two; mkdir n; \
        dd if=/dev/urandom of=n/random bs=1k count=300 status=none; ln n/random n/hard; \
        ln -s ../file n/soft; mkfifo n/fifo; chmod 2750 n; chmod 4711 exec; mv dir moved; \
        truncate -s 100000 sparse; touch -d 2001-02-03T04:05:06.789 moved/one; \
        python3 -c 'import os; os.setxattr(\"file\", \"user.mine\", b\"\\0\\xff\")'; mv hollow n/";
    sandbox.sh("b", text).ok();
    let manifest = |name: &str| {
        let helper = bins::helper();
        let mut command = sandbox.agentfs(&["run", "-q", "--branch", name, "--ro"]);
        command
            .arg(bins::bin_dir())
            .arg("--")
            .arg(helper)
            .arg("manifest")
            .arg(".");
        agentfs_tests::cmd::run(&mut command).ok().out()
    };
    let first = manifest("b");
    for file in [
        "n/random",
        "moved/sub/two",
        "moved/link",
        "n/fifo",
        "n/hollow",
    ] {
        assert!(first.contains(file), "{file} in\n{first}");
    }
    assert_eq!(first, manifest("b"), "a second look");
    sandbox.sh("b", "true").ok();
    assert_eq!(first, manifest("b"), "after another run");
    let inodes = |script: &str| sandbox.sh("b", script).ok().out();
    let script = "stat -c '%n %i %Y' * n/* moved/*";
    assert_eq!(
        inodes(script),
        inodes(script),
        "inode numbers and times stay"
    );
    before.assert_still();
}

#[test]
fn after_a_killed_daemon_the_command_gets_errors_and_never_the_base() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let before = Manifest::of(&sandbox.work());
    let text = "echo mine > file; echo ready; while [ ! -e ../out/go ]; do sleep 0.05; done; \
                cat file; echo poison > file; cat dir/one; echo end";
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", "b", "--rw"]);
    command.arg(sandbox.out()).args(["--", "bash", "-c", text]);
    let run = agentfs_tests::cmd::start(command.stdin(std::process::Stdio::null()));
    until("the command is up", || run.stdout_now() == b"ready\n");
    let daemons = sandbox.daemons();
    assert_eq!(daemons.len(), 1);
    kill(Pid::from_raw(daemons[0]), Signal::SIGKILL).expect("kill the daemon");
    fs::write(sandbox.out().join("go"), "").expect("go");
    let done = run.wait();
    assert!(
        !done.out().contains("hello, base"),
        "the base showed through\n{}",
        done.report()
    );
    before.assert_still();
    assert_eq!(sandbox.sh("b", "cat file").ok().out(), "mine\n");
}

/// Starts a run that stays up until `out/stop` exists.
fn live(sandbox: &Sandbox, branch: &str, first: &str) -> agentfs_tests::cmd::Running {
    let text = format!(
        "{first}; echo ready; while [ ! -e '{}/stop' ]; do sleep 0.05; done; cat late",
        sandbox.out().display()
    );
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", branch, "--rw"]);
    command.arg(sandbox.out()).args(["--", "bash", "-c", &text]);
    let run = agentfs_tests::cmd::start(command.stdin(std::process::Stdio::null()));
    until("the first run is up", || run.stdout_now() == b"ready\n");
    run
}

#[test]
fn a_live_branch_is_joined() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let before = Manifest::of(&sandbox.work());
    let run = live(
        &sandbox,
        "b",
        "echo early > early; readlink /proc/self/ns/user > userns; echo x > /tmp/x",
    );
    // The same view, /tmp included; what one writes the other sees at once. Not its processes.
    let text = "set -e; cat early; test \"$(readlink /proc/self/ns/user)\" = \"$(cat userns)\"; \
                cat /tmp/x; test $(ls -d /proc/[0-9]* | wc -l) -lt 6; echo late > late; echo changed > file; exit 4";
    let done = sandbox.sh("b", text).expect(4);
    assert_eq!(done.out(), "early\nx\n");
    sandbox
        .call(&["exec", "-q", "b", "--", "grep", "changed", "file"])
        .ok();
    assert_eq!(sandbox.daemons().len(), 1, "one daemon per live branch");

    // What holds of a live branch.
    let row = sandbox.row("b");
    assert!(row.to_string().contains("running"), "{row}");
    sandbox.call(&["rm", "b"]).expect(125).says(&["b", "live"]);
    // Another starts from what it holds now, and goes its own way.
    let text = "cat early late; echo mine > late";
    let args = [
        "run", "-q", "--branch", "c", "--from", "b", "--", "sh", "-c", text,
    ];
    assert_eq!(sandbox.call(&args).ok().out(), "early\nlate\n");
    let late = sandbox.sh("b", "cat late").ok();
    assert_eq!(late.out(), "late\n");
    let diff = sandbox.call(&["diff", "b", "--name-status"]).ok();
    assert!(
        diff.out().contains("early"),
        "a live branch can be looked at\n{}",
        diff.report()
    );

    fs::write(sandbox.out().join("stop"), "").expect("stop");
    let done = run.wait().ok();
    assert_eq!(done.out(), "ready\nlate\n");
    before.assert_still();
    sandbox.call(&["rm", "b"]).ok();
}

#[test]
fn a_joined_run_ends_with_its_own_status_and_without_harm() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let run = live(&sandbox, "b", "true");
    sandbox.sh("b", "kill -TERM $$").expect(143);
    sandbox
        .call(&["exec", "b", "--", "no-such-program-xyz"])
        .expect(127);
    let joined = sandbox.start_sh("b", "echo up; sleep 600");
    until("the joined run is up", || joined.stdout_now() == b"up\n");
    joined.signal(Signal::SIGKILL);
    joined.wait().expect(137);
    until("a killed launcher's command is gone", || {
        !sandbox
            .processes()
            .iter()
            .any(|p| p.command.contains("sleep 600"))
    });
    sandbox.sh("b", "echo late > late").ok();
    fs::write(sandbox.out().join("stop"), "").expect("stop");
    assert_eq!(run.wait().ok().out(), "ready\nlate\n");
}

#[test]
fn many_branches_come_and_go_at_once() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let runs: Vec<_> = (0..8)
        .map(|i| {
            sandbox.start_sh(
                &format!("b{i}"),
                &format!("echo {i} > file; cat file dir/one"),
            )
        })
        .collect();
    for (i, run) in runs.into_iter().enumerate() {
        assert_eq!(run.wait().ok().out(), format!("{i}\n1"));
    }
    assert_eq!(sandbox.rows().len(), 8);
    let names: Vec<String> = (0..8).map(|i| format!("b{i}")).collect();
    let args: Vec<&str> = std::iter::once("rm")
        .chain(names.iter().map(String::as_str))
        .collect();
    sandbox.call(&args).ok();
    assert!(sandbox.rows().is_empty());
}

/// A daemon's program that runs `first` before it becomes the daemon.
fn slow_daemon(sandbox: &Sandbox, first: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = sandbox.root().join("slow-daemon");
    let real = bins::daemon();
    let text = format!("#!/bin/sh\n{first}\nexec '{}' \"$@\"\n", real.display());
    fs::write(&path, text).expect("the slow daemon");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    path
}

fn start_with(
    sandbox: &Sandbox,
    daemon: &std::path::Path,
    args: &[&str],
) -> agentfs_tests::cmd::Running {
    let mut command = sandbox.agentfs(args);
    command.env("AGENTFS_FUSE_HOST_BIN", daemon);
    agentfs_tests::cmd::start(command.stdin(std::process::Stdio::null()))
}

#[test]
fn a_run_that_comes_too_late_joins_and_removes_nothing() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.sh("other", "true").ok();
    let gate = sandbox.out().join("go");
    let wait = format!("while [ ! -e '{}' ]; do sleep 0.05; done", gate.display());
    let daemon = slow_daemon(&sandbox, &wait);
    let args = ["run", "-q", "--branch", "race", "--", "cat", "theirs"];
    let late = start_with(&sandbox, &daemon, &args);
    until("the branch is made", || {
        sandbox.rows().iter().any(|row| row["name"] == "race")
    });
    let first = live(&sandbox, "race", "echo theirs > theirs; echo late > late");
    fs::write(gate, "").expect("go");
    // The first one waits for a word of ours: it is still there when the other one ends.
    assert_eq!(late.wait().ok().out(), "theirs\n");
    fs::write(sandbox.out().join("stop"), "").expect("stop");
    assert_eq!(first.wait().ok().out(), "ready\nlate\n");
    assert_eq!(sandbox.sh("race", "cat theirs").ok().out(), "theirs\n");
}

#[test]
fn a_branch_with_anothers_work_outlives_a_command_that_is_not_there() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.sh("other", "true").ok();
    let gate = sandbox.out().join("go");
    let wait = format!("while [ ! -e '{}' ]; do sleep 0.05; done", gate.display());
    let daemon = slow_daemon(&sandbox, &wait);
    let args = ["run", "--branch", "g", "--", "/nonexistent"];
    let first = start_with(&sandbox, &daemon, &args);
    until("the branch is made", || {
        sandbox.rows().iter().any(|row| row["name"] == "g")
    });
    // Works on it and is gone before the other one gets to it.
    sandbox.sh("g", "echo work > work").ok();
    fs::write(gate, "").expect("go");
    first.wait().expect(127);
    assert_eq!(sandbox.sh("g", "cat work").ok().out(), "work\n");
    // One that nobody used goes.
    for from in [&[][..], &["--from", "g"]] {
        let args = [&["run", "--branch", "h"], from, &["--", "/nonexistent"]].concat();
        sandbox
            .call(&args)
            .expect(127)
            .says(&["no branch was made"]);
        assert!(sandbox.rows().iter().all(|row| row["name"] != "h"));
    }
}

#[test]
fn runs_that_make_one_branch_at_once_share_it() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.sh("other", "true").ok();
    for round in 0..3 {
        let name = format!("b{round}");
        // No daemon begins before each of the runs has started one: all of them race for the branch.
        let [started, go] =
            ["started", "go"].map(|word| sandbox.out().join(format!("{word}{round}")));
        let wait = format!(
            "echo >>'{}'; while [ ! -e '{}' ]; do sleep 0.05; done",
            started.display(),
            go.display()
        );
        let daemon = slow_daemon(&sandbox, &wait);
        let script = |i: u32| format!("echo {i} > {i}");
        let runs: Vec<_> = (0..4)
            .map(|i| {
                let script = script(i);
                let args = ["run", "-q", "--branch", &name, "--", "sh", "-c", &script];
                start_with(&sandbox, &daemon, &args)
            })
            .collect();
        until("each run has started a daemon", || {
            fs::read(&started).is_ok_and(|marks| marks.len() == runs.len())
        });
        fs::write(go, "").expect("go");
        for run in runs {
            run.wait().ok();
        }
        let done = sandbox.sh(&name, "cat 0 1 2 3").ok();
        assert_eq!(done.out(), "0\n1\n2\n3\n");
    }
}

#[test]
fn the_first_run_does_not_wait_for_those_that_joined() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let run = live(&sandbox, "b", "echo late > late");
    let joined = sandbox.start_sh("b", "echo up; read -t 60 x < <(sleep 60)");
    until("the joined run is up", || joined.stdout_now() == b"up\n");
    fs::write(sandbox.out().join("stop"), "").expect("stop");
    run.wait_in(std::time::Duration::from_secs(20)).ok();
    assert_eq!(sandbox.daemons().len(), 1, "the joined run goes on");
    joined.signal(Signal::SIGTERM);
    joined.wait().expect(143);
}

#[test]
fn a_signal_ends_a_run_that_is_still_being_set_up() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.sh("old", "true").ok();
    let up = sandbox.out().join("up");
    let text = format!("touch '{}'; exec sleep 600", up.display());
    let daemon = slow_daemon(&sandbox, &text);
    for (branch, signal, status) in [
        ("new", Signal::SIGINT, 130),
        ("new", Signal::SIGTERM, 143),
        ("old", Signal::SIGTERM, 143),
    ] {
        let args = ["run", "--branch", branch, "--", "true"];
        let run = start_with(&sandbox, &daemon, &args);
        until("the daemon is started", || up.exists());
        run.signal(signal);
        let done = run.wait_in(std::time::Duration::from_secs(20));
        assert_eq!(done.status.code(), Some(status), "{}", done.report());
        assert_eq!(sandbox.rows().len(), 1, "no branch is left behind");
        sandbox.assert_quiet();
        fs::remove_file(&up).expect("remove");
    }
    sandbox.sh("old", "true").ok();
}

#[test]
fn a_long_wait_for_a_daemon_is_told_once() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let script = ["bash", "-c", "echo up; exec sleep 600"];
    let run = sandbox.start(&[&["run", "--branch", "b", "--"], &script[..]].concat());
    until("the run is up", || run.stdout_now() == b"up\n");
    let daemons = sandbox.daemons();
    assert_eq!(daemons.len(), 1, "{daemons:?}");
    let daemon = nix::unistd::Pid::from_raw(daemons[0]);
    nix::sys::signal::kill(daemon, Signal::SIGSTOP).expect("stop it");
    let quiet = sandbox.start(&["exec", "b", "--quiet", "--", "echo", "quiet"]);
    let loud = sandbox.start(&["exec", "b", "--", "echo", "loud"]);
    let words = "agentfs: waiting for the daemon of branch b\n";
    until("the wait is told", || loud.stderr_now() == words);
    nix::sys::signal::kill(daemon, Signal::SIGCONT).expect("go on");
    let (quiet, loud) = (quiet.wait().ok(), loud.wait().ok());
    assert_eq!(
        loud.stderr.matches("waiting").count(),
        1,
        "{}",
        loud.report()
    );
    assert_eq!(
        (loud.out(), quiet.out()),
        ("loud\n".into(), "quiet\n".into())
    );
    assert_eq!(quiet.stderr, "", "{}", quiet.report());
    // And at the end of a run.
    nix::sys::signal::kill(daemon, Signal::SIGSTOP).expect("stop it");
    run.signal(Signal::SIGTERM);
    let words = "agentfs: waiting for the daemon to close branch b\n";
    until("the wait is told", || run.stderr_now() == words);
    nix::sys::signal::kill(daemon, Signal::SIGCONT).expect("go on");
    run.wait().expect(143);
}
