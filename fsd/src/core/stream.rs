//! [`Stream`]: the bytes of one open file, wherever they lie. Shared by all its handles.
//!
//! Knows how to read and write them; what of it must be recorded is the callers' matter
//! (`copy_up`, `ops::write`, `ops::attr`).

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::backstore::{ObjectFile, SeekFor, StoreError};
use crate::core::extents::{self, Piece};
use crate::core::record::{ExtentMap, ExtentSource, InodeRec, ObjectId, full_blocks};
use crate::core::{FsError, types::Time};
use crate::sync::{Arc, RwLock};

/// The bytes of one file.
#[derive(Debug)]
pub struct Stream {
    /// Read to move bytes, written to change where they lie (copy-up, truncation, new extents).
    pub bytes: RwLock<Bytes>,
    /// The inode's record says `dirty`: a write need not record it again.
    pub marked_dirty: AtomicBool,
    /// What the object took the place of is gone: a power cut must not leave neither of the two.
    pub replaces: AtomicBool,
    /// How often the bytes moved up a layer, plus one.
    pub promotions: AtomicU64,
    /// The value of `promotions` at which the objects of lower layers were made durable.
    pub durable_below: AtomicU64,
    /// The file of [`Bytes::Base`], for whoever must not wait for the bytes.
    base: Weak<File>,
}

/// Where the bytes lie.
#[derive(Debug)]
pub enum Bytes {
    /// There are none.
    Empty,
    /// In the base.
    Base {
        /// Open for reading.
        file: Arc<File>,
        /// [`crate::core::base::state`] of it at that time.
        state: u64,
    },
    /// In one object.
    Object {
        /// Which.
        id: ObjectId,
        /// Open, for writing too where `own`.
        file: Arc<dyn ObjectFile>,
        /// It belongs to the top layer: it may be written.
        own: bool,
    },
    /// Here and there.
    Extents(Extents),
}

/// The bytes of a [`crate::core::record::Content::Extents`] file.
#[derive(Debug)]
pub struct Extents {
    /// Takes the writes; as long as the file.
    pub own: (ObjectId, Arc<dyn ObjectFile>),
    /// It belongs to the top layer: it may be written.
    pub writable: bool,
    /// The base object, while any of it shows.
    pub base: Option<Arc<File>>,
    /// Where the base ends: beyond, no extent means zeros.
    pub base_bytes: u64,
    /// Extents above the base.
    pub map: ExtentMap,
    /// A truncation could not be recorded: `map` and `base_bytes` must be, before the file grows.
    pub unrecorded: bool,
    /// Older objects that the map names.
    pub older: HashMap<ObjectId, Arc<dyn ObjectFile>>,
}

/// Size, blocks of 512 bytes and mtime of an object, as its file system has them.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct ObjectStamp {
    pub size: u64,
    pub blocks: u64,
    pub mtime: Time,
}

impl ObjectStamp {
    /// Those of one object.
    pub fn of(object: &dyn ObjectFile) -> Result<Self, StoreError> {
        let stat = object.stat()?;
        let blocks = match stat.blocks {
            // ext4, xfs and btrfs count what they have yet to place on the disk; others count it only
            // then, and programs take a file without blocks to be one hole.
            0 if stat.len > 0 && !matches!(object.seek(SeekFor::Data, 0), Ok(None)) => {
                full_blocks(stat.len)
            }
            blocks => blocks,
        };
        Ok(Self {
            size: stat.len,
            blocks,
            mtime: stat.mtime,
        })
    }

    /// Takes size and blocks over into a record.
    pub fn fold_size(&self, record: &mut InodeRec) {
        // Some file systems (xfs) set blocks aside behind the end until the file is closed. More than the size
        // takes counts only as far as fallocate(2) has asked for it.
        let most = full_blocks(self.size).max(record.blocks.unwrap_or(0));
        record.set_size(self.size, self.blocks.min(most));
    }
}

fn base_read(source: io::Error) -> FsError {
    FsError::Base { op: "read", source }
}

