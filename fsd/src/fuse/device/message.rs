//! A request as the device brings it: the header, what is the operation's own, and the payload, in a row.
//! Source: linux/fuse.h.

use fuser::INodeNo;

use crate::fuse::transport::{Asker, Operations, Reply};
use crate::fuse::wire::answer::{Answer, Way};
use crate::fuse::wire::dispatch::{self, number};
use crate::fuse::wire::message::{Head, IN_HEADER_BYTES, Words};

/// `struct fuse_out_header`.
const OUT_HEADER_BYTES: usize = 16;
/// `struct fuse_forget_one`.
const FORGET_ONE_BYTES: usize = 16;
/// Requests that move no more than this take about as long as it takes to be woken.
pub(super) const SHORT_BYTES: usize = 32 << 10;
/// Where the size of what is to be read stands, in what is the operation's own.
const READ_SIZE_AT: usize = 16;

/// The header of an answer with a body of this length.
pub(super) fn out_header(error: i32, unique: u64, body_bytes: usize) -> [u8; OUT_HEADER_BYTES] {
    let mut header = [0; OUT_HEADER_BYTES];
    let length = (OUT_HEADER_BYTES + body_bytes) as u32;
    header[..4].copy_from_slice(&length.to_ne_bytes());
    header[4..8].copy_from_slice(&error.to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

/// Bytes of what is an operation's own, before names and data. Of what is not here nothing is read.
fn operation_bytes(opcode: u32) -> usize {
    match opcode {
        number::MKDIR
        | number::RENAME
        | number::LINK
        | number::OPEN
        | number::OPENDIR
        | number::SETXATTR
        | number::GETXATTR
        | number::LISTXATTR
        | number::ACCESS
        | number::FORGET
        | number::BATCH_FORGET => 8,
        number::GETATTR
        | number::MKNOD
        | number::CREATE
        | number::FSYNC
        | number::FSYNCDIR
        | number::RENAME2 => 16,
        number::RELEASE | number::RELEASEDIR | number::LSEEK => 24,
        number::IOCTL | number::FALLOCATE => 32,
        number::READ | number::READDIR | number::READDIRPLUS | number::WRITE => 40,
        number::COPY_FILE_RANGE => 56,
        number::SETATTR => 88,
        _ => 0,
    }
}

/// How many bytes a request moves through this thread. What waits for a disk besides is for the workers.
pub(in crate::fuse) fn weight(message: &[u8]) -> usize {
    let Ok((head, _)) = Head::parse(message) else {
        return 0;
    };
    match head.opcode {
        number::READ => message
            .get(IN_HEADER_BYTES + READ_SIZE_AT..)
            .and_then(|rest| Words::new(rest).u32().ok())
            .map_or(0, |size| size as usize),
        _ => message.len(),
    }
}

/// Whether nobody waits for it: the kernel tells us of something that it has done already.
pub(super) fn is_unawaited(message: &[u8]) -> bool {
    let told = [
        number::RELEASE,
        number::RELEASEDIR,
        number::FORGET,
        number::BATCH_FORGET,
    ];
    Head::parse(message).is_ok_and(|(head, _)| told.contains(&head.opcode))
}

/// Whether it may be served before what was told earlier of the inodes `told`. Not what is about one of
/// them, nor what leads to an inode by a name and asks whether it is open (to remove it, say).
pub(super) fn may_go_before(message: &[u8], told: impl Fn(u64) -> bool) -> bool {
    let by_name = [number::LOOKUP, number::CREATE];
    let of_one = [
        number::GETATTR,
        number::GETXATTR,
        number::OPEN,
        number::READ,
        number::READLINK,
        number::READDIR,
        number::READDIRPLUS,
    ];
    Head::parse(message).is_ok_and(|(head, _)| {
        by_name.contains(&head.opcode) || of_one.contains(&head.opcode) && !told(head.node.0)
    })
}

/// The inode that a request is about.
pub(super) fn node(message: &[u8]) -> Option<u64> {
    Head::parse(message).ok().map(|(head, _)| head.node.0)
}

/// Serves the request of `bytes` bytes at the beginning of `buffer`, whose rest is room for the answer.
/// `false`: what came is none.
pub(in crate::fuse) fn serve<O: Operations, W: Way>(
    operations: &O,
    buffer: &mut [u8],
    bytes: usize,
    way: impl FnOnce(u64) -> W,
) -> bool {
    let Ok((head, length)) = Head::parse(&buffer[..bytes]) else {
        return false;
    };
    let own = operation_bytes(head.opcode);
    let (front, payload) = buffer.split_at_mut((IN_HEADER_BYTES + own).min(bytes));
    let sent_bytes = bytes - front.len();
    let words = Words::new(front.get(IN_HEADER_BYTES..).unwrap_or_default());
    match head.opcode {
        // Neither is answered.
        number::FORGET => forget(operations, &head.asker, head.node, words),
        number::BATCH_FORGET => {
            let sent = &payload[..sent_bytes];
            for one in sent.chunks_exact(FORGET_ONE_BYTES).take(count(words)) {
                let mut one = Words::new(one);
                if let Ok(node) = one.u64() {
                    forget(operations, &head.asker, INodeNo(node), one);
                }
            }
        }
        _ => {
            let answer = Answer::new(way(head.asker.unique));
            if length == bytes && front.len() == IN_HEADER_BYTES + own {
                dispatch::serve(operations, &head, words, payload, sent_bytes, answer);
            } else {
                answer.error(fuser::Errno::EIO);
            }
        }
    }
    true
}

fn count(mut words: Words<'_>) -> usize {
    words.u32().map_or(0, |count| count as usize)
}

fn forget<O: Operations>(operations: &O, req: &Asker, node: INodeNo, mut words: Words<'_>) {
    if let Ok(lookups) = words.u64() {
        operations.forget(req, node, lookups);
    }
}
