//! [`Watch`]: the directories of the base of which the host's kernel tells us what is done in them.
//!
//! One inotify instance for a branch. A directory is watched from before anything in it is first looked
//! at, so that no change comes between, until the kernel forgets it; but a mount that ends soon has none:
//! until the watching begins, directories wait for it, and are looked through then. Watches are limited,
//! and shared with whatever else its user has running: few are taken, and it goes on without where there
//! are none. What is to be done about a change is for `ops::host` to say.

use std::collections::{HashMap, HashSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::core::types::{Ino, Name};
use crate::sync::{Arc, Mutex, lock};

/// Bytes that are read of the events at a time: some hundreds of them.
const READ_BYTES: usize = 16 << 10;
/// Events that make up a batch at most; the kernel keeps no more (fs.inotify.max_queued_events).
const BATCH_EVENTS: usize = 16 << 10;

/// What is done in a directory, and what becomes of itself.
const EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    // The last word about what was written by a mapping, of which nothing else tells.
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    // Nobody can look at what has no name any more.
    .union(WatchFlags::EXCL_UNLINK);
const NAMED: ReadFlags = ReadFlags::CREATE
    .union(ReadFlags::DELETE)
    .union(ReadFlags::MOVED_FROM)
    .union(ReadFlags::MOVED_TO);
const OVER: ReadFlags = ReadFlags::IGNORED
    .union(ReadFlags::DELETE_SELF)
    .union(ReadFlags::MOVE_SELF);

/// The watched directories of one branch. A leaf among the locks.
#[derive(Debug, Default)]
pub struct Watch {
    is_wanted: AtomicBool,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    inotify: Option<Arc<OwnedFd>>,
    most: usize,
    /// Looked at before there was an instance.
    waiting: Vec<Ino>,
    dirs: HashMap<i32, Ino>,
    by_dir: HashMap<Ino, i32>,
}

/// What the host has done with one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touch {
    /// It came, went, or leads elsewhere; if not, what it leads to was changed.
    pub is_named: bool,
}

/// What the host has done since this was last read, each thing once.
#[derive(Debug, Default)]
pub struct Batch {
    /// By directory and name.
    pub touched: HashMap<Ino, HashMap<Name, Touch>>,
    /// Directories of which the attributes were changed.
    pub dirs: HashSet<Ino>,
    /// Directories that were moved or removed, or are no longer watched.
    pub over: HashSet<Ino>,
    /// There was more than the kernel kept.
    pub is_cut: bool,
}

impl Watch {
    /// Says that the directories that are looked at from now on are to be watched.
    pub(super) fn want(&self) {
        self.is_wanted.store(true, Ordering::Relaxed);
    }

    /// Whether directories are to be watched.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    /// Begins to watch, `most` directories at once. Returns what is readable once there are events, and
    /// the directories that wait for it.
    ///
    /// Errors: EMFILE where the user has no instance left; those of inotify_init1(2). None is wanted then.
    pub(super) fn begin(&self, most: usize) -> io::Result<(Arc<OwnedFd>, Vec<Ino>)> {
        let mut table = lock(&self.table);
        let waiting = std::mem::take(&mut table.waiting);
        let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
        let inotify = inotify::init(flags).inspect_err(|_| {
            self.is_wanted.store(false, Ordering::Relaxed);
        })?;
        let inotify = Arc::new(inotify);
        table.inotify = Some(Arc::clone(&inotify));
        table.most = most;
        Ok((inotify, waiting))
    }

    /// Watches nothing any more.
    pub(super) fn end(&self) {
        self.is_wanted.store(false, Ordering::Relaxed);
        let gone = std::mem::take(&mut *lock(&self.table));
        // The kernel takes its time for that.
        drop(gone);
    }

    /// Watches the directory `ino`, held open as `dir`; `false`: not now.
    pub(super) fn add(&self, ino: Ino, dir: &OwnedFd) -> bool {
        // Over the call, so that no event comes before its directory is known.
        let mut table = lock(&self.table);
        let Some(inotify) = table.inotify.clone() else {
            table.waiting.push(ino);
            return false;
        };
        if table.dirs.len() >= table.most {
            return false;
        }
        // By what is held, so that no name is looked up and no link followed but this one.
        let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
        match inotify::add_watch(&inotify, path, EVENTS) {
            Ok(watch) => {
                if let Some(old) = table.dirs.insert(watch, ino).filter(|old| *old != ino) {
                    table.by_dir.remove(&old);
                }
                if let Some(old) = table.by_dir.insert(ino, watch).filter(|old| *old != watch) {
                    table.dirs.remove(&old);
                    let _ = inotify::remove_watch(&inotify, old);
                }
                true
            }
            Err(Errno::NOSPC) => {
                table.make_room(&inotify);
                false
            }
            // Not ours to read, or of a file system that tells of nothing.
            Err(error) => {
                tracing::debug!(%ino, %error, "a directory cannot be watched");
                false
            }
        }
    }

