//! Policy files, links and homes, with real runs: what is hidden stays so, whoever asks by whatever
//! name, unless the user names that very place.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use agentfs_tests::cmd::{self, Done, Running};
use agentfs_tests::need::{need, need_run};
use agentfs_tests::wait::until;
use agentfs_tests::{Sandbox, bins};

/// Far above what a refusal takes, far below a hang.
const SOON: std::time::Duration = std::time::Duration::from_secs(20);

fn write(path: impl AsRef<Path>, text: &str) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A world with a secret in the home, and a link to its directory in the workspace.
fn with_secret() -> Sandbox {
    let sandbox = Sandbox::new();
    write(sandbox.home().join(".ssh/id"), "SECRET");
    symlink("../home/.ssh", sandbox.work().join("link")).expect("symlink");
    sandbox
}

fn repository(sandbox: &Sandbox, text: &str) {
    write(sandbox.work().join(".agentfs.toml"), text);
}

fn user(sandbox: &Sandbox, text: &str) {
    write(sandbox.home().join(".config/agentfs/policy.toml"), text);
}

/// Runs a script on branch `b` with further flags.
fn with(sandbox: &Sandbox, flags: &[&str], script: &str) -> Done {
    let mut args = vec!["run", "-q", "--branch", "b"];
    args.extend(flags);
    args.extend(["--", "bash", "-c", script]);
    cmd::start(&mut sandbox.agentfs(&args)).wait_in(SOON)
}

/// Fails unless agentfs itself refused, with these words, and nothing ran.
#[track_caller]
fn refused(done: &Done, words: &[&str]) {
    assert_eq!(done.code(), 125, "{}", done.report());
    assert_eq!(done.out(), "", "{}", done.report());
    for word in words {
        assert!(done.stderr.contains(word), "no {word:?}\n{}", done.report());
    }
}

#[test]
fn a_repository_opens_nothing_by_way_of_a_link() {
    if !need_run() {
        return;
    }
    let sandbox = with_secret();
    let script = "cat ~/.ssh/id link/id";
    for key in ["read_only", "deny_write", "cow", "shared_rw"] {
        for path in ["link", "link/id", "./link"] {
            repository(&sandbox, &format!("[filesystem]\n{key} = [\"{path}\"]\n"));
            let done = with(&sandbox, &[], script);
            refused(&done, &[".agentfs.toml:2", "only tighten", "/home/.ssh"]);
        }
    }
    // The control: it may hide by a link, and the user may show by the name.
    repository(&sandbox, "[filesystem]\nhide = [\"link\"]\n");
    assert_eq!(with(&sandbox, &[], script).out(), "");
    fs::remove_file(sandbox.work().join(".agentfs.toml")).expect("remove");
    let ssh = sandbox.home().join(".ssh");
    let shown = with(&sandbox, &["--ro", text(&ssh)], script).ok();
    assert_eq!(shown.out(), "SECRETSECRET");
    user(&sandbox, "[filesystem]\nread_only = [\"~/.ssh/id\"]\n");
    assert_eq!(with(&sandbox, &[], script).ok().out(), "SECRETSECRET");
}

#[test]
fn a_link_names_no_hidden_place_for_the_user_either() {
    if !need_run() {
        return;
    }
    let sandbox = with_secret();
    for flag in ["--ro", "--cow", "--rw"] {
        for path in ["link", "link/id"] {
            if (flag, path) != ("--cow", "link/id") {
                let done = with(&sandbox, &[flag, path], "cat ~/.ssh/id");
                refused(&done, &[flag, "/home/.ssh", "names that very path"]);
            }
        }
    }
    for path in ["$WORKSPACE/link", "~/alias"] {
        let _ = symlink(".ssh", sandbox.home().join("alias"));
        user(&sandbox, &format!("[filesystem]\ncow = [\"{path}\"]\n"));
        let done = with(&sandbox, &[], "cat ~/.ssh/id");
        refused(
            &done,
            &["policy.toml:2", "/home/.ssh", "names that very path"],
        );
    }
}

