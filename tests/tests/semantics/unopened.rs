//! fsd/SEMANTICS.md, "Where files are used without being opened": what holds there and how what is
//! not promised shows. These ask for it themselves, whatever the other tests run on.

use std::process::Stdio;

use agentfs_tests::need::need_run;
use agentfs_tests::regime::VARIABLE;
use agentfs_tests::wait::until;
use agentfs_tests::{Sandbox, base, cmd};

use crate::LiveShell;

/// A sandbox over the small base tree, and a shell on branch b without opens.
fn shell() -> Option<(Sandbox, LiveShell)> {
    if !need_run() {
        return None;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", "b", "--", "bash"]);
    command.env(VARIABLE, "zero-open").stdin(Stdio::piped());
    let run = LiveShell(cmd::start(&mut command));
    Some((sandbox, run))
}

#[test]
fn files_are_made_removed_and_used_by_those_who_have_them_open() {
    let Some((_sandbox, mut run)) = shell() else {
        return;
    };
    // More files than are kept open, while one that has no name any more is.
    let out = run.sh(
        "echo one > kept; exec 7<>kept 8<file; rm kept file; mkdir many; \
        for n in $(seq 700); do echo $n > many/$n; done; \
        for n in $(seq 700); do read m < many/$n; test $m = $n || echo $m; done; \
        cat <&7; echo two >&7; cat /proc/self/fd/7; cat <&8 | wc -c; \
        echo three > other; mv other many/1; cat many/1; sync many/2 && echo synced",
    );
    assert!(out.starts_with("one\none\ntwo\n"), "{out}");
    assert!(out.ends_with("three\nsynced\n"), "{out}");
    let held: usize = out.lines().nth(3).and_then(|n| n.parse().ok()).expect("wc");
    assert!(held > 0, "{out}");
    run.sh("exec 7<&- 8<&-");
    run.end();
}

#[test]
fn a_snapshot_holds_what_was_written_before_it() {
    let Some((sandbox, mut run)) = shell() else {
        return;
    };
    run.sh("exec 7>>log 8<>file; echo before >&7; printf before >&8");
    sandbox
        .call(&["snapshot", "create", "b", "--name", "s"])
        .ok();
    assert_eq!(run.sh("echo after >&7; printf after >&8; cat log"), {
        "before\nafter\n"
    });
    run.end();
    let out = sandbox.call(&[
        "run",
        "-q",
        "--from",
        "b@s",
        "--",
        "sh",
        "-c",
        "cat log; head -c 6 file",
    ]);
    assert_eq!(out.ok().out(), "before\nbefore");
    let out = sandbox.sh("b", "cat log; head -c 11 file").ok().out();
    assert_eq!(out, "before\nafter\nbeforeafter");
}

#[test]
fn what_the_host_changes_is_never_shown_in_part_or_overwritten() {
    let Some((sandbox, mut run)) = shell() else {
        return;
    };
    sandbox.host_sh("printf 'aaaa\\n' | tee grown log > saved");
    assert_eq!(run.sh("cat grown log saved"), "aaaa\naaaa\naaaa\n");
    sandbox.host_sh("echo bbbb | tee -a grown >> log; echo anew > s; mv s saved");
    // As it was, as far as it was read; not the new length with nothing in it.
    let out = run.sh("cat grown");
    assert!(["aaaa\n", "aaaa\nbbbb\n"].contains(&&*out), "{out:?}");
    run.sh("ls -l > /dev/null");
    let out = run.sh("cat grown");
    assert!(["aaaa\n", "aaaa\nbbbb\n"].contains(&&*out), "{out:?}");
    // What is appended comes behind what the host has there, once it does not fail.
    until("log is written", || run.sh("echo mine >> log").is_empty());
    run.sh("cat log > /dev/null");
    until("log is seen", || run.sh("cat log") == "aaaa\nbbbb\nmine\n");
    // A file that was saved anew is the old one, or fails until its name is looked up again.
    until("the new file is seen, or written", || {
        run.sh("cat saved > /dev/null; echo more >> saved");
        run.sh("cat saved").ends_with("anew\nmore\n")
    });
    run.end();
    let out = sandbox.sh("b", "cat grown log; tail -n 1 saved").ok().out();
    assert_eq!(out, "aaaa\nbbbb\naaaa\nbbbb\nmine\nmore\n");
    assert_eq!(sandbox.host_sh("cat saved").out(), "anew\n");
}

#[test]
fn fsd_log_says_how_a_mount_is_served() {
    let Some((sandbox, run)) = shell() else {
        return;
    };
    run.end();
    let log = sandbox.store().join("branches/b/fsd.log");
    let text = std::fs::read_to_string(log).expect("fsd.log");
    assert!(text.contains("regime=zero-open"), "{text}");
}
