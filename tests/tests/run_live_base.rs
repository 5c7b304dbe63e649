//! What the host does while a run is live: who works in a directory stays there, what the view has mounted
//! stays mounted, and what is landed shows. (`live_base` has the rest, on mounts; they would lie below
//! the views of these runs.)

use std::fs;
use std::path::Path;

use agentfs_tests::need::need_run;
use agentfs_tests::wait::until;
use agentfs_tests::{Sandbox, Shell};

fn fill(dir: &Path) {
    for sub in ["d", "d/sub", "e"] {
        fs::create_dir(dir.join(sub)).expect("mkdir");
    }
    for name in ["d/one", "d/two", "d/sub/leaf", "e/file", "log", "saved"] {
        fs::write(dir.join(name), format!("{name}\n")).expect("write");
    }
}

/// A shell in a run.
fn inside(sandbox: &Sandbox, options: &[&str]) -> Shell {
    let mut args = vec!["run", "-q", "--branch", "b"];
    args.extend(options);
    args.extend(["--", "bash"]);
    Shell::start(sandbox.agentfs(&args))
}

/// Waits until a line says this.
#[track_caller]
fn comes_to(run: &mut Shell, line: &str, wanted: &str) {
    until(wanted, || run.does(line).text.trim_end() == wanted);
}

#[test]
fn who_works_in_a_directory_that_the_host_touches_keeps_it() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    fill(&sandbox.work());
    let mut run = inside(&sandbox, &[]);
    run.ok("ls . d d/sub; cd d/sub; test ! -e late");
    let here = run.ok("pwd -P; stat -c %i .");
    sandbox.host_sh(
        "echo x > d/sub/late; echo y >> d/sub/leaf; chmod 750 d/sub d; touch d/sub d; \
        mv d/one d/uno; mkdir d/more; mv d e/d; mv e/d d",
    );
    comes_to(&mut run, "cat late leaf", "x\nd/sub/leaf\ny");
    comes_to(&mut run, "stat -c %a . ..", "750\n750");
    assert_eq!(
        run.ok("pwd -P; stat -c %i .; cd ..; cd sub; pwd -P; stat -c %i ."),
        format!("{here}\n{here}")
    );
}

#[test]
fn a_mount_of_the_view_stays_on_what_the_host_replaces() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    fill(&sandbox.work());
    let guarded = sandbox.work().join("d/one");
    let guarded = guarded.to_str().expect("a plain path");
    let mut run = inside(&sandbox, &["--ro", guarded]);
    let tries = "echo mine > d/one || echo refused";
    assert!(run.ok(tries).ends_with("refused"));
    run.ok("ls d; test ! -e d/last");
    sandbox.host_sh("echo anew > s; mv s d/one; mv d x; mv x d; echo last > d/last");
    comes_to(&mut run, "cat d/last", "last");
    assert!(run.ok(tries).ends_with("refused"));
}

#[test]
fn what_a_landing_writes_shows_on_the_other_branches() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    fill(&sandbox.work());
    sandbox.host_sh("git init -q; git add .; git commit -qm base");
    let mut run = inside(&sandbox, &[]);
    run.ok("ls -l d; cat d/one saved; test ! -e d/landed");
    sandbox
        .sh(
            "other",
            "echo landed > d/landed; echo more >> d/one; rm saved",
        )
        .ok();
    let patch = sandbox.call(&["diff", "other"]).ok();
    let file = sandbox.out().join("patch");
    fs::write(&file, &patch.stdout).expect("write");
    sandbox.host_sh(&format!("git apply {}", file.display()));
    comes_to(
        &mut run,
        "cat d/landed d/one; ls",
        "landed\nd/one\nmore\nd\ne\nlog",
    );
}
