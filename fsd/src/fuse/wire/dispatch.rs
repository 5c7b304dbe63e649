//! One request: which operation it is, and with what. Decides nothing; the answer goes where the
//! [`Answer`] says.

use fuser::{Errno, FileHandle, INodeNo, OpenFlags, RenameFlags, WriteFlags};

use crate::fuse::transport::{EmptyReply, Operations, Reply};
use crate::fuse::wire::answer::{Answer, Bulk, Way};
use crate::fuse::wire::message::{Head, Strings, Words, set_attr};

/// Operations, by their numbers in linux/fuse.h.
pub(in crate::fuse) mod number {
    pub(in crate::fuse) const LOOKUP: u32 = 1;
    pub(in crate::fuse) const FORGET: u32 = 2;
    pub(in crate::fuse) const GETATTR: u32 = 3;
    pub(in crate::fuse) const SETATTR: u32 = 4;
    pub(in crate::fuse) const READLINK: u32 = 5;
    pub(in crate::fuse) const SYMLINK: u32 = 6;
    pub(in crate::fuse) const MKNOD: u32 = 8;
    pub(in crate::fuse) const MKDIR: u32 = 9;
    pub(in crate::fuse) const UNLINK: u32 = 10;
    pub(in crate::fuse) const RMDIR: u32 = 11;
    pub(in crate::fuse) const RENAME: u32 = 12;
    pub(in crate::fuse) const LINK: u32 = 13;
    pub(in crate::fuse) const OPEN: u32 = 14;
    pub(in crate::fuse) const READ: u32 = 15;
    pub(in crate::fuse) const WRITE: u32 = 16;
    pub(in crate::fuse) const STATFS: u32 = 17;
    pub(in crate::fuse) const RELEASE: u32 = 18;
    pub(in crate::fuse) const FSYNC: u32 = 20;
    pub(in crate::fuse) const SETXATTR: u32 = 21;
    pub(in crate::fuse) const GETXATTR: u32 = 22;
    pub(in crate::fuse) const LISTXATTR: u32 = 23;
    pub(in crate::fuse) const REMOVEXATTR: u32 = 24;
    pub(in crate::fuse) const OPENDIR: u32 = 27;
    pub(in crate::fuse) const READDIR: u32 = 28;
    pub(in crate::fuse) const RELEASEDIR: u32 = 29;
    pub(in crate::fuse) const FSYNCDIR: u32 = 30;
    pub(in crate::fuse) const ACCESS: u32 = 34;
    pub(in crate::fuse) const CREATE: u32 = 35;
    pub(in crate::fuse) const DESTROY: u32 = 38;
    pub(in crate::fuse) const IOCTL: u32 = 39;
    pub(in crate::fuse) const BATCH_FORGET: u32 = 42;
    pub(in crate::fuse) const FALLOCATE: u32 = 43;
    pub(in crate::fuse) const READDIRPLUS: u32 = 44;
    pub(in crate::fuse) const RENAME2: u32 = 45;
    pub(in crate::fuse) const LSEEK: u32 = 46;
    pub(in crate::fuse) const COPY_FILE_RANGE: u32 = 47;
}

/// Serves a request. `payload` begins with what was sent, `sent_bytes` of it, and is the room for an
/// answer that is long. The answer is given by way of `answer`, now or later; only what is given before
/// this returns can be long.
pub(in crate::fuse) fn serve<O: Operations, W: Way>(
    operations: &O,
    head: &Head,
    words: Words<'_>,
    payload: &mut [u8],
    sent_bytes: usize,
    answer: Answer<W>,
) {
    if let Err((answer, errno)) = route(operations, head, words, payload, sent_bytes, answer) {
        tracing::warn!(
            opcode = head.opcode,
            "the kernel's request is not as it should be"
        );
        answer.error(errno);
    }
}

/// For what cannot be decoded: the answer still to be given, and the errno.
type Refused<W> = (Answer<W>, Errno);

/// Decodes with `?`, and keeps the answer where it can still be given.
macro_rules! decode {
    ($answer:expr, $decode:block) => {{
        let decoded = (|| -> Result<_, Errno> { Ok($decode) })();
        match decoded {
            Ok(decoded) => decoded,
            Err(errno) => return Err(($answer, errno)),
        }
    }};
}

