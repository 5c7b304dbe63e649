//! Signals, terminals and leftovers: the status is right and nothing stays behind.

use std::fs;

use agentfs_tests::gate::{Gate, Moment};
use agentfs_tests::need::need_run;
use agentfs_tests::pty::Pty;
use agentfs_tests::wait::until;
use agentfs_tests::{Sandbox, bins};
use nix::sys::signal::Signal;

/// An interactive shell on a terminal, as a person has it, with `$AGENTFS` the launcher.
fn terminal(sandbox: &Sandbox) -> Pty {
    let mut shell = sandbox.host("bash");
    shell.args(["--norc", "--noprofile", "-i"]);
    shell
        .env("AGENTFS", bins::agentfs())
        .env("PS1", "prompt> ")
        .env("HISTFILE", "");
    let mut pty = Pty::spawn(&shell);
    pty.expect("prompt> ");
    pty
}

/// A script of the workspace, so that what is typed does not hold the words that are waited for.
fn script(sandbox: &Sandbox, text: &str) {
    fs::write(sandbox.work().join("script"), text).expect("script");
}

/// Processes called `name` in this sandbox, by their state letter.
fn states(sandbox: &Sandbox, name: &str) -> Vec<String> {
    let processes = sandbox.processes().into_iter().filter(|p| p.name == name);
    processes
        .filter_map(|p| fs::read_to_string(format!("/proc/{}/stat", p.pid)).ok())
        .filter_map(|stat| {
            stat.rsplit(") ")
                .next()
                .and_then(|s| s.get(..1).map(str::to_owned))
        })
        .collect()
}

#[test]
fn control_c_reaches_the_command() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    script(
        &sandbox,
        "trap 'echo caught; exit 9' INT; echo ready; sleep 600 & wait",
    );
    let mut pty = terminal(&sandbox);
    pty.send("\"$AGENTFS\" run -q --branch b -- bash script; echo \"status=$?\"\n");
    pty.expect("ready");
    pty.send("\x03");
    pty.expect("caught");
    pty.expect("status=9");
    // A command that does not catch it dies of it, and the shell is told so.
    script(&sandbox, "echo ready; exec sleep 600");
    pty.send("\"$AGENTFS\" run -q --branch c -- bash script\n");
    pty.expect("ready");
    pty.send("\x03");
    pty.expect("prompt> ");
    pty.send("echo \"status=$?\"\n");
    pty.expect("status=130");
    pty.send("exit\n");
    pty.finish();
    sandbox.assert_quiet();
}

#[test]
fn control_backslash_kills_the_command() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    // Not bash, which ignores SIGQUIT until it has become the sleep.
    script(&sandbox, "ulimit -c 0; echo ready; exec sleep 600");
    let mut pty = terminal(&sandbox);
    pty.send("\"$AGENTFS\" run -q --branch b -- dash script\n");
    pty.expect("ready");
    pty.send("\x1c");
    pty.expect("prompt> ");
    pty.send("echo \"status=$?\"\n");
    pty.expect("status=131");
    pty.send("exit\n");
    pty.finish();
}

#[test]
fn control_z_stops_the_command_and_fg_goes_on() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    script(
        &sandbox,
        "echo ready; read -r line; echo \"got:$line\"; exit 5",
    );
    let mut pty = terminal(&sandbox);
    pty.send("\"$AGENTFS\" run -q --branch b -- bash script; echo \"status=$?\"\n");
    pty.expect("ready");
    pty.send("\x1a");
    pty.expect("Stopped");
    until("the command is stopped too", || {
        states(&sandbox, "bash").contains(&"T".to_owned())
    });
    // The shell is usable meanwhile, then the command gets its terminal back.
    pty.send("echo in-bet''ween\n");
    pty.expect("in-between");
    pty.send("fg\n");
    pty.expect("script");
    pty.send("hello\n");
    pty.expect("got:hello");
    pty.expect("prompt> ");
    pty.send("\"$AGENTFS\" ls-branches\n");
    pty.expect("exit 5");
    pty.send("exit\n");
    pty.finish();
    sandbox.assert_quiet();
}

