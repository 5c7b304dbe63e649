//! Moving bytes: read, write, fallocate, seeking for data and holes.

use rustix::fs::FallocateFlags;

use crate::backstore::{ObjectFile, SeekFor};
use crate::core::change::Change;
use crate::core::copy_up;
use crate::core::ops::attr::{drop_privileges, has_privileges};
use crate::core::quota;
use crate::core::record::{Delta, ExtentSource, InodeRec};
use crate::core::stream::{Bytes, Stream};
use crate::core::types::{Caller, Fh, Ino};
use crate::core::{FsCore, FsError, access, extents};
use crate::sync::Arc;

/// Most bytes one copy_file_range request moves: a longer one is asked again for the rest.
const COPY_RANGE_MAX_BYTES: u64 = 64 << 20;
/// Bytes moved at a time within it.
const COPY_CHUNK_BYTES: u64 = 1 << 20;

/// Offsets and sizes end here, as for any 64-bit file system.
const SIZE_MAX: u64 = copy_up::KEEP_ALL_BYTES;

impl FsCore {
    /// Reads at `offset` into `buf`; short only at the end of the file.
    ///
    /// Errors: `BadHandle`, `Base`, `Store`. Locks: rank 1 for reading.
    pub fn read(&self, ino: Ino, fh: Fh, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        // A write-only handle may be read through: the kernel fills pages around a partial write.
        let handle = self.handle(ino, fh)?;
        let bytes = crate::sync::read(&handle.stream.bytes);
        bytes.read(offset, buf)
    }

    /// Writes `data` at `offset`; the first write to a file of the base copies it up.
    ///
    /// `kill_suidgid`: the writer is not allowed to keep suid, sgid and file capabilities.
    /// Errors: `BadHandle`, `TooLarge`, `Base`, `Store`. Locks: rank 1, then 2.
    pub fn write(
        &self,
        ino: Ino,
        fh: Fh,
        offset: u64,
        data: &[u8],
        kill_suidgid: bool,
    ) -> Result<usize, FsError> {
        self.write_as(ino, fh, offset, data, kill_suidgid, false)
    }

    /// Writes pages of the kernel's cache: all of them, as what is left out is not asked for again.
    ///
    /// Errors: as [`FsCore::write`]; then some of it may be written.
    pub fn write_back(&self, ino: Ino, fh: Fh, offset: u64, data: &[u8]) -> Result<usize, FsError> {
        self.write_as(ino, fh, offset, data, false, true)
    }

    fn write_as(
        &self,
        ino: Ino,
        fh: Fh,
        offset: u64,
        data: &[u8],
        kill_suidgid: bool,
        whole: bool,
    ) -> Result<usize, FsError> {
        let handle = self.handle(ino, fh)?;
        if !handle.writes {
            return Err(FsError::WrongAccess(fh));
        }
        if offset
            .checked_add(data.len() as u64)
            .is_none_or(|end| end > SIZE_MAX)
        {
            return Err(FsError::TooLarge);
        }
        if kill_suidgid {
            self.take_privileges(ino, |_| true)?;
        }
        let stream = &handle.stream;
        {
            let bytes = crate::sync::read(&stream.bytes);
            if let Bytes::Object {
                file, own: true, ..
            } = &*bytes
            {
                copy_up::mark_dirty(self, ino, stream)?;
                let end = offset + data.len() as u64;
                let room = match self.byte_account() {
                    None => return Ok(file.write_at(data, offset)?),
                    Some(account) => account.try_reserve(quota::span(offset, end)),
                };
                if let Some(room) = room {
                    let written = file.write_at(data, offset);
                    room.settle(file.as_ref())?;
                    return Ok(written?);
                }
            }
        }
        let mut bytes = crate::sync::write(&stream.bytes);
        copy_up::make_writable(self, ino, stream, &mut bytes, SIZE_MAX)?;
        let Some(object) = bytes.object() else {
            return Ok(0);
        };
        let object = object.clone();
        // Asked only where a record comes after the write, and can fail.
        let end = offset + data.len() as u64;
        let before = match &*bytes {
            Bytes::Extents(extents) if !extents.owns(offset, end) => Some(object.len()?),
            _ => None,
        };
        let written = match self.byte_account() {
            None => object.write_at(data, offset)?,
            Some(account) => quota::write(account, object.as_ref(), data, offset, whole)?,
        };
        let end = offset + written as u64;
        if let Err(e) = self.map_own(ino, &mut bytes, offset, end) {
            // A write that fails leaves the file as long as it was.
            if let Some(size) = before.filter(|size| end > *size)
                && let Err(undo) = object.set_len(size)
            {
                tracing::warn!(%ino, error = %undo, "cannot cut off what a failed write has added");
            }
            if let Err(e) = self.charge(object.as_ref()) {
                tracing::warn!(%ino, error = %e, "cannot tell what a failed write has left");
            }
            return Err(e);
        }
        Ok(written)
    }

