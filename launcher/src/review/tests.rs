//! Patches against git itself: what `git apply` makes of the base must be the branch.

mod land;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use agentfs_fsd::review::{Change, ChangeSet, Source};
use proptest::prelude::*;

use super::plan::{Applier, Plan, Scope, Status};
use land::{Entry, Land, Tree};

fn file(bytes: &[u8]) -> Entry {
    Entry::File {
        bytes: bytes.to_vec(),
        exec: false,
    }
}

fn exec(bytes: &[u8]) -> Entry {
    Entry::File {
        bytes: bytes.to_vec(),
        exec: true,
    }
}

fn link(target: &[u8]) -> Entry {
    Entry::Link(target.to_vec())
}

fn tree(entries: &[(&[u8], Entry)]) -> Tree {
    entries
        .iter()
        .map(|(path, entry)| (path.to_vec(), entry.clone()))
        .collect()
}

/// Lands `after` on `before` in a repository and outside of one, and takes it back.
fn lands(before: &Tree, after: &Tree) -> String {
    let land = Land::new(before, after);
    for in_repository in [true, false] {
        land.check(in_repository);
    }
    String::from_utf8_lossy(land.patch()).into_owned()
}

#[test]
fn edits_additions_and_deletions_land() {
    let before = tree(&[
        (b"edit", file(b"1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n")),
        (b"gone", file(b"gone\n")),
        (b"dir/gone too", file(b"x")),
        (b"empty gone", file(b"")),
        (b"fill", file(b"")),
        (b"drain", file(b"a\nb\n")),
    ]);
    let after = tree(&[
        (b"edit", file(b"1\nII\n3\n4\n5\n6\n7\n8\n9\n10\n11\nXII")),
        (b"new", file(b"new\n")),
        (b"deep/er/new", exec(b"#!/bin/sh\n")),
        (b"empty new", file(b"")),
        (b"fill", file(b"full")),
        (b"drain", file(b"")),
    ]);
    let patch = lands(&before, &after);
    assert!(patch.contains("\nnew file mode 100755\n") && patch.contains("\\ No newline"));
}

#[test]
fn line_ends_and_texts_that_look_like_patches_land() {
    let before = tree(&[
        (b"crlf", file(b"a\r\nb\r\nc\r\n")),
        (b"to crlf", file(b"a\nb\n")),
        (b"lone cr", file(b"a\rb\rc")),
        (
            b"tricky",
            file(b"--- a/x\n+++ b/x\n@@ -1 +1 @@\n-- \n\\ No newline at end of file\n"),
        ),
        (b"latin", file(b"caf\xe9\nz\n")),
        (b"form feed", file(b"a\x0cb\x0b\n\x85\n")),
    ]);
    let after = tree(&[
        (b"crlf", file(b"a\r\nB\r\nc\r\nd")),
        (b"to crlf", file(b"a\r\nb\r\n")),
        (b"lone cr", file(b"a\rB\rc\r")),
        (
            b"tricky",
            file(b"diff --git a/x b/x\n--- a/x\n@@ -1 +1 @@\n-- \n--\nGIT binary patch\n"),
        ),
        (b"latin", file(b"caf\xe9!\nz\n")),
        (b"form feed", file(b"a\x0cB\x0b\n\x85")),
    ]);
    lands(&before, &after);
}