#[test]
fn copies_for_their_owners_sake_hold_nothing_hidden() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let conf = sandbox.out().join("conf");
    write(conf.join("plain"), "PLAIN");
    write(conf.join("secret/key"), "SECRET");
    write(conf.join("file-key"), "SECRET");
    write(sandbox.out().join("far/key"), "SECRET");
    symlink("secret/key", conf.join("near-link")).expect("symlink");
    symlink("../far", conf.join("far-link")).expect("symlink");
    let out = text(&sandbox.out()).to_owned();
    let hide = format!(
        "read_only = [\"{out}\"]\n\
         hide = [\"{out}/conf/secret\", \"{out}/conf/file-key\", \"{out}/far\"]\n"
    );
    repository(&sandbox, &format!("[filesystem]\nown = [\"{out}/conf\"]\n"));
    let script = format!("cat {out}/conf/plain; grep -rl SECRET {out}/ {out}/conf/*/");
    user(&sandbox, &format!("[filesystem]\n{hide}"));
    let done = with(&sandbox, &[], &script);
    refused(&done, &[".agentfs.toml:2", "own", "only tighten"]);
    fs::remove_file(sandbox.work().join(".agentfs.toml")).expect("remove");
    user(
        &sandbox,
        &format!("[filesystem]\n{hide}own = [\"{out}/conf\"]\n"),
    );
    assert_eq!(with(&sandbox, &[], &script).out(), "PLAIN");
    // The control: it is there to be found.
    let hide = hide.replace("far\"]", "none\"]");
    user(
        &sandbox,
        &format!("[filesystem]\n{hide}own = [\"{out}/conf\"]\n"),
    );
    let seen = with(&sandbox, &[], &script).out();
    assert!(seen.contains("far/key"), "{seen}");
}

#[test]
fn the_store_is_shown_to_nobody() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let held = hold(&sandbox, &[]);
    let store = sandbox.store();
    let branch = store.join("branches/b");
    assert!(branch.join("control.sock").exists(), "{}", branch.display());
    symlink(&branch, sandbox.work().join("link")).expect("symlink");
    symlink(&store, sandbox.work().join("store-link")).expect("symlink");
    let other = |flags: &[&str], script: &str| {
        let mut args = vec!["run", "-q", "--branch", "other"];
        args.extend(flags);
        args.extend(["--", "bash", "-c", script]);
        sandbox.call(&args)
    };
    let script = format!(
        "ls -A link/ store-link/ {0} {0}/branches {0}/branches/b",
        store.display()
    );
    let socket = branch.join("control.sock");
    for flag in ["--ro", "--rw", "--cow"] {
        for path in [text(&branch), "link", "store-link", text(&store)] {
            refused(&other(&[flag, path], &script), &[flag, "inside the store"]);
        }
        if flag != "--cow" {
            let done = other(&[flag, text(&socket)], &script);
            refused(&done, &[flag, "inside the store"]);
        }
    }
    for (key, source) in [("read_only", "link"), ("deny_write", "store-link/format")] {
        repository(&sandbox, &format!("[filesystem]\n{key} = [\"{source}\"]\n"));
        refused(&other(&[], &script), &[".agentfs.toml:2", "/store/"]);
        fs::remove_file(sandbox.work().join(".agentfs.toml")).expect("remove");
        let rule = format!("[filesystem]\n{key} = [\"$WORKSPACE/{source}\"]\n");
        user(&sandbox, &rule);
        refused(&other(&[], &script), &["inside the store"]);
        user(&sandbox, "");
    }
    // All around it, and by links that lead there.
    let find = format!(
        "{script}; find {0} -name control.sock; ls {0}",
        text(sandbox.root())
    );
    for flags in [
        vec!["--ro", text(sandbox.root())],
        vec!["--cow", text(sandbox.root())],
    ] {
        let out = other(&flags, &find).out();
        assert!(
            !out.contains("control.sock") && !out.contains("format"),
            "{out}"
        );
        assert!(out.contains("home\n"), "the control: {out}");
    }
    assert_eq!(other(&[], &script).out().replace("link/:", ""), "");
    release(&sandbox, held).ok();
}