/// Fills `buf` from `read`, short only at the end of the file.
fn read_full(
    buf: &mut [u8],
    mut read: impl FnMut(&mut [u8], u64) -> Result<usize, FsError>,
    offset: u64,
) -> Result<usize, FsError> {
    let mut done = 0;
    while done < buf.len() {
        match read(&mut buf[done..], offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

fn read_file(file: &File, buf: &mut [u8], offset: u64) -> Result<usize, FsError> {
    let read = |buf: &mut [u8], at| loop {
        match file.read_at(buf, at) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(base_read),
        }
    };
    read_full(buf, read, offset)
}

fn read_object(file: &dyn ObjectFile, buf: &mut [u8], offset: u64) -> Result<usize, FsError> {
    read_full(buf, |buf, at| Ok(file.read_at(buf, at)?), offset)
}

impl Stream {
    /// A stream over these bytes.
    pub fn new(bytes: Bytes, marked_dirty: bool) -> Self {
        let base = match &bytes {
            Bytes::Base { file, .. } => Arc::downgrade(file),
            _ => Weak::new(),
        };
        Self {
            bytes: RwLock::new(bytes),
            marked_dirty: AtomicBool::new(marked_dirty),
            replaces: AtomicBool::new(false),
            promotions: AtomicU64::new(1),
            durable_below: AtomicU64::new(0),
            base,
        }
    }

    /// The file of the base that it was opened on, while its bytes come from there.
    pub fn base_file(&self) -> Option<Arc<File>> {
        self.base.upgrade()
    }

    /// Waits until the bytes are on the disk, without any lock.
    ///
    /// Those of lower layers too, once: a snapshot may have come before the first fsync(2).
    pub fn sync(&self, data_only: bool) -> Result<(), StoreError> {
        let (object, older, promotions) = {
            let bytes = crate::sync::read(&self.bytes);
            let promotions = self.promotions.load(Ordering::Acquire);
            let is_new = self.durable_below.load(Ordering::Acquire) != promotions;
            let older: Vec<_> = match &*bytes {
                Bytes::Extents(extents) if is_new => extents.older.values().cloned().collect(),
                _ => Vec::new(),
            };
            (bytes.object().cloned(), older, promotions)
        };
        for object in older {
            object.sync(true)?;
        }
        if let Some(object) = object {
            object.sync(data_only)?;
        }
        self.durable_below.store(promotions, Ordering::Release);
        Ok(())
    }
}

impl Bytes {
    /// Whether writes may go to it as it is.
    pub fn is_writable(&self) -> bool {
        match self {
            Bytes::Object { own, .. } => *own,
            Bytes::Extents(extents) => extents.writable,
            Bytes::Empty | Bytes::Base { .. } => false,
        }
    }

    /// The object that takes writes, if there is one already.
    pub fn object(&self) -> Option<&Arc<dyn ObjectFile>> {
        match self {
            Bytes::Object { file, .. } => Some(file),
            Bytes::Extents(extents) => Some(&extents.own.1),
            Bytes::Empty | Bytes::Base { .. } => None,
        }
    }

    /// The name of that object. What the object says of itself is its name when it was opened.
    pub fn object_id(&self) -> Option<ObjectId> {
        match self {
            Bytes::Object { id, .. } => Some(*id),
            Bytes::Extents(extents) => Some(extents.own.0),
            Bytes::Empty | Bytes::Base { .. } => None,
        }
    }

    /// Its size, blocks and mtime, where an object is their truth.
    pub fn stamp(&self) -> Result<Option<ObjectStamp>, StoreError> {
        let Some(object) = self.object() else {
            return Ok(None);
        };
        let mut stamp = ObjectStamp::of(object.as_ref())?;
        if let Bytes::Extents(extents) = self {
            stamp.blocks = extents.blocks(&stamp);
        }
        Ok(Some(stamp))
    }

    /// Reads at `offset`; short only at the end of the file.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        match self {
            Bytes::Empty => Ok(0),
            Bytes::Base { file, .. } => read_file(file, buf, offset),
            Bytes::Object { file, .. } => read_object(file.as_ref(), buf, offset),
            Bytes::Extents(extents) => extents.read(offset, buf),
        }
    }
}

impl Extents {
    /// Reads at `offset`; short only at the end of the file.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        let size = self.own.1.len()?;
        let end = size.min(offset.saturating_add(buf.len() as u64));
        if offset >= end {
            return Ok(0);
        }
        for piece in extents::pieces(&self.map, offset, end) {
            let from = (piece.offset - offset) as usize;
            let part = &mut buf[from..from + piece.len as usize];
            let got = match piece.source {
                Some(ExtentSource::Zero) => 0,
                Some(ExtentSource::Object(id)) => {
                    read_object(self.object(id)?.as_ref(), part, piece.offset)?
                }
                None => self.read_base(&piece, part)?,
            };
            // What an object or the base has no bytes for reads as a hole.
            part[got..].fill(0);
        }
        Ok((end - offset) as usize)
    }

    fn read_base(&self, piece: &Piece, part: &mut [u8]) -> Result<usize, FsError> {
        let visible = self
            .base_bytes
            .saturating_sub(piece.offset)
            .min(part.len() as u64) as usize;
        match &self.base {
            Some(file) => read_file(file, &mut part[..visible], piece.offset),
            None => Ok(0),
        }
    }

    /// The object that an extent names.
    pub fn object(&self, id: ObjectId) -> Result<&Arc<dyn ObjectFile>, FsError> {
        if id == self.own.0 {
            return Ok(&self.own.1);
        }
        self.older.get(&id).ok_or(FsError::Invalid(
            "an extent names an object that is not open",
        ))
    }

    /// Blocks of all layers together, but no more than the size takes: never less than what shows. To tell
    /// what of a layer is hidden by those above would take a walk through its holes.
    fn blocks(&self, own: &ObjectStamp) -> u64 {
        let full = full_blocks(own.size);
        let base = self.base.as_ref().map_or(0, |file| match file.metadata() {
            Ok(meta) if meta.blocks() > 0 => meta.blocks(),
            // Not every file system of a base counts blocks.
            _ => full,
        });
        let older = |file: &Arc<dyn ObjectFile>| match ObjectStamp::of(file.as_ref()) {
            Ok(stamp) => stamp.blocks,
            Err(_) => full,
        };
        let below = self.older.values().map(older);
        below
            .fold(own.blocks.saturating_add(base), u64::saturating_add)
            .min(full)
    }

    /// Takes everything past `end` out of sight; says whether anything was there.
    pub fn cut(&mut self, end: u64) -> bool {
        let past = self
            .map
            .range(..)
            .next_back()
            .is_some_and(|(at, (len, _))| at + len > end);
        if !past && self.base_bytes <= end {
            return false;
        }
        extents::clear(&mut self.map, end, u64::MAX);
        self.base_bytes = self.base_bytes.min(end);
        true
    }

    /// Whether all of `start..end` already lies in the own object.
    pub fn owns(&self, start: u64, end: u64) -> bool {
        extents::pieces(&self.map, start, end)
            .iter()
            .all(|p| p.source == Some(ExtentSource::Object(self.own.0)))
    }
}
