//! Answers in the form that the kernel reads. How they get there is the transport's: a [`Way`].
//! Source: linux/fuse.h.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo};
use nix::libc;

use crate::core::types::FsStat;
use crate::fuse::backing::Backing;
use crate::fuse::transport::{
    AttrReply, CreateReply, DataReply, EmptyReply, End, EntryReply, IoctlReply, ListingPlusReply,
    ListingReply, LseekReply, OpenReply, Reply, StatfsReply, WriteReply, XattrReply,
};

/// Room for the longest answer of a fixed length (an entry and an open file), or what stands before
/// a name in a listing.
const BODY_BYTES: usize = ENTRY_BYTES + DIRENT_BYTES;
/// `struct fuse_entry_out` and `struct fuse_dirent`, without the name.
const ENTRY_BYTES: usize = 128;
const DIRENT_BYTES: usize = 24;

/// An answer in the form of the protocol.
#[derive(Debug)]
pub(in crate::fuse) enum Sent<'a> {
    /// It failed, with this errno.
    Error(i32),
    /// Numbers.
    Short(Words),
    /// What lies here, at the beginning of the room that was given.
    InPlace(&'a [u8]),
}

/// What takes the answer to one request to the kernel.
pub(in crate::fuse) trait Way: std::fmt::Debug + Send + 'static {
    /// Sends it, from any thread.
    fn send(self, answer: Sent<'_>);
}

/// The answer that is owed to one request.
#[derive(Debug)]
pub(in crate::fuse) struct Answer<W: Way> {
    /// Taken when it is used.
    way: Option<W>,
}

impl<W: Way> Answer<W> {
    pub(in crate::fuse) fn new(way: W) -> Self {
        Self { way: Some(way) }
    }

    fn send(&mut self, answer: Sent<'_>) {
        if let Some(way) = self.way.take() {
            way.send(answer);
        }
    }

    fn short(mut self, words: Words) {
        self.send(Sent::Short(words));
    }
}

impl<W: Way> Drop for Answer<W> {
    fn drop(&mut self) {
        self.send(Sent::Error(libc::EIO));
    }
}

/// Numbers in a row, as long as an answer of a fixed length may be.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::fuse) struct Words {
    bytes: [u8; BODY_BYTES],
    used: usize,
}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bytes().fmt(f)
    }
}

impl Words {
    fn new() -> Self {
        Self {
            bytes: [0; BODY_BYTES],
            used: 0,
        }
    }

