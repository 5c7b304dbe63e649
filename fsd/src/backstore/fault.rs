//! [`FaultMedia`]: a media that counts the operations which change it, and at the n-th one fails,
//! tears or stops. For crash sweeps: run a script for every n, crash, reopen, compare.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::media::{
    FileFacts, Listing, LockGuard, LockWait, Media, MediaFile, ObjectStat, OpenMode, SeekFor,
};

/// What happens at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this errno, once.
    Once(i32),
    /// It and all later ones fail with this errno: a disk that stays full.
    Always(i32),
    /// From it on, writing, creating and making directories fail with ENOSPC; renaming, removing,
    /// truncating and syncing work, as on a full disk.
    FullDisk,
    /// It is not done, and nothing is any more, reading included: the process is dead.
    Stop,
    /// A write does its first half, everything else is done, and then the process is dead.
    Tear,
    /// It is done, and then the process is dead.
    StopAfter,
}

#[derive(Debug)]
struct Plan {
    done: AtomicU64,
    /// Reads of files, which are no operations to fail at.
    reads: AtomicU64,
    at: u64,
    fault: Fault,
    dead: AtomicBool,
    /// Operations that are done again after a lasting fault, from this number on.
    healed_at: AtomicU64,
}

/// What room an operation needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Entry,
    Data,
    /// Data over data: it has its place.
    Over,
}

/// What the plan says of one operation.
enum Verdict {
    Do,
    DoHalf,
    DoThenDie,
    Fail(io::Error),
}

impl Plan {
    fn alive(&self) -> io::Result<()> {
        if self.dead.load(Ordering::SeqCst) {
            return Err(io::Error::other("the process is dead"));
        }
        Ok(())
    }

    /// Whether the disk is full now.
    fn is_full(&self) -> bool {
        let n = self.done.load(Ordering::SeqCst);
        self.fault == Fault::FullDisk
            && (self.at..self.healed_at.load(Ordering::SeqCst)).contains(&n)
    }

    fn next(&self, takes: Takes) -> Verdict {
        if let Err(e) = self.alive() {
            return Verdict::Fail(e);
        }
        let n = self.done.fetch_add(1, Ordering::SeqCst);
        if n >= self.healed_at.load(Ordering::SeqCst) {
            return Verdict::Do;
        }
        match self.fault {
            Fault::FullDisk if n >= self.at && matches!(takes, Takes::Entry | Takes::Data) => {
                Verdict::Fail(io::Error::from_raw_os_error(nix::libc::ENOSPC))
            }
            Fault::Once(code) if n == self.at => Verdict::Fail(io::Error::from_raw_os_error(code)),
            Fault::Always(code) if n >= self.at => {
                Verdict::Fail(io::Error::from_raw_os_error(code))
            }
            Fault::Stop if n == self.at => {
                self.dead.store(true, Ordering::SeqCst);
                Verdict::Fail(io::Error::other("the process stops here"))
            }
            Fault::Tear if n == self.at && matches!(takes, Takes::Data | Takes::Over) => {
                Verdict::DoHalf
            }
            Fault::Tear | Fault::StopAfter if n == self.at => Verdict::DoThenDie,
            _ => Verdict::Do,
        }
    }

    fn run<T>(&self, takes: Takes, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.next(takes) {
            Verdict::Do => f(),
            Verdict::Fail(e) => Err(e),
            Verdict::DoHalf | Verdict::DoThenDie => {
                let result = f();
                self.dead.store(true, Ordering::SeqCst);
                result
            }
        }
    }
}

/// Another media under a plan of faults. Parts of it share the plan.
#[derive(Clone, Debug)]
pub struct FaultMedia {
    inner: Arc<dyn Media>,
    plan: Arc<Plan>,
}

impl FaultMedia {
    /// `fault` strikes at the operation number `at`, counted from 0.
    pub fn new(inner: Arc<dyn Media>, at: u64, fault: Fault) -> Self {
        let plan = Plan {
            done: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            at,
            fault,
            dead: AtomicBool::new(false),
            healed_at: AtomicU64::new(u64::MAX),
        };
        Self {
            inner,
            plan: Arc::new(plan),
        }
    }

    /// Lets a lasting fault end with the operation number `at`.
    pub fn heal_after(&self, at: u64) {
        self.plan.healed_at.store(at, Ordering::SeqCst);
    }

