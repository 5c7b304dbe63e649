//! A request as the ring brings it: the header, what is the operation's own, and the payload, each in a
//! place of its own. Source: linux/fuse.h, `struct fuse_uring_req_header`.

use fuser::Errno;

use crate::fuse::ring::sys::HEADER_BYTES;
use crate::fuse::transport::{Operations, Reply};
use crate::fuse::wire::answer::{Answer, Way};
use crate::fuse::wire::dispatch;
use crate::fuse::wire::message::{Head, IN_HEADER_BYTES, Words};

/// Where what is the operation's own begins, and the most there is room for.
const OPERATION_AT: usize = 128;
const OPERATION_BYTES: usize = 128;
/// Where the kernel says how long the payload is.
const PAYLOAD_SIZE_AT: usize = 272;

/// Serves the request in this memory. The answer is given by way of `answer`, now or later; what is
/// long lies in `payload` when it is, and only what is given before this returns can be long.
pub(in crate::fuse) fn serve<O: Operations, W: Way>(
    operations: &O,
    header: &[u8; HEADER_BYTES],
    payload: &mut [u8],
    answer: Answer<W>,
) {
    match parse(header, payload.len()) {
        Ok((head, words, payload_bytes)) => {
            dispatch::serve(operations, &head, words, payload, payload_bytes, answer);
        }
        Err(errno) => answer.error(errno),
    }
}

/// Errors: EIO when the lengths do not fit each other or the room there is.
fn parse(
    header: &[u8; HEADER_BYTES],
    payload_room: usize,
) -> Result<(Head, Words<'_>, usize), Errno> {
    let (head, length) = Head::parse(header)?;
    let payload_bytes = Words::new(&header[PAYLOAD_SIZE_AT..]).u32()? as usize;
    let operation_bytes = length
        .checked_sub(IN_HEADER_BYTES)
        .and_then(|rest| rest.checked_sub(payload_bytes))
        .filter(|bytes| *bytes <= OPERATION_BYTES && payload_bytes <= payload_room)
        .ok_or(Errno::EIO)?;
    let operation = Words::new(&header[OPERATION_AT..OPERATION_AT + operation_bytes]);
    Ok((head, operation, payload_bytes))
}
