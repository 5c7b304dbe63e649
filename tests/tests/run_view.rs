//! What a command sees and may do: its view of the files, its namespaces, its (missing) powers.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use agentfs_tests::need::{find_program, group_file, is_root, need, need_run};
use agentfs_tests::{Done, Manifest, Sandbox, base, bins, leak};

/// Runs a script on branch `b` with further flags.
fn with(sandbox: &Sandbox, flags: &[&str], script: &str) -> Done {
    let mut args = vec!["run", "-q", "--branch", "b"];
    args.extend(flags);
    args.extend(["--", "bash", "-c", script]);
    sandbox.call(&args)
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn read_only_shared_and_hidden_paths() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let work = Manifest::of(&sandbox.work());
    fs::write(sandbox.out().join("shared"), "before").expect("write");
    let out = sandbox.out();

    // --ro inside a copy-on-write place: the host's, and no writing.
    with(
        &sandbox,
        &["--ro", "dir"],
        "set -e; test $(cat dir/one) = 1; ! echo x > dir/one; \
        ! touch dir/new; ! rm -r dir/sub; echo ok > file",
    )
    .ok();
    // --rw: past the branch, onto the host.
    with(
        &sandbox,
        &["--rw", text(&out)],
        "set -e; echo after > ../out/shared; mkdir ../out/made",
    )
    .ok();
    assert_eq!(fs::read(out.join("shared")).expect("read"), b"after\n");
    assert!(out.join("made").is_dir());
    // --hide: looks empty, cannot be looked into, and nothing of it changes.
    let hidden = "set -e; test -z \"$(cat dir/one 2>/dev/null)\"; test -z \"$(ls -A dir 2>/dev/null)\"; \
                  test -z \"$(cat two 2>/dev/null)\"";
    with(&sandbox, &["--hide", "dir", "--hide", "two"], hidden).ok();
    work.assert_still();

    // The most specific path wins, in any order of writing.
    for flags in [
        ["--ro", "dir", "--cow", "dir/sub"],
        ["--cow", "dir/sub", "--ro", "dir"],
    ] {
        let script = "set -e; ! touch dir/new; echo mine > dir/sub/mine; cat dir/sub/two dir/one";
        with(&sandbox, &flags, script).ok();
    }
    work.assert_still();
    assert!(!sandbox.work().join("dir/sub/mine").exists());
}

#[test]
fn cow_adds_a_place() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    fs::write(sandbox.out().join("file"), "base").expect("write");
    let before = Manifest::of(&sandbox.out());
    let out = sandbox.out();
    let script =
        "set -e; cat ../out/file; echo branch > ../out/file; rm -f ../out/none; touch ../out/n";
    with(&sandbox, &["--cow", text(&out)], script).ok();
    before.assert_still();
    assert_eq!(
        with(&sandbox, &["--cow", text(&out)], "cat ../out/file")
            .ok()
            .out(),
        "branch\n"
    );
    before.assert_still();
}

#[test]
fn what_is_outside_of_the_roots_cannot_be_written() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let script = "for f in /etc/agentfs-x /usr/agentfs-x /agentfs-x /sys/agentfs-x /opt/agentfs-x; do \
                  if echo x > $f; then echo wrote $f; fi; done 2>/dev/null; \
                  if echo x >> /etc/passwd; then echo wrote passwd; fi 2>/dev/null; exit 0";
    assert_eq!(sandbox.sh("b", script).ok().out(), "");
    for path in [
        "/etc/agentfs-x",
        "/usr/agentfs-x",
        "/agentfs-x",
        "/opt/agentfs-x",
    ] {
        assert!(
            !std::path::Path::new(path).exists(),
            "{path} reached the host"
        );
    }
}