/// Starts a run on branch `b` that stands still once its command runs; then it does as told.
fn hold(sandbox: &Sandbox, flags: &[&str]) -> Running {
    hold_and(sandbox, flags, "true")
}

fn hold_and(sandbox: &Sandbox, flags: &[&str], script: &str) -> Running {
    let out = sandbox.out();
    let down = out.join("down");
    if !down.exists() {
        nix::unistd::mkfifo(&down, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    }
    let _ = fs::remove_file(out.join("up"));
    let script = format!("echo > ../out/up; read _ < ../out/down; {script}");
    let mut args = vec!["run", "-q", "--branch", "b", "--rw", text(&out)];
    args.extend(flags);
    args.extend(["--", "bash", "-c", &script]);
    let run = sandbox.start(&args);
    until("the command runs", || out.join("up").exists());
    run
}

fn release(sandbox: &Sandbox, run: Running) -> Done {
    // For reading too: that never waits for the other side.
    let mut down = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(sandbox.out().join("down"))
        .expect("open");
    std::io::Write::write_all(&mut down, b"go\n").expect("write");
    run.wait()
}

#[test]
fn a_secret_that_appears_during_a_run_is_hidden() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let (home, work) = (sandbox.home(), sandbox.work());
    // Outside of the home, as ~/.config must not exist yet.
    let policy = sandbox.root().join("policy.toml");
    write(&policy, "[filesystem]\nhide = [\"~/by-user/x\"]\n");
    repository(
        &sandbox,
        "[filesystem]\nhide = [\"by-repository\"]\nread_only = [\"sub\"]\n",
    );
    fs::create_dir(work.join("sub")).expect("mkdir");
    symlink("dot/netrc", home.join(".netrc")).expect("symlink");
    let script = "cat ~/plain; grep -rls SECRET ~/ .; \
        cat ~/.git-credentials ~/.config/gh/hosts.yml ~/by-user/x ~/.netrc ~/dot/netrc \
        by-repository by-flag/x; echo mine > by-repository && cat by-repository";
    let flags = ["--policy", text(&policy), "--hide", "by-flag/x"];
    let held = hold_and(&sandbox, &flags, script);
    for path in [
        home.join(".git-credentials"),
        home.join(".config/gh/hosts.yml"),
        home.join("by-user/x"),
        home.join("dot/netrc"),
        work.join("by-repository"),
        work.join("by-flag/x"),
    ] {
        write(path, "SECRET");
    }
    write(home.join("plain"), "PLAIN\n");
    let done = release(&sandbox, held);
    assert_eq!(done.out(), "PLAIN\nmine\n", "{}", done.report());
    assert_eq!(
        fs::read(work.join("by-repository")).expect("read"),
        b"SECRET"
    );
}

