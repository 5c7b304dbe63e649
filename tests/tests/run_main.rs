//! The main job, end to end: a real crate's tests on a branch, what the launcher prints, how it
//! exits, what its flags do, and the base untouched by all of it.

use std::fs;

use agentfs_tests::need::{need, need_run, third_party_crate};
use agentfs_tests::{Manifest, Sandbox, base, bins};

/// Copies the third-party crate into the workspace and its dependencies into the home.
fn checkout(sandbox: &Sandbox) {
    let (source, cargo_home) = third_party_crate().expect("need(\"crate\") came before");
    let (source, cargo_home) = (source.display(), cargo_home.display());
    sandbox.host_sh(&format!(
        "cp -a '{source}/.' . && cp -a '{cargo_home}' ~/.cargo && \
         git init -q && git add -A && git commit -qm import"
    ));
}

/// The flags and the search path with which a toolchain outside of /usr is found inside.
fn cargo(sandbox: &Sandbox, branch: &str, args: &[&str]) -> std::process::Command {
    let sysroot = bins::sysroot();
    let mut command = sandbox.agentfs(&["run", "--branch", branch, "--ro"]);
    command.arg(&sysroot).args(["--", "cargo"]).args(args);
    let path = format!(
        "{}:{}",
        sysroot.join("bin").display(),
        agentfs_tests::sandbox::SYSTEM_PATH
    );
    command.env("PATH", path).env("CARGO_TERM_COLOR", "never");
    // Temporary files of the crate's tests belong on the branch too: that is what they test here.
    command.env("TMPDIR", sandbox.work());
    command
}

#[test]
fn a_crate_from_the_registry_passes_its_tests_on_a_branch() {
    if !need_run() || !need("crate") {
        return;
    }
    let sandbox = Sandbox::new();
    checkout(&sandbox);
    let (work, home) = (Manifest::of(&sandbox.work()), Manifest::of(&sandbox.home()));

    let done =
        agentfs_tests::cmd::run(&mut cargo(&sandbox, "feature", &["test", "--offline"])).ok();
    let results: Vec<String> = done
        .out()
        .lines()
        .filter(|l| l.starts_with("test result:"))
        .map(str::to_owned)
        .collect();
    assert!(
        results.len() >= 2,
        "unit and doc tests ran\n{}",
        done.report()
    );
    assert!(
        results.iter().all(|l| l.contains(" 0 failed")),
        "{results:?}"
    );
    assert!(
        done.stderr.contains("agentfs diff feature"),
        "the summary\n{}",
        done.report()
    );

    let row = sandbox.row("feature");
    assert_eq!(row["name"], "feature");
    assert!(
        row["changes"]["added"].as_u64().is_some_and(|n| n > 10),
        "target/ was made: {row}"
    );
    work.assert_still();
    home.assert_still();

    // Again on the same branch: cargo finds its own work and builds nothing.
    let again =
        agentfs_tests::cmd::run(&mut cargo(&sandbox, "feature", &["test", "--offline"])).ok();
    assert!(
        !again.stderr.contains("Compiling"),
        "everything was fresh\n{}",
        again.report()
    );
    work.assert_still();
    home.assert_still();
    sandbox.call(&["rm", "feature"]).ok();
    assert!(sandbox.rows().is_empty());
}

#[test]
fn the_exit_status_is_the_commands_own() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let before = Manifest::of(&sandbox.work());
    for code in [0, 1, 7, 125, 255] {
        let done = sandbox.sh("codes", &format!("exit {code}"));
        assert_eq!(done.status.code(), Some(code), "{}", done.report());
        assert_eq!(done.stderr, "", "quiet means quiet");
    }
    for (name, signal) in [("TERM", 15), ("KILL", 9), ("SEGV", 11), ("INT", 2)] {
        let done = sandbox.sh("codes", &format!("ulimit -c 0; kill -{name} $$"));
        assert_eq!(
            done.status.code(),
            Some(128 + signal),
            "SIG{name}\n{}",
            done.report()
        );
    }
    let done = sandbox.call(&[
        "run",
        "-q",
        "--branch",
        "codes",
        "--",
        "no-such-program-xyz",
    ]);
    done.expect(127).says(&["no-such-program-xyz"]);
    let done = sandbox.call(&["run", "-q", "--branch", "codes", "--", "./no/such/path"]);
    done.expect(127).says(&["./no/such/path"]);
    let done = sandbox.call(&["run", "-q", "--branch", "codes", "--", "./file"]);
    done.expect(126).says(&["./file"]);
    let done = sandbox.call(&["run", "-q", "--branch", "codes", "--", "./dir"]);
    done.expect(126).says(&["./dir"]);
    before.assert_still();
}

