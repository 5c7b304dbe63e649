//! What a repair cannot save: the host's state shows in its place, nothing looks deleted, and the
//! branch says what it lost.

use std::collections::HashMap;

use super::*;

const PINNED: Ino = Ino(1 << 48 | 20);
const BELOW: Ino = Ino(1 << 48 | 21);
const KEPT: Ino = Ino(1 << 48 | 22);

/// A host of one device, by path.
#[derive(Default)]
struct Fake(HashMap<&'static str, HostObject>);

impl Fake {
    fn with(mut self, path: &'static str, kind: Kind, ino: u64) -> Self {
        let record = of_host(path, kind, ino);
        let device = 77;
        self.0.insert(path, HostObject { record, device });
        self
    }
}

impl Host for Fake {
    fn look(&self, path: &[u8]) -> Option<HostObject> {
        self.0.get(std::str::from_utf8(path).unwrap()).cloned()
    }

    fn numbers(&self, index: u16, object: &HostObject) -> [Ino; 2] {
        let ino = object.record.origin.as_ref().unwrap().fingerprint.ino;
        [Ino(u64::from(index) << 48 | ino), Ino(1 << 60 | ino)]
    }
}

fn of_host(path: &str, kind: Kind, ino: u64) -> InodeRec {
    let mut origin = base_of(
        ObjectId {
            layer: crate::core::record::LayerId(1),
            number: 1,
        },
        0,
        0,
    )
    .origin
    .unwrap();
    origin.path = Arc::from(path.as_bytes());
    origin.fingerprint.ino = ino;
    InodeRec {
        perm: 0o751,
        origin: Some(origin),
        content: match kind {
            Kind::File => Content::Base,
            _ => Content::Empty,
        },
        ..rec(kind, 2, 3)
    }
}

/// Branch `a` with `/pin/below/kept`, two directories of the host and a file of it that it changed;
/// then `deltas`, in `a` or (`frozen`) below a branch `child` of it.
fn pinned(frozen: bool, deltas: Vec<Delta>) -> (MemMedia, Store, BranchName) {
    let mem = MemMedia::new();
    let store = store_on(&mem);
    make(&store, "a", None);
    make(&store, "other", None);
    let mut live = store.open_live(&branch("a")).unwrap();
    let own = object(&mut live, b"own");
    let kept = InodeRec {
        content: Content::Object(own),
        ..of_host("/pin/below/kept", Kind::File, 22)
    };
    live.commit(vec![
        Delta::PutDevice { index: 1, dev: 77 },
        put(PINNED, of_host("/pin", Kind::Dir, 20)),
        entry(Ino::ROOT, "pin", PINNED, Kind::Dir),
        put(BELOW, of_host("/pin/below", Kind::Dir, 21)),
        entry(PINNED, "below", BELOW, Kind::Dir),
        put(KEPT, kept),
        entry(BELOW, "kept", KEPT, Kind::File),
    ])
    .unwrap();
    live.commit(deltas).unwrap();
    live.close().unwrap();
    if frozen {
        make(&store, "child", Some("a"));
    }
    (mem, store, branch(if frozen { "child" } else { "a" }))
}

fn host() -> Fake {
    Fake::default()
        .with("/pin", Kind::Dir, 20)
        .with("/pin/below", Kind::Dir, 21)
        .with("/pin/below/kept", Kind::File, 22)
}

#[track_caller]
fn mend(store: &Store, host: Option<&Fake>) -> Report {
    let host = host.map(|host| host as &dyn Host);
    let report = store.repair(&[], host, &mut |_, _, _| {}).unwrap();
    assert!(report.is_clean(), "{report:#?}");
    report
}

fn paths(store: &Store, name: &BranchName) -> Vec<String> {
    let losses = store.losses(name).unwrap().listed.into_iter();
    let paths = losses.map(|loss| String::from_utf8(loss.path.unwrap_or_default()).unwrap());
    paths.collect()
}

#[test]
fn a_pinned_directory_without_its_record_keeps_what_is_below() {
    for frozen in [false, true] {
        for with_host in [false, true] {
            let gone = vec![Delta::DelInode(PINNED), Delta::DelInode(BELOW)];
            let (_, store, name) = pinned(frozen, gone);
            let host = host();
            let report = mend(&store, with_host.then_some(&host));
            let reader = store.read(&name).unwrap();
            let (top, below) = (reader.inode(PINNED).unwrap(), reader.inode(BELOW).unwrap());
            for (rec, path) in [(top, "/pin"), (below, "/pin/below")] {
                let rec = rec.unwrap();
                assert_eq!(&*rec.origin.as_ref().unwrap().path, path.as_bytes());
                assert_eq!(rec.perm, if with_host { 0o751 } else { 0o700 });
            }
            let kept = reader.inode(KEPT).unwrap().unwrap();
            assert!(matches!(kept.content, Content::Object(_)), "{kept:?}");
            assert_eq!(paths(&store, &name), ["/pin", "/pin/below"], "{report:#?}");
            assert!(report.lost.iter().all(|(_, loss)| loss.remade));
        }
    }
}

#[test]
fn a_directory_of_the_host_without_its_name_gets_it_again() {
    let gone = vec![
        Delta::DelDentry(Ino::ROOT, name("pin")),
        Delta::DelDentry(PINNED, name("below")),
    ];
    let (_, store, branch) = pinned(false, gone);
    mend(&store, None);
    let reader = store.read(&branch).unwrap();
    let word = |dir, text| reader.dentry(dir, &name(text)).unwrap();
    let dir = |ino| {
        Some(Dentry::Present {
            ino,
            kind: Kind::Dir,
        })
    };
    assert_eq!(word(Ino::ROOT, "pin"), dir(PINNED));
    assert_eq!(word(PINNED, "below"), dir(BELOW));
    assert!(matches!(word(BELOW, "kept"), Some(Dentry::Present { .. })));
}

#[test]
fn a_file_without_its_record_shows_what_the_host_has() {
    for frozen in [false, true] {
        let (_, store, branch) = pinned(frozen, vec![Delta::DelInode(KEPT)]);
        mend(&store, Some(&host()));
        let reader = store.read(&branch).unwrap();
        let word = reader.dentry(BELOW, &name("kept")).unwrap();
        match frozen {
            false => assert_eq!(word, None),
            true => {
                let kind = Kind::File;
                assert_eq!(word, Some(Dentry::Present { ino: KEPT, kind }));
                assert_eq!(reader.inode(KEPT).unwrap().unwrap().content, Content::Base);
            }
        }
        assert_eq!(paths(&store, &branch), ["/pin/below/kept"]);
    }
}

#[test]
fn a_new_file_in_the_place_of_the_hosts_gives_way_to_it() {
    let new = Ino(FIRST);
    for frozen in [false, true] {
        let (_, store, branch) = pinned(frozen, vec![entry(BELOW, "new", new, Kind::File)]);
        let host = host().with("/pin/below/new", Kind::File, 30);
        mend(&store, Some(&host));
        let reader = store.read(&branch).unwrap();
        match reader.dentry(BELOW, &name("new")).unwrap() {
            None => assert!(!frozen),
            Some(Dentry::Present { ino, .. }) => {
                assert!(frozen);
                let rec = reader.inode(ino).unwrap().unwrap();
                assert_eq!((rec.content.clone(), rec.perm), (Content::Base, 0o751));
            }
            Some(Dentry::Whiteout) => panic!("it looks deleted"),
        }
    }
    // Where the host has nothing, nothing is there.
    let (_, store, branch) = pinned(true, vec![entry(BELOW, "new", new, Kind::File)]);
    mend(&store, Some(&host()));
    let word = store.read(&branch).unwrap().dentry(BELOW, &name("new"));
    assert_eq!(word.unwrap(), Some(Dentry::Whiteout));
}

#[test]
fn a_moved_file_without_its_record_is_still_where_it_was_moved_to() {
    let moved = vec![
        Delta::DelInode(KEPT),
        Delta::PutDentry(BELOW, name("kept"), Dentry::Whiteout),
        entry(PINNED, "moved", KEPT, Kind::File),
    ];
    let (_, store, branch) = pinned(false, moved);
    mend(&store, Some(&host()));
    let reader = store.read(&branch).unwrap();
    let word = reader.dentry(PINNED, &name("moved")).unwrap();
    assert!(
        matches!(word, Some(Dentry::Present { ino: KEPT, .. })),
        "{word:?}"
    );
    let rec = reader.inode(KEPT).unwrap().unwrap();
    assert_eq!(&*rec.origin.as_ref().unwrap().path, b"/pin/below/kept");
}

#[test]
fn a_moved_directory_without_its_record_shows_the_hosts_files_still() {
    // Its old place has something else now, and the directory that is in has lost its record too.
    let new = Ino(FIRST);
    let moved = vec![
        put(new, rec(Kind::Fifo, 1, 0)),
        entry(PINNED, "below", new, Kind::Fifo),
        entry(Ino::ROOT, "again", BELOW, Kind::Dir),
        Delta::DelInode(PINNED),
        Delta::DelInode(BELOW),
    ];
    let (_, store, branch) = pinned(false, moved);
    mend(&store, Some(&host()));
    let reader = store.read(&branch).unwrap();
    let rec = reader.inode(BELOW).unwrap().unwrap();
    assert_eq!(&*rec.origin.as_ref().unwrap().path, b"/pin/below");
    assert_eq!(rec.perm, 0o751);
    assert!(reader.inode(KEPT).unwrap().is_some());
}

#[test]
fn losses_stay_with_the_branch_and_go_on_to_its_children() {
    let (mem, store, name) = pinned(false, Vec::new());
    assert!(store.losses(&name).unwrap().is_empty());
    let object = top(&store, "a").join("objects/00/1");
    mem.set_file_bytes(&object, b"o").unwrap();
    let report = mend(&store, None);
    assert_eq!(report.lost.len(), 1, "{report:#?}");
    assert_eq!(paths(&store, &name), ["/pin/below/kept"]);
    let report = look(&store);
    assert!(
        report
            .left
            .iter()
            .any(|f| f.code == Code::Lost && f.level == Level::Note)
    );
    make(&store, "child", Some("a"));
    assert_eq!(paths(&store, &branch("child")), ["/pin/below/kept"]);
    // A list that is damaged is a loss too.
    let path = Path::new("branches/a/lost.json");
    let good = mem.file_bytes(path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        mem.set_file_bytes(path, &bad).unwrap();
        assert_eq!(
            damage(&look(&store)),
            BTreeSet::from([Code::Lost]),
            "byte {at}"
        );
        assert!(store.losses(&name).is_err());
    }
    mend(&store, None);
    assert!(!store.losses(&name).unwrap().is_empty());
}
