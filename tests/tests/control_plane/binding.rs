//! Who is bound: by name, by descent, by nothing.

use agentfs_tests::mounted::need_any_mount;
use agentfs_tests::{Several, Shell, need, wait};

use crate::fill;

/// A mount with a branch whose file `who` says `mine`, and a shell bound to that.
fn marked() -> (Several, Shell) {
    let several = Several::new(fill);
    several.branches(&["mine"]);
    let mut shell = several.bound("mine");
    shell.ok("cd $M; echo mine > who; cd /");
    (several, shell)
}

#[test]
fn children_daemons_and_programs_see_what_their_parents_do() {
    if !need_any_mount() {
        return;
    }
    let (several, mut shell) = marked();
    let out = several.sandbox.out();
    let notes = |name: &str| out.join(name).display().to_string();
    assert_eq!(
        shell.ok("cat $M/who; (cat $M/who); bash -c 'cat $M/who'"),
        "mine\nmine\nmine"
    );
    assert_eq!(
        shell.ok("bash -c 'exec bash -c \"exec cat $M/who\"'"),
        "mine"
    );
    assert_eq!(
        shell.ok("cat $M/who | cat; seq 30 | xargs -P 8 -I{} cat $M/who | sort -u"),
        "mine\nmine"
    );
    // Daemons: their parents are gone before they first look, and they have a session of their own.
    let wait = "while [ -e /proc/$1 ]; do sleep 0.02; done";
    for (name, how) in [
        ("plain", "(p=$BASHPID; bash -c \"$W\" w $p &)"),
        ("setsid", "(p=$BASHPID; setsid bash -c \"$W\" w $p &)"),
        (
            "twice",
            "(setsid bash -c 'p=$$; setsid bash -c \"$W\" w $p & true' &)",
        ),
    ] {
        let done = notes(name);
        shell.ok(&format!(
            "export W='{wait}; cat $M/who > {done}.part; echo {name} > $M/by-{name}; \
             echo $? >> {done}.part; mv {done}.part {done}'; {how}"
        ));
        wait::until("the daemon has looked", || out.join(name).exists());
        let said = std::fs::read_to_string(out.join(name)).expect("its notes");
        assert_eq!(said, "mine\n0\n", "{name}");
        assert_eq!(shell.ok(&format!("cat $M/by-{name}")), name);
    }
    // Programs with many threads.
    if need("program:python3") {
        let read = "import threading,sys;o=[];\
                    t=[threading.Thread(target=lambda:o.append(open(sys.argv[1]).read())) for _ in range(20)];\
                    [x.start() for x in t];[x.join() for x in t];print(set(o))";
        assert_eq!(
            shell.ok(&format!("python3 -c '{read}' $M/who")),
            "{'mine\\n'}"
        );
    }
    let mut stranger = several.shell();
    stranger.fails("cat $M/who", "No such file");
}

#[test]
fn who_is_bound_to_nothing_looks_at_the_default_branch_only() {
    if !need_any_mount() {
        return;
    }
    let (several, mine) = marked();
    drop(mine);
    let mut main = several.bound(&several.default_branch());
    main.ok("echo main > $M/file; chmod 666 $M/file; mkdir $M/open; chmod 777 $M/open");
    let mut anybody = several.shell();
    assert_eq!(anybody.ok("cd $M; cat file; ls"), "main\ndir\nfile\nopen");
    for change in [
        "echo x > file",
        "echo x >> file",
        "echo x > open/new",
        "mkdir open/d",
        "rm file",
        "rmdir open",
        "mv file other",
        "ln file link",
        "ln -s a b",
        "chmod 600 file",
        "touch file",
        "truncate -s 0 file",
        "mkfifo open/p",
        "test -w file",
    ] {
        let said = anybody.does(change);
        let is_test = change.starts_with("test");
        assert!(said.code != 0, "{change}");
        assert!(
            is_test || said.text.contains("Read-only file system"),
            "{change}: {said:?}"
        );
    }
    anybody.ok("cd /");
    assert_eq!(
        main.ok("cat $M/file; ls $M $M/open"),
        format!(
            "main\n{0}:\ndir\nfile\nopen\n\n{0}/open:",
            several.mnt().display()
        )
    );
    // This test's own process is nobody either.
    let error = std::fs::write(several.mnt().join("x"), "x").expect_err("unbound");
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn who_is_bound_again_moves_and_its_children_stay() {
    if !need_any_mount() {
        return;
    }
    let (several, mut shell) = marked();
    several.branches(&["other"]);
    let mut writer = several.bound("other");
    writer.ok("echo other > $M/who");
    shell.ok("coproc bash -c 'while read -r l; do eval \"$l\"; done'; ask() { echo \"$1\" >&${COPROC[1]}; read -r r <&${COPROC[0]}; echo \"$r\"; }");
    assert_eq!(shell.ok("ask 'cat $M/who'"), "mine");
    // In a directory of the mount, with a file open, as people bind the shell they sit in.
    shell.ok("cd $M/dir/sub; exec 4<$M/who");
    several.bind("other", shell.pid());
    assert_eq!(
        shell.ok("cat $M/who; ls; cat deep; cat <&4"),
        "other\ndeep\ndeep\nmine"
    );
    assert_eq!(
        shell.ok("ask 'cat $M/who'"),
        "mine",
        "the child that it had"
    );
    assert_eq!(shell.ok("bash -c 'cat $M/who'"), "other");
    let pid = shell.pid().to_string();
    several.control(&["branch-unbind", "--pid", &pid]).ok();
    shell.fails("cat $M/who", "No such file");
    shell.fails("echo x > $M/x", "Read-only");
    assert_eq!(shell.ok("ask 'cat $M/who'"), "mine");
    several
        .control(&["branch-unbind", "--pid", &pid])
        .expect(125)
        .says(&["not bound", "fix:"]);
    shell.ok("exec 4<&-; cd /; eval \"exec ${COPROC[1]}>&-\"; wait");
}

#[test]
fn descriptors_stay_on_the_branch_they_were_opened_on() {
    if !need_any_mount() {
        return;
    }
    let (several, mut shell) = marked();
    several.branches(&["other"]);
    shell.ok("exec 5<>$M/who 6<$M/dir");
    several.bind("other", shell.pid());
    shell.ok("echo written >&5");
    shell.fails("cat $M/who", "No such file");
    let mut back = several.bound("mine");
    assert_eq!(back.ok("cat $M/who"), "written");
    // Opened anew by its descriptor it would be another branch's file: refused.
    shell.fails("cat /proc/self/fd/5", "tale");
    shell.ok("exec 5<&- 6<&-");
}
