//! The core by itself, unmounted, over a real base directory and a real store.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::types::*;
use super::*;
use crate::backstore::{NewBranch, Store, StoreError};

mod blocks;
mod crash;
mod files;
mod held;
mod host;
mod links;
mod names;
mod quota;
mod unopened;

const ME: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
};
const O_RDONLY: i32 = 0;
const O_RDWR: i32 = 2;

fn name(s: &str) -> Name {
    Name::new(s.as_bytes()).unwrap()
}

/// A base directory and a branch over it that can be closed, dropped and opened again.
struct Bench {
    base: tempfile::TempDir,
    store: tempfile::TempDir,
    core: Option<FsCore>,
}

impl Bench {
    fn new(fill: impl FnOnce(&Path)) -> Self {
        let (base, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fill(base.path());
        let store = Store::open_or_create(dir.path()).unwrap();
        let new = NewBranch {
            workspace: "/".into(),
        };
        store
            .create_branch(&BranchName::new("b").unwrap(), None, new)
            .unwrap();
        let mut bench = Self {
            base,
            store: dir,
            core: None,
        };
        bench.open();
        bench
    }

    fn open(&mut self) {
        self.open_branch("b");
    }

    fn open_branch(&mut self, branch: &str) {
        let store = Store::open(self.store.path()).unwrap().unwrap();
        let live = store.open_live(&BranchName::new(branch).unwrap()).unwrap();
        let config = CoreConfig {
            base: self.base.path().into(),
            roots: vec!["/".into()],
            conceal: vec![],
            mountpoint: None,
            passthrough: false,
        };
        self.core = Some(FsCore::new(live, config).unwrap());
    }

    /// Ends the branch cleanly, or as SIGKILL would, and opens it again.
    fn reopen(&mut self, clean: bool) {
        let core = self.core.take().unwrap();
        if clean {
            core.close().unwrap()
        } else {
            drop(core)
        }
        self.open();
    }

    fn snapshot(&mut self) {
        let store = Store::open(self.store.path()).unwrap().unwrap();
        let held = store.hold().unwrap();
        let core = self.core.as_mut().unwrap();
        core.freeze(&held, FreezeFor::Snapshot(None)).unwrap();
    }

    fn core(&self) -> &FsCore {
        self.core.as_ref().unwrap()
    }

    fn walk(&self, path: &str) -> Result<Attr, FsError> {
        let mut attr = self.core().getattr(Ino::ROOT)?;
        for part in path.split('/').filter(|p| !p.is_empty()) {
            attr = self.core().lookup(attr.ino, &name(part))?.attr;
        }
        Ok(attr)
    }

    fn read(&self, path: &str) -> Vec<u8> {
        let ino = self.walk(path).unwrap().ino;
        let opened = self.core().open(&ME, ino, O_RDONLY).unwrap();
        let mut buf = vec![0; 8 << 20];
        let got = self.core().read(ino, opened.fh, 0, &mut buf).unwrap();
        self.core().release(opened.fh);
        buf.truncate(got);
        buf
    }

    fn write(&self, path: &str, offset: u64, data: &[u8]) {
        let ino = self.walk(path).unwrap().ino;
        let opened = self.core().open(&ME, ino, O_RDWR).unwrap();
        assert_eq!(
            self.core()
                .write(ino, opened.fh, offset, data, false)
                .unwrap(),
            data.len()
        );
        self.core().release(opened.fh);
    }

    fn create(&self, dir: &str, file: &str, data: &[u8]) -> Ino {
        let dir = self.walk(dir).unwrap().ino;
        let (entry, opened) = self
            .core()
            .create(&ME, dir, &name(file), 0o644, O_RDWR)
            .unwrap();
        self.core()
            .write(entry.attr.ino, opened.fh, 0, data, false)
            .unwrap();
        self.core().release(opened.fh);
        entry.attr.ino
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let dir = self.walk(dir).unwrap().ino;
        let mut names = Vec::new();
        let take = &mut |e: &DirEnt| {
            names.push(String::from_utf8(e.name.as_bytes().to_vec()).unwrap());
            true
        };
        self.core().readdir(dir, 0, take).unwrap();
        names.retain(|n| n != "." && n != "..");
        names.sort();
        names
    }

    fn rename(&self, from: (&str, &str), to: (&str, &str)) -> Result<(), FsError> {
        let (a, b) = (self.walk(from.0).unwrap().ino, self.walk(to.0).unwrap().ino);
        self.core()
            .rename(&ME, a, &name(from.1), b, &name(to.1), RenameMode::Replace)
            .map(drop)
    }
}

/// The regular files of the store that hold `bytes` bytes.
fn objects_of(dir: &Path, bytes: u64) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let (path, meta) = entry.map(|e| (e.path(), e.metadata().unwrap())).unwrap();
        if meta.is_dir() {
            found.extend(objects_of(&path, bytes));
        } else if meta.len() == bytes {
            found.push(path);
        }
    }
    found
}

impl Bench {
    /// What a check of the store, while the branch is live, calls damage.
    fn damage(&self) -> Vec<String> {
        let store = Store::open(self.store.path()).unwrap().unwrap();
        let report = store.check(&[], &mut |_, _, _| {}).unwrap();
        let damage = |f: &&crate::backstore::check::Finding| {
            f.level == crate::backstore::check::Level::Damage
        };
        report
            .left
            .iter()
            .filter(damage)
            .map(|f| format!("{f:?}"))
            .collect()
    }

    /// Inodes of the store that no name of the branch leads to.
    fn orphans(&self) -> usize {
        let store = Store::open(self.store.path()).unwrap().unwrap();
        let report = store.check(&[], &mut |_, _, _| {}).unwrap();
        let is_orphan = |f: &&crate::backstore::check::Finding| {
            f.code == crate::backstore::check::Code::OrphanInode
        };
        report.left.iter().filter(is_orphan).count()
    }

    fn unlink(&self, dir: &str, file: &str) {
        let dir = self.walk(dir).unwrap().ino;
        self.core().unlink(&ME, dir, &name(file)).unwrap();
    }
}