    pub(in crate::fuse) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    fn add(mut self, bytes: &[u8]) -> Self {
        self.bytes[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
        self
    }

    fn u32(self, value: u32) -> Self {
        self.add(&value.to_ne_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.add(&value.to_ne_bytes())
    }

    /// `struct fuse_attr`.
    fn attr(self, attr: &FileAttr) -> Self {
        let [atime, mtime, ctime] = [attr.atime, attr.mtime, attr.ctime].map(seconds);
        self.u64(attr.ino.0)
            .u64(attr.size)
            .u64(attr.blocks)
            .u64(atime.0.cast_unsigned())
            .u64(mtime.0.cast_unsigned())
            .u64(ctime.0.cast_unsigned())
            .u32(atime.1)
            .u32(mtime.1)
            .u32(ctime.1)
            .u32(format(attr.kind) | u32::from(attr.perm))
            .u32(attr.nlink)
            .u32(attr.uid)
            .u32(attr.gid)
            .u32(attr.rdev)
            .u32(attr.blksize)
            .u32(0)
    }

    /// `struct fuse_entry_out`.
    fn entry(self, ttl: &Duration, attr: &FileAttr, generation: Generation) -> Self {
        self.u64(attr.ino.0)
            .u64(generation.0)
            .u64(ttl.as_secs())
            .u64(ttl.as_secs())
            .u32(ttl.subsec_nanos())
            .u32(ttl.subsec_nanos())
            .attr(attr)
    }

    /// `struct fuse_open_out`.
    fn open(self, fh: FileHandle, flags: FopenFlags, backing: Option<&Backing>) -> Self {
        let (more, id) = match backing {
            Some(backing) => (FopenFlags::FOPEN_PASSTHROUGH, backing.id()),
            None => (FopenFlags::empty(), 0),
        };
        self.u64(fh.0).u32((flags | more).bits()).u32(id)
    }

    /// `struct fuse_dirent`, without the name.
    fn dirent(self, ino: INodeNo, cookie: u64, kind: FileType, name: &OsStr) -> Self {
        self.u64(ino.0)
            .u64(cookie)
            .u32(name.len() as u32)
            .u32(format(kind) >> 12)
    }
}

/// A time as the protocol has it: nanoseconds after a second that may be before 1970.
fn seconds(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (after.as_secs().cast_signed(), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let whole = before.as_secs().cast_signed().wrapping_neg();
            match before.subsec_nanos() {
                0 => (whole, 0),
                nanos => (whole.wrapping_sub(1), 1_000_000_000 - nanos),
            }
        }
    }
}

/// The bits of `st_mode` for a type.
fn format(kind: FileType) -> u32 {
    match kind {
        FileType::NamedPipe => libc::S_IFIFO,
        FileType::CharDevice => libc::S_IFCHR,
        FileType::BlockDevice => libc::S_IFBLK,
        FileType::Directory => libc::S_IFDIR,
        FileType::RegularFile => libc::S_IFREG,
        FileType::Symlink => libc::S_IFLNK,
        FileType::Socket => libc::S_IFSOCK,
    }
}

impl<W: Way> Reply for Answer<W> {
    fn error(mut self, errno: Errno) {
        self.send(Sent::Error(errno.code()));
    }
}

impl<W: Way> EmptyReply for Answer<W> {
    fn ok(self) {
        self.short(Words::new());
    }
}

impl<W: Way> WriteReply for Answer<W> {
    fn written(self, bytes: u32) {
        self.short(Words::new().u32(bytes).u32(0));
    }
}

impl<W: Way> EntryReply for Answer<W> {
    fn entry(self, ttl: &Duration, attr: &FileAttr, generation: Generation) {
        self.short(Words::new().entry(ttl, attr, generation));
    }
}

impl<W: Way> AttrReply for Answer<W> {
    fn attr(self, ttl: &Duration, attr: &FileAttr) {
        let words = Words::new().u64(ttl.as_secs()).u32(ttl.subsec_nanos());
        self.short(words.u32(0).attr(attr));
    }
}

impl<W: Way> OpenReply for Answer<W> {
    fn opened(self, fh: FileHandle, flags: FopenFlags) {
        self.short(Words::new().open(fh, flags, None));
    }

    fn opened_passthrough(self, fh: FileHandle, flags: FopenFlags, backing: &Backing) {
        self.short(Words::new().open(fh, flags, Some(backing)));
    }
}

impl<W: Way> CreateReply for Answer<W> {
    fn created(
        self,
        ttl: &Duration,
        attr: &FileAttr,
        generation: Generation,
        fh: FileHandle,
        flags: FopenFlags,
    ) {
        let words = Words::new().entry(ttl, attr, generation);
        self.short(words.open(fh, flags, None));
    }

    fn created_passthrough(
        self,
        ttl: &Duration,
        attr: &FileAttr,
        generation: Generation,
        fh: FileHandle,
        flags: FopenFlags,
        backing: &Backing,
    ) {
        let words = Words::new().entry(ttl, attr, generation);
        self.short(words.open(fh, flags, Some(backing)));
    }
}

impl<W: Way> StatfsReply for Answer<W> {
    fn statfs(self, stat: &FsStat) {
        let words = Words::new()
            .u64(stat.blocks)
            .u64(stat.blocks_free)
            .u64(stat.blocks_available)
            .u64(stat.files)
            .u64(stat.files_free)
            .u32(stat.block_bytes)
            .u32(stat.name_max)
            .u32(stat.block_bytes)
            .add(&[0; 28]);
        self.short(words);
    }
}

impl<W: Way> LseekReply for Answer<W> {
    fn offset(self, offset: i64) {
        self.short(Words::new().u64(offset.cast_unsigned()));
    }
}

impl<W: Way> IoctlReply for Answer<W> {
    fn ioctl(self, result: i32, data: &[u8]) {
        // Without further room for either side: that is for unrestricted ioctls.
        let words = Words::new().u32(result.cast_unsigned()).add(&[0; 12]);
        self.short(words.add(data));
    }
}

/// The way back for a request whose answer may be long: it is written where it is to lie.
#[derive(Debug)]
pub(in crate::fuse) struct Bulk<'a, W: Way> {
    answer: Answer<W>,
    room: &'a mut [u8],
    used: usize,
}