fn route<O: Operations, W: Way>(
    operations: &O,
    head: &Head,
    words: Words<'_>,
    payload: &mut [u8],
    sent_bytes: usize,
    answer: Answer<W>,
) -> Result<(), Refused<W>> {
    match head.opcode {
        number::READ
        | number::READLINK
        | number::READDIR
        | number::READDIRPLUS
        | number::GETXATTR
        | number::LISTXATTR => fetch(operations, head, words, payload, sent_bytes, answer),
        number::LOOKUP
        | number::SYMLINK
        | number::MKNOD
        | number::MKDIR
        | number::UNLINK
        | number::RMDIR
        | number::RENAME
        | number::RENAME2
        | number::LINK
        | number::CREATE => {
            let sent = &payload[..sent_bytes];
            name(operations, head, words, Strings::new(sent), answer)
        }
        _ => {
            let sent = &payload[..sent_bytes];
            file(operations, head, words, Strings::new(sent), answer)
        }
    }
}

/// What is answered with much: the answer is written over what was sent.
fn fetch<O: Operations, W: Way>(
    operations: &O,
    head: &Head,
    mut words: Words<'_>,
    payload: &mut [u8],
    sent_bytes: usize,
    answer: Answer<W>,
) -> Result<(), Refused<W>> {
    let (req, ino) = (&head.asker, head.node);
    match head.opcode {
        number::READLINK => operations.readlink(req, ino, Bulk::new(answer, payload, usize::MAX)),
        number::GETXATTR => {
            let (size, name) = decode!(answer, {
                let mut sent = Strings::new(&payload[..sent_bytes]);
                (words.u32()?, sent.name()?.to_owned())
            });
            let reply = Bulk::new(answer, payload, size as usize);
            operations.getxattr(req, ino, &name, size, reply);
        }
        number::LISTXATTR => {
            let size = decode!(answer, { words.u32()? });
            let reply = Bulk::new(answer, payload, size as usize);
            operations.listxattr(req, ino, size, reply);
        }
        _ => {
            let (fh, offset, size) = decode!(answer, {
                (FileHandle(words.u64()?), words.u64()?, words.u32()?)
            });
            let reply = Bulk::new(answer, payload, size as usize);
            match head.opcode {
                number::READ => operations.read(req, ino, fh, offset, size, reply),
                number::READDIR => operations.readdir(req, ino, fh, offset, reply),
                _ => operations.readdirplus(req, ino, fh, offset, reply),
            }
        }
    }
    Ok(())
}

/// What is about a name in a directory.
fn name<O: Operations, W: Way>(
    operations: &O,
    head: &Head,
    mut words: Words<'_>,
    mut sent: Strings<'_>,
    reply: Answer<W>,
) -> Result<(), Refused<W>> {
    let (req, ino) = (&head.asker, head.node);
    match head.opcode {
        number::LOOKUP => {
            let name = decode!(reply, { sent.name()? });
            operations.lookup(req, ino, name, reply);
        }
        number::SYMLINK => {
            let (name, target) = decode!(reply, { (sent.name()?, sent.name()?) });
            operations.symlink(req, ino, name, target, reply);
        }
        number::MKNOD => {
            let (mode, rdev, umask, name) = decode!(reply, {
                (words.u32()?, words.u32()?, words.u32()?, sent.name()?)
            });
            operations.mknod(req, ino, name, mode, umask, rdev, reply);
        }
        number::MKDIR => {
            let (mode, umask, name) =
                decode!(reply, { (words.u32()?, words.u32()?, sent.name()?) });
            operations.mkdir(req, ino, name, mode, umask, reply);
        }
        number::UNLINK => {
            let name = decode!(reply, { sent.name()? });
            operations.unlink(req, ino, name, reply);
        }
        number::RMDIR => {
            let name = decode!(reply, { sent.name()? });
            operations.rmdir(req, ino, name, reply);
        }
        number::RENAME | number::RENAME2 => {
            let (to, flags, from_name, to_name) = decode!(reply, {
                let to = INodeNo(words.u64()?);
                let flags = match head.opcode {
                    number::RENAME2 => words.u32()?,
                    _ => 0,
                };
                (to, flags, sent.name()?, sent.name()?)
            });
            let flags = RenameFlags::from_bits_retain(flags);
            operations.rename(req, ino, from_name, to, to_name, flags, reply);
        }
        number::LINK => {
            let (file, name) = decode!(reply, { (INodeNo(words.u64()?), sent.name()?) });
            operations.link(req, file, ino, name, reply);
        }
        _ => {
            let (flags, mode, umask, name) = decode!(reply, {
                (words.i32()?, words.u32()?, words.u32()?, sent.name()?)
            });
            operations.create(req, ino, name, mode, umask, flags, reply);
        }
    }
    Ok(())
}