#[test]
fn ls_branches_tells_how_the_last_run_ended() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.sh("good", "exit 0").ok();
    sandbox.sh("bad", "exit 7").expect(7);
    sandbox.sh("shot", "kill -KILL $$").expect(137);
    let table = sandbox.call(&["ls-branches"]).ok().out();
    let line = |name: &str| {
        let found = table.lines().find(|l| l.starts_with(name));
        found
            .unwrap_or_else(|| panic!("no {name} in\n{table}"))
            .to_lowercase()
    };
    assert!(table.starts_with("NAME"), "a header comes first:\n{table}");
    for word in ["PARENT", "STATE", "SIZE", "AGE", "COMMAND"] {
        assert!(
            table.lines().next().is_some_and(|l| l.contains(word)),
            "{word} in\n{table}"
        );
    }
    assert!(
        line("good").contains("exit 0") || line("good").contains("exited 0"),
        "{table}"
    );
    assert!(line("bad").contains('7'), "{table}");
    assert!(line("shot").contains("kill"), "{table}");
    assert_eq!(
        sandbox.call(&["ls"]).ok().out().lines().count(),
        4,
        "ls is the same table"
    );
    assert_eq!(sandbox.rows().len(), 3);
}

#[test]
fn standard_output_is_the_commands_alone() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let done = sandbox.call(&[
        "run",
        "--branch",
        "b",
        "--",
        "bash",
        "-c",
        "echo out; echo err >&2; echo new > new",
    ]);
    let done = done.ok();
    assert_eq!(done.out(), "out\n");
    assert!(done.stderr.starts_with("err\n"), "{}", done.report());
    for next in [
        "agentfs diff b | git apply",
        "agentfs exec b",
        "agentfs rm b",
    ] {
        assert!(
            done.stderr.contains(next),
            "the summary names {next:?}\n{}",
            done.report()
        );
    }
    // As JSON it is one object on the last line of standard error.
    let args = [
        "run",
        "--json",
        "--branch",
        "b",
        "--",
        "bash",
        "-c",
        "echo out; echo x > new",
    ];
    let done = sandbox.call(&args).ok();
    assert_eq!(done.out(), "out\n");
    let last = done.stderr.lines().last().unwrap_or_default();
    let summary: serde_json::Value =
        serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}\n{}", done.report()));
    assert_eq!(summary["branch"], "b", "{summary}");
    assert!(!sandbox.work().join("new").exists(), "the host got no file");
}

#[test]
fn the_steps_of_a_run_are_timed_when_asked_for() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let run = |how: &[&str]| {
        let args = [&["run"], how, &["--branch", "b", "--", "true"]].concat();
        sandbox.call(&args).ok()
    };
    let done = run(&["--timings", "--json"]);
    let last = done.stderr.lines().last().unwrap_or_default();
    let summary: serde_json::Value =
        serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}\n{}", done.report()));
    let steps = summary["timings"]["steps"].as_array().expect("steps");
    let names: Vec<_> = steps.iter().map(|s| s["step"].as_str()).collect();
    let expected = [
        "plan", "clone", "branch", "daemon", "mount", "session", "view", "bind", "command", "close",
    ];
    assert_eq!(names, expected.map(Some), "{summary}");
    let ours = summary["timings"]["agentfs_ms"].as_f64().expect("a sum");
    assert!(ours > 0.0, "{summary}");
    // To be read, and not unless asked for; a quiet run says nothing else.
    let done = run(&["--timings", "--quiet"]);
    for step in expected {
        assert!(done.stderr.contains(step), "{step}\n{}", done.report());
    }
    assert_eq!(run(&["--quiet"]).stderr, "");
}