/// Puts a canary into every well-known place of credentials below the home.
fn plant_secrets(sandbox: &Sandbox) -> Vec<&'static str> {
    let places = vec![
        ".ssh/id_ed25519",
        ".ssh/config",
        ".gnupg/private-keys-v1.d/key",
        ".aws/credentials",
        ".azure/token",
        ".kube/config",
        ".docker/config.json",
        ".config/gcloud/credentials.db",
        ".config/gh/hosts.yml",
        ".netrc",
        ".npmrc",
        ".pypirc",
        ".git-credentials",
        ".cargo/credentials.toml",
    ];
    for place in &places {
        let path = sandbox.home().join(place);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        fs::write(&path, "CANARY").expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    }
    places
}

#[test]
fn common_secrets_are_hidden_by_every_name() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let places = plant_secrets(&sandbox);
    fs::write(sandbox.home().join("plain"), "CANARY").expect("write");
    symlink(sandbox.home(), sandbox.work().join("alias")).expect("symlink");
    let before = Manifest::of(&sandbox.home());
    let script = r#"for f in "$@"; do
            for p in ~/$f alias/$f /proc/self/root$HOME/$f; do
                grep -qs CANARY $p && echo "seen: $p"
            done
        done
        grep -rls CANARY ~/ | grep -v '/plain$'
        grep -q CANARY ~/plain && echo control"#;
    let mut args = vec![
        "run", "-q", "--branch", "b", "--", "bash", "-c", script, "-",
    ];
    args.extend(&places);
    let done = sandbox.call(&args);
    assert_eq!(done.out(), "control\n", "{}", done.report());
    // Nor do they come out by way of a diff, nor because nobody says where the home is.
    let diff = sandbox.call(&["diff", "b", "--all"]).ok();
    assert!(!diff.out().contains("CANARY"), "{}", diff.report());
    let home = sandbox.home().display().to_string();
    let alias = "ls -A alias/ | grep -v plain; cat alias/plain";
    let mut unset = sandbox.agentfs(&["run", "-q", "--branch", "c", "--", "bash", "-c", alias]);
    let done = agentfs_tests::cmd::run(unset.env_remove("HOME"));
    assert_eq!(
        done.out(),
        "",
        "the home is no root then: {}",
        done.report()
    );
    // A user's policy adds to what is hidden, and takes away only what it names.
    let policy = sandbox.out().join("agentfs/policy.toml");
    fs::create_dir_all(policy.parent().expect("a parent")).expect("mkdir");
    let rules = "[filesystem]\nhide = ['~/plain']\nread_only = ['~/.netrc']\n";
    fs::write(&policy, rules).expect("write");
    let mut command = sandbox.agentfs(&args);
    let done = agentfs_tests::cmd::run(command.env("XDG_CONFIG_HOME", sandbox.out()));
    let seen =
        format!("seen: {home}/.netrc\nseen: alias/.netrc\nseen: /proc/self/root{home}/.netrc\n");
    let listed = format!("{home}/.netrc\n");
    assert_eq!(done.out(), seen + &listed, "{}", done.report());
    // What a command makes at a hidden place is its own, and the host's stays as it is.
    let mine = "mkdir -p ~/.ssh ~/.aws; echo mine | tee ~/.ssh/id_ed25519 ~/.netrc ~/.aws/x; \
        cat ~/.ssh/id_ed25519 ~/.netrc; ls -A ~/.ssh ~/.aws; rm -r ~/.ssh; ls ~/.ssh/id_ed25519";
    let done = sandbox.sh("d", mine);
    let own = format!(
        "mine\nmine\nmine\n{0}/.aws:\nx\n\n{0}/.ssh:\nid_ed25519\n",
        home
    );
    assert_eq!((done.out(), done.code()), (own, 2), "{}", done.report());
    before.assert_still();
}

