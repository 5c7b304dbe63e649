//! Bad input gets a clear error on standard error, exit 125, and changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use agentfs_tests::need::{is_root, need_run};
use agentfs_tests::{Done, Manifest, Sandbox, bins};

/// A sandbox over the small base tree with one branch, `old`, in its store.
fn sandbox() -> (Sandbox, Manifest) {
    let (sandbox, before) = Sandbox::small();
    sandbox.sh("old", "echo kept > kept").ok();
    (sandbox, before)
}

/// `agentfs run` that must be refused; the first thing its command would do is leave a mark.
#[track_caller]
fn refused(sandbox: &Sandbox, flags: &[&str], words: &[&str]) {
    let mut args = vec!["run"];
    args.extend(flags);
    args.extend(["--", "touch", "mark"]);
    check(sandbox.call(&args), words);
}

/// Exit 125, the words on standard error and what to do about it, nothing on standard output.
#[track_caller]
fn check(done: Done, words: &[&str]) {
    let done = done.expect(125).says(words);
    assert_eq!(done.out(), "", "{}", done.report());
    assert!(
        done.stderr.starts_with("agentfs: "),
        "who speaks comes first\n{}",
        done.report()
    );
    assert!(!done.stderr.contains("panicked"), "{}", done.report());
    let fix = done.stderr.split("\n  fix: ").nth(1).unwrap_or_default();
    assert!(fix.len() > 10, "no way out is told\n{}", done.report());
}

/// The launcher as somebody to whom modes apply: root without its capabilities, or the user.
fn without_powers(sandbox: &Sandbox, args: &[&str]) -> Done {
    if !is_root() {
        return sandbox.call(args);
    }
    let mut command = sandbox.host("setpriv");
    command.args(["--inh-caps=-all", "--bounding-set=-all", "--"]);
    agentfs_tests::cmd::run(command.arg(bins::agentfs()).args(args))
}

/// Runs a script as the fake root of new user and mount namespaces (real root: of a mount
/// namespace), where it may mount; `"$@"` there is the launcher's call, by the caller's own ids.
fn in_mount_namespace(sandbox: &Sandbox, setup: &str, args: &[&str]) -> Done {
    let (uid, gid) = (
        nix::unistd::geteuid().to_string(),
        nix::unistd::getegid().to_string(),
    );
    let mut command = sandbox.host("unshare");
    if is_root() {
        command.args(["--mount", "--propagation", "private", "bash", "-euc"]);
        command.arg(format!("{setup}\nexec \"$@\""));
    } else {
        command.args(["--user", "--map-root-user", "--mount", "bash", "-euc"]);
        // Back to the caller's own id in one more namespace.
        command.arg(format!(
            "{setup}\nexec unshare --user --map-user={uid} --map-group={gid} \"$@\""
        ));
    }
    command.arg("-").arg(bins::agentfs()).args(args);
    agentfs_tests::cmd::run(&mut command)
}

/// The store, file by file, journals aside that only say that a branch was opened.
fn store(sandbox: &Sandbox) -> Vec<String> {
    sandbox
        .rows()
        .iter()
        .map(|row| row["name"].to_string())
        .collect()
}

#[test]
fn no_fuse_device() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    // A /dev with everything a shell needs, and no fuse in it.
    let setup = format!(
        "mkdir {0}/dev; mount --rbind /dev {0}/dev; mount -t tmpfs none /dev; \
         for f in null zero full random urandom tty; do : > /dev/$f; mount --bind {0}/dev/$f /dev/$f; done; \
         mkdir /dev/pts /dev/shm; ln -s pts/ptmx /dev/ptmx; ln -s /proc/self/fd /dev/fd",
        sandbox.root().display()
    );
    let args = ["run", "--branch", "new", "--", "touch", "mark"];
    check(
        in_mount_namespace(&sandbox, &setup, &args),
        &["/dev/fuse", "modprobe fuse"],
    );
    let doctor = in_mount_namespace(&sandbox, &setup.replace("mkdir ", "mkdir -p "), &["doctor"]);
    assert_ne!(doctor.code(), 0, "{}", doctor.report());
    assert!(doctor.out().contains("/dev/fuse"), "{}", doctor.report());
    assert_eq!(store(&sandbox), ["\"old\""], "no branch was made");
    before.assert_still();
}

