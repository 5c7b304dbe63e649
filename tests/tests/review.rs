//! Looking at a branch and landing it: `diff`, `diff | git apply`, `ls`, `rm`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use agentfs_tests::need::need_run;
use agentfs_tests::{Done, Manifest, Sandbox, base, bins};

/// A repository whose checkout has text, binary, executable, empty, linked and odd files.
fn repository() -> (Sandbox, Manifest) {
    let sandbox = Sandbox::new();
    let work = sandbox.work();
    base::small(&work);
    fs::write(
        work.join("text"),
        (1..200).map(|i| format!("line {i}\n")).collect::<String>(),
    )
    .expect("write");
    fs::write(work.join("no-newline"), "a\nb").expect("write");
    fs::write(work.join("binary"), base::pattern(9, 30_000)).expect("write");
    sandbox.host_sh("git init -q; git add -A; git commit -qm base");
    let before = Manifest::of(&work);
    (sandbox, before)
}

/// Pipes the branch's diff into `git apply` on the host, in the workspace.
fn land(sandbox: &Sandbox, branch: &str) -> Done {
    let agentfs = bins::agentfs();
    sandbox.host_sh(&format!(
        "'{}' diff {branch} | git apply",
        agentfs.display()
    ))
}

/// What git can carry of a tree: paths, types, the executable bit and contents.
fn portable(sandbox: &Sandbox, dir: &str) -> String {
    sandbox
        .host_sh(&format!(
            "cd '{dir}' && find . -name .git -prune -o \\( -type f -o -type l \\) -print0 | sort -z | \
             while IFS= read -r -d '' f; do \
               if [ -L \"$f\" ]; then printf '%q -> %q\\n' \"$f\" \"$(readlink \"$f\")\"; \
               else printf '%q %s %s\\n' \"$f\" \"$(stat -c %A \"$f\" | cut -c4)\" \"$(sha256sum < \"$f\")\"; fi; done"
        ))
        .out()
}

/// Runs `script` on a branch, lands it, and compares the checkout with what the branch holds.
#[track_caller]
fn lands(script: &str) {
    lands_after("", script);
}

/// [`lands`], on a host that `prepare` has changed.
#[track_caller]
fn lands_after(prepare: &str, script: &str) {
    let (sandbox, _) = repository();
    sandbox.host_sh(prepare);
    let before = Manifest::of(&sandbox.work());
    sandbox.sh("b", script).ok();
    before.assert_still();
    // What the branch holds, carried out through a shared directory.
    let out = sandbox.out().display().to_string();
    let copy = "cp -a . ../out/tree";
    let args = [
        "run", "-q", "--branch", "b", "--rw", &out, "--", "bash", "-c", copy,
    ];
    sandbox.call(&args).ok();
    before.assert_still();
    land(&sandbox, "b");
    let held = portable(&sandbox, &format!("{out}/tree"));
    assert_eq!(held, portable(&sandbox, "."), "{script}");
    // The branch goes on with all that it had, and has nothing more to land.
    let copy = "cp -a . ../out/again";
    let args = [
        "run", "-q", "--branch", "b", "--rw", &out, "--", "bash", "-c", copy,
    ];
    sandbox.call(&args).ok();
    let again = portable(&sandbox, &format!("{out}/again"));
    assert_eq!(held, again, "after landing: {script}");
    assert_eq!(sandbox.call(&["diff", "b"]).ok().out(), "", "{script}");
}

#[test]
fn what_the_host_saves_anew_stays_readable() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = repository();
    // None of these has bytes of its own on the branch.
    sandbox
        .sh(
            "b",
            "chmod 700 file; mv text moved; touch -d @1 no-newline; ln binary linked",
        )
        .ok();
    sandbox.host_sh("for f in file text no-newline binary; do sed -i '1s/^/host /' $f; done");
    let read =
        "for f in file moved no-newline binary linked; do head -c 5 $f; done; stat -c %a file";
    let done = sandbox.sh("b", read).ok();
    assert_eq!(done.out(), "host host host host host 700\n");
    sandbox
        .sh("b", "echo more >> moved && echo all > file && rm linked")
        .ok();
    let done = sandbox
        .sh("b", "cat file; tail -n 1 moved; ls linked")
        .expect(2);
    assert_eq!(done.out(), "all\nmore\n");
}