#[test]
fn names_of_every_sort_land() {
    let names: [&[u8]; 20] = [
        b"a b",
        b"a\tb",
        b"a\nb",
        b"q\"uote",
        b"back\\slash",
        "caf\u{e9}".as_bytes(),
        b"\xff\xfe",
        b"-dash",
        b"trail ",
        b" lead",
        b"x b/x b/x",
        b"dev/null",
        b"*",
        b"\x1b[31m",
        b"diff --git a",
        b"a/b/c",
        b"b/a",
        b".gitignore",
        b"x.git/y",
        b"\x7f\x01",
    ];
    let all = |entry: &dyn Fn(usize) -> Entry| -> Tree {
        names
            .iter()
            .enumerate()
            .map(|(at, name)| (name.to_vec(), entry(at)))
            .collect()
    };
    let none = Tree::new();
    let texts = all(&|at| file(format!("text {at}\n").as_bytes()));
    lands(&none, &texts);
    lands(&texts, &all(&|at| file(format!("other {at}").as_bytes())));
    lands(&texts, &all(&|at| exec(format!("text {at}\n").as_bytes())));
    lands(&none, &all(&|_| file(b"")));
    lands(&texts, &all(&|_| link(b"target with \n newline")));
    lands(&texts, &all(&|at| file(&[0, at as u8, 255])));
    lands(&texts, &none);
    // Only moved, all of them.
    lands(
        &texts,
        &texts
            .iter()
            .map(|(name, e)| ([b"to/", &name[..]].concat(), e.clone()))
            .collect(),
    );
}

#[test]
fn modes_links_and_type_changes_land() {
    let before = tree(&[
        (b"flip", file(b"x\n")),
        (b"flop", exec(b"x\n")),
        (b"flip and edit", file(b"x\n")),
        (b"to link", file(b"text\n")),
        (b"from link", link(b"flip")),
        (b"relink", link(b"a")),
        (b"dir/one", file(b"1\n")),
        (b"dir/two/three", file(b"3\n")),
        (b"plain", file(b"plain\n")),
        (b"link to dir", link(b"dir")),
        (b"dir to link/x", file(b"x\n")),
    ]);
    let after = tree(&[
        (b"flip", exec(b"x\n")),
        (b"flop", file(b"x\n")),
        (b"flip and edit", exec(b"y\n")),
        (b"to link", link(b"/etc/passwd")),
        (b"from link", file(b"text\n")),
        (b"relink", link(b"b")),
        (b"dir", file(b"was a directory\n")),
        (b"plain/now/below", file(b"plain\n")),
        (b"link to dir/x", file(b"y\n")),
        (b"dir to link", link(b"plain")),
    ]);
    let patch = lands(&before, &after);
    assert!(patch.contains("old mode 100644\nnew mode 100755\n"));
}

#[test]
fn binaries_land_both_ways() {
    let noise = |seed: u32, len: usize| -> Vec<u8> {
        let mut state = seed | 1;
        let step = |_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        };
        (0..len).map(step).collect()
    };
    let lens = [1, 25, 26, 27, 51, 52, 53, 103, 104, 1000, 65_537];
    let zeros = |len: usize| vec![0; len];
    let mut before = Tree::new();
    let mut after = Tree::new();
    for (at, len) in lens.into_iter().enumerate() {
        let name = format!("bin{len}").into_bytes();
        before.insert(
            name.clone(),
            file(&[zeros(1), noise(at as u32, len)].concat()),
        );
        after.insert(name, file(&[noise(at as u32 + 99, len), zeros(1)].concat()));
    }
    before.insert(b"to text".to_vec(), file(b"\0\0"));
    after.insert(b"to text".to_vec(), file(b"text\n"));
    before.insert(b"gone".to_vec(), file(&noise(7, 300)));
    after.insert(b"new".to_vec(), exec(&noise(8, 300)));
    after.insert(
        b"large".to_vec(),
        file(&[zeros(5 << 20), noise(9, 5 << 20)].concat()),
    );
    before.insert(b"drained".to_vec(), file(b"\0"));
    after.insert(b"drained".to_vec(), file(b""));
    let patch = lands(&before, &after);
    assert!(patch.contains("GIT binary patch\nliteral "));
}

#[test]
fn a_large_text_lands() {
    let lines = |odd: usize| {
        let line = |n: usize| format!("line {}\n", if n % 5000 == odd { n * 7 } else { n });
        (0..900_000).map(line).collect::<String>().into_bytes()
    };
    let (before, after) = (lines(1), lines(2));
    assert!(before.len() > 10_000_000);
    let patch = lands(
        &tree(&[(b"big", file(&before))]),
        &tree(&[(b"big", file(&after))]),
    );
    assert!(patch.len() < 200_000, "{}", patch.len());
}

