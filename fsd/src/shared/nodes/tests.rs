//! The table by itself: who shares a node, and that every reference is given back.

use std::collections::HashSet;

use super::*;

impl Nodes {
    /// Takes one, whatever others know.
    fn taken(&mut self, view: View, place: &Place) -> Option<NodeId> {
        self.take(view, place, &mut Vec::new())
    }
}

const A: View = 0;
const B: View = 1;

fn table() -> Nodes {
    let mut nodes = Nodes::default();
    nodes.add_view(A, 11, Ino(100));
    nodes.add_view(B, 22, Ino(200));
    nodes
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn at(parent: NodeId, text: &str) -> Place {
    (parent, name(text))
}

#[test]
fn directories_share_a_node_and_files_do_not() {
    let mut nodes = table();
    let (dir, spare) = nodes.found(A, at(ROOT, "d"), Ino(5), Kind::Dir);
    assert_eq!((dir, spare), (5, None), "the inode's own number");
    assert_eq!(
        nodes.found(B, at(ROOT, "d"), Ino(9), Kind::Dir),
        (dir, None)
    );
    assert_eq!(nodes.get(A, dir), Some(Known::Dir(Ino(5))));
    assert_eq!(nodes.get(B, dir), Some(Known::Dir(Ino(9))));
    // Found again: the reference is one too many.
    let again = nodes.found(A, at(ROOT, "d"), Ino(5), Kind::Dir);
    assert_eq!(again, (dir, Some((A, Ino(5)))));
    // Another directory under the name: the old one's reference goes.
    let other = nodes.found(A, at(ROOT, "d"), Ino(6), Kind::Dir);
    assert_eq!(other, (dir, Some((A, Ino(5)))));

    let (of_a, _) = nodes.found(A, at(dir, "f"), Ino(7), Kind::File);
    let (of_b, _) = nodes.found(B, at(dir, "f"), Ino(7), Kind::File);
    assert_ne!(of_a, of_b);
    assert_eq!(nodes.get(B, of_a), Some(Known::File((A, Ino(7)))));
    let shown = nodes.shown(A, &at(dir, "f"), Ino(7), Kind::File);
    assert_eq!(shown, of_a);
    assert_eq!(nodes.shown(B, &at(dir, "x"), Ino(8), Kind::Dir), 8);
}

#[test]
fn numbers_of_files_are_the_same_on_the_next_mount_and_never_another_nodes() {
    let number = |view, ino| table().found(view, at(ROOT, "f"), Ino(ino), Kind::File).0;
    assert_eq!(number(A, 7), number(A, 7));
    let numbers: HashSet<NodeId> = (0..1000)
        .flat_map(|ino| [number(A, ino), number(B, ino)])
        .collect();
    assert_eq!(numbers.len(), 2000);
    assert!(numbers.iter().all(|id| id >> 62 == 1));
    // Unlike branches may use the same number for unlike directories.
    let mut nodes = table();
    let (one, _) = nodes.found(A, at(ROOT, "one"), Ino(1 << 61), Kind::Dir);
    let (two, _) = nodes.found(B, at(ROOT, "two"), Ino(1 << 61), Kind::Dir);
    assert!(one == 1 << 61 && two != one);
}

#[test]
fn a_directory_that_a_branch_was_not_asked_for_is_found_by_its_place() {
    let mut nodes = table();
    let (dir, _) = nodes.found(A, at(ROOT, "d"), Ino(5), Kind::Dir);
    let (sub, _) = nodes.found(A, at(dir, "s"), Ino(6), Kind::Dir);
    let way = vec![(dir, name("d")), (sub, name("s"))];
    assert_eq!(nodes.get(B, sub), Some(Known::Unseen(Ino(200), way)));
    assert_eq!(nodes.learn(B, dir, Ino(9)), None);
    let way = vec![(sub, name("s"))];
    assert_eq!(nodes.get(B, sub), Some(Known::Unseen(Ino(9), way)));
    assert_eq!(nodes.get(B, 12345), None);
}

#[test]
fn a_branch_removes_and_moves_directories_of_its_own_only() {
    let mut nodes = table();
    let place = at(ROOT, "d");
    let (dir, _) = nodes.found(A, place.clone(), Ino(5), Kind::Dir);
    assert_eq!(
        nodes.turn(A, &place, Ino(5)),
        Turn::Free,
        "nobody else knows it"
    );
    nodes.found(B, place.clone(), Ino(9), Kind::Dir);
    assert_eq!(nodes.turn(B, &place, Ino(9)), Turn::Shared);
    assert_eq!(nodes.split(B, &place, Ino(9)), []);
    assert_eq!(nodes.turn(B, &place, Ino(9)), Turn::Free);
    let (own, spare) = nodes.found(B, place.clone(), Ino(9), Kind::Dir);
    assert_eq!(
        nodes.file(own),
        Some(None),
        "a directory, though A has none there"
    );
    assert!(own != dir && spare == Some((B, Ino(9))));
    // The kernel sees that its entry leads elsewhere, forgets that, and looks it up anew.
    assert_eq!(nodes.forget(own, 1), []);
    assert_eq!(nodes.found(B, place.clone(), Ino(9), Kind::Dir).0, own);
    assert_eq!(nodes.found(A, place.clone(), Ino(5), Kind::Dir).0, dir);

    // Moved: A's stays, B's is where it was moved to, and what B makes in its place joins A's.
    assert_eq!(nodes.taken(B, &place), Some(own));
    nodes.put(own, at(ROOT, "e"));
    assert_eq!(nodes.found(B, at(ROOT, "e"), Ino(9), Kind::Dir).0, own);
    assert_eq!(
        nodes.get(B, dir),
        Some(Known::Dir(Ino(9))),
        "who works there"
    );
    assert_eq!(nodes.found(B, place.clone(), Ino(30), Kind::Dir).0, dir);
    assert_eq!(nodes.get(A, dir), Some(Known::Dir(Ino(5))));
    assert_eq!(
        nodes.get(A, own),
        Some(Known::Unseen(Ino(100), vec![(own, name("e"))]))
    );
    assert_eq!([nodes.file(own), nodes.file(12345)], [Some(None), None]);

    // Removed: the dead node never answers for what comes after it.
    assert_eq!(nodes.split(B, &place, Ino(30)), []);
    assert_eq!(
        nodes.turn(B, &place, Ino(31)),
        Turn::Shared,
        "another one by now"
    );
    let (dead, _) = nodes.found(B, place.clone(), Ino(30), Kind::Dir);
    assert_eq!(nodes.taken(B, &place), Some(dead));
    assert_eq!(nodes.removed(B, &place), Some((B, Ino(30))));
    let gone = nodes.get(B, dir);
    assert!(matches!(gone, Some(Known::Unseen(..))), "{gone:?}");
    assert_eq!(nodes.found(B, place, Ino(31), Kind::Dir).0, dir);
}

#[test]
fn what_was_moved_where_others_have_a_directory_joins_it_at_the_next_lookup() {
    let mut nodes = table();
    let (there, _) = nodes.found(A, at(ROOT, "e"), Ino(5), Kind::Dir);
    let (own, _) = nodes.found(B, at(ROOT, "d"), Ino(9), Kind::Dir);
    assert_eq!(nodes.taken(B, &at(ROOT, "d")), Some(own));
    nodes.put(own, at(ROOT, "e"));
    assert_eq!(nodes.found(B, at(ROOT, "e"), Ino(9), Kind::Dir).0, there);
    assert_eq!(
        nodes.get(B, own),
        Some(Known::Dir(Ino(9))),
        "who works there"
    );
}

#[test]
fn every_reference_is_given_back_once() {
    let mut nodes = table();
    let mut given: Vec<Held> = Vec::new();
    let mut back: Vec<Held> = Vec::new();
    let mut lookups: Vec<NodeId> = Vec::new();
    let mut find = |nodes: &mut Nodes, back: &mut Vec<Held>, view, place, ino, kind| {
        given.push((view, Ino(ino)));
        let (id, spare) = nodes.found(view, place, Ino(ino), kind);
        back.extend(spare);
        lookups.push(id);
        id
    };
    let dir = find(&mut nodes, &mut back, A, at(ROOT, "d"), 5, Kind::Dir);
    find(&mut nodes, &mut back, B, at(ROOT, "d"), 9, Kind::Dir);
    find(&mut nodes, &mut back, B, at(ROOT, "d"), 9, Kind::Dir);
    find(&mut nodes, &mut back, B, at(dir, "s"), 10, Kind::Dir);
    find(&mut nodes, &mut back, A, at(dir, "f"), 7, Kind::File);
    find(&mut nodes, &mut back, A, at(dir, "f"), 7, Kind::File);
    back.extend(nodes.split(B, &at(ROOT, "d"), Ino(9)));
    find(&mut nodes, &mut back, B, at(ROOT, "d"), 9, Kind::Dir);
    // The one that split took over; it is kept until it is moved or removed.
    given.push((B, Ino(9)));
    let mut dirs = Vec::new();
    let own = nodes.take_all(B, &[(at(ROOT, "d"), Ino(9))], &mut dirs);
    assert_eq!((own.map(|own| own.len()), dirs), (Some(1), vec![]));
    for id in lookups {
        back.extend(nodes.forget(id, 1));
    }
    given.sort();
    back.sort();
    assert_eq!(back, given);
    assert_eq!(nodes.all.len(), 1, "{nodes:?}");
    assert!(nodes.places.is_empty() && nodes.files.is_empty());
    assert_eq!(nodes.forget(ROOT, 1000), []);
}

#[test]
fn what_was_split_is_found_though_the_kernel_forgets_all_of_it_first() {
    let mut nodes = table();
    let place = at(ROOT, "d");
    let (dir, _) = nodes.found(A, place.clone(), Ino(5), Kind::Dir);
    nodes.found(B, place.clone(), Ino(9), Kind::Dir);
    let both = [(place.clone(), Ino(9))];
    let mut spare = Vec::new();
    assert_eq!(nodes.take_all(B, &both, &mut spare), None, "A knows it");
    nodes.split(B, &place, Ino(9));
    let (own, _) = nodes.found(B, place.clone(), Ino(9), Kind::Dir);
    assert_eq!(nodes.forget(own, 1), []);
    assert_eq!(nodes.forget(dir, 2), []);
    assert_eq!(nodes.found(B, place.clone(), Ino(9), Kind::Dir).0, own);
    // Now that it is taken, nobody needs the other one.
    assert_eq!(nodes.take_all(B, &both, &mut spare), Some(vec![Some(own)]));
    assert_eq!(spare, [(A, Ino(5)), (B, Ino(9))]);
    assert_eq!(nodes.get(A, dir), None);
}