    /// How many operations were asked for that change something.
    pub fn operations(&self) -> u64 {
        self.plan.done.load(Ordering::SeqCst)
    }

    /// How often a file was read.
    pub fn reads(&self) -> u64 {
        self.plan.reads.load(Ordering::SeqCst)
    }

    /// Whether the fault has struck, or could have.
    pub fn has_struck(&self) -> bool {
        self.operations() > self.plan.at
    }
}

impl Media for FaultMedia {
    fn describe(&self, path: &Path) -> PathBuf {
        self.inner.describe(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn MediaFile>> {
        let open = || -> io::Result<Box<dyn MediaFile>> {
            let inner = self.inner.open(path, mode)?;
            Ok(Box::new(FaultFile {
                inner,
                plan: self.plan.clone(),
            }))
        };
        if mode == OpenMode::CreateNew {
            return self.plan.run(Takes::Entry, open);
        }
        self.plan.alive()?;
        open()
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        self.plan.run(Takes::Entry, || self.inner.mkdir(path))
    }

    fn spread(&self, path: &Path) {
        self.inner.spread(path);
    }

    fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        self.plan
            .run(Takes::Nothing, || self.inner.rename(from, to, replace))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.plan.run(Takes::Nothing, || self.inner.link(from, to))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.plan.run(Takes::Nothing, || self.inner.unlink(path))
    }

    fn rmdir(&self, path: &Path) -> io::Result<()> {
        self.plan.run(Takes::Nothing, || self.inner.rmdir(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Listing>> {
        self.plan.alive()?;
        self.inner.list(path)
    }

    fn facts(&self, path: &Path) -> io::Result<FileFacts> {
        self.plan.alive()?;
        self.inner.facts(path)
    }

    fn make_private(&self, path: &Path, uid: u32) -> io::Result<()> {
        self.plan
            .run(Takes::Nothing, || self.inner.make_private(path, uid))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.plan.run(Takes::Nothing, || self.inner.sync_dir(path))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.plan.run(Takes::Nothing, || self.inner.sync_all())
    }

    fn shared_bytes(&self, path: &Path) -> u64 {
        self.inner.shared_bytes(path)
    }

    fn sub(&self, path: &Path) -> io::Result<Arc<dyn Media>> {
        self.plan.alive()?;
        Ok(Arc::new(FaultMedia {
            inner: self.inner.sub(path)?,
            plan: self.plan.clone(),
        }))
    }

    fn lock(
        &self,
        path: &Path,
        wait: LockWait,
        note: &[u8],
    ) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.plan.alive()?;
        if self.plan.is_full() && self.inner.facts(path).is_err() {
            return Err(io::Error::from_raw_os_error(nix::libc::ENOSPC));
        }
        self.inner.lock(path, wait, note)
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.plan.alive()?;
        self.inner.is_locked(path)
    }
}

#[derive(Debug)]
struct FaultFile {
    inner: Box<dyn MediaFile>,
    plan: Arc<Plan>,
}

impl MediaFile for FaultFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.plan.alive()?;
        self.plan.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let end = offset.saturating_add(data.len() as u64);
        let takes = match self.inner.stat() {
            Ok(stat) if end <= stat.len => Takes::Over,
            _ => Takes::Data,
        };
        match self.plan.next(takes) {
            Verdict::Do => self.inner.write_at(data, offset),
            Verdict::Fail(e) => Err(e),
            Verdict::DoHalf => {
                self.plan.dead.store(true, Ordering::SeqCst);
                self.inner.write_at(&data[..data.len() / 2], offset)
            }
            Verdict::DoThenDie => {
                self.plan.dead.store(true, Ordering::SeqCst);
                self.inner.write_at(data, offset)
            }
        }
    }

    fn stat(&self) -> io::Result<ObjectStat> {
        self.plan.alive()?;
        self.inner.stat()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.plan.run(Takes::Nothing, || self.inner.set_len(len))
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        self.plan.run(Takes::Nothing, || self.inner.sync(data_only))
    }

    fn allocate(&self, mode: i32, offset: u64, len: u64) -> io::Result<()> {
        self.plan
            .run(Takes::Entry, || self.inner.allocate(mode, offset, len))
    }

    fn seek(&self, what: SeekFor, offset: u64) -> io::Result<Option<u64>> {
        self.plan.alive()?;
        self.inner.seek(what, offset)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        // Copies between descriptors would go past the plan.
        None
    }
}
