//! Objects: the files that hold the bytes of file versions, below `objects/` of a layer.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::StoreError;
use super::media::{Media, MediaFile, ObjectStat, OpenMode, SeekFor};
use crate::core::record::ObjectId;

/// Objects in one directory, as a power of two.
const BUCKET_BITS: u32 = 12;
/// The directory that holds the buckets.
pub const OBJECTS_DIR: &str = "objects";
/// Bytes moved at once where the host cannot copy by itself.
const COPY_CHUNK_BYTES: usize = 128 << 10;

/// Where bytes are copied from.
#[derive(Clone, Copy, Debug)]
pub enum CopySource<'a> {
    /// Another object.
    Object(&'a dyn ObjectFile),
    /// A file of the base.
    File(&'a File),
}

/// One open object. All methods may be called from several threads.
pub trait ObjectFile: Send + Sync + Debug {
    /// Which object this is.
    fn id(&self) -> ObjectId;
    /// Reads at `offset`; short only at the end of the object.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StoreError>;
    /// Writes at `offset`; short only when an error struck after some bytes.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<usize, StoreError>;
    /// Length in bytes.
    fn len(&self) -> Result<u64, StoreError> {
        Ok(self.stat()?.len)
    }
    /// Whether it has no bytes.
    fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends, with a hole, to `len` bytes.
    fn set_len(&self, len: u64) -> Result<(), StoreError>;
    /// Length, blocks, mtime.
    fn stat(&self) -> Result<ObjectStat, StoreError>;
    /// Makes it durable; `data_only` as fdatasync(2).
    ///
    /// Errors: once it has failed, it always does on what is open here, until all is cut off.
    fn sync(&self, data_only: bool) -> Result<(), StoreError>;
    /// fallocate(2), with its flags.
    fn allocate(&self, mode: i32, offset: u64, len: u64) -> Result<(), StoreError>;
    /// SEEK_DATA or SEEK_HOLE; `None` past the end.
    fn seek(&self, what: SeekFor, offset: u64) -> Result<Option<u64>, StoreError>;
    /// Makes `[offset, offset + len)` equal to the same range of `source`, as far as that has
    /// bytes; shares blocks where the host can, keeps holes where the range had no bytes before.
    /// The length grows to the end of what was there to copy. Says how many bytes that was.
    fn clone_or_copy_from(
        &self,
        source: CopySource<'_>,
        offset: u64,
        len: u64,
    ) -> Result<u64, StoreError>;
    /// Whether anybody has it open for writing, a shared mapping counted; this must be open for
    /// reading only. Without a descriptor nobody has.
    fn is_open_for_writing(&self) -> Result<bool, StoreError> {
        Ok(false)
    }
    /// The descriptor, where there is one: for FUSE passthrough.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// The directory of an object, relative to its layer.
pub fn bucket_of(number: u64) -> PathBuf {
    Path::new(OBJECTS_DIR).join(format!("{:02x}", number >> BUCKET_BITS))
}

/// The file of an object, relative to its layer.
pub fn path_of(number: u64) -> PathBuf {
    bucket_of(number).join(number.to_string())
}

/// Numbers of the first bucket that can hold objects from `number` on.
pub fn bucket_index(number: u64) -> u64 {
    number >> BUCKET_BITS
}

/// The first number from `number` on that begins a directory.
pub fn next_bucket(number: u64) -> u64 {
    number.next_multiple_of(1 << BUCKET_BITS)
}

/// What a layer's file that [`open`] or [`create`] gave is made of.
#[derive(Debug)]
struct Object {
    id: ObjectId,
    path: PathBuf,
    file: Box<dyn MediaFile>,
    /// A sync of it failed. The host tells of that once, and may have dropped what it could not write.
    sync_failed: AtomicBool,
}

/// Opens an object in the layer directory `media`.
pub fn open(
    media: &dyn Media,
    id: ObjectId,
    write: bool,
) -> Result<Box<dyn ObjectFile>, StoreError> {
    let path = path_of(id.number);
    let mode = if write {
        OpenMode::ReadWrite
    } else {
        OpenMode::Read
    };
    match media.open(&path, mode) {
        Ok(file) => Ok(Box::new(Object {
            id,
            path: media.describe(&path),
            file,
            sync_failed: AtomicBool::new(false),
        })),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(StoreError::damaged(
            media.describe(&path),
            "the object is missing",
        )),
        Err(e) => Err(StoreError::io("open", media.describe(&path), e)),
    }
}

/// Makes a new, empty object. Adds to `dirs` the directories that got a new entry.
pub fn create(
    media: &dyn Media,
    id: ObjectId,
    mut dirs: impl FnMut(PathBuf),
) -> Result<Box<dyn ObjectFile>, StoreError> {
    let path = path_of(id.number);
    let bucket = bucket_of(id.number);
    let wrap = |e| StoreError::io("create", media.describe(&path), e);
    let file = match media.open(&path, OpenMode::CreateNew) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            make_bucket(media, id.number, &mut dirs)?;
            media.open(&path, OpenMode::CreateNew).map_err(wrap)?
        }
        other => other.map_err(wrap)?,
    };
    dirs(bucket);
    Ok(Box::new(Object {
        id,
        path: media.describe(&path),
        file,
        sync_failed: AtomicBool::new(false),
    }))
}