#[test]
fn edits_land() {
    if !need_run() {
        return;
    }
    lands(
        "sed -i '5d; 100s/^/x/; 150a new' text; echo c >> no-newline; printf 'a\\nb\\nc' > no-newline",
    );
}

#[test]
fn new_deleted_and_moved_files_land() {
    if !need_run() {
        return;
    }
    lands(
        "mkdir -p n/e/w; echo 1 > n/e/w/file; : > n/empty; rm dir/one; mv text moved; mv dir/sub sub2; \
           rm empty; cp two 'with space'; rm -r hollow; printf x > $'tab\\there'; printf x > 'quo\"te'",
    );
}

#[test]
fn modes_and_symlinks_land() {
    if !need_run() {
        return;
    }
    lands(
        "chmod +x dir/one; chmod -x exec; ln -s two ln1; ln -snf elsewhere sym; rm dir/dangling; \
           rm text; ln -s big text; echo new > dir/dangling; chmod +x binary; echo x >> exec",
    );
}

#[test]
fn binary_files_land() {
    if !need_run() {
        return;
    }
    lands(
        "head -c 50000 /dev/urandom > random; printf 'x\\0y' > nul; dd if=/dev/urandom of=binary bs=1 \
           seek=1000 count=2000 conv=notrunc status=none; rm big; printf '\\377\\376' > odd-bytes",
    );
}

#[test]
fn odd_names_land() {
    if !need_run() {
        return;
    }
    lands(
        "printf x > $'\\377raw'; printf y > $'new\\nline'; echo more >> $'\\377\\376odd'; \
           printf z > '-rf'; printf z > ' lead'; mkdir 'a b'; printf 1 > 'a b/trail '; printf ü > ü",
    );
}

#[test]
fn every_name_of_a_changed_hard_link_lands() {
    if !need_run() {
        return;
    }
    let links = "ln text dir/text2; ln text dir/sub/text3; ln binary dir/sub/bin2; ln exec dir/ex2; ln sym dir/sym2";
    // Edited, cut, made executable, moved beside; also with the name gone that was written to, and
    // with a directory in between that was moved, or made anew around the one that stays.
    lands_after(
        links,
        "echo more >> dir/text2; truncate -s 100 binary; chmod -x dir/ex2",
    );
    lands_after(
        links,
        "echo more >> text; rm text; mv dir/sub moved; printf x | dd of=moved/bin2 conv=notrunc status=none",
    );
    lands_after(
        links,
        "mv dir/sub keep; echo more >> keep/text3; rm -r dir; mkdir dir; mv keep dir/sub; ln binary b3; echo >> b3",
    );
}

#[test]
fn a_directory_becomes_a_file_and_back() {
    if !need_run() {
        return;
    }
    lands(
        "rm -r dir; echo now a file > dir; rm two; mkdir two; echo x > two/x; rm text; mkdir text; : > text/t",
    );
}

#[test]
fn an_unchanged_branch_has_an_empty_diff() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = repository();
    sandbox
        .sh(
            "b",
            "cat file; touch -a file; chmod 644 text; git status --porcelain; echo x > n; rm n",
        )
        .ok();
    for flags in [&[][..], &["--name-status"], &["--stat"]] {
        let mut args = vec!["diff", "b"];
        args.extend(flags);
        assert_eq!(sandbox.call(&args).ok().out(), "", "{flags:?}");
    }
    before.assert_still();
}