/// What is about a file, or about nothing that is here.
fn file<O: Operations, W: Way>(
    operations: &O,
    head: &Head,
    mut words: Words<'_>,
    mut sent: Strings<'_>,
    reply: Answer<W>,
) -> Result<(), Refused<W>> {
    let (req, ino) = (&head.asker, head.node);
    match head.opcode {
        number::GETATTR => operations.getattr(req, ino, reply),
        number::SETATTR => {
            let (set, fh) = decode!(reply, { set_attr(words)? });
            operations.setattr(req, ino, fh.map(FileHandle), &set, reply);
        }
        number::OPEN => {
            let flags = decode!(reply, { words.i32()? });
            operations.open(req, ino, OpenFlags(flags), reply);
        }
        number::WRITE => {
            let (fh, offset, write_flags, flags, data) = decode!(reply, {
                let (fh, offset) = (FileHandle(words.u64()?), words.u64()?);
                let (size, write_flags) = (words.u32()?, words.u32()?);
                let _lock_owner = words.u64()?;
                let flags = OpenFlags(words.i32()?);
                (fh, offset, write_flags, flags, sent.bytes(size)?)
            });
            let write_flags = WriteFlags::from_bits_retain(write_flags);
            operations.write(req, ino, fh, offset, data, write_flags, flags, reply);
        }
        number::STATFS => operations.statfs(req, ino, reply),
        number::RELEASE => {
            let fh = decode!(reply, { FileHandle(words.u64()?) });
            operations.release(req, ino, fh, reply);
        }
        number::FSYNC | number::FSYNCDIR => {
            let (fh, flags) = decode!(reply, { (FileHandle(words.u64()?), words.u32()?) });
            let datasync = flags & 1 != 0;
            match head.opcode {
                number::FSYNC => operations.fsync(req, ino, fh, datasync, reply),
                _ => operations.fsyncdir(req, ino, fh, datasync, reply),
            }
        }
        number::SETXATTR => {
            let (flags, name, value) = decode!(reply, {
                let (size, flags) = (words.u32()?, words.i32()?);
                (flags, sent.name()?, sent.bytes(size)?)
            });
            operations.setxattr(req, ino, name, value, flags, reply);
        }
        number::REMOVEXATTR => {
            let name = decode!(reply, { sent.name()? });
            operations.removexattr(req, ino, name, reply);
        }
        number::OPENDIR => operations.opendir(req, ino, reply),
        number::RELEASEDIR => {
            let fh = decode!(reply, { FileHandle(words.u64()?) });
            operations.releasedir(req, ino, fh, reply);
        }
        number::ACCESS => {
            let mask = decode!(reply, { words.u32()? });
            operations.access(req, ino, mask, reply);
        }
        number::IOCTL => {
            const UNRESTRICTED: u32 = 1 << 1;
            let (flags, cmd, out_size, data) = decode!(reply, {
                words.skip(8)?;
                let (flags, cmd) = (words.u32()?, words.u32()?);
                words.skip(8)?;
                let (in_size, out_size) = (words.u32()?, words.u32()?);
                (flags, cmd, out_size, sent.bytes(in_size)?)
            });
            match flags & UNRESTRICTED {
                0 => operations.ioctl(req, ino, cmd, data, out_size, reply),
                _ => reply.error(Errno::ENOSYS),
            }
        }
        number::FALLOCATE => {
            let (fh, offset, length, mode) = decode!(reply, {
                let fh = FileHandle(words.u64()?);
                (fh, words.u64()?, words.u64()?, words.i32()?)
            });
            operations.fallocate(req, ino, fh, offset, length, mode, reply);
        }
        number::LSEEK => {
            let (fh, offset, whence) = decode!(reply, {
                let (fh, offset) = (FileHandle(words.u64()?), words.u64()?);
                (fh, offset.cast_signed(), words.i32()?)
            });
            operations.lseek(req, ino, fh, offset, whence, reply);
        }
        number::COPY_FILE_RANGE => {
            let (from, to, length) = decode!(reply, {
                let (fh, offset) = (FileHandle(words.u64()?), words.u64()?);
                let (out, out_fh) = (INodeNo(words.u64()?), FileHandle(words.u64()?));
                ((ino, fh, offset), (out, out_fh, words.u64()?), words.u64()?)
            });
            operations.copy_file_range(req, from, to, length, reply);
        }
        number::DESTROY => EmptyReply::ok(reply),
        // See `Operations` for what is left out.
        _ => reply.error(Errno::ENOSYS),
    }
    Ok(())
}