#[test]
fn no_user_namespaces() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    let mut command = sandbox.host("unshare");
    command.args(["--user", "--map-root-user", "bash", "-euc"]);
    command
        .arg("echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"")
        .arg("-");
    command
        .arg(bins::agentfs())
        .args(["run", "--branch", "new", "--", "touch", "mark"]);
    let done = agentfs_tests::cmd::run(&mut command);
    check(done, &["namespaces", "max_user_namespaces"]);
    assert_eq!(store(&sandbox), ["\"old\""], "no branch was made");
    before.assert_still();
}

#[test]
fn branch_names_that_break_the_rule() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    let long = "x".repeat(65);
    for name in [
        "../x", "-rf", "", "a/b", ".", "..", "@", "a b", "a\nb", "ünï", &long,
    ] {
        let args = ["run", "--branch", name, "--", "touch", "mark"];
        let done = sandbox.call(&args);
        let done = done.expect(125).says(&["branch", "letters, digits"]);
        assert!(
            !done.stderr.contains("a\nb"),
            "a name is escaped\n{}",
            done.report()
        );
        for args in [
            &["diff", name][..],
            &["rm", name],
            &["exec", name, "--", "true"],
        ] {
            sandbox.call(args).expect(125);
        }
    }
    assert_eq!(store(&sandbox), ["\"old\""]);
    before.assert_still();
}

#[test]
fn branches_that_do_not_exist() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    check(
        sandbox.call(&["exec", "nope", "--", "touch", "mark"]),
        &["nope"],
    );
    check(sandbox.call(&["diff", "nope"]), &["nope"]);
    check(sandbox.call(&["rm", "nope"]), &["nope"]);
    refused(&sandbox, &["--branch", "new", "--from", "nope"], &["nope"]);
    assert_eq!(store(&sandbox), ["\"old\""]);
    before.assert_still();
}

#[test]
fn a_command_line_that_makes_no_sense() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = sandbox();
    for args in [
        &["run"][..],
        &["run", "--branch", "x"],
        &["run", "--nope", "--", "true"],
        &["nope"],
    ] {
        let done = sandbox.call(args).expect(125);
        assert!(
            done.stderr.to_lowercase().contains("usage"),
            "{}",
            done.report()
        );
    }
    sandbox.call(&["--help"]).ok();
    sandbox.call(&["run", "--help"]).ok();
    sandbox.call(&["--version"]).ok();
}

#[test]
fn a_store_that_is_not_writable() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    let path = sandbox.root().join("sealed");
    fs::create_dir(&path).expect("mkdir");
    if is_root() {
        let setup = format!("mount -t tmpfs -o ro none {}", path.display());
        let args = [
            "--store",
            path.to_str().expect("UTF-8"),
            "run",
            "--",
            "touch",
            "mark",
        ];
        check(
            in_mount_namespace(&sandbox, &setup, &args),
            &["sealed", "read-only"],
        );
    } else {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o555)).expect("chmod");
        let args = [
            "--store",
            path.to_str().expect("UTF-8"),
            "run",
            "--",
            "touch",
            "mark",
        ];
        check(sandbox.call(&args), &["sealed", "permission denied"]);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    // Nor one below something that is no directory.
    let file = sandbox.root().join("plain");
    fs::write(&file, "").expect("write");
    let below = file.join("store");
    let args = [
        "--store",
        below.to_str().expect("UTF-8"),
        "run",
        "--",
        "touch",
        "mark",
    ];
    check(sandbox.call(&args), &["plain"]);
    before.assert_still();
}

