//! Machines that lack something: what `agentfs run` and `agentfs doctor` say of it, that they come to
//! an end, and that nothing is left behind. And user namespaces that know few ids, as a rootless
//! container is one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use agentfs_tests::need::{is_root, need, need_run};
use agentfs_tests::{Done, Manifest, Sandbox, base, bins, cmd};

/// No answer here waits for anything: far below every patience of the launcher.
const SOON: Duration = Duration::from_secs(20);

/// Runs a shell script in namespaces of its own, made as `unshare` is told.
#[track_caller]
fn unshared(sandbox: &Sandbox, how: &str, script: &str) -> Done {
    let mut command = sandbox.host("unshare");
    command.arg(how).args(["bash", "-euc", script]);
    command.env("AGENTFS", bins::agentfs());
    cmd::start(command.stdin(std::process::Stdio::null())).wait_in(SOON)
}

/// `-m` for who may make a mount namespace, the same and more for who may not.
fn mounts_of_its_own() -> &'static str {
    match is_root() {
        true => "-m",
        false => "-Urm",
    }
}

/// Runs a shell script with limits, which `ulimit` is told.
#[track_caller]
fn limited(sandbox: &Sandbox, limits: &str, script: &str) -> Done {
    let mut command = sandbox.host("bash");
    command.args(["-c", &format!("ulimit -c 0 && {limits} && {script}")]);
    command.env("AGENTFS", bins::agentfs());
    cmd::start(command.stdin(std::process::Stdio::null())).wait_in(SOON)
}

#[track_caller]
fn assert_no_branch(sandbox: &Sandbox) {
    sandbox.assert_quiet();
    let rows = sandbox.rows();
    assert!(rows.is_empty(), "a branch is left: {rows:?}");
}

/// The line of `doctor` about `check`, and the fix below it.
#[track_caller]
fn told(done: &Done, check: &str) -> String {
    let out = done.out();
    let lines: Vec<&str> = out.lines().collect();
    let at = lines
        .iter()
        .position(|line| line[4..].trim_start().starts_with(check));
    let at = at.unwrap_or_else(|| panic!("no {check}\n{}", done.report()));
    lines[at..]
        .iter()
        .take(2)
        .copied()
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn something_else_at_dev_fuse_is_named() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let script = |call: &str| format!("mount --bind /dev/null /dev/fuse; exec \"$AGENTFS\" {call}");
    let how = mounts_of_its_own();
    unshared(&sandbox, how, &script("run --branch b -- true"))
        .expect(125)
        .says(&["/dev/fuse", "10:229", "fix:"]);
    assert_no_branch(&sandbox);
    let done = unshared(&sandbox, how, &script("doctor")).expect(1);
    let line = told(&done, "open /dev/fuse");
    for word in ["FAIL", "10:229", "fix:"] {
        assert!(line.contains(word), "{word} in {line}");
    }
    sandbox.assert_quiet();
}

#[test]
fn a_machine_without_user_namespaces_is_told_what_to_set() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let script = |call: &str| {
        format!("echo 0 >/proc/sys/user/max_user_namespaces; exec \"$AGENTFS\" {call}")
    };
    unshared(&sandbox, "-Ur", &script("run --branch b -- true"))
        .expect(125)
        .says(&["user namespace", "fix:", "max_user_namespaces"]);
    assert_no_branch(&sandbox);
    let done = unshared(&sandbox, "-Ur", &script("doctor")).expect(1);
    for check in ["max_user_namespaces", "user namespace"] {
        let line = told(&done, check);
        assert!(
            line.contains("FAIL") && line.contains("user.max_user_namespaces=65536"),
            "{line}"
        );
    }
}

