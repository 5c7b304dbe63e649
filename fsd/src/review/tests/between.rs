//! Two branches in memory against each other: what sets them apart is what their plain views do.

use super::super::between;
use super::*;
use crate::backstore::{Hidden, Records};

/// The changes from one to the other, as both show them now.
fn apart(from: &Model, to: &Model, hidden: &[&str]) -> (Base, ChangeSet) {
    let hidden = hidden.iter().map(Hidden::whole).collect();
    let base = Base::new(&from.root, &[]).unwrap().without(hidden);
    let tops = [b"/".to_vec()];
    let of = |model: &Model| changes(model, &base, Effort::Exact, &tops).unwrap();
    let contents = ContentReader::new(&base, to).and(from);
    let set = between(&of(from), &of(to), &base, contents);
    (base, set)
}

#[track_caller]
fn check_apart(from: &Model, to: &Model) {
    let (base, set) = apart(from, to, &[]);
    assert!(set.problems.is_empty(), "{:?}", set.problems);
    let reader = ContentReader::new(&base, to).and(from as &dyn Records);
    let side = |node: &Option<Node>| node.as_ref().map(|node| seen(&reader, node));
    let found: Plain = (set.changes.iter())
        .map(|c| (c.path.clone(), (side(&c.before), side(&c.after))))
        .collect();
    let (before, after) = (from.view(), to.view());
    assert_eq!(found, differences(&before, &after));
    assert!(set.changes.is_sorted_by(|a, b| a.path < b.path));
    let is_dir = |tree: &Tree, path: &[u8]| tree.get(path).is_some_and(|s| s.kind == Kind::Dir);
    let has_names = |tree: &Tree, path: &[u8]| {
        let mut below = tree.keys();
        below.any(|other| other != path && super::super::is_at_or_below(other, path))
    };
    let emptied = before.keys().filter(|path| {
        is_dir(&before, path)
            && is_dir(&after, path)
            && has_names(&before, path)
            && !has_names(&after, path)
    });
    assert_eq!(set.emptied, emptied.cloned().collect::<Vec<_>>());
}

/// A branch with some changes, and one made from it.
fn pair(dir: &Path) -> (Model, Model) {
    let mut from = Model::new(dir);
    from.write(b"/a/two", b"same on both\n");
    from.overwrite(b"/b/big", 7, b"seven");
    from.mkdir(b"/made");
    from.write(b"/made/in", b"in\n");
    from.rename(b"/a/deep", b"/moved");
    let to = from.branch(1000);
    (from, to)
}

#[test]
fn what_both_share_is_no_change() {
    let dir = base();
    let (from, to) = pair(dir.path());
    let set = apart(&from, &to, &[]).1;
    assert_eq!((set.changes, set.emptied), (vec![], vec![]));
}

#[test]
fn each_way_shows_what_the_other_has() {
    let dir = base();
    let (from, mut to) = pair(dir.path());
    to.remove(b"/made/in");
    to.write(b"/a/two", b"other\n");
    to.overwrite(b"/top", 1, b"x");
    to.rename(b"/moved/er", b"/er");
    check_apart(&from, &to);
    check_apart(&to, &from);
    let set = apart(&from, &to, &[]).1;
    let expected = [
        "/a/two",
        "/er",
        "/er/four",
        "/made/in",
        "/moved/er",
        "/moved/er/four",
        "/top",
    ];
    assert_eq!(paths(&set), expected);
    assert_eq!(
        set.emptied,
        [b"/made"],
        "neither the base nor the other has it empty"
    );
}

#[test]
fn equal_changes_of_strangers_are_none() {
    let dir = base();
    let (mut one, mut other) = (Model::new(dir.path()), Model::new(dir.path()).branch(1000));
    for model in [&mut one, &mut other] {
        model.write(b"/a/one", b"1\n");
        model.overwrite(b"/b/big", 4000, b"tail");
        model.remove(b"/a/deep");
    }
    assert_eq!(apart(&one, &other, &[]).1.changes, []);
    // The same bytes by another way, and one that differs.
    other.write(b"/new", b"new\n");
    let mut big = "0123456789".repeat(500).into_bytes();
    big[4000..4004].copy_from_slice(b"tail");
    one.remove(b"/b/big");
    one.write(b"/b/big", &big);
    assert_eq!(paths(&apart(&one, &other, &[]).1), ["/new"]);
    check_apart(&one, &other);
    check_apart(&other, &one);
}

#[test]
fn what_was_hidden_from_either_stays_apart() {
    let dir = base();
    let (from, mut to) = pair(dir.path());
    to.write(b"/b/big", b"secret\n");
    to.write(b"/top", b"changed\n");
    to.rename(b"/a/one", b"/b/there");
    let set = apart(&from, &to, &["/b"]).1;
    assert_eq!(paths(&set), ["/a/one", "/top"]);
    let hidden: Vec<_> = set.hidden.iter().map(|c| c.path.clone()).collect();
    assert_eq!(hidden, [b"/b/big".to_vec(), b"/b/there".to_vec()]);
    assert_eq!(apart(&to, &to.branch(2000), &["/b"]).1.hidden, []);
}

#[test]
fn the_host_is_marked_where_only_one_of_them_has_a_word() {
    let dir = base();
    let (mut from, mut to) = pair(dir.path());
    from.write(b"/top", b"mine\n");
    to.write(b"/a/one", b"mine\n");
    for model in [&mut from, &mut to] {
        model.write(b"/b/big", b"ours\n");
    }
    to.write(b"/b/big", b"and more\n");
    next_tick(dir.path());
    for name in ["top", "a/one", "b/big"] {
        fs::write(dir.path().join(name), "the host's\n").unwrap();
    }
    let set = apart(&from, &to, &[]).1;
    let marked = |path: &str| {
        let found = set.changes.iter().find(|c| c.path == path.as_bytes());
        found.unwrap().host_changed
    };
    assert!(marked("/top") && marked("/a/one") && marked("/b/one-too") && !marked("/b/big"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_two_points_are_told_apart_exactly(
        shared in proptest::collection::vec(op(), 0..10),
        one in proptest::collection::vec(op(), 0..10),
        other in proptest::collection::vec(op(), 0..10),
    ) {
        let dir = base();
        let mut from = Model::new(dir.path());
        for op in &shared {
            apply(&mut from, op);
        }
        let mut to = from.branch(1000);
        for op in &one {
            apply(&mut from, op);
        }
        for op in &other {
            apply(&mut to, op);
        }
        check_apart(&from, &to);
        check_apart(&to, &from);
    }
}