#[test]
fn a_store_without_space() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    let path = sandbox.root().join("tiny");
    fs::create_dir(&path).expect("mkdir");
    let mount = format!(
        "mount -t tmpfs -o size=16k,mode=777 none {0}",
        path.display()
    );
    let full = format!("{mount}; head -c 16384 /dev/zero > {}/fill", path.display());
    let inside = path.join("store");
    let tiny = inside.to_str().expect("UTF-8");
    let args = [
        "--store", tiny, "run", "--branch", "b", "--", "touch", "mark",
    ];
    check(
        in_mount_namespace(&sandbox, &full, &args),
        &["tiny", "no space"],
    );
    before.assert_still();
}

#[test]
fn a_store_that_fills_up_is_an_error_in_the_branch() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    let path = sandbox.root().join("small");
    fs::create_dir(&path).expect("mkdir");
    let setup = format!("mount -t tmpfs -o size=4m,mode=777 none {}", path.display());
    let inside = path.join("store");
    let small = inside.to_str().expect("UTF-8");
    // The write fails with ENOSPC; the branch goes on, and what was written before is intact. The room
    // comes back when the kernel has told of the removed file, which rm(1) does not wait for.
    let script = "echo first > first; head -c 20000000 /dev/zero > huge && exit 1; \
        rm -f huge; cat first file; end=$((SECONDS + 30)); \
        until echo more > more; do [ $SECONDS -lt $end ] || exit 1; sleep 0.05; done; cat more";
    let args = [
        "--store", small, "run", "-q", "--branch", "b", "--", "bash", "-c", script,
    ];
    let done = in_mount_namespace(&sandbox, &setup, &args)
        .ok()
        .says(&["no space left"]);
    assert_eq!(done.out(), "first\nhello, base\nmore\n");
    before.assert_still();
}

/// The run's end is noted all the same, and where nothing more fits, not even a file, no branch is made.
#[test]
fn a_store_that_is_full_knows_how_the_run_ended_and_keeps_no_branch_of_a_refused_one() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    let path = sandbox.root().join("small");
    fs::create_dir(&path).expect("mkdir");
    let small = path.join("store");
    let text = |args: &str| {
        let (agentfs, store) = (agentfs_tests::bins::agentfs(), small.display().to_string());
        format!("'{}' --store '{store}' {args}", agentfs.display())
    };
    let script = format!(
        "mount -t tmpfs -o size=4m,nr_inodes=64,mode=777 none {0}; \
         {1}; echo ended $?; {2}; {5}; \
         i=0; while touch {0}/fill$i; do i=$((i+1)); done 2>/dev/null; \
         for n in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do {3} || echo refused $?; {2}; \
         {4} 2>/dev/null; rm {0}/fill$n; done",
        path.display(),
        text("run -q --branch b -- sh -c 'head -c 20000000 /dev/zero > huge; exit 7'"),
        text("ls"),
        text("run -q --branch late -- true"),
        text("rm late"),
        text("rm b"),
    );
    let mut command = sandbox.host("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", &script]);
    let done = agentfs_tests::cmd::run(&mut command).ok();
    let out = done.out();
    let has = |what: &str| assert!(out.contains(what), "{what}: {}", done.report());
    has("ended 7\n");
    has("b     -       exit 7  ");
    // First there is room for nothing, then for some of it, in the end for a whole run.
    has("refused 125\n");
    has("late  -       exit 0 ");
    let mut made = out.lines().filter(|line| line.starts_with("late"));
    assert!(
        made.all(|line| line.contains("exit 0")),
        "{}",
        done.report()
    );
    before.assert_still();
}

#[test]
fn a_store_of_a_newer_format() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    let format = sandbox.store().join("format");
    let text = fs::read_to_string(&format).expect("a format file");
    // FORMAT.md: a line of JSON and a line with its CRC-32C.
    let json = text
        .lines()
        .next()
        .unwrap_or_default()
        .replace(":1", ":4000000");
    assert!(
        json.contains("4000000"),
        "the format file holds its version: {text:?}"
    );
    fs::write(
        &format,
        format!("{json}\n{:08x}\n", crc32c(json.as_bytes())),
    )
    .expect("write");
    let sealed = Manifest::of(&sandbox.store());
    for args in [
        &["run", "--branch", "old", "--", "touch", "mark"][..],
        &["run", "--branch", "new", "--", "touch", "mark"],
        &["exec", "old", "--", "true"],
        &["ls"],
        &["diff", "old"],
        &["rm", "old"],
    ] {
        check(sandbox.call(args), &["format", "4000000"]);
    }
    sealed.assert_still();
    fs::write(&format, text).expect("write");
    sandbox.sh("old", "grep kept kept").ok();
    before.assert_still();
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