#[test]
fn the_store_and_the_daemon_are_not_seen() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    // A store inside of a copy-on-write place is the default (~/.local/share/agentfs).
    let store = sandbox.home().join(".local/share/agentfs");
    // What finds anything says so.
    let script = "found() { \"$@\" && echo \"found: $*\"; }; \
        found ls -A ~/.local/share/agentfs; found cat ~/.local/share/agentfs/format; \
        found ls -A \"$STORE\"; found cat \"$STORE/format\" link/format; found ls -A link/; \
        found test -e link/branches/b/control.sock; \
        found test -e \"$STORE/branches/b/control.sock\"; \
        find ~ . /run /tmp /var/tmp -name control.sock; \
        found grep -l agentfs-fsd /proc/[0-9]*/comm; \
        mkdir -p ~/.local/share/agentfs && echo made";
    for store in [&sandbox.store(), &store] {
        let link = sandbox.work().join("link");
        let _ = fs::remove_file(&link);
        symlink(store, &link).expect("symlink");
        let mut command = sandbox.agentfs(&["run", "-q", "--branch", "b", "--", "bash", "-c"]);
        command
            .arg(script)
            .env("AGENTFS_STORE", store)
            .env("STORE", store);
        let done = agentfs_tests::cmd::run(&mut command).ok();
        assert_eq!(done.out(), "made\n", "{}", done.report());
        assert!(
            store.join("format").is_file(),
            "the store is where it was told to be"
        );
    }
}

#[test]
fn only_the_three_standard_descriptors_are_open() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let mut command = sandbox.host("bash");
    // A host directory, a file opened for writing, and a pipe are there to be leaked.
    command.args(["-c", "exec 7</etc 8>\"$0\" 9< <(:); exec \"$@\""]);
    command
        .arg(sandbox.out().join("leaked"))
        .arg(bins::agentfs());
    command
        .args(["run", "-q", "--branch", "b", "--ro"])
        .arg(bins::bin_dir());
    command.arg("--").arg(bins::helper()).arg("fds");
    let done = agentfs_tests::cmd::run(&mut command).ok();
    let open: Vec<String> = done
        .out()
        .lines()
        .map(|l| l.split(' ').next().unwrap_or_default().to_owned())
        .collect();
    let mut open: Vec<&str> = open.iter().map(String::as_str).collect();
    open.sort_unstable();
    assert_eq!(open, ["0", "1", "2"], "{}", done.report());
}

#[test]
fn the_command_has_no_capabilities_and_gains_none() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let status = sandbox.sh("b", "cat /proc/self/status").ok().out();
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name));
        line.and_then(|l| l.split_whitespace().nth(1))
            .unwrap_or_default()
            .to_owned()
    };
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(name), "0000000000000000", "{name}\n{status}");
    }
    assert_eq!(field("NoNewPrivs:"), "1", "{status}");
    let me = nix::unistd::geteuid().to_string();
    assert_eq!(field("Uid:"), me, "the caller's own id is the command's");
    // The positive control: outside the same shell has at least a full bounding set.
    let outside = fs::read_to_string("/proc/self/status").expect("status");
    assert!(!outside.contains("CapBnd:\t0000000000000000"), "{outside}");
}

#[test]
fn namespaces_are_the_commands_own() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let done = sandbox.sh("b", "cd /proc/self/ns; readlink user pid ipc uts mnt; echo $$; ps -A 2>/dev/null | wc -l; ls -d /proc/[0-9]* | wc -l").ok();
    let out = done.out();
    let mut lines = out.lines();
    for name in ["user", "pid", "ipc", "uts", "mnt"] {
        let host = fs::read_link(format!("/proc/self/ns/{name}")).expect("a namespace");
        assert_ne!(
            lines.next(),
            host.to_str(),
            "the {name} namespace is the host's"
        );
    }
    let pid: u32 = lines.next().and_then(|l| l.parse().ok()).expect("a pid");
    assert!(pid < 100, "pids count from the start: {pid}");
    let seen: u32 = lines
        .next_back()
        .and_then(|l| l.parse().ok())
        .expect("a count");
    assert!(
        seen < 8,
        "only the run's own processes are in /proc: {seen}"
    );
}

