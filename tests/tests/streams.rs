//! Standard output and standard error that take nothing, full or without a reader: the exit status
//! stays what it is, an answer that could not be given is an error, and nothing panics.

use std::fs::OpenOptions;
use std::process::Stdio;

use agentfs_tests::mounted::need_any_mount;
use agentfs_tests::need::need_run;
use agentfs_tests::{Done, Sandbox, cmd};

/// How a stream takes nothing.
#[derive(Clone, Copy, Debug)]
enum Bad {
    /// Every write fails with ENOSPC.
    Full,
    /// Every write fails with EPIPE.
    Gone,
}

impl Bad {
    fn stream(self) -> Stdio {
        match self {
            Bad::Full => {
                let full = OpenOptions::new().write(true).open("/dev/full");
                full.expect("/dev/full").into()
            }
            // Its only reader is dropped here.
            Bad::Gone => std::io::pipe().expect("a pipe").1.into(),
        }
    }
}

/// A sandbox with a branch `old` that has a change.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.work().join("file"), "host\n").expect("write");
    sandbox.sh("old", "echo branch > file").ok();
    sandbox
}

fn call(sandbox: &Sandbox, args: &[&str], stdout: Option<Bad>, stderr: Option<Bad>) -> Done {
    let mut command = sandbox.agentfs(args);
    command.stdin(Stdio::null());
    let to = |bad: Option<Bad>| bad.map(Bad::stream);
    cmd::start_onto(&mut command, to(stdout), to(stderr)).wait_in(cmd::LIMIT)
}

/// Calls `args` with every mixture of bad streams, `prepare` before each. `code`: as with good ones.
/// `answers`: it writes to stdout, so that a full one is an error.
#[track_caller]
fn check(sandbox: &Sandbox, args: &[&str], code: i32, answers: bool, prepare: impl Fn()) {
    for bad in [Bad::Full, Bad::Gone] {
        for (stdout, stderr) in [(Some(bad), None), (None, Some(bad)), (Some(bad), Some(bad))] {
            prepare();
            let done = call(sandbox, args, stdout, stderr);
            let cut = answers && matches!(stdout, Some(Bad::Full));
            let due = if cut { 125 } else { code };
            assert_eq!(
                done.code(),
                due,
                "stdout {stdout:?}, stderr {stderr:?}\n{}",
                done.report()
            );
            assert!(!done.stderr.contains("panicked"), "{}", done.report());
            if cut && stderr.is_none() {
                done.says(&["agentfs: write the answer to stdout: no space", "fix: "]);
            }
        }
    }
}

#[test]
fn a_commands_status_is_its_own() {
    if !need_run() {
        return;
    }
    let sandbox = sandbox();
    let none = || ();
    for (flags, script, code) in [
        (&["run", "-b", "old"][..], "exit 3", 3),
        (&["run", "-b", "old", "--json"], "exit 3", 3),
        (&["exec", "old"], "kill -KILL $$", 137),
        (&["exec", "old", "--quiet"], "true", 0),
    ] {
        let args = [flags, &["--", "sh", "-c", script]].concat();
        check(&sandbox, &args, code, false, none);
    }
    check(
        &sandbox,
        &["exec", "old", "--", "nosuchcmd"],
        127,
        false,
        none,
    );
    check(&sandbox, &["run", "--", "/etc/passwd"], 126, false, none);
    // Streams that are not open at all.
    let script = format!(
        "'{}' run -b old -- sh -c 'exit 3' >&- 2>&- || echo $?",
        agentfs_tests::bins::agentfs().display()
    );
    assert_eq!(sandbox.host_sh(&script).out(), "3\n");
}

#[test]
fn an_answer_that_is_cut_short_is_an_error() {
    if !need_run() {
        return;
    }
    let sandbox = sandbox();
    let fine = sandbox.call(&["doctor"]).code();
    for (args, code) in [
        (&["run", "--dry-run", "--", "true"][..], 0),
        (&["run", "--dry-run", "--json", "--", "true"], 0),
        (&["ls"], 0),
        (&["ls-branches", "--json"], 0),
        (&["diff", "old"], 0),
        (&["diff", "old", "--stat"], 0),
        (&["diff", "old", "--name-status"], 0),
        (&["diff", "old", "--json"], 0),
        (&["diff", "old", "--json", "nosuch"], 125),
        (&["fsck"], 0),
        (&["fsck", "old", "--json"], 0),
        (&["doctor"], fine),
        (&["doctor", "--json"], fine),
        (&["--help"], 0),
        (&["diff", "--help"], 0),
        (&["--version"], 0),
    ] {
        check(&sandbox, args, code, true, || ());
    }
}

#[test]
fn a_refusal_needs_nobody_who_hears_it() {
    if !need_run() {
        return;
    }
    let sandbox = sandbox();
    for args in [
        &["run", "-b", "a/b", "--", "true"][..],
        &["run", "--nonsense"],
        &["run", "cargo", "test"],
        &["exec", "nope", "--", "true"],
        &["diff", "nope"],
        &["rm", "old", "nope"],
        &["mount", "new", "nowhere"],
        &["umount", "."],
        &["fsck", "nope"],
        &["--store", "/etc/passwd", "ls"],
        &["nonsense"],
    ] {
        check(&sandbox, args, 125, false, || ());
    }
    let make = || drop(sandbox.sh("gone", "true").ok());
    check(&sandbox, &["rm", "gone"], 0, false, make);
}

#[test]
fn a_mount_needs_nobody_who_hears_of_it() {
    if !need_any_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.root().join("mnt")).expect("mkdir");
    let umount = || drop(sandbox.call(&["umount", "../mnt"]));
    check(&sandbox, &["mount", "b", "../mnt"], 0, false, umount);
    umount();
    let mount = || drop(sandbox.call(&["mount", "b", "../mnt"]).ok());
    check(&sandbox, &["umount", "../mnt"], 0, false, mount);
}
