//! Reviews of what the real core records in a real store, live and closed, against what it shows.

use proptest::prelude::*;

use super::model::{Seen, Tree, base_tree};
use super::{Base, ChangeSet, ContentReader, Effort, Node, Op, PATHS, Plain, changes, op};
use crate::backstore::{NewBranch, Records, Store};
use crate::core::types::*;
use crate::core::{CoreConfig, FsCore, FsError};

const O_WRONLY: i32 = 1;

fn me() -> Caller {
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        pid: 0,
    }
}

/// Calls of a core by path.
struct ByPath(FsCore);

impl ByPath {
    fn find(&self, path: &[u8]) -> Result<Attr, FsError> {
        let mut attr = self.0.getattr(Ino::ROOT)?;
        for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            attr = self.0.lookup(attr.ino, &Name::new(part)?)?.attr;
        }
        Ok(attr)
    }

    fn split(&self, path: &[u8]) -> Result<(Ino, Name), FsError> {
        let at = path.iter().rposition(|b| *b == b'/').unwrap();
        Ok((self.find(&path[..at])?.ino, Name::new(&path[at + 1..])?))
    }

    fn write(&self, path: &[u8], bytes: &[u8]) -> Result<(), FsError> {
        let (dir, name) = self.split(path)?;
        let (ino, fh) = match self.0.lookup(dir, &name) {
            Ok(entry) if entry.attr.kind == Kind::File => {
                let (ino, size) = (entry.attr.ino, Some(0));
                let set = SetAttr {
                    size,
                    ..SetAttr::default()
                };
                self.0.setattr(&me(), ino, None, &set)?;
                (ino, self.0.open(&me(), ino, O_WRONLY)?.fh)
            }
            Ok(entry) => return Err(FsError::IsADirectory(entry.attr.ino)),
            Err(_) => {
                let (entry, opened) = self.0.create(&me(), dir, &name, 0o644, O_WRONLY)?;
                (entry.attr.ino, opened.fh)
            }
        };
        self.0.write(ino, fh, 0, bytes, false)?;
        self.0.release(fh);
        Ok(())
    }

    fn overwrite(&self, path: &[u8], at: u64, bytes: &[u8]) -> Result<(), FsError> {
        let attr = self.find(path)?;
        if attr.kind != Kind::File {
            return Err(FsError::Invalid("no file"));
        }
        let fh = self.0.open(&me(), attr.ino, O_WRONLY)?.fh;
        self.0.write(attr.ino, fh, at, bytes, false)?;
        self.0.release(fh);
        Ok(())
    }

    fn names(&self, dir: Ino) -> Vec<Name> {
        let mut names = Vec::new();
        let mut take = |entry: &DirEnt| {
            if let StreamName::Entry(name) = &entry.name {
                names.push(name.clone());
            }
            true
        };
        self.0.readdir(dir, 0, &mut take).unwrap();
        names
    }

    fn remove(&self, path: &[u8]) -> Result<(), FsError> {
        let (attr, (dir, name)) = (self.find(path)?, self.split(path)?);
        if attr.kind != Kind::Dir {
            return self.0.unlink(&me(), dir, &name);
        }
        for child in self.names(attr.ino) {
            self.remove(&super::join(path, child.as_bytes()))?;
        }
        self.0.rmdir(&me(), dir, &name)
    }

    fn apply(&self, op: &Op) -> Result<(), FsError> {
        let texts: [&[u8]; 4] = [b"", b"one\n", b"two\n", b"three\n"];
        match *op {
            Op::Write(p, v) => self.write(PATHS[p], texts[v as usize]),
            Op::Overwrite(p, at, v) => self.overwrite(PATHS[p], at.into(), &[b'0' + v % 10]),
            Op::Mkdir(p) => {
                let (dir, name) = self.split(PATHS[p])?;
                self.0.mkdir(&me(), dir, &name, 0o755).map(|_| ())
            }
            Op::Symlink(p, v) => {
                let (dir, name) = self.split(PATHS[p])?;
                let target = [&b"../top"[..], b"x", b"/etc"][v as usize];
                self.0.symlink(&me(), dir, &name, target).map(|_| ())
            }
            Op::Fifo(p) => {
                let (dir, name) = self.split(PATHS[p])?;
                let made = self.0.mknod(&me(), dir, &name, Kind::Fifo, 0o644, 0);
                made.map(|_| ())
            }
            Op::Chmod(p, v) => {
                let attr = self.find(PATHS[p])?;
                let perm = (attr.kind != Kind::Symlink).then(|| [0o644, 0o755, 0o600][v as usize]);
                let set = SetAttr {
                    perm,
                    ..SetAttr::default()
                };
                self.0.setattr(&me(), attr.ino, None, &set).map(|_| ())
            }
            Op::Link(a, b) => {
                let (attr, (dir, name)) = (self.find(PATHS[a])?, self.split(PATHS[b])?);
                self.0.link(&me(), attr.ino, dir, &name).map(|_| ())
            }
            Op::Remove(p) => self.remove(PATHS[p]),
            Op::Rename(a, b) => {
                let ((from, old), (to, new)) = (self.split(PATHS[a])?, self.split(PATHS[b])?);
                self.0
                    .rename(&me(), from, &old, to, &new, RenameMode::Replace)
                    .map(drop)
            }
        }
    }

    fn view(&self, path: &[u8], dir: Ino, tree: &mut Tree) {
        for name in self.names(dir) {
            let at = super::join(path, name.as_bytes());
            let attr = self.0.lookup(dir, &name).unwrap().attr;
            let bytes = match attr.kind {
                Kind::File => {
                    let fh = self.0.open(&me(), attr.ino, 0).unwrap().fh;
                    let mut bytes = vec![0; attr.size as usize];
                    let got = self.0.read(attr.ino, fh, 0, &mut bytes).unwrap();
                    assert_eq!(got, bytes.len());
                    self.0.release(fh);
                    bytes
                }
                Kind::Symlink => self.0.readlink(attr.ino).unwrap().to_vec(),
                _ => Vec::new(),
            };
            let (kind, perm) = (attr.kind, attr.perm);
            tree.insert(at.clone(), Seen { kind, perm, bytes });
            if kind == Kind::Dir {
                self.view(&at, attr.ino, tree);
            }
        }
    }
}