#[test]
fn a_namespace_that_lets_nobody_map_ids_is_told_so_and_nothing_stays() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    // In the one nobody is mapped; in the other root has no right to be mapped again.
    let powerless = "setpriv --bounding-set=-setfcap,-setuid,-setgid --inh-caps=-all";
    for (how, before, step) in [
        ("-Um", "", "user namespace"),
        ("-Ur", powerless, "write the id map"),
    ] {
        let script = format!("exec {before} \"$AGENTFS\" run --branch b -- true");
        unshared(&sandbox, how, &script)
            .expect(125)
            .says(&[step, "fix:", "--map-root-user"]);
        assert_no_branch(&sandbox);
        // Its output ends when it does.
        let script = format!("{before} \"$AGENTFS\" doctor | cat; exit \"${{PIPESTATUS[0]}}\"");
        let done = unshared(&sandbox, how, &format!("set +e; {script}")).expect(1);
        let line = told(&done, "user namespace");
        for word in ["FAIL", step, "fix:", "--map-root-user"] {
            assert!(line.contains(word), "{word} in {line}");
        }
        sandbox.assert_quiet();
    }
}

#[test]
fn root_of_a_namespace_with_few_ids_runs_as_everybody_does() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let before = Manifest::of(&sandbox.work());
    for how in ["-Ur", "-Urm"] {
        let inside = "cat file; echo mine >file; mkdir new; : >new/empty; chmod 700 new; \
                      stat -c %u:%g file new/empty; cat /proc/self/uid_map";
        let script = format!("exec \"$AGENTFS\" run -q --branch b -- bash -euc '{inside}'");
        let done = unshared(&sandbox, how, &script).ok();
        let words: Vec<_> = done.out().split_whitespace().map(str::to_owned).collect();
        let expected = ["hello,", "base", "0:0", "0:0", "0", "0", "1"];
        assert_eq!(words, expected, "{how}\n{}", done.report());
        let again = "exec \"$AGENTFS\" run -q --branch b -- cat file";
        assert_eq!(unshared(&sandbox, how, again).ok().out(), "mine\n");
        let log = fs::read_to_string(sandbox.store().join("branches/b/fsd.log")).expect("a log");
        assert!(!log.contains(" WARN ") && !log.contains(" ERROR "), "{log}");
        let done = unshared(&sandbox, how, "exec \"$AGENTFS\" doctor").ok();
        let line = told(&done, "FUSE passthrough");
        assert!(line.contains("for the host's root only"), "{line}");
        unshared(&sandbox, how, "exec \"$AGENTFS\" rm b").ok();
        before.assert_still();
    }
}

#[test]
fn root_of_a_namespace_with_many_ids_maps_those() {
    if !need_run() || !need("root") {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    std::os::unix::fs::chown(sandbox.work().join("dir/one"), Some(100_006), Some(100_007))
        .expect("chown");
    let before = Manifest::of(&sandbox.work());
    // As a rootless container: root, and a range of others.
    let script = "\
        unshare -U sleep 600 & child=$!\n\
        until [ \"$(readlink /proc/$child/ns/user)\" != \"$(readlink /proc/self/ns/user)\" ]; do :; done\n\
        env printf '0 0 1\\n1 100000 65535\\n' >/proc/$child/uid_map\n\
        env printf '0 0 1\\n1 100000 65535\\n' >/proc/$child/gid_map\n\
        code=0\n\
        nsenter -t $child -U -S 0 -G 0 \"$AGENTFS\" run -q --branch b -- bash -euc '\
          cat /proc/self/uid_map /proc/self/gid_map; : >new; stat -c %u:%g dir/one new' || code=$?\n\
        kill $child; exit $code";
    let mut command = sandbox.host("bash");
    command
        .args(["-euc", script])
        .env("AGENTFS", bins::agentfs());
    let done = cmd::start(command.stdin(std::process::Stdio::null()))
        .wait_in(SOON)
        .ok();
    let out = done.out();
    let words: Vec<_> = out.split_whitespace().collect();
    let map = ["0", "0", "1", "1", "1", "65535"];
    let expected = [&map[..], &map[..], &["7:8", "0:0"][..]].concat();
    assert_eq!(words, expected, "{}", done.report());
    before.assert_still();
}

#[test]
fn limits_of_the_caller_are_named_with_what_raises_them() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let run = "\"$AGENTFS\" run --branch b -- true";
    for files in 4..=20 {
        limited(&sandbox, &format!("ulimit -n {files}"), run)
            .expect(125)
            .says(&["open files", "fix:", "ulimit -n"]);
        assert_no_branch(&sandbox);
    }
    let done = limited(&sandbox, "ulimit -n 20", "\"$AGENTFS\" doctor").expect(1);
    let line = told(&done, "open files");
    for word in ["FAIL", "20", "ulimit -n"] {
        assert!(line.contains(word), "{word} in {line}");
    }
    // For a ring it takes more, which nobody has asked for with this.
    let auto = format!("AGENTFS_FUSE_TRANSPORT=auto {run}");
    limited(&sandbox, "ulimit -n 32", &auto).ok();
    sandbox.call(&["rm", "b"]).ok();
    let switch = fs::read_to_string("/sys/module/fuse/parameters/enable_uring");
    if switch.is_ok_and(|text| text.trim() == "Y") {
        let ring = format!("AGENTFS_FUSE_TRANSPORT=io-uring {run}");
        limited(&sandbox, "ulimit -n 32", &ring).expect(125).says(&[
            "only 32 open files",
            "ulimit -n",
            "AGENTFS_FUSE_TRANSPORT=auto",
        ]);
        assert_no_branch(&sandbox);
    }
    // In KiB. Also what needs no run.
    for stack in [16, 64, 128] {
        for call in [run, "\"$AGENTFS\" --help", "\"$AGENTFS\" ls"] {
            limited(&sandbox, &format!("ulimit -s {stack}"), call)
                .expect(125)
                .says(&["stack", &format!("{stack} KiB"), "fix:", "ulimit -s"]);
        }
    }
    assert_no_branch(&sandbox);
    limited(&sandbox, "ulimit -s 512", run).ok();
}