/// All files below `dir` that hold at least `bytes` bytes.
fn files(dir: &Path, bytes: u64) -> Vec<std::path::PathBuf> {
    let all = Manifest::of(dir).files;
    let regular = all
        .iter()
        .filter(|(_, f)| f.mode & 0o170_000 == 0o100_000 && f.size >= bytes);
    regular.map(|(path, _)| dir.join(path)).collect()
}

#[test]
fn a_damaged_branch_is_named_and_hides_no_other() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    sandbox
        .sh(
            "hurt",
            "for i in $(seq 200); do echo $i > n$i; done; head -c 100000 /dev/zero > z",
        )
        .ok();
    // Everything that is the store's own record of `hurt`; its objects are plain file contents.
    let kept: Vec<_> = {
        sandbox
            .call(&["run", "-q", "--branch", "other", "--", "true"])
            .ok();
        Manifest::of(&sandbox.store()).files.into_keys().collect()
    };
    let records: Vec<_> = files(&sandbox.store(), 1)
        .into_iter()
        .filter(|p| {
            let text = p.display().to_string();
            text.contains("table") || text.contains("journal")
        })
        .filter(|p| fs::metadata(p).is_ok_and(|m| m.len() > 2_000))
        .collect();
    assert!(
        !records.is_empty(),
        "a table or journal to damage among {kept:?}"
    );
    for path in &records {
        let mut bytes = fs::read(path).expect("read");
        let at = bytes.len() / 2;
        bytes[at..at + 64].fill(0xa5);
        fs::write(path, bytes).expect("write");
    }
    let look = "for i in $(seq 200); do test \"$(cat n$i)\" = $i || exit 3; done";
    let done = sandbox.sh("hurt", look);
    match done.code() {
        // The damage hit nothing that is read.
        0 => {}
        125 => check(done, &["hurt", "damaged"]),
        _ => assert!(
            done.stderr.to_lowercase().contains("input/output error"),
            "damage is refused or an error, never wrong or missing contents\n{}",
            done.report()
        ),
    }
    // The neighbour lists and runs.
    let listed = sandbox.call(&["ls"]);
    assert!(listed.out().contains("old"), "{}", listed.report());
    sandbox.sh("old", "grep kept kept").ok();
    before.assert_still();
}

#[test]
fn a_branch_whose_record_is_gone_is_damaged() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    sandbox.sh("hurt", "echo x > x").ok();
    let meta: Vec<_> = files(&sandbox.store(), 1)
        .into_iter()
        .filter(|p| fs::read(p).is_ok_and(|b| b.windows(6).any(|w| w == b"\"hurt\"")))
        .collect();
    let meta = match meta.is_empty() {
        false => meta,
        true => files(&sandbox.store(), 1)
            .into_iter()
            .filter(|p| p.components().any(|c| c.as_os_str() == "hurt"))
            .filter(|p| p.extension().is_some_and(|e| e == "json" || e == "meta"))
            .collect(),
    };
    assert!(
        !meta.is_empty(),
        "the record of a branch in {:?}",
        files(&sandbox.store(), 1)
    );
    for path in &meta {
        fs::write(path, b"\xff\x00 no record").expect("write");
    }
    let done = sandbox.call(&["run", "--branch", "hurt", "--", "touch", "mark"]);
    check(done, &["damaged"]);
    let listed = sandbox.call(&["ls"]);
    assert!(listed.out().contains("old"), "{}", listed.report());
    assert!(
        listed.out().contains("hurt") || listed.stderr.contains("hurt"),
        "the damaged one is named\n{}",
        listed.report()
    );
    before.assert_still();
}