#[test]
fn formats_of_diff() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = repository();
    sandbox
        .sh(
            "b",
            "echo x >> text; rm dir/one; echo n > dir/new; ln -snf big sym; echo h > ~/outside",
        )
        .ok();
    let out = sandbox.call(&["diff", "b", "--name-status"]).ok().out();
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A\tdir/new", "D\tdir/one", "M\tsym", "M\ttext"]);
    let stat = sandbox.call(&["diff", "b", "--stat"]).ok();
    assert!(
        stat.out().contains("text") && stat.out().contains("dir/new"),
        "{}",
        stat.report()
    );
    let json = sandbox.call(&["diff", "b", "--json"]).ok();
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert!(value.to_string().contains("dir/new"), "{value}");
    // Only below the paths asked for.
    let out = sandbox
        .call(&["diff", "b", "dir", "--name-status"])
        .ok()
        .out();
    assert_eq!(out.lines().count(), 2, "{out}");
    // What lies outside of the workspace is counted, and shown when asked for.
    let done = sandbox.call(&["diff", "b"]).ok();
    assert!(!done.out().contains("outside"), "{}", done.report());
    assert!(done.stderr.contains("--all"), "{}", done.report());
    let all = sandbox.call(&["diff", "b", "--all", "--name-status"]).ok();
    assert!(all.out().contains("outside"), "{}", all.report());
    before.assert_still();
}

#[test]
fn the_size_of_a_branch_is_what_it_takes_on_the_disk() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = repository();
    let held = || sandbox.row("b")["bytes"].as_u64().expect("a number");
    sandbox.sh("b", "truncate -s 1T sparse").ok();
    assert!(held() < 1 << 20, "holes take nothing: {}", held());
    sandbox
        .sh("b", "head -c 3000000 /dev/urandom > full; ln full again")
        .ok();
    let two = held();
    assert!(
        (3_000_000..5_000_000).contains(&two),
        "two names, one file: {two}"
    );
    sandbox.sh("b", "rm full again").ok();
    assert!(held() < 1 << 20, "{}", held());
    let table = sandbox.call(&["ls"]).ok().out();
    assert!(!table.contains("1.0T") && !table.contains("1T"), "{table}");
    before.assert_still();
}

#[test]
fn diff_runs_nothing_of_the_branch() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = repository();
    let canary = sandbox.out().join("ran");
    let script = format!(
        "printf '#!/bin/sh\\ntouch {0}\\n' > hook; chmod +x hook; \
         git config core.fsmonitor $PWD/hook; git config diff.external $PWD/hook; \
         git config core.hooksPath $PWD; git config diff.x.textconv $PWD/hook; \
         echo '* diff=x' > .gitattributes; echo x >> text; cp hook pager; git config core.pager $PWD/hook",
        canary.display()
    );
    sandbox.sh("b", &script).ok();
    for args in [
        &["diff", "b"][..],
        &["diff", "b", "--stat"],
        &["ls"],
        &["diff", "b", "--all"],
    ] {
        sandbox.call(args).ok();
        assert!(!canary.exists(), "{args:?} ran a program of the branch");
    }
    before.assert_still();
}

#[test]
fn names_are_escaped_for_people() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = repository();
    sandbox
        .sh("b", "printf x > $'esc\\033[31mred'; printf x > $'bel\\007'")
        .ok();
    for flags in [&["--name-status"][..], &["--stat"], &["--json"], &[]] {
        let mut args = vec!["diff", "b"];
        args.extend(flags);
        let done = sandbox.call(&args).ok();
        let raw = done.stdout.iter().any(|b| *b == 0x1b || *b == 7);
        assert!(!raw, "{flags:?}: raw control bytes\n{}", done.report());
    }
    let esc = "\u{1b}[31mred";
    let done = sandbox.call(&["run", "-q", "--branch", "c", "--", "true", esc]);
    done.ok();
    for args in [&["ls"][..], &["ls", "--json"]] {
        let done = sandbox.call(args).ok();
        assert!(!done.stdout.contains(&0x1b), "{}", done.report());
    }
}

#[test]
fn rm_drops_branches() {
    if !need_run() {
        return;
    }
    let (sandbox, before) = repository();
    sandbox
        .sh("a", "head -c 3000000 /dev/urandom > random")
        .ok();
    sandbox.sh("b", "echo x > x").ok();
    sandbox
        .call(&["rm", "none-such"])
        .expect(125)
        .says(&["none-such"]);
    let bytes = |sandbox: &Sandbox| -> u64 {
        let files = Manifest::of(&sandbox.store()).files;
        files
            .values()
            .filter(|f| f.mode & 0o170_000 == 0o100_000)
            .map(|f| f.size)
            .sum()
    };
    assert!(bytes(&sandbox) > 3_000_000);
    sandbox.call(&["rm", "a"]).ok();
    assert!(bytes(&sandbox) < 1_000_000, "its space is free again");
    assert_eq!(sandbox.rows().len(), 1);
    // A name used again shows nothing of the old branch.
    sandbox.sh("a", "test ! -e random").ok();
    before.assert_still();
}

