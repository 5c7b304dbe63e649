//! A mount that notes what it is asked, and answers with always the same.

use std::ffi::OsStr;
use std::io;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, KernelConfig,
    OpenFlags, RenameFlags, WriteFlags,
};

use crate::core::types::{FsStat, SetAttr};
use crate::fuse::transport::{
    Asker, AttrReply, CreateReply, DataReply, EmptyReply, EntryReply, IoctlReply, ListingPlusReply,
    ListingReply, LseekReply, OpenReply, Operations, StatfsReply, WriteReply, XattrReply,
};
use crate::sync::{Mutex, lock};

pub(super) const TTL: Duration = Duration::new(9, 8);
pub(super) const ROOM: usize = 8192;

/// Notes what it is asked, and answers with always the same.
#[derive(Default)]
pub(super) struct Notes(pub(super) Mutex<Vec<String>>);

impl Notes {
    fn see(&self, req: &Asker, what: std::fmt::Arguments<'_>) {
        let Asker {
            unique,
            uid,
            gid,
            pid,
        } = req;
        assert_eq!((*unique, *uid, *gid, *pid), (42, 1000, 100, 7));
        lock(&self.0).push(what.to_string());
    }
}

fn attr() -> FileAttr {
    FileAttr {
        ino: INodeNo(5),
        size: 0x1_0000_0002,
        blocks: 3,
        atime: UNIX_EPOCH + Duration::new(10, 11),
        // A fifth of a second before 1970.
        mtime: UNIX_EPOCH - Duration::from_millis(200),
        ctime: UNIX_EPOCH - Duration::from_secs(2),
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0o4755,
        nlink: 2,
        uid: 20,
        gid: 21,
        rdev: 22,
        blksize: 4096,
        flags: 0,
    }
}

/// `struct fuse_attr` of that, in words.
pub(super) const ATTR: [u32; 22] = [
    5,
    0,
    2,
    1,
    3,
    0,
    10,
    0,
    !0,
    !0,
    !1,
    !0,
    11,
    800_000_000,
    0,
    0o104_755,
    2,
    20,
    21,
    22,
    4096,
    0,
];
/// `struct fuse_entry_out` before the attributes.
pub(super) const ENTRY: [u32; 10] = [5, 0, 6, 0, 9, 0, 9, 0, 8, 8];

impl Operations for Notes {
    fn negotiate(&self, _: &mut KernelConfig) -> io::Result<()> {
        Ok(())
    }

    fn lookup(&self, req: &Asker, at: INodeNo, name: &OsStr, reply: impl EntryReply) {
        self.see(req, format_args!("lookup {at} {name:?}"));
        reply.entry(&TTL, &attr(), Generation(6));
    }

    fn forget(&self, req: &Asker, ino: INodeNo, lookups: u64) {
        self.see(req, format_args!("forget {ino} {lookups}"));
    }

    fn getattr(&self, req: &Asker, ino: INodeNo, reply: impl AttrReply) {
        self.see(req, format_args!("getattr {ino}"));
        reply.attr(&TTL, &attr());
    }

    fn setattr(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: Option<FileHandle>,
        set: &SetAttr,
        reply: impl AttrReply,
    ) {
        self.see(req, format_args!("setattr {ino} {fh:?} {set:?}"));
        reply.attr(&TTL, &attr());
    }

    fn readlink(&self, req: &Asker, ino: INodeNo, reply: impl DataReply) {
        self.see(req, format_args!("readlink {ino}"));
        reply.data(b"target");
    }

    fn mknod(
        &self,
        req: &Asker,
        at: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: impl EntryReply,
    ) {
        self.see(
            req,
            format_args!("mknod {at} {name:?} {mode:o} {umask:o} {rdev}"),
        );
        reply.error(Errno::EPERM);
    }

    fn mkdir(
        &self,
        req: &Asker,
        at: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: impl EntryReply,
    ) {
        self.see(req, format_args!("mkdir {at} {name:?} {mode:o} {umask:o}"));
        reply.error(Errno::EEXIST);
    }

    fn symlink(
        &self,
        req: &Asker,
        at: INodeNo,
        name: &OsStr,
        target: &OsStr,
        reply: impl EntryReply,
    ) {
        self.see(req, format_args!("symlink {at} {name:?} {target:?}"));
        reply.error(Errno::EEXIST);
    }

    fn link(&self, req: &Asker, ino: INodeNo, at: INodeNo, name: &OsStr, reply: impl EntryReply) {
        self.see(req, format_args!("link {ino} {at} {name:?}"));
        reply.error(Errno::EMLINK);
    }

    fn unlink(&self, req: &Asker, at: INodeNo, name: &OsStr, reply: impl EmptyReply) {
        self.see(req, format_args!("unlink {at} {name:?}"));
        reply.ok();
    }

    fn rmdir(&self, req: &Asker, at: INodeNo, name: &OsStr, reply: impl EmptyReply) {
        self.see(req, format_args!("rmdir {at} {name:?}"));
        reply.error(Errno::ENOTEMPTY);
    }

    fn rename(
        &self,
        req: &Asker,
        at: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: impl EmptyReply,
    ) {
        let flags = flags.bits();
        self.see(
            req,
            format_args!("rename {at} {name:?} {to} {to_name:?} {flags}"),
        );
        reply.ok();
    }

