//! [`Within`]: a directory of a media, found anew by its path with every call. Unlike what
//! [`Media::sub`] gives it holds no descriptor, so a stack may have any number of layers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::media::{FileFacts, Listing, LockGuard, LockWait, Media, MediaFile, OpenMode};

/// The tree below one directory of another media.
#[derive(Clone, Debug)]
pub struct Within {
    root: Arc<dyn Media>,
    dir: PathBuf,
}

impl Within {
    /// What is below `dir`; whether that is there shows with its use.
    pub fn new(root: &Arc<dyn Media>, dir: PathBuf) -> Self {
        Self {
            root: root.clone(),
            dir,
        }
    }

    fn at(&self, path: &Path) -> PathBuf {
        match path.as_os_str().is_empty() {
            true => self.dir.clone(),
            false => self.dir.join(path),
        }
    }
}

impl Media for Within {
    fn describe(&self, path: &Path) -> PathBuf {
        self.root.describe(&self.at(path))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn MediaFile>> {
        self.root.open(&self.at(path), mode)
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        self.root.mkdir(&self.at(path))
    }

    fn spread(&self, path: &Path) {
        self.root.spread(&self.at(path));
    }

    fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        self.root.rename(&self.at(from), &self.at(to), replace)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.root.link(&self.at(from), &self.at(to))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.root.unlink(&self.at(path))
    }

    fn rmdir(&self, path: &Path) -> io::Result<()> {
        self.root.rmdir(&self.at(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Listing>> {
        self.root.list(&self.at(path))
    }

    fn facts(&self, path: &Path) -> io::Result<FileFacts> {
        self.root.facts(&self.at(path))
    }

    fn make_private(&self, path: &Path, uid: u32) -> io::Result<()> {
        self.root.make_private(&self.at(path), uid)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.root.sync_dir(&self.at(path))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.root.sync_all()
    }

    fn shared_bytes(&self, path: &Path) -> u64 {
        self.root.shared_bytes(&self.at(path))
    }

    fn sub(&self, path: &Path) -> io::Result<Arc<dyn Media>> {
        self.root.sub(&self.at(path))
    }

    fn lock(
        &self,
        path: &Path,
        wait: LockWait,
        note: &[u8],
    ) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.root.lock(&self.at(path), wait, note)
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.root.is_locked(&self.at(path))
    }
}
