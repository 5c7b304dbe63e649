//! The words between the monitor and the processes it starts, and the socket they travel on.
//!
//! Phases, in order: `Go`, then `Mounted`, `Attached`, `Started`, `Start`, then any
//! number of `Stopped`, then `Ended`. `Failed` may take the place of any word of the inner side.
//! End of file: the other side died.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use agentfs_fsd::ctl::{CtlError, wire};
use serde::{Deserialize, Serialize};

use crate::error::SetupError;

/// From the monitor inwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outer {
    /// The id maps are written (set-up may begin).
    Go,
    /// The daemon serves the mount.
    Attached,
    /// The command is bound to the branch (it may execute).
    Start,
}

/// From the set-up child, init and the command outwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inner {
    /// Set-up mounted FUSE. Descriptors: `/dev/fuse`, user namespace, mount namespace.
    Mounted,
    /// Init made the command. Descriptors: the pidfds of init and of the command.
    Started,
    /// The command could not be executed.
    NotExecuted {
        /// Why, as an errno.
        errno: i32,
    },
    /// The command was stopped by this signal.
    Stopped {
        /// Its number.
        signal: i32,
    },
    /// The command ended.
    Ended(End),
    /// A step of the set-up failed.
    Failed(SetupError),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It exited with this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl End {
    /// The exit status that tells of it, as shells do.
    pub fn status(self) -> u8 {
        match self {
            // An exit status has eight bits.
            End::Code(code) => (code & 0xff) as u8,
            End::Signal(signal) => (128 + signal).clamp(129, 255) as u8,
        }
    }
}

/// One end of the socket between the monitor and the inside.
#[derive(Debug)]
pub struct Link(UnixStream);

impl Link {
    /// Both ends, close-on-exec.
    pub fn pair() -> io::Result<(Link, Link)> {
        let (a, b) = UnixStream::pair()?;
        Ok((Link(a), Link(b)))
    }

    /// Sends one word with its descriptors.
    pub fn send<T: Serialize>(&self, word: &T, fds: &[BorrowedFd<'_>]) -> Result<(), CtlError> {
        wire::send(&self.0, word, fds)
    }

    /// Waits for the next word of the other side.
    pub fn recv<T: serde::de::DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), CtlError> {
        wire::recv(&self.0)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