#[test]
fn a_git_file_does_not_open_a_hidden_repository() {
    if !need_run() || !need("program:git") {
        return;
    }
    let sandbox = Sandbox::new();
    let pass = sandbox.home().join(".password-store");
    let script = "git init -q ~/.password-store; cd ~/.password-store; echo SECRET > pw; \
        git add pw; git commit -qm pw; git worktree add -q ~/tree; \
        git init -q ~/code; git -C ~/code commit -q --allow-empty -m x; \
        git -C ~/code worktree add -q \"$OLDPWD/tree\"";
    sandbox.host_sh(script);
    let look = |dir: &Path, flags: &[&str]| {
        let mut args = vec!["run", "-q"];
        args.extend(flags);
        let script = "git --git-dir=$HOME/.password-store/.git show HEAD:pw";
        args.extend(["--", "bash", "-c", script]);
        cmd::run(sandbox.agentfs(&args).current_dir(dir)).out()
    };
    write(
        sandbox.work().join(".git"),
        "gitdir: ../home/.password-store/.git\n",
    );
    assert_eq!(look(&sandbox.work(), &[]), "");
    // One of its own worktrees is no reason either.
    assert_eq!(look(&sandbox.home().join("tree"), &[]), "");
    let shown = look(&sandbox.work(), &["--ro", text(&pass)]);
    assert_eq!(shown, "SECRET\n", "the control");
    // A worktree of what is not hidden is for use.
    let commit = [
        "run",
        "-q",
        "--",
        "git",
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "y",
    ];
    let tree = sandbox.work().join("tree");
    cmd::run(sandbox.agentfs(&commit).current_dir(&tree)).ok();
    // Nor is a hidden directory shown for being where the caller stands.
    let done = cmd::run(sandbox.agentfs(&["run", "--", "true"]).current_dir(&pass));
    let words = [
        "/.password-store",
        "built-in profile)",
        "would start there",
        "--cow",
    ];
    refused(&done, &words);
    assert!(!done.stderr.contains("profile:"), "{}", done.report());
    assert_eq!(look(&pass, &["--cow", "."]), "SECRET\n");
}

#[test]
fn hostile_files_of_the_workspace_hold_nothing_up() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let work = sandbox.work();
    let policy = work.join(".agentfs.toml");
    let fifo = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU);
    let script = "echo ran";
    for (make, words) in [
        (0, "not a regular file"),
        (1, "not a regular file"),
        (2, "not a regular file"),
        (3, "bytes"),
        (4, "UTF-8"),
    ] {
        match make {
            0 => symlink("/dev/zero", &policy).expect("symlink"),
            1 => fifo(&policy).expect("mkfifo"),
            2 => symlink("/dev/tty", &policy).expect("symlink"),
            3 => fs::File::create(&policy)
                .and_then(|file| file.set_len(1 << 40))
                .expect("a sparse file"),
            _ => fs::write(&policy, b"\xff\xfe").expect("write"),
        }
        refused(
            &with(&sandbox, &[], script),
            &[".agentfs.toml", words, "fix:"],
        );
        fs::remove_file(&policy).expect("remove");
    }
    let git = work.join(".git");
    fifo(&git).expect("mkfifo");
    assert_eq!(with(&sandbox, &[], script).ok().out(), "ran\n");
    fs::remove_file(&git).expect("remove");
    symlink("/dev/zero", &git).expect("symlink");
    assert_eq!(with(&sandbox, &[], script).ok().out(), "ran\n");
}

#[test]
fn a_joining_command_has_the_policy_of_the_live_one() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    write(sandbox.work().join("s"), "S");
    let held = hold(&sandbox, &[]);
    let run = |script: &str| with(&sandbox, &[], script);
    let exec = || sandbox.call(&["exec", "-q", "b", "--", "cat", "s"]);
    assert_eq!(run("cat s").ok().out(), "S");
    assert_eq!(exec().ok().out(), "S");
    let words = ["branch b", "another policy", "fix:", "--branch"];
    for make in [repository, user] {
        for rule in [
            "hide = [\"$WORKSPACE/s\"]",
            "read_only = [\"$WORKSPACE/s\"]",
        ] {
            make(&sandbox, &format!("[filesystem]\n{rule}\n"));
            refused(&run("cat s"), &words);
            refused(&exec(), &words);
        }
        make(&sandbox, "");
        assert_eq!(run("cat s").ok().out(), "S");
    }
    // Another home has other secrets.
    let mut other = sandbox.agentfs(&["run", "-q", "--branch", "b", "--", "cat", "s"]);
    refused(&cmd::run(other.env("HOME", sandbox.out())), &words);
    // From elsewhere, where the view has nothing: not the branch's fault.
    let elsewhere = sandbox.root().join("elsewhere");
    fs::create_dir(&elsewhere).expect("mkdir");
    let args = ["run", "-q", "--branch", "b", "--", "pwd"];
    let done = cmd::run(sandbox.agentfs(&args).current_dir(&elsewhere));
    let words = [
        "elsewhere",
        "on the host",
        "not in the view",
        "agentfs exec b",
    ];
    assert_eq!(done.code(), 125, "{}", done.report());
    for word in words {
        assert!(done.stderr.contains(word), "no {word:?}\n{}", done.report());
    }
    repository(&sandbox, "[filesystem]\nhide = [\"s\"]\n");
    release(&sandbox, held).ok();
    assert_eq!(run("cat s").out(), "", "afterwards it holds");
}