fn compare(records: &dyn Records, base: &Base, expected: &Plain) -> ChangeSet {
    let set = changes(records, base, Effort::Exact, &[b"/".to_vec()]).unwrap();
    assert!(set.problems.is_empty(), "{:?}", set.problems);
    let reader = ContentReader::new(base, records);
    let side = |node: &Option<Node>| node.as_ref().map(|node| super::seen(&reader, node));
    let found: Plain = (set.changes.iter())
        .map(|c| (c.path.clone(), (side(&c.before), side(&c.after))))
        .collect();
    assert_eq!(set.strays, [], "names not found");
    assert!(set.changes.iter().all(|c| c.unlisted_links == 0), "{set:?}");
    assert_eq!(&found, expected);
    set
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]
    #[test]
    fn what_the_core_records_is_told_exactly(ops in proptest::collection::vec(op(), 1..25)) {
        let (dir, at) = (super::base(), tempfile::tempdir().unwrap());
        let store = Store::open_or_create(at.path()).unwrap();
        let name = BranchName::new("b").unwrap();
        store.create_branch(&name, None, NewBranch { workspace: "/".into() }).unwrap();
        let config = CoreConfig {
            mountpoint: None,
            base: dir.path().into(),
            roots: vec!["/".into()],
            conceal: vec![],
            passthrough: false,
        };
        let core = ByPath(FsCore::new(store.open_live(&name).unwrap(), config).unwrap());
        for op in &ops {
            // What the core refuses is no change.
            let _ = core.apply(op);
        }
        let (mut before, mut after) = (Tree::new(), Tree::new());
        base_tree(dir.path(), b"/", b"/", &mut before);
        core.view(b"/", Ino::ROOT, &mut after);
        let expected = super::differences(&before, &after);
        let base = Base::new(dir.path(), &[]).unwrap();
        let live = compare(&store.read(&name).unwrap(), &base, &expected);
        core.0.close().unwrap();
        let closed = compare(&store.read(&name).unwrap(), &base, &expected);
        prop_assert_eq!(live.changes, closed.changes);
    }
}