#[test]
fn listing_a_fresh_machine_makes_nothing() {
    let sandbox = Sandbox::new();
    let done = sandbox.call(&["ls"]).ok();
    assert!(
        done.out().lines().count() <= 1,
        "at most a header\n{}",
        done.report()
    );
    assert!(sandbox.rows().is_empty());
    assert!(!sandbox.store().exists(), "looking makes no store");
}

#[test]
fn counts_of_ls() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = repository();
    sandbox
        .sh(
            "b",
            "echo x >> text; rm dir/one two; echo 1 > n1; echo 2 > n2; echo 3 > n3",
        )
        .ok();
    let row = sandbox.row("b");
    let count = |key: &str| {
        row["changes"][key]
            .as_u64()
            .unwrap_or_else(|| panic!("{key} in {row}"))
    };
    assert_eq!(
        (count("added"), count("modified"), count("deleted")),
        (3, 1, 2),
        "{row}"
    );
    let table = sandbox.call(&["ls"]).ok().out();
    assert!(table.contains("+3 ~1 -2"), "{table}");
}

#[test]
fn the_store_is_private() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = repository();
    sandbox.sh("b", "echo x > x").ok();
    let mode = fs::metadata(sandbox.store())
        .expect("the store")
        .permissions()
        .mode()
        & 0o777;
    assert_eq!(mode, 0o700);
}

#[test]
fn landing_one_branch_does_not_make_another_undo_it() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = repository();
    let edit = |line: u32| format!("echo branch >> file; sed -i {line}s/^/x/ text; rm dir/one two");
    sandbox
        .sh("a", "echo a >> no-newline; echo a > both; echo a >> big")
        .ok();
    sandbox
        .sh(
            "b",
            &format!("echo b >> no-newline; echo b > both; {}", edit(150)),
        )
        .ok();
    sandbox.sh("c", &edit(5)).ok();
    let done = sandbox.call(&["diff", "b"]).ok();
    assert!(!done.stderr.contains("--overwrite"), "{}", done.report());
    land(&sandbox, "a");
    let done = sandbox.call(&["diff", "b"]).ok();
    for name in ["no-newline", "both"] {
        let words = format!("not in the patch: {name} changed on the host since");
        assert!(done.stderr.contains(&words), "{}", done.report());
        assert!(
            !done.out().contains(&format!("a/{name}")),
            "{}",
            done.report()
        );
    }
    let names = sandbox.call(&["diff", "b", "--name-status"]).ok().out();
    assert!(names.contains("M\tno-newline\t(host changed)\n"), "{names}");
    assert!(names.contains("M\ttext\n"), "{names}");
    let json = sandbox.call(&["diff", "b", "--json"]).ok().out();
    assert!(json.contains("\"host_changed\": true"), "{json}");
    land(&sandbox, "b");
    let text = sandbox.host_sh("cat no-newline both").out();
    assert_eq!(text, "a\nba\na\n");
    // What sed wrote anew is known by its age.
    let done = sandbox.call(&["diff", "c"]).ok();
    let words = "not in the patch: text changed on the host since";
    assert!(done.stderr.contains(words), "{}", done.report());
    assert_eq!(done.out(), "");
    let all = sandbox.call(&["diff", "b", "--overwrite"]).ok();
    assert!(
        all.out().contains("+b") && all.out().contains("-a"),
        "{}",
        all.report()
    );
}

#[test]
fn deletions_of_what_the_host_changed_since_are_left_out() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = repository();
    sandbox.sh("b", "rm two text; echo x >> file").ok();
    agentfs_tests::wait::next_tick(&sandbox.work());
    sandbox.host_sh("echo host >> two; rm file");
    let done = sandbox.call(&["diff", "b"]).ok();
    assert!(
        done.out().contains("a/text") && !done.out().contains("a/two"),
        "{}",
        done.report()
    );
    assert!(
        done.stderr.contains("two changed on the host"),
        "{}",
        done.report()
    );
    assert!(
        done.stderr.contains("file was removed on the host"),
        "{}",
        done.report()
    );
    assert!(!done.out().contains("a/file"), "{}", done.report());
}