    /// Watches the directory `ino` no longer.
    pub(super) fn remove(&self, ino: Ino) {
        let mut table = lock(&self.table);
        if let Some(watch) = table.by_dir.remove(&ino) {
            table.dirs.remove(&watch);
            if let Some(inotify) = &table.inotify {
                // It may be gone with the directory.
                let _ = inotify::remove_watch(inotify, watch);
            }
        }
    }

    /// The directories that are watched.
    pub(super) fn watched(&self) -> Vec<Ino> {
        lock(&self.table).dirs.values().copied().collect()
    }

    /// Takes what the host has done. Does not wait.
    pub fn take(&self) -> Batch {
        let mut batch = Batch::default();
        let Some(inotify) = lock(&self.table).inotify.clone() else {
            return batch;
        };
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        let mut events = Reader::new(&inotify, &mut space);
        for _ in 0..BATCH_EVENTS {
            // WOULDBLOCK: that was all.
            let Ok(event) = events.next() else { break };
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                batch.is_cut = true;
                continue;
            }
            let mut table = lock(&self.table);
            let Some(dir) = table.dirs.get(&event.wd()).copied() else {
                continue;
            };
            if flags.intersects(OVER) {
                table.dirs.remove(&event.wd());
                table.by_dir.remove(&dir);
                drop(table);
                let _ = inotify::remove_watch(&inotify, event.wd());
                batch.over.insert(dir);
                continue;
            }
            drop(table);
            match event.file_name().map(|name| Name::new(name.to_bytes())) {
                Some(Ok(name)) => {
                    let touch = batch.touched.entry(dir).or_default().entry(name);
                    touch.or_default().is_named |= flags.intersects(NAMED);
                }
                Some(Err(_)) => {}
                None => {
                    batch.dirs.insert(dir);
                }
            }
        }
        batch
    }
}

impl Table {
    /// The user has no watch left: half of ours are given back, for whoever needs one.
    fn make_room(&mut self, inotify: &OwnedFd) {
        self.most = self.dirs.len() / 2;
        tracing::info!(
            most = self.most,
            "no inotify watch is left (fs.inotify.max_user_watches): half of them are given back"
        );
        let surplus: Vec<i32> = self.dirs.keys().skip(self.most).copied().collect();
        for watch in surplus {
            if let Some(ino) = self.dirs.remove(&watch) {
                self.by_dir.remove(&ino);
            }
            let _ = inotify::remove_watch(inotify, watch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn open(dir: &Path) -> OwnedFd {
        fs::File::open(dir).expect("open").into()
    }

    fn name(name: &str) -> Name {
        Name::new(name.as_bytes()).expect("a name")
    }

    #[test]
    fn what_is_done_in_a_directory_is_told_once_until_it_is_let_go() {
        let (one, two) = (tempfile::tempdir(), tempfile::tempdir());
        let (one, two) = (one.expect("a directory"), two.expect("a directory"));
        let watch = Watch::default();
        assert!(!watch.add(Ino(5), &open(one.path())));
        let (_, waiting) = watch.begin(2).expect("inotify");
        assert_eq!(waiting, [Ino(5)]);
        assert!(watch.add(Ino(5), &open(one.path())) && watch.add(Ino(6), &open(two.path())));
        assert!(!watch.add(Ino(7), &open(Path::new("/"))), "two at most");
        for _ in 0..100 {
            fs::write(one.path().join("a"), "x").expect("write");
        }
        fs::rename(one.path().join("a"), two.path().join("b")).expect("rename");
        fs::write(two.path().join("b"), "y").expect("write");
        let batch = watch.take();
        let named = Touch { is_named: true };
        assert_eq!(batch.touched.len(), 2);
        assert_eq!(batch.touched[&Ino(5)], HashMap::from([(name("a"), named)]));
        assert_eq!(batch.touched[&Ino(6)], HashMap::from([(name("b"), named)]));
        fs::write(two.path().join("b"), "z").expect("write");
        let written = Touch { is_named: false };
        assert_eq!(watch.take().touched[&Ino(6)][&name("b")], written);
        watch.remove(Ino(6));
        fs::write(two.path().join("c"), "z").expect("write");
        fs::remove_dir(one.path()).expect("rmdir");
        let batch = watch.take();
        assert!(batch.touched.is_empty(), "{batch:?}");
        assert_eq!(batch.over, HashSet::from([Ino(5)]));
        assert!(watch.watched().is_empty() && watch.add(Ino(7), &open(Path::new("/"))));
    }

    #[test]
    fn a_directory_found_again_under_another_number_is_watched_by_that() {
        let dir = tempfile::tempdir().expect("a directory");
        let watch = Watch::default();
        watch.begin(9).expect("inotify");
        assert!(watch.add(Ino(5), &open(dir.path())) && watch.add(Ino(6), &open(dir.path())));
        fs::write(dir.path().join("a"), "x").expect("write");
        let told: Vec<Ino> = watch.take().touched.into_keys().collect();
        assert_eq!(told, [Ino(6)]);
        watch.remove(Ino(5));
        assert_eq!(watch.watched(), [Ino(6)]);
    }
}
