//! Copy-up: giving a file an object of its own before its first write, staged and then published.
//!
//! Small files are copied, or cloned where the host's file system can (FICLONE). Large ones get an
//! empty object and an extent map over the bytes below: a first write to them costs the same
//! whatever their size.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use rustix::fs::FallocateFlags;

use crate::backstore::{ObjectFile, Records};
use crate::core::change::Change;
use crate::core::clock;
use crate::core::quota::Room;
use crate::core::record::{
    Content, Delta, ExtentMap, ExtentSource, InodeRec, ObjectId, full_blocks,
};
use crate::core::stream::{Bytes, Extents, Stream};
use crate::core::superblock::Tree;
use crate::core::types::{Ino, Time};
use crate::core::{FsCore, FsError, extents};
use crate::sync::Arc;

/// Keeps all of a file when it is copied up.
pub const KEEP_ALL_BYTES: u64 = i64::MAX as u64;

/// Files up to this size are copied whole where they cannot be cloned, and there is room for it.
const COPY_WHOLE_MAX_BYTES: u64 = 1 << 20;

/// Zeros of this length become a hole in a copy; a divisor of every buffer that is copied through.
const HOLE_BYTES: usize = 4096;

/// Bytes moved at a time when a layered file is gathered into one object.
const GATHER_BYTES: usize = 1 << 20;

/// Where a file's bytes are, fit to be read; or, with `keep` false, to be cut off: then no base is
/// opened. Locks: the caller holds the tree.
fn open_bytes(core: &FsCore, tree: &Tree, ino: Ino, keep: bool) -> Result<Bytes, FsError> {
    let node = tree.node(ino)?;
    let content = node
        .record
        .as_ref()
        .map_or(Content::Base, |r| r.content.clone());
    let open_base = || -> Result<(Arc<File>, u64), FsError> {
        let loc = node.base().ok_or(FsError::Stale(ino))?;
        let seen = node.seen().ok_or(FsError::Stale(ino))?;
        let (file, state) = core.base.open_file(loc, seen)?;
        Ok((Arc::new(file), state))
    };
    Ok(match content {
        Content::Empty => Bytes::Empty,
        Content::Base if !keep => Bytes::Empty,
        Content::Base => {
            let (file, state) = open_base()?;
            Bytes::Base { file, state }
        }
        Content::Object(id) => {
            let own = tree.branch.is_top(id);
            Bytes::Object {
                id,
                file: Arc::from(tree.branch.open_object(id, own)?),
                own,
            }
        }
        Content::Extents { own, base_bytes } => {
            let base_bytes = if keep { base_bytes } else { 0 };
            let map = ExtentMap::clone(&*tree.branch.extents(ino)?);
            let writable = tree.branch.is_top(own);
            let mut older = std::collections::HashMap::new();
            for (_, source) in map.values() {
                if let ExtentSource::Object(id) = source
                    && *id != own
                    && !older.contains_key(id)
                {
                    older.insert(*id, Arc::from(tree.branch.open_object(*id, false)?));
                }
            }
            Bytes::Extents(Extents {
                own: (own, Arc::from(tree.branch.open_object(own, writable)?)),
                writable,
                base: if base_bytes > 0 {
                    Some(open_base()?.0)
                } else {
                    None
                },
                base_bytes,
                map,
                unrecorded: false,
                older,
            })
        }
    })
}

/// The stream of a file, opened if nobody has it open. Locks: the caller holds the tree.
pub fn stream_of(core: &FsCore, tree: &mut Tree, ino: Ino) -> Result<Arc<Stream>, FsError> {
    if let Some(stream) = tree.node(ino)?.stream() {
        return Ok(stream.clone());
    }
    let bytes = open_bytes(core, tree, ino, true)?;
    add_stream(core, tree, ino, bytes)
}