#[test]
fn a_workspace_inside_the_store() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    let inside = sandbox.store().join("inner");
    fs::create_dir(&inside).expect("mkdir");
    for dir in [sandbox.store(), inside.clone()] {
        let mut command = sandbox.agentfs(&["run", "--branch", "new", "--", "touch", "mark"]);
        command.current_dir(&dir);
        check(agentfs_tests::cmd::run(&mut command), &["store", "inside"]);
    }
    assert!(!inside.join("mark").exists());
    fs::remove_dir(&inside).expect("rmdir");
    assert_eq!(store(&sandbox), ["\"old\""]);
    before.assert_still();
}

#[test]
fn a_run_inside_a_run() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    let script = format!(
        "'{}' run --branch inner -- touch mark; echo status=$?; test ! -e mark",
        bins::agentfs().display()
    );
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", "outer", "--ro"]);
    command
        .arg(bins::bin_dir())
        .args(["--", "bash", "-c", &script]);
    let done = agentfs_tests::cmd::run(&mut command)
        .ok()
        .says(&["agentfs: ", "inside"]);
    assert_eq!(done.out(), "status=125\n");
    before.assert_still();
}

#[test]
fn a_working_directory_that_is_gone() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    let script = format!(
        "mkdir gone && cd gone && rmdir ../gone && exec '{}' run --branch new -- touch mark",
        bins::agentfs().display()
    );
    let mut command = sandbox.host("bash");
    command.args(["-c", &script]).current_dir(sandbox.out());
    check(agentfs_tests::cmd::run(&mut command), &["directory"]);
    assert_eq!(store(&sandbox), ["\"old\""]);
    before.assert_still();
}

#[test]
fn paths_of_the_view_that_do_not_exist() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    for flag in ["--ro", "--rw", "--cow"] {
        refused(
            &sandbox,
            &["--branch", "new", flag, "/no/such/place"],
            &["/no/such/place"],
        );
    }
    assert_eq!(store(&sandbox), ["\"old\""]);
    before.assert_still();
}

#[test]
fn a_missing_daemon() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    let mut command = sandbox.agentfs(&["run", "--branch", "new", "--", "touch", "mark"]);
    command.env("AGENTFS_FUSE_HOST_BIN", "/no/such/daemon");
    check(agentfs_tests::cmd::run(&mut command), &["/no/such/daemon"]);
    before.assert_still();
}

#[test]
fn a_store_that_is_none() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    let dir = sandbox.root().join("other");
    fs::create_dir(&dir).expect("mkdir");
    fs::write(dir.join("letter"), "").expect("write");
    let other = dir.to_str().expect("UTF-8");
    let commands = [
        &["run", "--branch", "new", "--", "touch", "mark"][..],
        &["exec", "old", "--", "true"],
        &["ls"],
        &["diff", "old"],
        &["rm", "old"],
        &["mount", "old", "../out"],
        &["fsck", "--repair"],
    ];
    // Also when it happens to have a file of that name.
    for _ in 0..2 {
        let sealed = Manifest::of(&dir);
        for args in commands {
            let done = sandbox.call(&[&["--store", other][..], args].concat());
            assert!(!done.stderr.contains("damaged"), "{}", done.report());
            check(
                done,
                &["other", "is no store", "another directory with --store"],
            );
        }
        sealed.assert_still();
        fs::write(dir.join("format"), "").expect("write");
    }
    // Nor is a file, or what may not be entered.
    for args in commands {
        let done = sandbox.call(&[&["--store", "/etc/passwd"][..], args].concat());
        check(
            done,
            &["/etc/passwd", "a store is a directory: name another"],
        );
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o000)).expect("chmod");
    for args in commands {
        let done = without_powers(&sandbox, &[&["--store", other][..], args].concat());
        check(
            done,
            &["other", "permission denied", "keeps you out", "--store"],
        );
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("chmod");
    before.assert_still();
}