/// Makes the directory of an object, if it is not there. Adds to `dirs` those that got a new entry,
/// the bucket itself among them.
pub fn make_bucket(
    media: &dyn Media,
    number: u64,
    mut dirs: impl FnMut(PathBuf),
) -> Result<(), StoreError> {
    let bucket = bucket_of(number);
    for (dir, parent) in [(Path::new(OBJECTS_DIR), ""), (&*bucket, OBJECTS_DIR)] {
        match media.mkdir(dir) {
            Ok(()) => dirs(parent.into()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(StoreError::io("create", media.describe(dir), e)),
        }
    }
    dirs(bucket);
    Ok(())
}

/// Makes a durable copy of the object at `path`, in a stage file beside it, and says where.
pub fn stage_copy(media: &dyn Media, id: ObjectId, path: &Path) -> Result<PathBuf, StoreError> {
    let stage = path.with_extension("stage");
    let io = |op, path: &Path, e| StoreError::io(op, media.describe(path), e);
    let at = |path: &Path, mode| -> Result<Object, StoreError> {
        let file = media.open(path, mode).map_err(|e| io("open", path, e))?;
        Ok(Object {
            id,
            path: media.describe(path),
            file,
            sync_failed: AtomicBool::new(false),
        })
    };
    let source = at(path, OpenMode::Read)?;
    match media.unlink(&stage) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("remove", &stage, e)),
        _ => {}
    }
    let copied = at(&stage, OpenMode::CreateNew).and_then(|copy| {
        let len = source.len()?;
        copy.clone_or_copy_from(CopySource::Object(&source), 0, len)?;
        copy.set_len(len)?;
        // A record that is not settled takes its times from here.
        if let Some(fd) = copy.as_fd() {
            let mtime = source.stat()?.mtime;
            let time = rustix::fs::Timespec {
                tv_sec: mtime.sec,
                tv_nsec: mtime.nsec.into(),
            };
            let times = rustix::fs::Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::futimens(fd, &times).map_err(|e| io("stamp", &stage, e.into()))?;
        }
        copy.sync(false)
    });
    match copied {
        Ok(()) => Ok(stage),
        Err(e) => {
            let _ = media.unlink(&stage);
            Err(e)
        }
    }
}

/// Removes an object; that it is gone already is fine.
pub fn remove(media: &dyn Media, number: u64) -> Result<(), StoreError> {
    let path = path_of(number);
    match media.unlink(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", media.describe(&path), e))
        }
        _ => Ok(()),
    }
}