#[test]
fn files_that_only_moved_are_renames() {
    let before = tree(&[
        (b"old/one", file(b"one\n")),
        (b"old/two", exec(b"two\n")),
        (b"old/empty", file(b"")),
        (b"swap a", file(b"a\n")),
        (b"swap b", file(b"b\n")),
        (b"into", file(b"into\n")),
        (b"up/up", file(b"up\n")),
        (b"over", file(b"over\n")),
        (b"under", file(b"under\n")),
    ]);
    let after = tree(&[
        (b"new/one", file(b"one\n")),
        (b"new/two", file(b"two\n")),
        (b"new/empty", file(b"")),
        (b"swap a", file(b"b\n")),
        (b"swap b", file(b"a\n")),
        (b"into/into", file(b"into\n")),
        (b"up", file(b"up\n")),
        (b"under", file(b"over\n")),
    ]);
    let patch = lands(&before, &after);
    for (from, to) in [
        ("old/one", "new/one"),
        ("old/two", "new/two"),
        ("into", "into/into"),
    ] {
        let entry = format!("similarity index 100%\nrename from {from}\nrename to {to}\n");
        assert!(patch.contains(&entry), "{patch}");
    }
    // The mode came along.
    assert!(patch.contains("old mode 100755\nnew mode 100644\nsimilarity"));
}

#[test]
fn what_git_refuses_is_kept_out_and_said() {
    let before = tree(&[(b"a", file(b"a\n"))]);
    let after = tree(&[
        (b"a", file(b"b\n")),
        (b".git/config", file(b"[core]\n")),
        (b"sub/.git/hooks/post-checkout", exec(b"#!/bin/sh\n")),
        (b".GIT/x", file(b"x\n")),
        (b"git~1", file(b"x\n")),
        (b".gitmodules", link(b"x")),
    ]);
    let land = Land::new(&before, &after);
    let (set, scope) = (land.changes(), land.scope());
    let plan = Plan::new(&set, &scope, land::me(), true);
    assert_eq!(plan.git_dir, 2);
    let noted: Vec<_> = plan.notes.iter().map(|note| note.path.as_slice()).collect();
    assert_eq!(noted, [&b".GIT/x"[..], b".gitmodules", b"git~1"]);
    let landed = land.landed(true).expect("the rest applies");
    assert_eq!(landed, tree(&[(b"a", file(b"b\n"))]));
}

/// Notes on a branch directory that `make` changed after it was filled with `after`.
fn notes(before: &Tree, after: &Tree, make: impl Fn(&Path)) -> Vec<(String, String)> {
    let land = Land::new(before, after);
    make(&land.branch_dir());
    let (set, scope) = (land.changes(), land.scope());
    let plan = Plan::new(&set, &scope, land::me(), true);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    plan.notes
        .iter()
        .map(|note| (text(&note.path), note.what.clone()))
        .collect()
}