#[test]
fn mounts_do_not_propagate_either_way() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let mounts = sandbox.sh("b", "cat /proc/self/mountinfo").ok().out();
    for line in mounts.lines() {
        let fields = line.split(" - ").next().unwrap_or_default();
        let tied = ["shared:", "master:", "propagate_from:"]
            .iter()
            .any(|tag| fields.contains(tag));
        assert!(!tied, "tied to the host: {line}");
    }
    // Other tests mount on the host, each below a sandbox of its own.
    let below = leak::mounts_below(sandbox.root());
    assert!(below.is_empty(), "mounts of a run on the host: {below:?}");
}

#[test]
fn temporary_directories_are_private() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let name = format!("agentfs-canary-{}", std::process::id());
    let canary = std::path::Path::new("/tmp").join(&name);
    fs::write(&canary, "host").expect("write");
    let script = format!(
        "test ! -e /tmp/{name} || echo seen; echo inside > /tmp/{name}; cat /tmp/{name}; \
         test $(stat -c %a /tmp) = 1777 && echo sticky"
    );
    let out = sandbox.sh("b", &script).ok().out();
    let host = fs::read_to_string(&canary).expect("read");
    fs::remove_file(&canary).expect("remove");
    assert_eq!((out.as_str(), host.as_str()), ("inside\nsticky\n", "host"));
    assert_eq!(
        sandbox.sh("b", &format!("ls /tmp/{name}")).code(),
        2,
        "each run has its own"
    );
}

#[test]
fn devices_are_few() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let script = "echo x > /dev/null; head -c 4 /dev/zero | od -An -tx1; head -c 8 /dev/urandom | wc -c; \
                  echo x > /dev/shm/x && cat /dev/shm/x; test -e /dev/fuse && echo fuse; \
                  ls /dev | grep -E '^(sd|vd|nvme|loop|mem|kmsg|kvm)'; true";
    assert_eq!(sandbox.sh("b", script).ok().out(), " 00 00 00 00\n8\nx\n");
}

#[test]
fn supplementary_groups_still_open_files() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    if is_root() {
        let mut command = sandbox.host("setpriv");
        command
            .args(["--groups", "0,4242", "--"])
            .arg(bins::agentfs());
        command.args([
            "run",
            "-q",
            "--branch",
            "b",
            "--",
            "grep",
            "^Groups",
            "/proc/self/status",
        ]);
        let out = agentfs_tests::cmd::run(&mut command).ok().out();
        assert!(out.split_whitespace().any(|g| g == "4242"), "{out}");
        return;
    }
    if !need("group-file") {
        return;
    }
    let file = group_file().expect("it is there");
    assert_eq!(
        fs::read_to_string(&file).expect("the control: readable outside"),
        "for the group\n"
    );
    let script = format!("cat '{}'", file.display());
    assert_eq!(
        sandbox.sh("b", &script).ok().out(),
        "for the group\n",
        "through a bind"
    );
    let dir = file.parent().expect("a directory");
    let done = with(&sandbox, &["--cow", text(dir)], &script).ok();
    assert_eq!(done.out(), "for the group\n", "copy-on-write");
}

#[test]
fn privileged_programs_gain_nothing() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let tries = "mount -t tmpfs none /mnt; umount -l /proc; chroot / true; \
        unshare -m true; mknod d c 1 3; echo 1 > /proc/sys/kernel/sysrq; hostname x";
    for attempt in tries.split(';') {
        let done = sandbox.sh("b", attempt);
        assert_ne!(done.code(), 0, "{attempt} worked\n{}", done.report());
    }
    if !is_root() && find_program("su").is_some() {
        let id = sandbox
            .sh("b", "cp $(which id) ./id && chmod u+s id && ./id -u")
            .ok()
            .out();
        assert_eq!(id.trim(), nix::unistd::geteuid().to_string());
    }
}

#[test]
fn the_working_directory_must_be_visible() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let work = sandbox.work();
    let out = sandbox
        .sh("b", "readlink /proc/self/cwd; pwd -P")
        .ok()
        .out();
    assert_eq!(out, format!("{0}\n{0}\n", work.display()));
}
