//! Requests as the kernel lays them out, and answers as it reads them. Source: linux/fuse.h.

use std::ffi::OsStr;
use std::io;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, KernelConfig,
    OpenFlags, RenameFlags, WriteFlags,
};
use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};

use crate::core::types::{FsStat, SetAttr};
use crate::fuse::ring::answer::{Answer, Body, Outcomes};
use crate::fuse::ring::dispatch;
use crate::fuse::ring::sys::HEADER_BYTES;
use crate::fuse::transport::{
    Asker, AttrReply, CreateReply, DataReply, EmptyReply, EntryReply, IoctlReply, ListingPlusReply,
    ListingReply, LseekReply, OpenReply, Operations, StatfsReply, WriteReply, XattrReply,
};
use crate::sync::{Arc, Mutex, lock};

const TTL: Duration = Duration::new(9, 8);
const ROOM: usize = 8192;

/// Notes what it is asked, and answers with always the same.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

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
const ATTR: [u32; 22] = [
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
const ENTRY: [u32; 10] = [5, 0, 6, 0, 9, 0, 9, 0, 8, 8];

impl Operations for Notes {
    fn negotiate(&self, _: &mut KernelConfig) -> io::Result<()> {
        Ok(())
    }

    fn lookup(&self, req: &Asker, at: INodeNo, name: &OsStr, reply: impl EntryReply) {
        self.see(req, format_args!("lookup {at} {name:?}"));
        reply.entry(&TTL, &attr(), Generation(6));
    }

    fn forget(&self, _: &Asker, _: INodeNo, _: u64) {}

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

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A request of user 1000 about inode 5.
fn header(opcode: u32, operation: &[u32], payload: usize) -> [u8; HEADER_BYTES] {
    let operation = bytes(operation);
    let length = (40 + operation.len() + payload) as u32;
    let mut header = [0xee; HEADER_BYTES];
    let head = [length, opcode, 42, 0, 5, 0, 1000, 100, 7, 0];
    header[..40].copy_from_slice(&bytes(&head));
    header[128..128 + operation.len()].copy_from_slice(&operation);
    header[272..276].copy_from_slice(&(payload as u32).to_ne_bytes());
    header
}

/// What is asked of whom, and what is answered: the payload, or the errno.
fn served(header: &[u8; HEADER_BYTES], sent: &[u8]) -> (Vec<String>, Result<Vec<u8>, i32>) {
    let notes = Notes::default();
    let wake = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
    let wake = Arc::new(wake);
    let outcomes = Arc::new(Outcomes::new(Arc::clone(&wake)));
    let mut payload = vec![0xee; ROOM];
    payload[..sent.len()].copy_from_slice(sent);
    dispatch::serve(
        &notes,
        header,
        &mut payload,
        Answer::new(3, Arc::clone(&outcomes)),
    );
    // No thread has said that it is the one that looks: so each answer wakes it.
    let mut count = [0; 8];
    rustix::io::read(&*wake, &mut count).expect("an answer");
    let mut list = Vec::new();
    outcomes.take(&mut list);
    assert_eq!(
        (u64::from_ne_bytes(count), list.len()),
        (1, 1),
        "one answer"
    );
    assert_eq!(list[0].slot, 3);
    let answer = match &list[0].answer {
        Ok(Body::Short(words)) => Ok(words.bytes().to_vec()),
        Ok(Body::InPlace(bytes)) => Ok(payload[..*bytes].to_vec()),
        Err(errno) => Err(*errno),
    };
    let asked = std::mem::take(&mut *lock(&notes.0));
    (asked, answer)
}

/// Serves one request.
fn serve(opcode: u32, operation: &[u32], sent: &[u8]) -> (String, Result<Vec<u8>, i32>) {
    let (asked, answer) = served(&header(opcode, operation, sent.len()), sent);
    (asked.join(", "), answer)
}

fn words(parts: &[&[u32]]) -> Result<Vec<u8>, i32> {
    Ok(bytes(&parts.concat()))
}

#[test]
fn names_in_directories() {
    let asked = |text: &str, answer| (text.to_owned(), answer);
    let entry = words(&[&ENTRY, &ATTR]);
    assert_eq!(serve(1, &[], b"n\xff\0").0, "lookup 5 \"n\\xFF\"");
    assert_eq!(serve(1, &[], b"n\0").1, entry);
    let made = serve(8, &[0o100_644, 259, 0o22, 0], b"n\0");
    assert_eq!(made, asked("mknod 5 \"n\" 100644 22 259", Err(1)));
    let made = serve(9, &[0o755, 0o22], b"n\0");
    assert_eq!(made, asked("mkdir 5 \"n\" 755 22", Err(17)));
    let made = serve(6, &[], b"n\0to\0");
    assert_eq!(made, asked("symlink 5 \"n\" \"to\"", Err(17)));
    let made = serve(13, &[6, 0], b"n\0");
    assert_eq!(made, asked("link 6 5 \"n\"", Err(31)));
    assert_eq!(serve(10, &[], b"n\0"), asked("unlink 5 \"n\"", Ok(vec![])));
    assert_eq!(serve(11, &[], b"n\0"), asked("rmdir 5 \"n\"", Err(39)));
    let moved = serve(12, &[6, 0], b"a\0b\0");
    assert_eq!(moved, asked("rename 5 \"a\" 6 \"b\" 0", Ok(vec![])));
    let moved = serve(45, &[6, 0, 2, 0], b"a\0b\0");
    assert_eq!(moved, asked("rename 5 \"a\" 6 \"b\" 2", Ok(vec![])));
    let made = serve(35, &[0x8241, 0o100_644, 0o22, 0], b"n\0");
    let open = [77, 0, FopenFlags::FOPEN_NOFLUSH.bits(), 0];
    assert_eq!(
        made,
        asked(
            "create 5 \"n\" 100644 22 0x8241",
            words(&[&ENTRY, &ATTR, &open])
        )
    );
}

#[test]
fn attributes() {
    let attr_out = words(&[&[9, 0, 8, 0], &ATTR]);
    assert_eq!(
        serve(3, &[0; 4], b""),
        ("getattr 5".into(), attr_out.clone())
    );
    let set = |valid: u32| {
        let mut words = [0; 22];
        words[..8].copy_from_slice(&[valid, 0, 7, 0, 9, 1, 0, 0]);
        // Three times, of which the second lies before 1970; then their nanoseconds, and the mode.
        words[8..18].copy_from_slice(&[1, 0, !1, !0, 3, 0, 11, 12, 13, 0o104_711]);
        words[18..].copy_from_slice(&[0, 20, 21, 0]);
        serve(4, &words, b"")
    };
    let (asked, answer) = set(0);
    let none = SetAttr::default();
    assert_eq!(asked, format!("setattr 5 None {none:?}"));
    assert_eq!(answer, attr_out);
    // All but "now", and who holds which lock.
    let all = "setattr 5 Some(FileHandle(7)) SetAttr { perm: Some(2505), uid: Some(20), \
               gid: Some(21), size: Some(4294967305), \
               atime: Some(At(Time { sec: 1, nsec: 11 })), \
               mtime: Some(At(Time { sec: -2, nsec: 12 })), \
               ctime: Some(Time { sec: 3, nsec: 13 }) }";
    assert_eq!(set(0x47f).0, all);
    let now = SetAttr {
        atime: Some(crate::core::types::TimeSet::Now),
        mtime: Some(crate::core::types::TimeSet::Now),
        ..SetAttr::default()
    };
    assert_eq!(set(0x1b0).0, format!("setattr 5 None {now:?}"));
    let stat = words(&[&[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 7, 6, 0], &[0; 6]]);
    assert_eq!(serve(17, &[], b""), ("statfs 5".into(), stat));
    assert_eq!(serve(34, &[4, 0], b""), ("access 5 4".into(), Ok(vec![])));
}

#[test]
fn files() {
    let keep = FopenFlags::FOPEN_KEEP_CACHE.bits();
    let opened = serve(14, &[0x8002, 0], b"");
    assert_eq!(
        opened,
        ("open 5 0x8002".into(), words(&[&[77, 0, keep, 0]]))
    );
    let read = [77, 0, 4096, 1, 512, 0, 0, 0, 0, 0];
    let got = serve(15, &read, b"");
    assert_eq!(
        got,
        ("read 5 77 4294971392 512".into(), Ok(b"abc".to_vec()))
    );
    let write = [77, 0, 4096, 1, 3, 4, 0, 0, 0x401, 0];
    let put = serve(16, &write, b"abc");
    let asked = "write 5 77 4294971392 [97, 98, 99] 4 0x401";
    assert_eq!(put, (asked.into(), words(&[&[3, 0]])));
    let closed = serve(18, &[77, 0, 0, 0, 0, 0], b"");
    assert_eq!(closed, ("release 5 77".into(), Ok(vec![])));
    let synced = serve(20, &[77, 0, 1, 0], b"");
    assert_eq!(synced, ("fsync 5 77 true".into(), Ok(vec![])));
    // Whoever forgets to answer has failed.
    let synced = serve(30, &[77, 0, 0, 0], b"");
    assert_eq!(synced, ("fsyncdir 5 77 false".into(), Err(5)));
    let made = serve(43, &[77, 0, 1, 0, 2, 0, 3, 0], b"");
    assert_eq!(made, ("fallocate 5 77 1 2 3".into(), Err(28)));
    let found = serve(46, &[77, 0, !0, !0, 4, 0], b"");
    assert_eq!(found, ("lseek 5 77 -1 4".into(), words(&[&[2, 1]])));
    let copied = serve(47, &[77, 0, 1, 0, 6, 0, 78, 0, 2, 0, 3, 0, 0, 0], b"");
    let asked = "copy (INodeNo(5), FileHandle(77), 1) (INodeNo(6), FileHandle(78), 2) 3";
    assert_eq!(copied, (asked.into(), words(&[&[12, 0]])));
    let asked = serve(39, &[77, 0, 0, 0x6601, 0, 0, 2, 9], b"ab");
    let mut answer = bytes(&[!0, 0, 0, 0]);
    answer.extend(b"data");
    assert_eq!(asked, ("ioctl 5 26113 [97, 98] 9".into(), Ok(answer)));
    // An ioctl without bounds, as only CUSE has it.
    assert_eq!(
        serve(39, &[77, 0, 2, 1, 0, 0, 0, 0], b""),
        (String::new(), Err(38))
    );
    assert_eq!(
        serve(5, &[], b""),
        ("readlink 5".into(), Ok(b"target".to_vec()))
    );
}

#[test]
fn directories() {
    assert_eq!(
        serve(27, &[0, 0], b""),
        ("opendir 5".into(), words(&[&[0; 4]]))
    );
    // Room for two entries and not for a third.
    let read = [77, 0, 6, 0, 32 + 32 + 24, 0, 0, 0, 0, 0];
    let (asked, answer) = serve(28, &read, b"");
    assert_eq!(asked, "readdir 5 77 6");
    let mut listing = bytes(&[8, 0, 9, 0, 4, 4]);
    listing.extend(b"name\0\0\0\0");
    listing.extend(bytes(&[10, 0, 11, 0, 8, 10]));
    listing.extend(b"12345678");
    assert_eq!(answer, Ok(listing));
    // Nothing more, said elsewhere.
    let read = [77, 0, 99, 0, 4096, 0, 0, 0, 0, 0];
    assert_eq!(serve(28, &read, b"").1, Ok(vec![]));
    let read = [77, 0, 6, 0, 4096, 0, 0, 0, 0, 0];
    let (asked, answer) = serve(44, &read, b"");
    assert_eq!(asked, "readdirplus 5 77 6");
    let mut listing = bytes(&[&ENTRY[..], &ATTR, &[5, 0, 9, 0, 4, 8]].concat());
    listing.extend(b"name\0\0\0\0");
    assert_eq!(answer, Ok(listing));
    assert_eq!(serve(29, &[77, 0, 0, 0, 0, 0], b"").1, Ok(vec![]));
}

#[test]
fn extended_attributes() {
    let set = serve(21, &[3, 1], b"user.a\0xyz");
    assert_eq!(
        set,
        ("setxattr 5 \"user.a\" [120, 121, 122] 1".into(), Ok(vec![]))
    );
    let got = serve(22, &[100, 0], b"user.a\0");
    assert_eq!(
        got,
        ("getxattr 5 \"user.a\" 100".into(), Ok(b"value".to_vec()))
    );
    assert_eq!(serve(22, &[0, 0], b"user.a\0").1, words(&[&[300, 0]]));
    // More than was asked for can only be a mistake.
    assert_eq!(serve(22, &[4, 0], b"user.a\0").1, Err(5));
    assert_eq!(serve(23, &[9, 0], b""), ("listxattr 5 9".into(), Err(34)));
    let gone = serve(24, &[], b"user.a\0");
    assert_eq!(gone, ("removexattr 5 \"user.a\"".into(), Ok(vec![])));
}

#[test]
fn what_is_not_here_is_not_here() {
    // FLUSH, GETLK, BMAP, POLL, TMPFILE, STATX, and one that nobody knows.
    for opcode in [25, 31, 37, 40, 51, 52, 4000] {
        assert_eq!(serve(opcode, &[0; 8], b""), (String::new(), Err(38)));
    }
    // DESTROY waits for no more than an answer.
    assert_eq!(serve(38, &[], b""), (String::new(), Ok(vec![])));
}

#[test]
fn what_does_not_fit_is_refused() {
    let refused = (Vec::new(), Err(5));
    let cases: [(u32, &[u32], &[u8]); 6] = [
        (1, &[], b"without an end"),
        (12, &[6, 0], b"one\0other"),
        (15, &[77, 0, 4096], b""),
        (16, &[77, 0, 0, 0, 4, 0], b"abc"),
        (21, &[4, 0], b"user.a\0xyz"),
        (39, &[77, 0, 0, 1, 0, 0, 3, 0], b"ab"),
    ];
    for (opcode, operation, sent) in cases {
        assert_eq!(
            served(&header(opcode, operation, sent.len()), sent),
            refused
        );
    }
    // Lengths that contradict each other: of all, and of the payload.
    for (at, length) in [
        (0, 39u32),
        (0, 0),
        (0, 40 + 129),
        (0, !0),
        (272, 1),
        (272, !0),
    ] {
        let mut bad = header(3, &[0; 4], 0);
        bad[at..at + 4].copy_from_slice(&length.to_ne_bytes());
        let fits = at == 272 && length == 1;
        let (asked, answer) = served(&bad, b"");
        assert_eq!(asked.is_empty(), !fits, "{at} {length}");
        assert_eq!(answer.is_err(), !fits, "{at} {length}");
    }
    let mut bad = header(3, &[], ROOM + 1);
    assert_eq!(served(&bad, b""), refused);
    bad[0] = 0;
    assert_eq!(served(&bad, b""), refused);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// One answer to each, and no panic, whatever comes.
    #[test]
    fn any_bytes_are_answered(
        opcode in 0u32..60,
        junk in proptest::collection::vec(any::<u8>(), HEADER_BYTES),
        operation in 0usize..=128,
        payload in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..64),
    ) {
        let mut header: [u8; HEADER_BYTES] = junk.try_into().expect("as many");
        let length = (40 + operation + payload.len()) as u32;
        let head = [length, opcode, 42, 0, 5, 0, 1000, 100, 7, 0];
        header[..40].copy_from_slice(&bytes(&head));
        header[272..276].copy_from_slice(&(payload.len() as u32).to_ne_bytes());
        // What is asked for may not be more than the mock can write, nor the listing too short.
        if [15, 28, 44].contains(&opcode) && operation >= 20 {
            header[144..148].copy_from_slice(&88u32.to_ne_bytes());
        }
        if opcode != 44 {
            let (asked, _) = served(&header, &payload);
            prop_assert!(asked.len() <= 1);
        }
    }
}