#[test]
fn diff_tells_where_to_apply_and_when_there_is_nothing_to() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = repository();
    sandbox.sh("b", "echo x >> text").ok();
    let agentfs = bins::agentfs().display().to_string();
    let done = sandbox.host_sh(&format!("cd dir; '{agentfs}' diff b"));
    let words = format!("| git -C {} apply", sandbox.work().display());
    assert!(done.stderr.contains(&words), "{}", done.report());
    let done = sandbox.call(&["diff", "b"]).ok();
    assert!(!done.stderr.contains("git -C"), "{}", done.report());
    let done = sandbox.call(&["diff", "b", "file"]).ok();
    done.says(&["file has no changes", "nothing to land"]);
    let done = sandbox.call(&["diff", "b", "text"]).ok();
    assert!(!done.stderr.contains("no changes"), "{}", done.report());
}

#[test]
fn a_path_of_nothing_is_an_error() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = repository();
    let script =
        "echo x >> text; echo n > new; mkdir -p d/empty; mv dir moved; rm file; echo x > .git/x";
    sandbox.sh("b", script).ok();
    for format in [None, Some("--stat"), Some("--name-status"), Some("--json")] {
        let diff = |path: &str| {
            let args = ["diff", "b", path].into_iter().chain(format);
            sandbox.call(&args.collect::<Vec<_>>())
        };
        for there in [
            "text", "new", "d", "d/empty", "moved", "dir", "file", ".git/x", ".", "binary",
        ] {
            diff(there).ok();
        }
        for none in [
            "nosuchpath",
            "new/below",
            "moved/nosuch",
            "d/nosuch",
            "/nosuch/path",
        ] {
            let done = diff(none).expect(125);
            done.says(&[none, "does not exist, on the host or on branch b", "fix: "]);
        }
    }
    // What there is comes all the same.
    let done = sandbox
        .call(&["diff", "b", "text", "nosuchpath"])
        .expect(125);
    assert!(done.out().contains("+x"), "{}", done.report());
}

#[test]
fn commits_land_by_the_recipe() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = repository();
    sandbox
        .sh(
            "b",
            "echo x > committed; git add committed; git commit -qm work",
        )
        .ok();
    let done = sandbox.call(&["diff", "b"]).ok();
    let recipe = done
        .stderr
        .lines()
        .find(|line| line.contains("git bundle create"));
    let recipe = recipe.unwrap_or_else(|| panic!("{}", done.report()));
    let agentfs = bins::agentfs().display().to_string();
    let recipe = recipe
        .trim()
        .replacen("agentfs", &format!("'{agentfs}'"), 1);
    sandbox.host_sh(&recipe);
    let done = sandbox.host_sh("git log --format=%s -1; cat committed");
    assert_eq!(done.out(), "work\nx\n");
}

#[test]
fn ls_of_a_store_that_is_not_there_says_so() {
    let sandbox = Sandbox::new();
    let done = sandbox.call(&["--store", "/no/such/store", "ls"]).ok();
    assert!(
        done.stderr.contains("no store at /no/such/store"),
        "{}",
        done.report()
    );
}

#[test]
fn every_json_answer_has_the_version_of_its_schema() {
    if !need_run() {
        return;
    }
    let (sandbox, _) = repository();
    sandbox.sh("b", "echo x >> text").ok();
    for args in [
        &["ls", "--json"][..],
        &["diff", "b", "--json"],
        &["fsck", "--json"],
        &["gc", "--json"],
        &["doctor", "--json"],
        &["run", "--dry-run", "--json", "--", "true"],
        &["run", "--branch", "b", "--json", "--", "true"],
        &["run", "--branch", "b", "--quiet", "--json", "--", "true"],
        &["exec", "b", "--json", "--", "true"],
    ] {
        let done = sandbox.call(args);
        // Of a run, stdout is the command's.
        let text = match done.stdout.is_empty() {
            true => done.stderr.clone(),
            false => done.out(),
        };
        let answer: serde_json::Value = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("no JSON: {e}\n{}", done.report()));
        assert_eq!(answer["version"], 1, "{}", done.report());
    }
    // Every subcommand that has the flag is above.
    let help = sandbox.call(&["--help"]).ok().out();
    let list = help.split("Commands:\n").nth(1).unwrap_or_default();
    let names = list.lines().take_while(|line| line.starts_with("  "));
    let has_json = |name: &&str| {
        sandbox
            .call(&[name, "--help"])
            .ok()
            .out()
            .contains("--json")
    };
    let names: Vec<_> = names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .filter(has_json)
        .collect();
    assert_eq!(names, ["run", "exec", "ls", "diff", "fsck", "gc", "doctor"]);
}