/// It goes with our connection. Waiting for its end before would take until somebody gives up.
#[test]
fn a_daemon_that_refuses_a_mount_is_not_asked_to_end() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.call(&["run", "--branch", "b", "--", "true"]).ok();
    // On no machine: it is switched off, or these are too few files for it.
    let run = "AGENTFS_FUSE_TRANSPORT=io-uring \"$AGENTFS\" run --branch b -- true";
    limited(&sandbox, "ulimit -n 32", run)
        .expect(125)
        .says(&["AGENTFS_FUSE_TRANSPORT=auto"]);
    let log = fs::read_to_string(sandbox.store().join("branches/b/fsd.log")).expect("a log");
    assert!(!log.contains("SIGTERM"), "{log}");
    sandbox.assert_quiet();
}

#[test]
fn a_user_who_has_all_his_processes_is_told_so() {
    // Root is not limited in them.
    if !need_run() || !need("user") {
        return;
    }
    let sandbox = Sandbox::new();
    limited(
        &sandbox,
        "ulimit -u 1",
        "exec \"$AGENTFS\" run --branch b -- true",
    )
    .expect(125)
    .says(&["temporarily unavailable", "fix:", "ulimit -u"]);
    assert_no_branch(&sandbox);
}

#[test]
fn a_daemon_that_does_not_run_is_named_and_no_log_that_is_gone() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let program = sandbox.root().join("daemon");
    let call = |branch: &str| {
        let mut command = sandbox.agentfs(&["run", "--branch", branch, "--", "true"]);
        cmd::run(command.env("AGENTFS_FUSE_HOST_BIN", &program))
    };
    let name = program.to_str().expect("UTF-8");
    for (content, mode) in [("#!/bin/sh\n", 0o600), ("\x7fELF none", 0o700)] {
        fs::write(&program, content).expect("write");
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).expect("chmod");
        call("new").expect(125).says(&[name, "fix:", "execut"]);
        assert!(sandbox.rows().is_empty());
    }
    sandbox.sh("old", "true").ok();
    fs::write(&program, "#!/bin/sh\necho last words >&2\nexit 3\n").expect("write");
    for (branch, fix) in [("new", "agentfs doctor"), ("old", "branches/old/fsd.log")] {
        let done = call(branch)
            .expect(125)
            .says(&["status: 3", "last words", "fix:", fix]);
        // What it tells to look at can be looked at.
        for word in done
            .stderr
            .split_whitespace()
            .filter(|w| w.ends_with("fsd.log"))
        {
            assert!(fs::metadata(word).is_ok(), "{word}\n{}", done.report());
        }
    }
    assert_eq!(sandbox.rows().len(), 1);
}