/// The numbers of all objects from `first` on. Costs the buckets from there on.
pub fn list_from(media: &dyn Media, first: u64) -> Result<Vec<u64>, StoreError> {
    let list = |dir: &Path| match media.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|e| StoreError::io("list", media.describe(dir), e)),
    };
    let mut out = Vec::new();
    for bucket in list(Path::new(OBJECTS_DIR))? {
        let index = bucket
            .name
            .to_str()
            .and_then(|name| u64::from_str_radix(name, 16).ok());
        if index.is_some_and(|index| index >= bucket_index(first)) {
            let files = list(&Path::new(OBJECTS_DIR).join(&bucket.name))?;
            let numbers = files
                .iter()
                .filter_map(|f| f.name.to_str()?.parse::<u64>().ok());
            out.extend(numbers.filter(|number| *number >= first));
        }
    }
    out.sort_unstable();
    Ok(out)
}

impl Object {
    fn wrap(&self, op: &'static str) -> impl Fn(io::Error) -> StoreError + '_ {
        move |e| StoreError::io(op, &self.path, e)
    }
}

impl ObjectFile for Object {
    fn id(&self) -> ObjectId {
        self.id
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StoreError> {
        let mut have = 0;
        while have < buf.len() {
            match self.file.read_at(&mut buf[have..], offset + have as u64) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(e) => return Err(self.wrap("read")(e)),
            }
        }
        Ok(have)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<usize, StoreError> {
        let mut done = 0;
        while done < data.len() {
            match self.file.write_at(&data[done..], offset + done as u64) {
                Ok(0) => return Err(self.wrap("write")(io::ErrorKind::WriteZero.into())),
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(self.wrap("write")(e)),
            }
        }
        Ok(done)
    }

    fn set_len(&self, len: u64) -> Result<(), StoreError> {
        self.file.set_len(len).map_err(self.wrap("truncate"))?;
        if len == 0 {
            // Nothing of it is left that could be lost.
            self.sync_failed.store(false, Ordering::Release);
        }
        Ok(())
    }

    fn stat(&self) -> Result<ObjectStat, StoreError> {
        self.file.stat().map_err(self.wrap("stat"))
    }

    fn sync(&self, data_only: bool) -> Result<(), StoreError> {
        if self.sync_failed.load(Ordering::Acquire) {
            let e = io::Error::other("an earlier sync of this file failed");
            return Err(self.wrap("sync")(e));
        }
        self.file.sync(data_only).map_err(|e| {
            self.sync_failed.store(true, Ordering::Release);
            self.wrap("sync")(e)
        })
    }

    fn allocate(&self, mode: i32, offset: u64, len: u64) -> Result<(), StoreError> {
        self.file
            .allocate(mode, offset, len)
            .map_err(self.wrap("allocate"))
    }

    fn seek(&self, what: SeekFor, offset: u64) -> Result<Option<u64>, StoreError> {
        self.file.seek(what, offset).map_err(self.wrap("seek in"))
    }

    fn clone_or_copy_from(
        &self,
        source: CopySource<'_>,
        offset: u64,
        len: u64,
    ) -> Result<u64, StoreError> {
        let from = match source {
            CopySource::Object(object) => Reading {
                fd: object.as_fd(),
                object: Some(object),
            },
            CopySource::File(file) => Reading {
                fd: Some(file.as_fd()),
                object: None,
            },
        };
        let source_len = from.len()?;
        let end = offset.saturating_add(len).min(source_len);
        if end <= offset {
            return Ok(0);
        }
        let own_len = self.len()?;
        if offset == 0 && own_len <= end && end == source_len && self.try_share_all(&from) {
            return Ok(end);
        }
        if own_len < end {
            self.set_len(end)?;
        }
        let mut at = offset;
        while at < end {
            // Holes need no copying where this object had no bytes before.
            let data = if at >= own_len {
                from.next_data(at, end)?
            } else {
                at
            };
            let Some(stop) = (data < end)
                .then(|| from.next_hole(data, end))
                .transpose()?
            else {
                break;
            };
            self.copy_range(&from, data, stop)?;
            at = stop;
        }
        Ok(end - offset)
    }

    fn is_open_for_writing(&self) -> Result<bool, StoreError> {
        match self.file.as_fd() {
            Some(fd) => {
                crate::sys::is_open_for_writing(fd).map_err(self.wrap("ask for a lease of"))
            }
            None => Ok(false),
        }
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_fd()
    }
}

/// The source of a copy, by descriptor where there is one.
struct Reading<'a> {
    fd: Option<BorrowedFd<'a>>,
    object: Option<&'a dyn ObjectFile>,
}

impl Reading<'_> {
    fn wrap(op: &'static str) -> impl Fn(rustix::io::Errno) -> StoreError {
        move |e| StoreError::io(op, "copied file", e.into())
    }