#[test]
fn a_store_without_its_format_file_is_mended() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    let format = sandbox.store().join("format");
    for lost in [false, true] {
        match lost {
            false => fs::write(&format, "").expect("write"),
            true => fs::remove_file(&format).expect("rm"),
        }
        for args in [&["ls"][..], &["rm", "old"], &["exec", "old", "--", "true"]] {
            let done = sandbox.call(args);
            assert!(!done.stderr.contains("agentfs rm"), "{}", done.report());
            check(done, &["format is damaged", "`agentfs fsck --repair`"]);
        }
        sandbox.call(&["fsck", "--repair"]).ok();
        assert_eq!(store(&sandbox), ["\"old\""]);
    }
    before.assert_still();
}

#[test]
fn a_branch_that_may_not_be_looked_at_is_not_damaged() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = sandbox();
    sandbox.sh("other", "true").ok();
    for file in ["branch.lock", "branch.json"] {
        let path = sandbox.store().join("branches/old").join(file);
        let mode = fs::metadata(&path).expect("stat").permissions();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("chmod");
        let done = without_powers(&sandbox, &["ls"]).ok();
        let listed = done.out();
        let done = done.says(&[file, "permission denied"]);
        assert!(listed.contains("no permission"), "{}", done.report());
        assert!(!listed.contains("damaged"), "{}", done.report());
        assert!(
            listed.contains("exit 0"),
            "the other one\n{}",
            done.report()
        );
        let json = without_powers(&sandbox, &["ls", "--json"]).ok().out();
        assert!(json.contains("\"state\": \"unreadable\""), "{json}");
        fs::set_permissions(&path, mode).expect("chmod");
    }
}

#[test]
fn places_that_cannot_be_shown() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    for place in ["/proc", "/sys", "/dev"] {
        let words = [place, "no branch", "leave out --cow"];
        refused(&sandbox, &["--branch", "new", "--cow", place], &words);
    }
    let store_path = sandbox.store().display().to_string();
    refused(&sandbox, &["--cow", &store_path], &["inside the store"]);
    // The fault is the rule's, not the branch's.
    let here = sandbox.work().display().to_string();
    for hide in [".", &here] {
        let words = ["--hide", &here, "would start there", "leave out --hide"];
        refused(&sandbox, &["--branch", "new", "--hide", hide], &words);
    }
    assert_eq!(store(&sandbox), ["\"old\""]);
    before.assert_still();
}

#[test]
fn a_daemon_that_ends_at_once() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    let mut command = sandbox.agentfs(&["run", "--branch", "new", "--", "touch", "mark"]);
    command.env("AGENTFS_FUSE_HOST_BIN", "/bin/true");
    let done = agentfs_tests::cmd::run(&mut command);
    assert!(
        done.stderr.contains("it ended with exit status: 0\n"),
        "no loose end\n{}",
        done.report()
    );
    // Its log went with the branch.
    check(done, &["the daemon of branch new", "agentfs doctor"]);
    before.assert_still();
}

#[test]
fn a_variable_that_says_nothing_the_daemon_could_do() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = sandbox();
    for (name, value) in [
        ("AGENTFS_FUSE_MAX_WRITE", "abc"),
        ("AGENTFS_FUSE_MAX_WRITE", "100"),
        ("AGENTFS_FUSE_MAX_BACKGROUND", "-1"),
        ("AGENTFS_FUSE_REGIME", "native"),
        ("AGENTFS_FUSE_TRANSPORT", "fast"),
        ("AGENTFS_LOG", "agentfs=loud"),
    ] {
        for branch in ["new", "old"] {
            let mut command = sandbox.agentfs(&["run", "-b", branch, "--", "touch", "mark"]);
            command.env(name, value);
            let done = agentfs_tests::cmd::run(&mut command);
            check(
                done,
                &[name, &format!("'{value}'"), "set the variable", "unset"],
            );
        }
        assert_eq!(store(&sandbox), ["\"old\""]);
    }
    let mut command = sandbox.agentfs(&["run", "-q", "-b", "old", "--", "cat", "kept"]);
    // Nothing, or more than there is, is no mistake.
    command.env("AGENTFS_FUSE_MAX_WRITE", "");
    command.env("AGENTFS_FUSE_MAX_BACKGROUND", "9999999");
    let done = agentfs_tests::cmd::run(&mut command).ok();
    assert_eq!(done.out(), "kept\n");
    before.assert_still();
}
