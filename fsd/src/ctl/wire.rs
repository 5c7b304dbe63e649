//! Framing: one message is a little-endian u32 length and that many bytes of JSON; descriptors
//! ride along as SCM_RIGHTS with its first byte.
//!
//! Blocking, safe against interrupted and partial transfers, and bounded: a frame is at most
//! [`MAX_BYTES`] long and carries at most [`MAX_FDS`] descriptors. Used by both ends.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ctl::CtlError;
use crate::ctl::msg::MAX_BYTES;

/// Most descriptors that one message may carry.
pub const MAX_FDS: usize = 4;

const HEADER_BYTES: usize = 4;

/// Sends `message` with `fds`.
///
/// Errors: `Closed` when nobody reads any more, `TooLarge`, `Malformed` for too many descriptors.
pub fn send<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> Result<(), CtlError> {
    if fds.len() > MAX_FDS {
        return Err(CtlError::Malformed(format!(
            "{} descriptors, at most {MAX_FDS}",
            fds.len()
        )));
    }
    let mut frame = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut frame, message).map_err(|e| CtlError::Malformed(e.to_string()))?;
    let length = frame.len() - HEADER_BYTES;
    match u32::try_from(length) {
        Ok(length) if length <= MAX_BYTES => {
            frame[..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
        }
        _ => return Err(CtlError::TooLarge(length as u64)),
    }

    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut sent = 0;
    while sent < frame.len() {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if sent == 0 && !fds.is_empty() {
            // The buffer was sized for MAX_FDS, so this always fits.
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let part = [IoSlice::new(&frame[sent..])];
        match rustix::net::sendmsg(&socket, &part, &mut control, SendFlags::NOSIGNAL) {
            Ok(bytes) => sent += bytes,
            Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(CtlError::Closed),
            Err(e) => return Err(io("send on the control socket", e)),
        }
    }
    Ok(())
}

/// Receives one message and its descriptors, each of them close-on-exec.
///
/// Errors: `Closed` when the other side ended the connection before a message began, `TooLarge`,
/// `Malformed` for anything that is no message of type `T`.
pub fn recv<T: DeserializeOwned>(socket: impl AsFd) -> Result<(T, Vec<OwnedFd>), CtlError> {
    let mut fds = Vec::new();
    let mut header = [0; HEADER_BYTES];
    if !fill(&socket, &mut header, &mut fds)? {
        return Err(CtlError::Closed);
    }
    let length = u32::from_le_bytes(header);
    if length > MAX_BYTES {
        return Err(CtlError::TooLarge(length.into()));
    }
    let mut body = vec![0; length as usize];
    if !fill(&socket, &mut body, &mut fds)? {
        return Err(cut_off());
    }
    let message = serde_json::from_slice(&body).map_err(|e| CtlError::Malformed(e.to_string()))?;
    Ok((message, fds))
}

/// Reads exactly `buffer`; `false` when the stream ended before its first byte.
fn fill(socket: &impl AsFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<bool, CtlError> {
    let mut got = 0;
    while got < buffer.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut part = [IoSliceMut::new(&mut buffer[got..])];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = match rustix::net::recvmsg(socket, &mut part, &mut control, flags) {
            Ok(received) => received,
            Err(Errno::INTR) => continue,
            Err(Errno::CONNRESET) => return Err(CtlError::Closed),
            Err(e) => return Err(io("receive on the control socket", e)),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || fds.len() > MAX_FDS {
            return Err(CtlError::Malformed(format!(
                "more than {MAX_FDS} descriptors"
            )));
        }
        match received.bytes {
            0 if got == 0 => return Ok(false),
            0 => return Err(cut_off()),
            bytes => got += bytes,
        }
    }
    Ok(true)
}

fn cut_off() -> CtlError {
    CtlError::Malformed("the connection ended inside a message".into())
}

fn io(op: &'static str, errno: Errno) -> CtlError {
    CtlError::Io {
        op,
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::ctl::msg::{Reply, Request};

    #[test]
    fn a_message_and_its_descriptors_arrive() {
        let (left, right) = UnixStream::pair().expect("socketpair");
        let (mut near, far) = UnixStream::pair().expect("socketpair");
        let asked = Request::Bind {
            pid: 7,
            start_ticks: u64::MAX,
        };
        send(&left, &asked, &[far.as_fd()]).expect("send");
        send(&left, &Request::Status, &[]).expect("send");
        drop(far);
        let (got, fds) = recv::<Request>(&right).expect("receive");
        assert_eq!(got, asked);
        assert_eq!(fds.len(), 1);
        let flags = rustix::io::fcntl_getfd(&fds[0]).expect("flags");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let mut passed: UnixStream = fds.into_iter().next().expect("one descriptor").into();
        passed.write_all(b"x").expect("write");
        drop(passed);
        let mut text = String::new();
        near.read_to_string(&mut text).expect("read");
        assert_eq!(text, "x");
        let (got, fds) = recv::<Request>(&right).expect("receive");
        assert_eq!((got, fds.len()), (Request::Status, 0));
    }

    #[test]
    fn the_end_of_the_stream_is_told_from_a_cut() {
        let (left, right) = UnixStream::pair().expect("socketpair");
        drop(left);
        assert!(matches!(recv::<Reply>(&right), Err(CtlError::Closed)));
        let (mut left, right) = UnixStream::pair().expect("socketpair");
        left.write_all(&[9, 0, 0, 0, b'{']).expect("write");
        drop(left);
        assert!(matches!(recv::<Reply>(&right), Err(CtlError::Malformed(_))));
    }

    #[test]
    fn oversized_and_foreign_frames_are_refused() {
        let (mut left, right) = UnixStream::pair().expect("socketpair");
        left.write_all(&(MAX_BYTES + 1).to_le_bytes())
            .expect("write");
        assert!(matches!(recv::<Reply>(&right), Err(CtlError::TooLarge(_))));
        let (mut left, right) = UnixStream::pair().expect("socketpair");
        left.write_all(b"\x04\0\0\0null").expect("write");
        assert!(matches!(recv::<Reply>(&right), Err(CtlError::Malformed(_))));
        let (left, _right) = UnixStream::pair().expect("socketpair");
        let huge = "x".repeat(MAX_BYTES as usize);
        assert!(matches!(
            send(&left, &huge, &[]),
            Err(CtlError::TooLarge(_))
        ));
    }

    #[test]
    fn too_many_descriptors_are_refused() {
        let (left, right) = UnixStream::pair().expect("socketpair");
        let many = vec![left.as_fd(); MAX_FDS + 1];
        assert!(matches!(
            send(&left, &Request::Sync, &many),
            Err(CtlError::Malformed(_))
        ));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
        let bytes = [IoSlice::new(b"\x04\0\0\0null")];
        rustix::net::sendmsg(&left, &bytes, &mut control, SendFlags::empty()).expect("send");
        assert!(matches!(
            recv::<Request>(&right),
            Err(CtlError::Malformed(_))
        ));
    }

    #[test]
    fn a_message_larger_than_the_socket_buffer_arrives() {
        let (left, right) = UnixStream::pair().expect("socketpair");
        let long = "y".repeat(700_000);
        let sent = long.clone();
        let sender = std::thread::spawn(move || send(&left, &sent, &[]));
        let (got, _) = recv::<String>(&right).expect("receive");
        sender.join().expect("join").expect("send");
        assert_eq!(got, long);
    }
}
