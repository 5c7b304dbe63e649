//! Reviews of a branch in memory against what the branch and the base plainly show.

mod between;
mod core;
mod model;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use model::{Model, Seen, Tree, base_tree};
use proptest::prelude::*;
use tempfile::TempDir;

use super::{Base, ChangeSet, ContentReader, Effort, Node, Source, Stray, changes, join};
use crate::core::types::Kind;

/// A base with a bit of everything.
fn base() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for sub in ["a", "a/deep", "a/deep/er", "b", "empty"] {
        fs::create_dir(at(sub)).unwrap();
    }
    for (name, bytes) in [
        ("a/one", "one\n"),
        ("a/two", "two\n"),
        ("a/deep/three", "three\n"),
        ("a/deep/er/four", "four\n"),
        ("b/big", &"0123456789".repeat(500)),
        ("top", "top\n"),
    ] {
        fs::write(at(name), bytes).unwrap();
    }
    fs::set_permissions(at("a/two"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../top", at("b/link")).unwrap();
    fs::hard_link(at("a/one"), at("b/one-too")).unwrap();
    dir
}

fn review(model: &Model, effort: Effort) -> (Base, ChangeSet) {
    let base = Base::new(&model.root, &[]).unwrap();
    // A bounded review only counts.
    let tops = match effort {
        Effort::Exact => vec![b"/".to_vec()],
        Effort::Bounded { .. } => vec![],
    };
    let set = changes(model, &base, effort, &tops).unwrap();
    (base, set)
}

/// The changes, with links looked for below `tops` only.
fn searched(model: &Model, tops: &[&str]) -> ChangeSet {
    let base = Base::new(&model.root, &[]).unwrap();
    let tops: Vec<_> = tops.iter().map(|top| top.as_bytes().to_vec()).collect();
    changes(model, &base, Effort::Exact, &tops).unwrap()
}

fn seen(reader: &ContentReader<'_>, node: &Node) -> Seen {
    let bytes = reader.open(node).unwrap().read_all().unwrap();
    Seen {
        kind: node.kind,
        perm: node.perm,
        bytes,
    }
}

/// Path by path: what was there, what is there.
type Plain = BTreeMap<Vec<u8>, (Option<Seen>, Option<Seen>)>;

fn found(model: &Model) -> (Plain, ChangeSet) {
    let (base, set) = review(model, Effort::Exact);
    assert!(set.problems.is_empty(), "{:?}", set.problems);
    let reader = ContentReader::new(&base, model);
    let side = |node: &Option<Node>| node.as_ref().map(|node| seen(&reader, node));
    let plain = set
        .changes
        .iter()
        .map(|c| (c.path.clone(), (side(&c.before), side(&c.after))))
        .collect();
    (plain, set)
}

fn expected(model: &Model) -> Plain {
    let mut before = Tree::new();
    base_tree(&model.root, b"/", b"/", &mut before);
    differences(&before, &model.view())
}

fn differences(before: &Tree, after: &Tree) -> Plain {
    let mut plain = Plain::new();
    for path in before.keys().chain(after.keys()) {
        let sides = (before.get(path).cloned(), after.get(path).cloned());
        let same = match &sides {
            (Some(old), Some(new)) if old.kind == Kind::Symlink => {
                (old.kind, &old.bytes) == (new.kind, &new.bytes)
            }
            (old, new) => old == new,
        };
        if !same {
            plain.insert(path.clone(), sides);
        }
    }
    plain
}

fn check(model: &Model) {
    let (found, set) = found(model);
    let expected = expected(model);
    assert_eq!(set.strays, [], "names not found");
    assert!(set.changes.iter().all(|c| c.unlisted_links == 0), "{set:?}");
    assert_eq!(found, expected);
}

fn paths(set: &ChangeSet) -> Vec<&str> {
    set.changes
        .iter()
        .map(|c| std::str::from_utf8(&c.path).unwrap())
        .collect()
}

#[test]
fn an_untouched_branch_and_one_that_only_looked_have_no_changes() {
    let dir = base();
    let mut model = Model::new(dir.path());
    assert_eq!(review(&model, Effort::Exact).1.changes, []);
    // Pins all ancestors, and then sets what was there before.
    model.chmod(b"/a/deep/er/four", 0o644);
    assert_eq!(review(&model, Effort::Exact).1.changes, []);
}

#[test]
fn files_rewritten_with_the_same_bytes_are_no_change() {
    let dir = base();
    let mut model = Model::new(dir.path());
    model.write(b"/a/deep/three", b"three\n");
    model.overwrite(b"/b/big", 10, b"0123");
    assert_eq!(review(&model, Effort::Exact).1.changes, []);
    // The same tree made anew.
    model.remove(b"/a/deep");
    model.mkdir(b"/a/deep");
    model.mkdir(b"/a/deep/er");
    model.write(b"/a/deep/three", b"three\n");
    model.write(b"/a/deep/er/four", b"four\n");
    assert_eq!(review(&model, Effort::Exact).1.changes, []);
}

#[test]
fn a_removed_directory_lists_its_files_as_deleted() {
    let dir = base();
    let mut model = Model::new(dir.path());
    model.remove(b"/a/deep");
    let set = review(&model, Effort::Exact).1;
    assert_eq!(
        paths(&set),
        ["/a/deep", "/a/deep/er", "/a/deep/er/four", "/a/deep/three"]
    );
    assert!(set.changes.iter().all(|c| c.after.is_none()));
}

#[test]
fn a_moved_directory_is_gone_there_and_new_here() {
    let dir = base();
    let mut model = Model::new(dir.path());
    model.rename(b"/a", b"/b/moved");
    model.write(b"/b/moved/deep/three", b"changed\n");
    let (_, set) = found(&model);
    check(&model);
    let three = set
        .changes
        .iter()
        .find(|c| c.path == b"/b/moved/deep/three")
        .unwrap();
    assert!(matches!(
        three.after.as_ref().unwrap().source,
        Source::Object(_)
    ));
    let four = set
        .changes
        .iter()
        .find(|c| c.path == b"/b/moved/deep/er/four")
        .unwrap();
    let origin = b"/a/deep/er/four".as_slice();
    assert_eq!(
        four.after.as_ref().unwrap().source,
        Source::Base(origin.into())
    );
    // And back again.
    model.rename(b"/b/moved", b"/a");
    assert_eq!(paths(&review(&model, Effort::Exact).1), ["/a/deep/three"]);
}

#[test]
fn type_changes_show_both_sides() {
    let dir = base();
    let mut model = Model::new(dir.path());
    model.remove(b"/top");
    model.symlink(b"/top", b"a/one");
    model.remove(b"/a/deep");
    model.write(b"/a/deep", b"a file\n");
    model.remove(b"/a/two");
    model.mkdir(b"/a/two");
    model.write(b"/a/two/inside", b"x");
    model.remove(b"/b/link");
    model.fifo(b"/b/link");
    check(&model);
    let set = review(&model, Effort::Exact).1;
    let mixed = set.changes.iter().filter(|c| c.is_type_change()).count();
    assert_eq!(mixed, 4);
}

#[test]
fn an_emptied_directory_is_named() {
    let dir = base();
    let mut model = Model::new(dir.path());
    model.remove(b"/a/deep/er/four");
    model.remove(b"/b/big");
    let set = review(&model, Effort::Exact).1;
    assert_eq!(set.emptied, [b"/a/deep/er"]);
}

#[test]
fn what_the_host_has_lost_meanwhile_is_no_deletion() {
    let dir = base();
    let mut model = Model::new(dir.path());
    model.remove(b"/a/two");
    model.remove(b"/a/deep");
    fs::remove_file(dir.path().join("a/two")).unwrap();
    fs::remove_dir_all(dir.path().join("a/deep")).unwrap();
    assert_eq!(review(&model, Effort::Exact).1.changes, []);
}

#[test]
fn what_the_host_took_away_from_a_moved_directory_is_no_deletion() {
    let dir = base();
    let mut model = Model::new(dir.path());
    model.rename(b"/a", b"/moved");
    model.rename(b"/top", b"/bottom");
    model.chmod(b"/b/big", 0o600);
    model.write(b"/moved/new", b"new\n");
    // As if the branch had been landed.
    fs::rename(dir.path().join("a"), dir.path().join("moved")).unwrap();
    fs::rename(dir.path().join("top"), dir.path().join("bottom")).unwrap();
    fs::remove_file(dir.path().join("b/big")).unwrap();
    let set = review(&model, Effort::Exact).1;
    assert_eq!(paths(&set), ["/moved/new"]);
    // What was moved alike is found at its place.
    assert!(set.problems.is_empty(), "{:?}", set.problems);
    // Moved elsewhere, it is lost to the branch, and said to be.
    fs::rename(dir.path().join("moved"), dir.path().join("elsewhere")).unwrap();
    fs::remove_file(dir.path().join("bottom")).unwrap();
    let set = review(&model, Effort::Exact).1;
    let told: Vec<_> = set
        .problems
        .iter()
        .map(|p| p.path.escape_ascii().to_string())
        .collect();
    assert_eq!(told, ["/bottom", "/moved"], "{:?}", set.problems);
}

#[test]
fn a_mode_that_the_host_changed_since_is_marked() {
    let dir = base();
    let mut model = Model::new(dir.path());
    model.chmod(b"/a/one", 0o600);
    model.write(b"/top", b"changed\n");
    model.chmod(b"/b/big", 0o600);
    let marked = |model: &Model| -> Vec<(String, bool)> {
        let set = review(model, Effort::Exact).1;
        let mark = |c: &super::Change| (c.path.escape_ascii().to_string(), c.host_changed);
        set.changes.iter().map(mark).collect()
    };
    let named = |marks: [(&str, bool); 4]| marks.map(|(path, mark)| (path.to_owned(), mark));
    let names = [
        ("/a/one", false),
        ("/b/big", false),
        ("/b/one-too", false),
        ("/top", false),
    ];
    assert_eq!(marked(&model), named(names));
    for name in ["a/one", "top"] {
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path().join(name), mode).unwrap();
    }
    let names = [
        ("/a/one", true),
        ("/b/big", false),
        ("/b/one-too", true),
        ("/top", true),
    ];
    assert_eq!(marked(&model), named(names));
}