    fn len(&self) -> Result<u64, StoreError> {
        match (self.fd, self.object) {
            (Some(fd), _) => Ok(rustix::fs::fstat(fd).map_err(Self::wrap("stat"))?.st_size as u64),
            (None, Some(object)) => object.len(),
            (None, None) => Ok(0),
        }
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StoreError> {
        match (self.fd, self.object) {
            (Some(fd), _) => rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut *buf, offset))
                .map_err(Self::wrap("read")),
            (None, Some(object)) => object.read_at(buf, offset),
            (None, None) => Ok(0),
        }
    }

    /// Where data starts at or after `at`; `end` if nowhere before. Without the host's help, `at`.
    ///
    /// Moves the descriptor's own offset, which nothing here relies on.
    fn next_data(&self, at: u64, end: u64) -> Result<u64, StoreError> {
        match self.seek(rustix::fs::SeekFrom::Data(at), SeekFor::Data, at)? {
            Seeked::At(data) => Ok(data.min(end)),
            Seeked::Past => Ok(end),
            Seeked::Unsupported => Ok(at),
        }
    }

    fn next_hole(&self, at: u64, end: u64) -> Result<u64, StoreError> {
        match self.seek(rustix::fs::SeekFrom::Hole(at), SeekFor::Hole, at)? {
            Seeked::At(hole) if hole > at => Ok(hole.min(end)),
            _ => Ok(end),
        }
    }

    fn seek(
        &self,
        from: rustix::fs::SeekFrom,
        what: SeekFor,
        at: u64,
    ) -> Result<Seeked, StoreError> {
        match (self.fd, self.object) {
            (Some(fd), _) => match rustix::fs::seek(fd, from) {
                Ok(found) => Ok(Seeked::At(found)),
                Err(rustix::io::Errno::NXIO) => Ok(Seeked::Past),
                Err(_) => Ok(Seeked::Unsupported),
            },
            (None, Some(object)) => Ok(object.seek(what, at)?.map_or(Seeked::Past, Seeked::At)),
            (None, None) => Ok(Seeked::Past),
        }
    }
}

enum Seeked {
    At(u64),
    Past,
    Unsupported,
}

impl Object {
    /// Shares all blocks of the source in one step. Whether the host could.
    fn try_share_all(&self, from: &Reading<'_>) -> bool {
        match (self.as_fd(), from.fd) {
            (Some(to), Some(fd)) => rustix::fs::ioctl_ficlone(to, fd).is_ok(),
            _ => false,
        }
    }

    fn copy_range(&self, from: &Reading<'_>, start: u64, end: u64) -> Result<(), StoreError> {
        let mut at = start;
        if let (Some(to), Some(fd)) = (self.as_fd(), from.fd) {
            while at < end {
                let (mut off_in, mut off_out) = (at, at);
                let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
                match rustix::fs::copy_file_range(
                    fd,
                    Some(&mut off_in),
                    to,
                    Some(&mut off_out),
                    want,
                ) {
                    // Zero before the end: a file system that lies about its length (procfs), or
                    // one that shrank; reading decides.
                    Ok(0) => break,
                    Ok(n) => at += n as u64,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
                        return Err(self.wrap("copy into")(rustix::io::Errno::NOSPC.into()));
                    }
                    Err(_) => break,
                }
            }
        }
        let mut chunk = vec![0u8; COPY_CHUNK_BYTES.min((end - at) as usize)];
        while at < end {
            let n = (end - at).min(chunk.len() as u64) as usize;
            match from.read_at(&mut chunk[..n], at)? {
                0 => break,
                n => {
                    let mut done = 0;
                    while done < n {
                        done += self.write_at(&chunk[done..n], at + done as u64)?;
                    }
                    at += n as u64;
                }
            }
        }
        Ok(())
    }
}