    /// Records that the own object now holds `start..end` of a file of extents.
    fn map_own(&self, ino: Ino, bytes: &mut Bytes, start: u64, end: u64) -> Result<(), FsError> {
        let Bytes::Extents(extents) = bytes else {
            return Ok(());
        };
        if start == end || extents.owns(start, end) {
            return Ok(());
        }
        let source = ExtentSource::Object(extents.own.0);
        self.put_extent(ino, start, end, source)?;
        extents::put(&mut extents.map, start, end - start, source);
        Ok(())
    }

    fn put_extent(
        &self,
        ino: Ino,
        start: u64,
        end: u64,
        source: ExtentSource,
    ) -> Result<(), FsError> {
        let mut tree = crate::sync::lock(&self.tree);
        if tree.node(ino)?.unlinked {
            return Ok(());
        }
        let mut change = Change::default();
        change.push(Delta::PutExtent(ino, start, end - start, source));
        tree.commit(change)
    }

    /// Takes suid, sgid and file capabilities off a file, as a write by somebody who may not keep
    /// them must. Returns whether there were any.
    pub fn kill_privileges(&self, caller: &Caller, ino: Ino) -> Result<bool, FsError> {
        self.take_privileges(ino, |record| self.is_member(caller, record))
    }

    /// Whether suid, sgid and file capabilities of `ino` are to go when `caller` changes its bytes. Looks at
    /// the caller, which takes longer than most changes, only if there are some.
    ///
    /// Errors: `Stale`, `Base`, `Store`.
    pub fn takes_privileges(&self, caller: &Caller, ino: Ino) -> Result<bool, FsError> {
        let has_some = {
            let tree = crate::sync::lock(&self.tree);
            has_privileges(&tree.record_of(&self.base, ino)?)
        };
        Ok(has_some && !access::keeps_privileges(caller))
    }

    fn take_privileges(
        &self,
        ino: Ino,
        is_member: impl FnOnce(&InodeRec) -> bool,
    ) -> Result<bool, FsError> {
        let mut tree = crate::sync::lock(&self.tree);
        let record = tree.record_of(&self.base, ino)?;
        let mut without = record.clone();
        drop_privileges(&mut without, is_member(&record));
        if without == record {
            return Ok(false);
        }
        without.ctime = self.clock.now();
        let mut change = Change::default();
        *tree.edit(&self.base, &mut change, ino)? = without;
        tree.commit(change)?;
        Ok(true)
    }

