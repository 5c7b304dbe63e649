//! Control messages, both ways: any bytes on the socket, and any text in frames of the right length.
//! What is a message arrives again as it was.

#![no_main]

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use agentfs_fsd::ctl::msg::{Reply, Request};
use agentfs_fsd::ctl::wire;
use agentfs_fuzz::Bytes;
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

/// Less than a socket takes without a reader.
const MAX_BYTES: usize = 60_000;

fuzz_target!(|data: &[u8]| {
    let data = &data[..data.len().min(MAX_BYTES)];
    let mut input = Bytes(data);
    let how = input.byte();
    let bytes = match how % 2 {
        0 => input.0.to_vec(),
        _ => framed(&mut input),
    };
    match how / 2 % 2 {
        0 => receive::<Request>(&bytes),
        _ => receive::<Reply>(&bytes),
    }
});

/// Each line in a frame of its own.
fn framed(input: &mut Bytes<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    for line in input.0.split(|b| *b == b'\n') {
        out.extend((line.len() as u32).to_le_bytes());
        out.extend(line);
    }
    out
}

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap_or_else(|e| unreachable!("{e}"))
}

fn receive<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let (mut near, far) = pair();
    let sent = near
        .write_all(bytes)
        .and_then(|()| near.shutdown(Shutdown::Write));
    sent.unwrap_or_else(|e| unreachable!("{e}"));
    while let Ok((message, fds)) = wire::recv::<T>(&far) {
        assert!(fds.is_empty());
        let (left, right) = pair();
        let sent = wire::send(&left, &message, &[]);
        sent.unwrap_or_else(|e| panic!("{message:?} cannot be sent: {e}"));
        let again = wire::recv::<T>(&right).map(|(again, _)| again);
        assert_eq!(again.ok(), Some(message));
    }
}
