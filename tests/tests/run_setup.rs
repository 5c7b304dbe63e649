//! The moments of a set-up, each held in turn: what a signal leaves behind, and who may come in.

use std::fs;
use std::time::Duration;

use agentfs_fsd::backstore::Store;
use agentfs_fsd::core::types::BranchName;
use agentfs_fsd::ctl::CtlError;
use agentfs_fsd::ctl::client::Client;
use agentfs_fsd::ctl::msg::ErrorCode;
use agentfs_tests::gate::{Gate, Moment};
use agentfs_tests::need::need_run;
use agentfs_tests::pty::Pty;
use agentfs_tests::wait::until;
use agentfs_tests::{Manifest, Sandbox, base, bins};
use nix::sys::signal::Signal;

/// Far below the half minute after which the launcher gives up a daemon that does not answer.
const SOON: Duration = Duration::from_secs(20);

/// Fails the test unless `old` is the only branch, is not live, and holds what it held.
#[track_caller]
fn assert_only_old_is_left(sandbox: &Sandbox) {
    sandbox.assert_quiet();
    let rows = sandbox.rows();
    assert_eq!(rows.len(), 1, "no branch is left behind: {rows:?}");
    let row = sandbox.row("old");
    assert_ne!(row["state"], "running", "{row}");
    let script = "grep -x kept kept && test ! -e ran";
    assert_eq!(sandbox.sh("old", script).ok().out(), "kept\n");
}

#[test]
fn a_signal_at_any_moment_of_the_set_up_ends_the_run_cleanly() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let before = Manifest::of(&sandbox.work());
    sandbox.sh("old", "echo kept > kept").ok();
    for moment in Moment::ALL {
        let gate = Gate::at(&sandbox, moment);
        for (branch, signal, status) in [
            ("new", Signal::SIGINT, 130),
            ("new", Signal::SIGTERM, 143),
            ("old", Signal::SIGINT, 130),
            ("old", Signal::SIGTERM, 143),
        ] {
            let run = gate.start(&sandbox, &["run", "--branch", branch, "--", "touch", "ran"]);
            let held = gate.held();
            run.signal(signal);
            let done = run.wait_in(SOON);
            let what = format!("{signal} at {moment:?}, branch {branch}");
            let code = done.status.code();
            assert_eq!(code, Some(status), "{what}\n{}", done.report());
            drop(held);
            assert_only_old_is_left(&sandbox);
        }
    }
    before.assert_still();
}

#[test]
fn control_c_at_any_moment_of_the_set_up_gives_the_prompt_back() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.sh("old", "echo kept > kept").ok();
    for moment in Moment::ALL {
        let gate = Gate::at(&sandbox, moment);
        let mut shell = sandbox.host("bash");
        shell.args(["--norc", "--noprofile", "-i"]);
        shell
            .env("AGENTFS", bins::agentfs())
            .env("PS1", "prompt> ")
            .env("HISTFILE", "");
        gate.adopt(&mut shell);
        let mut pty = Pty::spawn(&shell);
        pty.expect("prompt> ");
        pty.send("\"$AGENTFS\" run --branch new -- touch ran\n");
        let held = gate.held();
        pty.send("\x03");
        pty.expect("prompt> ");
        pty.send("echo \"status=$?\"\n");
        pty.expect("status=130");
        pty.send("exit\n");
        pty.finish();
        drop(held);
        assert_only_old_is_left(&sandbox);
    }
}

#[test]
fn nobody_joins_a_view_that_is_not_complete() {
    if !need_run() {
        return;
    }
    for moment in [Moment::Session, Moment::Bind, Moment::Attach] {
        let sandbox = Sandbox::new();
        base::small(&sandbox.work());
        let before = Manifest::of(&sandbox.work());
        sandbox.sh("b", "echo kept > kept").ok();
        let gate = Gate::at(&sandbox, moment);
        let stop = sandbox.out().join("stop");
        let script = format!("until [ -e '{}' ]; do sleep 0.05; done", stop.display());
        let mut first = sandbox.agentfs(&["run", "-q", "--branch", "b", "--rw"]);
        first.arg(sandbox.out()).args(["--", "sh", "-c", &script]);
        gate.adopt(&mut first);
        // So that it tells of each connection's end.
        first.env("AGENTFS_LOG", "debug");
        let first = agentfs_tests::cmd::start(first.stdin(std::process::Stdio::null()));
        let held = gate.held();

        let store = Store::open(&sandbox.store()).expect("open").expect("there");
        let control = store.control_path(&BranchName::new("b").expect("a name"));
        let log = control.with_file_name("fsd.log");
        let turned_away = || {
            let log = fs::read_to_string(&log).expect("the daemon's log");
            log.matches("control connection ended").count()
        };
        // In the branch, and nowhere else, `kept` is there; on the host, it would make `host`.
        let script = "cat kept || echo > host";
        let mut joiners = [
            sandbox.start(&["run", "-q", "--branch", "b", "--", "sh", "-c", script]),
            sandbox.start(&["exec", "-q", "b", "--", "sh", "-c", script]),
        ];
        let mut came_in = || {
            let mut ended = joiners.iter_mut().map(|j| j.child.try_wait());
            ended.any(|status| status.expect("wait").is_some())
        };
        until("the joiners have tried several times", || {
            turned_away() >= 6 || came_in()
        });
        before.assert_still();
        assert!(!came_in(), "somebody joined at {moment:?}");
        let asked = Client::connect(&control).and_then(|client| client.join());
        assert!(
            matches!(&asked, Err(CtlError::Refused { code, message })
                if *code == ErrorCode::NotMounted && message.contains("not mounted yet")),
            "at {moment:?}: {asked:?}"
        );

        drop(held);
        for joiner in joiners {
            assert_eq!(joiner.wait().ok().out(), "kept\n", "at {moment:?}");
        }
        fs::write(&stop, "").expect("stop");
        first.wait().ok();
        before.assert_still();
        let looked = sandbox.sh("b", "test ! -e host && cat kept").ok();
        assert_eq!(looked.out(), "kept\n");
    }
}