impl<'a, W: Way> Bulk<'a, W> {
    /// The kernel wants `most` bytes at the most.
    pub(in crate::fuse) fn new(answer: Answer<W>, payload: &'a mut [u8], most: usize) -> Self {
        let most = most.min(payload.len());
        Self {
            answer,
            room: &mut payload[..most],
            used: 0,
        }
    }

    fn finish(mut self) {
        self.answer.send(Sent::InPlace(&self.room[..self.used]));
    }

    /// Adds an entry of a listing, filled up to a multiple of eight bytes. `true`: no room for it.
    fn entry(&mut self, head: &Words, name: &OsStr) -> bool {
        let bytes = head.used + name.len();
        let end = self.used + bytes.next_multiple_of(8);
        let Some(room) = self.room.get_mut(self.used..end) else {
            return true;
        };
        room[..head.used].copy_from_slice(head.bytes());
        room[head.used..bytes].copy_from_slice(name.as_bytes());
        room[bytes..].fill(0);
        self.used = end;
        false
    }
}

impl<W: Way> Reply for Bulk<'_, W> {
    fn error(self, errno: Errno) {
        self.answer.error(errno);
    }
}

impl<W: Way> DataReply for Bulk<'_, W> {
    fn data(mut self, data: &[u8]) {
        match self.room.get_mut(..data.len()) {
            Some(room) => {
                room.copy_from_slice(data);
                self.used = data.len();
                self.finish();
            }
            None => self.error(Errno::EIO),
        }
    }

    fn fill(mut self, size: usize, fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) {
        let size = size.min(self.room.len());
        match fill(&mut self.room[..size]) {
            Ok(bytes) => {
                self.used = bytes.min(size);
                self.finish();
            }
            Err(errno) => self.error(errno),
        }
    }
}

impl<W: Way> XattrReply for Bulk<'_, W> {
    fn size(self, size: u32) {
        self.answer.short(Words::new().u32(size).u32(0));
    }

    fn data(self, data: &[u8]) {
        DataReply::data(self, data);
    }
}

impl<W: Way> ListingReply for Bulk<'_, W> {
    fn add(&mut self, ino: INodeNo, cookie: u64, kind: FileType, name: &OsStr) -> bool {
        let head = Words::new().dirent(ino, cookie, kind, name);
        debug_assert_eq!(head.used, DIRENT_BYTES);
        self.entry(&head, name)
    }

    fn ok(self) {
        self.finish();
    }

    fn end(self) -> End {
        let answer = self.answer;
        Box::new(move || EmptyReply::ok(answer))
    }
}

impl<W: Way> ListingPlusReply for Bulk<'_, W> {
    fn add(
        &mut self,
        ino: INodeNo,
        cookie: u64,
        name: &OsStr,
        ttl: &Duration,
        attr: &FileAttr,
        generation: Generation,
    ) -> bool {
        let head = Words::new().entry(ttl, attr, generation);
        let head = head.dirent(ino, cookie, attr.kind, name);
        debug_assert_eq!(head.used, ENTRY_BYTES + DIRENT_BYTES);
        self.entry(&head, name)
    }

    fn ok(self) {
        self.finish();
    }

    fn end(self) -> End {
        let answer = self.answer;
        Box::new(move || EmptyReply::ok(answer))
    }
}