    /// Allocates, punches or shifts a range, as fallocate(2) with `mode`. Takes suid and sgid away
    /// as a write does: the kernel leaves that to us, and does not tell who may keep them.
    ///
    /// Errors: `WrongAccess`, `Invalid`, `NotSupported` for modes the store's file system or a
    /// file of extents lacks, `TooLarge`, `Base`, `Store`.
    pub fn fallocate(
        &self,
        caller: &Caller,
        ino: Ino,
        fh: Fh,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> Result<(), FsError> {
        let handle = self.handle(ino, fh)?;
        if !handle.writes {
            return Err(FsError::WrongAccess(fh));
        }
        let end = offset.checked_add(len).filter(|end| *end <= SIZE_MAX);
        let end = end.ok_or(FsError::TooLarge)?;
        if fh == Fh::NONE {
            self.meet_unopened(ino, offset, false)?;
        }
        let mode = FallocateFlags::from_bits_retain(mode as u32);
        if self.takes_privileges(caller, ino)? {
            self.kill_privileges(caller, ino)?;
        }
        let stream = &handle.stream;
        let mut bytes = crate::sync::write(&stream.bytes);
        copy_up::make_writable(self, ino, stream, &mut bytes, SIZE_MAX)?;
        if mode.intersects(FallocateFlags::COLLAPSE_RANGE | FallocateFlags::INSERT_RANGE) {
            // These shift bytes, so all of them must lie in one object first.
            copy_up::gather(self, ino, &mut bytes)?;
        }
        match &mut *bytes {
            Bytes::Extents(_) => self.fallocate_extents(ino, &mut bytes, mode, offset, end)?,
            _ => {
                if let Some(object) = bytes.object() {
                    self.allocate(object.as_ref(), mode, offset, end)?;
                }
            }
        }
        self.stamp_change(ino, stream, &bytes)
    }

    fn allocate(
        &self,
        object: &dyn ObjectFile,
        mode: FallocateFlags,
        offset: u64,
        end: u64,
    ) -> Result<(), FsError> {
        let adds_none = FallocateFlags::PUNCH_HOLE
            | FallocateFlags::COLLAPSE_RANGE
            | FallocateFlags::INSERT_RANGE;
        match self.byte_account() {
            Some(account) if !mode.intersects(adds_none) => {
                Ok(quota::allocate(account, object, mode, offset, end)?)
            }
            _ => {
                object.allocate(mode.bits() as i32, offset, end - offset)?;
                Ok(self.charge(object)?)
            }
        }
    }

    /// fallocate on a file of extents: the modes that need no bytes of its layers moved.
    fn fallocate_extents(
        &self,
        ino: Ino,
        bytes: &mut Bytes,
        mode: FallocateFlags,
        offset: u64,
        end: u64,
    ) -> Result<(), FsError> {
        let Bytes::Extents(extents) = bytes else {
            return Ok(());
        };
        let size = extents.own.1.len()?;
        let keeps_size = mode.contains(FallocateFlags::KEEP_SIZE);
        let zeroes = match mode - FallocateFlags::KEEP_SIZE {
            m if m.is_empty() => false,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE => true,
            _ => {
                return Err(FsError::NotSupported(
                    "this fallocate mode on a layered file",
                ));
            }
        };
        if !keeps_size && end > size {
            extents.own.1.set_len(end)?;
        }
        if zeroes && offset < size {
            let stop = end.min(size);
            self.put_extent(ino, offset, stop, ExtentSource::Zero)?;
            extents::put(&mut extents.map, offset, stop - offset, ExtentSource::Zero);
        }
        Ok(())
    }

    /// Puts the stamps of a change that went around write(2) into the record.
    fn stamp_change(&self, ino: Ino, _stream: &Arc<Stream>, bytes: &Bytes) -> Result<(), FsError> {
        let now = self.clock.now();
        let stamp = bytes.stamp()?;
        let mut tree = crate::sync::lock(&self.tree);
        let mut change = Change::default();
        change.frees_room();
        let record = tree.edit(&self.base, &mut change, ino)?;
        if let Some(stamp) = stamp {
            record.set_size(stamp.size, stamp.blocks);
            record.object_mtime = Some(stamp.mtime);
        }
        (record.mtime, record.ctime) = (now, now);
        tree.commit(change)
    }

    /// Copies up to `len` bytes between two files (or within one) and says how many it were.
    ///
    /// `from` and `to`: inode, handle, offset; `kill`: the caller [takes privileges](Self::takes_privileges) away.
    /// Errors: `WrongAccess`, `Invalid` for overlapping
    /// ranges of one file, `TooLarge`, `Base`, `Store`.
    pub fn copy_range(
        &self,
        from: (Ino, Fh, u64),
        to: (Ino, Fh, u64),
        len: u64,
        kill: bool,
    ) -> Result<u64, FsError> {
        let len = len.min(COPY_RANGE_MAX_BYTES);
        let apart = from.2.abs_diff(to.2) >= len;
        if from.0 == to.0 && !apart {
            return Err(FsError::Invalid("overlapping ranges of one file"));
        }
        if to.1 == Fh::NONE {
            self.meet_unopened(to.0, to.2, false)?;
        }
        let mut buf = vec![0; len.min(COPY_CHUNK_BYTES) as usize];
        let mut done = 0;
        while done < len {
            let want = buf.len().min((len - done) as usize);
            let copied = self
                .read(from.0, from.1, from.2 + done, &mut buf[..want])
                .and_then(|got| {
                    let put = match got {
                        0 => 0,
                        _ => self.write(to.0, to.1, to.2 + done, &buf[..got], kill)?,
                    };
                    Ok((got, put))
                });
            let (got, put) = match copied {
                // As with write(2): an error after some bytes comes with the next call.
                Err(_) if done > 0 => break,
                other => other?,
            };
            done += put as u64;
            if put == 0 || put < got {
                break;
            }
        }
        Ok(done)
    }

    /// The offset of the next data (`SEEK_DATA`) or hole (`SEEK_HOLE`) at or after `offset`.
    ///
    /// Errors: `NoData` past the end, `Invalid` for another `whence`, `Base`, `Store`.
    pub fn lseek(&self, ino: Ino, fh: Fh, offset: i64, whence: i32) -> Result<i64, FsError> {
        let data = match whence {
            nix::libc::SEEK_DATA => true,
            nix::libc::SEEK_HOLE => false,
            _ => return Err(FsError::Invalid("only SEEK_DATA and SEEK_HOLE come here")),
        };
        let start = u64::try_from(offset).map_err(|_| FsError::NoData)?;
        let handle = self.handle(ino, fh)?;
        let bytes = crate::sync::read(&handle.stream.bytes);
        let found = match &*bytes {
            Bytes::Empty => None,
            Bytes::Base { file, .. } => seek_file(file, start, data)?,
            Bytes::Object { file, .. } => {
                let what = if data { SeekFor::Data } else { SeekFor::Hole };
                file.seek(what, start)?
            }
            Bytes::Extents(e) => seek_extents(e, start, data)?,
        };
        found.map(|at| at as i64).ok_or(FsError::NoData)
    }
}

fn seek_file(file: &std::fs::File, start: u64, data: bool) -> Result<Option<u64>, FsError> {
    use rustix::fs::SeekFrom;
    let whence = if data {
        SeekFrom::Data(start)
    } else {
        SeekFrom::Hole(start)
    };
    match rustix::fs::seek(file, whence) {
        Ok(at) => Ok(Some(at)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(e) => Err(FsError::Base {
            op: "seek",
            source: e.into(),
        }),
    }
}

/// Data of a file of extents is what the object or base file behind each extent has as data.
fn seek_extents(
    extents: &crate::core::stream::Extents,
    start: u64,
    data: bool,
) -> Result<Option<u64>, FsError> {
    let size = extents.own.1.len()?;
    if start >= size {
        return Ok(None);
    }
    let what = if data { SeekFor::Data } else { SeekFor::Hole };
    for piece in extents::pieces(&extents.map, start, size) {
        let below_bytes = extents.base_bytes.saturating_sub(piece.offset);
        // What the piece's own file finds, and how much of the piece that file has a say in.
        let (found, visible) = match (piece.source, &extents.base) {
            (Some(ExtentSource::Object(id)), _) => {
                (extents.object(id)?.seek(what, piece.offset)?, piece.len)
            }
            (None, Some(base)) if below_bytes > 0 => (
                seek_file(base, piece.offset, data)?,
                below_bytes.min(piece.len),
            ),
            _ => (None, 0),
        };
        let end = piece.offset + visible;
        match found.filter(|at| *at < end) {
            Some(at) => return Ok(Some(at)),
            // No data in all of it, or none behind it: the hole begins here.
            None if !data && (found.is_none() || visible < piece.len) => {
                return Ok(Some(if found.is_none() { piece.offset } else { end }));
            }
            None => {}
        }
    }
    Ok(if data { None } else { Some(size) })
}