#[test]
fn input_arguments_directory_and_environment_reach_the_command() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.work().join("inner")).expect("mkdir");
    let script =
        r#"printf '%s|%s|%s|' "$PWD" "$MINE" "$(umask)"; printf '%s' "$1" | od -An -tx1; cat"#;
    let mut command = sandbox.host("bash");
    // A byte that is no UTF-8, input through a pipe, a umask, a variable, a deeper directory.
    command.args([
        "-c",
        r#"umask 027; cd inner; echo input | "$@" $'\xff'"#,
        "-",
    ]);
    command
        .arg(bins::agentfs())
        .args(["run", "-q", "--branch", "b", "--"]);
    command
        .args(["bash", "-c", script, "-"])
        .env("MINE", "my value");
    let done = agentfs_tests::cmd::run(&mut command).ok();
    let inner = sandbox.work().join("inner");
    assert_eq!(
        done.out(),
        format!("{}|my value|0027| ff\ninput\n", inner.display())
    );
}

#[test]
fn without_a_name_a_short_readable_one_is_made() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    for _ in 0..3 {
        sandbox
            .call(&["run", "--", "true"])
            .ok()
            .says(&["no changes"]);
    }
    let names: std::collections::BTreeSet<String> = sandbox
        .rows()
        .iter()
        .map(|row| row["name"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(names.len(), 3, "three different ones: {names:?}");
    for name in names {
        assert!(name.len() <= 24, "{name} is short");
        let readable = name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        assert!(readable, "{name} is readable");
    }
}

#[test]
fn fresh_refuses_a_name_in_use() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox
        .call(&["run", "-q", "--fresh", "--branch", "one", "--", "true"])
        .ok();
    let done = sandbox.call(&["run", "--fresh", "--branch", "one", "--", "touch", "made"]);
    done.expect(125).says(&["one", "exists"]);
    sandbox.sh("one", "test ! -e made").ok();
}

#[test]
fn from_starts_with_what_another_branch_holds() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let before = Manifest::of(&sandbox.work());
    sandbox
        .sh(
            "one",
            "echo one > file; rm exec; mkdir new; echo n > new/n; mv dir moved",
        )
        .ok();
    let from = |name: &str, of: &str, script: &str| {
        sandbox.call(&[
            "run", "-q", "--branch", name, "--from", of, "--", "bash", "-c", script,
        ])
    };
    let check = "set -e; test $(cat file) = one; test ! -e exec; test $(cat new/n) = n; \
                 test $(cat moved/sub/two) = 22; test ! -e dir";
    from(
        "two",
        "one",
        &format!("{check}; echo two > file; rm -r moved; touch exec"),
    )
    .ok();
    // Neither sees what the other did afterwards.
    sandbox
        .sh("one", &format!("{check}; echo again > new/n"))
        .ok();
    sandbox
        .sh(
            "two",
            "set -e; test $(cat file) = two; test ! -e moved; test $(cat new/n) = n",
        )
        .ok();
    // A third one stands on two layers.
    from(
        "three",
        "two",
        "set -e; test $(cat file) = two; test -e exec; test $(cat two) = 22",
    )
    .ok();
    assert_eq!(sandbox.row("two")["parent"], "one");
    from("four", "none-such", "true")
        .expect(125)
        .says(&["none-such"]);
    before.assert_still();
    // A parent can go; the child keeps what it has.
    sandbox.call(&["rm", "one"]).ok();
    sandbox
        .sh(
            "two",
            "set -e; test $(cat file) = two; test $(cat new/n) = n; test ! -e moved",
        )
        .ok();
}

#[test]
fn dry_run_prints_the_plan_and_does_nothing() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let before = Manifest::of(sandbox.root());
    let done = sandbox
        .call(&["run", "--dry-run", "--branch", "b", "--", "touch", "made"])
        .ok();
    let work = sandbox.work().display().to_string();
    assert!(
        done.out().contains(&work),
        "the plan names the workspace\n{}",
        done.report()
    );
    before.assert_still();
    let done = sandbox
        .call(&["run", "--dry-run", "--json", "--", "true"])
        .ok();
    serde_json::from_slice::<serde_json::Value>(&done.stdout).expect("the plan as JSON");
    before.assert_still();
    assert!(!sandbox.store().exists(), "not even a store was made");
}

