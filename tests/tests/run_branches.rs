//! Branches over time: side by side, again and again, joined, and after the daemon was killed.

use std::fs;

use agentfs_tests::need::need_run;
use agentfs_tests::wait::{eventually, until};
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
fn everything_acknowledged_survives_a_killed_daemon() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let before = Manifest::of(&sandbox.work());
    let helper = bins::helper();
    let call = |args: &[&str]| {
        let mut command = sandbox.agentfs(&["run", "-q", "--branch", "b", "--rw"]);
        command
            .arg(sandbox.out())
            .arg("--ro")
            .arg(bins::bin_dir())
            .arg("--");
        command.args(args);
        command
    };
    // Moments are counted in acknowledged steps, spread by a fixed rule; what the daemon does at
    // that moment is the machine's own chance.
    for round in 0..20_u64 {
        let moment = 40 + round * 977 % 1_300;
        let (dir, acks) = (
            format!("load{round}"),
            sandbox.out().join(format!("acks{round}")),
        );
        let script = format!(
            "mkdir {dir} && exec '{}' load {dir} '{}' {round}",
            helper.display(),
            acks.display()
        );
        let mut command = call(&["bash", "-c", &script]);
        let run = agentfs_tests::cmd::start(command.stdin(std::process::Stdio::null()));
        let acked = || fs::metadata(&acks).map_or(0, |m| m.len());
        eventually(&format!("{moment} steps of round {round}"), || {
            let pid = run.pid();
            let alive = fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z"));
            assert!(alive, "the load ended by itself: {}", run.stderr_now());
            (acked() >= moment).then_some(())
        });
        let daemons = sandbox.daemons();
        assert_eq!(daemons.len(), 1, "one daemon per live branch");
        kill(Pid::from_raw(daemons[0]), Signal::SIGKILL).expect("kill the daemon");
        let done = run.wait();
        assert_ne!(
            done.code(),
            0,
            "a load without its daemon fails\n{}",
            done.report()
        );
        sandbox.assert_quiet();

        let acked = acked().to_string();
        let helper = helper.to_str().expect("UTF-8");
        let check = call(&[helper, "verify", &dir, &acked, &round.to_string()]);
        let mut check = check;
        let done = agentfs_tests::cmd::run(&mut check);
        assert_eq!(
            done.code(),
            0,
            "round {round}, {acked} steps\n{}",
            done.report()
        );
    }
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
    let from = sandbox.call(&["run", "--branch", "c", "--from", "b", "--", "true"]);
    from.expect(125).says(&["b", "live"]);
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