#[test]
fn files_that_git_converts_are_held_back_and_land_raw() {
    if !need_run() {
        return;
    }
    let prepare = || {
        let (sandbox, _) = repository();
        sandbox.host_sh(
            "printf '*.id ident\\n*.fx filter=x\\n*.u16 working-tree-encoding=UTF-16\\n' > .gitattributes; \
             git config filter.x.clean 'tr a-z A-Z'; git config filter.x.smudge 'tr A-Z a-z'; \
             git config filter.x.required true; printf '$Id: stale $\\nold\\n' > a.id; \
             printf 'no keyword\\n' > plain.id; printf 'Mixed Old\\n' > a.fx; cp a.fx gone.fx; \
             printf 'old\\n' | iconv -t UTF-16 > a.u16; cp a.fx moves.fx; echo x > late.new",
        );
        let script = "sed -i s/old/new/ a.id; echo more >> plain.id; echo More >> a.fx; rm gone.fx; \
                      printf 'new\\n' | iconv -t UTF-16 > a.u16; mv moves.fx moved.fx; echo X > n.fx; \
                      chmod +x a.fx; echo '*.new filter=x' >> .gitattributes; echo Y >> late.new; \
                      mkdir sub; echo '*.fx -filter' > sub/.gitattributes; echo Z > sub/z.fx; echo t >> text";
        sandbox.sh("b", script).ok();
        let copy = "cp -a . ../out/tree";
        let out = sandbox.out().display().to_string();
        let args = [
            "run", "-q", "--branch", "b", "--rw", &out, "--", "bash", "-c", copy,
        ];
        sandbox.call(&args).ok();
        let held = portable(&sandbox, &format!("{out}/tree"));
        (sandbox, held)
    };
    let (sandbox, _) = prepare();
    let done = sandbox.call(&["diff", "b"]).ok();
    let held_back: Vec<_> = (done.stderr.lines())
        .filter_map(|line| {
            line.strip_prefix("not in the patch: ")?
                .split_once(" has the git attribute ")
        })
        .map(|(path, why)| (path, why.split(':').next().unwrap_or_default()))
        .collect();
    let expected = [
        ("a.fx", "filter"),
        ("a.id", "ident"),
        ("a.u16", "working-tree-encoding"),
        ("gone.fx", "filter"),
        ("late.new", "filter"),
        ("moved.fx", "filter"),
        ("n.fx", "filter"),
        // By the host's word; the branch's own says otherwise.
        ("sub/z.fx", "filter"),
    ];
    assert_eq!(held_back, expected, "{}", done.report());
    land(&sandbox, "b");
    let read = "cat plain.id; tail -n 1 text; tail -n 1 .gitattributes";
    let landed = sandbox.host_sh(read).out();
    assert_eq!(landed, "no keyword\nmore\nt\n*.new filter=x\n");
    // As the remark says, in one go and without a loss.
    let (sandbox, held) = prepare();
    let done = sandbox.call(&["diff", "b"]).ok();
    let recipe = done.stderr.lines().find(|line| line.contains("--raw"));
    let recipe = recipe.unwrap_or_else(|| panic!("{}", done.report())).trim();
    let agentfs = format!("'{}'", bins::agentfs().display());
    sandbox.host_sh(&recipe.replacen("agentfs", &agentfs, 1));
    assert_eq!(portable(&sandbox, "."), held);
    assert_eq!(sandbox.call(&["diff", "b"]).ok().out(), "");
}