#[test]
fn what_the_host_replaces_goes_by_its_name() {
    let dir = base();
    let at = |name: &str| dir.path().join(name);
    let mut model = Model::new(dir.path());
    model.chmod(b"/a/one", 0o700);
    model.rename(b"/a/deep", b"/b/deep");
    model.rename(b"/top", b"/a/top");
    // Landed by a tool that writes all of it anew.
    fs::write(at("new"), b"one\n").unwrap();
    fs::set_permissions(at("new"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::rename(at("new"), at("a/one")).unwrap();
    copy(&at("a/deep"), &at("b/deep"));
    fs::remove_dir_all(at("a/deep")).unwrap();
    fs::copy(at("top"), at("a/top")).unwrap();
    fs::remove_file(at("top")).unwrap();
    let set = review(&model, Effort::Exact).1;
    assert!(set.problems.is_empty(), "{:?}", set.problems);
    assert_eq!(paths(&set), Vec::<&str>::new(), "{set:?}");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (
            entry.as_ref().unwrap().path(),
            to.join(entry.unwrap().file_name()),
        );
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

#[test]
fn links_that_no_one_wrote_to_are_found_where_they_are_looked_for() {
    let dir = base();
    let mut model = Model::new(dir.path());
    model.write(b"/a/one", b"changed\n");
    for tops in [&["/"][..], &["/b"], &["/b/one-too"], &["/a", "/b", "/b"]] {
        let set = searched(&model, tops);
        assert_eq!(paths(&set), ["/a/one", "/b/one-too"], "{tops:?}");
        assert!(set.changes.iter().all(|c| c.unlisted_links == 0));
        assert!(set.changes.iter().all(|c| c.difference.content));
    }
    for tops in [&[][..], &["/a"], &["/b/link"], &["/nowhere"]] {
        let set = searched(&model, tops);
        assert_eq!(paths(&set), ["/a/one"], "{tops:?}");
        assert_eq!(set.changes[0].unlisted_links, 1);
    }
    // Under a moved directory all names are looked at, so it is found there.
    model.rename(b"/b", b"/c");
    let set = searched(&model, &[]);
    assert!(set.changes.iter().all(|c| c.unlisted_links == 0));
    check(&model);
}

#[test]
fn links_are_found_in_a_directory_that_came_back_to_its_place() {
    let dir = base();
    let at = |name| dir.path().join(name);
    fs::hard_link(at("a/two"), at("a/deep/two-too")).unwrap();
    let mut model = Model::new(dir.path());
    model.rename(b"/a/deep", b"/kept");
    model.remove(b"/a");
    model.mkdir(b"/a");
    model.rename(b"/kept", b"/a/deep");
    // Its other name went with /a: the record is made through this one.
    model.chmod(b"/a/deep/two-too", 0o700);
    check(&model);
    let mut model = Model::new(dir.path());
    model.rename(b"/a/deep", b"/kept");
    model.write(b"/a/two", b"changed\n");
    model.rename(b"/a/two", b"/two");
    model.remove(b"/a");
    model.mkdir(b"/a");
    model.rename(b"/kept", b"/a/deep");
    check(&model);
}

#[test]
fn links_that_outlive_the_name_written_to_are_found_or_told() {
    let dir = base();
    let mut model = Model::new(dir.path());
    model.write(b"/b/one-too", b"changed\n");
    model.remove(b"/b/one-too");
    let set = searched(&model, &["/b"]);
    assert_eq!(paths(&set), ["/b/one-too"]);
    assert_eq!(
        set.strays,
        [Stray {
            path: b"/b/one-too".to_vec(),
            links: 1
        }]
    );
    let set = searched(&model, &["/a"]);
    assert_eq!(paths(&set), ["/a/one", "/b/one-too"]);
    assert_eq!(set.strays, []);
    check(&model);
}

#[test]
fn a_symlink_on_the_way_hides_the_base() {
    let dir = base();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let mut model = Model::new(dir.path());
    model.rename(b"/a", b"/moved");
    fs::remove_dir_all(dir.path().join("a")).unwrap();
    symlink(outside.path(), dir.path().join("a")).unwrap();
    let (base, set) = review(&model, Effort::Exact);
    assert_eq!(paths(&set), ["/a", "/moved"], "{set:?}");
    assert_eq!(set.problems.len(), 1);
    assert!(base.file(b"/a/secret").is_err());
    assert!(base.file(b"/a").is_err());
    assert!(base.dir(b"/a").unwrap().is_none());
}

#[test]
fn nothing_hangs_on_a_fifo_and_nothing_hidden_is_seen() {
    let dir = base();
    let model = Model::new(dir.path());
    let fifo = dir.path().join("b/fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
    let base = Base::new(&model.root, &["/a/deep".into()]).unwrap();
    let error = base.file(b"/b/fifo").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(base.dir(b"/a/deep/er").unwrap().is_none());
    let mut model = model;
    model.remove(b"/a/deep");
    let set = changes(&model, &base, Effort::Exact, &[]).unwrap();
    assert_eq!(set.changes, []);
}

#[test]
fn a_bounded_review_says_when_it_is_incomplete() {
    let dir = base();
    let mut model = Model::new(dir.path());
    model.remove(b"/a");
    model.write(b"/top", b"top\n");
    let bounded = |compare_bytes, base_entries| {
        review(
            &model,
            Effort::Bounded {
                compare_bytes,
                base_entries,
            },
        )
        .1
    };
    let roomy = bounded(1000, 1000);
    assert!(roomy.complete);
    assert_eq!(roomy.changes, review(&model, Effort::Exact).1.changes);
    let tight = bounded(0, 2);
    assert!(!tight.complete);
    assert!(paths(&tight).contains(&"/top"));
}

#[test]
fn paths_longer_than_the_kernel_takes_are_reached() {
    let dir = tempfile::tempdir().unwrap();
    let part = "d".repeat(200);
    let mut at = rustix::fs::open(
        dir.path(),
        rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let mut path = b"/".to_vec();
    for _ in 0..30 {
        rustix::fs::mkdirat(&at, part.as_str(), 0o755.into()).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
        at = rustix::fs::openat(&at, part.as_str(), flags, rustix::fs::Mode::empty()).unwrap();
        path = join(&path, part.as_bytes());
    }
    let base = Base::new(dir.path(), &[]).unwrap();
    assert!(base.dir(&path).unwrap().is_some());
    assert!(base.dir(&join(&path, b"x")).unwrap().is_none());
}

#[derive(Clone, Debug)]
enum Op {
    Write(usize, u8),
    Overwrite(usize, u16, u8),
    Mkdir(usize),
    Symlink(usize, u8),
    Fifo(usize),
    Chmod(usize, u8),
    Link(usize, usize),
    Remove(usize),
    Rename(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..PATHS.len();
    prop_oneof![
        (at.clone(), any::<u8>()).prop_map(|(p, v)| Op::Write(p, v % 4)),
        (at.clone(), any::<u16>(), any::<u8>()).prop_map(|(p, o, v)| Op::Overwrite(p, o % 6000, v)),
        at.clone().prop_map(Op::Mkdir),
        (at.clone(), any::<u8>()).prop_map(|(p, v)| Op::Symlink(p, v % 3)),
        at.clone().prop_map(Op::Fifo),
        (at.clone(), any::<u8>()).prop_map(|(p, v)| Op::Chmod(p, v % 3)),
        (at.clone(), at.clone()).prop_map(|(a, b)| Op::Link(a, b)),
        at.clone().prop_map(Op::Remove),
        (at.clone(), at).prop_map(|(a, b)| Op::Rename(a, b)),
    ]
}

const PATHS: [&[u8]; 18] = [
    b"/a",
    b"/a/one",
    b"/a/two",
    b"/a/deep",
    b"/a/deep/three",
    b"/a/deep/er",
    b"/a/deep/er/four",
    b"/b",
    b"/b/big",
    b"/b/link",
    b"/b/one-too",
    b"/b/x",
    b"/b/x/y",
    b"/empty",
    b"/top",
    b"/new",
    b"/new/\xff\n",
    b"/a/deep/one",
];

fn apply(model: &mut Model, op: &Op) {
    let texts: [&[u8]; 4] = [b"", b"one\n", b"two\n", b"three\n"];
    match *op {
        Op::Write(p, v) => model.write(PATHS[p], texts[v as usize]),
        Op::Overwrite(p, at, v) => model.overwrite(PATHS[p], at.into(), &[b'0' + v % 10]),
        Op::Mkdir(p) => model.mkdir(PATHS[p]),
        Op::Symlink(p, v) => {
            model.symlink(PATHS[p], [&b"../top"[..], b"x", b"/etc"][v as usize]);
        }
        Op::Fifo(p) => model.fifo(PATHS[p]),
        Op::Chmod(p, v) => model.chmod(PATHS[p], [0o644, 0o755, 0o600][v as usize]),
        Op::Link(a, b) => model.link(PATHS[a], PATHS[b]),
        Op::Remove(p) => model.remove(PATHS[p]),
        Op::Rename(a, b) => model.rename(PATHS[a], PATHS[b]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_branch_is_told_exactly(ops in proptest::collection::vec(op(), 1..25)) {
        let dir = base();
        let mut model = Model::new(dir.path());
        for op in &ops {
            apply(&mut model, op);
        }
        check(&model);
    }
}

/// Returns when the file system that holds `dir` gives changes another time than all before: its
/// clock goes in steps, and what changes twice within one looks unchanged.
fn next_tick(dir: &Path) {
    use std::io::Write;
    use std::time::{Duration, Instant};
    let mut probe = tempfile::tempfile_in(dir).unwrap();
    let mut stamp = || {
        probe.write_all(b".").unwrap();
        let meta = probe.metadata().unwrap();
        (meta.ctime(), meta.ctime_nsec())
    };
    let (first, end) = (stamp(), Instant::now() + Duration::from_secs(30));
    while stamp() == first {
        assert!(Instant::now() < end, "the clock stands still");
    }
}

#[test]
fn what_the_host_changed_since_is_marked() {
    let dir = base();
    let at = |name: &str| dir.path().join(name);
    let mut model = Model::new(dir.path());
    for path in ["/a/one", "/a/two", "/a/deep/three", "/top", "/b/big"] {
        model.write(path.as_bytes(), b"branch\n");
    }
    for path in ["/new", "/both", "/a/deep/er/new"] {
        model.write(path.as_bytes(), b"made by the branch\n");
    }
    model.remove(b"/b/one-too");
    model.remove(b"/b/link");
    let marked = |model: &Model| -> Vec<String> {
        let set = review(model, Effort::Exact).1;
        let marked = set.changes.iter().filter(|c| c.host_changed);
        marked
            .map(|c| String::from_utf8(c.path.clone()).unwrap())
            .collect()
    };
    assert_eq!(marked(&model), [""; 0]);
    next_tick(dir.path());
    // Attributes alone are no contents.
    fs::set_permissions(at("a/two"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::hard_link(at("b/big"), at("b/big too")).unwrap();
    assert_eq!(marked(&model), [""; 0]);
    fs::write(at("a/one"), "host\n").unwrap();
    fs::remove_file(at("top")).unwrap();
    fs::write(at("both"), "made by the host\n").unwrap();
    fs::remove_file(at("b/link")).unwrap();
    symlink("elsewhere", at("b/link")).unwrap();
    fs::write(at("a/deep/three.new"), "three!\n").unwrap();
    fs::rename(at("a/deep/three.new"), at("a/deep/three")).unwrap();
    let expected = [
        "/a/deep/three",
        "/a/one",
        "/b/link",
        "/b/one-too",
        "/both",
        "/top",
    ];
    assert_eq!(marked(&model), expected);
}

#[test]
fn what_cannot_be_told_after_the_clock_was_set_back_counts_as_changed_by_the_host() {
    let dir = base();
    let mut model = Model::new(dir.path());
    model.write(b"/a/one", b"branch\n");
    model.write(b"/both", b"made by the branch\n");
    model.remove(b"/b/link");
    let marked = |model: &Model| {
        let set = review(model, Effort::Exact).1;
        let marked = set.changes.iter().filter(|c| c.host_changed);
        let paths: Vec<_> = marked
            .map(|c| String::from_utf8_lossy(&c.path).into_owned())
            .collect();
        (paths, set.clock_set_back)
    };
    assert_eq!(marked(&model), (vec![], false));
    // All of this was done a day ahead of what the clock says now.
    for record in model.inodes.values_mut() {
        let mut ahead = (**record).clone();
        ahead.ctime.sec += 86_400;
        ahead.btime.sec += 86_400;
        *record = std::sync::Arc::new(ahead);
    }
    next_tick(dir.path());
    fs::write(dir.path().join("both"), "made by the host\n").unwrap();
    fs::remove_file(dir.path().join("b/link")).unwrap();
    symlink("elsewhere", dir.path().join("b/link")).unwrap();
    // What has a record is known without a clock.
    let expected = ["/b/link", "/both"].map(str::to_owned).to_vec();
    assert_eq!(marked(&model), (expected, true));
}

#[test]
fn files_replaced_or_moved_on_the_branch_are_not_taken_for_changes_of_the_host() {
    let dir = base();
    let mut model = Model::new(dir.path());
    fs::write(dir.path().join("a/one"), "fresh\n").unwrap();
    next_tick(dir.path());
    model.write(b"/a/one.new", b"1\n");
    model.rename(b"/a/one.new", b"/a/one");
    model.rename(b"/b/big", b"/a/two");
    model.rename(b"/a/deep", b"/b/deep");
    let set = review(&model, Effort::Exact).1;
    assert!(set.changes.iter().all(|c| !c.host_changed), "{set:?}");
}