#[test]
fn what_a_patch_cannot_carry_is_said() {
    let before = tree(&[
        (b"a", file(b"a\n")),
        (b"dir/x", file(b"x\n")),
        (b"same", file(b"s\n")),
    ]);
    let after = tree(&[(b"a", file(b"b\n")), (b"same", file(b"s\n"))]);
    let notes = notes(&before, &after, |dir| {
        let chmod = |name: &str, mode| {
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        chmod("a", 0o600);
        chmod("same", 0o640);
        fs::create_dir(dir.join("dir")).unwrap();
        fs::create_dir_all(dir.join("hollow/er")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("pipe"), 0o644.into()).unwrap();
        symlink("a", dir.join("link")).unwrap();
        fs::write(dir.join("twin"), "twin\n").unwrap();
        fs::hard_link(dir.join("twin"), dir.join("twin2")).unwrap();
    });
    let expected = [
        ("a", "mode 0600 (git apply gives it 0644)"),
        ("dir", "a directory that the branch emptied and keeps"),
        ("hollow/er", "a new empty directory"),
        ("pipe", "new FIFO"),
        ("same", "mode 0640 (the host has 0644)"),
        ("twin", "that it is one file with 2 names"),
        ("twin2", "that it is one file with 2 names"),
    ];
    assert_eq!(
        notes,
        expected.map(|(path, what)| (path.to_owned(), what.to_owned()))
    );
}

#[test]
fn an_empty_plan_and_an_outside_change_are_told_apart() {
    let land = Land::new(
        &tree(&[]),
        &tree(&[(b"in/a", file(b"x")), (b"out/b", file(b"x"))]),
    );
    let set: ChangeSet = land.changes();
    let mut scope = land.scope();
    scope.only.push([&scope.top[..], b"/in"].concat());
    let who = Applier {
        umask: 0o022,
        ..land::me()
    };
    let plan = Plan::new(&set, &scope, who, true);
    let shown: Vec<_> = plan
        .items
        .iter()
        .map(|item| (&item.path[..], item.status))
        .collect();
    assert_eq!(shown, [(&b"in/a"[..], Status::Added)]);
    assert_eq!(plan.outside, 1);
    let nowhere = Plan::new(&set, &Scope::below(b"/nowhere"), who, true);
    assert!(nowhere.items.is_empty() && nowhere.notes.is_empty());
    assert_eq!(nowhere.outside, 2);
}

const NAMES: [&[u8]; 14] = [
    b"a", b"a/b", b"a/b/c", b"a b", b"d/x", b"d/y", b"d", b"tab\t", b"nl\n", b"\xff", b"q\"",
    b"e/e/e", b"e", b"z z/z z",
];

const LINES: [&[u8]; 10] = [
    b"one\n",
    b"two\n",
    b"three\r\n",
    b"\n",
    b"-- \n",
    b"+x\n",
    b" \n",
    b"\xe9\n",
    b"@@ -1 +1 @@\n",
    b"}\n",
];

fn contents() -> impl Strategy<Value = Vec<u8>> {
    let lines = proptest::collection::vec(0..LINES.len(), 0..30);
    let tail = prop_oneof![4 => Just(&b""[..]), 1 => Just(&b"end"[..]), 1 => Just(&b"a\0b"[..])];
    (lines, tail).prop_map(|(lines, tail)| {
        let mut bytes: Vec<u8> = lines
            .into_iter()
            .flat_map(|at| LINES[at])
            .copied()
            .collect();
        bytes.extend_from_slice(tail);
        bytes
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        6 => (contents(), any::<bool>()).prop_map(|(bytes, exec)| Entry::File { bytes, exec }),
        // None of them the name of an entry: git apply refuses a link that leads to itself.
        1 => prop_oneof![Just("nowhere"), Just("../x"), Just("no\nend")]
            .prop_map(|target| Entry::Link(target.into())),
    ]
}

#[derive(Clone, Debug)]
enum Edit {
    Put(usize, Entry),
    Remove(usize),
    Move(usize, usize),
    Splice(usize, usize, Vec<u8>),
    Flip(usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = 0..NAMES.len();
    prop_oneof![
        (at.clone(), entry()).prop_map(|(at, entry)| Edit::Put(at, entry)),
        at.clone().prop_map(Edit::Remove),
        (at.clone(), at.clone()).prop_map(|(from, to)| Edit::Move(from, to)),
        (at.clone(), 0..40_usize, contents()).prop_map(|(at, n, new)| Edit::Splice(at, n, new)),
        at.prop_map(Edit::Flip),
    ]
}

/// Removes what is at, below or above a path.
fn clear(tree: &mut Tree, path: &[u8]) {
    let below = |a: &[u8], b: &[u8]| {
        a.strip_prefix(b)
            .is_some_and(|r| r.is_empty() || r[0] == b'/')
    };
    tree.retain(|other, _| !below(other, path) && !below(path, other));
}

fn change(tree: &mut Tree, edit: &Edit) {
    match edit {
        Edit::Put(at, entry) => {
            clear(tree, NAMES[*at]);
            tree.insert(NAMES[*at].to_vec(), entry.clone());
        }
        Edit::Remove(at) => clear(tree, NAMES[*at]),
        Edit::Move(from, to) => {
            if let Some(entry) = tree.remove(NAMES[*from]) {
                clear(tree, NAMES[*to]);
                tree.insert(NAMES[*to].to_vec(), entry);
            }
        }
        Edit::Splice(at, n, new) => {
            if let Some(Entry::File { bytes, .. }) = tree.get_mut(NAMES[*at]) {
                let at = (*n * 3).min(bytes.len());
                let end = (at + n).min(bytes.len());
                bytes.splice(at..end, new.iter().copied());
            }
        }
        Edit::Flip(at) => {
            if let Some(Entry::File { exec, .. }) = tree.get_mut(NAMES[*at]) {
                *exec = !*exec;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_tree_lands_on_any_other(
        first in proptest::collection::vec((0..NAMES.len(), entry()), 0..12),
        edits in proptest::collection::vec(edit(), 1..12),
        in_repository in any::<bool>(),
    ) {
        let mut before = Tree::new();
        for (at, entry) in first {
            change(&mut before, &Edit::Put(at, entry));
        }
        let mut after = before.clone();
        for edit in &edits {
            change(&mut after, edit);
        }
        Land::new(&before, &after).check(in_repository);
    }
}

#[test]
fn moved_contents_are_found_by_origin_only() {
    // Two files with the same bytes: which one moved is a matter of record, not of looks.
    let land = Land::new(
        &tree(&[(b"a", file(b"x\n"))]),
        &tree(&[(b"b", file(b"x\n"))]),
    );
    let mut set = land.changes();
    let is_b = |change: &&mut Change| change.path.ends_with(b"/b");
    let b = set.changes.iter_mut().find(is_b).unwrap();
    b.after.as_mut().unwrap().source = Source::Base(b"/branch/b".as_slice().into());
    let plan = Plan::new(&set, &land.scope(), land::me(), true);
    assert!(plan.items.iter().all(|item| item.status != Status::Renamed));
    assert_eq!(plan.items.len(), 2);
}

#[test]
fn what_the_host_changed_since_is_held_back() {
    let before = tree(&[
        (b"edit", file(b"1\n")),
        (b"gone", file(b"2\n")),
        (b"moved", file(b"3\n")),
    ]);
    let after = tree(&[
        (b"edit", file(b"1!\n")),
        (b"new", file(b"4\n")),
        (b"to", file(b"3\n")),
    ]);
    let land = Land::new(&before, &after);
    let mut set = land.changes();
    for change in &mut set.changes {
        change.host_changed = true;
    }
    let plan = Plan::new(&set, &land.scope(), land::me(), true);
    let shown: Vec<_> = (plan.items.iter())
        .map(|item| (&item.path[..], item.in_patch, item.held_back.is_some()))
        .collect();
    let expected: [(&[u8], _, _); 4] = [
        (b"edit", false, true),
        (b"gone", false, true),
        (b"new", false, true),
        (b"to", true, false),
    ];
    assert_eq!(shown, expected);
    let json = super::json::diff(None, "b", b"/host", &plan, &set);
    assert_eq!(json["changes"][0]["host_changed"], true);
    assert_eq!(json["changes"][0]["in_patch"], false);
    let who = Applier {
        overwrite: true,
        ..land::me()
    };
    let plan = Plan::new(&set, &land.scope(), who, true);
    assert!(
        plan.items
            .iter()
            .all(|item| item.in_patch && item.held_back.is_none())
    );
}