#[test]
fn the_workspace_is_the_git_top_level() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.host_sh("git init -q; mkdir -p a/b; echo x > top; git add -A; git commit -qm x");
    let before = Manifest::of(&sandbox.work());
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", "b", "--", "bash", "-c"]);
    command.arg("echo changed > ../../top && git -C ../.. diff --stat | grep top");
    agentfs_tests::cmd::run(command.current_dir(sandbox.work().join("a/b"))).ok();
    before.assert_still();
    sandbox.sh("b", "grep changed top").ok();
}

#[test]
fn a_workspace_in_tmp_works_though_tmp_is_private() {
    if !need_run() {
        return;
    }
    let name = format!("agentfs-tmp-{}", std::process::id());
    let sandbox = Sandbox::below(std::path::Path::new("/tmp"), &name);
    base::small(&sandbox.work());
    let before = Manifest::of(&sandbox.work());
    sandbox
        .sh(
            "b",
            "set -e; test \"$(cat two)\" = 22; echo new > file; rm -r dir",
        )
        .ok();
    sandbox
        .sh("b", "set -e; test $(cat file) = new; test ! -e dir")
        .ok();
    before.assert_still();
}

#[test]
fn exec_needs_a_branch_that_exists() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.sh("b", "echo 1 > made").ok();
    sandbox.call(&["exec", "b", "--", "cat", "made"]).ok();
    sandbox
        .call(&["exec", "none-such", "--", "true"])
        .expect(125)
        .says(&["none-such"]);
    assert_eq!(sandbox.rows().len(), 1, "exec makes no branch");
}

#[test]
fn doctor_finds_a_machine_that_can_run() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let done = sandbox.call(&["doctor"]).ok();
    for word in ["user namespace", "/dev/fuse"] {
        assert!(
            done.out().to_lowercase().contains(word),
            "{word}\n{}",
            done.report()
        );
    }
}

#[test]
fn a_branch_of_another_workspace_is_named_as_such() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.sh("b", "true").ok();
    let other = sandbox.root().join("other");
    fs::create_dir(&other).expect("a second workspace");
    let call = |args: &[&str]| {
        let mut command = sandbox.agentfs(args);
        agentfs_tests::cmd::run(command.current_dir(&other))
    };
    let work = sandbox.work().display().to_string();
    let here = other.display().to_string();
    call(&["run", "--branch", "b", "--", "true"])
        .ok()
        .says(&["branch b belongs to", &work, &here]);
    let done = call(&["exec", "b", "--", "true"]);
    assert!(!done.stderr.contains("belongs to"), "{}", done.report());
}

#[test]
fn workspaces_that_a_run_cannot_show_are_refused_or_warned_of() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let call = |dir: &str, args: &[&str]| {
        let mut command = sandbox.agentfs(args);
        agentfs_tests::cmd::run(command.current_dir(dir))
    };
    for dir in ["/tmp", "/var/tmp"] {
        call(dir, &["run", "--", "true"])
            .expect(125)
            .says(&[dir, "private inside", "fix:"]);
    }
    call("/", &["run", "--dry-run", "--", "true"])
        .ok()
        .says(&["everything", "copy-on-write"]);
}

#[test]
fn troubles_come_with_a_fix() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    for flag in ["--cow", "--ro", "--rw", "--policy"] {
        sandbox
            .call(&["run", flag, "/no/such/thing", "--", "true"])
            .expect(125)
            .says(&[flag, "/no/such/thing", "fix:"]);
    }
    sandbox
        .call(&["run", "cargo", "test"])
        .expect(125)
        .says(&["put -- before the command", "agentfs run -- cargo test"]);
    let mut command = sandbox.agentfs(&["run", "--", "true"]);
    command.env("AGENTFS_FUSE_HOST_BIN", "/bin/false");
    agentfs_tests::cmd::run(&mut command).expect(125).says(&[
        "exit status: 1",
        "fix:",
        "agentfs doctor",
    ]);
}