/// A script as root, in a mount namespace where the user database is `passwd`.
fn with_passwd(sandbox: &Sandbox, passwd: &str, home: Option<&Path>, args: &[&str]) -> Done {
    let file = sandbox.root().join("passwd");
    write(&file, passwd);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("chmod");
    let mut command = sandbox.host("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.arg("mount --bind \"$0\" /etc/passwd && exec \"$@\"");
    command.arg(&file).arg(bins::agentfs()).args(args);
    match home {
        Some(home) => command.env("HOME", home),
        None => command.env_remove("HOME"),
    };
    cmd::run(command.current_dir(sandbox.home().join("proj")))
}

#[test]
fn secrets_are_hidden_whatever_home_says() {
    if !need_run() || !need("root") {
        return;
    }
    let sandbox = Sandbox::new();
    let home = sandbox.home();
    write(home.join(".aws/credentials"), "SECRET");
    write(home.join("plain"), "PLAIN\n");
    fs::create_dir(home.join("proj")).expect("mkdir");
    let databases = [
        // The caller's own home, and one that holds the workspace.
        format!("root:x:0:0::{}:/bin/sh\n", home.display()),
        format!(
            "root:x:0:0::/root:/bin/sh\nv:x:4242:4242::{}:\n",
            home.display()
        ),
    ];
    for passwd in &databases {
        for told in [None, Some(Path::new("/")), Some(sandbox.out().as_path())] {
            let script = "cat ../plain ../.aws/credentials";
            let call = |flags: &[&str]| {
                let mut args = vec!["run", "-q", "--branch", "b"];
                args.extend(flags);
                args.extend(["--", "bash", "-c", script]);
                with_passwd(&sandbox, passwd, told, &args)
            };
            for show in ["--ro", "--cow"] {
                let done = call(&[show, text(&home)]);
                assert_eq!(
                    done.out(),
                    "PLAIN\n",
                    "{passwd} {told:?}\n{}",
                    done.report()
                );
                assert!(!done.stderr.contains("no home"), "{}", done.report());
            }
            let aws = home.join(".aws");
            let control = call(&["--ro", text(&home), "--ro", text(&aws)]);
            assert_eq!(control.out(), "PLAIN\nSECRET");
        }
    }
}

#[test]
fn a_caller_without_any_home_is_told() {
    if !need("userns") {
        return;
    }
    let sandbox = Sandbox::new();
    let told = |home: Option<&Path>| {
        let mut command: Command = sandbox.host("unshare");
        command.args(["--user", "--map-user=54321"]);
        command.arg(bins::agentfs());
        command.args(["run", "--dry-run", "--", "true"]);
        match home {
            Some(home) => command.env("HOME", home),
            None => command.env_remove("HOME"),
        };
        let done = cmd::run(&mut command).ok();
        done.stderr.contains("no home directory is known")
    };
    assert!(told(None));
    assert!(told(Some(Path::new("/"))));
    assert!(told(Some(Path::new("/nonexistent"))));
    assert!(!told(Some(&sandbox.home())));
}
