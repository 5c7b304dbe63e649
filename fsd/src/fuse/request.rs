//! One request around its call of the core: the tracing span, the log line of a failure, the
//! errno, and what a panic becomes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use fuser::{Errno, INodeNo};
use tracing::{Level, debug, debug_span, error, info, trace, warn};

use crate::core::FsCore;
use crate::core::error::FsError;
use crate::errno;
use crate::fuse::transport::Asker;
use crate::sync::Gate;

/// Names of the operations, as spans and log lines show them.
pub(super) mod op {
    pub(in crate::fuse) const ACCESS: &str = "access";
    pub(in crate::fuse) const CREATE: &str = "create";
    pub(in crate::fuse) const FALLOCATE: &str = "fallocate";
    pub(in crate::fuse) const FORGET: &str = "forget";
    pub(in crate::fuse) const FSYNC: &str = "fsync";
    pub(in crate::fuse) const FSYNCDIR: &str = "fsyncdir";
    pub(in crate::fuse) const GETATTR: &str = "getattr";
    pub(in crate::fuse) const GETXATTR: &str = "getxattr";
    pub(in crate::fuse) const LINK: &str = "link";
    pub(in crate::fuse) const LISTXATTR: &str = "listxattr";
    pub(in crate::fuse) const LOOKUP: &str = "lookup";
    pub(in crate::fuse) const LSEEK: &str = "lseek";
    pub(in crate::fuse) const COPY_FILE_RANGE: &str = "copy_file_range";
    pub(in crate::fuse) const MKDIR: &str = "mkdir";
    pub(in crate::fuse) const MKNOD: &str = "mknod";
    pub(in crate::fuse) const OPEN: &str = "open";
    pub(in crate::fuse) const OPENDIR: &str = "opendir";
    pub(in crate::fuse) const READ: &str = "read";
    pub(in crate::fuse) const READDIR: &str = "readdir";
    pub(in crate::fuse) const READDIRPLUS: &str = "readdirplus";
    pub(in crate::fuse) const READLINK: &str = "readlink";
    pub(in crate::fuse) const RELEASEDIR: &str = "releasedir";
    pub(in crate::fuse) const RELEASE: &str = "release";
    pub(in crate::fuse) const REMOVEXATTR: &str = "removexattr";
    pub(in crate::fuse) const RENAME: &str = "rename";
    pub(in crate::fuse) const RMDIR: &str = "rmdir";
    pub(in crate::fuse) const SETATTR: &str = "setattr";
    pub(in crate::fuse) const SETXATTR: &str = "setxattr";
    pub(in crate::fuse) const STATFS: &str = "statfs";
    pub(in crate::fuse) const SYMLINK: &str = "symlink";
    pub(in crate::fuse) const UNLINK: &str = "unlink";
    pub(in crate::fuse) const WRITE: &str = "write";
}

/// What the log says of a request. Copied out of it, so that it can go to another thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    op: &'static str,
    unique: u64,
    ino: u64,
    pid: u32,
}

impl Meta {
    pub(super) fn of(op: &'static str, request: &Asker, ino: INodeNo) -> Self {
        Self {
            op,
            unique: request.unique(),
            ino: ino.0,
            pid: request.pid(),
        }
    }

    /// Runs `call` on the core and maps what goes wrong to an errno.
    ///
    /// Errors: as `errno::reply` says; ENOTCONN once the branch is closed; EIO for a panic, which
    /// the panic hook has logged with its place.
    pub(super) fn serve<T>(
        self,
        core: &Gate<FsCore>,
        call: impl FnOnce(&FsCore) -> Result<T, FsError>,
    ) -> Result<T, Errno> {
        self.run(|| core.with(call).unwrap_or(Err(FsError::Closed)))
    }

    /// Runs `call`, as [`Meta::serve`] does. Errors: the same.
    pub(super) fn run<T>(self, call: impl FnOnce() -> Result<T, FsError>) -> Result<T, Errno> {
        let Meta {
            op,
            unique,
            ino,
            pid,
        } = self;
        let span = debug_span!("request", op, unique, ino, pid);
        let _entered = span.enter();
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(value)) => {
                trace!("done");
                Ok(value)
            }
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => {
                error!(
                    op,
                    unique, ino, pid, "a request panicked; it was answered with EIO"
                );
                Err(Errno::EIO)
            }
        }
    }

    /// Logs a failure at the level of the table. The fields are repeated because the span that
    /// has them is off unless requests are traced.
    fn failed(self, error: &FsError) -> Errno {
        let Meta {
            op,
            unique,
            ino,
            pid,
        } = self;
        let (errno, level) = errno::reply(error);
        let code = errno.code();
        match level {
            Level::ERROR => error!(op, unique, ino, pid, code, "{error}"),
            Level::WARN => warn!(op, unique, ino, pid, code, "{error}"),
            Level::INFO => info!(op, unique, ino, pid, code, "{error}"),
            Level::DEBUG => debug!(op, unique, ino, pid, code, "{error}"),
            Level::TRACE => trace!(op, unique, ino, pid, code, "{error}"),
        }
        errno
    }
}
