//! The only table from [`FsError`] to an errno and a log level.
//!
//! No other file picks an errno for a core error. There is no `_` arm over the error types: a new
//! variant does not compile until someone decides what a program sees and how loud the log is.
//! Called by the FUSE adapter, and by tests that compare an unmounted core with a plain directory.

use std::io;

use fuser::Errno;
use tracing::Level;

use crate::backstore::StoreError;
use crate::core::error::FsError;
use crate::core::types::NameError;

/// What the caller of a failed operation sees, and how the failure is logged.
///
/// TRACE: an everyday answer (no such entry). DEBUG: the caller did something odd. WARN: the
/// host is short of something. ERROR: the branch or this program is at fault.
pub fn reply(error: &FsError) -> (Errno, Level) {
    match error {
        FsError::NoEntry { .. } => (Errno::ENOENT, Level::TRACE),
        FsError::Stale(_) => (Errno::ESTALE, Level::DEBUG),
        FsError::Removed(_) => (Errno::ENOENT, Level::DEBUG),
        FsError::BadHandle(_) => (Errno::EBADF, Level::DEBUG),
        FsError::WrongAccess(_) => (Errno::EBADF, Level::DEBUG),
        FsError::Exists { .. } => (Errno::EEXIST, Level::TRACE),
        FsError::NotADirectory(_) => (Errno::ENOTDIR, Level::TRACE),
        FsError::IsADirectory(_) => (Errno::EISDIR, Level::TRACE),
        FsError::NotEmpty(_) => (Errno::ENOTEMPTY, Level::TRACE),
        FsError::BadName(name) => (of_name(name), Level::DEBUG),
        FsError::Invalid(_) => (Errno::EINVAL, Level::DEBUG),
        FsError::NotPermitted(_) => (Errno::EPERM, Level::DEBUG),
        FsError::AccessDenied(_) => (Errno::EACCES, Level::DEBUG),
        FsError::TooManyLinks(_) => (Errno::EMLINK, Level::DEBUG),
        FsError::TooLarge => (Errno::EFBIG, Level::DEBUG),
        FsError::NoAttribute => (Errno::ENODATA, Level::TRACE),
        FsError::AttributeExists => (Errno::EEXIST, Level::TRACE),
        FsError::AttributeSpace(_) => (Errno::ENOSPC, Level::DEBUG),
        FsError::AttributeTooLarge => (Errno::E2BIG, Level::DEBUG),
        FsError::NotSupported(_) => (Errno::EOPNOTSUPP, Level::DEBUG),
        FsError::NoData => (Errno::ENXIO, Level::TRACE),
        FsError::InExecution(_) => (Errno::ETXTBSY, Level::DEBUG),
        FsError::ReadOnly => (Errno::EROFS, Level::DEBUG),
        FsError::UnknownCaller(_) => (Errno::EIO, Level::WARN),
        FsError::Closed => (Errno::ENOTCONN, Level::DEBUG),
        FsError::AcrossBranches(_) => (Errno::EXDEV, Level::DEBUG),
        FsError::Base { source, .. } => of_base(source),
        FsError::Store(error) => of_store(error),
    }
}

/// The errno of a name that cannot be one.
fn of_name(error: &NameError) -> Errno {
    match error {
        NameError::Reserved => Errno::EINVAL,
        NameError::TooLong(_) => Errno::ENAMETOOLONG,
        NameError::BadByte => Errno::EINVAL,
    }
}

/// The errno of a store that refused or failed.
fn of_store(error: &StoreError) -> (Errno, Level) {
    match error {
        StoreError::Io { source, .. } => of_io(source),
        StoreError::NoSpace { source, .. } => of_io(source),
        StoreError::NotWritable { .. } => (Errno::EROFS, Level::WARN),
        StoreError::Poisoned { .. } => (Errno::EIO, Level::ERROR),
        StoreError::Unsettled(_) | StoreError::Invalid(_) => (Errno::EIO, Level::ERROR),
        StoreError::Damaged { .. } => (Errno::EIO, Level::ERROR),
        StoreError::NoStore { .. } => (Errno::EIO, Level::ERROR),
        StoreError::NewerFormat { .. } => (Errno::EIO, Level::ERROR),
        StoreError::Locked { .. } => (Errno::EBUSY, Level::ERROR),
        StoreError::NoBranch(_) | StoreError::BranchExists(_) => (Errno::EIO, Level::ERROR),
        StoreError::NoSnapshot { .. } | StoreError::SnapshotExists { .. } => {
            (Errno::EIO, Level::ERROR)
        }
        StoreError::Needed { .. } | StoreError::TooManySnapshots(_) => (Errno::EIO, Level::ERROR),
        // As a full disk, not EDQUOT: that is what programs know how to tell and to survive.
        StoreError::LimitReached(_) => (Errno::ENOSPC, Level::DEBUG),
    }
}