/// As [`stream_of`], for a file that is about to be cut to nothing: its bytes in the base may be out
/// of reach, because the host has replaced the file or does not let us read it.
pub fn stream_to_cut(core: &FsCore, tree: &mut Tree, ino: Ino) -> Result<Arc<Stream>, FsError> {
    match stream_of(core, tree, ino) {
        Err(FsError::Base { .. }) => {
            let bytes = open_bytes(core, tree, ino, false)?;
            add_stream(core, tree, ino, bytes)
        }
        found => found,
    }
}

fn add_stream(
    core: &FsCore,
    tree: &mut Tree,
    ino: Ino,
    mut bytes: Bytes,
) -> Result<Arc<Stream>, FsError> {
    let dirty = tree.node(ino)?.record.as_ref().is_some_and(|r| r.dirty);
    if dirty
        && let Bytes::Extents(extents) = &mut bytes
        && extents.writable
    {
        // A crash can lie between the cut of the object and its record. What the record still shows
        // past the end must not come back when the file grows.
        let end = extents.own.1.len()?;
        extents.unrecorded = extents.cut(end);
        if let Err(e) = record_map(core, tree, ino, &mut bytes) {
            // Whoever is to change the file tries again; reading it needs no record.
            tracing::warn!(%ino, error = %e, "cannot record a truncation yet");
        }
    }
    let dirty = dirty
        || found_short(core, tree, ino, &bytes).unwrap_or_else(|error| {
            // Who only reads needs no record.
            tracing::warn!(%ino, %error, "cannot record yet that a file lost its end");
            false
        });
    let stream = Arc::new(Stream::new(bytes, dirty));
    tree.hold(ino, stream.clone())?;
    Ok(stream)
}

/// Whether an object is shorter than its settled record says, as a power cut can leave a file that
/// nobody synced. From here on the object is the truth.
fn found_short(core: &FsCore, tree: &mut Tree, ino: Ino, bytes: &Bytes) -> Result<bool, FsError> {
    let Bytes::Object {
        file, own: true, ..
    } = bytes
    else {
        return Ok(false);
    };
    let Some(size) = tree.node(ino)?.record.as_ref().map(|r| r.size) else {
        return Ok(false);
    };
    let len = file.len()?;
    if len >= size {
        return Ok(false);
    }
    tracing::warn!(%ino, size, len, "a file lost its end when the machine went down");
    let mut change = Change::default();
    change.frees_room();
    tree.edit(&core.base, &mut change, ino)?.dirty = true;
    tree.commit(change)?;
    Ok(true)
}

/// Records the map of a file of extents, if a truncation left that to be done.
///
/// Errors: `Base`, `Store`; then it is still to be done. Locks: the caller holds the tree.
pub fn record_map(
    core: &FsCore,
    tree: &mut Tree,
    ino: Ino,
    bytes: &mut Bytes,
) -> Result<(), FsError> {
    let Bytes::Extents(extents) = bytes else {
        return Ok(());
    };
    if !extents.unrecorded {
        return Ok(());
    }
    let mut change = Change::default();
    change.frees_room();
    tree.edit(&core.base, &mut change, ino)?.content = Content::Extents {
        own: extents.own.0,
        base_bytes: extents.base_bytes,
    };
    change.push(Delta::SetExtents(ino, Arc::new(extents.map.clone())));
    tree.commit(change)?;
    extents.unrecorded = false;
    Ok(())
}

/// A staged object: removed again unless it was published.
struct StageGuard<'a> {
    core: &'a FsCore,
    id: Option<ObjectId>,
}

impl StageGuard<'_> {
    fn confirm(mut self) {
        self.id = None;
    }
}

impl Drop for StageGuard<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            crate::sync::lock(&self.core.tree).branch.remove_object(id);
        }
    }
}

