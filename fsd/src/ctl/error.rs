//! [`CtlError`]: what can go wrong on a control connection.

use std::io;

use crate::ctl::msg::{ErrorCode, MAX_BYTES, VERSION};

/// Why a control message was not exchanged, or what the other side refused.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// The other side closed the connection between two messages.
    #[error("the control connection was closed")]
    Closed,
    /// A frame announced more than [`MAX_BYTES`].
    #[error("a control message of {0} bytes, at most {MAX_BYTES} are allowed")]
    TooLarge(u64),
    /// What arrived is no message.
    #[error("malformed control message: {0}")]
    Malformed(String),
    /// The daemon speaks another version of the messages.
    #[error("the daemon speaks version {0} of the control messages, this program {VERSION}")]
    Version(u32),
    /// The daemon refused the request.
    #[error("{message}")]
    Refused {
        /// What kind of trouble.
        code: ErrorCode,
        /// What failed, on what, why.
        message: String,
    },
    /// The daemon answered something else than the request calls for.
    #[error("the daemon's answer does not fit the request {0}")]
    Unexpected(&'static str),
    /// A system call failed.
    #[error("{op}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// The host's answer.
        source: io::Error,
    },
}