/// The errno of a base that refused or failed: as [`of_io`], and what the host's own permission
/// bits or a changed tree answer, which is the program's business and no fault.
///
/// What the host has removed is ESTALE. A lookup has its own word for that, so it is of something
/// that the kernel holds: told that there is nothing, it keeps the name, and who wants to make the
/// file is told so for ever; told that it is stale, it looks the path up again.
fn of_base(source: &io::Error) -> (Errno, Level) {
    match source.raw_os_error().map(Errno::from_i32) {
        Some(e @ (Errno::EACCES | Errno::EPERM)) => (e, Level::DEBUG),
        Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ESTALE) => {
            (Errno::ESTALE, Level::DEBUG)
        }
        Some(e @ Errno::ENAMETOOLONG) => (e, Level::DEBUG),
        Some(e @ (Errno::EOPNOTSUPP | Errno::ENODATA | Errno::ENXIO)) => (e, Level::DEBUG),
        _ => of_io(source),
    }
}

/// The pass-through list of host errors; everything else is EIO.
fn of_io(source: &io::Error) -> (Errno, Level) {
    match source.raw_os_error().map(Errno::from_i32) {
        Some(e @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS)) => (e, Level::WARN),
        Some(e @ Errno::EFBIG) => (e, Level::DEBUG),
        Some(e @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => (e, Level::WARN),
        Some(e @ (Errno::EOPNOTSUPP | Errno::ENXIO)) => (e, Level::DEBUG),
        _ => (Errno::EIO, Level::ERROR),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::core::types::{Fh, Ino, Name};

    fn io_error(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.code())
    }

    fn base(errno: Errno) -> FsError {
        FsError::Base {
            op: "open",
            source: io_error(errno),
        }
    }

    fn store(errno: Errno) -> FsError {
        let path = PathBuf::from("/s");
        FsError::Store(StoreError::Io {
            op: "write",
            path,
            source: io_error(errno),
        })
    }

    #[test]
    fn the_table_row_by_row() {
        let ino = Ino(7);
        let name = Name::new(b"n").expect("a plain name");
        let path = PathBuf::from("/s");
        let rows: Vec<(FsError, Errno, Level)> = vec![
            (
                FsError::NoEntry {
                    parent: ino,
                    name: name.clone(),
                },
                Errno::ENOENT,
                Level::TRACE,
            ),
            (FsError::Stale(ino), Errno::ESTALE, Level::DEBUG),
            (FsError::Removed(ino), Errno::ENOENT, Level::DEBUG),
            (FsError::BadHandle(Fh(1)), Errno::EBADF, Level::DEBUG),
            (FsError::WrongAccess(Fh(1)), Errno::EBADF, Level::DEBUG),
            (
                FsError::Exists { parent: ino, name },
                Errno::EEXIST,
                Level::TRACE,
            ),
            (FsError::NotADirectory(ino), Errno::ENOTDIR, Level::TRACE),
            (FsError::IsADirectory(ino), Errno::EISDIR, Level::TRACE),
            (FsError::NotEmpty(ino), Errno::ENOTEMPTY, Level::TRACE),
            (
                FsError::BadName(NameError::Reserved),
                Errno::EINVAL,
                Level::DEBUG,
            ),
            (
                FsError::BadName(NameError::TooLong(256)),
                Errno::ENAMETOOLONG,
                Level::DEBUG,
            ),
            (
                FsError::BadName(NameError::BadByte),
                Errno::EINVAL,
                Level::DEBUG,
            ),
            (FsError::Invalid("x"), Errno::EINVAL, Level::DEBUG),
            (FsError::NotPermitted("x"), Errno::EPERM, Level::DEBUG),
            (FsError::AccessDenied("x"), Errno::EACCES, Level::DEBUG),
            (FsError::TooManyLinks(ino), Errno::EMLINK, Level::DEBUG),
            (FsError::TooLarge, Errno::EFBIG, Level::DEBUG),
            (FsError::NoAttribute, Errno::ENODATA, Level::TRACE),
            (FsError::AttributeExists, Errno::EEXIST, Level::TRACE),
            (FsError::AttributeSpace("x"), Errno::ENOSPC, Level::DEBUG),
            (FsError::AttributeTooLarge, Errno::E2BIG, Level::DEBUG),
            (FsError::NotSupported("x"), Errno::EOPNOTSUPP, Level::DEBUG),
            (FsError::NoData, Errno::ENXIO, Level::TRACE),
            (FsError::InExecution(ino), Errno::ETXTBSY, Level::DEBUG),
            (FsError::ReadOnly, Errno::EROFS, Level::DEBUG),
            (FsError::UnknownCaller(3), Errno::EIO, Level::WARN),
            (base(Errno::EACCES), Errno::EACCES, Level::DEBUG),
            (base(Errno::EPERM), Errno::EPERM, Level::DEBUG),
            (base(Errno::ENOENT), Errno::ESTALE, Level::DEBUG),
            (base(Errno::ENOTDIR), Errno::ESTALE, Level::DEBUG),
            (base(Errno::ELOOP), Errno::ESTALE, Level::DEBUG),
            (base(Errno::ENOSPC), Errno::ENOSPC, Level::WARN),
            (base(Errno::EINVAL), Errno::EIO, Level::ERROR),
            (store(Errno::ENOSPC), Errno::ENOSPC, Level::WARN),
            (store(Errno::EDQUOT), Errno::EDQUOT, Level::WARN),
            (store(Errno::EROFS), Errno::EROFS, Level::WARN),
            (store(Errno::EFBIG), Errno::EFBIG, Level::DEBUG),
            (store(Errno::EMFILE), Errno::EMFILE, Level::WARN),
            (store(Errno::EACCES), Errno::EIO, Level::ERROR),
            (store(Errno::ENOENT), Errno::EIO, Level::ERROR),
            (
                FsError::Store(StoreError::NoSpace {
                    op: "write",
                    path: path.clone(),
                    source: io_error(Errno::EDQUOT),
                }),
                Errno::EDQUOT,
                Level::WARN,
            ),
            (
                FsError::Store(StoreError::NotWritable {
                    op: "write",
                    path: path.clone(),
                    source: io_error(Errno::EACCES),
                }),
                Errno::EROFS,
                Level::WARN,
            ),
            (
                FsError::Store(StoreError::LimitReached("bytes")),
                Errno::ENOSPC,
                Level::DEBUG,
            ),
            (
                FsError::Store(StoreError::Poisoned { path: path.clone() }),
                Errno::EIO,
                Level::ERROR,
            ),
            (
                FsError::Store(StoreError::Invalid("x")),
                Errno::EIO,
                Level::ERROR,
            ),
            (
                FsError::Store(StoreError::Damaged {
                    path: path.clone(),
                    what: "x".into(),
                }),
                Errno::EIO,
                Level::ERROR,
            ),
            (
                FsError::Store(StoreError::NoStore { path: path.clone() }),
                Errno::EIO,
                Level::ERROR,
            ),
            (
                FsError::Store(StoreError::NewerFormat {
                    path,
                    found: 2,
                    known: 1,
                }),
                Errno::EIO,
                Level::ERROR,
            ),
            (
                FsError::Store(StoreError::Locked {
                    branch: "b".into(),
                    pid: 1,
                }),
                Errno::EBUSY,
                Level::ERROR,
            ),
            (
                FsError::Store(StoreError::NoBranch("b".into())),
                Errno::EIO,
                Level::ERROR,
            ),
            (
                FsError::Store(StoreError::BranchExists("b".into())),
                Errno::EIO,
                Level::ERROR,
            ),
        ];
        for (error, errno, level) in rows {
            let (got_errno, got_level) = reply(&error);
            assert_eq!(
                (got_errno.code(), got_level),
                (errno.code(), level),
                "{error:?}"
            );
        }
    }
}