#[test]
fn a_closed_terminal_ends_everything() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    script(&sandbox, "echo ready; exec sleep 600");
    let mut pty = terminal(&sandbox);
    pty.send("exec \"$AGENTFS\" run -q --branch b -- bash script\n");
    pty.expect("ready");
    drop(pty);
    sandbox.assert_quiet();
    sandbox.sh("b", "true").ok();
}

#[test]
fn the_terminals_size_is_seen_inside() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let mut pty = terminal(&sandbox);
    pty.send("\"$AGENTFS\" run -q --branch b -- stty size\n");
    pty.expect("24 80");
    pty.send(
        "\"$AGENTFS\" run -q --branch b -- bash -c 'test -t 0 && test -t 1 && ec''ho is-a-tty'\n",
    );
    pty.expect("is-a-tty");
    pty.send("exit\n");
    pty.finish();
}

#[test]
fn termination_signals_are_passed_on() {
    if !need_run() {
        return;
    }
    for signal in [
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGUSR1,
    ] {
        let sandbox = Sandbox::new();
        let name = signal.as_str().trim_start_matches("SIG");
        let text = format!("trap 'exit 9' {name}; echo ready; sleep 600 & wait");
        let run = sandbox.start_sh("b", &text);
        until("the command is up", || run.stdout_now() == b"ready\n");
        run.signal(signal);
        let done = run.wait();
        assert_eq!(done.status.code(), Some(9), "{signal}\n{}", done.report());
    }
}

#[test]
fn background_processes_do_not_outlive_the_run() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let started = std::time::Instant::now();
    let text = "sleep 600 & (setsid nohup sleep 600 >/dev/null 2>&1 &) ; trap '' TERM; \
                (trap '' TERM HUP INT; exec sleep 600) & exit 3";
    sandbox.sh("b", text).expect(3);
    assert!(started.elapsed().as_secs() < 60, "it did not wait for them");
    // None of them is left when the launcher is back: no deadline is needed.
    let left = sandbox.processes();
    assert!(left.is_empty(), "left behind: {left:#?}");
}

#[test]
fn a_killed_launcher_takes_everything_along() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let text = "echo kept > kept; (setsid sleep 600 &); echo ready; sleep 600";
    let run = sandbox.start_sh("b", text);
    until("the command is up", || run.stdout_now() == b"ready\n");
    // Only root can look into the launcher, init and the daemon: they are not dumpable.
    assert!(sandbox.processes().len() >= 3, "shell and sleeps live");
    run.signal(Signal::SIGKILL);
    run.wait().expect(137);
    sandbox.assert_quiet();
    // The branch is free again and holds what was written.
    let done = sandbox.sh("b", "cat kept").ok();
    assert_eq!(done.out(), "kept\n");
}

#[test]
fn a_killed_launcher_while_it_sets_up_leaves_nothing() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.sh("b", "echo kept > kept").ok();
    // Before it got to anything, then at each moment of its set-up.
    let run = sandbox.start_sh("b", "touch ran");
    run.signal(Signal::SIGKILL);
    run.wait().expect(137);
    sandbox.assert_quiet();
    for moment in Moment::ALL {
        let gate = Gate::at(&sandbox, moment);
        let run = gate.start(
            &sandbox,
            &["run", "-q", "--branch", "b", "--", "touch", "ran"],
        );
        let held = gate.held();
        run.signal(Signal::SIGKILL);
        run.wait().expect(137);
        sandbox.assert_quiet();
        drop(held);
    }
    sandbox.sh("b", "grep -x kept kept && test ! -e ran").ok();
}

#[test]
fn a_closed_output_is_a_broken_pipe_for_the_command() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let agentfs = bins::agentfs();
    let done = sandbox.host_sh(&format!(
        "set +e +o pipefail; '{}' run -q --branch b -- yes | head -1; echo \"${{PIPESTATUS[0]}}\"",
        agentfs.display()
    ));
    assert_eq!(done.out(), "y\n141\n");
}