/// What a copy-up takes from below.
enum Below<'a> {
    Nothing,
    File(&'a File, u64),
    Object(ObjectId, &'a Arc<dyn ObjectFile>, u64),
    Extents(&'a Extents, u64),
}

/// Makes `bytes` writable, keeping the first `keep_bytes` of them. No-op if it is already.
///
/// Errors: `Base`, `Store` (no space among them); then nothing has changed.
/// Locks: the caller holds `bytes` for writing; takes the tree, not while it copies.
fn promote(
    core: &FsCore,
    ino: Ino,
    stream: &Stream,
    bytes: &mut Bytes,
    keep_bytes: u64,
) -> Result<(), FsError> {
    if bytes.is_writable() {
        return Ok(());
    }
    let is_cut = keep_bytes == 0 && !matches!(bytes, Bytes::Empty);
    let below = match &*bytes {
        Bytes::Base { file, .. } => {
            let len = file
                .metadata()
                .map_err(|source| FsError::Base { op: "stat", source })?
                .len();
            Below::File(file, len.min(keep_bytes))
        }
        Bytes::Object { id, file, .. } => Below::Object(*id, file, file.len()?.min(keep_bytes)),
        Bytes::Extents(extents) => Below::Extents(extents, extents.own.1.len()?.min(keep_bytes)),
        Bytes::Empty => Below::Nothing,
    };
    let (id, file) = crate::sync::lock(&core.tree).branch.new_object()?;
    let file: Arc<dyn ObjectFile> = Arc::from(file);
    let stage = StageGuard { core, id: Some(id) };
    let (content, mut next) = fill(core, id, &file, below)?;
    if !file.is_empty()? {
        // What was safe below must be as safe in the copy before a record leads there: a power
        // cut may keep the record and lose the bytes, or the length of a file of extents.
        file.sync(true)?;
    }
    let object_mtime = file.stat()?.mtime;
    core.clock.saw(object_mtime);

    let mut tree = crate::sync::lock(&core.tree);
    let mut change = Change::default();
    if keep_bytes < KEEP_ALL_BYTES {
        change.frees_room();
    }
    let record = tree.edit(&core.base, &mut change, ino)?;
    record.content = content;
    let size = file.len()?;
    record.set_size(size, full_blocks(size));
    record.object_mtime = Some(object_mtime);
    record.dirty = true;
    if let Bytes::Extents(extents) = &next
        && !extents.map.is_empty()
    {
        change.push(Delta::SetExtents(ino, Arc::new(extents.map.clone())));
    }
    if tree.node(ino)?.unlinked {
        change.push(Delta::Orphan(id));
    }
    tree.commit(change)?;
    drop(tree);
    stage.confirm();
    stream.marked_dirty.store(true, Ordering::Release);
    stream.promotions.fetch_add(1, Ordering::AcqRel);
    stream.replaces.fetch_or(is_cut, Ordering::AcqRel);
    // The descriptors of the layers below move over to the new state.
    if let (Bytes::Extents(new), old) = (&mut next, &mut *bytes) {
        match std::mem::replace(old, Bytes::Empty) {
            Bytes::Base { file, .. } => new.base = Some(file),
            Bytes::Object { id, file, .. } => {
                new.older.insert(id, file);
            }
            Bytes::Extents(old) => {
                new.older.extend(old.older);
                new.older.insert(old.own.0, old.own.1);
                new.base = old.base;
            }
            Bytes::Empty => {}
        }
    }
    *bytes = next;
    Ok(())
}

/// Gathers a writable file of extents into its own object, so that its ranges can be shifted.
///
/// Errors: `Base`, `Store`; what was gathered by then stays mapped, nothing is lost.
/// Locks: the caller holds `bytes` for writing; takes the tree.
pub fn gather(core: &FsCore, ino: Ino, bytes: &mut Bytes) -> Result<(), FsError> {
    let Bytes::Extents(extents) = &*bytes else {
        return Ok(());
    };
    let (id, object) = extents.own.clone();
    let size = object.len()?;
    let room = core.room_for(size);
    if let (Room::None, Some(account)) = (&room, core.byte_account()) {
        return Err(account.refuse("bytes").into());
    }
    let mut buf = vec![0; GATHER_BYTES];
    for piece in extents::pieces(&extents.map, 0, size) {
        match piece.source {
            Some(ExtentSource::Object(from)) if from == id => continue,
            // What lies in the own object below a hole are bytes that were written before.
            Some(ExtentSource::Zero) => {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                object.allocate(punch.bits() as i32, piece.offset, piece.len)?;
                continue;
            }
            _ => {}
        }
        let mut at = piece.offset;
        while at < piece.offset + piece.len {
            let want = buf.len().min((piece.offset + piece.len - at) as usize);
            let got = extents.read(at, &mut buf[..want])?;
            if got == 0 {
                break;
            }
            at += object.write_at(&buf[..got], at)? as u64;
        }
    }
    room.settle(object.as_ref())?;
    object.sync(true)?;
    let mut tree = crate::sync::lock(&core.tree);
    let mut change = Change::default();
    tree.edit(&core.base, &mut change, ino)?.content = Content::Object(id);
    change.push(Delta::SetExtents(ino, Arc::default()));
    tree.commit(change)?;
    *bytes = Bytes::Object {
        id,
        file: object,
        own: true,
    };
    Ok(())
}

/// Fills a staged object from below and says what the file consists of then.
fn fill(
    core: &FsCore,
    id: ObjectId,
    file: &Arc<dyn ObjectFile>,
    below: Below<'_>,
) -> Result<(Content, Bytes), FsError> {
    let whole = || {
        (
            Content::Object(id),
            Bytes::Object {
                id,
                file: file.clone(),
                own: true,
            },
        )
    };
    let layered = |base_bytes: u64, map: ExtentMap| {
        let extents = Extents {
            own: (id, file.clone()),
            writable: true,
            base: None,
            base_bytes,
            map,
            unrecorded: false,
            older: std::collections::HashMap::new(),
        };
        (
            Content::Extents {
                own: id,
                base_bytes,
            },
            Bytes::Extents(extents),
        )
    };
    match below {
        Below::Nothing | Below::File(_, 0) | Below::Object(_, _, 0) => Ok(whole()),
        Below::File(source, len) => {
            let room = core.room_for(len);
            if room.is_there() && try_clone(file, source.as_fd(), len)? {
                room.settle(file.as_ref())?;
                return Ok(whole());
            }
            if room.is_there() && len <= COPY_WHOLE_MAX_BYTES {
                copy(file, |buf, at| read_file(source, buf, at), len)?;
                room.settle(file.as_ref())?;
                return Ok(whole());
            }
            file.set_len(len)?;
            Ok(layered(len, ExtentMap::new()))
        }
        Below::Object(source_id, source, len) => {
            let room = core.room_for(len);
            let cloned = match source.as_fd() {
                Some(fd) if room.is_there() => try_clone(file, fd, len)?,
                _ => false,
            };
            if cloned {
                room.settle(file.as_ref())?;
                return Ok(whole());
            }
            if room.is_there() && len <= COPY_WHOLE_MAX_BYTES {
                copy(file, |buf, at| Ok(source.read_at(buf, at)?), len)?;
                room.settle(file.as_ref())?;
                return Ok(whole());
            }
            file.set_len(len)?;
            let map = [(0, (len, ExtentSource::Object(source_id)))]
                .into_iter()
                .collect();
            Ok(layered(0, map))
        }
        Below::Extents(source, len) => {
            let mut map = source.map.clone();
            extents::clear(&mut map, len, u64::MAX);
            file.set_len(len)?;
            Ok(layered(source.base_bytes.min(len), map))
        }
    }
}

/// Shares the first `len` bytes of `source` with an empty object, where the host can.
fn try_clone(
    file: &Arc<dyn ObjectFile>,
    source: std::os::fd::BorrowedFd<'_>,
    len: u64,
) -> Result<bool, FsError> {
    let Some(target) = file.as_fd() else {
        return Ok(false);
    };
    if rustix::fs::ioctl_ficlone(target, source).is_err() {
        return Ok(false);
    }
    file.set_len(len)?;
    Ok(true)
}

fn read_file(source: &File, buf: &mut [u8], at: u64) -> Result<usize, FsError> {
    std::os::unix::fs::FileExt::read_at(source, buf, at)
        .map_err(|source| FsError::Base { op: "read", source })
}

fn copy(
    target: &Arc<dyn ObjectFile>,
    mut read: impl FnMut(&mut [u8], u64) -> Result<usize, FsError>,
    len: u64,
) -> Result<(), FsError> {
    let mut buf = vec![0; len.min(256 << 10) as usize];
    let mut at = 0;
    while at < len {
        let want = buf.len().min((len - at) as usize);
        let got = read(&mut buf[..want], at)?;
        if got == 0 {
            break;
        }
        write_sparsely(target, &buf[..got], at)?;
        at += got as u64;
    }
    // The end may be a hole; and what a source that shrank below us no longer has reads as zeros.
    if target.len()? < len {
        target.set_len(len)?;
    }
    Ok(())
}

/// Makes `bytes` fit to be changed: copied up, marked, and with all that was cut off recorded.
///
/// Errors and locks: as [`promote`].
pub fn make_writable(
    core: &FsCore,
    ino: Ino,
    stream: &Stream,
    bytes: &mut Bytes,
    keep_bytes: u64,
) -> Result<(), FsError> {
    promote(core, ino, stream, bytes, keep_bytes)?;
    mark_dirty(core, ino, stream)?;
    if matches!(bytes, Bytes::Extents(extents) if extents.unrecorded) {
        let mut tree = crate::sync::lock(&core.tree);
        record_map(core, &mut tree, ino, bytes)?;
    }
    Ok(())
}

/// Writes what is not zero anyway: a hole of the source takes no space in the copy.
fn write_sparsely(target: &Arc<dyn ObjectFile>, bytes: &[u8], offset: u64) -> Result<(), FsError> {
    let is_zero = |block: &[u8]| block.iter().all(|b| *b == 0);
    let mut start = 0;
    while start < bytes.len() {
        let blocks = |from: usize| bytes[from..].chunks(HOLE_BYTES);
        start += HOLE_BYTES * blocks(start).take_while(|b| is_zero(b)).count();
        if start >= bytes.len() {
            break;
        }
        let count = blocks(start).take_while(|b| !is_zero(b)).count();
        let end = bytes.len().min(start + HOLE_BYTES * count);
        while start < end {
            start += target.write_at(&bytes[start..end], offset + start as u64)?;
        }
    }
    Ok(())
}

/// Says in the record, before the first write, that the object is the truth for size and mtime.
pub fn mark_dirty(core: &FsCore, ino: Ino, stream: &Stream) -> Result<(), FsError> {
    if stream.marked_dirty.load(Ordering::Acquire) {
        return Ok(());
    }
    let mut tree = crate::sync::lock(&core.tree);
    let mut change = Change::default();
    change.frees_room();
    tree.edit(&core.base, &mut change, ino)?.dirty = true;
    tree.commit(change)?;
    stream.marked_dirty.store(true, Ordering::Release);
    Ok(())
}

/// Takes an object's size, blocks and mtime over into the record being edited.
pub fn fold_into(core: &FsCore, record: &mut InodeRec, bytes: &Bytes) -> Result<(), FsError> {
    if let Some(stamp) = bytes.stamp()? {
        stamp.fold_size(record);
        if record.object_mtime != Some(stamp.mtime) {
            record.mtime = stamp.mtime;
            record.ctime = clock::later(record.ctime, stamp.mtime, Time::now());
            record.object_mtime = Some(stamp.mtime);
            core.clock.saw(stamp.mtime);
        }
    }
    Ok(())
}