    fn open(&self, req: &Asker, ino: INodeNo, flags: OpenFlags, reply: impl OpenReply) {
        self.see(req, format_args!("open {ino} {:#x}", flags.0));
        reply.opened(FileHandle(77), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn create(
        &self,
        req: &Asker,
        at: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: impl CreateReply,
    ) {
        self.see(
            req,
            format_args!("create {at} {name:?} {mode:o} {umask:o} {flags:#x}"),
        );
        let flags = FopenFlags::FOPEN_NOFLUSH;
        reply.created(&TTL, &attr(), Generation(6), FileHandle(77), flags);
    }

    fn read(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        reply: impl DataReply,
    ) {
        self.see(req, format_args!("read {ino} {fh} {offset} {size}"));
        reply.fill(size as usize, |room| {
            assert_eq!(room.len(), size as usize);
            room[..3].copy_from_slice(b"abc");
            Ok(3)
        });
    }

    fn write(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        reply: impl WriteReply,
    ) {
        let (kind, flags) = (write_flags.bits(), flags.0);
        self.see(
            req,
            format_args!("write {ino} {fh} {offset} {data:?} {kind} {flags:#x}"),
        );
        reply.written(data.len() as u32);
    }

    fn release(&self, req: &Asker, ino: INodeNo, fh: FileHandle, reply: impl EmptyReply) {
        self.see(req, format_args!("release {ino} {fh}"));
        reply.ok();
    }

    fn fsync(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: impl EmptyReply,
    ) {
        self.see(req, format_args!("fsync {ino} {fh} {datasync}"));
        // Elsewhere, and later.
        std::thread::spawn(move || reply.ok());
    }

    fn fsyncdir(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: impl EmptyReply,
    ) {
        self.see(req, format_args!("fsyncdir {ino} {fh} {datasync}"));
        // Forgotten.
        drop(reply);
    }

    fn fallocate(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: impl EmptyReply,
    ) {
        self.see(
            req,
            format_args!("fallocate {ino} {fh} {offset} {length} {mode}"),
        );
        reply.error(Errno::ENOSPC);
    }

    fn lseek(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: impl LseekReply,
    ) {
        self.see(req, format_args!("lseek {ino} {fh} {offset} {whence}"));
        reply.offset(0x1_0000_0002);
    }

    fn opendir(&self, req: &Asker, ino: INodeNo, reply: impl OpenReply) {
        self.see(req, format_args!("opendir {ino}"));
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn readdir(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: impl ListingReply,
    ) {
        self.see(req, format_args!("readdir {ino} {fh} {offset}"));
        if offset == 99 {
            std::thread::spawn(reply.end());
            return;
        }
        let name = OsStr::new("name");
        assert!(!reply.add(INodeNo(8), 9, FileType::Directory, name));
        assert!(!reply.add(INodeNo(10), 11, FileType::Symlink, OsStr::new("12345678")));
        assert!(
            reply.add(INodeNo(12), 13, FileType::Socket, name),
            "no room"
        );
        reply.ok();
    }

    fn readdirplus(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: impl ListingPlusReply,
    ) {
        self.see(req, format_args!("readdirplus {ino} {fh} {offset}"));
        let name = OsStr::new("name");
        assert!(!reply.add(INodeNo(5), 9, name, &TTL, &attr(), Generation(6)));
        reply.ok();
    }

    fn statfs(&self, req: &Asker, ino: INodeNo, reply: impl StatfsReply) {
        self.see(req, format_args!("statfs {ino}"));
        reply.statfs(&FsStat {
            blocks: 1,
            blocks_free: 2,
            blocks_available: 3,
            files: 4,
            files_free: 5,
            block_bytes: 6,
            name_max: 7,
        });
    }

    fn setxattr(
        &self,
        req: &Asker,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        reply: impl EmptyReply,
    ) {
        self.see(
            req,
            format_args!("setxattr {ino} {name:?} {value:?} {flags}"),
        );
        reply.ok();
    }

    fn getxattr(&self, req: &Asker, ino: INodeNo, name: &OsStr, size: u32, reply: impl XattrReply) {
        self.see(req, format_args!("getxattr {ino} {name:?} {size}"));
        match size {
            0 => reply.size(300),
            _ => reply.data(b"value"),
        }
    }

    fn listxattr(&self, req: &Asker, ino: INodeNo, size: u32, reply: impl XattrReply) {
        self.see(req, format_args!("listxattr {ino} {size}"));
        reply.error(Errno::ERANGE);
    }

    fn removexattr(&self, req: &Asker, ino: INodeNo, name: &OsStr, reply: impl EmptyReply) {
        self.see(req, format_args!("removexattr {ino} {name:?}"));
        reply.ok();
    }

    fn access(&self, req: &Asker, ino: INodeNo, mask: u32, reply: impl EmptyReply) {
        self.see(req, format_args!("access {ino} {mask}"));
        reply.ok();
    }

    fn ioctl(
        &self,
        req: &Asker,
        ino: INodeNo,
        cmd: u32,
        data: &[u8],
        out_size: u32,
        reply: impl IoctlReply,
    ) {
        self.see(req, format_args!("ioctl {ino} {cmd} {data:?} {out_size}"));
        reply.ioctl(-1, b"data");
    }

    fn copy_file_range(
        &self,
        req: &Asker,
        from: (INodeNo, FileHandle, u64),
        to: (INodeNo, FileHandle, u64),
        len: u64,
        reply: impl WriteReply,
    ) {
        self.see(req, format_args!("copy {from:?} {to:?} {len}"));
        reply.written(12);
    }
}
